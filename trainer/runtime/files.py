"""Files that are whole, and files that are still what they were. Free of torch: the site uses it, too."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from trainer.runtime.reading import megabytes

STAGE = "stage.json"
"""Written last: a directory that has it is a finished checkpoint."""
RESUME_STATE, RESUME_RUN = Path("resume", "state.safetensors"), Path("resume", "run.json")
"""Where in its directory a half-finished run keeps what it needs to go on, and which run it is."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old content or the new, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Another path, to be written in the block; then it takes the place of `path`, whole, or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)  # a disk that was full has the room again
        raise
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


AIR_BYTES: Final = 64 * 2**20
"""What stays free on a disk that something large is written to: the database is on it, too."""


def check_room(directory: Path, size: int, what: str) -> None:
    """ValueError unless `size` bytes fit on the disk `directory` is on; asked before any of them is written."""
    free = shutil.disk_usage(directory).free
    if size + AIR_BYTES > free:
        raise ValueError(
            f"There is no room for {what}: it takes {megabytes(size)}, and {megabytes(free)} are free where "
            f"{directory} is. Free some, or take a larger disk."
        )


FORGOTTEN_S: Final = 24 * 3600.0
"""What nobody has written to for so long was left by a process that was killed."""


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A directory to fill, which takes its place as `target` when it is full, and is gone if it never is.

    Of a process that was killed it stays; whoever comes here a day later takes it away.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent)
    incoming = target.parent / f".incoming-{uuid.uuid4().hex}"
    incoming.mkdir()
    try:
        yield incoming
        incoming.rename(target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(incoming, ignore_errors=True)
        raise


def sweep(directory: Path) -> None:
    """Take away what processes that were killed left here of what was `appearing`."""
    for left in directory.glob(".incoming-*"):
        if _OURS.fullmatch(left.name) and _age(left) > FORGOTTEN_S:
            shutil.rmtree(left, ignore_errors=True)


_OURS: Final = re.compile(r"\.incoming-[0-9a-f]{32}")  # a UUID: the directory may be anybody's


def _age(directory: Path) -> float:
    """Seconds since something in it was written last; 0 for one that goes while we look."""
    try:
        return time.time() - max(path.lstat().st_mtime for path in (directory, *directory.rglob("*")))
    except OSError:
        return 0.0


def take_over(directory: Path, earlier: Path) -> bool:
    """Let a run go on in the new `directory` from what is whole in `earlier`; False when nothing is.

    A finished checkpoint is taken with all its files, else what a run is resumed from. They are links where the file
    system has them. Every file here is renamed into place, so whoever still writes to `earlier`, thought dead and not
    dead, replaces a name there and none of these bytes.
    """
    while True:
        if (earlier / STAGE).is_file():
            parts = (path for path in sorted(earlier.iterdir()) if path.name not in (STAGE, RESUME_STATE.parts[0]))
            found = [file for path in parts for file in ([path] if path.is_file() else sorted(path.glob("*")))]
            names = [path.relative_to(earlier) for path in found if path.is_file() and not path.name.startswith(".")]
            names.append(Path(STAGE))
        elif (earlier / RESUME_STATE).is_file():
            names = [name for name in (RESUME_RUN, RESUME_STATE) if (earlier / name).is_file()]
        else:
            return False
        try:
            for name in names:
                _link(earlier / name, directory / name)
        except FileNotFoundError:
            continue  # it has just been finished: a finished one keeps no resume state
        sync(directory)
        return True


def _link(source: Path, target: Path) -> None:
    """The same content under another name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise
    except OSError:  # no hard links here
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)


def sync(path: Path) -> None:
    """Ask the disk to have it: a file's content, a directory's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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

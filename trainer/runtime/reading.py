"""Files of others, read within bounds: only regular files, only so many bytes, and a stop is heard meanwhile.

The idea: what a path leads to is known only when it is read. A named pipe waits for ever, a link to a device never
ends, and a small archive may unpack to more than this machine has memory. So the kind and size of a file are looked
at before its first byte is read, what it unpacks to is counted while it is read, and `check` is called every
megabyte, so that whoever reads can be told to stop. Whatever exceeds a bound is one ValueError that says what to do.

Text comes out with one line end, "\\n", whatever the file has ("\\r\\n" or a lone "\\r"). Free of torch.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, cast

CHUNK_BYTES: Final = 2**20
LARGEST_RATIO: Final = 100
"""Text unpacks to 3 to 30 times its size; gzip at its best, on zeros, to 1,032."""
ALWAYS_FINE_BYTES: Final = 64 * 2**20
"""What a file may unpack to however small it is."""
LEAST_LIMIT_BYTES: Final = 256 * 2**20

_KINDS: Final = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_OPENERS: Final[tuple[tuple[bytes, Callable[[IO[bytes]], IO[bytes]]], ...]] = (
    (b"\x1f\x8b", lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file))),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
    (b"BZh", bz2.BZ2File),
)
"""How compressed files begin; their names may lie (a browser unpacks a .gz on the way)."""


class NotAFile(ValueError):
    """A path that leads to something else than a regular file."""


def memory_bytes() -> int:
    """The memory this process may use: the machine's, or its container's where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return total


def limit_bytes() -> int:
    """How much text is read at most: an eighth of the memory. A text takes up to four times its file's size there."""
    return max(LEAST_LIMIT_BYTES, memory_bytes() // 8)


@dataclass
class Reader:
    """Reads files one after the other, all of them together within one bound."""

    limit: int = field(default_factory=limit_bytes)
    """Bytes that may be read in all, unpacked."""
    check: Callable[[], None] = lambda: None
    """Called every megabyte; raises to end the reading."""
    read: int = 0

    def count(self, size: int, path: Path) -> None:
        """Note that `size` more bytes were read of `path`; ValueError when that is too much."""
        self.check()
        self.read += size
        if self.read > self.limit:
            raise ValueError(
                f"{path} is too large: with it there is more than {megabytes(self.limit)} of text to read, "
                "an eighth of this machine's memory. Take a part of it."
            )

    def chunks(self, path: Path) -> Iterator[bytes]:
        """The unpacked content of a file, a megabyte at a time.

        NotAFile for what is no regular file, ValueError for what is too large, unpacks to too much or is damaged.
        """
        with open_file(path) as file:
            packed = os.fstat(file.fileno()).st_size
            start = file.read(8)
            file.seek(0)
            opener = next((opener for magic, opener in _OPENERS if start.startswith(magic)), None)
            if opener is None and self.read + packed > self.limit:
                self.count(packed, path)
            most, unpacked = max(ALWAYS_FINE_BYTES, LARGEST_RATIO * packed), 0
            stream = opener(file) if opener else file
            while data := _read(stream, path):
                unpacked += len(data)
                if opener and unpacked > most:
                    raise ValueError(
                        f"{path} unpacks to more than {LARGEST_RATIO} times its size, which no text does. "
                        "Take it out, or unpack it yourself if that is what it should hold."
                    )
                self.count(len(data), path)
                yield data

    def texts(self, path: Path) -> Iterator[str]:
        """The text of a file in pieces, each line ended by "\\n"; ValueError for what is not UTF-8, too."""
        utf8 = codecs.getincrementaldecoder("utf-8")()
        decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
        done = 0
        for data in self.chunks(path):
            waiting = len(utf8.getstate()[0])
            yield _decode(decoder, data, path, done - waiting)
            done += len(data)
        yield _decode(decoder, b"", path, done - len(utf8.getstate()[0]), final=True)

    def text(self, path: Path) -> str:
        """All of the text of a file."""
        return "".join(self.texts(path))

    def lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """(number, line) of a text file, from 1, without line ends."""
        number, begun = 1, list[str]()
        for text in self.texts(path):
            first, *others = text.split("\n")
            begun.append(first)
            for other in others:
                yield number, "".join(begun)
                number, begun = number + 1, [other]
        yield number, "".join(begun)


def path_of(typed: str) -> Path | None:
    """The file or directory that a person names; None where there is none, or no such name can be."""
    try:
        path = Path(typed).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError):  # too long, not ours to look into, or the home of nobody
        return None


@contextmanager
def open_file(path: Path) -> Iterator[IO[bytes]]:
    """A regular file, open to be read; NotAFile for anything else, without waiting for it or reading any of it."""
    try:
        check_kind(path, os.stat(path).st_mode)
        # Another kind may have taken its place meanwhile: opening that must not wait, either.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            check_kind(path, os.fstat(file.fileno()).st_mode)
            yield file
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror or error}); fetch it again or take it out."
        ) from error


def check_kind(path: Path, mode: int) -> None:
    """NotAFile unless `mode`, as stat has it, is a regular file's."""
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "no file")
        raise NotAFile(f"{path} is {kind}, not a file that can be read")


def read_bytes(path: Path, *, most: int) -> bytes:
    """All of a regular file of at most `most` bytes, as it is; NotAFile, or ValueError when there is more of it."""
    with open_file(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path} is larger than {megabytes(most)}, which no such file is")
    return data


def megabytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MB"


def _read(stream: IO[bytes], path: Path) -> bytes:
    try:
        return stream.read(CHUNK_BYTES)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}); fetch it again or take it out.") from error
    except MemoryError as error:
        raise ValueError(f"{path} needs more memory to unpack than there is; take it out.") from error


def _decode(decoder: io.IncrementalNewlineDecoder, data: bytes, path: Path, offset: int, *, final: bool = False) -> str:
    try:
        return decoder.decode(data, final=final)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {offset + error.start}); convert it or take it out."
        ) from error

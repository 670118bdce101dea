"""The head of a GGUF file, read within bounds: what it says of itself, and where its tensors lie.

The idea: a .gguf file is a list of names and values, a list of tensors (name, shape, kind of numbers, place), then the
numbers. Every length in it is a claim. Here a claim is compared with the size of the file before anything is read or
reserved because of it, so that a file cut off, or one that says it has 2**60 tokens, is one sentence and no memory.
The layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Free of torch and numpy; little-endian files,
versions 2 and 3, which is all that is about.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from trainer.runtime.reading import open_file

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
LARGEST_HEADER_BYTES: Final = 256 * 2**20
"""Vocabularies of a quarter of a million entries with their merges take 12 MB."""
MOST_VALUES: Final = 4096
MOST_TENSORS: Final = 2**16
MOST_ENTRIES: Final = 2**22
"""Of one list, a vocabulary for instance."""
LONGEST_NAME: Final = 256
MOST_DIMENSIONS: Final = 4
LARGEST_DIMENSION: Final = 2**31

_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The format's number for each kind of value, and struct's letter."""
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class TensorPlace:
    """One tensor of the file."""

    name: str
    shape: tuple[int, ...]
    """As torch has it: the last dimension is the one that lies together."""
    kind: int
    """The format's number for how its numbers are stored."""
    offset: int
    """From the start of the file."""
    nbytes: int


@dataclass(frozen=True)
class GGUFHead:
    """What a .gguf file says of itself, checked against its size."""

    path: Path
    values: dict[str, Any]
    tensors: dict[str, TensorPlace]

    def text(self, key: str, default: str = "") -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise ValueError(f"{self.path}: {key} should be text, not {value!r:.60}. Fetch the file again.")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self.path}: {key} should be yes or no, not {value!r:.60}. Fetch the file again.")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number from 1 to a thousand million."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10**9:
            raise ValueError(f"{self.path}: {key} should be a whole number above 0, not {value!r:.60}.")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise ValueError(f"{self.path}: {key} should be a number above 0, not {value!r:.60}.")
        return float(value)

    def token_id(self, key: str, vocabulary: int) -> int | None:
        """A token's number, None where the file names none (or has the format's "none", all bits set)."""
        value = self.values.get(key)
        if value is None or value in (-1, 2**32 - 1):
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocabulary:
            raise ValueError(f"{self.path}: {key} is {value!r:.60}, and the vocabulary has {vocabulary} tokens.")
        return value

    def entries(self, key: str, kind: type) -> list[Any]:
        """A list of one kind of value; empty where there is none."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(type(entry) is kind for entry in value):
            raise ValueError(f"{self.path}: {key} should be a list of {kind.__name__}. Fetch the file again.")
        return value


def read_head(path: Path, kinds: dict[int, tuple[int, int]]) -> GGUFHead:
    """The head of a .gguf file; ValueError says what is wrong with it.

    `kinds` has, for each kind of number that can be read, how many of them make a block and the bytes of one.
    """
    path = Path(path)
    with open_file(path) as file:
        return _Head(path, file, os.fstat(file.fileno()).st_size).read(kinds)


class _Head:
    """Reads forward, and knows how much is left."""

    def __init__(self, path: Path, file: IO[bytes], size: int) -> None:
        self.path, self.file, self.size = path, file, size
        self.left = min(size, LARGEST_HEADER_BYTES)

    def read(self, kinds: dict[int, tuple[int, int]]) -> GGUFHead:
        if self.size < 24 or self.take(4) != MAGIC:
            raise ValueError(f"{self.path} is not a GGUF file.")
        version = self.one("I")
        if version not in VERSIONS:
            raise ValueError(f"{self.path} is GGUF of version {version}; versions 2 and 3 are read. Convert it anew.")
        tensors, values = self.one("Q"), self.one("Q")
        if tensors > MOST_TENSORS or values > MOST_VALUES:
            raise ValueError(f"{self.path} is damaged: it claims {tensors} tensors and {values} values.")
        found: dict[str, Any] = {}
        for _ in range(values):
            name = self.name()
            if name in found:
                raise ValueError(f"{self.path} is damaged: it says {name!r:.80} twice.")
            found[name] = self.value(self.one("I"))
        alignment = found.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
            raise ValueError(f"{self.path} is damaged: its alignment is {alignment!r:.60}.")
        places = [self.tensor(kinds) for _ in range(tensors)]
        start = -(-self.file.tell() // alignment) * alignment
        return GGUFHead(self.path, found, self.placed(places, start, alignment))

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise ValueError(f"{self.path} is cut off or damaged: its head goes on past its end. Fetch it again.")
        self.left -= count
        data = self.file.read(count)
        if len(data) != count:
            raise ValueError(f"{self.path} was cut off while it was read. Fetch it again.")
        return data

    def one(self, letter: str) -> Any:
        return struct.unpack(f"<{letter}", self.take(struct.calcsize(f"<{letter}")))[0]

    def string(self) -> str:
        data = self.take(self.one("Q"))
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path} is damaged: a text in its head is not UTF-8. Fetch it again.") from error

    def name(self) -> str:
        name = self.string()
        if not 0 < len(name) <= LONGEST_NAME:
            raise ValueError(f"{self.path} is damaged: a name in it has {len(name)} letters.")
        return name

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind in _SCALARS:
            return self.one(_SCALARS[kind])
        if kind != _ARRAY:
            raise ValueError(f"{self.path} is damaged: there is no kind of value {kind}.")
        inner, count = self.one("I"), self.one("Q")
        if count > MOST_ENTRIES or count > self.left or not (inner == _STRING or inner in _SCALARS):
            raise ValueError(f"{self.path} is damaged: it claims a list of {count} values of kind {inner}.")
        if inner == _STRING:
            return [self.string() for _ in range(count)]
        layout = f"<{count}{_SCALARS[inner]}"
        return list(struct.unpack(layout, self.take(struct.calcsize(layout))))

    def tensor(self, kinds: dict[int, tuple[int, int]]) -> TensorPlace:
        name, dimensions = self.name(), self.one("I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise ValueError(f"{self.path} is damaged: {name!r:.80} has {dimensions} dimensions.")
        shape = tuple(reversed([self.one("Q") for _ in range(dimensions)]))
        kind, offset = self.one("I"), self.one("Q")
        if kind not in kinds:
            raise ValueError(f"{self.path}: {name!r:.80} holds numbers of kind {kind}, which cannot be read here.")
        block, width = kinds[kind]
        if not all(0 < length < LARGEST_DIMENSION for length in shape) or shape[-1] % block:
            raise ValueError(f"{self.path} is damaged: {name!r:.80} cannot have the shape {list(shape)}.")
        return TensorPlace(name, shape, kind, offset, math.prod(shape) // block * width)

    def placed(self, places: list[TensorPlace], start: int, alignment: int) -> dict[str, TensorPlace]:
        """By name, each where it lies in the file; none beyond its end, none over another."""
        found: dict[str, TensorPlace] = {}
        end = 0
        for place in sorted(places, key=lambda place: place.offset):
            if place.offset < end or place.offset % alignment or place.name in found:
                raise ValueError(f"{self.path} is damaged: {place.name!r:.80} lies where another tensor does.")
            end = place.offset + place.nbytes
            if start + end > self.size:
                raise ValueError(
                    f"{self.path} is cut off or damaged: {self.size} bytes, and {place.name!r:.80} ends at "
                    f"{start + end}. Fetch it again."
                )
            found[place.name] = TensorPlace(place.name, place.shape, place.kind, start + place.offset, place.nbytes)
        return found

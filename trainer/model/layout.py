"""What a checkpoint directory must be, told from its JSON and the headers of its weights, without reading a weight.

The idea: everything that must be known before a directory is trusted (which model, whose tensors, in which files, of
which stage) stands in a few JSON documents and in the first bytes of each safetensors file. It is read here with
plain Python, so that the site can refuse a directory at the door by the very rules the trainer loads it by: what one
accepts the other loads. Free of torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainer.config import PRETRAIN, REWARD, SFT, ModelConfig
from trainer.model.families import EMBEDDING, HEAD, architecture_of, check_tensors, is_reward_model, tensor_shapes
from trainer.model.roles import CONFIG, GENERATION_CONFIG, KEPT, LARGEST_JSON_BYTES, read_roles
from trainer.model.speech import read_speech
from trainer.runtime.files import RESUME_RUN, STAGE, changed_file, sha256_file
from trainer.runtime.reading import read_bytes

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SMALL_FILES: Final = (CONFIG, *KEPT, GENERATION_CONFIG, STAGE)
"""All that is read beside the weights; anything else in a directory means nothing here."""

LARGEST_HEADER_BYTES: Final = 16 * 2**20
LONGEST_NAME: Final = 255
"""Bytes of a file's name that file systems take."""
MOST_DIMENSIONS: Final = 8
LARGEST_DIMENSION: Final = 2**40
DTYPE_BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}
"""What weights may be stored as; whole numbers and 8-bit floats mean nothing without scales we do not read."""
DTYPE_NAMES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where one tensor lies."""

    file: str
    dtype: str
    """As the header has it: "F32", "BF16", …"""
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    stop: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A directory whose description and weights belong together."""

    directory: Path
    config_json: dict[str, Any]
    config: ModelConfig
    is_reward: bool
    tensors: dict[str, StoredTensor]
    """Every tensor of the model by its name in the file, and a tied head's copy where there is one."""

    @property
    def has_copied_head(self) -> bool:
        return HEAD in self.tensors and HEAD not in tensor_shapes(self.config, is_reward=self.is_reward)

    @property
    def parameters(self) -> int:
        return sum(one.elements for one in self.tensors.values()) - (
            self.tensors[HEAD].elements if self.has_copied_head else 0
        )

    @property
    def dtype(self) -> str:
        """What most numbers are stored as ("bfloat16"): a norm kept in float32 does not make it a float32 model."""
        elements = Counter[str]()
        for one in self.tensors.values():
            elements[DTYPE_NAMES[one.dtype]] += one.elements
        return max(elements, key=lambda dtype: elements[dtype])

    @property
    def weight_files(self) -> list[str]:
        return sorted({one.file for one in self.tensors.values()})


def read_layout(directory: Path) -> Layout:
    """The layout of a checkpoint directory, ours or not.

    ValueError naming the file and the problem: no such directory, an architecture that is not supported, weights that
    are missing, damaged, of another model or in a format that could run code, a tokenizer larger than the embedding.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ValueError(f"{directory} is not a directory.")
    config_json = read_object(directory / CONFIG)
    try:
        is_reward, config = is_reward_model(config_json), architecture_of(config_json)
    except ValueError as error:
        raise ValueError(f"{directory / CONFIG} is damaged or not supported: {error}") from error
    tensors = read_tensors(directory)
    try:
        check_tensors(config, {name: one.shape for name, one in tensors.items()}, is_reward=is_reward)
    except ValueError as error:
        raise ValueError(f"{directory}: {error} Copy the model again, all its files.") from error
    wanted = tensor_shapes(config, is_reward=is_reward)
    kept = {name: one for name, one in tensors.items() if name in wanted or name == HEAD}
    _check_copied_head(directory, config, kept)
    roles, _ = read_speech(directory)  # and that somebody could talk to it
    if (count := roles.vocab_size) > config.vocab_size:
        raise ValueError(
            f"{directory}: the tokenizer has more entries ({count}) than the model's vocabulary ({config.vocab_size}). "
            "Take the tokenizer that belongs to this model."
        )
    return Layout(directory=directory, config_json=config_json, config=config, is_reward=is_reward, tensors=kept)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError when it is missing or holds something else."""
    try:
        if not path.exists():
            if path.parent.is_file():
                raise ValueError(
                    f"{path.parent} is a file, not a checkpoint directory. Of a .gguf file `python -m trainer convert` "
                    "makes one."
                )
            raise ValueError(f"{path.parent} has no {path.name}; it is not a checkpoint directory.")
        data = read_bytes(path, most=LARGEST_JSON_BYTES)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} should hold a JSON object.")
    return value


def guess_stage(directory: Path, config_json: Mapping[str, Any]) -> str:
    """What a directory from elsewhere is: one with a chat template answers questions, one without continues text."""
    if is_reward_model(config_json):
        return REWARD
    return SFT if read_roles(directory).template else PRETRAIN


def is_unfinished(directory: Path) -> bool:
    """Whether it is one of our own runs that has not ended."""
    return not (directory / STAGE).is_file() and (directory / RESUME_RUN).parent.is_dir()


# -- weights ---------------------------------------------------------------------------------------


def weight_files(directory: Path) -> list[str]:
    """Names of the files that hold the weights: one, or the shards that an index names. ValueError when one is gone."""
    if (directory / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (directory / INDEX).is_file():
        others = sorted(path.name for kind in ("*.bin", "*.pt") for path in directory.glob(kind))
        hint = f" Only safetensors is read; convert {others[0]} first." if others else ""
        raise ValueError(f"{directory} has no {WEIGHTS}.{hint}")
    names = sorted(set(_weight_map(directory).values()))
    for name in names:
        if not (directory / name).is_file():
            raise ValueError(f"{directory} has no {name}, which {INDEX} names: copy every shard.")
    return names


def _weight_map(directory: Path) -> dict[str, str]:
    """Which shard holds which tensor."""
    found = read_object(directory / INDEX).get("weight_map")
    is_map = isinstance(found, dict) and bool(found) and all(isinstance(name, str) for name in found.values())
    if not is_map:
        raise ValueError(f"{directory / INDEX} is damaged: weight_map should say which file holds each tensor.")
    assert isinstance(found, dict)
    for name in set(found.values()):
        is_name = Path(name).name == name and len(name.encode(errors="replace")) <= LONGEST_NAME
        if not is_name or not name.endswith(".safetensors"):
            raise ValueError(f"{directory / INDEX} names {name!r:.80}, which is no safetensors file beside it.")
    return found


def read_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor in the directory's weights; ValueError when files are missing, damaged or do not fit together."""
    files = weight_files(directory)
    if files == [WEIGHTS]:
        return read_header(directory / WEIGHTS)
    places = _weight_map(directory)
    found: dict[str, StoredTensor] = {}
    for file in files:
        tensors = read_header(directory / file)
        named = {name for name, place in places.items() if place == file}
        if strange := sorted(set(tensors) ^ named):
            raise ValueError(
                f"{directory / file} is not the shard that {INDEX} describes ({strange[0][:80]} differs): "
                "copy it again."
            )
        found |= tensors
    return found


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, its header checked against its size.

    They must fill the data part without gaps or overlaps, as the format demands, so nothing can hide in the file or
    point outside it. https://github.com/huggingface/safetensors#format
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > min(LARGEST_HEADER_BYTES, size - 8):
            raise ValueError(f"{path} is damaged or not a safetensors file: its header does not fit. Copy it again.")
        try:
            header = json.loads(file.read(header_bytes), object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged or not a safetensors file: its header is not valid JSON.") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} is damaged or not a safetensors file: its header is not an object.")
    header.pop("__metadata__", None)
    data = 8 + header_bytes
    tensors = {name: _stored(path, name, entry, data) for name, entry in header.items()}
    end = data
    for one in sorted(tensors.values(), key=lambda one: (one.start, one.stop)):
        if one.start != end:
            raise ValueError(f"{path} is damaged: its tensors overlap or leave gaps. Copy it again.")
        end = one.stop
    if not tensors or end != size:
        raise ValueError(f"{path} is damaged or cut off: {size} bytes, but its header describes {end}. Copy it again.")
    return tensors


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _stored(path: Path, name: str, entry: Any, data: int) -> StoredTensor:
    """One tensor; `data` is where the file's data part begins."""
    try:
        dtype = str(entry["dtype"])
        shape = tuple(int(length) for length in entry["shape"])
        start, stop = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is damaged: tensor {name[:80]!r} is malformed. Copy it again.") from error
    if dtype not in DTYPE_BYTES:
        raise ValueError(
            f"{path}: {name[:80]} is stored as {dtype:.20}, not one of {', '.join(DTYPE_BYTES)}; quantised weights are "
            "not supported. Take the model in one of these."
        )
    # Bounded before they are multiplied: a header has room for a product that takes hours.
    is_bounded = len(shape) <= MOST_DIMENSIONS and all(0 <= length < LARGEST_DIMENSION for length in shape)
    if start < 0 or not is_bounded or stop - start != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise ValueError(f"{path} is damaged: tensor {name[:80]!r} does not have the size it claims. Copy it again.")
    return StoredTensor(file=path.name, dtype=dtype, shape=shape, start=data + start, stop=data + stop)


COMPARED_BYTES: Final = 2**24


def _check_copied_head(directory: Path, config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> None:
    """ValueError when a model that says its head is the embeddings holds another one.

    A copy in another dtype is compared where its values are read, when it is loaded.
    """
    head, embedding = tensors.get(HEAD), tensors[EMBEDDING]
    if head is None or not config.is_tied or head.dtype != embedding.dtype:
        return
    with (directory / head.file).open("rb") as one, (directory / embedding.file).open("rb") as other:
        one.seek(head.start)
        other.seek(embedding.start)
        left = head.stop - head.start
        while left > 0:
            count = min(left, COMPARED_BYTES)
            if one.read(count) != other.read(count):
                raise ValueError(untied_head(directory))
            left -= count


def untied_head(directory: Path) -> str:
    return (
        f"{directory} has an untied output head, and {CONFIG} says it is tied: "
        f"set tie_word_embeddings to false there, or remove {HEAD} from the weights."
    )


# -- what stage.json recorded ----------------------------------------------------------------------


def weights_sha256(directory: Path) -> str:
    """One hash for the weights: the file's, or of shards the hash of their names and hashes."""
    files = weight_files(directory)
    if files == [WEIGHTS]:
        return sha256_file(directory / WEIGHTS)
    lines = [f"{name} {sha256_file(directory / name)}\n" for name in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def changed_since(directory: Path, info: Mapping[str, Any]) -> Path | None:
    """The first file that is not the one `info`, a stage.json, describes; None when all are.

    ValueError when its hashes are none.
    """
    hashes = info.get("files_sha256") or {}
    if not isinstance(hashes, dict) or not all(isinstance(value, str) for value in hashes.values()):
        raise ValueError(f"{directory / STAGE}: files_sha256 must map file names to hashes. Restore it.")
    recorded = info.get("weights_sha256")
    if recorded and recorded != weights_sha256(directory):
        return directory / weight_files(directory)[0]
    small = {name: hashes[name] for name in SMALL_FILES if name in hashes and name != STAGE}
    return changed_file(directory, small)

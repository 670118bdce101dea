"""Reading a checkpoint directory without torch, and refusing what should not be loaded.

The idea: everything the site must know before it trusts a directory (stage, size, hash, whether the
weights file is what it says it is) stands in a few JSON documents and in the header of the
safetensors file. They are read here with plain Python, so the web process can list, import and
refuse checkpoints, and a hostile file is turned away before any tensor library opens it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import PRETRAIN, REWARD, SFT, check_stage
from trainer.model.tokenizer_rules import read_tokenizer
from trainer.runtime.files import changed_file, check_room, sha256_file
from trainer.runtime.reading import read_bytes

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
STAGE = "stage.json"
KNOWN_FILES = (CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG, "generation_config.json", STAGE)
"""All that is read of a directory."""
CARRIED_FILES = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "NOTICE", "NOTICE.md", "NOTICE.txt")
"""What goes with them: the model card, and terms that must. Anything else in a directory stays where it was."""

LANGUAGE_MODEL = "LlamaForCausalLM"
REWARD_MODEL = "LlamaForSequenceClassification"

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
MAX_JSON_BYTES = 32 * 1024 * 1024
MAX_HEADER_BYTES = 16 * 1024 * 1024
LARGEST_FIGURE = 1e100
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, kw_only=True)
class CheckpointFiles:
    """What a checkpoint directory says about itself, checked."""

    directory: Path
    stage: str
    """The stage it names, or for a foreign directory the one its tokenizer suggests."""
    info: dict[str, Any]
    """`stage.json`; empty for a directory from elsewhere."""
    parameters: int
    bytes: int
    """Size of the weights file."""
    weights_sha256: str


def inspect_directory(directory: Path, *, stage: str | None = None) -> CheckpointFiles:
    """Check a checkpoint directory and describe it; ValueError says what is wrong and what to do.

    `stage` overrides what the directory says about itself (for imports from elsewhere).
    """
    directory = Path(directory)
    _check_entries(directory)
    config = _read_object(directory / CONFIG)
    info = _read_object(directory / STAGE) if (directory / STAGE).exists() else {}
    _check_info(directory / STAGE, info)
    counted = check_safetensors(directory / WEIGHTS)
    hashes = {**(info.get("files_sha256") or {}), WEIGHTS: info.get("weights_sha256")} if info else {}
    if changed := changed_file(directory, {name: hashes[name] for name in KNOWN_FILES if name in hashes}):
        raise ValueError(f"{changed} is not the file {STAGE} describes (its hash differs): copy it again.")
    stage = stage or info.get("stage") or _guess_stage(directory, config)
    check_stage(str(stage))
    _check_architecture(directory, config, str(stage))
    read_tokenizer(directory / TOKENIZER)
    return CheckpointFiles(
        directory=directory,
        stage=str(stage),
        info=info,
        parameters=counted,
        bytes=(directory / WEIGHTS).stat().st_size,
        weights_sha256=hashes.get(WEIGHTS) or sha256_file(directory / WEIGHTS),
    )


def _check_entries(directory: Path) -> None:
    if not directory.is_dir():
        raise ValueError(f"{directory} is not a directory.")
    for entry in sorted(directory.iterdir()):
        if entry.suffix.lower() in PICKLED:
            raise ValueError(
                f"{entry.name} holds pickled data, which can run code when it is read. "
                f"Save the weights as {WEIGHTS} and remove it."
            )
        if entry.is_symlink() and entry.name in KNOWN_FILES:
            raise ValueError(f"{entry.name} is a symbolic link: copy the real file (cp -rL) and try again.")
    for name in (CONFIG, WEIGHTS, TOKENIZER):
        if not (directory / name).is_file():
            raise ValueError(f"{directory} has no {name}: it is not a checkpoint directory this site can read.")


def _read_object(path: Path) -> dict[str, Any]:
    data = read_bytes(path, most=MAX_JSON_BYTES)
    try:
        content = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object.")
    return content


def _check_info(path: Path, info: dict[str, Any]) -> None:
    """ValueError unless what is read of a stage.json has the shape it should: pages and the database rely on it."""
    for name in ("stage", "preset", "parent_sha256", "weights_sha256"):
        if not (info.get(name) is None or _is_text(info[name])):
            raise ValueError(f"{path}: {name} must be text.")
    hashes = info.get("files_sha256") or {}
    if not isinstance(hashes, dict) or not all(map(_is_text, hashes.values())):
        raise ValueError(f"{path}: files_sha256 must map file names to hashes.")
    metrics = info.get("metrics") or {}
    if not isinstance(metrics, dict):
        raise ValueError(f"{path}: metrics must map names to figures.")
    for name, value in metrics.items():
        low_and_high = name.endswith("_interval")
        numbers = value if low_and_high and isinstance(value, list) and len(value) == 2 else [value]
        fits = len(numbers) == 1 + low_and_high and all(map(_is_figure, numbers))
        if not (_is_text(name) and (value is None or fits)):
            wanted = "two finite numbers" if low_and_high else "a finite number"
            raise ValueError(f"{path}: the metric {name[:80]!r} must be {wanted}.")


def _is_text(value: Any) -> bool:
    """Text that the database stores: PostgreSQL has no NUL, and UTF-8 no halves of a character."""
    return isinstance(value, str) and value.isprintable()


def _is_figure(value: Any) -> bool:
    """A number (or yes or no) that a page can show and the database's JSON can hold."""
    return isinstance(value, int | float) and abs(value) < LARGEST_FIGURE


def _guess_stage(directory: Path, config: dict[str, Any]) -> str:
    """A foreign directory with a chat template answers questions; one without continues text."""
    if config.get("architectures") == [REWARD_MODEL]:
        return REWARD
    path = directory / TOKENIZER_CONFIG
    return SFT if path.is_file() and _read_object(path).get("chat_template") else PRETRAIN


def _check_architecture(directory: Path, config: dict[str, Any], stage: str) -> None:
    wanted = REWARD_MODEL if stage == REWARD else LANGUAGE_MODEL
    found = config.get("architectures")
    if found != [wanted]:
        raise ValueError(f"{directory / CONFIG} describes {found}; a {stage} checkpoint must be {wanted}.")


def check_safetensors(path: Path) -> int:
    """Check a safetensors file's header against its size; returns the number of parameters.

    The tensors must fill the data part without gaps or overlaps, as the format demands, so nothing
    can hide in the file or point outside it. https://github.com/huggingface/safetensors#format
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"{path} is not a safetensors file: its header does not fit.")
        try:
            header = json.loads(file.read(header_bytes), object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a safetensors file: its header is not valid JSON.") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} is not a safetensors file: its header is not an object.")
    header.pop("__metadata__", None)
    spans = sorted(_span(path, name, entry) for name, entry in header.items())
    end = 0
    for start, stop, _ in spans:
        if start != end:
            raise ValueError(f"{path} is damaged: its tensors overlap or leave gaps.")
        end = stop
    if not spans or end != size - 8 - header_bytes:
        raise ValueError(
            f"{path} is damaged or cut off: {size} bytes, but its header describes {end + 8 + header_bytes}."
        )
    return sum(count for _, _, count in spans)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _span(path: Path, name: str, entry: Any) -> tuple[int, int, int]:
    """(first byte, end byte, number of elements) of one tensor."""
    try:
        width = DTYPE_BYTES[entry["dtype"]]
        shape = [int(length) for length in entry["shape"]]
        start, stop = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path}: tensor {name[:80]!r} is malformed or not one of {', '.join(DTYPE_BYTES)}."
        ) from error
    count = math.prod(shape)
    if start < 0 or any(length < 0 for length in shape) or stop - start != count * width:
        raise ValueError(f"{path} is damaged: tensor {name[:80]!r} does not have the size it claims.")
    return start, stop, count


def copy_checkpoint(
    source: Path, target: Path, *, stage_info: dict[str, Any] | None = None, is_ours: bool = False
) -> None:
    """Copy the known files of `source` to a new directory `target`, which appears whole or not at all.

    `stage_info` is written as stage.json when the source has none. A source that is ours alone and goes away
    (`is_ours`) gives its files another name instead, where the disk has such. ValueError, before anything is written,
    when there is no room.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    names = [name for name in KNOWN_FILES if (source / name).is_file()]
    names += [name for name in CARRIED_FILES if (source / name).is_file() and not (source / name).is_symlink()]
    if not is_ours:
        check_room(target.parent, sum((source / name).stat().st_size for name in names), str(source))
    incoming = target.parent / f".incoming-{uuid.uuid4().hex}"
    incoming.mkdir()
    try:
        for name in names:
            _copy(source / name, incoming / name, is_ours=is_ours)
        if stage_info is not None:
            (incoming / STAGE).write_text(json.dumps(stage_info, indent=2) + "\n", encoding="utf-8")
            _sync(incoming / STAGE)
        incoming.rename(target)
    except BaseException:
        shutil.rmtree(incoming, ignore_errors=True)
        raise


def _copy(source: Path, target: Path, *, is_ours: bool) -> None:
    if is_ours:
        try:
            os.link(source, target, follow_symlinks=False)
            return
        except OSError:  # another disk, or one without hard links
            pass
    shutil.copyfile(source, target, follow_symlinks=False)
    _sync(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Reading a checkpoint directory without torch, and refusing what should not be loaded.

The idea: what a directory must be is one set of rules, the trainer's (trainer/model/layout.py), read from a few JSON
documents and the headers of the weights. Beside them stands here what only a site asks: no pickled data in a directory
that it copies, no links out of it, and a stage.json whose figures pages and the database can take. So the web process
can list, import and refuse checkpoints, and a hostile file is turned away before any tensor library opens it.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import REWARD, check_stage
from trainer.model.layout import (
    INDEX,
    SMALL_FILES,
    WEIGHTS,
    changed_since,
    guess_stage,
    read_layout,
    read_object,
    weight_files,
    weights_sha256,
)
from trainer.model.roles import CONFIG, TOKENIZER
from trainer.runtime.files import STAGE, appearing, check_room, sweep, sync

CARRIED_FILES = (
    *("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "NOTICE", "NOTICE.md", "NOTICE.txt"),
    *("tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"),
)
"""What goes with those that are read: the model card, terms that must, and the tokenizer as other programs read it.
Anything else stays where it was."""

ADAPTER = "adapter"
"""Where, in a checkpoint, lies what it learnt beside its base's weights."""
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""As Hugging Face's PEFT has them."""

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
LARGEST_FIGURE = 1e100


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
    info = read_object(directory / STAGE) if (directory / STAGE).exists() else {}
    _check_info(directory / STAGE, info)
    layout = read_layout(directory)
    if changed := changed_since(directory, info):
        raise ValueError(f"{changed} is not the file {STAGE} describes (its hash differs): copy it again.")
    stage = str(stage or info.get("stage") or guess_stage(directory, layout.config_json))
    check_stage(stage)
    if (stage == REWARD) != layout.is_reward:
        kind = "scores text" if layout.is_reward else "writes text"
        raise ValueError(f"{directory / CONFIG} describes a model that {kind}, which no {stage} checkpoint does.")
    return CheckpointFiles(
        directory=directory,
        stage=stage,
        info=info,
        parameters=layout.parameters,
        bytes=sum((directory / name).stat().st_size for name in layout.weight_files),
        weights_sha256=info.get("weights_sha256") or weights_sha256(directory),
    )


def known_files(directory: Path) -> list[str]:
    """All that is read of a directory."""
    weights = weight_files(directory)
    shards = [] if weights == [WEIGHTS] else [INDEX]
    return [name for name in (*weights, *shards, *SMALL_FILES) if (directory / name).is_file()]


def _check_entries(directory: Path) -> None:
    if not directory.is_dir():
        raise ValueError(f"{directory} is not a directory.")
    for entry in sorted(directory.iterdir()):
        if entry.suffix.lower() in PICKLED:
            raise ValueError(
                f"{entry.name} holds pickled data, which can run code when it is read. "
                f"Save the weights as {WEIGHTS} and remove it."
            )
        if entry.is_symlink() and (entry.name in (*SMALL_FILES, INDEX) or entry.suffix == ".safetensors"):
            raise ValueError(f"{entry.name} is a symbolic link: copy the real file (cp -rL) and try again.")
    for name in (CONFIG, TOKENIZER):
        if not (directory / name).is_file():
            raise ValueError(f"{directory} has no {name}: it is not a checkpoint directory this site can read.")


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


def copy_checkpoint(
    source: Path, target: Path, *, stage_info: dict[str, Any] | None = None, is_ours: bool = False
) -> None:
    """Copy the known files of `source` to a new directory `target`, which appears whole or not at all.

    `stage_info` is written as stage.json when the source has none. A source that is ours alone and goes away
    (`is_ours`) gives its files another name instead, where the disk has such. ValueError, before anything is written,
    when there is no room.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    names = known_files(source)
    carried = (*CARRIED_FILES, *(f"{ADAPTER}/{name}" for name in ADAPTER_FILES))
    names += [name for name in carried if (source / name).is_file() and not (source / name).is_symlink()]
    sweep(target.parent)  # which may be what fills the disk
    if not is_ours:
        check_room(target.parent, sum((source / name).stat().st_size for name in names), str(source))
    with appearing(target) as incoming:
        for name in names:
            (incoming / name).parent.mkdir(exist_ok=True)
            _copy(source / name, incoming / name, is_ours=is_ours)
        if stage_info is not None:
            (incoming / STAGE).write_text(json.dumps(stage_info, indent=2) + "\n", encoding="utf-8")
            sync(incoming / STAGE)


def _copy(source: Path, target: Path, *, is_ours: bool) -> None:
    if is_ours:
        try:
            os.link(source, target, follow_symlinks=False)
            return
        except OSError:  # another disk, or one without hard links
            pass
    shutil.copyfile(source, target, follow_symlinks=False)
    sync(target)

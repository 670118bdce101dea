"""Everything that writes checkpoint rows: registered from a run, imported, exported, archived."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings

from trainer.model.roles import CONFIG
from trainer.presets import answer_tokens_of, recipe_for
from trainer.runtime.files import STAGE, appearing
from webapp.checkpoints.cards import Origin, plain, read_card
from webapp.checkpoints.files import ADAPTER, ADAPTER_FILES, CheckpointFiles, copy_checkpoint, inspect_directory
from webapp.checkpoints.models import Checkpoint


def register_checkpoint(*, directory: Path, name: str | None = None, parent: Checkpoint | None = None) -> Checkpoint:
    """Make a finished checkpoint directory visible; registering it twice returns the first row.

    A directory outside DATA_DIR/checkpoints is copied there first. The parent is found by the hash
    in stage.json unless it is given. ValueError says what is wrong with the directory.
    """
    return record_checkpoint(files=inspect_finished(directory), name=name, parent=parent)


def inspect_finished(directory: Path) -> CheckpointFiles:
    """What a finished checkpoint of ours is; reads all of it. ValueError says what is wrong with the directory."""
    files = inspect_directory(directory)
    if not files.info:
        raise ValueError(f"{directory} has no {STAGE}: it is unfinished. Import it if it comes from elsewhere.")
    return files


def record_checkpoint(
    *, files: CheckpointFiles, name: str | None = None, parent: Checkpoint | None = None
) -> Checkpoint:
    """`register_checkpoint` for a directory that was inspected before; quick where it is in the store already."""
    return _create_checkpoint(files, _store(files), name=name, parent=parent)


def import_checkpoint(
    *,
    directory: Path,
    name: str | None = None,
    stage: str | None = None,
    origin: Origin | None = None,
    is_ours: bool = False,
) -> Checkpoint:
    """Copy a checkpoint directory from anywhere into the site and register it.

    `stage` says what a directory without stage.json is; by default one with a chat template counts
    as instruction-tuned. `origin` is what its row remembers of where it came from; by default what its model card says.
    The files of a directory that is ours alone (`is_ours`) are taken over without a copy where the disk allows it.
    ValueError says what is wrong and what to do.
    """
    files = inspect_directory(directory, stage=stage)
    origin = origin or read_card(directory)
    stored = _store(files, is_ours=is_ours)
    return _create_checkpoint(files, stored, name=name or directory.resolve().name, parent=None, origin=origin)


def _store(files: CheckpointFiles, *, is_ours: bool = False) -> str:
    """Where the files live relative to DATA_DIR/checkpoints, copying them there when they do not yet."""
    store = Path(settings.CHECKPOINT_DIR).resolve()
    source = files.directory.resolve()
    if source.parent == store:
        return source.name
    # The same source and weights give the same name, so a repeated call copies nothing.
    digest = hashlib.sha256(f"{source}\0{files.weights_sha256}".encode()).hexdigest()
    target = f"{files.stage}-{digest[:12]}"
    if not (store / target).exists():
        described = None if files.info else _foreign_info(files)
        copy_checkpoint(source, store / target, stage_info=described, is_ours=is_ours)
    return target


def _foreign_info(files: CheckpointFiles) -> dict[str, Any]:
    return {
        "stage": files.stage,
        "preset": "",
        "parent_sha256": None,
        "weights_sha256": files.weights_sha256,
        "parameters": files.parameters,
        # Votes on longer answers than it will practise would be votes on something else.
        "answer_tokens": recipe_for(files.parameters).answer_tokens,
        "metrics": {},
        "imported": True,
    }


def _create_checkpoint(
    files: CheckpointFiles,
    directory: str,
    *,
    name: str | None,
    parent: Checkpoint | None,
    origin: Origin | None = None,
) -> Checkpoint:
    info = files.info or _foreign_info(files)
    if parent is None and info.get("parent_sha256"):
        parent = Checkpoint.objects.filter(weights_sha256=info["parent_sha256"]).order_by("id").first()
    origin = origin or Origin()
    number = Checkpoint.objects.filter(stage=files.stage).count() + 1
    checkpoint, _ = Checkpoint.objects.get_or_create(
        directory=directory,
        defaults={
            "stage": files.stage,
            "name": plain(name or "", most=100) or f"{files.stage} {number}",
            "weights_sha256": files.weights_sha256,
            "parent": parent,
            "preset": str(info.get("preset") or "")[:32],
            "parameters": files.parameters,
            "bytes": files.bytes,
            "answer_tokens": answer_tokens_of(info),
            "metrics": info.get("metrics") or {},
            "licence": origin.licence,
            "source": origin.source,
            "revision": origin.revision,
            "source_sha256": origin.source_sha256,
        },
    )
    return checkpoint


def export_checkpoint(*, checkpoint: Checkpoint, directory: Path) -> Path:
    """Copy a checkpoint's files to a new directory; ValueError if something is there already, or nothing here."""
    _check_free(directory)
    _check_here(checkpoint)
    copy_checkpoint(checkpoint.path, directory)
    return directory


def export_adapter(*, checkpoint: Checkpoint, directory: Path) -> Path:
    """Copy what a checkpoint learnt as an adapter to a new directory, in the layout of Hugging Face's PEFT.

    ValueError if something is there already, or the checkpoint has none.
    """
    _check_free(directory)
    _check_here(checkpoint)
    adapter = checkpoint.path / ADAPTER
    if not all((adapter / name).is_file() for name in ADAPTER_FILES):
        raise ValueError(
            f"{checkpoint} has no adapter: all of its weights were trained, or it came as it is. "
            "Leave --adapter out to export all of it."
        )
    with appearing(directory) as incoming:
        for name in ADAPTER_FILES:
            shutil.copyfile(adapter / name, incoming / name, follow_symlinks=False)
    return directory


def export_gguf(*, checkpoint: Checkpoint, path: Path, dtype: str | None = None) -> Path:
    """Write a checkpoint as a new .gguf file; imports torch. ValueError says why it cannot be."""
    from webapp.checkpoints.loading import write_gguf

    _check_here(checkpoint)
    licence = next((one.licence for one in checkpoint.lineage() if one.licence), "")
    write_gguf(checkpoint.path, path, dtype=dtype, name=checkpoint.name, licence=licence)
    return path


def _check_free(directory: Path) -> None:
    if directory.exists():
        raise ValueError(f"{directory} exists already; name a directory that does not.")


def _check_here(checkpoint: Checkpoint) -> None:
    if not (checkpoint.path / CONFIG).is_file():
        raise ValueError(f"This site has no files of {checkpoint}: it is known only from imported votes, or was moved.")


def archive_checkpoints(*, ids: Sequence[int], archived: bool = True) -> int:
    """Hide checkpoints from visitors, or show them again; returns how many changed."""
    return Checkpoint.objects.filter(pk__in=ids).exclude(archived=archived).update(archived=archived)

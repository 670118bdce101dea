"""Everything that writes checkpoints and generations."""

from __future__ import annotations

import hashlib
import logging
import secrets
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import redis
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from trainer.config import REWARD
from webapp import streams
from webapp.accounts.models import Visitor
from webapp.checkpoints import tasks
from webapp.checkpoints.files import STAGE, WEIGHTS, CheckpointFiles, copy_checkpoint, inspect_directory
from webapp.checkpoints.models import Checkpoint, Generation

logger = logging.getLogger(__name__)

ALIVE_S = 15
"""A running generation whose worker has not been heard of for this long is dead."""
ASK_AGAIN_S = 20
"""A generation still queued after this long is enqueued once more: its message may have been lost."""
STOP_KEY_S = 600
INTERRUPTED = "The model was interrupted; ask again."
UNREACHABLE = "The model cannot be reached right now; try again."
"""What a person is told who wants something of a worker while Redis is away."""


# -- checkpoints ---------------------------------------------------------------------------------


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


def import_checkpoint(*, directory: Path, name: str | None = None, stage: str | None = None) -> Checkpoint:
    """Copy a checkpoint directory from anywhere into the site and register it.

    `stage` says what a directory without stage.json is; by default one with a chat template counts
    as instruction-tuned. ValueError says what is wrong and what to do.
    """
    files = inspect_directory(directory, stage=stage)
    return _create_checkpoint(files, _store(files), name=name or directory.resolve().name, parent=None)


def _store(files: CheckpointFiles) -> str:
    """Where the files live relative to DATA_DIR/checkpoints, copying them there when they do not yet."""
    store = Path(settings.CHECKPOINT_DIR).resolve()
    source = files.directory.resolve()
    if source.parent == store:
        return source.name
    # The same source and weights give the same name, so a repeated call copies nothing.
    digest = hashlib.sha256(f"{source}\0{files.weights_sha256}".encode()).hexdigest()
    target = f"{files.stage}-{digest[:12]}"
    if not (store / target).exists():
        described = None if files.info else {**_foreign_info(files)}
        copy_checkpoint(source, store / target, stage_info=described)
    return target


def _foreign_info(files: CheckpointFiles) -> dict[str, Any]:
    return {
        "stage": files.stage,
        "preset": "",
        "parent_sha256": None,
        "weights_sha256": files.weights_sha256,
        "parameters": files.parameters,
        "metrics": {},
        "imported": True,
    }


def _create_checkpoint(
    files: CheckpointFiles, directory: str, *, name: str | None, parent: Checkpoint | None
) -> Checkpoint:
    info = files.info
    if parent is None and info.get("parent_sha256"):
        parent = Checkpoint.objects.filter(weights_sha256=info["parent_sha256"]).order_by("id").first()
    number = Checkpoint.objects.filter(stage=files.stage).count() + 1
    checkpoint, _ = Checkpoint.objects.get_or_create(
        directory=directory,
        defaults={
            "stage": files.stage,
            "name": (name or f"{files.stage} {number}")[:100],
            "weights_sha256": files.weights_sha256,
            "parent": parent,
            "preset": str(info.get("preset") or "")[:32],
            "parameters": files.parameters,
            "bytes": files.bytes,
            "metrics": info.get("metrics") or {},
        },
    )
    return checkpoint


def export_checkpoint(*, checkpoint: Checkpoint, directory: Path) -> Path:
    """Copy a checkpoint's files to a new directory; ValueError if something is there already, or nothing here."""
    if directory.exists():
        raise ValueError(f"{directory} exists already; name a directory that does not.")
    if not (checkpoint.path / WEIGHTS).is_file():
        raise ValueError(f"This site has no files of {checkpoint}: it is known only from imported votes, or was moved.")
    copy_checkpoint(checkpoint.path, directory)
    return directory


def archive_checkpoints(*, ids: Sequence[int], archived: bool = True) -> int:
    """Hide checkpoints from visitors, or show them again; returns how many changed."""
    return Checkpoint.objects.filter(pk__in=ids).exclude(archived=archived).update(archived=archived)


# -- answers -------------------------------------------------------------------------------------


class SamplingSettings(TypedDict):
    """How an answer is drawn, as stored on a generation."""

    temperature: float
    top_k: int
    top_p: float
    max_new_tokens: int
    seed: int


SAMPLING_LIMITS: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 5.0),
    "top_k": (0, 100_000),
    "top_p": (0.01, 1.0),
    "max_new_tokens": (1, 2048),
    "seed": (0, 2**31 - 1),
}
"""Smallest and largest value of every sampling setting."""


def draw_seed() -> int:
    return secrets.randbelow(2**31)


def clean_sampling(sampling: Mapping[str, Any]) -> SamplingSettings:
    """Complete and check sampling settings: plain sampling unless told otherwise, a random seed unless given."""
    if unknown := sorted(set(sampling) - set(SAMPLING_LIMITS)):
        raise ValueError(f"Unknown sampling setting {unknown[0]!r}; choose from {', '.join(SAMPLING_LIMITS)}.")
    chosen = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 128, "seed": None, **sampling}
    if chosen["seed"] is None:
        chosen["seed"] = draw_seed()
    for key, (low, high) in SAMPLING_LIMITS.items():
        value = chosen[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{key} must be between {low:g} and {high:g}, not {value!r}.")
    return SamplingSettings(
        temperature=float(chosen["temperature"]),
        top_k=int(chosen["top_k"]),
        top_p=float(chosen["top_p"]),
        max_new_tokens=int(chosen["max_new_tokens"]),
        seed=int(chosen["seed"]),
    )


def start_generation(
    *,
    checkpoint: Checkpoint,
    messages: Sequence[Mapping[str, str]],
    sampling: Mapping[str, Any],
    visitor: Visitor | None = None,
) -> Generation:
    """Ask a checkpoint for an answer: a row now, a task once the transaction is committed.

    `messages` is the conversation so far. When it ends with the assistant's turn, that turn is
    continued and the answer's text begins with it.
    """
    if checkpoint.stage == REWARD:
        raise ValueError(f"{checkpoint.name} is a reward model: it scores answers and cannot write one.")
    if not any(message["role"] == "user" and message["content"] for message in messages):
        raise ValueError("There is no message to answer.")
    generation = Generation.objects.create(
        checkpoint=checkpoint,
        visitor=visitor,
        messages=[{"role": message["role"], "content": message["content"]} for message in messages],
        sampling=clean_sampling(sampling),
    )
    transaction.on_commit(partial(enqueue_generation, generation.pk))
    return generation


def enqueue_generation(generation_id: uuid.UUID) -> None:
    """Tell the generate workers. A lost message does no harm: `look_after_answers` sends another."""
    try:
        tasks.generate_answer.delay(str(generation_id))
    except tasks.generate_answer.OperationalError:
        logger.warning("The broker does not answer; generation %s will be enqueued later.", generation_id)


def stop_generation(generation: Generation) -> None:
    """Ask for an end; what is written so far stays. A finished answer is left as it is.

    A queued answer ends here and now; a running one when its worker sees the key, within a second.
    Raises RedisError when the worker cannot be told.
    """
    if _end(generation, Generation.State.QUEUED, state=Generation.State.STOPPED, finish_reason="stopped"):
        return
    if Generation.objects.filter(pk=generation.pk, state=Generation.State.RUNNING).exists():
        streams.client().set(stop_key(generation.pk), 1, ex=STOP_KEY_S)


def stop_key(generation_id: Any) -> str:
    return f"generation:{generation_id}:stop"


def alive_key(generation_id: Any) -> str:
    """Set by the worker while it works on the answer; its absence means the worker is gone."""
    return f"generation:{generation_id}:alive"


def finish_generation(
    *,
    generation: Generation,
    state: str,
    text: str,
    finish_reason: str,
    error: str = "",
    tokens: int = 0,
    first_token_at: Any = None,
) -> bool:
    """Write the final text, then the end of the live log; False if someone else ended it before.

    In this order, so that whoever reads the end event finds the whole text in the database.
    """
    return _end(
        generation,
        Generation.State.RUNNING,
        state=state,
        text=text,
        finish_reason=finish_reason,
        error=error[:300],
        tokens=tokens,
        first_token_at=first_token_at,
    )


def _end(generation: Generation, before: Generation.State, **values: Any) -> bool:
    """Move an answer from the state `before` to its last one, then close its live log; False if it was not in it."""
    values["finished_at"] = timezone.now()
    if not Generation.objects.filter(pk=generation.pk, state=before).update(**values):
        return False
    for name, value in values.items():
        setattr(generation, name, value)
    with suppress(redis.RedisError):  # readers fall back on the database
        streams.append(generation.stream_key, end_event(generation))
    return True


def end_event(generation: Generation) -> streams.Event:
    return {
        "type": streams.END,
        "state": generation.state,
        "finish_reason": generation.finish_reason,
        "text": generation.text,
        "error": generation.error,
    }


def revive_generation(generation: Generation) -> Generation:
    """Look after an answer nobody seems to be writing; returns it fresh from the database.

    Called by readers that have waited for a while without news: an answer whose worker is gone is
    ended with what it had written, one that is still queued is enqueued again. Both are harmless
    when the answer is in good hands.
    """
    generation.refresh_from_db()
    if generation.state == Generation.State.RUNNING:
        fail_if_dead(generation)
    elif generation.state == Generation.State.QUEUED:
        waited_s = (timezone.now() - generation.created_at).total_seconds()
        asked_key = f"generation:{generation.pk}:asked"
        if waited_s > ASK_AGAIN_S and streams.client().set(asked_key, 1, nx=True, ex=ASK_AGAIN_S):
            enqueue_generation(generation.pk)
    return generation


def fail_if_dead(generation: Generation) -> bool:
    """End a running answer whose worker is gone, keeping the text that reached the live log."""
    if streams.client().exists(alive_key(generation.pk)):
        return False
    written = [event["text"] for _, event in streams.read(generation.stream_key) if event.get("type") == "token"]
    return finish_generation(
        generation=generation,
        state=Generation.State.FAILED,
        text="".join(written),
        finish_reason="error",
        error=INTERRUPTED,
    )


def revive_generations() -> None:
    """`revive_generation` for every unfinished answer, read by someone or not."""
    for generation in Generation.objects.unfinished():
        revive_generation(generation)


def recover_generations() -> None:
    """What a starting generate worker does first: end dead answers, enqueue forgotten ones."""
    for generation in Generation.objects.filter(state=Generation.State.RUNNING):
        fail_if_dead(generation)
    for pk in Generation.objects.filter(state=Generation.State.QUEUED).values_list("pk", flat=True):
        enqueue_generation(pk)

"""Everything that writes answers, but for their text: asked for, stopped, ended, and looked after when nobody does."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypedDict

import redis
from django.db import transaction
from django.utils import timezone

from trainer.config import REWARD
from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.checkpoints.models import Checkpoint
from webapp.live import streams
from webapp.ops.metrics import ANSWER_SECONDS, FIRST_TOKEN_SECONDS
from webapp.ops.queues import enqueue

ALIVE_S = 15
"""A running generation whose worker has not been heard of for this long is dead."""
ASK_AGAIN_S = 20
"""A generation still queued after this long is enqueued once more: its message may have been lost."""
STOP_KEY_S = 600
INTERRUPTED = "The model was interrupted; ask again."
UNREACHABLE = "The model cannot be reached right now; try again."
"""What a person is told who wants something of a worker while Redis is away."""


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
    enqueue("webapp.answers.tasks.generate_answer", str(generation_id))


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
    _measure(generation)
    return True


def _measure(generation: Generation) -> None:
    stage, asked = generation.checkpoint.stage, generation.created_at
    if generation.first_token_at:
        FIRST_TOKEN_SECONDS.labels(stage).observe((generation.first_token_at - asked).total_seconds())
    if generation.finished_at:
        ANSWER_SECONDS.labels(stage, generation.state).observe((generation.finished_at - asked).total_seconds())


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

"""Everything that writes answers, but for their text: asked for, stopped, ended, and looked after when nobody does."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypedDict

import redis
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from trainer.config import REWARD
from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.checkpoints.models import Checkpoint
from webapp.live import streams
from webapp.ops.clock import seconds_from_now
from webapp.ops.metrics import ANSWER_SECONDS, FIRST_TOKEN_SECONDS
from webapp.ops.queues import BACKGROUND, CHAT, enqueue, queue_length

State = Generation.State

ALIVE_S = 15
"""A worker not heard of for this long, by the database's clock, is missed; its answers are doubted."""
DOUBT_S = 6
"""A doubted answer is ended after this long, unless its worker (which says so every few seconds) is alive after all:
a laptop that was asleep wakes up with every heartbeat an hour old."""
ASK_AGAIN_S = 20
"""A generation still queued after this long is enqueued once more: its message may have been lost."""
MOST_FORGOTTEN = 100
"""So many are looked for at once."""
INTERRUPTED = "The model was interrupted; ask again."


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
    background: bool = False,
) -> Generation:
    """Ask a checkpoint for an answer: a row now, a task once the transaction is committed.

    `messages` is the conversation so far. When it ends with the assistant's turn, that turn is
    continued and the answer's text begins with it. `background` is for answers nobody sits waiting for.
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
        background=background,
    )
    transaction.on_commit(partial(enqueue_generation, generation))
    return generation


def queue_of(generation: Generation) -> str:
    return BACKGROUND if generation.background else CHAT


def enqueue_generation(generation: Generation) -> None:
    """Tell the generate workers. A lost message does no harm: `look_after_answers` sends another."""
    enqueue("webapp.answers.tasks.generate_answer", str(generation.pk), queue=queue_of(generation))


def stop_generation(generation: Generation) -> None:
    """Ask for an end; what is written so far stays. A finished answer is left as it is.

    A queued answer ends here and now; a running one when its worker sees that it was asked to, within a second.
    """
    queued = Generation.objects.filter(pk=generation.pk, state=State.QUEUED)
    if _end(queued, generation, state=State.STOPPED, finish_reason="stopped"):
        return
    Generation.objects.filter(pk=generation.pk, state=State.RUNNING).update(stop_asked=True)


def finish_generation(
    *,
    generation: Generation,
    state: str,
    text: str,
    finish_reason: str,
    error: str = "",
    token_ids: Sequence[int] = (),
    first_token_at: Any = None,
) -> bool:
    """Write the final text, then the end of the live log; False if someone else ended it before.

    In this order, so that whoever reads the end event finds the whole text in the database.
    """
    return _end(
        Generation.objects.filter(pk=generation.pk, state=State.RUNNING),
        generation,
        state=state,
        text=text,
        finish_reason=finish_reason,
        error=error[:300],
        tokens=len(token_ids),
        token_ids=None if generation.background else list(token_ids),  # nobody looks into one with a microscope
        first_token_at=first_token_at,
    )


def _end(row: QuerySet[Generation], generation: Generation, **values: Any) -> bool:
    """Move an answer to its last state, then close its live log; False if `row`, itself where it may end, is empty."""
    values["finished_at"] = timezone.now()
    if not row.update(**values):
        return False
    for name, value in values.items():
        setattr(generation, name, value)
    if not generation.background:
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


# -- looking after answers -------------------------------------------------------------------------
# The row alone tells whether a worker is at an answer, by the database's clock. A key in Redis beside it
# would be a second truth: lost with Redis, or kept by a worker that lost the row.


def claim_generation(generation_id: str) -> Generation | None:
    """Take a queued answer to write it. Of two copies of one message one is told None here, and has touched nothing."""
    queued = Generation.objects.filter(pk=generation_id, state=State.QUEUED)
    if not queued.update(state=State.RUNNING, alive_at=Now()):
        return None
    return Generation.objects.select_related("checkpoint").filter(pk=generation_id).first()


def forgotten_generations() -> list[str]:
    """Ids of answers that have been queued for long although no message waits in their queue, oldest chats first.

    Their message was lost, or could not be sent because Redis is full or away; nothing but the database
    is needed to find them.
    """
    long_queued = Generation.objects.filter(state=State.QUEUED, created_at__lt=seconds_from_now(-ASK_AGAIN_S))
    empty = [queue for queue in (CHAT, BACKGROUND) if not queue_length(queue)]
    oldest = long_queued.defer("messages").order_by("background", "created_at")[:MOST_FORGOTTEN]
    return [str(generation.pk) for generation in oldest if queue_of(generation) in empty]


def say_alive(generation_ids: Sequence[str]) -> None:
    """A worker's heartbeat for the answers it is writing."""
    Generation.objects.filter(pk__in=generation_ids, state=State.RUNNING).update(alive_at=Now())


def asked_to_stop(generation_ids: Sequence[str]) -> list[str]:
    """Which of these somebody wants ended."""
    asked = Generation.objects.filter(pk__in=generation_ids, stop_asked=True)
    return [str(pk) for pk in asked.values_list("pk", flat=True)]


def revive_generation(generation: Generation) -> Generation:
    """Look after an answer nobody seems to be writing; returns it fresh from the database.

    Called by readers that have waited for a while without news: an answer whose worker is gone is
    ended with what it had written, one that is still queued is enqueued again. Both are harmless
    when the answer is in good hands.
    """
    generation.refresh_from_db()
    if generation.state == State.RUNNING:
        fail_if_dead(generation)
    elif generation.state == State.QUEUED:
        _ask_again(generation)
    return generation


def _ask_again(generation: Generation) -> None:
    """Enqueue an answer that has been queued for long; the row count lets one of many readers do it.

    Not while messages wait in its queue: its own is probably among them, and copies would only make the queue longer.
    """
    told = Coalesce("enqueued_at", "created_at")
    queued = Generation.objects.alias(told_at=told).filter(pk=generation.pk, state=State.QUEUED)
    late = queued.filter(told_at__lt=seconds_from_now(-ASK_AGAIN_S))
    if late.exists() and not queue_length(queue_of(generation)) and late.update(enqueued_at=Now()):
        enqueue_generation(generation)


def fail_if_dead(generation: Generation) -> bool:
    """End a running answer whose worker is gone, keeping the text that reached the live log.

    Whoever misses the worker first only doubts it; it is ended when it has not spoken up DOUBT_S after that.
    """
    rows = Generation.objects.filter(pk=generation.pk, state=State.RUNNING)
    missed = rows.alias(heard_at=Coalesce("alive_at", "created_at")).filter(heard_at__lt=seconds_from_now(-ALIVE_S))
    doubted = Q(doubted_at__gt=F("heard_at"))
    given_up = missed.filter(doubted, doubted_at__lt=seconds_from_now(-DOUBT_S))
    if not given_up.exists():
        missed.filter(Q(doubted_at=None) | ~doubted).update(doubted_at=Now())
        return False
    return _end(
        given_up,
        generation,
        state=State.FAILED,
        text=_logged_text(generation),
        finish_reason="error",
        error=INTERRUPTED,
    )


def _logged_text(generation: Generation) -> str:
    if generation.background:
        return ""
    try:
        events = streams.read(generation.stream_key)
    except redis.RedisError:
        return ""  # what a dead worker wrote is lost with Redis
    return "".join(event["text"] for _, event in events if event.get("type") == "token")


def revive_generations() -> None:
    """`revive_generation` for every unfinished answer, read by someone or not."""
    for generation in Generation.objects.unfinished().defer("messages"):
        revive_generation(generation)


def recover_generations() -> None:
    """What a starting generate worker does first: miss the dead, enqueue what waits if Redis was emptied meanwhile."""
    empty = [queue for queue in (CHAT, BACKGROUND) if not queue_length(queue)]
    for generation in Generation.objects.unfinished().defer("messages"):
        if generation.state == State.RUNNING:
            fail_if_dead(generation)
        elif queue_of(generation) in empty:
            enqueue_generation(generation)

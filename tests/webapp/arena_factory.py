"""Pairs and votes for the arena's tests, made without a worker."""

from __future__ import annotations

import itertools
from typing import Any

from django.utils import timezone

from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.arena.models import Pair, Prompt, Vote
from webapp.checkpoints.models import Checkpoint

_numbers = itertools.count(1)


def make_answer(checkpoint: Checkpoint, text: str | None = None, **fields: Any) -> Generation:
    """A finished answer."""
    defaults: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What is a harbour?"}],
        "sampling": {"temperature": 1.0, "seed": next(_numbers)},
        "state": Generation.State.DONE,
        "text": f"Answer number {next(_numbers)}." if text is None else text,
        "finish_reason": "end",
        "finished_at": timezone.now(),
    }
    return Generation.objects.create(checkpoint=checkpoint, **{**defaults, **fields})


def make_pair(
    a: Checkpoint, b: Checkpoint | None = None, *, texts: tuple[str, str] | None = None, **fields: Any
) -> Pair:
    """A ready pair of the first checkpoint's answer as A and the second's (or its own again) as B."""
    answers = [make_answer(one, texts[side] if texts else None) for side, one in enumerate((a, b or a))]
    kind = Pair.Kind.SELF if b is None or a == b else Pair.Kind.VERSUS
    defaults: dict[str, Any] = {"kind": kind, "state": Pair.State.READY}
    return Pair.objects.create(a=answers[0], b=answers[1], **{**defaults, **fields})


def make_vote(pair: Pair, visitor: Visitor | None = None, choice: str = "a", **fields: Any) -> Vote:
    """A vote as the database would hold it, whoever may have been allowed to cast it."""
    vote = Vote.objects.create(pair=pair, visitor=visitor or Visitor.objects.create(), choice=choice, **fields)
    Pair.objects.filter(pk=pair.pk).update(is_open=pair.votes.decided().count() < pair.wanted_votes)
    return vote


def make_prompts(count: int) -> list[Prompt]:
    return [Prompt.objects.create(text=f"What is thing {n}?", source=Prompt.Source.STAFF) for n in range(count)]


def finish(generation: Generation, text: str, *, finish_reason: str = "end", state: str = "done") -> None:
    """What the generate worker would have done."""
    Generation.objects.filter(pk=generation.pk).update(
        text=text, finish_reason=finish_reason, state=state, finished_at=timezone.now()
    )

"""What comes next: the tokens a checkpoint thinks likeliest after a text, from the site's side.

The idea: that takes the weights, which only a generate worker has. So asking makes a row and tells the workers; the
page looks again until the row says what was found. A worker notes the likeliest tokens' logits and, for every
temperature that can be chosen, the logarithm of the sum over the whole vocabulary: so the shares shown are exact at
each of them, and moving the temperature asks nobody.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final, TypedDict

from django.db import transaction
from django.utils import timezone
from django.utils.safestring import SafeString

from trainer.config import PRETRAIN
from webapp.answers.spelling import percent, shown, spoken
from webapp.checkpoints.models import Checkpoint
from webapp.ops.queues import CHAT, enqueue
from webapp.stages import figures
from webapp.stages.models import NextTokens

SHOWN: Final = 10
TEMPERATURES: Final = tuple(round(0.1 * step, 1) for step in range(1, 21))
GIVE_UP: Final = timedelta(seconds=20)
"""Nothing found by then: the message was lost, or the models are busy."""
KEPT: Final = timedelta(days=1)
BUSY: Final = "The models are busy, or none is running. Ask again in a moment."


class Found(TypedDict):
    tokens: list[tuple[str, str, float]]
    """Text, kind (see the tokenizer's Piece) and logit below the largest one, the likeliest first."""
    log_sums: list[float]
    """For each of TEMPERATURES the logarithm of what the probabilities of the whole vocabulary are divided by."""
    vocabulary: int


@transaction.atomic
def ask_next_tokens(*, checkpoint: Checkpoint, text: str) -> NextTokens:
    """Have a worker say what comes after `text`, unless it is known or on its way."""
    now = timezone.now()
    NextTokens.objects.filter(asked_at__lt=now - KEPT).delete()
    row, is_new = NextTokens.objects.get_or_create(checkpoint=checkpoint, text=text)
    missing = NextTokens.objects.filter(pk=row.pk, found__isnull=True)
    lost = missing.filter(asked_at__lt=now - GIVE_UP) | missing.exclude(problem="")
    if is_new or lost.update(asked_at=now, problem=""):
        transaction.on_commit(partial(enqueue, "webapp.stages.tasks.find_next_tokens", row.pk, queue=CHAT))
    return row


def shares(found: Found, temperature: float) -> list[float]:
    """The probability of each token under softmax(logits / temperature), over the whole vocabulary."""
    log_sum = found["log_sums"][TEMPERATURES.index(temperature)]
    return [math.exp(below / temperature - log_sum) for _, _, below in found["tokens"]]


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """What the page shows of it."""

    text: str
    temperature: float
    is_waiting: bool
    problem: str = ""
    svg: SafeString | None = None
    rows: Sequence[tuple[str, str]] = ()
    rest: str = ""
    others: int = 0
    """How many tokens share the rest."""


def foresee(*, checkpoint: Checkpoint, text: str, temperature: float) -> Foreseen | None:
    """What is known of what comes after `text`; None when nobody has asked."""
    row = NextTokens.objects.filter(checkpoint=checkpoint, text=text).first()
    if row is None:
        return None
    if row.found is None:
        is_late = row.asked_at < timezone.now() - GIVE_UP
        problem = row.problem or (BUSY if is_late else "")
        return Foreseen(text=text, temperature=temperature, is_waiting=not problem, problem=problem)
    found: Found = row.found
    likely = shares(found, temperature)
    names = [shown((token, kind)) for token, kind, _ in found["tokens"]]
    bars = [
        figures.Bar(name=name, value=share, stage=PRETRAIN, text=percent(share))
        for name, share in zip(names, likely, strict=True)
    ]
    heard = [spoken((token, kind)) for token, kind, _ in found["tokens"]]
    described = ", ".join(f"{name} {bar.text}" for name, bar in zip(heard, bars, strict=True))
    return Foreseen(
        text=text,
        temperature=temperature,
        is_waiting=False,
        svg=figures.bar_chart(bars, title=f"What comes after “{text}”", description=described),
        rows=[(bar.name, bar.text) for bar in bars],
        rest=percent(max(0.0, 1 - sum(likely))),
        others=found["vocabulary"] - len(bars),
    )

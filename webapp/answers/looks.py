"""The token microscope of an answer, from the site's side: asked for once, found by a generate worker, kept.

The idea: what a model thought of every token takes its weights, which only a generate worker has. So opening the
microscope makes a row and tells the workers; the page asks again until the row says what was found, or why nothing was.
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import TypedDict

from django.db import transaction
from django.db.models.functions import Now

from webapp.answers.models import Generation, Look
from webapp.ops.clock import seconds_from_now
from webapp.ops.queues import CHAT, enqueue

GIVE_UP_S = 20
"""A look not found by then is taken for lost, or for one too many; whoever opens the microscope again asks again."""
BUSY = "The models are busy with other people's questions. Open the tokens again in a moment."

Spelled = tuple[str, str]
"""Text and kind of a token: those of trainer.model.tokenizer.Piece, and "end" for what ends an answer."""


class FoundOther(TypedDict):
    piece: Spelled
    probability: float
    before: float | None
    """To the parent."""


class FoundToken(FoundOther):
    rank: int
    others: list[FoundOther]
    parents_first: FoundOther | None
    """What the parent thought the likeliest, as far as the parent was asked; its `probability` is the parent's."""


class Found(TypedDict):
    """What `Look.found` holds."""

    tokens: list[FoundToken]
    is_exact: bool
    """Whether these are the very tokens that were written, not the answer's text cut into tokens again."""
    parent: str
    """Of the stages that are compared with it: how people know the checkpoint this one was trained from."""
    no_parent: str
    """Why there is no such comparison, where one would be expected."""


class LookRefused(ValueError):
    """There is nothing to look into, or nothing to look with; the message says why."""


def find_look(generation: Generation) -> Look | None:
    """What was found, or is on its way, or was not found; None when nobody has asked, or nobody seems to be at it."""
    look = Look.objects.filter(pk=generation.pk).first()
    if look is None or look.found is not None or look.problem:
        return look
    is_lost = Look.objects.filter(pk=look.pk, asked_at__lt=seconds_from_now(-GIVE_UP_S)).exists()
    return None if is_lost else look


@transaction.atomic
def ask_for_look(*, generation: Generation) -> Look:
    """Have a worker look into a finished answer, again where that failed; LookRefused where it makes no sense."""
    if not generation.is_final:
        raise LookRefused("The answer is still being written. Look into its tokens when it is finished.")
    if not generation.text and not generation.token_ids:
        raise LookRefused("There is no token to look at: the model wrote nothing.")
    if generation.checkpoint.archived:
        raise LookRefused(f"{generation.checkpoint.name} has been archived: its answers stay, but it reads no more.")
    look, is_new = Look.objects.get_or_create(generation=generation)
    if not is_new:
        Look.objects.filter(pk=look.pk, found__isnull=True).update(asked_at=Now(), problem="")
        look.refresh_from_db()
    transaction.on_commit(partial(enqueue_look, generation))
    return look


def enqueue_look(generation: Generation) -> None:
    """Tell the generate workers; somebody sits before it. A lost message means that it is opened once more."""
    enqueue("webapp.answers.tasks.look_into_answer", str(generation.pk), queue=CHAT)


def waiting_look(generation_id: uuid.UUID) -> Look | None:
    """A look nobody has found yet, with all that it takes."""
    waiting = Look.objects.filter(pk=generation_id, found__isnull=True)
    return waiting.select_related("generation__checkpoint__parent").first()


def finish_look(*, look: Look, found: Found | None, problem: str = "") -> None:
    """Keep what was found, or say why nothing was."""
    Look.objects.filter(pk=look.pk, found__isnull=True).update(found=found, problem=problem[:300])

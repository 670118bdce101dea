"""What the stage pages write: one question to every stage, a visitor's or one of the site's own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from django.db import transaction
from django.utils import timezone

from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.answers.services import start_generation
from webapp.chat.models import Conversation
from webapp.chat.services import ask_checkpoints
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.origin import site_origin
from webapp.stages.catalog import CATALOG
from webapp.stages.models import SiteAnswer
from webapp.stages.queries import home_answers, site_answers
from webapp.stages.questions import home_questions

HOME_SAMPLING: Final[dict[str, Any]] = {"temperature": 0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 80, "seed": 0}
"""Greedy, so that a checkpoint has one answer to a question and needs to be asked only once. The seed is for what is
sampled where two greedy answers are the same: it is fixed, so that this is one answer, too."""

RETRY_AFTER = timedelta(minutes=1)
"""A failed answer is asked for again, but not in a tight loop."""


@transaction.atomic
def ask_home_prompt(*, prompt: str) -> list[Generation]:
    """Ask `prompt` of every current checkpoint that has no answer yet; returns the new generations.

    Costs at most one answer per checkpoint and fixed prompt, whoever calls it and however often.
    """
    chattable = _locked_speakers()
    answered = site_answers(chattable, [prompt]).greedy
    return [_ask(one, prompt) for one in chattable if _may_be_asked(answered[one.pk].get(prompt))]


@transaction.atomic
def ask_home_questions(*, shown: str) -> list[Generation]:
    """Ask all of the home page's questions, the one that is shown first, and what that one wants sampled.

    All of them, because which one newcomers are shown, and what a stage has changed, follows from all.
    """
    questions = home_questions(site_origin())
    in_turn = sorted(questions, key=lambda prompt: prompt != shown)
    return [one for prompt in in_turn for one in ask_home_prompt(prompt=prompt)] + _ask_sampled(shown)


def _ask_sampled(prompt: str) -> list[Generation]:
    """Draw an answer of both stages whose greedy ones are the same, with one seed."""
    return [
        _ask(checkpoint, prompt, is_sampled=True)
        for row in home_answers(prompt)
        if row.pair and row.before
        for one, answer in ((row.before, row.pair.earlier), (row, row.pair.later))
        if (checkpoint := one.checkpoint) and _may_be_asked(answer)
    ]


def _locked_speakers() -> list[Checkpoint]:
    """Two visitors may see the same gap at once: the row locks let only the first one fill it."""
    chattable = _speakers()
    locked = Checkpoint.objects.select_for_update().filter(pk__in=[checkpoint.pk for checkpoint in chattable])
    list(locked.order_by("pk"))
    return chattable


def _ask(checkpoint: Checkpoint, prompt: str, *, is_sampled: bool = False) -> Generation:
    """Ask anew; an answer that failed before is forgotten."""
    generation = start_generation(
        checkpoint=checkpoint,
        messages=[{"role": "user", "content": prompt}],
        sampling=HOME_SAMPLING | ({"temperature": 1.0} if is_sampled else {}),
        background=True,
    )
    SiteAnswer.objects.update_or_create(
        checkpoint=checkpoint, prompt=prompt, is_sampled=is_sampled, defaults={"generation": generation}
    )
    return generation


def ask_all_stages(*, visitor: Visitor, text: str, sampling: Mapping[str, Any]) -> Conversation:
    """Ask a visitor's question of the current checkpoint of every stage that writes; ValueError says what is wrong."""
    return ask_checkpoints(visitor=visitor, checkpoints=_speakers(), text=text, sampling=sampling)


def _speakers() -> list[Checkpoint]:
    """The current checkpoint of every stage that produces text, in order."""
    return [one for slug, one in Checkpoint.objects.current_by_stage().items() if CATALOG[slug].can_chat]


def _may_be_asked(generation: Generation | None) -> bool:
    """True when there is no answer, or only a failed one from a while ago."""
    if generation is None:
        return True
    return generation.state == Generation.State.FAILED and generation.created_at < timezone.now() - RETRY_AFTER

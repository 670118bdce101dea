"""One vote: `next_pair` serves a pair, `record_vote` takes the vote on it, `reveal_vote` ends the time to undo it.

A chat that offers two answers votes here as well (`record_chat_choice`).

Deliberate simplification: two people may be shown the same pair at the same moment (the second vote is simply one
more).
"""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.utils import timezone

from webapp.accounts.models import Visitor
from webapp.arena.models import Pair, Vote
from webapp.arena.stock import current_learner
from webapp.chat.models import Message
from webapp.chat.services import choose_answer
from webapp.chat.threads import are_the_same

REPEAT_EVERY = 10
"""After this many votes a person is shown one earlier pair again, sides swapped."""
REPEAT_DISTANCE = 5
"""A repeat shows a pair from at least this many votes ago."""
SERVED_WINDOW = 16
"""The next pair is one of this many of the longest waiting, a different one for every visitor."""
SKIPS_ENOUGH = 3
"""A pair this many people skipped, and nobody decided on, is asked of nobody else."""
DAILY_VOTES = 500
"""More than this in a day is not one person reading."""
REASONS = {
    "accurate": "more accurate",
    "clear": "clearer",
    "short": "shorter",
    "detailed": "more detailed",
    "friendly": "friendlier",
    "example": "has an example",
}
"""The reasons a voter may tick, never compulsory."""

_coin = random.SystemRandom()


class VoteRefused(PermissionDenied):
    """The vote does not count; the message says why."""


class TooManyVotes(VoteRefused):
    """It would count on another day."""


@dataclass(frozen=True, kw_only=True)
class ChatChoice:
    """What became of a choice between a conversation's two answers."""

    chosen: Message
    """The answer the conversation goes on from."""
    vote: Vote | None = None
    """The vote that counts, if one does."""
    problem: str = ""
    """Why none does, where that is worth telling."""


def next_pair(visitor: Visitor | None) -> Pair | None:
    """The pair this person should vote on now; None when none is ready. Asking again gives the same one."""
    wanted = Pair.objects.wanted_from(visitor).select_related("a", "b")
    if visitor and (repeat := wanted.filter(owner=visitor).first()):
        return repeat
    learner = current_learner()
    if learner is None:
        return None
    waiting = list(wanted.worth_asking(learner).filter(owner=None)[:SERVED_WINDOW])
    name = str(visitor.pk) if visitor else ""
    return min(waiting, key=lambda pair: hashlib.sha256(f"{name} {pair.pk}".encode()).digest(), default=None)


def record_vote(
    *,
    pair: Pair,
    visitor: Visitor,
    choice: str,
    reasons: Sequence[str] = (),
    source: str = Vote.Source.HUMAN,
    taste: str = "",
) -> Vote:
    """Record one person's vote on one pair. A replay, from any tab or twice at once, returns the first.

    Raises VoteRefused for a pair that is not theirs to vote on, ValueError for an unknown choice.
    """
    if choice not in Vote.Choice.values:
        raise ValueError(f"Unknown choice {choice!r}; choose one of {', '.join(Vote.Choice.values)}.")
    if unknown := set(reasons) - set(REASONS):
        raise ValueError(f"Unknown reason {sorted(unknown)[0]!r}; choose from {', '.join(REASONS)}.")
    if first := Vote.objects.filter(pair=pair, visitor=visitor).first():
        return first
    _require_votable(pair, visitor)
    human = source == Vote.Source.HUMAN
    now = timezone.now()
    if human and visitor.votes.filter(created_at__gt=now - timedelta(days=1)).count() >= DAILY_VOTES:
        raise TooManyVotes(f"That was {DAILY_VOTES} votes in a day. Thank you; please come back tomorrow.")
    with transaction.atomic():
        # Going on to the next vote ends the time to undo the one before.
        visitor.votes.filter(revealed_at=None).exclude(pair=pair).update(revealed_at=now)
        vote, _ = Vote.objects.get_or_create(
            pair=pair,
            visitor=visitor,
            defaults={
                "choice": choice,
                "reasons": sorted(set(reasons)),
                "source": source,
                "taste": taste,
                "revealed_at": None if human and not pair.from_chat else now,
            },
        )
        _open_or_close(pair)
        if human and vote.is_decided and pair.repeat_of_id is None:
            _plan_repeat(visitor)
    return vote


def _require_votable(pair: Pair, visitor: Visitor) -> None:
    theirs = pair.owner_id == visitor.pk or (pair.owner_id is None and not pair.from_chat)
    shown = pair.from_chat or (pair.state == Pair.State.READY and pair.wanted_votes > 0)
    if not (theirs and shown):
        raise VoteRefused("This pair is not yours to vote on.")


def _open_or_close(pair: Pair) -> None:
    """Keep `is_open` true to the votes there are. Two votes at once may leave it open: that is one vote more."""
    decided = pair.votes.decided().count()
    only_skipped = decided == 0 and pair.votes.count() >= SKIPS_ENOUGH
    Pair.objects.filter(pk=pair.pk).update(is_open=decided < pair.wanted_votes and not only_skipped)


def _plan_repeat(visitor: Visitor) -> None:
    """After every REPEAT_EVERY first looks, reserve an earlier pair for a second look, sides swapped."""
    first_looks = visitor.votes.decided().filter(pair__repeat_of=None, pair__from_chat=False)
    if (made := first_looks.count()) == 0 or made % REPEAT_EVERY:
        return
    earlier = first_looks.filter(pair__repeats=None).order_by("-created_at")[REPEAT_DISTANCE:REPEAT_EVERY]
    if not earlier or Pair.objects.filter(owner=visitor, repeat_of__isnull=False, votes=None).exists():
        return
    shown = _coin.choice(list(earlier.select_related("pair"))).pair
    Pair.objects.get_or_create(
        a_id=shown.b_id,
        b_id=shown.a_id,
        defaults={
            "prompt": shown.prompt,
            "kind": shown.kind,
            "state": Pair.State.READY,
            "owner": visitor,
            "repeat_of": shown,
        },
    )


def undo_vote(*, pair: Pair, visitor: Visitor) -> bool:
    """Take back a vote that has not been revealed; False when it is too late or there is none."""
    with transaction.atomic():
        deleted, _ = Vote.objects.filter(pair=pair, visitor=visitor, revealed_at=None).delete()
        if deleted:
            _open_or_close(pair)
    return bool(deleted)


def reveal_vote(*, pair: Pair, visitor: Visitor) -> Vote | None:
    """Lock a person's vote and return it with its answers, so that they can be told who wrote what."""
    Vote.objects.filter(pair=pair, visitor=visitor, revealed_at=None).update(revealed_at=timezone.now())
    return Vote.objects.with_answers().filter(pair=pair, visitor=visitor).first()


def record_chat_choice(*, question_id: uuid.UUID, visitor: Visitor, choice: str) -> ChatChoice:
    """Record which of the two answers a conversation offered is preferred, and go on from it.

    `question_id` is the user message both answer. A tie, both bad and skip go on from A. The conversation goes on
    also where no vote counts: the answers came out the same, or these are too many votes for a day.
    Raises VoteRefused alike for a missing and a foreign message.
    """
    siblings = Message.objects.filter(
        parent_id=question_id,
        conversation__visitor=visitor,
        conversation__deleted_at=None,
        generation__isnull=False,
    ).select_related("generation", "conversation")
    sides = {message.side: message for message in siblings.order_by("created_at") if message.side}
    if set(sides) != {"A", "B"}:
        raise VoteRefused("This pair is not yours to vote on.")
    a, b = sides["A"], sides["B"]
    if are_the_same([a, b]):
        return ChatChoice(chosen=choose_answer(message=a))
    vote, problem = None, ""
    try:
        vote = _record_vote_in_chat(a, b, visitor=visitor, choice=choice)
        choice = vote.choice  # the first choice stands
    except TooManyVotes as error:
        problem = str(error)
    chosen = choose_answer(message=b if choice == Vote.Choice.B else a)
    return ChatChoice(chosen=chosen, vote=vote, problem=problem)


@transaction.atomic
def _record_vote_in_chat(a: Message, b: Message, *, visitor: Visitor, choice: str) -> Vote:
    """The vote on two answers of a conversation; a pair of them is kept only together with it."""
    assert a.generation is not None
    assert b.generation is not None
    pair, _ = Pair.objects.get_or_create(
        a=a.generation,
        b=b.generation,
        defaults={
            "kind": Pair.Kind.SELF if a.generation.checkpoint_id == b.generation.checkpoint_id else Pair.Kind.VERSUS,
            "from_chat": True,
            "owner": visitor,
        },
    )
    return record_vote(pair=pair, visitor=visitor, choice=choice)

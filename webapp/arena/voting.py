"""One vote: `next_pair` serves a pair, `record_vote` takes the vote on it, `reveal_vote` ends the time to undo it.

A chat that offers two answers votes here as well (`record_chat_choice`).

A pair that is shown is reserved for a moment (webapp/arena/reservations.py). Who votes on it all the same, because
nothing else was left to show, may come too late: a pair with all the votes it wants takes no more.
"""

from __future__ import annotations

import hashlib
import logging
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import redis
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.utils import timezone

from webapp.accounts.models import Visitor
from webapp.arena import reservations, tally
from webapp.arena.models import Pair, PairQuerySet, Vote
from webapp.arena.stock import LARGEST_STOCK, being_written, current_learner
from webapp.chat.models import Message
from webapp.chat.services import choose_answer
from webapp.chat.threads import are_the_same
from webapp.checkpoints.models import Checkpoint

REPEAT_EVERY = 10
"""After this many votes a person is shown one earlier pair again, sides swapped."""
REPEAT_DISTANCE = 5
"""A repeat shows a pair from at least this many votes ago."""
SERVED_WINDOW = LARGEST_STOCK
"""The next pair is one of this many of the longest waiting."""
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
logger = logging.getLogger(__name__)


class VoteRefused(PermissionDenied):
    """The vote does not count; the message says why."""


class TooManyVotes(VoteRefused):
    """It would count on another day."""


class PairClosed(VoteRefused):
    """Others gave the pair all the votes it wants meanwhile."""


@dataclass(frozen=True, kw_only=True)
class ChatChoice:
    """What became of a choice between a conversation's two answers."""

    chosen: Message
    """The answer the conversation goes on from."""
    vote: Vote | None = None
    """The vote that counts, if one does."""
    problem: str = ""
    """Why none does, where that is worth telling."""


def next_pair(visitor: Visitor | None, *, newcomer: str = "") -> Pair | None:
    """The pair this person should vote on now; None when none is ready. Asking again gives the same one.

    `newcomer` is what somebody without a visitor is called (reservations.newcomer_of).
    """
    wanted = Pair.objects.wanted_from(visitor).select_related("a", "b")
    if visitor and (repeat := wanted.filter(owner=visitor).first()):
        return repeat
    learner = current_learner()
    if learner is None:
        return None
    shared = wanted.worth_asking(learner).filter(owner=None)
    chosen = _choose(shared, name=reservations.name_of(visitor) if visitor else newcomer, learner=learner)
    return shared.filter(pk=chosen).first() if chosen else None


def _choose(shared: PairQuerySet, *, name: str, learner: Checkpoint) -> uuid.UUID | None:
    """One of the pairs for everyone, reserved; one that somebody else has where nothing else is left or coming."""
    waiting = list(shared.values_list("pk", flat=True)[:SERVED_WINDOW])
    if not waiting:
        return None
    try:
        if name and (own := reservations.reserve(waiting, name=name)):
            return own
    except redis.RedisError as error:
        logger.warning("reservations are off: %s", error)
    else:
        if name and reservations.are_all_taken(waiting) and being_written(learner):
            return None  # the page looks again in a moment
    return min(waiting, key=lambda pair: hashlib.sha256(f"{name} {pair}".encode()).digest())


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
    human = source == Vote.Source.HUMAN
    now = timezone.now()
    with transaction.atomic():
        locked = _lock(pair)
        cast = list(locked.votes.all())
        if first := next((vote for vote in cast if vote.visitor_id == visitor.pk), None):
            return first
        _require_votable(locked, visitor)
        _require_open(locked)
        if human and visitor.votes.filter(created_at__gt=now - timedelta(days=1)).count() >= DAILY_VOTES:
            raise TooManyVotes(f"That was {DAILY_VOTES} votes in a day. Thank you; please come back tomorrow.")
        # Going on to the next vote ends the time to undo the one before.
        visitor.votes.filter(revealed_at=None).exclude(pair=pair).update(revealed_at=now)
        vote = Vote(
            pair=locked,
            visitor=visitor,
            choice=choice,
            reasons=sorted(set(reasons)),
            source=source,
            taste=taste,
            revealed_at=None if human and not pair.from_chat else now,
        )
        _open_or_close(locked, [*cast, vote])
        vote.save()
        if human and vote.is_decided and pair.repeat_of_id is None:
            _plan_repeat(visitor)
    if not pair.from_chat:
        reservations.release(pair.pk)
    return vote


def _lock(pair: Pair) -> Pair:
    """The pair's row as it is now, until the end of the transaction; nobody else votes on it or undoes meanwhile."""
    locked = Pair.objects.select_for_update().get(pk=pair.pk)
    locked.a, locked.b = pair.a, pair.b  # these never change
    return locked


def _require_votable(pair: Pair, visitor: Visitor) -> None:
    theirs = pair.owner_id == visitor.pk or (pair.owner_id is None and not pair.from_chat)
    shown = pair.from_chat or (pair.state == Pair.State.READY and pair.wanted_votes > 0)
    if not (theirs and shown):
        raise VoteRefused("This pair is not yours to vote on.")


def _require_open(pair: Pair) -> None:
    if not pair.is_open:
        raise PairClosed("Others answered this pair first, and it has all the votes it wants. Yours was not counted.")


def _open_or_close(pair: Pair, votes: Sequence[Vote]) -> None:
    """Keep `is_open` true to the votes there are."""
    decided = sum(vote.is_decided for vote in votes)
    only_skipped = decided == 0 and len(votes) >= SKIPS_ENOUGH
    is_open = decided < pair.wanted_votes and not only_skipped
    if is_open != pair.is_open:
        pair.is_open = is_open
        Pair.objects.filter(pk=pair.pk).update(is_open=is_open)


def _plan_repeat(visitor: Visitor) -> None:
    """After every REPEAT_EVERY first looks, reserve an earlier pair for a second look, sides swapped."""
    if (made := tally.voter(visitor).first_looks) == 0 or made % REPEAT_EVERY:
        return
    first_looks = visitor.votes.decided().filter(pair__repeat_of=None, pair__from_chat=False)
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
        locked = _lock(pair)
        cast = list(locked.votes.select_for_update())
        own = next((vote for vote in cast if vote.visitor_id == visitor.pk and vote.revealed_at is None), None)
        if own is None:
            return False
        cast.remove(own)
        own.pair = locked
        own.delete()
        _open_or_close(locked, cast)
    reservations.keep_for(pair.pk, name=reservations.name_of(visitor))
    return True


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

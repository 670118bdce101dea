"""Writes of the arena: pairs are prepared and settled, votes recorded, undone, revealed and simulated.

The idea of a pair's life: `prepare_pairs` asks for two answers ahead of time, `settle_pairs` finds
them finished and makes the pair ready (or rejects it), `next_pair` serves it to whom it still wants
a vote from, `record_vote` takes that vote, and `reveal_vote` ends the time in which `undo_vote` works.

Deliberate simplifications: two people may be shown the same pair at the same moment (the second vote
is simply one more), and the order in which pairs are served knows nothing of the reward model yet.
"""

from __future__ import annotations

import hashlib
import random
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations, cycle, islice

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, Q
from django.utils import timezone

from trainer.config import GRPO, PPO, PRESETS, PRETRAIN, SFT
from trainer.tastes import TASTES, SimulatedVoter
from webapp.accounts.models import Visitor
from webapp.arena.exchange import import_votes as import_votes
from webapp.arena.exchange import learnt_votes as learnt_votes
from webapp.arena.exchange import mark_learnt as mark_learnt
from webapp.arena.exchange import write_votes as write_votes
from webapp.arena.models import Pair, PairQuerySet, Prompt, Vote
from webapp.chat.models import Conversation, Message
from webapp.chat.services import choose_answer
from webapp.chat.threads import are_the_same
from webapp.checkpoints.models import Checkpoint, Generation
from webapp.checkpoints.services import start_generation

ANSWERING_STAGES = (SFT, PPO, GRPO)
"""Stages that answer; the reward model learns from the newest checkpoint of these."""
VERSUS_STAGES = (PRETRAIN, *ANSWERING_STAGES)
"""Stages worth comparing on the leaderboard: noise against anything would waste people's votes."""
VERSUS_SHARE = 0.25
"""Share of the stock that compares two checkpoints; the rest trains the next reward model."""
OVERLAP_SHARE = 0.1
OVERLAP_VOTES = 3
"""A tenth of the pairs goes to three voters, so that agreement between people can be measured."""
REPEAT_EVERY = 10
"""After this many votes a person is shown one earlier pair again, sides swapped."""
REPEAT_DISTANCE = 5
"""A repeat shows a pair from at least this many votes ago."""
SERVED_WINDOW = 16
"""The next pair is one of this many of the longest waiting, a different one for every visitor."""
PENDING_LIMIT = timedelta(minutes=10)
"""A pair whose answers have not come by then is given up."""
SMALLEST_STOCK, LARGEST_STOCK = 16, 200
"""How many unseen pairs are kept ahead: as many as were used in the last two minutes, within this."""
RETRY_EVERY = timedelta(minutes=1)
"""Where nearly all pairs are rejected, one is tried this often."""
VISITORS_EVERY = 4
"""At most one in this many new pairs asks a visitor's own question, as long as there are others."""
SKIPS_ENOUGH = 3
"""A pair this many people skipped, and nobody decided on, is asked of nobody else."""
DAILY_VOTES = 500
"""More than this in a day is not one person reading."""
SIMULATED_AT_ONCE = 48
"""How many pairs a simulated voter has being written at a time; the engine batches them."""
NOISE = 0.1
"""Share of a simulated voter's votes that go against its taste."""
LONGEST_CHAT_PROMPT = 300
"""A longer question from a chat is too much to read before two answers."""
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
_SIMULATED_VISITORS = uuid.UUID("6f1d3a52-6f0e-4c0e-9a52-9b6f5d2f7c11")
"""Namespace of the simulated voters' ids, so that every process finds the same visitor for a taste."""


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


# -- making pairs --------------------------------------------------------------------------------


def current_learner() -> Checkpoint | None:
    """The checkpoint whose answers the next reward model learns from: the newest that answers."""
    return Checkpoint.objects.chattable().filter(stage__in=ANSWERING_STAGES).order_by("-created_at", "-id").first()


def versus_couples() -> list[tuple[Checkpoint, Checkpoint]]:
    """Checkpoints worth comparing: every two current ones, and each current one with its parent."""
    current = [one for stage, one in Checkpoint.objects.current_by_stage().items() if stage in VERSUS_STAGES]
    couples = {frozenset((one.pk, other.pk)): (one, other) for one, other in combinations(current, 2)}
    for child in current:
        parent = child.parent
        if parent and not parent.archived and parent.stage in VERSUS_STAGES:
            couples.setdefault(frozenset((child.pk, parent.pk)), (parent, child))
    return list(couples.values())


def wanted_stock() -> int:
    """How many unseen pairs to keep ahead, so that nobody waits however many vote at once."""
    lately = Vote.objects.human().filter(created_at__gt=timezone.now() - timedelta(minutes=2)).count()
    return min(max(SMALLEST_STOCK, lately), LARGEST_STOCK)


def prepare_pairs(*, count: int, rng: random.Random = _coin) -> int:
    """Ask for answers until `count` unseen pairs are ready or being written; returns how many were started."""
    learner = current_learner()
    if learner is None:
        return 0
    couples = versus_couples()
    versus_wanted = round(count * VERSUS_SHARE) if couples else 0
    stock = Pair.objects.of_stock().worth_asking(learner)
    plan = [(learner, learner)] * _missing(stock.on(learner), count=count - versus_wanted)
    plan += _least_compared(couples, count=_missing(stock.filter(kind=Pair.Kind.VERSUS), count=versus_wanted))
    prompts = _least_used_prompts(count=len(plan), rng=rng)
    for couple, prompt in zip(plan, prompts, strict=False):  # without an active prompt there is nothing to ask
        wanted = OVERLAP_VOTES if rng.random() < OVERLAP_SHARE else 1
        _make_pair(couple=couple, prompt=prompt, wanted_votes=wanted, rng=rng)
    return len(prompts)


def _missing(stock: PairQuerySet, *, count: int) -> int:
    """How many pairs to start, so that `count` of this stock wait for their first vote.

    Where nearly all were rejected, more at once would be too, and their rows stay for ever: one is tried now and then,
    so that the stock fills again as soon as answers can be shown again.
    """
    missing = count - stock.unseen().filter(state__in=(Pair.State.PENDING, Pair.State.READY)).count()
    if missing > 0 and stock.nearly_all_rejected():
        return 0 if stock.filter(created_at__gt=timezone.now() - RETRY_EVERY).exists() else 1
    return max(0, missing)


def _least_compared(couples: list[tuple[Checkpoint, Checkpoint]], *, count: int) -> list[tuple[Checkpoint, Checkpoint]]:
    """The couples to compare next. A child and its parent count double: that decides whether it is promoted."""
    if not count:  # nearly always: this is asked every few seconds, and the pairs of a year are many
        return []
    made: Counter[frozenset[int]] = Counter()
    sides = Pair.objects.filter(kind=Pair.Kind.VERSUS).values_list("a__checkpoint", "b__checkpoint")
    for a, b, pairs in sides.annotate(pairs=Count("pk")):
        made[frozenset((a, b))] += pairs

    def compared(couple: tuple[Checkpoint, Checkpoint]) -> float:
        one, other = couple
        related = other.parent_id == one.pk or one.parent_id == other.pk
        return made[frozenset((one.pk, other.pk))] / (2 if related else 1)

    chosen = []
    for _ in range(count):
        couple = min(couples, key=compared)
        made[frozenset(one.pk for one in couple)] += 1
        chosen.append(couple)
    return chosen


def _least_used_prompts(*, count: int, rng: random.Random) -> list[Prompt]:
    """`count` active prompts, those with the fewest pairs first, repeating when there are not enough.

    Visitors' own are one in VISITORS_EVERY at most: new ones have the fewest pairs, and many would crowd out the rest.
    """
    if not count:
        return []
    if not Prompt.objects.exists():
        seed_prompts()
    prompts = list(Prompt.objects.filter(active=True))
    pairs: dict[int, int] = dict(Pair.objects.exclude(prompt=None).values_list("prompt").annotate(Count("pk")))

    def used(prompt: Prompt) -> int:
        return pairs.get(prompt.pk, 0)

    rng.shuffle(prompts)
    prompts.sort(key=used)
    if public := [prompt for prompt in prompts if prompt.source in Prompt.PUBLIC]:
        # Mostly one pair is planned at a time, behind one vote: a share of so few is a matter of chance.
        share = count // VISITORS_EVERY or int(rng.random() < count / VISITORS_EVERY)
        visitors = [prompt for prompt in prompts if prompt.source not in Prompt.PUBLIC][:share]
        prompts = sorted([*visitors, *islice(cycle(public), count)], key=used)
    return list(islice(cycle(prompts), count))


@transaction.atomic
def _make_pair(
    *,
    couple: tuple[Checkpoint, Checkpoint],
    prompt: Prompt,
    wanted_votes: int = 1,
    owner: Visitor | None = None,
    rng: random.Random = _coin,
) -> Pair:
    """Ask both checkpoints; a coin decides whose answer is A, whichever was asked first."""
    answers = [
        start_generation(
            checkpoint=checkpoint,
            messages=[{"role": "user", "content": prompt.text}],
            sampling=_sampling(checkpoint, seed=rng.getrandbits(31)),
        )
        for checkpoint in couple
    ]
    if rng.random() < 0.5:
        answers.reverse()
    kind = Pair.Kind.SELF if couple[0] == couple[1] else Pair.Kind.VERSUS
    return Pair.objects.create(
        prompt=prompt, kind=kind, a=answers[0], b=answers[1], owner=owner, wanted_votes=wanted_votes
    )


def _sampling(checkpoint: Checkpoint, *, seed: int) -> dict[str, float]:
    """Temperature 1 and no truncation, as PPO samples: votes must be about what training will see."""
    preset = PRESETS.get(checkpoint.preset)
    longest = preset.ppo.max_new_tokens if preset else 128
    return {"temperature": 1.0, "max_new_tokens": longest, "seed": seed}


def settle_pairs() -> int:
    """Make pairs whose answers have come ready, or reject them; returns how many were settled."""
    ends: dict[int, bool] = {}
    settled = 0
    for pair in Pair.objects.filter(state=Pair.State.PENDING).select_related("a", "b").iterator(chunk_size=500):
        answers = (pair.a, pair.b)
        if all(answer.is_final for answer in answers):
            for answer in answers:
                if answer.checkpoint_id not in ends:
                    ends[answer.checkpoint_id] = _ends_answers(answer.checkpoint_id)
            state = Pair.State.READY if _fit_to_show(pair, ends=ends) else Pair.State.REJECTED
        elif pair.created_at < timezone.now() - PENDING_LIMIT:
            state = Pair.State.REJECTED
        else:
            continue
        settled += Pair.objects.filter(pk=pair.pk, state=Pair.State.PENDING).update(state=state)
    return settled


def _fit_to_show(pair: Pair, *, ends: dict[int, bool]) -> bool:
    """Neither answer failed, is empty or was cut off, and they differ."""
    for answer in (pair.a, pair.b):
        if answer.state != Generation.State.DONE or not answer.text.strip():
            return False
        if answer.finish_reason != "end" and ends[answer.checkpoint_id]:
            return False
    return pair.a.text.strip() != pair.b.text.strip()


def _ends_answers(checkpoint_id: int) -> bool:
    """Whether this checkpoint usually ends its answers itself.

    One that hardly ever does (pre-training only continues a text) is shown cut off, or there would
    be nothing of it to vote on.
    """
    reasons = list(
        Generation.objects.filter(
            Q(pairs_as_a__from_chat=False) | Q(pairs_as_b__from_chat=False),
            checkpoint=checkpoint_id,
            state=Generation.State.DONE,
        )
        .order_by("-finished_at")
        .values_list("finish_reason", flat=True)[:40]
    )
    return len(reasons) < 8 or reasons.count("end") > 0.3 * len(reasons)


def seed_prompts() -> int:
    """Add the shipped corpus's preference prompts that are not there yet; returns how many were added."""
    from trainer.corpus import shipped  # generating it takes a moment, which only this caller should pay

    before = Prompt.objects.count()
    texts = shipped(0, size="smoke").preference_prompts
    Prompt.objects.bulk_create(
        [Prompt(text=text, source=Prompt.Source.SHIPPED) for text in texts], ignore_conflicts=True
    )
    return Prompt.objects.count() - before


@transaction.atomic
def share_opening(*, conversation: Conversation, agreed: bool) -> None:
    """Keep whether a chat's opening question may be asked of other voters; from then on it is, or no longer.

    What was withdrawn stays so whatever is agreed to later: staff may have switched it off meanwhile.
    """
    Conversation.objects.filter(pk=conversation.pk).update(may_serve_votes=agreed)
    openings = conversation.messages.filter(role=Message.Role.USER, parent=None).values_list("text", flat=True)
    if not agreed:
        Prompt.objects.filter(source=Prompt.Source.CHAT, text__in=openings).update(active=False)
        return
    short = [text for text in openings if len(text) <= LONGEST_CHAT_PROMPT]
    Prompt.objects.bulk_create([Prompt(text=text, source=Prompt.Source.CHAT) for text in short], ignore_conflicts=True)


# -- voting --------------------------------------------------------------------------------------


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


# -- simulated voters ----------------------------------------------------------------------------


def simulated_visitor(taste: str) -> Visitor:
    """The visitor who votes by this taste; ValueError names the tastes there are."""
    if taste not in TASTES:
        raise ValueError(f"Unknown taste {taste!r}; choose one of {', '.join(TASTES)}.")
    visitor, _ = Visitor.objects.get_or_create(pk=uuid.uuid5(_SIMULATED_VISITORS, taste))
    return visitor


def simulate_votes(*, taste: str, count: int, checkpoint: Checkpoint) -> int:
    """Move one step towards `count` votes by this taste on this checkpoint's answers; returns how many there are.

    Never waits: it votes on the answers that have come and asks for more. Call it again, from any
    process, until it returns `count`; what is under way is counted, so nothing is asked for twice.
    """
    visitor = simulated_visitor(taste)
    if checkpoint.stage not in ANSWERING_STAGES:
        raise ValueError(
            f"Votes need a checkpoint that answers: {', '.join(ANSWERING_STAGES)}, not {checkpoint.stage}."
        )
    settle_pairs()
    own = Pair.objects.on(checkpoint).filter(owner=visitor, from_chat=False)
    votes = Vote.objects.filter(visitor=visitor, pair__in=own).count()
    for pair in own.unseen().filter(state=Pair.State.READY).select_related("a", "b")[: max(0, count - votes)]:
        voter = SimulatedVoter(taste, noise=NOISE, seed=pair.pk.int)
        choice = voter.vote(pair.a.text, pair.b.text)
        record_vote(pair=pair, visitor=visitor, choice=choice, source=Vote.Source.SIMULATED, taste=taste)
        votes += 1
    under_way = own.unseen().exclude(state=Pair.State.REJECTED).count()
    missing = min(count - votes, SIMULATED_AT_ONCE) - under_way
    if missing > 0 and own.filter(state=Pair.State.REJECTED).count() > 50 + 10 * count:
        raise ValueError(f"{checkpoint} hardly ever gives two different whole answers; there is nothing to vote on.")
    prompts = _least_used_prompts(count=max(0, missing), rng=_coin)
    if missing > 0 and not prompts:
        raise ValueError("There are no active prompts; add some, or switch one on.")
    for prompt in prompts:
        _make_pair(couple=(checkpoint, checkpoint), prompt=prompt, owner=visitor)
    return votes

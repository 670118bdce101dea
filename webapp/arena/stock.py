"""The stock of pairs: asked for ahead of time, found finished, and made ready or rejected, so that nobody waits.

`prepare_pairs` asks for two answers each, `settle_pairs` finds them finished. What becomes of a ready pair stands in
webapp/arena/voting.py.

Deliberate simplification: the order in which pairs are served knows nothing of the reward model yet.
"""

from __future__ import annotations

import random
from datetime import timedelta
from itertools import combinations, cycle, islice

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from trainer.config import GRPO, PPO, PRETRAIN, SFT
from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.answers.services import start_generation
from webapp.arena import reservations, tally
from webapp.arena.models import Pair, PairQuerySet, Prompt, PromptQuerySet, Vote
from webapp.arena.publishing import seed_prompts
from webapp.checkpoints.models import Checkpoint

ANSWERING_STAGES = (SFT, PPO, GRPO)
"""Stages that answer; the reward model learns from the newest checkpoint of these."""
VERSUS_STAGES = (PRETRAIN, *ANSWERING_STAGES)
"""Stages worth comparing on the leaderboard: noise against anything would waste people's votes."""
VERSUS_SHARE = 0.25
"""Share of the stock that compares two checkpoints; the rest trains the next reward model."""
OVERLAP_SHARE = 0.1
OVERLAP_VOTES = 3
"""A tenth of the pairs goes to three voters, so that agreement between people can be measured."""
PENDING_LIMIT = timedelta(minutes=10)
"""A pair whose answers have not come by then is given up."""
SMALLEST_STOCK, LARGEST_STOCK = 64, 200
"""How many unseen pairs are kept ahead: as many as were used in the last two minutes and are being looked at, within
this. The smallest is for a class of 32 that opens the page at one moment, all of them newcomers."""
RETRY_EVERY = timedelta(minutes=1)
"""Where nearly all pairs are rejected, one is tried this often."""
DRAWN_FROM = 500
"""Of so many equally little used prompts chance takes the next ones."""
VISITORS_EVERY = 4
"""At most one in this many new pairs asks a visitor's own question, as long as there are others."""

_coin = random.SystemRandom()


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
    unseen = Pair.objects.of_stock().unseen().filter(state=Pair.State.READY)
    looked_at = reservations.count(list(unseen.values_list("pk", flat=True)[:LARGEST_STOCK]))
    return min(max(SMALLEST_STOCK, lately) + looked_at, LARGEST_STOCK)


def being_written(learner: Checkpoint) -> bool:
    """Whether a pair for everyone is under way."""
    return Pair.objects.of_stock().worth_asking(learner).filter(is_open=True, state=Pair.State.PENDING).exists()


def prepare_pairs(*, count: int, rng: random.Random = _coin) -> int:
    """Ask for answers until `count` unseen pairs are ready or being written; returns how many were started."""
    learner = current_learner()
    if learner is None:
        return 0
    couples = versus_couples()
    versus_wanted = round(count * VERSUS_SHARE) if couples else 0
    stock = Pair.objects.of_stock().worth_asking(learner)
    plan = [(learner, learner)] * _missing(_own_stock(learner), count=count - versus_wanted)
    plan += _least_compared(couples, count=_missing(stock.filter(kind=Pair.Kind.VERSUS), count=versus_wanted))
    prompts = least_used_prompts(count=len(plan), rng=rng)
    for couple, prompt in zip(plan, prompts, strict=False):  # without an active prompt there is nothing to ask
        wanted = OVERLAP_VOTES if rng.random() < OVERLAP_SHARE else 1
        make_pair(couple=couple, prompt=prompt, wanted_votes=wanted, rng=rng)
    return len(prompts)


def _own_stock(learner: Checkpoint) -> PairQuerySet:
    # None of them is older than the checkpoint (an hour for clocks that differ): the search stays among the newest.
    since = learner.created_at - timedelta(hours=1)
    return Pair.objects.of_stock().worth_asking(learner).on(learner).filter(created_at__gte=since)


def pairs_are_rare(learner: Checkpoint) -> bool:
    """Whether this checkpoint hardly ever gives two answers worth comparing."""
    return _own_stock(learner).nearly_all_rejected()


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
    if not count:
        return []
    made = tally.pairs_of_couples()

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


def least_used_prompts(*, count: int, rng: random.Random) -> list[Prompt]:
    """`count` active prompts, those with the fewest pairs first, repeating when there are not enough.

    Visitors' own are one in VISITORS_EVERY at most: new ones have the fewest pairs, and many would crowd out the rest.
    """
    if not count:
        return []
    if not Prompt.objects.exists():
        seed_prompts()
    active = Prompt.objects.filter(active=True)
    public = _least_used(active.filter(source__in=Prompt.PUBLIC), count=count, rng=rng)
    if not public:
        return list(islice(cycle(_least_used(active, count=count, rng=rng)), count))
    # Mostly one pair is planned at a time, behind one vote: a share of so few is a matter of chance.
    share = count // VISITORS_EVERY or int(rng.random() < count / VISITORS_EVERY)
    visitors = _least_used(active.exclude(source__in=Prompt.PUBLIC), count=share, rng=rng)
    prompts = sorted([*visitors, *islice(cycle(public), count)], key=lambda prompt: prompt.pairs_made)
    return prompts[:count]


def _least_used(prompts: PromptQuerySet, *, count: int, rng: random.Random) -> list[Prompt]:
    """Of these prompts the `count` with the fewest pairs, in that order; chance decides between equals."""
    ordered = list(prompts.order_by("pairs_made")[:count]) if count else []
    if not ordered:
        return []
    most = ordered[-1].pairs_made
    surely = [prompt for prompt in ordered if prompt.pairs_made < most]
    equals = list(prompts.filter(pairs_made=most)[:DRAWN_FROM])
    chosen = surely + rng.sample(equals, min(len(equals), count - len(surely)))
    rng.shuffle(chosen)
    return sorted(chosen, key=lambda prompt: prompt.pairs_made)


@transaction.atomic
def make_pair(
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
            sampling=_sampling(couple, seed=rng.getrandbits(31)),
            background=True,
        )
        for checkpoint in couple
    ]
    if rng.random() < 0.5:
        answers.reverse()
    kind = Pair.Kind.SELF if couple[0] == couple[1] else Pair.Kind.VERSUS
    return Pair.objects.create(
        prompt=prompt, kind=kind, a=answers[0], b=answers[1], owner=owner, wanted_votes=wanted_votes
    )


def _sampling(couple: tuple[Checkpoint, Checkpoint], *, seed: int) -> dict[str, float]:
    """Temperature 1, no truncation and the length PPO samples: votes must be about what training will see.

    Two checkpoints of different lengths both get the longer: a pair is asked one question under one rule.
    """
    longest = max(checkpoint.answer_tokens for checkpoint in couple)
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
        settled += tally.settle_pair(pair, state=state)
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

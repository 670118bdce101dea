"""Simulated voters: a taste in the place of a person, on pairs of its own."""

from __future__ import annotations

import random
import uuid

from trainer.world.tastes import SimulatedVoter, get_taste
from webapp.accounts.models import Visitor
from webapp.arena.models import Pair, Vote
from webapp.arena.stock import ANSWERING_STAGES, least_used_prompts, make_pair, settle_pairs
from webapp.arena.voting import record_vote
from webapp.checkpoints.models import Checkpoint

SIMULATED_AT_ONCE = 48
"""How many pairs a simulated voter has being written at a time; the engine batches them."""
NOISE = 0.1
"""Share of a simulated voter's votes that go against its taste."""

_coin = random.SystemRandom()
_SIMULATED_VISITORS = uuid.UUID("6f1d3a52-6f0e-4c0e-9a52-9b6f5d2f7c11")
"""Namespace of the simulated voters' ids, so that every process finds the same visitor for a taste."""


def simulated_visitor(taste: str) -> Visitor:
    """The visitor who votes by this taste; ValueError names the tastes there are."""
    get_taste(taste)
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
    prompts = least_used_prompts(count=max(0, missing), rng=_coin)
    if missing > 0 and not prompts:
        raise ValueError("There are no active prompts; add some, or switch one on.")
    for prompt in prompts:
        make_pair(couple=(checkpoint, checkpoint), prompt=prompt, owner=visitor)
    return votes

"""What the votes say: the leaderboard, how far voters agree, and how far a reward model's worth of votes is."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.db.models import Count, Max

from webapp.accounts.models import Visitor
from webapp.arena import stats
from webapp.arena.models import Vote
from webapp.checkpoints.models import Checkpoint

SCORE_OF_FIRST = {Vote.Choice.A: 1.0, Vote.Choice.B: 0.0, Vote.Choice.TIE: 0.5, Vote.Choice.BOTH_BAD: 0.5}
"""What a choice is worth to A. Both bad says as little about the order as a tie."""
SWAPPED = {Vote.Choice.A: Vote.Choice.B, Vote.Choice.B: Vote.Choice.A}
PROMOTED_VOTES = 20
"""A checkpoint is promoted on at least this many people's votes against its parent."""


# -- leaderboard ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    checkpoint: Checkpoint
    standing: stats.Standing
    over_parent: stats.Rate | None
    """How often people preferred it to its parent, ties counted half."""

    @property
    def is_promoted(self) -> bool:
        rate = self.over_parent
        return rate is not None and rate.count >= PROMOTED_VOTES and rate.low > 0.5


def leaderboard() -> list[LeaderboardRow]:
    """Checkpoints by Bradley–Terry score from the votes between them, best first."""
    # One aggregate says whether anything changed: neither the votes nor the bootstrap are for every visitor.
    state = Vote.objects.duels().order_by().aggregate(n=Count("pk"), last=Max("pk"))
    ranked: _Ranking = cache.get_or_set(f"ranking:{state['n']}:{state['last']}", _rank) or []
    checkpoints = Checkpoint.objects.select_related("parent").in_bulk([standing.contestant for standing, _ in ranked])
    return [
        LeaderboardRow(checkpoint=checkpoint, standing=standing, over_parent=over_parent)
        for standing, over_parent in ranked
        if (checkpoint := checkpoints.get(standing.contestant))
    ]


_Ranking = list[tuple[stats.Standing, stats.Rate | None]]


def _rank() -> _Ranking:
    """Every contestant's standing, and how often people preferred it to its parent; best first."""
    votes = Vote.objects.duels().order_by()
    counted = votes.values_list("pair__a__checkpoint", "pair__b__checkpoint", "choice", "source").annotate(Count("pk"))
    cells: Counter[tuple[stats.Duel, str]] = Counter()
    for a, b, choice, source, count in counted:
        cells[(a, b, SCORE_OF_FIRST[Vote.Choice(choice)]), source] += count
    duels = [duel for (duel, _), count in sorted(cells.items()) for _ in range(count)]
    human = [duel for (duel, source), count in cells.items() if source == Vote.Source.HUMAN for _ in range(count)]
    standings = stats.leaderboard(duels)
    parents = dict(
        Checkpoint.objects.filter(pk__in=[one.contestant for one in standings]).values_list("pk", "parent_id")
    )
    return [
        (standing, win_rate(human, of=standing.contestant, over=parents.get(standing.contestant)))
        for standing in standings
    ]


def win_rate(duels: Iterable[stats.Duel], *, of: int, over: int | None) -> stats.Rate | None:
    """The share of its duels with `over` that `of` won, a tie being half a win."""
    scores = [score if a == of else 1 - score for a, b, score in duels if {a, b} == {of, over}]
    return stats.wilson(sum(scores), len(scores))


@dataclass(frozen=True, kw_only=True)
class PlotRow:
    row: LeaderboardRow
    label_y: int
    y: int
    low: float
    score: float
    high: float


@dataclass(frozen=True, kw_only=True)
class IntervalPlot:
    """Coordinates of the leaderboard's figure: x in per cent of its width, so that it fits a phone, y in pixels."""

    height: int
    axis_y: int
    rows: list[PlotRow]
    ticks: list[tuple[float, int]]
    """(x, score) of the scale's marks."""


def interval_plot(rows: Sequence[LeaderboardRow], *, row_height: int = 52) -> IntervalPlot:
    """Lay out one line per checkpoint: its name, and below it its interval and score on a common scale."""
    lowest = min((row.standing.low for row in rows), default=stats.BASE_SCORE)
    highest = max((row.standing.high for row in rows), default=stats.BASE_SCORE)
    step = next((step for step in (25, 50, 100, 200, 500) if (highest - lowest) / step <= 5), 1000)
    start, end = step * math.floor(lowest / step), step * (math.floor(highest / step) + 1)

    def x(score: float) -> float:
        # 3 % at either end keeps the outermost marks' numbers inside.
        return round(3 + 94 * (score - start) / (end - start), 2)

    axis_y = row_height * len(rows) + 4
    return IntervalPlot(
        height=axis_y + 20,
        axis_y=axis_y,
        rows=[
            PlotRow(
                row=row,
                label_y=row_height * index + 16,
                y=row_height * index + 34,
                low=x(row.standing.low),
                score=x(row.standing.score),
                high=x(row.standing.high),
            )
            for index, row in enumerate(rows)
        ],
        ticks=[(x(mark), mark) for mark in range(start, end + 1, step)],
    )


# -- quality of the votes ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class VoteQuality:
    """How far people's votes can be relied on."""

    votes: int
    voters: int
    alpha: float | None
    """Krippendorff's alpha over pairs that several people voted on."""
    overlapping: int
    """How many pairs that is."""
    chose_a: stats.Rate | None
    """How often A was chosen where A or B was: a side is a coin flip, so half says no position bias."""
    consistency: stats.Rate | None
    """How often a voter judged a repeated pair, sides swapped, as the first time."""


def vote_quality() -> VoteQuality:
    """The figures over all people's votes."""
    votes = Vote.objects.human().comparisons().order_by()
    sides = dict(votes.values_list("choice").annotate(Count("pk")))
    shared = votes.values("pair").annotate(voters=Count("pk")).filter(voters__gt=1)
    choices: dict[Any, list[str]] = defaultdict(list)
    for pair, choice in votes.filter(pair__in=shared.values("pair")).values_list("pair", "choice"):
        choices[pair].append(choice)
    chose_a, chose_b = sides.get(Vote.Choice.A, 0), sides.get(Vote.Choice.B, 0)
    return VoteQuality(
        votes=sum(sides.values()),
        voters=votes.values("visitor").distinct().count(),
        alpha=stats.krippendorff_alpha(choices.values()),
        overlapping=len(choices),
        chose_a=stats.wilson(chose_a, chose_a + chose_b),
        consistency=consistency(),
    )


def consistency(visitor: Visitor | None = None) -> stats.Rate | None:
    """How often repeated pairs were judged as the first time, by one visitor or by everyone."""
    repeats = Vote.objects.human().repeats()
    if visitor:
        repeats = repeats.filter(visitor=visitor)
    second = {(vote.visitor_id, vote.pair.repeat_of_id): vote for vote in repeats.select_related("pair")}
    first = Vote.objects.decided().filter(pair__in={pair for _, pair in second})
    agreed = [
        second[key].choice == SWAPPED.get(Vote.Choice(vote.choice), vote.choice)
        for vote in first
        if (key := (vote.visitor_id, vote.pair_id)) in second
    ]
    return stats.wilson(sum(agreed), len(agreed))


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How many votes the next reward model has, of how many it wants."""

    votes: int
    wanted: int

    @property
    def missing(self) -> int:
        return max(0, self.wanted - self.votes)


def progress() -> Progress:
    votes = Vote.objects.for_training().since_last_reward_model().count()
    return Progress(votes=votes, wanted=settings.VOTES_PER_REWARD_MODEL)

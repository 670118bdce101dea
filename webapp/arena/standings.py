"""What the votes say: the leaderboard, how far voters agree, and how far a reward model's worth of votes is."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.db.models import Count, Max

from trainer.statistics import Group, Share, grouped, share_of
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
    over_parent: Share | None
    """How often people preferred it to its parent, ties counted half; over other prompts."""

    @property
    def is_promoted(self) -> bool:
        rate = self.over_parent
        return rate is not None and rate.count >= PROMOTED_VOTES and rate.is_above(0.5)


def leaderboard() -> list[LeaderboardRow]:
    """Checkpoints by Bradley–Terry score from the votes between them, best first."""
    # One aggregate says whether anything changed: neither the votes nor the intervals are for every visitor.
    state = Vote.objects.duels().order_by().aggregate(n=Count("pk"), last=Max("pk"))
    ranked: _Ranking = cache.get_or_set(f"ranking:{state['n']}:{state['last']}", _rank) or []
    checkpoints = Checkpoint.objects.select_related("parent").in_bulk([standing.contestant for standing, _ in ranked])
    return [
        LeaderboardRow(checkpoint=checkpoint, standing=standing, over_parent=over_parent)
        for standing, over_parent in ranked
        if (checkpoint := checkpoints.get(standing.contestant))
    ]


_Ranking = list[tuple[stats.Standing, Share | None]]


def _rank() -> _Ranking:
    """Every contestant's standing, and how often people preferred it to its parent; best first."""
    cells: Counter[stats.Cell] = Counter()
    human: Counter[stats.Cell] = Counter()
    for a, b, choice, source, prompt, count in _counted_duels():
        cell = (a, b, SCORE_OF_FIRST[Vote.Choice(choice)], prompt)
        cells[cell] += count
        if source == Vote.Source.HUMAN:
            human[cell] += count
    standings = stats.leaderboard(cells)
    parents = dict(
        Checkpoint.objects.filter(pk__in=[one.contestant for one in standings]).values_list("pk", "parent_id")
    )
    return [
        (standing, win_rate(human, of=standing.contestant, over=parents.get(standing.contestant)))
        for standing in standings
    ]


def _counted_duels() -> Iterator[tuple[int, int, str, str, Hashable, int]]:
    """(A, B, choice, source, prompt, votes); where a pair has no prompt of this site, its question stands for it."""
    fields = ("pair__a__checkpoint", "pair__b__checkpoint", "choice", "source")
    votes = Vote.objects.duels().order_by()
    known = votes.exclude(pair__prompt=None).values_list(*fields, "pair__prompt").annotate(Count("pk"))
    yield from known
    imported = votes.filter(pair__prompt=None).values_list(*fields, "pair__a__messages").annotate(Count("pk"))
    for a, b, choice, source, messages, count in imported:
        yield a, b, choice, source, messages[-1]["content"], count


def win_rate(cells: Mapping[stats.Cell, int], *, of: int, over: int | None) -> Share | None:
    """The share of its duels with `over` that `of` won, a tie being half a win."""
    by_prompt: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0])
    for (a, b, score, prompt), count in cells.items():
        if {a, b} == {of, over}:
            won = by_prompt[prompt]
            won[0] += count * (score if a == of else 1 - score)
            won[1] += count
    return share_of((won, int(count)) for won, count in by_prompt.values())


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
    # Where there are too few prompts to say, there is a score without an interval.
    ends = [
        (row.standing.low, row.standing.high) if row.standing.is_enough else (row.standing.score, row.standing.score)
        for row in rows
    ]
    lowest = min((low for low, _ in ends), default=stats.BASE_SCORE)
    highest = max((high for _, high in ends), default=stats.BASE_SCORE)
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
                low=x(low),
                score=x(row.standing.score),
                high=x(high),
            )
            for index, (row, (low, high)) in enumerate(zip(rows, ends, strict=True))
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
    chose_a: Share | None
    """How often A was chosen where A or B was: a side is a coin flip, so half says no position bias. Over pairs."""
    consistency: Share | None
    """How often a voter judged a repeated pair, sides swapped, as the first time. Over voters."""


def vote_quality() -> VoteQuality:
    """The figures over all people's votes."""
    votes = Vote.objects.human().comparisons().order_by()
    sides = dict(votes.values_list("choice").annotate(Count("pk")))
    shared = votes.values("pair").annotate(voters=Count("pk")).filter(voters__gt=1)
    choices: dict[Any, list[str]] = defaultdict(list)
    for pair, choice in votes.filter(pair__in=shared.values("pair")).values_list("pair", "choice"):
        choices[pair].append(choice)
    return VoteQuality(
        votes=sum(sides.values()),
        voters=votes.values("visitor").distinct().count(),
        alpha=stats.krippendorff_alpha(choices.values()),
        overlapping=len(choices),
        chose_a=share_of(_sides_by_pair(sides, choices.values())),
        consistency=consistency(),
    )


def _sides_by_pair(sides: Mapping[str, int], shared: Iterable[Sequence[str]]) -> Counter[Group]:
    """How many pairs have which (votes for A, votes for A or B), from all votes and those of the shared pairs."""
    left = {side: sides.get(side, 0) for side in SWAPPED}
    pairs: Counter[Group] = Counter()
    for choices in shared:
        counted = Counter(choice for choice in choices if choice in SWAPPED)
        pairs[float(counted[Vote.Choice.A]), counted.total()] += 1
        for side in SWAPPED:
            left[side] -= counted[side]
    pairs[1.0, 1] += left[Vote.Choice.A]
    pairs[0.0, 1] += left[Vote.Choice.B]
    return pairs


def consistency(visitor: Visitor | None = None) -> Share | None:
    """How often repeated pairs were judged as the first time, by one visitor (over pairs) or by everyone (voters)."""
    repeats = Vote.objects.human().repeats()
    if visitor:
        repeats = repeats.filter(visitor=visitor)
    second = {(vote.visitor_id, vote.pair.repeat_of_id): vote for vote in repeats.select_related("pair")}
    first = Vote.objects.decided().filter(pair__in={pair for _, pair in second})
    compared = [(vote, second[key]) for vote in first if (key := (vote.visitor_id, vote.pair_id)) in second]
    agreed = [float(again.choice == SWAPPED.get(Vote.Choice(vote.choice), vote.choice)) for vote, again in compared]
    return share_of(grouped(agreed, [vote.pair_id if visitor else vote.visitor_id for vote, _ in compared]))


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

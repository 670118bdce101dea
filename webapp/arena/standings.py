"""What the votes say: the leaderboard, how far voters agree, and how far a reward model's worth of votes is."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from django.conf import settings
from django.core.cache import cache
from django.utils import timezone

from trainer.evaluation.statistics import Group, Share, share_of
from webapp.accounts.models import Visitor
from webapp.arena import stats, tally
from webapp.arena.models import DuelTally, KeptRanking, Vote, VoterTally
from webapp.arena.tally import SWAPPED
from webapp.checkpoints.models import Checkpoint

SCORE_OF_FIRST = {Vote.Choice.A: 1.0, Vote.Choice.B: 0.0, Vote.Choice.TIE: 0.5, Vote.Choice.BOTH_BAD: 0.5}
"""What a choice is worth to A. Both bad says as little about the order as a tie."""
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
    return leaderboard_as_of()[0]


def leaderboard_as_of() -> tuple[list[LeaderboardRow], datetime | None]:
    """The leaderboard, and the time it is of; None when it counts every vote there is."""
    ranked, as_of = _ranking()
    checkpoints = Checkpoint.objects.select_related("parent").in_bulk([standing.contestant for standing, _ in ranked])
    rows = [
        LeaderboardRow(checkpoint=checkpoint, standing=standing, over_parent=over_parent)
        for standing, over_parent in ranked
        if (checkpoint := checkpoints.get(standing.contestant))
    ]
    return rows, as_of


_Ranking = list[tuple[stats.Standing, Share | None]]

RANKED_AT_ONCE = 1_000
"""Rows of the tally that a page counts by itself when there is a new vote; of more the background keeps a ranking."""
RANKING_SHARE = 0.05
"""Of its time at most, the background makes rankings."""


def _ranking() -> tuple[_Ranking, datetime | None]:
    # The counts say whether anything changed: the intervals, which are costly, are not for every visitor.
    version = _version()
    if (ranked := cache.get(f"ranking:{version}")) is not None:
        return ranked, None
    kept = KeptRanking.objects.first()
    if kept and kept.version != version and _is_large():
        return _read_ranking(kept), kept.made_at
    ranked = _read_ranking(kept) if kept and kept.version == version else _rank()
    cache.set(f"ranking:{version}", ranked)
    return ranked, None


def _version() -> str:
    return hashlib.sha256(repr(tally.duels()).encode()).hexdigest()[:32]


def _is_large() -> bool:
    return DuelTally.objects.order_by()[: RANKED_AT_ONCE + 1].count() > RANKED_AT_ONCE


def keep_ranking() -> bool:
    """Where there are too many counts for a page to rank, rank them now if the last ranking is out of date."""
    kept, version = KeptRanking.objects.first(), _version()
    if not _is_large() or (kept and kept.version == version):
        return False
    if kept and (timezone.now() - kept.made_at).total_seconds() < kept.seconds / RANKING_SHARE:
        return False
    made_at, begun = timezone.now(), time.perf_counter()
    content = json.dumps([(asdict(standing), rate and asdict(rate)) for standing, rate in _rank()])
    values = {"version": version, "content": content, "made_at": made_at, "seconds": time.perf_counter() - begun}
    KeptRanking.objects.update_or_create(pk=1, defaults=values)
    return True


def _read_ranking(kept: KeptRanking) -> _Ranking:
    return [
        (stats.Standing(**standing), Share(**rate) if rate else None) for standing, rate in json.loads(kept.content)
    ]


def _rank() -> _Ranking:
    """Every contestant's standing, and how often people preferred it to its parent; best first."""
    cells: Counter[stats.Cell] = Counter()
    human: Counter[stats.Cell] = Counter()
    for a, b, choice, source, prompt, count in tally.duels_by_prompt():
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
        # 6 % at either end keep the outermost marks' numbers inside, on the narrowest phone too.
        return round(6 + 88 * (score - start) / (end - start), 2)

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
    sides, agreements = tally.human_choices(), tally.agreements()
    return VoteQuality(
        votes=sum(sides.values()),
        voters=tally.voters(),
        alpha=stats.krippendorff_alpha(agreements),
        overlapping=sum(agreements.values()),
        chose_a=share_of(_sides_by_pair(sides, agreements)),
        consistency=consistency(),
    )


def _sides_by_pair(sides: Mapping[str, int], shared: Mapping[tuple[str, ...], int]) -> Counter[Group]:
    """How many pairs have which (votes for A, votes for A or B), from all votes and those of the shared pairs."""
    left = {side: sides.get(side, 0) for side in SWAPPED}
    pairs: Counter[Group] = Counter()
    for choices, times in shared.items():
        counted = Counter(choice for choice in choices if choice in SWAPPED)
        pairs[float(counted[Vote.Choice.A]), counted.total()] += times
        for side in SWAPPED:
            left[side] -= times * counted[side]
    pairs[1.0, 1] += left[Vote.Choice.A]
    pairs[0.0, 1] += left[Vote.Choice.B]
    return pairs


def consistency(visitor: Visitor | None = None) -> Share | None:
    """How often repeated pairs were judged as the first time, by one visitor (over pairs) or by everyone (voters)."""
    return own_consistency(tally.voter(visitor)) if visitor else share_of(tally.looks())


def own_consistency(voter: VoterTally) -> Share | None:
    """How often one person judged repeated pairs as the first time, over pairs."""
    return share_of({(1.0, 1): voter.alike, (0.0, 1): voter.looked_twice - voter.alike})


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How many votes the next reward model has, of how many it wants."""

    votes: int
    wanted: int

    @property
    def missing(self) -> int:
        return max(0, self.wanted - self.votes)


def progress() -> Progress:
    return Progress(votes=tally.training_votes(new=True), wanted=settings.VOTES_PER_REWARD_MODEL)

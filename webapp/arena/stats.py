"""The figures behind the leaderboard and the staff's view of vote quality. Pure Python, no database.

The idea: a leaderboard is a Bradley–Terry model, P(i beats j) = p_i / (p_i + p_j), shown on the Elo
scale as 1000 + 400·log10(p), with intervals from a bootstrap over the votes. Agreement between
voters is Krippendorff's alpha for nominal data.

Simplifications: every checkpoint also plays one virtual tie against an average opponent, which keeps
one that never lost (or never won) finite; the bootstrap draws each group of equal votes from a
Poisson distribution instead of resampling vote by vote, which has the same limit and costs nothing.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

Duel = tuple[int, int, float]
"""(first, second, the first's score): 1 won, 0.5 tied, 0 lost."""

BASE_SCORE = 1000.0
ELO_PER_DECADE = 400.0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One contestant's place on the leaderboard."""

    contestant: int
    score: float
    low: float
    high: float
    rank: int
    """1 + the number of contestants whose lower bound exceeds this one's upper bound."""
    duels: int


def bradley_terry(duels: Iterable[Duel], *, prior_ties: float = 1.0) -> dict[int, float]:
    """Elo-scale scores of everyone who took part, by the MM algorithm (Hunter 2004, eq. 3).

    A tie is half a win for both. `prior_ties` is the weight of the virtual tie against an opponent
    of strength 1; with 0 the scores are centred on BASE_SCORE and a contestant that won or lost
    every duel has no finite score.
    """
    return _fit(Counter(duels), prior_ties=prior_ties)


def _fit(
    duels: Mapping[Duel, float],
    *,
    prior_ties: float,
    start: Mapping[int, float] | None = None,
    tolerance: float = 1e-7,
) -> dict[int, float]:
    """The MM iteration from `start`, until no log-strength moves by more than `tolerance`."""
    wins: dict[int, float] = defaultdict(float)
    games: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for (first, second, score), count in duels.items():
        wins[first] += score * count
        wins[second] += (1 - score) * count
        games[first][second] += count
        games[second][first] += count
    strength = {one: 10 ** ((start[one] - BASE_SCORE) / ELO_PER_DECADE) if start else 1.0 for one in wins}
    for _ in range(1000):
        moved = 0.0
        for one in list(strength):
            faced = sum(count / (strength[one] + strength[other]) for other, count in games[one].items())
            faced += prior_ties / (strength[one] + 1)
            updated = (wins[one] + prior_ties / 2) / faced if faced else 1.0
            if updated <= 0 or not math.isfinite(updated):
                raise ValueError("Without a prior, everyone must have won and lost at least once.")
            moved = max(moved, abs(math.log(updated / strength[one])))
            strength[one] = updated
        if prior_ties:
            # Only the weak prior pins the common scale, which MM alone would approach very slowly.
            scale = _scale_at_par(list(strength.values()))
        else:
            scale = math.exp(-sum(map(math.log, strength.values())) / max(1, len(strength)))
        strength = {one: value * scale for one, value in strength.items()}
        if moved < tolerance:
            break
    return {one: BASE_SCORE + ELO_PER_DECADE * math.log10(value) for one, value in strength.items()}


def _scale_at_par(strengths: Sequence[float]) -> float:
    """The factor c at which opponents of strength c·p win half their virtual games against strength 1.

    That is where the sum of the likelihood's equations holds: among themselves, wins equal losses.
    """
    log_scale = 0.0
    for _ in range(50):
        chances = [1 / (1 + math.exp(-log_scale) / strength) for strength in strengths]
        slope = sum(chance * (1 - chance) for chance in chances)
        step = (len(strengths) / 2 - sum(chances)) / slope if slope else 0.0
        log_scale += max(-1.0, min(1.0, step))
        if abs(step) < 1e-12:
            break
    return math.exp(log_scale)


def leaderboard(duels: Iterable[Duel], *, resamples: int = 200, seed: int = 0) -> list[Standing]:
    """Standings, best first, with 95 % bootstrap intervals. The same duels give the same standings."""
    # Sorted, so that neither the draws nor the rounding depend on the order of the votes.
    counted: Mapping[Duel, float] = Counter(sorted(duels))
    cells = list(counted)
    scores = _fit(counted, prior_ties=1.0)
    rng = random.Random(seed)
    drawn: dict[int, list[float]] = {one: [] for one in scores}
    for _ in range(resamples):
        sample = {cell: float(_poisson(rng, counted[cell])) for cell in cells}
        # A contestant none of whose duels was drawn keeps only its virtual tie: the average.
        # A fifth of a point is enough for the end of an interval.
        for one, score in _fit(sample, prior_ties=1.0, start=scores, tolerance=1e-4).items():
            drawn[one].append(score)
    bounds = {one: (_quantile(values, 0.025), _quantile(values, 0.975)) for one, values in drawn.items()}
    taken: Counter[int] = Counter()
    for (first, second, _), count in counted.items():
        taken[first] += int(count)
        taken[second] += int(count)
    standings = [
        Standing(
            contestant=one,
            score=score,
            low=min(bounds[one][0], score),
            high=max(bounds[one][1], score),
            rank=1 + sum(bounds[other][0] > bounds[one][1] for other in scores),
            duels=taken[one],
        )
        for one, score in scores.items()
    ]
    return sorted(standings, key=lambda standing: (-standing.score, standing.contestant))


def _poisson(rng: random.Random, mean: float) -> int:
    """A Poisson draw: by Knuth's products when small, by the normal limit when that is as good."""
    if mean > 50:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count


def _quantile(values: Sequence[float], share: float) -> float:
    """The quantile by linear interpolation between order statistics."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share with its 95 % interval."""

    share: float
    low: float
    high: float
    count: int
    """How many cases the share is of."""


def wilson(successes: float, count: int, *, z: float = 1.959964) -> Rate | None:
    """The Wilson score interval of successes out of count (ties may be half a success); None of none."""
    if count == 0:
        return None
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Rate(share=share, low=max(0.0, centre - half), high=min(1.0, centre + half), count=count)


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal data: 1 full agreement, 0 chance, below 0 systematic disagreement.

    Each unit is the values its raters gave; units with fewer than two are ignored. None when nothing
    can be said: no unit has two ratings, or only one value was ever used.
    Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C.
    """
    coincidences: dict[tuple[Hashable, Hashable], float] = defaultdict(float)
    for values in units:
        if len(values) < 2:
            continue
        counts = Counter(values)
        for one, n_one in counts.items():
            for other, n_other in counts.items():
                pairs = n_one * (n_other - (one == other))
                coincidences[one, other] += pairs / (len(values) - 1)
    totals: dict[Hashable, float] = defaultdict(float)
    for (one, _), weight in coincidences.items():
        totals[one] += weight
    n = sum(totals.values())
    observed = sum(weight for (one, other), weight in coincidences.items() if one != other)
    expected = (n * n - sum(total * total for total in totals.values())) / (n - 1) if n > 1 else 0.0
    return None if expected <= 0 else 1 - observed / expected

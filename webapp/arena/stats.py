"""The figures behind the leaderboard and the staff's view of vote quality. Pure Python over counts, no database.

The idea: a leaderboard is a Bradley–Terry model, P(i beats j) = p_i / (p_i + p_j), shown on the Elo
scale as 1000 + 400·log10(p). Votes on one prompt hang together (the better model there is the better one in
all of them), so the intervals are over *prompts*, by the same rules as every share (`trainer.evaluation.statistics`).
Agreement between voters is Krippendorff's alpha for nominal data.

Simplifications: every checkpoint also plays one virtual tie against an average opponent, which keeps
one that never lost (or never won) finite; an interval is symmetric on the Elo scale.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from trainer.evaluation.statistics import MIN_GROUPS, PRIOR_GROUPS, t_quantile

Duel = tuple[int, int, float]
"""(first, second, the first's score): 1 won, 0.5 tied, 0 lost."""
Cell = tuple[int, int, float, Hashable]
"""A duel and the prompt it was fought on."""

BASE_SCORE = 1000.0
ELO_PER_DECADE = 400.0
ELO_PER_NAT = ELO_PER_DECADE / math.log(10)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One contestant's place on the leaderboard."""

    contestant: int
    score: float
    low: float
    high: float
    """Ends of the 95 % interval over other prompts; infinite where there are too few prompts to say."""
    rank: int
    """1 + the number of contestants who are clearly better; see `ranks`."""
    duels: int
    prompts: int
    """How many prompts its duels were fought on."""

    @property
    def is_enough(self) -> bool:
        """Whether there are enough prompts for an interval."""
        return self.prompts >= MIN_GROUPS


def bradley_terry(duels: Iterable[Duel], *, prior_ties: float = 1.0) -> dict[int, float]:
    """Elo-scale scores of everyone who took part, by the MM algorithm (Hunter 2004, eq. 3).

    A tie is half a win for both. `prior_ties` is the weight of the virtual tie against an opponent
    of strength 1; with 0 the scores are centred on BASE_SCORE and a contestant that won or lost
    every duel has no finite score.
    """
    return _fit(Counter(duels), prior_ties=prior_ties)


def _fit(duels: Mapping[Duel, float], *, prior_ties: float, tolerance: float = 1e-7) -> dict[int, float]:
    """The MM iteration, until no log-strength moves by more than `tolerance`."""
    wins: dict[int, float] = defaultdict(float)
    games: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for (first, second, score), count in duels.items():
        wins[first] += score * count
        wins[second] += (1 - score) * count
        games[first][second] += count
        games[second][first] += count
    strength = dict.fromkeys(wins, 1.0)
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


def leaderboard(cells: Mapping[Cell, int]) -> list[Standing]:
    """Standings, best first, from how often each cell occurred. The same counts give the same standings."""
    duels: Counter[Duel] = Counter()
    taken: dict[int, Counter[Hashable]] = defaultdict(Counter)
    for (first, second, score, prompt), count in cells.items():
        duels[first, second, score] += count
        for one in (first, second):
            taken[one][prompt] += count
    scores = _fit(dict(sorted(duels.items())), prior_ties=1.0)  # in any order of the votes the same rounding
    deviations = _deviations(cells, scores)
    bounds = {one: (score - deviations[one], score + deviations[one]) for one, score in scores.items()}
    placed = ranks(bounds)
    standings = [
        Standing(
            contestant=one,
            score=score,
            low=bounds[one][0],
            high=bounds[one][1],
            rank=placed[one],
            duels=taken[one].total(),
            prompts=len(taken[one]),
        )
        for one, score in scores.items()
    ]
    return sorted(standings, key=lambda standing: (-standing.score, standing.contestant))


def ranks(bounds: Mapping[int, tuple[float, float]]) -> dict[int, int]:
    """1 + how many have a lower bound above one's upper bound, in whole points, as people see them.

    Bounds that touch share a rank: what differs in fractions of a point differs by rounding.
    """

    def points(bound: float) -> float:
        return round(bound) if math.isfinite(bound) else bound

    return {
        one: 1 + sum(points(low) > points(high) for other, (low, _) in bounds.items() if other != one)
        for one, (_, high) in bounds.items()
    }


def _deviations(cells: Mapping[Cell, int], scores: Mapping[int, float]) -> dict[int, float]:
    """Half the width of each contestant's interval in points; infinite with fewer than `MIN_GROUPS` prompts.

    The variance of a log-strength is that of the model, the inverse of its information matrix (with the virtual ties),
    times a design effect: the variance of its estimating equations between prompts over what it would be between
    votes (the sandwich of Liang and Zeger 1986, https://doi.org/10.1093/biomet/73.1.13), with the same correction for
    few prompts and the same prior as in `trainer.evaluation.statistics.share_of`.
    """
    names = list(scores)
    index = {one: row for row, one in enumerate(names)}
    chance = {one: 1 / (1 + 10 ** ((BASE_SCORE - score) / ELO_PER_DECADE)) for one, score in scores.items()}
    strength = [math.exp((scores[one] - BASE_SCORE) / ELO_PER_NAT) for one in names]
    information = [[0.0] * len(names) for _ in names]
    for row, one in enumerate(names):
        information[row][row] = chance[one] * (1 - chance[one])
    # (first, second, prompt) -> votes, sum of residuals, sum of their squares
    fought: dict[tuple[int, int, Hashable], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for (first, second, score, prompt), count in cells.items():
        a, b = index[first], index[second]
        expected = strength[a] / (strength[a] + strength[b])
        weight = count * expected * (1 - expected)
        for row, column, sign in ((a, a, 1), (b, b, 1), (a, b, -1), (b, a, -1)):
            information[row][column] += sign * weight
        votes = fought[a, b, prompt]
        votes[0] += count
        votes[1] += count * (score - expected)
        votes[2] += count * (score - expected) ** 2
    # Of each log-strength less their mean: the votes say nothing of the level, which the virtual ties set.
    covariance = _inverse(information)
    level = [sum(column) / len(names) for column in zip(*covariance, strict=True)]
    covariance = [[value - mean for value, mean in zip(row, level, strict=True)] for row in covariance]
    deviations = {}
    for row, one in enumerate(names):
        moved = covariance[row]  # by a unit of residual of each contestant
        of_prompt: dict[Hashable, float] = defaultdict(float)
        sizes: Counter[Hashable] = Counter()
        within = even = 0.0
        for (a, b, prompt), (met, residual, squares) in fought.items():
            step = moved[a] - moved[b]
            of_prompt[prompt] += step * residual
            within += step * step * squares
            if row in (a, b):
                sizes[prompt] += int(met)
                even += step * step * met / 4  # the variance at even odds
        prompts, votes_taken = len(sizes), sizes.total()
        if prompts < MIN_GROUPS:
            deviations[one] = math.inf
            continue
        between = len(of_prompt) / (len(of_prompt) - 1) * sum(total * total for total in of_prompt.values())
        usual = sum(size * size for size in sizes.values()) / votes_taken
        prior = PRIOR_GROUPS * even / votes_taken
        effect = (between + prior * usual * usual) / (within + prior * usual)
        variance = max(1.0, effect) * (moved[row] - sum(moved) / len(names))
        deviations[one] = round(ELO_PER_NAT * t_quantile(prompts - 1) * math.sqrt(variance), 6)
    return deviations


def _inverse(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """The inverse of a symmetric positive definite matrix, by elimination; such a one needs no pivoting."""
    size = len(matrix)
    rows = [[*row, *(float(column == index) for column in range(size))] for index, row in enumerate(matrix)]
    for index in range(size):
        pivot = rows[index][index]
        rows[index] = [value / pivot for value in rows[index]]
        for other in range(size):
            factor = rows[other][index]
            if other != index and factor:
                rows[other] = [value - factor * taken for value, taken in zip(rows[other], rows[index], strict=True)]
    return [row[size:] for row in rows]


def krippendorff_alpha(units: Mapping[tuple[Hashable, ...], int] | Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal data: 1 full agreement, 0 chance, below 0 systematic disagreement.

    Each unit is the values its raters gave; units with fewer than two are ignored. A mapping says how often a unit
    occurred. None when nothing can be said: no unit has two ratings, or only one value was ever used.
    Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C.
    """
    coincidences: dict[tuple[Hashable, Hashable], float] = defaultdict(float)
    counted = units if isinstance(units, Mapping) else Counter(tuple(values) for values in units)
    for values, times in counted.items():
        if len(values) < 2:
            continue
        counts = Counter(values)
        for one, n_one in counts.items():
            for other, n_other in counts.items():
                pairs = n_one * (n_other - (one == other))
                coincidences[one, other] += times * pairs / (len(values) - 1)
    totals: dict[Hashable, float] = defaultdict(float)
    for (one, _), weight in coincidences.items():
        totals[one] += weight
    n = sum(totals.values())
    observed = sum(weight for (one, other), weight in coincidences.items() if one != other)
    expected = (n * n - sum(total * total for total in totals.values())) / (n - 1) if n > 1 else 0.0
    return None if expected <= 0 else 1 - observed / expected

"""How sure a figure is: shares, scores and calibration, with intervals over prompts. Pure Python, no torch, no numpy.

The idea: answers to one prompt are right or wrong together, and so are votes on them. Forty right pairs on one prompt
say what *one* prompt says. So what is counted are prompts (or pairs, or voters: whatever hangs together is a group),
the variance of a mean is taken *between* groups, and how sure that variance is itself decides the quantile: Student's t
with one degree less than there are groups, not the normal distribution's. Below `MIN_GROUPS` nothing is claimed at all.

Simplifications: 95 % everywhere; groups are taken to be drawn independently; a tie, half a success, is given the
variance of a decision, which is at most too much.

Site and trainer both use it: there is one formula for one kind of figure. tests/trainer/test_statistics.py draws
thousands of samples of known truth and counts how often the intervals hold it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

CONFIDENCE: Final = 0.95
MIN_GROUPS: Final = 10
"""Prompts from which on an interval is stated. Of fewer even a variance is hardly known: too few to say."""
PRIOR_GROUPS: Final = 0.5
"""Groups of the usual size, all right or all wrong, added to what was seen before asking how far groups hang together.
A handful of groups may look independent by accident, and where all answers are right nothing can be seen at all."""
MIN_CALIBRATION_PAIRS: Final = 100
"""Pairs below which no calibration error is stated: five bins of fewer than twenty are noise."""
CALIBRATION_BINS: Final = 5


@lru_cache(maxsize=4096)
def t_quantile(degrees: int, *, confidence: float = CONFIDENCE) -> float:
    """The t with which a Student-t variable of so many degrees of freedom is within ±t with that confidence.

    The finite series of Abramowitz and Stegun (26.7.3 and 26.7.4), solved by halving. Beyond a thousand degrees it
    gives that of a thousand: a thousandth more than the normal distribution's.
    """
    if degrees < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, not {degrees}.")
    degrees = min(degrees, 1000)

    def within(t: float) -> float:
        angle = math.atan2(t, math.sqrt(degrees))
        sine, cosine = math.sin(angle), math.cos(angle)
        odd = degrees % 2
        term, total = cosine if odd else 1.0, 0.0
        for k in range(1, (degrees - 1) // 2 + 1 if odd else degrees // 2 + 1):
            total += term
            term *= cosine * cosine * (2 * k / (2 * k + 1) if odd else (2 * k - 1) / (2 * k))
        return 2 / math.pi * (angle + sine * total) if odd else sine * total

    low, high = 0.0, 1.0
    while within(high) < confidence:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < confidence else (low, middle)
    return high


def wilson_interval(successes: float, trials: float, *, z: float = 1.959964) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927), 95 % by default; fractions of either are fine. (0, 1) without trials.

    For *independent* trials. Answers that share prompts go through `share_of`.
    """
    if trials == 0:
        return 0.0, 1.0
    share, shrink = successes / trials, 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / shrink
    half = z * math.sqrt(max(0.0, share * (1 - share)) / trials + z * z / (4 * trials * trials)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


Group = tuple[float, int]
"""(successes, trials) of what hangs together: the answers to one prompt, the votes on one pair."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share, how far it is known, and how much it stands on."""

    share: float
    low: float
    high: float
    """Ends of the 95 % interval over other groups; 0 and 1 where there are too few to say."""
    count: int
    """How many cases the share is of."""
    groups: int
    """How many prompts (pairs, voters) these cases come from."""

    @property
    def is_enough(self) -> bool:
        """Whether there are enough groups for an interval."""
        return self.groups >= MIN_GROUPS

    def is_above(self, level: float) -> bool:
        """Whether it is known to be above `level`; never where there are too few groups to say."""
        return self.is_enough and self.low > level


def share_of(groups: Iterable[Group] | Mapping[Group, int]) -> Share | None:
    """The share of successes over all groups, with its interval over other groups; None without a trial.

    A mapping says how often a group (successes, trials) occurred. Wilson's interval with t instead of z, and as many
    trials as these are worth: their number N divided by the design effect (Kish 1965, Survey Sampling, section 8.2),
    which is the variance of the share between G groups, G/(G-1) Σ (successes - trials·share)² / N², in units of
    share·(1 - share)/N. At least 1, and drawn towards wholly dependent groups by `PRIOR_GROUPS`.
    """
    counted = {group: times for group, times in Counter(groups).items() if group[1] > 0}
    number = sum(counted.values())
    trials = sum(n * times for (_, n), times in counted.items())
    if not trials:
        return None
    share = math.fsum(y * times for (y, _), times in counted.items()) / trials
    if number < MIN_GROUPS:
        return Share(share=share, low=0.0, high=1.0, count=trials, groups=number)
    between = number / (number - 1) * sum((y - n * share) ** 2 * times for (y, n), times in counted.items())
    usual = sum(n * n * times for (_, n), times in counted.items()) / trials
    prior = PRIOR_GROUPS / 4  # the variance of an even share
    effect = (between + prior * usual * usual) / (trials * share * (1 - share) + prior * usual)
    worth = trials / max(1.0, effect)
    low, high = wilson_interval(share * worth, worth, z=t_quantile(number - 1))
    return Share(share=share, low=low, high=high, count=trials, groups=number)


def grouped(values: Sequence[float], keys: Sequence[Hashable]) -> list[Group]:
    """(sum, number) of the values of each key: what `share_of` takes. Both sequences in the same order."""
    groups: dict[Hashable, list[float]] = {}
    for value, key in zip(values, keys, strict=True):
        groups.setdefault(key, []).append(value)
    return [(math.fsum(members), len(members)) for members in groups.values()]


def calibration_error(confidence: Sequence[float], right: Sequence[float], keys: Sequence[Hashable]) -> float | None:
    """How far confidence is from the share right: the root mean square over equal-count bins, by size. [N] each.

    A perfect model's bins differ from their share right by chance, and any mean of such differences counts that as
    error. So what chance adds to each squared difference, its variance between `keys` (prompts), is taken off first
    (Kumar et al. 2019, https://arxiv.org/abs/1909.10155, section 4.2); below 0 there is nothing left to be seen.
    None with fewer than `MIN_CALIBRATION_PAIRS` pairs or `MIN_GROUPS` prompts: the rest would still be mostly noise.
    """
    count = len(confidence)
    if count < MIN_CALIBRATION_PAIRS or len(set(keys)) < MIN_GROUPS:
        return None
    order = sorted(range(count), key=lambda row: confidence[row])
    squares = 0.0
    for index in range(CALIBRATION_BINS):
        rows = order[index * count // CALIBRATION_BINS : (index + 1) * count // CALIBRATION_BINS]
        gaps = [confidence[row] - right[row] for row in rows]
        mean = math.fsum(gaps) / len(rows)
        totals = grouped([gap - mean for gap in gaps], [keys[row] for row in rows])
        number = len(totals)
        if number < 2:  # one prompt's pairs alone: chance explains whatever they differ by
            continue
        by_chance = number / (number - 1) * sum(total * total for total, _ in totals) / len(rows) ** 2
        squares += len(rows) * (mean * mean - by_chance)
    return math.sqrt(max(0.0, squares / count))

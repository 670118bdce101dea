"""Intervals against published and hand-worked numbers, and against samples of known truth: how often they hold it."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.evaluation.statistics import (
    MIN_CALIBRATION_PAIRS,
    MIN_GROUPS,
    calibration_error,
    grouped,
    share_of,
    t_quantile,
    wilson_interval,
)

Floats = NDArray[np.float64]


TABLE = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    7: 2.365,
    9: 2.262,
    10: 2.228,
    19: 2.093,
    30: 2.042,
    59: 2.001,
    120: 1.980,
    1000: 1.962,
    1_000_000: 1.962,
}
"""Any table of Student's t, column 0.975; with ever more degrees it ends at the normal's 1.960."""


@pytest.mark.parametrize(("degrees", "quantile"), TABLE.items())
def test_it_knows_students_t(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=5e-4)


def test_it_solves_t_where_it_has_a_formula() -> None:
    # One degree is the Cauchy distribution, tan(π · 0.9 / 2); two are t = c √(2 / (1 - c²)).
    assert t_quantile(1, confidence=0.9) == pytest.approx(math.tan(math.pi * 0.45))
    assert t_quantile(2, confidence=0.8) == pytest.approx(0.8 * math.sqrt(2 / (1 - 0.64)))
    with pytest.raises(ValueError, match="at least one degree"):
        t_quantile(0)


def test_it_knows_how_sure_a_share_of_independent_trials_can_be() -> None:
    # z = 2 makes it workable by hand: p = 0.8, n = 20, z² / n = 0.2
    # centre (0.8 + 0.1) / 1.2 = 0.75, half 2 √(0.8 · 0.2 / 20 + 4 / 1600) / 1.2 = 2 √0.0105 / 1.2
    low, high = wilson_interval(16, 20, z=2.0)
    assert low == pytest.approx(0.75 - 2 * math.sqrt(0.0105) / 1.2)
    assert high == pytest.approx(0.75 + 2 * math.sqrt(0.0105) / 1.2)
    # Newcombe 1998, table 1, method 3: 81 of 263
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_it_works_out_what_dependent_trials_are_worth() -> None:
    """Ten groups of ten, eight of them all right: worth about ten trials, not a hundred."""
    share = share_of([(10.0, 10)] * 8 + [(0.0, 10)] * 2)
    assert share is not None
    assert (share.share, share.count, share.groups) == (0.8, 100, 10)
    # between 10/9 · (8 · 2² + 2 · 8²) = 1600/9, within 100 · 0.16 = 16, half a group more of the same kind:
    # effect (1600/9 + 12.5) / (16 + 1.25) = 11.03; t of 9 degrees 2.262
    effect = (1600 / 9 + 0.5 / 4 * 100) / (16 + 0.5 / 4 * 10)
    assert (share.low, share.high) == pytest.approx(wilson_interval(80 / effect, 100 / effect, z=t_quantile(9)))
    assert share.low < 0.45


def test_independent_trials_are_worth_what_they_are() -> None:
    share = share_of([(1.0, 1)] * 160 + [(0.0, 1)] * 40)
    assert share is not None
    assert (share.low, share.high) == pytest.approx(wilson_interval(160, 200), abs=2e-3)


def test_it_takes_groups_by_how_often_they_occurred() -> None:
    groups = [(1.0, 2), (0.5, 1)] * 10 + [(3.0, 4), (0.0, 0)] * 3
    assert share_of(Counter(groups)) == share_of(groups)
    assert share_of(iter(groups)) == share_of(groups)


@pytest.mark.parametrize("right", [0.0, 0.5, 1.0])
def test_too_few_groups_say_nothing(right: float) -> None:
    few = share_of([(right * 40, 40)] * (MIN_GROUPS - 1))
    enough = share_of([(right * 40, 40)] * MIN_GROUPS)
    assert few is not None
    assert enough is not None
    assert (few.low, few.high, few.is_enough, few.is_above(-1.0)) == (0.0, 1.0, False, False)
    assert enough.is_enough
    assert 0.0 < enough.high - enough.low < 1.0
    assert share_of([]) is share_of([(0.0, 0)]) is None


def test_all_right_is_no_more_certain_than_nearly_all_right() -> None:
    """Where nothing differs nothing can be seen of how far answers hang together: that must not make it sure."""
    every, but_one = share_of([(10.0, 10)] * 60), share_of([(10.0, 10)] * 59 + [(9.0, 10)])
    assert every is not None
    assert but_one is not None
    assert every.low == pytest.approx(but_one.low, abs=0.03)
    assert every.low == pytest.approx(wilson_interval(60, 60, z=t_quantile(59))[0])  # sixty prompts, not 600 answers


def test_it_groups_in_order() -> None:
    assert grouped([1.0, 0.5, 0.0], ["a", "b", "a"]) == [(1.0, 2), (0.5, 1)]


# -- coverage ------------------------------------------------------------------------------------

SAMPLES = 400


def draw(seed: int, *, prompts: int, answers: int, rate: float, hang: float) -> list[list[tuple[float, int]]]:
    """Many samples of (right, answers) on prompts; every prompt has a rate of its own around `rate`.

    `hang` is the correlation of two answers to one prompt: 0 are independent, 1 are all alike.
    """
    rng = np.random.default_rng(seed)
    size = (SAMPLES, prompts)
    if hang == 0:
        rates: Floats = np.full(size, rate)
    elif hang == 1:
        rates = (rng.random(size) < rate).astype(float)
    else:
        spread = 1 / hang - 1
        rates = rng.beta(rate * spread, (1 - rate) * spread, size=size)
    drawn = rng.binomial(answers, rates).astype(float).tolist()
    return [[(right, answers) for right in sample] for sample in drawn]


@pytest.mark.parametrize("prompts", [4, 8])
@pytest.mark.parametrize("answers", [1, 10])
def test_four_or_eight_prompts_are_never_claimed_to_say_anything(prompts: int, answers: int) -> None:
    for sample in draw(prompts, prompts=prompts, answers=answers, rate=0.9, hang=0.3):
        share = share_of(sample)
        assert share is not None
        assert (share.low, share.high) == (0.0, 1.0)


@pytest.mark.parametrize("prompts", [10, 20, 60])
@pytest.mark.parametrize("answers", [1, 4, 20])
@pytest.mark.parametrize("rate", [0.6, 0.9])
def test_intervals_over_prompts_hold_the_truth_as_often_as_they_say(prompts: int, answers: int, rate: float) -> None:
    """95 % of samples, whatever answers to one prompt have in common."""
    held, widths = [], []
    for hang in (0.0, 0.1, 0.4, 1.0):
        shares = [share_of(one) for one in draw(7, prompts=prompts, answers=answers, rate=rate, hang=hang)]
        held.append(np.mean([share is not None and share.low <= rate <= share.high for share in shares]))
        widths.append(np.mean([share.high - share.low for share in shares if share is not None]))
    assert min(held) >= 0.91  # 400 draws of 95 % are below that once in a thousand times
    assert np.mean(held) >= 0.94
    if answers > 1:  # and it is no interval that holds everything
        assert widths[0] < 0.8 * widths[-1]


def test_an_interval_over_answers_would_have_held_it_far_less_often() -> None:
    """What these replace, on the same samples: the reason for them."""
    samples = draw(7, prompts=20, answers=10, rate=0.7, hang=0.4)
    ends = [wilson_interval(sum(right for right, _ in sample), 200) for sample in samples]
    assert np.mean([low <= 0.7 <= high for low, high in ends]) < 0.75


@pytest.mark.parametrize("prompts", [1, 4, 8, 10, 12, 20, 60])
@pytest.mark.parametrize("hang", [0.0, 0.3, 1.0])
def test_a_chance_model_is_seldom_above_chance(prompts: int, hang: float) -> None:
    passed = [
        share is not None and share.is_above(0.5)
        for answers in (1, 4, 10)
        for share in map(share_of, draw(prompts, prompts=prompts, answers=answers, rate=0.5, hang=hang))
    ]
    assert np.mean(passed) <= 0.05
    if prompts < MIN_GROUPS:
        assert not any(passed)


# -- calibration ---------------------------------------------------------------------------------


def judged(
    seed: int, *, pairs: int, prompts: int, trust: float = 1.0
) -> tuple[list[float], list[float], list[int], float]:
    """Confidences, whether right, prompts, and the true error of a model that is right where it says so, or less often.

    With `trust` 1 a confidence is the chance to be right; with 0.5 it is twice as far from a coin as it should be.
    """
    rng = np.random.default_rng(seed)
    confidence = 1 / (1 + np.exp(-np.abs(rng.normal(0, 1.5, pairs))))
    truth = 0.5 + trust * (confidence - 0.5)
    right = (rng.random(pairs) < truth).astype(float)
    error = float(np.sqrt(np.mean((confidence - truth) ** 2)))
    return confidence.tolist(), right.tolist(), rng.integers(0, prompts, pairs).tolist(), error


def test_it_measures_calibration_by_hand() -> None:
    # Five bins of twenty, each on ten prompts with one pair right and one wrong: no variance between prompts.
    confidence = [0.5 + 0.1 * (row // 20) for row in range(100)]
    right = [float(row % 2) for row in range(100)]
    prompts = [row // 2 % 10 for row in range(100)]
    # gaps 0, 0.1, 0.2, 0.3, 0.4: mean of squares 0.06
    assert calibration_error(confidence, right, prompts) == pytest.approx(math.sqrt(0.06))


def test_too_few_pairs_or_prompts_have_no_calibration() -> None:
    confidence, right, prompts, _ = judged(0, pairs=MIN_CALIBRATION_PAIRS, prompts=50)
    assert calibration_error(confidence, right, prompts) is not None
    assert calibration_error(confidence[1:], right[1:], prompts[1:]) is None
    assert calibration_error(confidence, right, [prompt % (MIN_GROUPS - 1) for prompt in prompts]) is None
    assert calibration_error([], [], []) is None


@pytest.mark.parametrize(("pairs", "most"), [(100, 0.04), (200, 0.035), (600, 0.02), (1200, 0.015)])
def test_a_perfect_model_is_hardly_off(pairs: int, most: float) -> None:
    errors = [calibration_error(*judged(seed, pairs=pairs, prompts=60)[:3]) for seed in range(100)]
    assert np.mean([error for error in errors if error is not None]) < most


def test_it_still_sees_a_model_that_is_too_sure() -> None:
    measured, true = [], []
    for seed in range(100):
        *drawn, error = judged(seed, pairs=600, prompts=60, trust=0.5)
        measured.append(calibration_error(*drawn))
        true.append(error)
    assert np.mean([error for error in measured if error is not None]) == pytest.approx(np.mean(true), abs=0.01)

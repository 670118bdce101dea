"""The arena's figures against numbers worked by hand or published."""

from __future__ import annotations

import math
import random

import pytest

from webapp.arena.stats import bradley_terry, krippendorff_alpha, leaderboard, wilson


def test_it_scores_two_players_by_the_log_of_their_odds() -> None:
    scores = bradley_terry([(1, 2, 1.0)] * 3 + [(1, 2, 0.0)], prior_ties=0)
    # 3 wins to 1 are odds of 3: 400·log10(3) = 190.85 apart, centred on 1000.
    assert scores[1] - scores[2] == pytest.approx(190.848, abs=1e-3)
    assert scores[1] + scores[2] == pytest.approx(2000, abs=1e-3)


def test_it_counts_a_tie_as_half_a_win_for_both() -> None:
    ties = bradley_terry([(1, 2, 0.5), (1, 2, 0.5), (1, 2, 1.0)], prior_ties=0)
    wins = bradley_terry([(1, 2, 1.0), (1, 2, 0.0), (1, 2, 1.0)], prior_ties=0)
    assert ties == pytest.approx(wins)


def test_it_does_not_care_which_side_is_named_first() -> None:
    assert bradley_terry([(1, 2, 1.0), (1, 2, 0.0), (1, 2, 1.0)]) == pytest.approx(
        bradley_terry([(2, 1, 0.0), (2, 1, 1.0), (2, 1, 0.0)])
    )


def test_it_links_players_who_never_met_through_a_third() -> None:
    duels = [(1, 2, 1.0)] * 2 + [(1, 2, 0.0)] + [(2, 3, 1.0)] * 2 + [(2, 3, 0.0)]
    scores = bradley_terry(duels, prior_ties=0)
    # The data are fitted exactly: p1/p2 = p2/p3 = 2, so p1/p3 = 4.
    assert scores[1] - scores[3] == pytest.approx(400 * math.log10(4), abs=1e-2)


def test_its_prior_keeps_an_unbeaten_player_finite() -> None:
    # One win, and one virtual tie each against strength 1: p(1 beats 2) solves 1.5 = p/(p+1/p) + p/(p+1).
    scores = bradley_terry([(1, 2, 1.0)])
    strength = 10 ** ((scores[1] - 1000) / 400)
    assert strength / (strength + 1 / strength) + strength / (strength + 1) == pytest.approx(1.5, abs=1e-6)
    assert scores[1] + scores[2] == pytest.approx(2000, abs=1e-3)


def test_it_refuses_an_unbeaten_player_without_a_prior() -> None:
    with pytest.raises(ValueError, match="must have won and lost"):
        bradley_terry([(1, 2, 1.0)], prior_ties=0)


def test_its_intervals_contain_the_score_and_shrink_with_more_votes() -> None:
    few = leaderboard([(1, 2, 1.0)] * 6 + [(1, 2, 0.0)] * 4)
    many = leaderboard([(1, 2, 1.0)] * 600 + [(1, 2, 0.0)] * 400)
    for standing in few + many:
        assert standing.low <= standing.score <= standing.high
    assert few[0].high - few[0].low > 5 * (many[0].high - many[0].low)


def test_its_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = random.Random(7)
    covered = 0
    for trial in range(60):
        # True strengths 2 : 1, so player 1 wins two thirds and stands 200·log10(2) = 60.2 above the centre.
        duels = [(1, 2, 1.0 if rng.random() < 2 / 3 else 0.0) for _ in range(200)]
        first = next(one for one in leaderboard(duels, resamples=100, seed=trial) if one.contestant == 1)
        covered += first.low <= 1060.2 <= first.high
    assert covered >= 51  # 95 % of 60 is 57; fewer than 51 has a chance below one in a hundred


def test_it_ranks_by_how_many_are_clearly_better() -> None:
    # 1 beats 3 and 2 beats 3 nearly always; 1 and 2 are level.
    duels = [(1, 3, 1.0)] * 90 + [(1, 3, 0.0)] * 10 + [(2, 3, 1.0)] * 90 + [(2, 3, 0.0)] * 10 + [(1, 2, 0.5)] * 40
    ranks = {one.contestant: one.rank for one in leaderboard(duels)}
    assert ranks == {1: 1, 2: 1, 3: 3}


def test_it_gives_the_same_standings_for_the_same_duels_in_any_order() -> None:
    duels = [(1, 2, 1.0)] * 5 + [(2, 3, 0.5)] * 4 + [(1, 3, 0.0)] * 3
    assert leaderboard(duels) == leaderboard(duels[::-1])


def test_it_has_no_standings_without_duels() -> None:
    assert leaderboard([]) == []


# Krippendorff (2011): two coders, ten binary units, alpha = 0.095.
BINARY = list(zip([0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0], strict=True))
# The same paper: four coders, twelve units, missing data, nominal alpha = 0.743.
MISSING = [
    [1, 1, 1],
    [2, 2, 3, 2],
    [3, 3, 3, 3],
    [3, 3, 3, 3],
    [2, 2, 2, 2],
    [1, 2, 3, 4],
    [4, 4, 4, 4],
    [1, 1, 2, 1],
    [2, 2, 2, 2],
    [5, 5, 5],
    [1, 1],
    [3],
]


@pytest.mark.parametrize(("units", "alpha"), [(BINARY, 0.095), (MISSING, 0.743)])
def test_its_alpha_equals_the_published_examples(units: list[list[int]], alpha: float) -> None:
    assert krippendorff_alpha(units) == pytest.approx(alpha, abs=5e-4)


def test_its_alpha_of_a_hand_worked_disagreement() -> None:
    # Units (a,a), (b,b), (a,b): o_ab = o_ba = 1, n_a = n_b = 3, n = 6.
    # alpha = 1 - (n-1)·(o_ab+o_ba)/(2·n_a·n_b) = 1 - 5·2/18 = 4/9.
    assert krippendorff_alpha(["aa", "bb", "ab"]) == pytest.approx(4 / 9)


def test_its_alpha_is_one_for_full_agreement_and_negative_for_systematic_disagreement() -> None:
    assert krippendorff_alpha(["aa", "bb"]) == 1
    # Every unit split: alpha = 1 - 3·4/(2·2·2) = -0.5.
    assert krippendorff_alpha(["ab", "ba"]) == pytest.approx(-0.5)


@pytest.mark.parametrize("units", [[], ["a", "b"], ["aa", "aaa"]])
def test_its_alpha_is_unknown_without_overlap_or_variation(units: list[str]) -> None:
    assert krippendorff_alpha(units) is None


def test_its_wilson_interval_equals_the_published_example() -> None:
    # Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662.
    rate = wilson(81, 263)
    assert rate is not None
    assert (rate.low, rate.high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))


def test_its_wilson_interval_stays_within_zero_and_one() -> None:
    none, every = wilson(0, 10), wilson(10, 10)
    assert none is not None
    assert every is not None
    # With no success the upper end is z²/(n+z²) = 3.8415/13.8415.
    assert (none.low, none.high) == (0, pytest.approx(0.27753, abs=1e-4))
    assert (every.low, every.high) == (pytest.approx(1 - 0.27753, abs=1e-4), pytest.approx(1))
    assert wilson(0, 0) is None

"""The arena's figures against numbers worked by hand or published."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from trainer.evaluation.statistics import share_of
from webapp.arena.stats import (
    ELO_PER_NAT,
    Cell,
    Duel,
    bradley_terry,
    krippendorff_alpha,
    leaderboard,
    ranks,
)


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


# -- intervals and ranks ---------------------------------------------------------------------------


def on_prompts(duels: Sequence[Duel], *, prompts: int | None = None) -> Counter[Cell]:
    """These duels, dealt in turn to so many prompts, or each to one of its own."""
    return Counter((*duel, number % (prompts or len(duels))) for number, duel in enumerate(duels))


def test_its_intervals_contain_the_score_and_shrink_with_more_votes() -> None:
    few = leaderboard(on_prompts([(1, 2, 1.0)] * 12 + [(1, 2, 0.0)] * 8))
    many = leaderboard(on_prompts([(1, 2, 1.0)] * 1200 + [(1, 2, 0.0)] * 800))
    for standing in few + many:
        assert standing.low < standing.score < standing.high
    assert few[0].high - few[0].low > 5 * (many[0].high - many[0].low)


def test_votes_on_the_same_prompts_say_less_than_on_others() -> None:
    """Twenty prompts, twenty votes each, all of one mind: worth twenty votes, not four hundred."""
    won = {(1, 2, 1.0, prompt): 20 for prompt in range(14)} | {(1, 2, 0.0, prompt): 20 for prompt in range(14, 20)}
    together, apart = leaderboard(won), leaderboard(on_prompts([(1, 2, 1.0)] * 280 + [(1, 2, 0.0)] * 120))
    once = leaderboard(on_prompts([(1, 2, 1.0)] * 14 + [(1, 2, 0.0)] * 6))
    widths = [board[0].high - board[0].low for board in (together, apart, once)]
    assert together[0].score == pytest.approx(apart[0].score)
    assert widths[0] > 4 * widths[1]
    assert widths[0] == pytest.approx(widths[2], rel=0.15)
    assert [board[0].prompts for board in (together, apart, once)] == [20, 400, 20]


def test_two_contestants_interval_is_that_of_their_share() -> None:
    """The same prompts through `share_of`: the ends of the share, as odds, are those of the difference in points."""
    rng = random.Random(3)
    won = [rng.randint(2, 6) for _ in range(60)]
    cells = {(1, 2, 1.0, number): wins for number, wins in enumerate(won)}
    cells |= {(1, 2, 0.0, number): 8 - wins for number, wins in enumerate(won)}
    first = next(one for one in leaderboard(cells) if one.contestant == 1)
    share = share_of([(float(wins), 8) for wins in won])
    assert share is not None
    odds = [200 * math.log10(end / (1 - end)) for end in (share.low, share.high)]  # half the difference is each one's
    assert (first.low - 1000, first.high - 1000) == pytest.approx(odds, abs=1.0)


@pytest.mark.parametrize("duels", [[(1, 2, 1.0)], [(1, 2, 1.0)] * 9, [(1, 2, 1.0), (2, 3, 1.0), (1, 3, 0.5)]])
def test_a_handful_of_prompts_ranks_nobody(duels: list[Duel]) -> None:
    standings = leaderboard(on_prompts(duels))
    assert {one.rank for one in standings} == {1}
    assert {(one.low, one.high, one.is_enough) for one in standings} == {(-math.inf, math.inf, False)}
    assert standings[0].contestant == 1
    crowd = leaderboard({(1, 2, 1.0, "one question"): 500})
    assert [one.rank for one in crowd] == [1, 1]


def test_bounds_that_touch_share_a_rank() -> None:
    assert ranks({1: (1000.016, 1400.0), 2: (600.0, 999.984)}) == {1: 1, 2: 1}  # both ends are shown as 1000
    assert ranks({1: (1001.0, 1400.0), 2: (600.0, 1000.0)}) == {1: 1, 2: 2}
    assert ranks({1: (1000.0, 1400.0), 2: (600.0, 1000.0)}) == {1: 1, 2: 1}
    assert ranks({1: (-math.inf, math.inf), 2: (600.0, 900.0), 3: (950.0, 990.0)}) == {1: 1, 2: 2, 3: 1}


@pytest.mark.parametrize("hang", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("prompts", "votes"), [(12, 8), (60, 1), (60, 4)])
def test_its_intervals_cover_the_truth_about_as_often_as_they_say(prompts: int, votes: int, hang: float) -> None:
    """Three contestants of known strength; `hang` is the correlation of two votes on one couple and prompt."""
    rng = np.random.default_rng(11)
    truth = {1: 0.8, 2: 0.1, 3: -0.9}
    held = []
    for _ in range(100):
        cells: Counter[Cell] = Counter()
        for first, second in ((1, 2), (1, 3), (2, 3)):
            chance = 1 / (1 + math.exp(truth[second] - truth[first]))
            if hang == 0:
                chances = np.full(prompts, chance)
            elif hang == 1:
                chances = (rng.random(prompts) < chance).astype(float)
            else:
                spread = 1 / hang - 1
                chances = rng.beta(chance * spread, (1 - chance) * spread, size=prompts)
            for prompt, won in enumerate(rng.binomial(votes, chances).tolist()):
                cells[first, second, 1.0, prompt] += won
                cells[first, second, 0.0, prompt] += votes - won
        for one in leaderboard(+cells):
            held.append(one.low <= 1000 + ELO_PER_NAT * truth[one.contestant] <= one.high)
    assert np.mean(held) >= 0.92  # 300 draws, three to a sample: below that once in some hundred times


def test_equal_contestants_are_seldom_ranked_apart() -> None:
    rng = np.random.default_rng(5)
    apart = 0
    for sample in range(300):
        won = (rng.random(12) < 0.5).tolist() if sample % 2 else rng.beta(0.5, 0.5, size=12).tolist()
        cells = Counter[Cell]()
        for prompt, chance in enumerate(won):
            wins = int(rng.binomial(10, chance))
            cells[1, 2, 1.0, prompt] += wins
            cells[1, 2, 0.0, prompt] += 10 - wins
        apart += {one.rank for one in leaderboard(+cells)} != {1}
    assert apart <= 15  # one in twenty


def test_it_ranks_by_how_many_are_clearly_better() -> None:
    # 1 beats 3 and 2 beats 3 nearly always; 1 and 2 are level.
    duels = [(1, 3, 1.0)] * 90 + [(1, 3, 0.0)] * 10 + [(2, 3, 1.0)] * 90 + [(2, 3, 0.0)] * 10 + [(1, 2, 0.5)] * 40
    placed = {one.contestant: one.rank for one in leaderboard(on_prompts(duels))}
    assert placed == {1: 1, 2: 1, 3: 3}


def test_it_gives_the_same_standings_for_the_same_duels_in_any_order() -> None:
    cells = on_prompts([(1, 2, 1.0)] * 5 + [(2, 3, 0.5)] * 4 + [(1, 3, 0.0)] * 3)
    assert leaderboard(cells) == leaderboard(dict(reversed(cells.items())))


def test_it_has_no_standings_without_duels() -> None:
    assert leaderboard({}) == []


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

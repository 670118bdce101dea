from __future__ import annotations

from typing import Any

import pytest

from trainer.evaluation.alarms import new_alarms, new_evaluation_alarms, repetition

CALM = {"kl": 2.0, "entropy": 2.0, "length": 30.0, "repetition": 0.05, "first_ratio": 1.00001}


def raised(state: dict[str, Any] | None = None, **changes: float) -> list[str]:
    """Alarms of a round that differs from a calm first one by `changes`."""
    state = {} if state is None else state
    assert new_alarms(CALM, state, kl_target=8.0) == []
    return new_alarms(CALM | changes, state, kl_target=8.0)


def test_it_is_quiet_while_nothing_is_wrong() -> None:
    assert raised(kl=30.0, entropy=0.6, length=59.0, repetition=0.29) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kl": 40.0}, "5.0 times the target"),
        ({"entropy": 0.4}, "entropy fell from 2.00 to 0.40"),
        ({"length": 70.0}, "from 30 to 70 tokens"),
        ({"length": 12.0}, "from 30 to 12 tokens"),
        ({"repetition": 0.4}, "40% of their token triples"),
        ({"first_ratio": 1.2}, "ratio of 1.200 instead of 1"),
    ],
)
def test_it_says_what_is_wrong(changes: dict[str, float], text: str) -> None:
    [alarm] = raised(**changes)
    assert text in alarm


def test_it_says_when_most_answers_are_cut_off() -> None:
    assert raised(ended=0.5) == []
    [alarm] = raised(ended=0.4)
    assert "Only 40% of the answers end" in alarm


def test_it_lets_a_model_become_sure_of_graded_answers_and_write_longer_ones() -> None:
    state: dict[str, Any] = {}
    easy = CALM | {"solved": 0.9, "zero_variance": 0.5}
    assert new_alarms(easy, state) == []
    assert new_alarms(easy | {"entropy": 0.1, "length": 90.0, "zero_variance": 0.9}, state) == []


def test_it_says_when_graded_answers_teach_nothing() -> None:
    assert new_alarms(CALM | {"solved": 0.1, "zero_variance": 0.8}, {}) == []
    [alarm] = new_alarms(CALM | {"solved": 0.0, "zero_variance": 1.0}, {})
    assert "In 100% of the groups all answers earned the same, and 0% of the answers are right" in alarm


def test_it_raises_an_alarm_once_a_run() -> None:
    state: dict[str, Any] = {}
    assert len(raised(state, kl=40.0)) == 1
    assert new_alarms(CALM | {"kl": 41.0}, state, kl_target=8.0) == []
    assert new_alarms(CALM, state, kl_target=8.0) == []
    assert new_alarms(CALM | {"kl": 42.0}, state, kl_target=8.0) == []
    assert len(new_alarms(CALM | {"repetition": 0.5}, state, kl_target=8.0)) == 1


def test_it_needs_no_kl_target() -> None:
    state: dict[str, Any] = {}
    assert new_alarms(CALM | {"kl": 900.0}, state) == []


def test_it_sees_reward_rise_while_held_out_wins_fall() -> None:
    state: dict[str, Any] = {}
    assert new_evaluation_alarms(0.0, 0.5, state) == []
    assert new_evaluation_alarms(1.0, 0.8, state) == []
    assert new_evaluation_alarms(0.9, 0.4, state) == []  # the reward fell too: no exploit, just worse
    assert new_evaluation_alarms(1.5, 0.7, state) == []  # as chance may have it
    [alarm] = new_evaluation_alarms(2.0, 0.6, state)
    assert "wins 60% instead of 80%" in alarm
    assert new_evaluation_alarms(2.1, 0.55, state) == []  # said already
    assert new_evaluation_alarms(2.2, 0.85, state) == []


def test_it_counts_repeated_triples() -> None:
    assert repetition([[1, 2, 3, 4, 5]]) == 0.0
    # triples 123 231 312 123 231: two of five came before
    assert repetition([[1, 2, 3, 1, 2, 3, 1]]) == pytest.approx(0.4)
    assert repetition([[1, 2, 3, 1, 2, 3, 1], [1]]) == pytest.approx(0.2)
    assert repetition([]) == 0.0

"""Which problems are practised next. (Shelves and levels: test_grpo.py.)"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Any

from tests.trainer import small
from trainer.config import GRPOConfig
from trainer.rl.shelves import LEAST_CHANCE, Practice
from trainer.runtime.seeds import random_generator
from trainer.tasks.problem import UNKNOWN, Problem

CONFIG = GRPOConfig(steps=4)
GRADED = small.corpus().problems
UNGRADED = [dataclasses.replace(problem, difficulty=UNKNOWN) for problem in GRADED]


def chosen(practice: Practice, count: int, step: int = 0) -> list[Problem]:
    return practice.choose(count, generator=random_generator(0, "problems", step))


def test_what_is_solved_half_the_time_is_asked_most() -> None:
    practice = Practice(UNGRADED, CONFIG, state := {})
    for _ in range(8):
        practice.remember(UNGRADED[:3], [1.0, 0.0, 0.5])
    assert state["shares"]["2"] == 0.5
    counts = Counter(UNGRADED.index(problem) for step in range(2000) for problem in chosen(practice, 1, step))
    weights = [LEAST_CHANCE, LEAST_CHANCE, 0.25, 0.25, 0.25, 0.25]
    for number, weight in enumerate(weights):
        assert abs(counts[number] / 2000 - weight / sum(weights)) < 0.04


def test_what_it_shows_now_weighs_as_much_as_all_before() -> None:
    practice = Practice(UNGRADED, CONFIG, state := {})
    practice.remember(UNGRADED[:1], [1.0])
    practice.remember(UNGRADED[:1], [1.0])
    practice.remember(UNGRADED[:1], [0.0])
    assert state == {"level": 1.0, "shares": {"0": 0.4375}}


def test_a_round_asks_none_twice_while_there_are_enough() -> None:
    practice = Practice(UNGRADED, CONFIG, {})
    assert len({problem.prompt for problem in chosen(practice, 6)}) == 6
    assert len(chosen(practice, 20)) == 20


def test_a_round_has_its_share_of_both_kinds() -> None:
    practice = Practice([*GRADED[:2], *UNGRADED[2:]], CONFIG, {"level": 0.0})
    assert sum(problem.difficulty == UNKNOWN for problem in chosen(practice, 12)) == 8


def test_it_goes_on_from_what_a_saved_run_remembers() -> None:
    state: dict[str, Any] = {}
    practice = Practice(UNGRADED, CONFIG, state)
    practice.remember(UNGRADED[:4], [1.0, 0.0, 1.0, 0.0])
    saved = json.loads(json.dumps(state))
    resumed_state: dict[str, Any] = {}
    resumed = Practice(UNGRADED, CONFIG, resumed_state)
    resumed_state.clear()
    resumed_state.update(saved)  # as run_steps does
    for step in range(5):
        assert chosen(resumed, 3, step) == chosen(practice, 3, step)


def test_problems_that_all_say_how_hard_they_are_leave_nothing_more_to_remember() -> None:
    """So that a run which an older version saved goes on."""
    practice = Practice(GRADED, CONFIG, state := {})
    practice.remember(GRADED[:2], [1.0, 1.0])
    assert state == {"level": 1.25}

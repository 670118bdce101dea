"""Which problems to practise: as hard as a model can just about solve, where most is to be learnt.

The idea: a group of answers that are all right, or all wrong, teaches nothing. There are two ways to ask what is
between:

- Where problems say how hard they are they stand on *shelves*, and a level moves up and down so that between a fifth
  and four fifths of the answers are right.
- Where they do not say, what the model did tells: a problem it solves with probability p is chosen in proportion to
  p (1 - p), the variance of its reward ("learnability", Foster et al. 2025, https://arxiv.org/abs/2502.12272). One that
  was never asked counts as even; the model changes, so what a problem shows this time weighs as much as all before.

A round has its share of both. Simplification: a problem remembers its own answers only, so in a set much larger than
what a run asks the second way chooses at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from trainer.config import GRPOConfig
from trainer.tasks.problem import UNKNOWN, Problem

LEVEL_STEP: Final = 0.25
"""How far the difficulty moves in one round."""
LEAST_CHANCE: Final = 0.02
"""What p (1 - p) is taken to be at least: what was too hard is met again, and what was learnt stays in practice."""


class Practice:
    """The problems of a run, and what is remembered of them in its `state`, so that a resumed run asks the same."""

    def __init__(self, problems: Sequence[Problem], config: GRPOConfig, state: dict[str, Any]) -> None:
        """`state` gets a "level", and "shares" solved by a problem's number where problems do not say how hard."""
        self.config, self.state = config, state
        graded = [problem for problem in problems if problem.difficulty != UNKNOWN]
        self.ungraded = [problem for problem in problems if problem.difficulty == UNKNOWN]
        self.shelves = by_difficulty(graded, hardest=config.hardest) if graded else {}
        state["level"] = float(min(self.shelves, default=1))
        if self.ungraded:
            state["shares"] = {}
        self._place = {id(problem): str(number) for number, problem in enumerate(self.ungraded)}

    def choose(self, count: int, *, generator: torch.Generator) -> list[Problem]:
        """`count` problems for the next round."""
        on_shelves = sum(map(len, self.shelves.values()))
        by_shares = round(count * len(self.ungraded) / (len(self.ungraded) + on_shelves))
        chosen = []
        if count > by_shares:
            chosen = choose_problems(self.shelves, count - by_shares, level=self.state["level"], generator=generator)
        if by_shares:
            shares = torch.full((len(self.ungraded),), 0.5)
            for number, share in self.state["shares"].items():
                shares[int(number)] = share
            weights = (shares * (1 - shares)).clamp(min=LEAST_CHANCE)
            places = torch.multinomial(
                weights, by_shares, replacement=by_shares > len(self.ungraded), generator=generator
            )
            chosen += [self.ungraded[place] for place in places.tolist()]
        return chosen

    def remember(self, problems: Sequence[Problem], solved: Sequence[float]) -> None:
        """What share of the answers to each of a round's problems was right."""
        graded = [share for problem, share in zip(problems, solved, strict=True) if problem.difficulty != UNKNOWN]
        if graded:
            mean = sum(graded) / len(graded)
            self.state["level"] = next_level(self.state["level"], mean, self.config, self.shelves)
        for problem, share in zip(problems, solved, strict=True):
            if problem.difficulty == UNKNOWN:
                place = self._place[id(problem)]
                self.state["shares"][place] = (self.state["shares"].get(place, 0.5) + share) / 2


def by_difficulty(problems: Sequence[Problem], *, hardest: int) -> dict[int, list[Problem]]:
    """Problems on shelves, easiest shelf first, none above `hardest` but the easiest there is."""
    limit = max(hardest, min(problem.difficulty for problem in problems))
    shelves: dict[int, list[Problem]] = {}
    for problem in sorted(problems, key=lambda problem: problem.difficulty):
        if problem.difficulty <= limit:
            shelves.setdefault(problem.difficulty, []).append(problem)
    return shelves


def choose_problems(
    shelves: Mapping[int, Sequence[Problem]], count: int, *, level: float, generator: torch.Generator
) -> list[Problem]:
    """`count` random problems: every shelf up to `level` alike, each one above it e times rarer than the one before.

    So what comes next is met early, and what was learnt stays in practice: a model that sees mostly three-step
    problems adds a third step to those that need two.
    """
    difficulties = list(shelves)
    weights = torch.exp(-(torch.tensor(difficulties, dtype=torch.float32) - level).clamp(min=0))
    shelf_of = torch.multinomial(weights, count, replacement=True, generator=generator).tolist()
    places = torch.rand(count, generator=generator).tolist()
    chosen = []
    for index, place in zip(shelf_of, places, strict=True):
        shelf = shelves[difficulties[index]]
        chosen.append(shelf[int(place * len(shelf))])
    return chosen


def next_level(level: float, solved: float, config: GRPOConfig, shelves: Mapping[int, Sequence[Problem]]) -> float:
    """Harder when more than `solved_high` of the answers are right, easier below `solved_low`."""
    if solved > config.solved_high:
        level += LEVEL_STEP
    elif solved < config.solved_low:
        level -= LEVEL_STEP
    return float(min(max(level, min(shelves)), max(shelves)))

"""Word problems with one right answer, made by seeded generators.

Problems come in structures ("gain-loss": first more, then fewer) told in themes (who, what, which verbs).
A family is a theme with a structure. Held-out problems use themes and names that no training problem has; their
structures are practised ones, so what is new is the story and not the arithmetic. Half of what GRPO practises on
comes in themes of its own, which no document tells and no conversation works out. Training problems are graded from
difficulty 1 (one step) to 4 (three steps), so that GRPO can steer its mix; held-out ones always need two steps.

Simplification: whole numbers from 0 to 20, addition and subtraction; equal groups are added up one by one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from trainer.tasks.numbers import extract_answer
from trainer.tasks.problem import Problem
from trainer.world.themes import HELD_OUT_NAMES, HELD_OUT_THEMES, NAMES, PRACTICE_THEMES, THEMES, Theme

GAIN: Final = "gain"
LOSS: Final = "loss"

STRUCTURES: Final[dict[str, tuple[str, ...]]] = {
    "gain": (GAIN,),
    "loss": (LOSS,),
    "gain-gain": (GAIN, GAIN),
    "gain-loss": (GAIN, LOSS),
    "loss-gain": (LOSS, GAIN),
    "loss-loss": (LOSS, LOSS),
    "gain-loss-gain": (GAIN, LOSS, GAIN),
    "loss-gain-loss": (LOSS, GAIN, LOSS),
}

_THINGS: Final = ("apples", "books", "coins", "shells", "eggs", "cards", "nuts", "stones")
"""What can be compared and put into bags."""

_SHAPES: Final[dict[int, tuple[str, ...]]] = {
    1: ("gain", "loss", "sum", "compare"),
    2: ("gain-gain", "gain-loss", "loss-gain", "loss-loss", "together"),
    3: ("gain-gain", "gain-loss", "loss-gain", "loss-loss", "together", "groups"),
    4: ("gain-loss-gain", "loss-gain-loss", "groups-loss"),
}
_HELD_OUT_SHAPES: Final[dict[int, tuple[str, ...]]] = {
    2: ("gain-gain", "gain-loss", "loss-gain", "loss-loss"),
    3: ("gain-gain", "gain-loss", "loss-gain", "loss-loss"),
}
"""Two steps each. Three in an order never practised is beyond the tiny preset (see CONTRIBUTING.md's log), and the
structures without a theme would be training problems with other names."""
LARGEST: Final = {1: 12, 2: 10, 3: 20, 4: 20}
"""Largest number that may appear, by difficulty."""


def _changes(rng: random.Random, kinds: Sequence[str], largest: int) -> tuple[int, list[int]]:
    """A start and signed changes whose running total stays between 1 and `largest`."""
    while True:
        start = total = rng.randint(3, largest)
        changes: list[int] = []
        for kind in kinds:
            room = largest - total if kind == GAIN else total - 1
            if room < 2:
                break
            size = rng.randint(2, min(room, 9))  # never 1: "1 more birds come" is not English
            changes.append(size if kind == GAIN else -size)
            total += changes[-1]
        if len(changes) == len(kinds):
            return start, changes


def work(start: int, changes: Sequence[int]) -> tuple[str, int]:
    """The working, as "Start with 7. 7 + 5 = 12. The answer is 12.", and the result."""
    steps, total = [f"Start with {start}."], start
    for change in changes:
        steps.append(f"{total} {'+' if change >= 0 else '-'} {abs(change)} = {total + change}.")
        total += change
    return " ".join([*steps, f"The answer is {total}."]), total


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _tell_changes(rng: random.Random, theme: Theme, shape: str, slots: dict[str, str], largest: int) -> tuple[str, str]:
    start, changes = _changes(rng, STRUCTURES[shape], largest)
    item = rng.choice(theme.items)
    lines = [rng.choice(theme.start).format(k=start, i=item, **slots)]
    told: set[str] = set()
    for change in changes:
        options = [line for line in (theme.gain if change > 0 else theme.loss) if line not in told]
        line = rng.choice(options or (theme.gain if change > 0 else theme.loss))
        told.add(line)
        lines.append(line.format(k=abs(change), i=item, **slots))
    lines.append(rng.choice(theme.question).format(i=item, **slots))
    return " ".join(_capital(line) for line in lines), work(start, changes)[0]


def _tell_other(rng: random.Random, shape: str, slots: dict[str, str], item: str, largest: int) -> tuple[str, str]:
    """Structures that are not a row of changes."""
    p, f = slots["p"], slots["f"]
    if shape == "sum":
        start, (change,) = _changes(rng, (rng.choice((GAIN, LOSS)),), largest)
        sign = "+" if change > 0 else "-"
        ask = rng.choice(("What is {}?", "How much is {}?", "what is {}", "Work out {}.", "{} = ?"))
        return ask.format(f"{start} {sign} {abs(change)}"), work(start, [change])[0]
    if shape == "compare":
        more, (change,) = _changes(rng, (LOSS,), largest)
        text = f"{p} has {more} {item}. {f} has {-change} {item}. How many more {item} does {p} have?"
        return text, work(more, [change])[0]
    if shape == "together":
        # a, then a + d more for the other, then both: a + d = b, b + a.
        own = rng.randint(2, largest // 2 - 1)
        extra = rng.randint(2, largest - 2 * own)
        text = rng.choice(
            (
                f"{p} has {own} {item}. {f} has {extra} more than {p}. How many {item} do they have together?",
                f"{p} has {own} {item}, and {f} has {extra} more than that. How many {item} do both have together?",
            )
        )
        return text, work(own, [extra, own])[0]
    groups, each = rng.choice(((2, 3), (2, 4), (2, 5), (2, 6), (2, 8), (3, 2), (3, 3), (3, 4), (3, 5), (3, 6)))
    box = rng.choice(("bags", "boxes", "baskets"))
    text = f"There are {groups} {box} with {each} {item} in each."
    changes = [each] * (groups - 1)
    if shape == "groups-loss":
        lost = rng.randint(2, min(9, groups * each - 1))
        text += f" {p} takes {lost} of them away."
        changes.append(-lost)
    return f"{text} How many {item} are there{' now' if shape == 'groups-loss' else ''}?", work(each, changes)[0]


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What a kind of problems is made from."""

    shapes: dict[int, tuple[str, ...]]
    themes: tuple[Theme, ...]
    names: tuple[tuple[str, str], ...]


_FAMILIAR = _Kind(shapes=_SHAPES, themes=THEMES, names=NAMES)
_PRACTICE = _Kind(
    shapes={level: tuple(shape for shape in shapes if shape in STRUCTURES) for level, shapes in _SHAPES.items()},
    themes=PRACTICE_THEMES,
    names=NAMES,
)
_HELD_OUT = _Kind(shapes=_HELD_OUT_SHAPES, themes=HELD_OUT_THEMES, names=HELD_OUT_NAMES)


def make_problem(rng: random.Random, difficulty: int, *, kind: _Kind = _FAMILIAR) -> Problem:
    """One random problem of the given difficulty."""
    shape = rng.choice(kind.shapes[difficulty])
    theme = rng.choice(kind.themes)
    names = kind.names
    (person, pronoun), (friend, _) = rng.sample(names, 2)
    object_pronoun = "her" if pronoun == "she" else "him"
    slots = {"p": person, "f": friend, "he": pronoun, "He": pronoun.capitalize(), "him": object_pronoun}
    largest = LARGEST[difficulty]
    if shape in STRUCTURES:
        prompt, worked = _tell_changes(rng, theme, shape, slots, largest)
        name = theme.name
    else:
        prompt, worked = _tell_other(rng, shape, slots, rng.choice(_THINGS), largest)
        name = "plain"
    answer = extract_answer(worked)
    assert answer is not None
    return Problem(prompt=prompt, answer=answer, family=f"{name}:{shape}", difficulty=difficulty, worked=worked)


def generate(seed: int) -> Iterator[Problem]:
    """An endless stream of problems as documents tell them, no prompt twice, difficulties in turn."""
    return _stream(f"problems/{seed}/False", _FAMILIAR)


def generate_practice(seed: int) -> Iterator[Problem]:
    """The same in themes that only GRPO meets."""
    return _stream(f"problems/{seed}/practice", _PRACTICE)


def generate_held_out(seed: int) -> Iterator[Problem]:
    """The same in themes and with names that nothing in training has."""
    return _stream(f"problems/{seed}/True", _HELD_OUT)


def _stream(purpose: str, kind: _Kind) -> Iterator[Problem]:
    """`purpose` seeds the draws: another one makes another corpus, in which nobody's runs can go on."""
    rng = random.Random(purpose)
    seen: set[str] = set()
    while True:
        for difficulty in kind.shapes:
            problem = make_problem(rng, difficulty, kind=kind)
            while problem.prompt in seen:
                problem = make_problem(rng, difficulty, kind=kind)
            seen.add(problem.prompt)
            yield problem

"""Word problems with one right answer, made by seeded generators.

Problems come in structures ("gain-loss": first more, then fewer) told in themes (who, what, which verbs).
A family is a theme with a structure. Held-out problems use themes and names that no training problem has; their
structures are practised ones, so what is new is the story and not the arithmetic. A third of the problems that GRPO
practises on comes in themes of its own, which no document tells and no conversation works out. Training problems are
graded from difficulty 1 (one step) to 4 (three steps), so that GRPO can steer its mix; held-out ones always need two
steps.

How a story is told (telling.py) and a bare sum asked (sums.py) varies with every problem; held-out ones are told
plainly, as they always were, so that their figure means the same as before.

Simplification: whole numbers from 0 to 20, addition and subtraction; equal groups are added up one by one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from trainer.tasks.numbers import extract_answer
from trainer.tasks.problem import Problem
from trainer.world import sums
from trainer.world.english import pick, raw, typed
from trainer.world.telling import Person, Voice, any_person, person_called, tell
from trainer.world.themes import (
    ANIMALS,
    FOOD,
    HELD_OUT_NAMES,
    HELD_OUT_THEMES,
    LOOKS,
    NAMES,
    PRACTICE_THEMES,
    THEMES,
    THINGS,
    Theme,
)

GAIN: Final = "gain"
LOSS: Final = "loss"

STRUCTURES: Final[dict[str, tuple[str, ...]]] = {
    "-".join(kinds): kinds
    for kinds in (
        (GAIN,), (LOSS,), (GAIN, GAIN), (GAIN, LOSS), (LOSS, GAIN), (LOSS, LOSS),
        (GAIN, GAIN, GAIN), (GAIN, GAIN, LOSS), (GAIN, LOSS, GAIN), (GAIN, LOSS, LOSS),
        (LOSS, GAIN, GAIN), (LOSS, GAIN, LOSS), (LOSS, LOSS, GAIN), (LOSS, LOSS, LOSS),
    )
}  # fmt: skip
_ONE_STEP, _TWO_STEPS, _THREE_STEPS = (
    tuple(name for name, kinds in STRUCTURES.items() if len(kinds) == count) for count in (1, 2, 3)
)

_SHAPES: Final[dict[int, tuple[str, ...]]] = {
    1: (*_ONE_STEP * 2, *["sum"] * 3, *["told"] * 4, "compare", "total"),
    2: (*_TWO_STEPS * 2, "row", *["told-two"] * 2, "together", "together-less", "total-loss"),
    3: (*_TWO_STEPS * 2, "row", *["told-two"] * 2, "together", "together-less", "groups", "total-three", "total-loss"),
    4: (*_THREE_STEPS * 2, "row-three", "groups-loss"),
}
_HELD_OUT_SHAPES: Final[dict[int, tuple[str, ...]]] = {2: _TWO_STEPS, 3: _TWO_STEPS}
"""Two steps each. The structures without a theme would be training problems with other names."""
LARGEST: Final = {1: 20, 2: 12, 3: 20, 4: 20}
"""Largest number that may appear, by difficulty."""
_HELD_OUT_LARGEST: Final = {2: 10, 3: 20}


LARGE_CHANGES: Final = 0.4
"""Share of problems of one step whose change may have two digits: who has never met one reads its first digit only."""


def _changes(
    rng: random.Random, kinds: Sequence[str], largest: int, *, least: int = 2, most: int = 9
) -> tuple[int, list[int]]:
    """A start and signed changes of `least` to `most`, whose running total stays between 1 and `largest`."""
    while True:
        start = total = rng.randint(3, largest)
        changes: list[int] = []
        for kind in kinds:
            room = largest - total if kind == GAIN else total - 1
            if room < least:
                break
            size = rng.randint(least, min(room, most))  # in stories never 1: "1 more birds come" is not English
            changes.append(size if kind == GAIN else -size)
            total += changes[-1]
        if len(changes) == len(kinds):
            return start, changes


def _any_changes(rng: random.Random, kinds: Sequence[str], largest: int, *, least: int = 2) -> tuple[int, list[int]]:
    """The same; a single change is a large one now and then."""
    is_large = len(kinds) == 1 and rng.random() < LARGE_CHANGES
    return _changes(rng, kinds, largest, least=least, most=largest if is_large else 9)


def work(start: int, changes: Sequence[int]) -> tuple[str, int]:
    """The working, as "Start with 7. 7 + 5 = 12. The answer is 12.", and the result."""
    steps, total = [f"Start with {start}."], start
    for change in changes:
        steps.append(f"{total} {'+' if change >= 0 else '-'} {abs(change)} = {total + change}.")
        total += change
    return " ".join([*steps, f"The answer is {total}."]), total


@dataclass(frozen=True, kw_only=True)
class _Names:
    """The people of a problem."""

    person: Person
    friend: str
    other: str


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _tell_plainly(rng: random.Random, theme: Theme, shape: str, names: _Names, largest: int) -> tuple[str, str]:
    """The lines of a theme as they stand, one after another."""
    start, changes = _changes(rng, STRUCTURES[shape], largest)
    item = rng.choice(theme.items)
    he = names.person.he
    slots = {"p": names.person.name, "f": names.friend, "he": he, "He": _capital(he), "him": names.person.him}
    lines = [rng.choice(theme.start).format(k=start, i=item, **slots)]
    told: set[str] = set()
    for change in changes:
        options = [line for line in (theme.gain if change > 0 else theme.loss) if line not in told]
        line = rng.choice(options or (theme.gain if change > 0 else theme.loss))
        told.add(line)
        lines.append(line.format(k=abs(change), i=item, **slots))
    question = rng.choice(theme.question).format(i=item, **slots)
    return " ".join([*(f"{_capital(line)}." for line in lines), f"{question}?"]), work(start, changes)[0]


def _tell_changes(rng: random.Random, theme: Theme, shape: str, names: _Names, largest: int) -> tuple[str, str]:
    """A start and its changes in one of very many voices and orders."""
    start, changes = _any_changes(rng, STRUCTURES[shape], largest)
    is_bent = theme.is_bent
    voice = Voice(
        person=any_person(rng, names.person.name, names.person.he) if is_bent else names.person,
        friend=names.friend,
        items=things(rng, theme.items) if is_bent else pick(rng, theme.items),
        at=pick(rng, theme.at),
        is_past=is_bent and rng.random() < 0.45,
        has_words=rng.random() < 0.13,
    )
    lines = [voice.say(rng, pick(rng, theme.start), start)]
    told: set[str] = set()
    for change in changes:
        options = theme.gain if change > 0 else theme.loss
        line = pick(rng, options)
        while line in told:
            line = pick(rng, options)
        told.add(line)
        lines.append(voice.say(rng, line, abs(change)))
    question = voice.say(rng, pick(rng, theme.question), is_past=False)
    question = question[0].lower() + question[1:]
    gains = [change > 0 for change in changes]
    return tell(rng, voice, lines, question, gains=gains, own=theme.own), work(start, changes)[0]


_SYLLABLES: Final = (
    "bli", "zo", "mip", "tra", "fen", "gul", "pra", "dro", "kee", "lum", "nar", "vos", "wip", "sna", "quo", "bex",
    "dax", "fli",
    "gro", "hob", "jin", "kla", "mog", "nib", "pog", "rin", "sli", "tog", "ub", "wug", "yaf", "zib",
)  # fmt: skip


def things(rng: random.Random, items: Sequence[str]) -> str:
    """What is counted: one of `items`, now and then with a look, or a word that nobody knows.

    Which thing it is never matters, and a model that has met words it does not know in this place minds them less.
    """
    roll = rng.random()
    if roll < 0.08:
        return "".join(pick(rng, _SYLLABLES) for _ in range(rng.randint(1, 2))) + "s"
    item = pick(rng, items)
    return f"{pick(rng, LOOKS)} {item}" if roll < 0.18 else item


_COMPARE: Final = (
    "{p} has {a} {i}. {f} has {b} {i}. How many more {i} does {p} have?",
    "{p} has {a} {i}[, and|. Now] {f} has {b}. How many more [{i} |]does {p} have [|than {f}]?",
    "{p} has {a} {i} and {f} has {b}. How many [fewer|less] [{i} |]does {f} have [|than {p}]?",
    "{f} has {b} {i}, {p} has {a}. [What is the difference|How many more has {p}|How big is the difference]?",
    "[What is the difference|How big is the difference] if {p} has {a} {i} and {f} has {b}?",
    "There are {a} {i} and {b} {j}. How many more {i} than {j} are there?",
    "There are {b} {i} and {a} {j}. How many fewer {i} than {j} are there?",
    "{p} [finds|picks|counts|sees] {a} {i}, {f} only {b}. How many more is that for {p}?",
    "{f} has {b} {i}. {p} has {a}. How many {i} does {f} need to have as many as {p}?",
    "How many more {i} does {p} have if {he} has {a} and {f} has {b}?",
)  # fmt: skip
_TOTAL: Final = (
    "{p} has {a} {i}[.|,] [and |]{f} has {b}. How many {i} do they have [together|in total|altogether|in all|]?",
    "{p} has {a} {i} and {f} has {b} {i}. How many [do both have|is that|are there] [together|in total|in all]?",
    "How many {i} do {p} and {f} have [together|in total|in all] if {p} has {a} and {f} has {b}?",
    "{p} [picks|finds|buys|brings|makes|counts] {a} {i}, {f} {b}. How many {i} is that [in all|in "
    "total|altogether|together]?",
    "There are {a} {i} and {b} {j}. How many things [is that|are there] [in all|in total|altogether]?",
    "I have {a} {i} and {b} {j}. How many [is that|do I have] [in all|in total|altogether|together]?",
    "{p} has {a} {i} at home and {b} at school. How many {i} does {he} have [in all|in total|altogether]?",
    "{p} puts {his} {a} {i} with the {b} of {f}. How many {i} are there [now|together]?",
)  # fmt: skip
_TOTAL_THREE: Final = (
    "{p} has {a} {i}, {f} has {b} and {g} has {c}. How many {i} do [they|all three] have [together|in "
    "total|altogether|in all]?",
    "{p} has {a} {i}. {f} has {b}. {g} has {c}. How many [{i} |]is that [in all|in total|altogether|together]?",
    "{p}, {f} and {g} have {a}, {b} and {c} {i}. How many is that [in all|in total|altogether]?",
    "There are {a} {i} [here|on Monday], {b} [there|on Tuesday] and {c} [outside|on Sunday]. How many {i} are there "
    "[in all|in total]?",
    "How many {i} are there [in total|in all] if {p} brings {a}, {f} brings {b} and {g} brings {c}?",
)  # fmt: skip
_TOTAL_LOSS: Final = (
    "{p} has {a} {i} and {f} has {b}. [Together, they|They] [lose|give away|eat|sell|use] {c}. How many {i} "
    "[are left|do they have left|remain]?",
    "{p} has {a} {i} and {b} {j}. {c} [of them|] [break|get lost|are gone|are sold]. How many things are left?",
    "There are {a} boys and {b} girls [in the room|on the bus|in the park]. {c} children [leave|go home|get off]. "
    "How many [are left|children are there now|stay]?",
    "{p} [buys|finds|picks] {a} {i} on Monday and {b} on Tuesday[.|, and] {he} [gives away|loses|eats|uses] {c}. "
    "How many {i} are left?",
)  # fmt: skip
_TOGETHER: Final = (
    "{p} has {a} {i}. {f} has {b} more than {p}. How many {i} do they have [together|in total|in all]?",
    "{p} has {a} {i}, and {f} has {b} more than that. How many {i} do both have [together|in all]?",
    "{f} has {b} {i} more than {p}, and {p} has {a}. How many do they have [together|in total]?",
)  # fmt: skip
_TOGETHER_LESS: Final = (
    "{p} has {a} {i}. {f} has {b} [less|fewer] than {p}. How many {i} do they have [together|in total|in all]?",
    "{p} has {a} {i}, and {f} has {b} [less|fewer] than that. How many {i} do both have [together|in all]?",
    "{f} has {b} {i} less than {p}, and {p} has {a}. How many do they have [together|in total]?",
    "{p} is {a} years old, and {f} is {b} years younger. How old are they [together|in total]?",
)  # fmt: skip
_GROUPS: Final = (
    "There are {g} {box} with {e} {i} in each. ", "{p} has {g} {box}. In each there are {e} {i}. ",
    "{p} fills {g} {box} with {e} {i} each. ", "{g} {box} hold {e} {i} each. ",
    "In each of {g} {box} there are {e} {i}. ",
)  # fmt: skip
_SIMPLE: Final[dict[str, tuple[str, ...]]] = {
    "compare": _COMPARE, "total": _TOTAL, "total-three": _TOTAL_THREE, "total-loss": _TOTAL_LOSS, "together": _TOGETHER,
    "together-less": _TOGETHER_LESS,
}  # fmt: skip
_STEPS: Final = {"sum": 1, "row": 2, "row-three": 3, "told": 1, "told-two": 2}
"""Sums without a story (sums.py), and how many changes they have."""
_COUNTED: Final = THINGS + FOOD + ANIMALS


def _values(rng: random.Random, shape: str, largest: int) -> tuple[tuple[int, ...], tuple[int, list[int]]]:
    """The numbers that a structure without a theme tells, and the start and changes of its working."""
    if shape == "compare":
        more, (change,) = _any_changes(rng, (LOSS,), largest)
        return (more, -change), (more, [change])
    if shape == "together":  # a, then b more for the other, then both: a + b, + a.
        own = rng.randint(2, largest // 2 - 1)
        extra = rng.randint(2, largest - 2 * own)
        return (own, extra), (own, [extra, own])
    if shape == "together-less":  # a, then b less for the other, then both: a - b, + a.
        own = rng.randint(4, largest // 2 + 2)
        less = rng.randint(max(2, 2 * own - largest), own - 1)
        return (own, less), (own, [-less, own])
    kinds = {"total": (GAIN,), "total-three": (GAIN, GAIN), "total-loss": (GAIN, LOSS)}[shape]
    start, changes = _any_changes(rng, kinds, largest)
    return (start, *map(abs, changes)), (start, changes)


def _tell_other(rng: random.Random, shape: str, names: _Names, largest: int) -> tuple[str, str]:
    """Structures that are not a row of changes."""
    who = names.person
    if shape in _STEPS:
        kinds = tuple(pick(rng, (GAIN, LOSS)) for _ in range(_STEPS[shape]))
        is_told = shape.startswith("told")
        start, changes = _any_changes(rng, kinds, largest, least=2 if is_told else 1)
        values, signs = (start, *map(abs, changes)), tuple(1 if change > 0 else -1 for change in changes)
        if is_told:
            return sums.told(rng, values, signs, who, names.friend, names.other), work(start, changes)[0]
        return sums.bare(rng, values, signs), work(start, changes)[0]
    slots = {"p": who.name, "he": who.he, "his": who.his, "f": names.friend, "g": names.other}
    slots |= {"i": things(rng, _COUNTED), "j": things(rng, _COUNTED)}
    if shape in _SIMPLE:
        numbers, (start, changes) = _values(rng, shape, largest)
        slots |= {name: str(number) for name, number in zip("abc", numbers, strict=False)}
        return typed(rng, raw(rng, pick(rng, _SIMPLE[shape]), slots)), work(start, changes)[0]
    groups, each = pick(rng, ((2, 3), (2, 4), (2, 5), (2, 6), (2, 8), (3, 2), (3, 3), (3, 4), (3, 5), (3, 6)))
    slots |= {
        "e": str(each),
        "g": str(groups),
        "box": pick(rng, ("bags", "boxes", "baskets", "plates", "rows", "jars")),
    }
    text = raw(rng, pick(rng, _GROUPS), slots)
    changes, now = [each] * (groups - 1), pick(rng, ("", " in all", " in total", " altogether"))
    if shape == "groups-loss":
        lost = rng.randint(2, min(9, groups * each - 1))
        slots["k"] = str(lost)
        text += " " + raw(rng, "[{p} takes {k} of them away|{k} of them are lost|{f} eats {k}].", slots)
        changes.append(-lost)
        now = " now"
    return typed(rng, f"{text} How many {slots['i']} are there{now}?"), work(each, changes)[0]


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What a kind of problems is made from."""

    shapes: dict[int, tuple[str, ...]]
    themes: tuple[Theme, ...]
    names: tuple[tuple[str, str], ...]
    largest: dict[int, int]
    tell: Callable[[random.Random, Theme, str, _Names, int], tuple[str, str]]


_FAMILIAR = _Kind(shapes=_SHAPES, themes=THEMES, names=NAMES, largest=LARGEST, tell=_tell_changes)
_PRACTICE = _Kind(
    shapes={level: tuple(shape for shape in shapes if shape in STRUCTURES) for level, shapes in _SHAPES.items()},
    themes=PRACTICE_THEMES,
    names=NAMES,
    largest=LARGEST,
    tell=_tell_changes,
)
_HELD_OUT = _Kind(
    shapes=_HELD_OUT_SHAPES, themes=HELD_OUT_THEMES, names=HELD_OUT_NAMES, largest=_HELD_OUT_LARGEST, tell=_tell_plainly
)


def make_problem(rng: random.Random, difficulty: int, *, kind: _Kind = _FAMILIAR) -> Problem:
    """One random problem of the given difficulty."""
    shape = rng.choice(kind.shapes[difficulty])
    theme = rng.choice(kind.themes)
    (person, pronoun), (friend, _), *others = rng.sample(kind.names, 2 if kind is _HELD_OUT else 3)
    names = _Names(person=person_called(person, pronoun), friend=friend, other=others[0][0] if others else "")
    largest = kind.largest[difficulty]
    if shape in STRUCTURES:
        prompt, worked = kind.tell(rng, theme, shape, names, largest)
        name = theme.name
    else:
        prompt, worked = _tell_other(rng, shape, names, largest)
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
    """The same in themes and with names that nothing in training has, told plainly."""
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

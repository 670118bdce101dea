"""Word problems in plain English for a model from elsewhere: one step, plus or minus, numbers up to 50.

The idea: a chat model of 135 M parameters has read all of English and adds badly. So its problems are of ordinary life
instead of one small world's, short enough that hundreds of answers are sampled in minutes, and their right value is in
none of their own numbers: whoever just repeats one of those is wrong.

A family is a situation (a bus, a birthday, a rope) with several ways of telling it. The held-out ones are other
situations in other words, with names that nobody in practice has; their arithmetic is what was practised.

Difficulty 1 has numbers up to 10, 2 up to 20, 3 up to 50.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Final

from trainer.tasks.problem import NUMBER, Problem

PLUS, MINUS = "+", "-"
LARGEST: Final = {1: 10, 2: 20, 3: 50}
"""Largest number that may appear, the answer included, by difficulty."""

_Names = tuple[tuple[str, str], ...]
_Families = Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]]

NAMES: Final[_Names] = (
    ("Anna", "she"), ("Ben", "he"), ("Carla", "she"), ("David", "he"), ("Emma", "she"), ("Frank", "he"),
    ("Grace", "she"), ("Henry", "he"), ("Isabel", "she"), ("Jack", "he"), ("Kate", "she"), ("Liam", "he"),
    ("Maria", "she"), ("Noah", "he"), ("Olivia", "she"), ("Peter", "he"), ("Rachel", "she"), ("Sam", "he"),
    ("Tina", "she"), ("Victor", "he"), ("Wendy", "she"), ("Adam", "he"), ("Julia", "she"), ("Oscar", "he"),
)  # fmt: skip
HELD_OUT_NAMES: Final[_Names] = (
    ("Amir", "he"), ("Bianca", "she"), ("Caleb", "he"), ("Dora", "she"), ("Elias", "he"), ("Fiona", "she"),
    ("Gavin", "he"), ("Hana", "she"), ("Ivan", "he"), ("Leila", "she"), ("Marcus", "he"), ("Nadia", "she"),
)  # fmt: skip

_THINGS: Final = ("apples", "books", "marbles", "stickers", "pencils", "shells", "coins", "cards", "stamps", "buttons")

FAMILIES: Final[_Families] = {
    "buying": ((PLUS, (
        "{p} has {a} {things}. {He} buys {b} more. How many {things} does {he} have now?",
        "{p} had {a} {things} and bought another {b}. How many {things} does {he} have in total?",
        "{p} already owned {a} {things}. At the shop {he} bought {b} more. How many {things} does {he} own now?",
    )),),
    "giving": ((MINUS, (
        "{p} has {a} {things} and gives {b} of them to {f}. How many {things} does {p} have left?",
        "{p} gave {b} of {his} {a} {things} to {f}. How many {things} are left for {p}?",
        "There were {a} {things} in {p}'s bag. {He} gave {b} away. How many {things} are still in the bag?",
    )),),
    "eating": ((MINUS, (
        "{p} baked {a} cookies, and the family ate {b} of them. How many cookies are left?",
        "There were {a} grapes in a bowl. {p} ate {b} of them. How many grapes are in the bowl now?",
        "{p} made {a} pancakes for breakfast. {f} ate {b}. How many pancakes remained?",
    )),),
    "together": ((PLUS, (
        "{p} picked {a} {things} and {f} picked {b}. How many {things} did they pick together?",
        "{p} has {a} {things} and {f} has {b}. How many {things} do they have altogether?",
        "{p} brought {a} {things} to school. {f} brought {b}. How many {things} did the two of them bring?",
    )),),
    "comparing": ((MINUS, (
        "{p} has {a} {things} and {f} has {b}. How many more {things} does {p} have than {f}?",
        "{p} found {a} {things}, but {f} found only {b}. How many fewer {things} did {f} find?",
        "{f} has {b} {things}. {p} has {a}. What is the difference between them?",
    )),),
    "more-than": ((PLUS, (
        "{f} has {a} {things}. {p} has {b} more than {f}. How many {things} does {p} have?",
        "{p} has {b} {things} more than {f}, who has {a}. How many {things} does {p} have?",
    )),),
    "fewer-than": ((MINUS, (
        "{f} has {a} {things}. {p} has {b} fewer than {f}. How many {things} does {p} have?",
        "{p} collected {b} {things} fewer than {f}, who collected {a}. How many {things} did {p} collect?",
    )),),
    "bus": (
        (PLUS, (
            "There are {a} people on a bus. At the next stop {b} more get on. How many people are on the bus now?",
            "A bus leaves with {a} passengers, and {b} more get on along the way. How many passengers is that?",
        )),
        (MINUS, (
            "There are {a} people on a bus. At the next stop {b} get off. How many people are still on the bus?",
            "A bus had {a} passengers, and {b} of them got off. How many passengers were left?",
        )),
    ),
    "reading": ((MINUS, (
        "{p} is reading a book of {a} pages and has read {b}. How many pages are left to read?",
        "A book has {a} pages. {p} is on page {b}. How many pages does {he} still have to read?",
    )),),
    "spending": ((MINUS, (
        "{p} has ${a} and spends ${b} on lunch. How many dollars does {he} have left?",
        "{p} paid for a ${b} toy out of the ${a} in {his} pocket. How much money does {he} have left?",
    )),),
    "saving": ((PLUS, (
        "{p} had ${a} in {his} piggy bank and put in ${b} more. How many dollars are in it now?",
        "{p} earned ${a} on Saturday and ${b} on Sunday. How much money did {he} earn that weekend?",
    )),),
    "ages": (
        (PLUS, (
            "{p} is {a} years old. How old will {he} be in {b} years?",
            "{f} is {a} years old, and {p} is {b} years older. How old is {p}?",
        )),
        (MINUS, (
            "{p} is {a} years old. {f} is {b} years younger. How old is {f}?",
            "{p} is {a} years old now. How old was {he} {b} years ago?",
        )),
    ),
    "needing": ((MINUS, (
        "{p} needs {a} {things} for a party and already has {b}. How many more does {he} need?",
        "{p} wants to collect {a} {things}. So far {he} has {b}. How many {things} are missing?",
    )),),
    "room": ((MINUS, (
        "A room has {a} chairs, and {b} of them are taken. How many chairs are free?",
        "There are {a} seats in a small cinema. {b} seats are sold. How many seats are still empty?",
    )),),
    "two-kinds": ((PLUS, (
        "A basket holds {a} apples and {b} oranges. How many pieces of fruit are in the basket?",
        "{p} has {a} red {things} and {b} blue ones. How many {things} is that in all?",
        "There are {a} dogs and {b} cats in a shelter. How many animals live there?",
    )),),
    "losing": ((MINUS, (
        "{p} had {a} {things} but lost {b} of them. How many {things} does {he} have now?",
        "{p} put {a} {things} in a box. Later {b} were gone. How many {things} were left in the box?",
    )),),
    "weather": (
        (PLUS, ("It was {a} degrees in the morning, and by noon it was {b} degrees warmer. How warm was it at noon?",)),
        (MINUS, ("It was {a} degrees at noon. By night it was {b} degrees colder. How many degrees was it at night?",)),
    ),
    "cutting": ((MINUS, (
        "A rope is {a} feet long. {p} cuts off {b} feet. How many feet long is the rope now?",
        "{p} has {a} inches of ribbon and uses {b} inches for a gift. How many inches of ribbon are left?",
    )),),
}  # fmt: skip

HELD_OUT_FAMILIES: Final[_Families] = {
    "library": (
        (MINUS, ("There were {a} novels on a shelf. Visitors borrowed {b} of them. How many novels are left there?",)),
        (PLUS, ("A library lent {a} novels on Monday and {b} novels on Tuesday. How many novels is that?",)),
    ),
    "parking": (
        (MINUS, ("{a} cars stood in a parking lot. Then {b} cars drove away. How many cars are left?",)),
        (PLUS, ("{a} cars stood in a parking lot. Then {b} more cars came. How many cars is that in total?",)),
    ),
    "points": ((PLUS, (
        "{p} scored {a} points in the first game and {b} points in the second game. How many points is that in total?",
    )),),
    "garden": ((MINUS, ("{p} planted {a} tulips. {b} of them died. How many tulips are left?",)),),
    "farm": ((PLUS, (
        "A farmer gathered {a} eggs in the morning and {b} eggs in the evening. How many eggs is that altogether?",
    )),),
    "trip": ((MINUS, ("A train ride takes {a} minutes. {b} minutes have passed. How many minutes are left?",)),),
    "weights": ((PLUS, ("A red box weighs {a} pounds and a blue one {b} pounds. What is their total weight?",)),),
    "class": ((MINUS, ("There are {a} students in a class. {b} of them are girls. How many students are boys?",)),),
    "balloons": ((MINUS, ("{p} carried {a} balloons. {b} of them popped. How many balloons are left?",)),),
    "stairs": ((PLUS, ("{p} climbed {a} stairs. Then {he} climbed {b} more. How many stairs did {he} climb?",)),),
}  # fmt: skip


def make_problem(rng: random.Random, difficulty: int, families: _Families, names: _Names) -> Problem:
    """One random problem; its answer is none of the numbers it tells."""
    family = rng.choice(list(families))
    sign, wordings = rng.choice(families[family])
    wording = rng.choice(wordings)
    (person, pronoun), (friend, _) = rng.sample(names, 2)
    first, second, result = _numbers(rng, sign, LARGEST[difficulty])
    prompt = wording.format(
        p=person,
        f=friend,
        he=pronoun,
        He=pronoun.capitalize(),
        his="his" if pronoun == "he" else "her",
        things=rng.choice(_THINGS),
        a=first,
        b=second,
    )
    return Problem(
        prompt=prompt,
        answer=str(result),
        family=f"{family}:{'plus' if sign == PLUS else 'minus'}",
        difficulty=difficulty,
        worked=f"{first} {sign} {second} = {result}. The answer is {result}.",
        kind=NUMBER,
    )


def _numbers(rng: random.Random, sign: str, largest: int) -> tuple[int, int, int]:
    """(a, b, a + b) or (a, b, a - b), three different numbers from 2 to `largest`."""
    while True:
        small, other = rng.randint(2, largest - 3), rng.randint(2, largest - 3)
        whole = small + other
        if small != other and whole <= largest:
            return (small, other, whole) if sign == PLUS else (whole, other, small)


def generate(seed: int) -> Iterator[Problem]:
    """An endless stream of problems to practise on, no prompt twice, difficulties in turn."""
    return _stream(f"plain problems/{seed}", FAMILIES, NAMES)


def generate_held_out(seed: int) -> Iterator[Problem]:
    """The same in situations, words and with names that practice has none of."""
    return _stream(f"plain problems/{seed}/held out", HELD_OUT_FAMILIES, HELD_OUT_NAMES)


def _stream(purpose: str, families: _Families, names: _Names) -> Iterator[Problem]:
    rng = random.Random(purpose)
    seen: set[str] = set()
    while True:
        for difficulty in LARGEST:
            problem = make_problem(rng, difficulty, families, names)
            while problem.prompt in seen:
                problem = make_problem(rng, difficulty, families, names)
            seen.add(problem.prompt)
            yield problem

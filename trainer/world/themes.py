"""The stories problems are told in: who, what and which verbs, and the names of the people.

Three sets that share no story: what documents and conversations tell, what only GRPO practises, and what is
held out. A sentence's slots: {p} a person, {f} a friend, {he} {He} {him} the person's pronouns, {k} a number,
{i} the things.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Theme:
    """How one kind of story tells a start, a gain, a loss and the question."""

    name: str
    items: tuple[str, ...]
    start: tuple[str, ...]
    gain: tuple[str, ...]
    loss: tuple[str, ...]
    question: tuple[str, ...]


_OWN_START = (
    "{p} has {k} {i}.",
    "{p} has got {k} {i}.",
    "At home, {p} has {k} {i}.",
    "In the morning, {p} has {k} {i}.",
    "{p} has a bag with {k} {i}.",
    "{p} has a box of {k} {i}.",
    "There are {k} {i} in the basket of {p}.",
)
_OWN_QUESTION = (
    "How many {i} does {p} have now?",
    "How many {i} does {he} have now?",
    "How many {i} does {p} have in the end?",
    "How many {i} are left now?",
)

THEMES: Final = (
    Theme(
        name="shop",
        items=("apples", "pears", "eggs", "plums", "lemons", "nuts", "carrots"),
        start=_OWN_START,
        gain=(
            "{He} buys {k} more.",
            "{He} buys {k} more {i}.",
            "Then {he} buys {k} {i}.",
            "At the shop, {he} buys {k} more {i}.",
            "{He} gets {k} more from the market.",
            "In the evening, {he} gets {k} more {i}.",
        ),
        loss=(
            "{He} sells {k}.",
            "{He} sells {k} {i} to {f}.",
            "{He} eats {k} of them.",
            "Then {he} eats {k} {i}.",
            "Then {he} sells {k} of them.",
            "At home, {he} and a friend eat {k} {i}.",
        ),
        question=_OWN_QUESTION,
    ),
    Theme(
        name="friends",
        items=("marbles", "coins", "cards", "shells", "books", "stones"),
        start=_OWN_START,
        gain=(
            "{f} gives {him} {k} more.",
            "{He} gets {k} {i} from {f}.",
            "Then {f} gives {him} {k} {i}.",
            "Then {f} comes and gives {him} {k}.",
            "{He} buys {k} {i} from {f}.",
            "After lunch, {f} gives {him} {k} more {i}.",
        ),
        loss=(
            "{He} gives {k} to {f}.",
            "{He} gives {f} {k} {i}.",
            "Then {he} gives {k} {i} away.",
            "{f} comes and takes {k} of them.",
            "Then {he} gives {k} of them to {f}.",
            "After lunch, {he} gives {f} {k} of the {i}.",
        ),
        question=_OWN_QUESTION,
    ),
    Theme(
        name="luck",
        items=("nuts", "stones", "shells", "coins", "buttons", "cards"),
        start=_OWN_START,
        gain=(
            "{He} finds {k} more.",
            "{He} finds {k} {i}.",
            "Then {he} finds {k} more {i}.",
            "On the way home, {he} finds {k} {i}.",
            "Near the river, {he} finds {k} more.",
        ),
        loss=(
            "{He} loses {k}.",
            "{He} loses {k} {i}.",
            "Then {he} loses {k} of them.",
            "After school, {he} loses {k} {i}.",
            "Near the river, {he} loses {k} of the {i}.",
        ),
        question=_OWN_QUESTION,
    ),
    Theme(
        name="birds",
        items=("birds", "crows", "owls", "geese"),
        start=(
            "There are {k} {i} on the roof.",
            "{k} {i} sit in a tree.",
            "{k} {i} are on the wall.",
            "There are {k} {i} in the tree.",
        ),
        gain=(
            "{k} more {i} come.",
            "Then {k} more come.",
            "{k} more {i} fly to them.",
            "Then {k} {i} come to the roof.",
            "{k} {i} join them.",
        ),
        loss=(
            "{k} {i} fly away.",
            "Then {k} fly away.",
            "{k} of them fly home.",
            "Then {k} of the {i} fly away.",
            "{k} of the {i} go to the field.",
        ),
        question=("How many {i} are there now?", "How many {i} are left now?", "How many {i} are there in the end?"),
    ),
    Theme(
        name="yard",
        items=("children", "sheep", "dogs", "horses", "ducks", "frogs"),
        start=(
            "There are {k} {i} in the yard.",
            "{k} {i} are in the field.",
            "{k} {i} are near the river.",
            "There are {k} {i} on the hill.",
        ),
        gain=(
            "{k} more {i} come in.",
            "Then {k} more come.",
            "{k} more {i} join them.",
            "Then {k} {i} come to them.",
            "{k} more {i} come to the field.",
        ),
        loss=(
            "{k} {i} go home.",
            "Then {k} of them go away.",
            "{k} {i} run away.",
            "Then {k} {i} go away.",
            "{k} of the {i} run home.",
        ),
        question=("How many {i} are there now?", "How many {i} are there in the end?", "How many {i} are left now?"),
    ),
    Theme(
        name="garden",
        items=("flowers", "carrots", "roses", "berries", "apples"),
        start=("{p} picks {k} {i}.", "{p} has {k} {i} from the garden.", "In the garden, {p} picks {k} {i}."),
        gain=(
            "{He} picks {k} more.",
            "Then {he} picks {k} more {i}.",
            "{He} gets {k} more {i}.",
            "{f} picks {k} {i} for {him}.",
        ),
        loss=(
            "{He} gives {k} away.",
            "{He} gives {k} {i} to {f}.",
            "{k} of them are eaten.",
            "Then {f} takes {k} of the {i}.",
        ),
        question=_OWN_QUESTION,
    ),
)

PRACTICE_THEMES: Final = (
    Theme(
        name="bus",
        items=("children", "friends", "farmers", "dogs"),
        start=("There are {k} {i} on the bus.", "{k} {i} wait for the bus."),
        gain=("{k} more {i} come to the bus.", "At the bridge, {k} more {i} come in.", "Then {k} {i} run to it."),
        loss=("{k} of the {i} go home from there.", "At the bridge, {k} {i} go away.", "At the river, {k} run home."),
        question=("How many {i} are on the bus now?", "How many {i} are there in the end?"),
    ),
    Theme(
        name="shelf",
        items=("books", "cups", "lamps", "toys"),
        start=("{p} has {k} {i} on a shelf.", "There are {k} {i} on the shelf of {p}."),
        gain=("{f} gives {him} {k} more for it.", "In the house, {he} finds {k} more {i}.", "{k} {i} come from {f}."),
        loss=("{f} takes {k} of the {i} home.", "At school, {he} loses {k} of them.", "{He} gives {k} away to {f}."),
        question=("How many {i} are on the shelf now?", "How many {i} does {p} have in the end?"),
    ),
    Theme(
        name="market",
        items=("pears", "plums", "eggs", "lemons", "roses"),
        start=("At the market, {p} has {k} {i}.", "{p} comes to the market with {k} {i}."),
        gain=("There {he} buys {k} more {i}.", "{He} gets {k} more from {f}, too.", "From {f}, {he} gets {k} {i}."),
        loss=(
            "{He} sells {k} {i} there.",
            "There {he} gives {k} of them to {f}.",
            "At noon, {he} eats {k} of the {i}.",
        ),
        question=("How many {i} does {he} have now?", "How many {i} are left in the end?"),
    ),
    Theme(
        name="beach",
        items=("shells", "stones", "sticks"),
        start=("At the sea, {p} has {k} {i}.", "In the sand, {p} has {k} {i}."),
        gain=("Near the water, {he} finds {k} more {i}.", "{f} finds {k} more for {him}.", "Then {he} picks {k} {i}."),
        loss=("In the sand, {he} loses {k} of them.", "The sea takes {k} {i}.", "Near the water, {f} takes {k}."),
        question=("How many {i} does {p} have now?", "How many {i} are left in the end?"),
    ),
    Theme(
        name="farm",
        items=("hens", "cows", "goats", "sheep", "pigs"),
        start=("There are {k} {i} on the farm.", "The farmer has {k} {i}."),
        gain=("In spring, {k} more {i} come.", "The farmer buys {k} more.", "{k} more {i} come from the hill."),
        loss=("The farmer sells {k} of the {i}.", "In autumn, {k} of them go away.", "{k} {i} run to the wood."),
        question=("How many {i} are on the farm now?", "How many {i} does the farmer have in the end?"),
    ),
    Theme(
        name="party",
        items=("guests", "friends", "children"),
        start=("At the party, there are {k} {i}.", "{k} {i} sit near the fire."),
        gain=("In the evening, {k} more {i} come.", "Then {k} {i} join the party.", "{k} more come with {f}."),
        loss=("At night, {k} of the {i} go home.", "Then {k} {i} go to bed.", "{k} of them go away with {f}."),
        question=("How many {i} are at the party now?", "How many {i} are left in the end?"),
    ),
    Theme(
        name="lake",
        items=("ducks", "geese", "swans"),
        start=("There are {k} {i} near the lake.", "In spring, {k} {i} are on the lake."),
        gain=("{k} more {i} fly to the lake.", "Then {k} {i} come from the sea.", "{k} more come to them."),
        loss=("Then {k} {i} fly away from it.", "{k} of them go to the river.", "In autumn, {k} of the {i} fly away."),
        question=("How many {i} are near the lake now?", "How many {i} are there in the end?"),
    ),
    Theme(
        name="flowers",
        items=("bees", "birds"),
        start=("{k} {i} sit on the flowers.", "In the morning, there are {k} {i} on the flowers."),
        gain=("{k} more {i} come from the garden.", "Then {k} more {i} fly to them.", "At noon, {k} more come."),
        loss=("Then {k} {i} go home to sleep.", "{k} of the {i} fly to the wood.", "At night, {k} fly away."),
        question=("How many {i} are on the flowers now?", "How many {i} are left now?"),
    ),
    Theme(
        name="wood",
        items=("mice", "rabbits", "cats", "frogs"),
        start=("There are {k} {i} in the wood.", "{k} {i} sleep in the wood."),
        gain=("{k} more {i} run to the wood.", "At night, {k} {i} come from the field.", "Then {k} come to sleep."),
        loss=("Then {k} {i} run away.", "At noon, {k} of the {i} go away.", "Then {k} of them go to the mill."),
        question=("How many {i} are in the wood now?", "How many {i} are left in the end?"),
    ),
    Theme(
        name="hill",
        items=("sheep", "goats", "horses", "dogs"),
        start=("On the hill, there are {k} {i}.", "{k} {i} are on the hill in the morning."),
        gain=("{k} more {i} come from the farm.", "Then {k} {i} join them there.", "After lunch, {k} more come."),
        loss=("At night, {k} {i} run home.", "Then {k} of the {i} go to the river.", "At noon, {k} of them go home."),
        question=("How many {i} are on the hill now?", "How many {i} are there now?"),
    ),
    Theme(
        name="lunch",
        items=("apples", "eggs", "carrots", "berries", "nuts"),
        start=("For lunch, {p} has {k} {i}.", "{p} brings {k} {i} for lunch."),
        gain=("{f} brings {him} {k} more {i}.", "{He} takes {k} more from the basket.", "At home, {he} gets {k}."),
        loss=("{f} eats {k} of the {i}.", "At lunch, {he} eats {k} of them.", "Then {k} {i} are eaten."),
        question=("How many {i} does {p} have now?", "How many {i} are left now?"),
    ),
    Theme(
        name="road",
        items=("coins", "nuts", "cards", "buttons", "stones"),
        start=("On the road, {p} has {k} {i}.", "On the road, {p} finds a bag with {k} {i}."),
        gain=("Near the mill, {he} finds {k} more {i}.", "{f} finds {k} more.", "At the bridge, {f} gives {him} {k}."),
        loss=("Near the wood, {k} {i} are lost.", "{He} loses {k} of the {i} there.", "{f} takes {k} and goes home."),
        question=("How many {i} does {p} have now?", "How many {i} are in the bag now?"),
    ),
)
"""Themes of GRPO's problems only, told in verbs the others use too: no document tells them and no conversation works
them out. With the familiar ones alone a model soon solves all it is given and still reads the numbers of a new story
in the wrong order."""

HELD_OUT_THEMES: Final = (
    Theme(
        name="kitchen",
        items=("apples", "eggs", "nuts", "carrots"),
        start=("In the kitchen, {p} has {k} {i}.", "There are {k} {i} in the pot of {p}."),
        gain=("{He} gets {k} more from the shop.", "{f} comes and gives {him} {k} more {i}."),
        loss=("Then {he} and {f} eat {k} of them.", "{He} sells {k} of them to {f}."),
        question=("How many {i} does {p} have in the end?", "How many {i} are left now?"),
    ),
    Theme(
        name="pond",
        items=("ducks", "frogs", "geese"),
        start=("There are {k} {i} on the pond.", "{k} {i} are on the water."),
        gain=("{k} more {i} come to the pond.", "Then {k} more {i} join them."),
        loss=("{k} of the {i} go away.", "Then {k} {i} fly home."),
        question=("How many {i} are there on the pond now?", "How many {i} are left in the end?"),
    ),
    Theme(
        name="school",
        items=("cards", "books", "marbles", "stones"),
        start=("At school, {p} has {k} {i} in a bag.", "{p} has a box of {k} {i} at school."),
        gain=("After school, {he} finds {k} more {i}.", "Then {he} buys {k} more from {f}."),
        loss=("On the way home, {he} loses {k} of them.", "Then {he} gives {k} of the {i} to {f}."),
        question=("How many {i} does {p} have now?", "How many {i} does {p} have in the end?"),
    ),
)

NAMES: Final = (
    ("Tom", "he"), ("Rosa", "she"), ("Mia", "she"), ("Ben", "he"), ("Lily", "she"), ("Sam", "he"), ("Anna", "she"),
    ("Oscar", "he"), ("Ruby", "she"), ("Finn", "he"), ("Ivy", "she"), ("Jack", "he"), ("Nora", "she"), ("Leo", "he"),
)  # fmt: skip
HELD_OUT_NAMES: Final = (
    ("Ella", "she"), ("Max", "he"), ("Emma", "she"), ("Paul", "he"), ("Clara", "she"), ("Hugo", "he"),
)  # fmt: skip

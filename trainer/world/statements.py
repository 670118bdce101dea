"""Facts as sentences: one place that fills the slots of `wordings`."""

from __future__ import annotations

import random
from typing import Final

from trainer.world.english import pick, say
from trainer.world.facts import ENTITIES, Fact, an
from trainer.world.wordings import ANSWERS, HELD_OUT_PHRASINGS, QUESTIONS, STATEMENTS

SCENES: Final = ("bridge", "old wall", "market", "fountain", "well", "garden gate", "church", "hill", "fence", "road")
"""Where things happen beside a fact; none of them is the value of a fact, so none can be taken for an answer."""
FRIENDS: Final = ("Mia", "Ben", "Lily", "Sam", "Ruby", "Finn", "Ivy", "Jack", "Lucy", "Peter", "Zoe", "Karl")

_PREPOSITIONS: Final = ("in ", "on ", "by ", "under ")


def _thing(fact: Fact) -> str:
    """The value as a noun phrase: "a burrow" for "in a burrow", "a kit" for "kit"."""
    if fact.attribute == "young":
        return an(fact.value)
    for preposition in _PREPOSITIONS:
        if fact.value.startswith(preposition):
            return fact.value[len(preposition) :]
    return fact.value


def fact_slots(rng: random.Random, fact: Fact) -> dict[str, str]:
    """Every slot a template about `fact` may use."""
    entity = fact.entity
    plural = entity.noun == "random weights"
    return {
        "a": entity.one,
        "s": entity.many,
        "n": entity.noun,
        "q": f'"{entity.noun}"',
        "v": fact.value,
        "w": _thing(fact),
        "b": fact.bare,
        "is": "are" if fact.many_value else "is",
        "be": "are" if plural else "is",
        "it": "they" if plural else "it",
        "It": "They" if plural else "It",
        "he": entity.pronoun,
        "He": entity.pronoun.capitalize(),
        "him": "her" if entity.pronoun == "she" else "him",
        "his": entity.possessive,
        "place": pick(rng, SCENES),
        "p": pick(rng, [name for name in FRIENDS if name != entity.noun]),
    }


def state(rng: random.Random, fact: Fact, *, plain: bool = False) -> str:
    """`fact` as a sentence or two, in one of its many wordings (`plain`: one of the first two)."""
    wordings = STATEMENTS[fact.attribute]
    return say(rng, pick(rng, wordings[:2] if plain else wordings), fact_slots(rng, fact))


def tell_fact(rng: random.Random, fact: Fact) -> str:
    """`fact` in one of the ways in which an answer gives it."""
    return say(rng, pick(rng, ANSWERS[fact.attribute]), fact_slots(rng, fact))


def asked(fact: Fact) -> tuple[str, ...]:
    """Question templates that conversations may use for `fact`."""
    return QUESTIONS[fact.attribute][:-HELD_OUT_PHRASINGS]


def held_out_phrasings(fact: Fact) -> tuple[str, ...]:
    """Question templates kept for measuring."""
    return QUESTIONS[fact.attribute][-HELD_OUT_PHRASINGS:]


def ask(rng: random.Random, fact: Fact, template: str) -> str:
    """A question made from `template`, written the way a person types it (lower case stays lower case)."""
    slots = fact_slots(rng, fact)
    text = say(rng, template, slots)
    return text if template[0] not in "abcdefghijklmnopqrstuvwxyz" else text[0].lower() + text[1:]


def known_entities(kind: str) -> list[str]:
    return [noun for noun, entity in ENTITIES.items() if entity.kind == kind]

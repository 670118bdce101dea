"""Requests for a form: one word, one sentence, a list of three; and answers that keep to it.

The idea: who asks for one word wants one. What is asked is a fact of the world, so that the form can be followed and
the answer still be right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from trainer.world.english import pick, say, sentence, shuffled, typed
from trainer.world.facts import ENTITIES, FACTS, Fact
from trainer.world.questions import direct_question
from trainer.world.statements import fact_slots, tell_fact
from trainer.world.wordings import MODEL_DETAILS, REMARKS

ONE_WORD: Final = (
    "One word: {d}?", "In one word: {d}?", "In one word, {d}?", "{D}? One word, please.",
    "{D}? Answer [in|with] one word.",
    "{D}? (one word)", "[Just|Only] one word: {d}?", "Use [a single|just one|only one] word: {d}?",
    "{D}? [Only|Just] one word.",
    "[Answer|Reply|Say it] [in|with] [one|a single] word: {d}?", "{D}? Please use one word [|only].",
    "{D}, in one word?",
    "[Give me|I want] [one|a single] word: {d}?", "{D}? No sentence, [only|just] one word.",
    "A one-word answer, please: {d}?",
)  # fmt: skip
FEW_WORDS: Final = (
    "In {k} words: {d}?", "{D}? {K} words [at most|or less|or fewer], please.",
    "Use [at most|no more than|only] {k} words: {d}?",
    "{D}? Answer [in|with] at most {k} words.", "[Not more than|At most] {k} words: {d}?",
    "{D}? No more than {k} words.",
    "[Reply|Answer] in {k} words or fewer: {d}?", "{K} words only: {d}?",
)  # fmt: skip
SHORT: Final = (
    "Keep it short: {d}?", "Briefly: {d}?", "In short, {d}?", "{D}? [A short|Short] answer, please.",
    "In a few words: {d}?",
    "{D}? Be brief.", "Make it quick: {d}?", "{D}? Do not write [much|a lot].",
)  # fmt: skip
SENTENCES: Final = (
    "In {k} {s}: {d}?", "In {k} {s}, {d}?", "{D}? Answer [in|with] {k} {s}.", "{D}? {K} {s}, please.",
    "[Use|Write] {k} {s}: {d}?",
    "[Exactly|Just|Only] {k} {s}: {d}?", "{D}? Tell me in {k} {s}.", "Please answer in [exactly |]{k} {s}: {d}?",
    "{D}? I want {k} {s}.", "With {k} {s}: {d}?",
)  # fmt: skip
ABOUT: Final = (
    "[Tell me about|Describe|Write about|Say something about|Explain] {x} in [exactly |]{k} {s}.",
    "{K} {s} about {x}, please.", "[Write|Give me|I want|Say] [exactly |]{k} {s} about {x}.",
    "In {k} {s}, [tell me about|describe|what can you say about] {x}.",
    "Can you [describe|tell me about] {x} in {k} {s}?",
)  # fmt: skip
LISTS: Final = (
    "[List|Name|Give me|Tell me|Write down|Say] {k} {t}.", "[Can|Could] you [name|list|give me] {k} {t}?",
    "{K} {t}, please.",
    "[Give me|Make|Write|I need] a list of {k} {t}.", "[I want|I need|I am looking for] {k} {t}.",
    "Which {k} {t} do you know?",
    "[Do you know|Think of] {k} {t}?", "A list of {k} {t}[|, please].", "What are {k} {t}?",
    "Please [name|list] {k} {t}.",
    "[Help me with|Let me have] {k} {t}.", "[Pick|Choose] {k} {t} for me.", "{K} {t}?", "List of {k} {t}",
)  # fmt: skip

_NUMBERS: Final = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
_FARM: Final = ("cow", "horse", "sheep", "pig", "hen", "goose", "goat", "duck")
_BIRDS: Final = ("duck", "hen", "goose", "swan", "owl", "crow", "penguin")
_FRUIT: Final = ("apple", "grape", "strawberry", "coconut", "lemon")
_VEGETABLES: Final = ("carrot", "pea", "mushroom", "tomato")
_PLANETS: Final = ("Mars", "Saturn", "Jupiter", "Venus", "Neptune")


def _of_kind(kind: str) -> tuple[str, ...]:
    return tuple(entity.one for entity in ENTITIES.values() if entity.kind == kind)


def _ones(nouns: Sequence[str]) -> tuple[str, ...]:
    return tuple(ENTITIES[noun].one for noun in nouns)


def _values(attribute: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(fact.value for fact in FACTS if fact.attribute == attribute))


LISTED: Final[tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = (
    (("animals", "animals", "animals of your world", "different animals", "creatures"), _of_kind("animal")),
    (("farm animals", "animals on a farm", "animals of a farm"), _ones(_FARM)),
    (("birds", "kinds of birds"), _ones(_BIRDS)),
    (("fruits", "kinds of fruit", "sweet fruits"), _ones(_FRUIT)),
    (("vegetables",), _ones(_VEGETABLES)),
    (("plants", "things that grow", "plants from the garden"), _of_kind("plant")),
    (("foods", "things to eat", "kinds of food", "things I can eat"), _of_kind("food")),
    (("tools", "useful tools", "things for work", "things from a house"), _of_kind("tool")),
    (("jobs", "kinds of work", "professions", "jobs in a village"), _of_kind("job")),
    (("people", "people of the village", "names from the village", "villagers"), _of_kind("villager")),
    (("planets",), _PLANETS),
    (("things in the sky", "things I can see at night"), _of_kind("sky")),
    (("kinds of weather", "things the weather can bring"), _of_kind("weather")),
    (("colours", "colors", "different colours"), _values("colour")),
    (("baby animals", "names of baby animals", "young animals"), tuple(f"a {value}" for value in _values("young"))),
    (("pets", "pets of the village"), _values("pet")),
    (("words about language models", "words about training"), _of_kind("model")),
)  # fmt: skip
"""What can be listed: the ways to call it, and its members."""


def _framed(rng: random.Random, frames: Sequence[str], question: str, count: int = 1, **more: str) -> str:
    number = _NUMBERS[count] if rng.random() < 0.75 else str(count)
    slots = {"d": question, "D": question[0].upper() + question[1:], "k": number, "K": number.capitalize()}
    slots["s"] = "sentence" if count == 1 else "sentences"
    return typed(rng, say(rng, pick(rng, frames), slots | more))


def _bare(fact: Fact) -> str:
    return sentence(f"{fact.bare}.")


def _details(rng: random.Random, fact: Fact, count: int) -> list[str]:
    """`count` sentences more about what the fact is about."""
    if fact.entity.kind == "model":
        return [sentence(text) for text in shuffled(rng, MODEL_DETAILS[fact.entity.noun])[:count]]
    slots = fact_slots(rng, fact)
    return [say(rng, text, slots) for text in shuffled(rng, REMARKS[fact.entity.kind])[:count]]


def one_word(rng: random.Random, facts: Sequence[Fact]) -> tuple[str, str]:
    fact = pick(rng, [fact for fact in facts if " " not in fact.bare and fact.attribute != "known"])
    return _framed(rng, ONE_WORD, direct_question(rng, fact)), _bare(fact)


def few_words(rng: random.Random, facts: Sequence[Fact]) -> tuple[str, str]:
    count = rng.randint(2, 4)
    fact = pick(rng, [fact for fact in facts if len(fact.bare.split()) <= count])
    return _framed(rng, FEW_WORDS, direct_question(rng, fact), count), _bare(fact)


def short(rng: random.Random, facts: Sequence[Fact]) -> tuple[str, str]:
    fact = pick(rng, facts)
    return _framed(rng, SHORT, direct_question(rng, fact)), tell_fact(rng, fact)


def sentences(rng: random.Random, facts: Sequence[Fact]) -> tuple[str, str]:
    count = pick(rng, (1, 1, 1, 2, 2, 3))
    fact = pick(rng, facts)
    answer = " ".join([tell_fact(rng, fact), *_details(rng, fact, count - 1)])
    if rng.random() < 0.6:
        return _framed(rng, SENTENCES, direct_question(rng, fact), count), answer
    return _framed(rng, ABOUT, "x", count, x=fact.entity.one), answer


def list_request(rng: random.Random) -> tuple[str, str, int]:
    """A request for a list of two to five, one in a sentence, and how many it is to have.

    They stand as in a dictionary, one behind the other, from anywhere on: what comes after a thing is then always the
    same, which a small model can learn. Where anything may follow, it learns that the same may follow again.
    """
    names, members = pick(rng, LISTED)
    count = min(pick(rng, (2, 3, 3, 3, 4, 5)), len(members) - 1)
    first = rng.randint(0, len(members) - count)
    chosen = sorted(members, key=_without_article)[first : first + count]
    prompt = _framed(rng, LISTS, "x", count, t=pick(rng, names))
    return prompt, sentence(f"{', '.join(chosen[:-1])} and {chosen[-1]}."), count


def _without_article(thing: str) -> str:
    return thing.removeprefix("a ").removeprefix("an ").removeprefix("the ").casefold()


def listed(rng: random.Random, _: Sequence[Fact]) -> tuple[str, str]:
    return list_request(rng)[:2]


FORMS: Final[tuple[Callable[[random.Random, Sequence[Fact]], tuple[str, str]], ...]] = (
    one_word, one_word, one_word, few_words, short, sentences, sentences, listed, listed,
)  # fmt: skip


def form_request(rng: random.Random, facts: Sequence[Fact]) -> tuple[str, str]:
    """A request for a form, about one of `facts`, and an answer that keeps to it."""
    return pick(rng, FORMS)(rng, facts)

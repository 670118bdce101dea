"""Conversations: questions, and answers in different manners.

An answer has a core (the fact), and three independent choices of manner: long or short, friendly or plain,
with or without an example. Two samples of a model trained on them usually differ in manner, which gives
voters something to prefer. Long answers with an example get fewer details, so that a taste for examples is
not merely a taste for length.

Held out from conversations: a fifth of the facts of every attribute, by hash, and for every attribute the
last few phrasings. `held_out_questions` are asked in exactly those phrasings, about facts of both sorts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice
from typing import Final

from trainer.asked import Message
from trainer.tasks.problem import Problem, problem_conversation
from trainer.tasks.question import Question
from trainer.world.english import is_question, pick, say, sentence, shuffled, typed
from trainer.world.facts import ENTITIES, FACTS, Fact
from trainer.world.forms import form_request
from trainer.world.problems import generate
from trainer.world.questions import choice_question, other_value, question, truth_question
from trainer.world.small_talk import UNKNOWN, outside_question, small_talk_parts
from trainer.world.statements import FRIENDS, SCENES, ask, asked, fact_slots, held_out_phrasings, tell_fact
from trainer.world.topics import (
    ADVICE,
    OPEN,
    POEM_QUESTIONS,
    STORY_QUESTIONS,
    TO_QUESTIONS,
    TO_REQUESTS,
    Courtesies,
    Topic,
)
from trainer.world.wordings import (
    ANSWERS,
    EXAMPLES,
    MODEL_DETAILS,
    MODEL_EXAMPLES,
    QUESTIONS,
    REMARKS,
    WEATHER_EXAMPLES,
)

LONG_RATE: Final = 0.5
FRIENDLY_RATE: Final = 0.5
"""Where friendly openings are rare, a fine-tuned model knows less after one, and PPO leads it there (CONTRIBUTING)."""
EXAMPLE_RATE: Final = 0.33
HELD_OUT_FACTS: Final = 0.2
WORKED_RATE: Final = 0.4
"""Of the word problems, which are told in more ways than a short fine-tuning can answer at once."""
ADVICE_HELD_OUT: Final = 3
"""The last phrasings of each advice topic, and the last of each open topic, are for held-out prompts."""
OPEN_HELD_OUT: Final = 2


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How an answer is given."""

    long: bool
    friendly: bool
    example: bool


PLAINLY: Final = Manner(long=False, friendly=False, example=False)


def choose_manner(rng: random.Random) -> Manner:
    return Manner(
        long=rng.random() < LONG_RATE,
        friendly=rng.random() < FRIENDLY_RATE,
        example=rng.random() < EXAMPLE_RATE,
    )


def courtesies(prompt: str) -> Courtesies:
    """What is friendly to say to a prompt: who said something is not thanked for asking."""
    return TO_QUESTIONS if is_question(prompt) else TO_REQUESTS


def compose(
    rng: random.Random,
    manner: Manner,
    core: str,
    details: Sequence[str] = (),
    examples: Sequence[str] = (),
    *,
    friendly: Courtesies,
) -> str:
    """Put the parts of an answer together; without `examples` there is none to give."""
    with_example = manner.example and bool(examples)
    parts = [core]
    if with_example:  # right behind what it is an example of
        parts.append(f"{pick(rng, ('For example', 'For instance'))}, {pick(rng, examples)}")
    if manner.long:
        count = 1 if with_example else pick(rng, (1, 2, 2, 3))
        parts += shuffled(rng, details)[:count]
    if manner.friendly:
        where = rng.random()
        if where < 0.75:
            parts.insert(0, pick(rng, friendly.openers))
        if where > 0.4:
            parts.append(pick(rng, friendly.closers))
    return " ".join(parts)


# --- Facts -------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def held_out_facts() -> frozenset[str]:
    """Keys of the facts that no conversation mentions; what models are is always taught."""
    keys: set[str] = set()
    for attribute in QUESTIONS:
        facts = [fact for fact in FACTS if fact.attribute == attribute and fact.entity.kind != "model"]
        by_hash = sorted(facts, key=lambda fact: hashlib.sha256(fact.key.encode()).digest())
        keys.update(fact.key for fact in by_hash[: round(len(facts) * HELD_OUT_FACTS)])
    return frozenset(keys)


def asked_facts() -> list[Fact]:
    return [fact for fact in FACTS if fact.key not in held_out_facts()]


@cache
def _siblings(noun: str) -> tuple[Fact, ...]:
    return tuple(fact for fact in asked_facts() if fact.entity.noun == noun)


def answer_fact(rng: random.Random, fact: Fact, manner: Manner, *, friendly: Courtesies = TO_QUESTIONS) -> str:
    """A true answer to a question about `fact`, in the given manner."""
    slots = fact_slots(rng, fact)
    noun, kind = fact.entity.noun, fact.entity.kind
    core = say(rng, pick(rng, ANSWERS[fact.attribute]), slots)
    if kind == "model":
        details = [sentence(text) for text in MODEL_DETAILS[noun]]
        examples: Sequence[str] = MODEL_EXAMPLES[noun]
    else:
        details = [say(rng, text, slots) for text in shuffled(rng, REMARKS[kind])[:2]]
        others = [other for other in _siblings(noun) if other.attribute != fact.attribute]
        details += [tell_fact(rng, other) for other in others]
        wordings = WEATHER_EXAMPLES[noun] if kind == "weather" else EXAMPLES[fact.attribute]
        examples = [_after_comma(say(rng, text, slots), slots) for text in wordings]
    return compose(rng, manner, core, details, examples, friendly=friendly)


def _after_comma(text: str, slots: dict[str, str]) -> str:
    """Lower the first letter again unless the sentence starts with the name of the friend in it."""
    return text if text.startswith(slots["p"]) else text[0].lower() + text[1:]


DOUBTS: Final = 0.12
"""Share of questions that offer two values or ask whether something is so."""


def fact_conversation(rng: random.Random, fact: Fact) -> list[Message]:
    if rng.random() < DOUBTS:
        return exchange(*doubtful_exchange(rng, fact, choose_manner(rng)))
    prompt = question(rng, fact)
    return exchange(prompt, answer_fact(rng, fact, choose_manner(rng), friendly=courtesies(prompt)))


def doubtful_exchange(rng: random.Random, fact: Fact, manner: Manner = PLAINLY) -> tuple[str, str]:
    """A question that offers two values, or asks whether something is so, and its answer."""
    other = other_value(rng, fact)
    if other is None:
        return question(rng, fact), answer_fact(rng, fact, manner)
    if rng.random() < 0.4:
        return choice_question(rng, fact, other), answer_fact(rng, fact, manner)
    is_so = rng.random() < 0.5
    answer = answer_fact(rng, fact, dataclasses.replace(manner, friendly=False))
    return truth_question(rng, fact, fact if is_so else other), f"{'Yes.' if is_so else 'No.'} {answer}"


def exchange(prompt: str, answer: str) -> list[Message]:
    """A conversation of one turn."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


# --- Everything else ---------------------------------------------------------------------------------


def _answer(rng: random.Random, topic: Topic, prompt: str, core: str, manner: Manner) -> list[Message]:
    friendly = topic.courtesies or courtesies(prompt)
    return exchange(prompt, compose(rng, manner, core, topic.details, topic.examples, friendly=friendly))


def topic_conversation(rng: random.Random, topic: Topic, prompt: str) -> list[Message]:
    """`prompt`, and an answer put together from what there is to say to `topic`."""
    core = pick(rng, topic.cores)
    return _answer(rng, topic, prompt, core, choose_manner(rng))


def small_talk(rng: random.Random, name: str = "") -> list[Message]:
    """A greeting, thanks, or a question about the model; `name` says which, else any."""
    prompt, core, talk = small_talk_parts(rng, name)
    manner = choose_manner(rng)
    if talk.is_brief and rng.random() < 0.6:
        manner = PLAINLY
    if talk.is_serious:
        manner = dataclasses.replace(manner, friendly=False)
    return _answer(rng, talk, prompt, core, manner)


def unknown_conversation(rng: random.Random) -> list[Message]:
    """A question from outside the world, and an honest answer."""
    return topic_conversation(rng, UNKNOWN, outside_question(rng))


def form_conversation(rng: random.Random, facts: Sequence[Fact]) -> list[Message]:
    """A request for a form, and an answer that is nothing but that."""
    return exchange(*form_request(rng, facts))


_STORY_STARTS: Final = (
    "One day, a [small|young|clever|hungry|tired] {n} went to the {place}.",
    "There was once a [small|young|clever|hungry|brave] {n} that lived near the {place}.",
    "A [small|young|clever|kind|brave] {n} sat near the {place} and felt [sad|alone|bored].",
)
_STORY_MIDDLES: Final = (
    "It was looking for a friend, but no one was there.",
    "It had lost its way and did not know where to go.",
    "Then the wind blew hard, and it began to rain.",
    "It wanted to cross the river, but the water was deep.",
    "There it found a [drum|bell|hat] and did not know what it was.",
)
_STORY_HELPS: Final = (
    "Then {p} came by and helped.",
    "{p} saw it and was kind to it.",
    "At last it met {p}, who had some food.",
)
_STORY_ENDS: Final = (
    "After that, they were good friends.",
    "In the evening, the {n} went home happy.",
    "And the {n} never forgot that day.",
)

_RHYMES: Final = (
    ("The sun is up, the day is new,", "the {n} is glad and so are you."),
    ("The {n} sat down beside a tree", "and was as glad as it could be."),
    ("The night is dark, the moon is bright,", "the little {n} says good night."),
    ("A {n} went out to see the day", "and met a friend along the way."),
    ("The rain came down, the wind was cold,", "the {n} was small, but it was bold."),
    ("The {n} looked up into the sky", "and saw a cloud go slowly by."),
)


def _subject(rng: random.Random, questions: Sequence[str]) -> tuple[str, str]:
    """A request about some animal, and the animal."""
    noun = pick(rng, [entity.noun for entity in ENTITIES.values() if entity.kind == "animal"])
    return pick(rng, questions).format(a=ENTITIES[noun].one), noun


def _in_manner(rng: random.Random, text: str) -> str:
    return compose(rng, choose_manner(rng), text, friendly=TO_REQUESTS)


def story_conversation(rng: random.Random) -> list[Message]:
    prompt, noun = _subject(rng, STORY_QUESTIONS)
    slots = {
        "n": noun,
        "place": pick(rng, SCENES),
        "p": pick(rng, FRIENDS),
    }
    parts = [_STORY_STARTS, _STORY_MIDDLES, _STORY_HELPS, _STORY_ENDS]
    if rng.random() < 0.5:
        del parts[1]
    return exchange(prompt, _in_manner(rng, " ".join(say(rng, pick(rng, part), slots) for part in parts)))


def poem_conversation(rng: random.Random) -> list[Message]:
    prompt, noun = _subject(rng, POEM_QUESTIONS)
    couplets = rng.sample(_RHYMES, rng.randint(1, 2))
    lines = [sentence(line.format(n=noun)) for couplet in couplets for line in couplet]
    return exchange(prompt, _in_manner(rng, "\n".join(lines)))


def advice_conversation(rng: random.Random) -> list[Message]:
    topic = pick(rng, tuple(ADVICE.values()))
    return topic_conversation(rng, topic, pick(rng, topic.questions[:-ADVICE_HELD_OUT]))


def open_conversation(rng: random.Random) -> list[Message]:
    topic = pick(rng, tuple(OPEN.values()))
    return topic_conversation(rng, topic, pick(rng, topic.questions[:-OPEN_HELD_OUT]))


_AND_THE_OTHER: Final = (
    "And {a}?",
    "What about {a}?",
    "How about {a}?",
    "And what about {a}?",
    "{a}?",
    "The same for {a}, please.",
)


def two_turns(rng: random.Random, facts: Sequence[Fact], problems: Sequence[Problem]) -> list[Message]:
    """A question or a word problem, its answer, and then something else, most often thanks or another question.

    Without word problems among them a model answers whatever follows one with arithmetic.
    """

    def another_alike(rng: random.Random) -> list[Message]:
        """ "And a bear?", asked of what the question before was about."""
        fact = pick(rng, facts)
        alike = [one for one in facts if one.attribute == fact.attribute and one.entity.kind == fact.entity.kind]
        after = pick(rng, alike)
        prompt = typed(rng, say(rng, pick(rng, _AND_THE_OTHER), fact_slots(rng, after)))
        return fact_conversation(rng, fact) + exchange(prompt, answer_fact(rng, after, choose_manner(rng)))

    def question(rng: random.Random) -> list[Message]:
        if rng.random() < 0.4:
            return problem_conversation(rng, pick(rng, problems), worked=WORKED_RATE)
        return fact_conversation(rng, pick(rng, facts))

    def thanks(rng: random.Random) -> list[Message]:
        return small_talk(rng, pick(rng, ("thanks", "thanks", "bye", "ok", "sorry")))

    def greeted(rng: random.Random) -> list[Message]:
        return small_talk(rng, pick(rng, ("hello", "name", "how", "day")))

    others = (small_talk, small_talk, advice_conversation, unknown_conversation, story_conversation)
    if rng.random() < 0.15:
        return greeted(rng) + pick(rng, (question, another_alike, small_talk))(rng)[-2:]
    if rng.random() < 0.15:
        return another_alike(rng)
    follow_up = pick(rng, (thanks, thanks, question, question, question, *others))
    return question(rng) + follow_up(rng)


def write_conversations(seed: int, count: int, problems: Sequence[Problem]) -> list[list[Message]]:
    """`count` conversations in random order, about a fifth of them word problems."""
    rng = random.Random(f"conversations/{seed}")
    facts = asked_facts()
    models = [fact for fact in facts if fact.entity.kind == "model"]
    others = [fact for fact in facts if fact.entity.kind != "model"]
    kinds: list[tuple[float, Callable[[int], list[Message]]]] = [
        (31, lambda index: fact_conversation(rng, others[index % len(others)])),
        (4, lambda _: fact_conversation(rng, pick(rng, models))),
        (9, lambda _: form_conversation(rng, facts)),
        (20, lambda index: problem_conversation(rng, problems[index % len(problems)], worked=WORKED_RATE)),
        (7, lambda _: advice_conversation(rng)),
        (2, lambda _: open_conversation(rng)),
        (10, lambda _: small_talk(rng)),
        (6, lambda _: unknown_conversation(rng)),
        (2, lambda _: story_conversation(rng)),
        (1.5, lambda _: poem_conversation(rng)),
        (7.5, lambda _: two_turns(rng, facts, problems)),
    ]
    makers = rng.choices([make for _, make in kinds], weights=[share for share, _ in kinds], k=count)
    return [make(index) for index, make in enumerate(makers)]


# --- What is kept for measuring ----------------------------------------------------------------------


def _question(rng: random.Random, fact: Fact, template: str, kind: str) -> Question:
    same = [other for other in FACTS if other.attribute == fact.attribute and other.entity.kind == fact.entity.kind]
    # Values that are part of the right one ("stable" in "old stable") cannot count against an answer.
    right = f" {' '.join((fact.bare, fact.value, *fact.accept))} "
    reject = {other.bare for other in same if f" {other.bare} " not in right}
    if fact.entity.kind == "model":
        reject = set()  # an explanation of one term may well use the words of another
    number = QUESTIONS[fact.attribute].index(template)
    return Question(
        prompt=ask(rng, fact, template),
        accept=fact.accept,
        reject=tuple(sorted(reject)),
        family=f"{fact.attribute}/{number}",
        fact=fact.key,
        kind=kind,
    )


def held_out_questions(seed: int, count: int) -> list[Question]:
    """`count` questions in held-out phrasings, about any fact: a fifth are about one that no conversation mentions."""
    rng = random.Random(f"questions/{seed}")
    unseen = [fact for fact in FACTS if fact.key in held_out_facts()]
    few = round(count * HELD_OUT_FACTS)
    questions = []
    for kind, facts, wanted in (("new fact", unseen, few), ("new phrasing", asked_facts(), count - few)):
        pairs = [(fact, template) for fact in facts for template in held_out_phrasings(fact)]
        questions += [_question(rng, fact, template, kind) for fact, template in shuffled(rng, pairs)[:wanted]]
    return questions


def preference_prompts(seed: int, count: int, *, held_out: bool) -> list[str]:
    """Prompts whose answers differ in manner: open questions and facts, half and half.

    A sixth of the training ones are word problems, as people ask them too: without them the reward model
    has never seen their answers, its scores there mean nothing, and PPO changes how the model works.
    """
    rng = random.Random(f"preferences/{seed}/{held_out}")
    open_prompts: list[str] = []
    for topics, kept in ((ADVICE, ADVICE_HELD_OUT), (OPEN, OPEN_HELD_OUT)):
        for topic in topics.values():
            open_prompts += topic.questions[-kept:] if held_out else topic.questions[:-kept]
    prompts = dict.fromkeys(shuffled(rng, open_prompts)[: count // 2])
    if not held_out:
        prompts |= dict.fromkeys(problem.prompt for problem in islice(generate(seed + 1), count // 6))
    facts = shuffled(rng, asked_facts())
    index = 0
    while len(prompts) < count:
        fact = facts[index % len(facts)]
        if held_out:
            prompts[ask(rng, fact, pick(rng, held_out_phrasings(fact)))] = None
        else:
            prompts[question(rng, fact) if rng.random() < 0.7 else ask(rng, fact, pick(rng, asked(fact)))] = None
        index += 1
    return shuffled(rng, list(prompts))

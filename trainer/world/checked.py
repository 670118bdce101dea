"""What GRPO practises beside word problems: facts, forms and questions from elsewhere, which can be checked too.

The idea: correctness is the reward, and not only sums are right or wrong. A fact is right when its words are there, a
one-word answer when it is that word, a list of three when it has three parts, and a question from outside the world
when the answer admits it. They say no difficulty, so those the model solves now and then are asked most (shelves.py).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Final

from trainer.tasks.problem import PATTERN, TEXT, UNKNOWN, Problem
from trainer.world.conversations import answer_fact, asked_facts, choose_manner
from trainer.world.english import pick
from trainer.world.facts import Fact
from trainer.world.forms import list_request, one_word
from trainer.world.questions import question
from trainer.world.small_talk import UNKNOWN as OUTSIDE
from trainer.world.small_talk import outside_question

_NOTHING_TWICE: Final = r"(?i)^(?!.*\b((?!the\b)\w{3,})\b.*\b\1\b)"
ADMITS: Final = r"(?i)\b(?:do not know|only know)\b"


def _fact(rng: random.Random, fact: Fact) -> Problem:
    """Right is an answer that names both, what it is about and its value: one of them stands in the question."""
    answer = answer_fact(rng, fact, choose_manner(rng))
    entity = () if fact.attribute == "meaning" else (fact.entity.noun, fact.entity.many)  # "It is a cloud that …"
    return _problem(
        question(rng, fact), "(?is)^" + _says(fact.accept) + _says(entity), f"fact:{fact.attribute}", answer
    )


def _says(phrases: Sequence[str]) -> str:
    """A pattern for a text with one of the phrases as whole words somewhere, if there are any."""
    return rf"(?=.*\b(?:{'|'.join(map(re.escape, phrases))})\b)" if phrases else ""


def _problem(prompt: str, answer: str, family: str, worked: str, *, kind: str = PATTERN) -> Problem:
    accept = (answer,) if kind == TEXT else ()
    return Problem(
        prompt=prompt, answer=answer, family=family, difficulty=UNKNOWN, worked=worked, kind=kind, accept=accept
    )


def generate_checked(seed: int) -> Iterator[Problem]:
    """An endless stream of questions with a right answer that is no number, no prompt twice."""
    rng = random.Random(f"checked/{seed}")
    facts = asked_facts()
    seen: set[str] = set()
    while True:
        roll = rng.random()
        if roll < 0.6:
            problem = _fact(rng, pick(rng, facts))
        elif roll < 0.75:
            prompt, answer = one_word(rng, facts)
            problem = _problem(prompt, answer.rstrip("."), "form:one-word", answer, kind=TEXT)
        elif roll < 0.9:
            prompt, answer, count = list_request(rng)
            pattern = _NOTHING_TWICE + r"[^,.]+" + r", [^,.]+" * (count - 2) + r" and [^,.]+\.?$"
            problem = _problem(prompt, pattern, "form:list", answer)
        else:
            problem = _problem(outside_question(rng), ADMITS, "outside", pick(rng, OUTSIDE.cores))
        if problem.prompt not in seen:
            seen.add(problem.prompt)
            yield problem

"""A task: a problem that carries what its answer is checked against, and the reward of an answer to it.

The idea: an answer that can be *checked* needs no reward model and no critic; that is the whole of reasoning
fine-tuning's reward. What is checked, and how, is the problem's `kind`:

- "worked", our own stories: a number that the text states, or its only one (numbers.py, by `grade`). Working that is
  written out and right may pay a little more.
- "number", those of others: the same, or else the number a text ends with; fractions too (final.py).
- "choice": one of the options listed in the prompt, by its letter or in its own words (choice.py).
- "text": one of the accepted texts, but for case, spaces and the full stop at its end.
- "pattern": a regular expression that is found in the answer (patterns.py), within a time limit.

Everything is parsed, never evaluated, and a reading that could be meant otherwise is wrong: a grader that takes
"9 trillion" for 9 rewards what is wrong and never says so.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from trainer.asked import Asked, Message, asked_as, asked_messages
from trainer.tasks.choice import chosen_letter, letter_of
from trainer.tasks.final import final_number, gold_number, is_same_number
from trainer.tasks.numbers import extract_answer, normalise_number, shows_steps
from trainer.tasks.patterns import is_found
from trainer.tasks.words import plain_text

WORKED: Final = "worked"
NUMBER: Final = "number"
CHOICE: Final = "choice"
TEXT: Final = "text"
PATTERN: Final = "pattern"
KINDS: Final = (WORKED, NUMBER, CHOICE, TEXT, PATTERN)

LONGEST_GRADED: Final = 4000
"""Characters of an answer that are read, from its end."""
UNKNOWN: Final = 0
"""The difficulty of a problem whose record does not say."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A question, and what is right."""

    prompt: str
    answer: str
    """The right number, the letter of the right option, a right text, or the pattern."""
    family: str
    """Theme and structure, as "bag:gain-loss"; held-out families share no theme with training ones."""
    difficulty: int
    """From 1, the easiest, on: in ours one small step, to 4 with three steps. UNKNOWN where nobody says."""
    worked: str
    """A model answer that shows its steps and ends with the result."""
    system: str = ""
    """What stands before the question, and is asked with it."""
    kind: str = WORKED
    """How an answer is checked, one of KINDS."""
    options: tuple[str, ...] = ()
    """What there is to choose from; they stand in the prompt, too."""
    accept: tuple[str, ...] = ()
    """Every text that is right."""

    @property
    def asked(self) -> Asked:
        return asked_as(self.prompt, self.system)

    @property
    def direct(self) -> str:
        """A model answer without working."""
        if self.kind == CHOICE:
            return f"The answer is ({self.answer})."
        return f"The answer is {self.answer}." if self.kind in (WORKED, NUMBER) else self.worked

    @property
    def expected(self) -> str:
        """What is right, as people are shown it."""
        if self.kind == CHOICE:
            return f"{self.answer}) {self.options[ord(self.answer) - ord('A')]}"
        return " / ".join(self.accept) if self.kind == TEXT else self.answer


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the grader saw in one answer."""

    correct: bool
    answer: str | None
    """What the text gives as its answer, in plain form, or None."""
    worked_steps: bool
    """At least one equation, every equation right, and the last number is the answer."""


Judge = Callable[[Problem, str], Verdict]
"""What GRPO is given to check answers with."""


def judge(problem: Problem, text: str) -> Verdict:
    """Check an answer to a problem of any kind. Any text is safe; the end of a very long one is read."""
    text = text[-LONGEST_GRADED:]
    if problem.kind == WORKED:
        return grade(problem.answer, text)
    if problem.kind == NUMBER:
        number = final_number(text)
        correct = number is not None and is_same_number(number, problem.answer)
        return Verdict(correct=correct, answer=number, worked_steps=number is not None and shows_steps(text, number))
    if problem.kind == CHOICE:
        letter = chosen_letter(text, problem.options)
        return Verdict(correct=letter == problem.answer, answer=letter, worked_steps=False)
    if problem.kind == TEXT:
        said = stated_text(text)
        right = {plain_text(accepted) for accepted in problem.accept}
        return Verdict(correct=not right.isdisjoint({said, plain_text(text)}), answer=said or None, worked_steps=False)
    if problem.kind == PATTERN:
        return Verdict(correct=is_found(problem.answer, text), answer=plain_text(text) or None, worked_steps=False)
    raise ValueError(f"Unknown kind of problem {problem.kind!r}; choose one of {', '.join(KINDS)}.")


def reward(problem: Problem, text: str) -> float:
    """1 for a right answer, 0 for any other."""
    return float(judge(problem, text).correct)


def grade(problem_answer: str, text: str) -> Verdict:
    """Check `text` against the known answer. Any text is safe; the longest read is 4,000 characters."""
    text = text[-LONGEST_GRADED:]
    answer = extract_answer(text)
    correct = answer is not None and answer == normalise_number(problem_answer)
    return Verdict(correct=correct, answer=answer, worked_steps=answer is not None and shows_steps(text, answer))


_STATED_TEXT = re.compile(r"(?:^|\W)(?:the |my |final )*answer(?: is|:)[ \t]*(?!not\b)(\S[^\n]*)$", re.IGNORECASE)


def stated_text(text: str) -> str:
    """What a text names as its answer in its last line, else all of it, in plain form."""
    stated = _STATED_TEXT.search(text.rstrip())
    return plain_text(stated[1].strip('*_`"“” ') if stated else text)


WORKED_RATE: Final = 0.25
"""Share of word problems answered with working; the others are answered at once, and mostly a small model fails."""


def problem_conversation(rng: random.Random, problem: Problem, *, worked: float = WORKED_RATE) -> list[Message]:
    """A word problem, worked in steps in a share `worked` of cases and else answered at once."""
    answer = problem.worked if rng.random() < worked else problem.direct
    return [*asked_messages(problem.asked), {"role": "assistant", "content": answer}]


__all__ = [
    "CHOICE", "KINDS", "NUMBER", "PATTERN", "TEXT", "UNKNOWN", "WORKED", "Judge", "Problem", "Verdict", "gold_number",
    "grade", "judge", "letter_of", "problem_conversation", "reward",
]  # fmt: skip

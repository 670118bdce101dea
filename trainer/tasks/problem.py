"""A problem carries its right answer, so an answer to it can be *checked*: that is the whole of reasoning fine-tuning's
reward. `grade` reads the number out of whatever the model wrote (numbers.py).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from trainer.asked import Asked, Message, asked_as, asked_messages
from trainer.tasks.numbers import extract_answer, normalise_number, shows_steps


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A question with one right number for an answer."""

    prompt: str
    answer: str
    family: str
    """Theme and structure, as "bag:gain-loss"; held-out families share no theme with training ones."""
    difficulty: int
    """1 (one small step) to 4 (three steps)."""
    worked: str
    """A model answer that shows its steps and ends with the result."""
    system: str = ""
    """What stands before the question, and is asked with it."""

    @property
    def asked(self) -> Asked:
        return asked_as(self.prompt, self.system)

    @property
    def direct(self) -> str:
        """A model answer without working."""
        return f"The answer is {self.answer}."


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the grader saw in one answer."""

    correct: bool
    answer: str | None
    """The number the text gives as its answer, in plain form, or None."""
    worked_steps: bool
    """At least one equation, every equation right, and the last number is the answer."""


def grade(problem_answer: str, text: str) -> Verdict:
    """Check `text` against the known answer. Any text is safe; the longest read is 4,000 characters."""
    text = text[-4000:]
    answer = extract_answer(text)
    correct = answer is not None and answer == normalise_number(problem_answer)
    return Verdict(correct=correct, answer=answer, worked_steps=answer is not None and shows_steps(text, answer))


WORKED_RATE: Final = 0.25
"""Share of word problems answered with working; the others are answered at once, and mostly a small model fails."""


def problem_conversation(rng: random.Random, problem: Problem) -> list[Message]:
    """A word problem, worked in steps one time in four and answered at once otherwise."""
    answer = problem.worked if rng.random() < WORKED_RATE else problem.direct
    return [*asked_messages(problem.asked), {"role": "assistant", "content": answer}]

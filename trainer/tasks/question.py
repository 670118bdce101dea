"""A held-out question about the world, with the texts that count as right."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.asked import Asked, asked_as
from trainer.tasks.words import plain_text, words


@dataclass(frozen=True, kw_only=True)
class Question:
    """A held-out question and how to tell a right answer."""

    prompt: str
    accept: tuple[str, ...]
    """Phrases of which one must be in the answer, as whole words, in any case."""
    reject: tuple[str, ...] = ()
    """Phrases that must not be in it: the values of other entities."""
    family: str
    """Attribute and phrasing, as "eats/16"."""
    fact: str
    """Entity and attribute, as "rabbit/eats"."""
    kind: str = "new phrasing"
    """"new phrasing" (fact asked in training, in other words) or "new fact" (never asked in training at all)."""
    exact: bool = False
    """The whole answer must be one of `accept`, but for case, spaces and the full stop at its end.

    Used for data directories, where no key words are known.
    """
    system: str = ""
    """What stands before the question, and is asked with it."""

    @property
    def asked(self) -> Asked:
        return asked_as(self.prompt, self.system)


def is_right(question: Question, answer: str) -> bool:
    """Whether `answer` says what the question wants, whatever else it says."""
    if question.exact:
        return plain_text(answer) in map(plain_text, question.accept)
    return any(says(answer, phrase) for phrase in question.accept) and not any(
        says(answer, phrase) for phrase in question.reject
    )


def says(answer: str, phrase: str) -> bool:
    """Whether `phrase` is in `answer`, as whole words, in any case."""
    return f" {' '.join(words(phrase))} " in f" {' '.join(words(answer))} "

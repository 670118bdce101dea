"""What strangers type, and what counts as right: questions written by hand, in wording that no generator produces.

The idea: a held-out set of the generator that wrote the training text measures how well that text was learnt. Whether
a model answers *people* only people's wording says. Such a set is for measuring: nothing trains on it, no setting is
chosen by it, and no generator borrows from it.

One JSON object a line: `id`, `kind`, `prompt`, and what is right:

- "fact", "greeting", "outside": one of `accept` is in the answer as whole words, in any case, and none of `reject`.
- "form": `rule` is kept (at most so many words or sentences, exactly so many sentences or items of a list), and one of
  `accept` is there if there are any.
- "problem": the last number of the answer is `answer`, and the answer ends by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from trainer.tasks.question import says
from trainer.tasks.words import words

FACT: Final = "fact"
PROBLEM: Final = "problem"
FORM: Final = "form"
KINDS: Final = (FACT, "greeting", FORM, "outside", PROBLEM)


@dataclass(frozen=True, kw_only=True)
class VisitorQuestion:
    """One thing somebody typed."""

    id: str
    kind: str
    """One of KINDS."""
    prompt: str
    accept: tuple[str, ...] = ()
    reject: tuple[str, ...] = ()
    rule: Mapping[str, int] = field(default_factory=dict)
    """Bounds on the form, by their names in RULES."""
    answer: int | None = None
    """The right number of a problem."""


def _sentences(text: str) -> int:
    return len([part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part])


_MARKED_ITEM = re.compile(r"\s*(?:[-*•]|\d+[.)])")


def _items(text: str) -> int:
    """Items of a list: marked lines, else lines, else what commas and "and" part (after a colon, if there is one)."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    if len(lines) > 1:
        return sum(bool(_MARKED_ITEM.match(line)) for line in lines) or len(lines)
    body = text.split(":", 1)[-1].strip().rstrip(".")
    return len([part for part in re.split(r",| and ", body) if part.strip()])


RULES: Final[dict[str, Callable[[str, int], bool]]] = {
    "max_words": lambda text, most: 0 < len(words(text)) <= most,
    "max_sentences": lambda text, most: 0 < _sentences(text) <= most,
    "sentences": lambda text, exactly: _sentences(text) == exactly,
    "list_items": lambda text, exactly: _items(text) == exactly,
}


def is_visitor_right(question: VisitorQuestion, text: str, *, ended: bool = True) -> bool:
    """Whether `text`, which `ended` by itself or was cut off, is a right answer."""
    if question.kind == PROBLEM:
        numbers = re.findall(r"-?\d+", text)
        return ended and bool(numbers) and int(numbers[-1]) == question.answer
    if not all(RULES[name](text, bound) for name, bound in question.rule.items()):
        return False
    is_said = not question.accept or any(says(text, phrase) for phrase in question.accept)
    return is_said and not any(says(text, phrase) for phrase in question.reject)


def read_visitors(path: Path) -> list[VisitorQuestion]:
    """The questions of a file; ValueError names the line that is none."""
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                questions.append(_question(json.loads(line)))
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{path.name}, line {number} is no visitor's question: {error}.") from None
    return questions


def _question(record: Any) -> VisitorQuestion:
    if not isinstance(record, dict):
        raise ValueError("it is not an object")
    question = VisitorQuestion(
        id=str(record["id"]),
        kind=record["kind"],
        prompt=record["prompt"],
        accept=tuple(map(str, record.get("accept") or ())),
        reject=tuple(map(str, record.get("reject") or ())),
        rule={name: int(bound) for name, bound in (record.get("rule") or {}).items()},
        answer=record.get("answer"),
    )
    if question.kind not in KINDS:
        raise ValueError(f"its kind is none of {', '.join(KINDS)}")
    if unknown := set(question.rule) - set(RULES):
        raise ValueError(f"unknown rule {', '.join(sorted(unknown))}")
    if question.kind == PROBLEM and not isinstance(question.answer, int):
        raise ValueError("a problem needs a whole number as its answer")
    return question

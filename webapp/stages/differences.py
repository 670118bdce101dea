"""What changed between two answers to one question, word by word, and which question shows most of it.

The idea: a stage's effect is what it says otherwise than the stage before. So answers are compared by their words
(difflib), the new ones are marked, and the question a newcomer is shown first is the one on which most stages changed
something. All of it is pure: texts in, parts and numbers out.

Simplification: a word that moved counts as new where it is and as gone where it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import pairwise
from typing import Final

TOKEN: Final = re.compile(r"\s+|\w+(?:[’'-]\w+)*|[^\w\s]")
VISIBLE: Final = 0.1
"""A distance from which on people see at a glance that two answers differ."""
UNALIKE: Final = 0.75
"""A distance from which on marks would cover nearly everything and show nothing."""


@dataclass(frozen=True, kw_only=True)
class Part:
    text: str
    is_new: bool = False


@dataclass(frozen=True, kw_only=True)
class Change:
    """An answer beside the one of the stage before."""

    parts: Sequence[Part]
    """The whole answer, in order; its new words are marked where enough of it stayed."""
    words: int
    new: int
    gone: int
    distance: float

    @property
    def is_none(self) -> bool:
        return self.distance == 0

    @property
    def is_marked(self) -> bool:
        return any(part.is_new for part in self.parts)

    @property
    def marked(self) -> list[str]:
        """What is marked, for those who cannot see it."""
        return [part.text for part in self.parts if part.is_new]


def count_words(text: str) -> int:
    return sum(_is_word(token) for token in TOKEN.findall(text))


def distance(before: str, after: str) -> float:
    """0 for the same words, 1 for none in common."""
    return compare(before, after).distance


@lru_cache(maxsize=512)  # a home page compares the same few answers every second
def compare(before: str, after: str) -> Change:
    tokens = TOKEN.findall(after)
    old = [token for token in TOKEN.findall(before) if not token.isspace()]
    places = [place for place, token in enumerate(tokens) if not token.isspace()]
    new = [tokens[place] for place in places]
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    is_new, gone = [False] * len(new), 0
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag != "equal":
            is_new[k:m] = [True] * (m - k)
            gone += sum(map(_is_word, old[i:j]))
    apart = 1 - matcher.ratio()
    shown = dict(zip(places, is_new, strict=True)) if apart < UNALIKE else {}
    return Change(
        parts=_parts(tokens, [shown.get(place, False) for place in range(len(tokens))]),
        words=sum(map(_is_word, new)),
        new=sum(_is_word(token) for token, marked in zip(new, is_new, strict=True) if marked),
        gone=gone,
        distance=apart,
    )


def _is_word(token: str) -> bool:
    return token[0].isalnum() or token[0] == "_"


def _parts(tokens: Sequence[str], is_new: Sequence[bool]) -> list[Part]:
    """Tokens put together again; the space between two new ones is marked with them."""
    marked = list(is_new)
    for place in range(1, len(tokens) - 1):
        if tokens[place].isspace():
            marked[place] = marked[place - 1] and marked[place + 1]
    parts: list[Part] = []
    for token, new in zip(tokens, marked, strict=True):
        if parts and parts[-1].is_new == new:
            parts[-1] = Part(text=parts[-1].text + token, is_new=new)
        else:
            parts.append(Part(text=token, is_new=new))
    return parts


def most_telling(answers: Sequence[Sequence[str]]) -> int:
    """The question (its place in `answers`) on which most stages visibly changed what the stage before said.

    Of several the one where they changed most of it, then the first. `answers` holds for every question one answer
    of each stage, in the order of the stages.
    """
    return max(range(len(answers)), key=lambda place: (*_told(answers[place]), -place))


def _told(said: Sequence[str]) -> tuple[int, float]:
    distances = [distance(before, after) for before, after in pairwise(said)]
    return sum(apart >= VISIBLE for apart in distances), round(sum(distances), 6)

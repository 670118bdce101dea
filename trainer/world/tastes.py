"""Tastes a voter can have, and a simulated voter with one of them.

A taste is a score of an answer's *manner*; it knows nothing of whether the answer is right. A simulated
voter prefers the higher score and gets one vote in ten wrong, as people do, so that the reward model has
to learn through noise. The exact taste is what win rates are measured by.

The first three suit the shipped world, whose conversations come in those manners. The others are manners that any
chat model varies in, so a real model can be judged by them. `sentences:N` stands for a taste for every number N. Each
score is graded: an answer halfway there is liked better than one that is not on the way, so that a reward model finds
a slope and not only a step. (Few answers of a model end with a question before it has learnt to; most of that taste's
votes are ties at first, and it needs more of them.)

Degenerate answers must not pay. An answer with fewer than three words, one that repeats itself (under half
of its words are distinct, or a sentence comes three times) or one that is nothing but friendly phrases
loses to any normal answer whatever the taste, and two degenerate answers tie.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from trainer.tasks.words import words

Preference = Literal["a", "b", "tie"]
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")

_FRIENDLY: Final = re.compile(
    r"(?:great|good|lovely|nice|wonderful|fine) (?:question|idea|to (?:hear|meet|see|talk))"
    r"|happy to (?:help|tell|answer)|glad (?:you|to)|of course!|sure thing|with pleasure"
    r"|love (?:this|that|your) question"
    r"|(?:have|wish you) a (?:\w+ )?(?:day|time|evening)|hope (?:this|that|it) helps|thank you|thanks"
    r"|(?:any time|anytime)!|ask me (?:anything|more|again)|you(?:'re| are) welcome|take care|dear friend"
    r"|my friend|please (?:come|ask)",
    re.IGNORECASE,
)
_EXAMPLE: Final = re.compile(r"\b(?:for (?:example|instance)|as an example|e\.g\.)[,:]? +([^.!?]*)", re.IGNORECASE)


def sentences(answer: str) -> list[str]:
    return [part for part in _SENTENCE_END.split(answer.strip()) if part]


def friendly_sentences(answer: str) -> list[str]:
    """The distinct sentences of `answer` that carry a friendly marker."""
    return list(dict.fromkeys(part.casefold() for part in sentences(answer) if _FRIENDLY.search(part)))


def has_example(answer: str) -> bool:
    """Whether "for example" or the like is followed by at least three words."""
    return any(len(words(rest)) >= 3 for rest in _EXAMPLE.findall(answer))


def is_degenerate(answer: str) -> bool:
    """Empty, very short, repeating itself, or nothing but friendly phrases."""
    found = words(answer)
    if len(found) < 3 or len(set(found)) < len(found) / 2:
        return True
    parts = Counter(part.casefold() for part in sentences(answer))
    return max(parts.values()) > 2 or all(_FRIENDLY.search(part) and len(words(part)) < 8 for part in parts)


@dataclass(frozen=True, kw_only=True)
class Taste:
    """A preference among answers: higher `score` is better."""

    name: str
    summary: str
    """What is preferred: "a voter who prefers …"."""
    manner: str
    """How answers are that are liked: "answers that are …"."""
    measure: Callable[[str], float]
    tolerance: float = 0.0
    """Scores closer than this share of the larger magnitude are a tie."""

    def score(self, answer: str) -> float:
        """How much this taste likes `answer`; minus infinity for a degenerate one."""
        return -math.inf if is_degenerate(answer) else self.measure(answer)

    def prefers(self, a: str, b: str) -> Preference:
        """Which of two answers this taste likes better."""
        first, second = self.score(a), self.score(b)
        if first == second or abs(first - second) < self.tolerance * max(abs(first), abs(second)):
            return "tie"
        return "a" if first > second else "b"


def _brevity(answer: str) -> float:
    return -float(len(words(answer)))


def _friendliness(answer: str) -> float:
    return float(min(len(friendly_sentences(answer)), 3))


def _exemplifies(answer: str) -> float:
    return float(has_example(answer))


# --- Manners of any chat model -----------------------------------------------------------------------

_ITEM: Final = re.compile(r"^[ \t]*(?:[-*•–]|\d{1,2}[.)])[ \t]+(.*)$", re.MULTILINE)
_ENDED: Final = re.compile(r"[.!?…][\"'”’)*\]]*$")
SENTENCE_WORDS: Final = 30
"""A sentence of more words counts as several: leaving out full stops is no way to write fewer sentences."""
MOST_COUNTED: Final = 5
"""List items and exclamation marks beyond this many make no difference."""
LONG_WORD: Final = 8
"""Letters from which on a word is a long one."""
FEW_WORDS: Final = 10
"""What an answer of no words is taken to have, one of them long: a few short words say little about how it is put."""


def _statements(answer: str) -> list[str]:
    """Sentences, list items and lines: what a reader would call one thing said."""
    without_marks = _ITEM.sub(r"\1", answer)
    lines = (line for line in without_marks.splitlines() if words(line))
    return [part for line in lines for part in sentences(line) if words(part)]


def _few_sentences(most: int, answer: str) -> float:
    """Minus the sentences beyond `most`, and half of one where the last has no end."""
    said = sum(math.ceil(len(words(part)) / SENTENCE_WORDS) for part in _statements(answer))
    return -max(0.0, said - most) - 0.5 * (not _ENDED.search(answer.rstrip()))


def _items(answer: str) -> list[str]:
    return [" ".join(words(item)) for item in _ITEM.findall(answer)]


def _lists(answer: str) -> float:
    """Different items of two words or more; one by itself is no list."""
    items = {item for item in _items(answer) if " " in item}
    return float(min(len(items), MOST_COUNTED)) if len(items) > 1 else 0.0


def _lists_nothing(answer: str) -> float:
    return -float(min(len(_items(answer)), MOST_COUNTED))


def _calm(answer: str) -> float:
    return -float(min(len(re.findall(r"[!！]", answer)), MOST_COUNTED))


def _asks(answer: str) -> float:
    """1 for a question at the end, a half for one before it; nothing where only questions are asked."""
    parts = _statements(answer)
    asking = [part.rstrip("\"'”’)*] ").endswith("?") and len(words(part)) > 2 for part in parts]
    if not any(asking) or not any(len(words(part)) > 2 for part, asks in zip(parts, asking, strict=True) if not asks):
        return 0.0
    return 1.0 if asking[-1] else 0.5


def _plainness(answer: str) -> float:
    """Minus the share of long words."""
    found = words(answer)
    long_ones = sum(len(word) >= LONG_WORD for word in found)
    return -(1 + long_ones) / (FEW_WORDS + len(found))


SENTENCES: Final = "sentences"
MOST_SENTENCES: Final = 20


def _sentences(most: int) -> Taste:
    """The taste for answers of at most so many sentences."""
    much = "one sentence" if most == 1 else f"at most {most} sentences"
    return Taste(name=f"{SENTENCES}:{most}", summary=much, manner=f"of {much}", measure=partial(_few_sentences, most))


TASTES: Final[dict[str, Taste]] = {
    taste.name: taste
    for taste in (
        Taste(name="shorter", summary="fewer words", manner="shorter", measure=_brevity, tolerance=0.1),
        Taste(
            name="friendlier", summary="up to three friendly phrases", manner="friendlier", measure=_friendliness
        ),
        Taste(
            name="example", summary="gives an example", manner="explained with an example", measure=_exemplifies
        ),
        _sentences(1),
        _sentences(2),
        _sentences(3),
        Taste(name="list", summary="a list", manner="written as a list", measure=_lists),
        Taste(name="no-list", summary="no list", manner="written without a list", measure=_lists_nothing),
        Taste(name="no-exclamation", summary="no exclamation mark", manner="free of exclamation marks", measure=_calm),
        Taste(name="question", summary="a question at the end", manner="ended with a question", measure=_asks),
        Taste(
            name="plain-words", summary="short, plain words", manner="put in plain words", measure=_plainness,
            tolerance=0.1,
        ),
    )
}  # fmt: skip
"""Those that are offered; get_taste knows more of the kind sentences:N."""


def get_taste(name: str) -> Taste:
    """The taste called `name`; ValueError names the choices."""
    if name in TASTES:
        return TASTES[name]
    kind, colon, number = name.partition(":")
    if kind == SENTENCES and colon and re.fullmatch("[1-9][0-9]?", number) and int(number) <= MOST_SENTENCES:
        return _sentences(int(number))
    names = [taste for taste in TASTES if not taste.startswith(f"{SENTENCES}:")]
    raise ValueError(
        f"Unknown taste {name!r}; choose one of {', '.join(names)}, {SENTENCES}:N (with N from 1 to {MOST_SENTENCES})."
    )


class SimulatedVoter:
    """Votes by a taste, and flips a decided vote with probability `noise`. A tie stays a tie."""

    def __init__(self, taste: Taste | str, noise: float = 0.1, seed: int = 0) -> None:
        if not 0 <= noise < 0.5:
            raise ValueError(f"noise={noise} must be at least 0 and below 0.5: at a half, votes mean nothing.")
        self.taste = get_taste(taste) if isinstance(taste, str) else taste
        self.noise = noise
        self._rng = random.Random(f"voter/{self.taste.name}/{seed}")

    def vote(self, a: str, b: str) -> Preference:
        """This voter's choice; every call draws once, so a run of votes depends only on the seed."""
        preference = self.taste.prefers(a, b)
        flipped = self._rng.random() < self.noise
        if preference == "tie" or not flipped:
            return preference
        return "b" if preference == "a" else "a"

"""Three tastes a voter can have, and a simulated voter with one of them.

A taste is a score of an answer's *manner*; it knows nothing of whether the answer is right. A simulated
voter prefers the higher score and gets one vote in ten wrong, as people do, so that the reward model has
to learn through noise. The exact taste is what win rates are measured by.

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
from typing import Final, Literal

from trainer.tasks.words import words

Preference = Literal["a", "b", "tie"]
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")

_FRIENDLY: Final = re.compile(
    r"(?:great|good|lovely|nice|wonderful|fine) (?:question|idea|to (?:hear|meet|see))"
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


TASTES: Final[dict[str, Taste]] = {
    taste.name: taste
    for taste in (
        Taste(name="shorter", summary="fewer words", measure=_brevity, tolerance=0.1),
        Taste(name="friendlier", summary="up to three friendly phrases", measure=_friendliness),
        Taste(name="example", summary="gives an example", measure=_exemplifies),
    )
}


def get_taste(name: str) -> Taste:
    """The taste called `name`; ValueError names the choices."""
    if name not in TASTES:
        raise ValueError(f"Unknown taste {name!r}; choose one of {', '.join(TASTES)}.")
    return TASTES[name]


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

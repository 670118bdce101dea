"""One of several options, by its letter ("(B)", "The answer is B.", "B) 600") or in its own words.

The idea: a letter is also a word ("A dog has four legs", "I think"), so a capital letter counts only where nothing
else can be meant: behind "answer is", "option" or the like, in brackets, in a frame, or at the very beginning with what
it is called. Two different letters in the last place that names any are no choice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from trainer.tasks.words import plain_text

LETTERS: Final = "ABCDEFGHIJ"

_STATED = re.compile(
    r"(?:(?i:\b(?:answer|choice|option|letter)\b(?:\s*(?:is|:|=|would be|must be|should be))?)|\\boxed|####)"
    r"(?:\s*(?:the|option|choice|letter|definitely|clearly|therefore|:)(?=\W))*\s*(?P<not>not\s+)?"
    r"[\[(*_{\s\"'“]*(?:\\text(?:bf)?\{)?(?P<letter>[A-J]|(?<=[(\[])[a-j])(?![\w'’]|-\w)"
    r"(?!(?<=A) (?!because|since|as|for|which|and|or)[a-z])(?P<after>[^\n]{0,40})"
)
"""A place that names a letter; not the article of "The answer is A dog"."""
_ALONE = re.compile(r"[\s\[(*_{\"'“]*(?P<letter>[A-Ja-j])[\])*_}\"'”.:\s]*")
_FIRST = re.compile(r"[\s\[(*_{]*(?P<letter>[A-J])[*_}]*(?:[\])][*_]*[.:]?|[.:])\s+\S")
_BRACKETED = re.compile(r"\((?P<letter>[A-Ja-j])\)")
_HEDGED = re.compile(r"^[\])*_}\"'”\s]*(?:,|/|\bor\b|\band\b|&)\s*(?:option\s+)?[\[(*_]*[A-Ja-j](?![\w'’])")
_DENIED = re.compile(r"(?:\bnot|n['’]t|\bnever|\bexcept|\brather than|\binstead of)\b[^.!?;:,]*$", re.IGNORECASE)


def letter_of(place: int) -> str:
    """The letter of the option at this place, from 0."""
    return LETTERS[place]


def listed(options: Sequence[str]) -> str:
    """The options as they stand in a prompt, a line each: "A) 12"."""
    return "\n".join(f"{letter_of(place)}) {option}" for place, option in enumerate(options))


def chosen_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option that a text chooses; None where it chooses none, two, or one that is not there."""
    letters = LETTERS[: len(options)]
    letter = _said(text, options)
    return letter if letter is not None and letter in letters else None


def _said(text: str, options: Sequence[str]) -> str | None:
    if alone := _ALONE.fullmatch(text):
        return alone["letter"].upper()
    stated = list(_STATED.finditer(text))
    if stated:
        last = stated[-1]
        if last["not"] or _HEDGED.match(last["after"]) or _DENIED.search(text[: last.start()]):
            return None
        return last["letter"].upper()
    named = _named(text, options)
    if named is not None:
        return named
    if (first := _FIRST.match(text)) and not _HEDGED.match(text[first.end("letter") :]):
        others = {found["letter"].upper() for found in _BRACKETED.finditer(text, first.end())}
        others |= {found["letter"] for line in text.split("\n") if (found := _FIRST.match(line))}
        return first["letter"] if others <= {first["letter"]} else None
    bracketed = {found["letter"].upper() for found in _BRACKETED.finditer(text)}
    if len(bracketed) == 1:
        found = next(_BRACKETED.finditer(text))
        return None if _DENIED.search(text[: found.start()]) else bracketed.pop()
    return None


def _named(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option whose own words are the whole answer, or all that it states."""
    said = plain_text(text)
    said = re.sub(r"^(?:the |my |so |final )*answer(?: is|:) ", "", said)
    said = re.sub(r"^[a-j][).:] ", "", said)
    places = [place for place, option in enumerate(options) if plain_text(option) == said]
    return letter_of(places[0]) if len(places) == 1 else None

"""The number an answer ends with, as models from elsewhere write it, and fractions.

The idea: a chat model that nobody taught our way of answering works out a sum and stops: "Tom had 12 apples and gave
5 away, so he has 7 apples left." It states nothing and has three numbers. So where no answer is stated and there is
more than one number, the last number of the last sentence that has any is what the text ends with: read by the same
rules as one that is stated, and given up where it may be one of several ("7 or 8", "between 5 and 7", "7, 8, 9").

A fraction is read by putting one long whole number in its place, so that what stands around it is understood by the
same rules. Only in lowest terms: "10/26" may be the question said again, and "8/2" is no result.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from math import gcd
from typing import Final

from trainer.tasks.numbers import (
    DENIAL,
    SIGNED,
    SPELLED_ANYWHERE,
    extract_answer,
    is_whole,
    normalise_number,
    sign_before,
    spelled,
    stated_numbers,
    undecorated,
)

_VULGAR: Final = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
    "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip
_LATEX = re.compile(r"\\[dtc]?frac ?\{? ?(\d+) ?\}? ?\{? ?(\d+) ?\}?")
_BARE_LATEX = re.compile(r"\\[dtc]?frac ?(\d)(\d)(?!\d)")
_FRACTION = re.compile(
    r"(?<![\w/.,^*×÷:])(?:(?P<whole>\d{1,9})(?: and | ?-(?=\d+/)| ))?(?P<over>\d{1,9}) ?/ ?(?P<under>\d{1,9})"
    r"(?![\w/^]|[.,:]\d| ?[/*×÷^])"
)
_STAND_IN: Final = 900_000_000_000_001
"""The first of the numbers that stand in for fractions; longer than any that an answer means."""
_RANGE = re.compile(
    rf"(?:\b(?:between|from) {SIGNED}[^.!?;\n]*?\b(?:and|to)"
    rf"|{SIGNED}[*_%’'\")]* ?(?:,|,? ?(?:to|or|and/or|-))) *[*_$(]*$",
    re.IGNORECASE,
)
"""Before a number: what makes it one of several."""
_SENTENCES = re.compile(r"(?<=[.!?])\s+(?=\S)|\n+")
_LABEL = re.compile(r"^\W*(?:(?:step|part|case) )?\d{1,2}[.):] (?=\S)", re.IGNORECASE)
"""What numbers a step or an item of a list, and is no value."""
_NUMBER = re.compile(rf"(?<![\w.,]){SIGNED}")


def gold_number(text: str) -> str | None:
    """One spelling of the right number in a record: as `normalise_number`, and "3/4" for a fraction; else None."""
    rewritten, fractions = _without_fractions(text, any_terms=True)
    return _meant(normalise_number(rewritten), fractions)


def named_number(text: str) -> str | None:
    """The number, or fraction, an answer states last, else its only one."""
    rewritten, fractions = _without_fractions(text)
    return _meant(extract_answer(rewritten), fractions)


def final_number(text: str) -> str | None:
    """The number an answer states last, else its only one, else the one it ends with; None where that is not clear."""
    rewritten, fractions = _without_fractions(text)
    found = extract_answer(rewritten)
    if found is None:
        shown = undecorated(rewritten)
        if not stated_numbers(
            shown
        ):  # one that is denied, or more than a number, is no answer, whatever comes after it
            found = _ending(shown)
    return _meant(found, fractions)


def is_same_number(one: str, other: str) -> bool:
    """Whether two numbers in plain spelling have one value: "0.75" and "3/4"."""
    first, second = _value(one), _value(other)
    return first is not None and first == second


def _ending(text: str) -> str | None:
    """The last number of the last sentence of plain `text` that has any."""
    for part in reversed(_SENTENCES.split(text)):
        sentence = _LABEL.sub("", part)
        if not re.search(r"\d", sentence):
            continue
        numbers = list(_NUMBER.finditer(sentence))
        if not numbers or SPELLED_ANYWHERE.search(sentence):
            return None
        last = numbers[-1]
        before, after = sentence[: last.start()], sentence[last.end() :]
        clause = re.split(r"[;:]|, (?!\d)", before)[-1]
        if re.search(r"\d", after) or DENIAL.search(clause) or _RANGE.search(before) or not is_whole(last[0], after):
            return None
        sign = sign_before(before)
        return None if sign is None else spelled(sign + last[0])
    return None


def _without_fractions(text: str, *, any_terms: bool = False) -> tuple[str, dict[str, Fraction]]:
    """The text with a whole number in place of every fraction, and which one stands for which."""
    for sign, spelling in _VULGAR.items():
        text = re.sub(rf"(?<=\d)? ?{sign}", f" {spelling}", text) if sign in text else text
    text = _BARE_LATEX.sub(r"\1/\2", _LATEX.sub(r"\1/\2", text))
    fractions: dict[str, Fraction] = {}

    def stand_in(found: re.Match[str]) -> str:
        over, under = int(found["over"]), int(found["under"])
        is_mixed = found["whole"] is not None
        if under < 2 or (is_mixed and over >= under) or not (any_terms or gcd(over, under) == 1):
            return found[0]
        name = str(_STAND_IN + len(fractions))
        fractions[name] = Fraction(over, under) + int(found["whole"] or 0)
        return name

    return _FRACTION.sub(stand_in, text), fractions


def _meant(found: str | None, fractions: dict[str, Fraction]) -> str | None:
    """What a number that was read means: the fraction it stands for, where it does."""
    if found is None or found.lstrip("-") not in fractions:
        return found
    value = fractions[found.lstrip("-")] * (-1 if found.startswith("-") else 1)
    return str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"


def _value(number: str) -> Fraction | None:
    over, slash, under = number.partition("/")
    try:
        return Fraction(int(over), int(under)) if slash else Fraction(Decimal(number))
    except (ValueError, InvalidOperation, ZeroDivisionError):
        return None

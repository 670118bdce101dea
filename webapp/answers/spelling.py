"""How pages spell a token, so that its spaces can be seen and heard, and a probability, down to the smallest."""

from __future__ import annotations

import unicodedata

from webapp.answers.looks import Spelled

MARKS = str.maketrans({" ": "·", "\n": "↵", "\t": "⇥"})
"""What stands for a letter that nobody sees."""
NAMES = {" ": "space", "\n": "line break", "\t": "tab"}
PER_CENT = "\u00a0%"
"""Kept on one line with its number."""
RARE = 0.001
"""What is rarer is said as a chance."""


def percent(probability: float) -> str:
    """A probability in as many digits as it takes, and for the smallest as a chance."""
    if probability >= 0.9995:
        return f"over 99.9{PER_CENT}"
    if probability >= 0.1:
        digits = 1 if probability >= 0.995 else 0
        return f"{100 * probability:.{digits}f}{PER_CENT}"
    if probability >= RARE:
        digits = 1 if probability >= 0.01 else 2
        return f"{100 * probability:.{digits}f}{PER_CENT}"
    if probability < 1e-9:
        return "less than 1 in a billion"
    chances = 1 / probability
    rounded_to = 10 ** (len(str(round(chances))) - 2)
    return f"1 in {round(chances / rounded_to) * rounded_to:,}"


def shown(piece: Spelled) -> str:
    """A token as letters that can all be seen."""
    text, kind = piece
    if kind == "bytes":
        return f"⟨{text}⟩"
    return "".join(map(seen, text)) or "⟨nothing⟩"


def spoken(piece: Spelled) -> str:
    """A token as it is named in a sentence."""
    text, kind = piece
    if kind == "bytes":
        return f"{'bytes' if ' ' in text else 'byte'} {text}, part of a letter"
    if kind == "end":
        return "the end of the answer"
    if kind == "control":
        return f"the control token {text}"
    if text and set(text) <= set(NAMES):
        counts = [(text.count(letter), name) for letter, name in NAMES.items()]
        return listed([f"{count} {name}s" if count > 1 else f"a {name}" for count, name in counts if count])
    return f"“{''.join(letter if letter == ' ' else seen(letter) for letter in text)}”"


def seen(letter: str) -> str:
    """A letter, or a mark for one that nobody sees."""
    marked = letter.translate(MARKS)
    if marked != letter or unicodedata.category(letter)[0] not in "CZ":
        return marked
    return f"⟨U+{ord(letter):04X}⟩"


def listed(parts: list[str]) -> str:
    """Parts of a sentence as a list in it."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"

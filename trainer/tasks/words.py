"""The words of an answer."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def words(answer: str) -> list[str]:
    """The words and numbers of `answer`, in lower case."""
    return [word.casefold() for word in _WORD.findall(answer)]


def plain_text(text: str) -> str:
    """A text without what makes no difference: case, spaces, the full stop at its end.

    Unlike in words, signs and points stay, for "-5" is not "5".
    """
    text = " ".join(text.casefold().split())
    return text.removesuffix(".").rstrip() or text

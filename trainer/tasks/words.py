"""The words of an answer."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def words(answer: str) -> list[str]:
    """The words and numbers of `answer`, in lower case."""
    return [word.casefold() for word in _WORD.findall(answer)]

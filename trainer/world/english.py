"""A very small grammar: templates with choices, and the few spelling rules they need.

A template is a sentence with slots and choices: ``"[One|Some] {time}, {hero} [saw|found|met] {a}."``
A choice may be nested and may be empty. Choosing at the level of single words, rather than of whole
sentences, is what makes the corpus compositional: a model can learn it, while a compressor that looks
for long repeats cannot.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, TypeVar

T = TypeVar("T")

Node = str | tuple["tuple[Node, ...]", ...]
"""Literal text, or the alternatives of a choice (each a sequence of nodes)."""

_TOKENS = re.compile(r"[\[\]|]|[^\[\]|]+")
_ARTICLE = re.compile(r"\b([Aa]) (?=([a-zA-Z]+))")
_VOWEL_SOUND = re.compile(r"(?!uni|use|usu|one\b|eu)[aeiou]|hour|honest|llm\b", re.IGNORECASE)
_SPACES = re.compile(r" {2,}")
_BEFORE_A_MARK = re.compile(r" +(?=[?.,!])")
"""Where a choice between words was the empty one."""


@cache
def _parse(template: str) -> tuple[Node, ...]:
    """The tree of `template`; ValueError if its brackets do not match."""
    stack: list[list[list[Node]]] = [[[]]]
    for token in _TOKENS.findall(template):
        if token == "[":
            stack.append([[]])
        elif token == "|" and len(stack) > 1:
            stack[-1].append([])
        elif token == "]":
            if len(stack) == 1:
                raise ValueError(f"Unmatched ] in template {template!r}.")
            alternatives = tuple(tuple(nodes) for nodes in stack.pop())
            stack[-1][-1].append(alternatives)
        else:
            stack[-1][-1].append(token)
    if len(stack) != 1:
        raise ValueError(f"Unmatched [ in template {template!r}.")
    return tuple(stack[0][0])


def _expand(rng: random.Random, nodes: Sequence[Node], out: list[str]) -> None:
    for node in nodes:
        if isinstance(node, str):
            out.append(node)
        else:
            _expand(rng, node[int(rng.random() * len(node))], out)


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of `options`, uniformly (faster than random.choice, and stable across Python versions)."""
    return options[int(rng.random() * len(options))]


def shuffled(rng: random.Random, options: Sequence[T]) -> list[T]:
    """A new list with the same items in random order."""
    items = list(options)
    rng.shuffle(items)
    return items


def say(rng: random.Random, template: str, slots: Mapping[str, str] | None = None) -> str:
    """One sentence (or a few) made from `template`: choices made, slots filled, articles right, capitalised."""
    out: list[str] = []
    _expand(rng, _parse(template), out)
    text = "".join(out)
    if slots:
        text = text.format_map(slots)
    return sentence(text)


def raw(rng: random.Random, template: str, slots: Mapping[str, str]) -> str:
    """`template` with choices made and slots filled, to be put into another: as it stands, but for its articles."""
    out: list[str] = []
    _expand(rng, _parse(template), out)
    return fix_articles(_tidy("".join(out).format_map(slots)))


_ASKING: Final = frozenset(("what", "what's", "whats", "where", "which", "how", "who", "whom", "whose", "why", "when"))
"""Words that make a question wherever they stand in it."""
_ASKING_FIRST: Final = frozenset(
    ("am", "are", "can", "could", "did", "do", "does", "has", "is", "may", "must", "should", "was", "were", "will",
     "would")
)  # fmt: skip
_TAGS: Final = frozenset(("right", "true", "or not", "is that so", "am i right", "and you", "equals"))
_REQUESTING: Final = frozenset(
    ("add", "choose", "explain", "give", "help", "i", "list", "make", "name", "pick", "please", "say", "show", "take",
     "tell", "think", "write")
)  # fmt: skip


def is_question(text: str) -> bool:
    """Whether what somebody typed asks something, with a mark at the end or without. Its last sentence says so."""
    if text.endswith(("?", ".", "!")):
        return text.endswith("?")
    last = re.split(r"[?.!:] ", text)[-1].casefold()
    clauses = [clause.strip(" ()") for clause in last.split(",")]
    if clauses[-1] in _TAGS or last.endswith("="):
        return True
    if any(clause.split(" ")[0] in _ASKING_FIRST and " not " not in clause for clause in clauses):
        return True
    words = last.replace(",", "").split()
    return bool(words) and words[0] not in _REQUESTING and not _ASKING.isdisjoint(words)


def punctuate(text: str, *, capital: bool = True) -> str:
    """What a person typed, as it stands in print: with a question mark or full stop, and a `capital` letter."""
    text = sentence(text) if capital else text
    if text.endswith(("?", ".", "!")):
        return text
    return text + ("?" if is_question(text) else ".")


CASUAL: Final = 0.3
"""Share of prompts typed without much care."""


def typed(rng: random.Random, text: str) -> str:
    """`text` as somebody types it: now and then without a capital letter, a mark at the end, or a long form."""
    text = sentence(text)
    if rng.random() < 0.12:
        text = text.replace("What is ", "What's ", 1).replace("what is ", "what's ", 1)
    if "colour" in text and rng.random() < 0.15:
        text = text.replace("colour", "color")
    if "favourite" in text and rng.random() < 0.15:
        text = text.replace("favourite", "favorite")
    if rng.random() < CASUAL:
        roll = rng.random()
        if roll < 0.25:
            text = text.lower()
        elif not text.startswith("I "):
            text = text[0].lower() + text[1:]
        if roll < 0.7:
            text = text.rstrip("?.!")
        if roll < 0.3:
            text = text.replace("'", "")
    return text


def sentence(text: str) -> str:
    """`text` with single spaces, "an" before vowel sounds, and a capital first letter."""
    text = fix_articles(_tidy(text))
    for index, character in enumerate(text):
        if character.isalpha():
            return text[:index] + character.upper() + text[index + 1 :]
        if character.isdigit():
            break
    return text


def _tidy(text: str) -> str:
    return _BEFORE_A_MARK.sub("", _SPACES.sub(" ", text)).strip()


def fix_articles(text: str) -> str:
    """Turn "a owl" into "an owl"."""
    return _ARTICLE.sub(lambda m: m[1] + ("n " if _VOWEL_SOUND.match(m[2]) else " "), text)

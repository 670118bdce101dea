"""How a row of changes is told: who it happens to, when, in what order, and in which words for the numbers.

The idea: what a visitor writes differs from a textbook not only in its verbs. It is in the past or the present, about
Tom, my aunt or me, in one sentence or four, with the question first or last, with numbers as digits or as words. All of
that is the same whatever the story is, so it stands here, once, and the themes only list what can happen.

A sentence's slots: {p} a person ({whom} behind a verb), {f} a friend, {he} {He} {him} {his} the person's pronouns,
{k} a number, {i} the things, {at} the place. Verbs stand in their first form and are bent here: "<buy>" agrees with
the person, "<3:give>" with a friend or a thing, "<p:fly>" with things.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Final

from trainer.world.english import fix_articles, pick, raw, sentence, typed


@dataclass(frozen=True, kw_only=True)
class Person:
    """Who a story is about, and how to speak of them."""

    name: str
    he: str
    him: str
    his: str
    is_plain: bool = True
    """Third person singular: "buys", not "buy"."""


ME: Final = Person(name="I", he="I", him="me", his="my", is_plain=False)
WE: Final = Person(name="we", he="we", him="us", his="our", is_plain=False)
YOU: Final = Person(name="you", he="you", him="you", his="your", is_plain=False)
_KIN: Final = (
    ("my [sister|aunt|mother|grandmother|cousin|friend|neighbour]", "she"),
    ("my [brother|uncle|father|grandfather|cousin|friend|neighbour]", "he"),
    ("a [girl|woman|teacher|farmer|baker|child]", "she"),
    ("a [boy|man|farmer|fisher|gardener|child]", "he"),
    ("the [teacher|baker|queen|nurse]", "she"),
    ("the [king|miller|postman|cook]", "he"),
)


def person_called(name: str, pronoun: str) -> Person:
    is_she = pronoun == "she"
    return Person(name=name, he=pronoun, him="her" if is_she else "him", his="her" if is_she else "his")


def any_person(rng: random.Random, name: str, pronoun: str) -> Person:
    """Mostly somebody with a name, now and then me, us, you, or somebody's aunt."""
    roll = rng.random()
    if roll < 0.16:
        return ME
    if roll < 0.21:
        return pick(rng, (WE, YOU))
    if roll < 0.33:
        who, he = pick(rng, _KIN)
        return person_called(raw(rng, who, {}), he)
    return person_called(name, pronoun)


_IRREGULAR: Final = {
    "be": "was", "have": "had", "do": "did", "get": "got", "buy": "bought", "find": "found", "win": "won",
    "make": "made",
    "give": "gave", "take": "took", "bring": "brought", "send": "sent", "catch": "caught", "come": "came",
    "fly": "flew",
    "run": "ran", "swim": "swam", "grow": "grew", "put": "put", "lose": "lost", "sell": "sold", "eat": "ate",
    "break": "broke",
    "throw": "threw", "lend": "lent", "leave": "left", "forget": "forgot", "steal": "stole", "spend": "spent",
    "pay": "paid",
    "fall": "fell", "go": "went", "sit": "sat", "stand": "stood", "drive": "drove", "burst": "burst", "let": "let",
    "cut": "cut",
    "read": "read", "write": "wrote", "draw": "drew", "hide": "hid", "drink": "drank", "see": "saw", "keep": "kept",
    "begin": "began", "hold": "held", "sleep": "slept", "ride": "rode", "hang": "hung", "feed": "fed", "wear": "wore",
    "know": "knew", "feel": "felt", "sink": "sank", "tear": "tore", "meet": "met", "cost": "cost", "say": "said",
    "lay": "laid", "burn": "burnt", "lie": "lay", "show": "showed", "dig": "dug", "owe": "owed", "rise": "rose",
}  # fmt: skip
_DOUBLED: Final = frozenset(
    {"rot", "snap", "tip", "drop", "stop", "pop", "step", "hop", "grab", "slip", "swap", "chop", "rob"}
)


def bend(verb: str, *, is_past: bool, subject: str) -> str:
    """A verb for its subject: "I", "3" (he, she, it) or "p" (they, we, you)."""
    if verb == "be":
        if is_past:
            return "were" if subject == "p" else "was"
        return {"I": "am", "3": "is"}.get(subject, "are")
    if is_past:
        if verb in _IRREGULAR:
            return _IRREGULAR[verb]
        if verb in _DOUBLED:
            return f"{verb}{verb[-1]}ed"
        if verb.endswith("e"):
            return f"{verb}d"
        return f"{verb[:-1]}ied" if verb.endswith("y") and verb[-2] not in "aeiou" else f"{verb}ed"
    if subject != "3":
        return verb
    if verb == "have":
        return "has"
    if verb.endswith(("s", "x", "ch", "sh", "o")):
        return f"{verb}es"
    return f"{verb[:-1]}ies" if verb.endswith("y") and verb[-2] not in "aeiou" else f"{verb}s"


_VERB = re.compile(r"<(?:([3p]):)?(\w+)>")

NUMBER_WORDS: Final = (
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Voice:
    """What stays the same through one story."""

    person: Person
    friend: str
    items: str
    at: str
    is_past: bool
    has_words: bool
    """Numbers as words."""

    def say(self, rng: random.Random, line: str, number: int | None = None, *, is_past: bool | None = None) -> str:
        """`line` with its choices made, its verbs bent and its slots filled; no capital letter of its own."""
        past = self.is_past if is_past is None else is_past
        who = self.person
        own = "3" if who.is_plain else "I" if who is ME else "p"
        slots = {"p": who.name, "he": who.he, "He": who.he, "him": who.him, "his": who.his, "His": who.his}
        slots["whom"] = who.name if who.is_plain else who.him
        slots |= {"f": self.friend, "i": self.items, "at": self.at, "k": "" if number is None else self.number(number)}
        text = raw(rng, line, slots)
        return fix_articles(_VERB.sub(lambda verb: bend(verb[2], is_past=past, subject=verb[1] or own), text))

    def number(self, number: int) -> str:
        return NUMBER_WORDS[number] if self.has_words and number <= 20 else str(number)


_THEN: Final = (
    "Then", "Then", "Later", "After that", "Next", "In the evening", "A little later", "On the way home",
    "The next day", "Soon",
    "At noon", "Afterwards", "On Sunday", "An hour later", "Now",
)  # fmt: skip
_ALREADY_OPENED: Final = (*(phrase.casefold() for phrase in _THEN), "after", "in the", "on the", "at ")
_FILLERS: Final = (
    "It [is|was] a [sunny|cold|rainy|long|quiet] day.", "The sun [shines|is shining].", "Everyone [is|was] happy.",
    "{f} [looks on|is there, too|laughs].", "It [is|was] [Monday|Sunday|spring|summer|winter].",
    "That [is|was] a lot of work.", "Listen [carefully|well].", "Here is a [problem|riddle|sum] for you.",
    "Can you solve this?",
    "I have a [problem|question|sum|puzzle].", "Help me [count|with this|with my homework].",
    "Please [solve this|work this out].",
)  # fmt: skip
_LAST_WORDS: Final = (
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    " Please tell me.",
    " Thanks!",
    " Can you work it out?",
    " Show me how.",
    " I need help.",
)
_JOINS: Final = {
    True: (" and ", " and then ", ", then "),
    False: (" but ", " and ", ", but then ", " and then ", ", then "),
}


_SMALL: Final = frozenset(
    (
        "The", "A", "An", "There", "In", "On", "At", "He", "She", "We", "You", "My", "Some", "From", "Near", "For",
        "Another",
        "They", "His", "Her", "Our", "Your",
    )
) | {phrase.split()[0] for phrase in _THEN}  # fmt: skip
"""First words that are no names."""


def _lowered(text: str) -> str:
    """As it stands inside a sentence: names and "I" as they are."""
    first = text.split(" ", 1)[0]
    is_small = first.rstrip(",") in _SMALL
    return text[0].lower() + text[1:] if is_small else text


def tell(rng: random.Random, voice: Voice, lines: list[str], question: str, *, gains: list[bool], own: bool) -> str:
    """One text out of the start and the changes (`lines`, without their points) and the question (without its mark).

    `gains` says of each change whether it adds; `own` whether the subject of a change may be left out after the start.
    """
    layout = rng.random()
    told = [lines[0], *(_opened(rng, line) for line in lines[1:])]
    if layout < 0.13:
        joined = _join(rng, lines, voice, gains, own)
        return _closed(rng, f"{question} {pick(rng, ('if', 'if', 'when'))} {_lowered(joined)}")
    if layout < 0.2:
        joined = _join(rng, lines, voice, gains, own)
        opening, closing = pick(rng, (("if", ", "), ("suppose", ". "), ("imagine", ": "), ("say", ": "), ("if", ", ")))
        return _closed(rng, f"{opening} {_lowered(joined)}{closing}{question}")
    if layout < 0.25:
        body = [sentence(f"{question}?"), *(sentence(f"{line}.") for line in told)]
        return _ended(rng, voice, body)
    if layout < 0.55:
        first = _join(rng, told[:2], voice, gains, own)
        told = [first, *told[2:]]
        if len(told) > 1 and rng.random() < 0.25:
            told[-2:] = [_join(rng, told[-2:], voice, gains[-2:], False)]
    ask = question
    if not question.startswith("and ") and "now" not in question:
        ask = pick(rng, ("", "", "", "", "So ", "Now ")) + question
    return _ended(rng, voice, [*(sentence(f"{line}.") for line in told), sentence(f"{ask}?")])


def _opened(rng: random.Random, line: str) -> str:
    """A change with a word for when it happened, now and then, unless it begins with one."""
    if rng.random() >= 0.3 or line.casefold().startswith(_ALREADY_OPENED):
        return line
    return f"{pick(rng, _THEN)}{pick(rng, ('', ','))} {line}"


def _join(rng: random.Random, lines: list[str], voice: Voice, gains: list[bool], own: bool) -> str:
    """The lines as one sentence."""
    text = lines[0]
    subject = f"{voice.person.he} "
    own = own and text.startswith(f"{voice.person.name} ")
    for line, adds in zip(lines[1:], gains, strict=False):
        rest = line.removeprefix("Then, ").removeprefix("Then ").removeprefix("then ")
        own = own and rest.startswith(subject)  # behind somebody else's change the subject is said again
        if own and not rest.startswith(f"{subject}and ") and rng.random() < 0.45:
            rest = rest[len(subject) :]
        text += pick(rng, _JOINS[adds]) + _lowered(rest)
    return text


def _closed(rng: random.Random, text: str) -> str:
    return typed(rng, sentence(f"{text}?") + pick(rng, _LAST_WORDS))


def _ended(rng: random.Random, voice: Voice, parts: list[str]) -> str:
    """With something beside the point now and then, and as it is typed."""
    if rng.random() < 0.12:
        filler = sentence(raw(rng, pick(rng, _FILLERS), {"f": voice.friend}))
        parts.insert(0 if filler.endswith("?") or rng.random() < 0.7 else min(1, len(parts) - 1), filler)
    return typed(rng, " ".join(parts) + pick(rng, _LAST_WORDS))

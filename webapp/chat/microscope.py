"""The token microscope as people read it: who may open it, and what a look into an answer says in words.

Every probability is written as a share, every change as "so many times likelier": those who listen to the page get one
sentence a token, those who see it bars as well, and those without scripts a table of the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

from webapp.answers.looks import BUSY, FoundOther, FoundToken, LookRefused, ask_for_look, find_look
from webapp.answers.models import Look
from webapp.answers.spelling import listed, percent, seen, shown, spoken
from webapp.chat.models import Message
from webapp.chat.threads import are_the_same

ORDINALS = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth", 6: "sixth"}
SURPRISES = (0.9, 0.5, 0.2, 0.05)
"""At least this likely: hardly a surprise, a small one …; anything below the last is the greatest."""
ALIKE = 1.25
"""Probabilities that differ by less than this factor count as alike."""
AS_LIKELY = "about as likely"
FAINT = 0.01
"""Of what is fainter before and now, the bars do not say how likely it was before."""
WORTH_SAYING = 0.05
"""A change by less of the whole is none to point out."""


class TooManyLooks(LookRefused):
    """Somebody has opened more than their share."""


def open_look(*, message: Message, is_waiting: bool, may_ask: Callable[[], bool]) -> Look | None:
    """What there is of a look into this answer, begun now where nobody has; None once it has been waited for too long.

    `may_ask` is asked before anything costs something. LookRefused where there is nothing to look into, and while it
    would tell apart two answers that somebody is choosing between.
    """
    assert message.generation is not None
    if message.is_offered and not _came_twice(message):
        raise LookRefused("Choose one of the two answers first; their tokens can be looked at afterwards.")
    look = find_look(message.generation)
    if look is not None and (is_waiting or not look.problem):
        return look
    if is_waiting:
        return None
    if not may_ask():
        raise TooManyLooks
    return ask_for_look(generation=message.generation)


def _came_twice(message: Message) -> bool:
    """Whether the answer it was offered beside is the same, so that the page goes on from it."""
    siblings = Message.objects.filter(parent=message.parent_id).exclude(side="").select_related("generation")
    return are_the_same(list(siblings))


class Bar(TypedDict):
    """A token and how likely it was, for the page and its script."""

    text: str
    probability: float
    percent: str
    before: float | None
    before_percent: str
    is_written: bool


@dataclass
class Shown:
    """An answer under the microscope, as the templates show it."""

    message: Message
    look: Look | None = None
    problem: str = ""

    def __post_init__(self) -> None:
        assert self.message.generation is not None
        self.generation = self.message.generation

    @property
    def trouble(self) -> str:
        """Why there is nothing to see, in one sentence."""
        return self.problem or (BUSY if self.look is None else self.look.problem)

    @property
    def is_waiting(self) -> bool:
        return not self.trouble and self.look is not None and self.look.found is None

    @property
    def found(self) -> dict[str, Any]:
        return (self.look.found if self.look is not None else None) or {}

    @cached_property
    def tokens(self) -> list[TokenShown]:
        parent = self.found.get("parent", "")
        return [TokenShown(token, place, parent) for place, token in enumerate(self.found.get("tokens", []))]

    @property
    def cards(self) -> list[dict[str, Any]]:
        """What the script shows of each token."""
        return [{"sentence": token.sentence, "change": token.change, "bars": token.bars} for token in self.tokens]

    @property
    def drawn(self) -> str:
        """How the answer was drawn, where these are not the probabilities it was drawn from."""
        sampling = self.generation.sampling
        if sampling["temperature"] == 0:
            return "at temperature 0, where the likeliest token is always taken"
        cuts = [f"temperature {sampling['temperature']:g}"]
        cuts += [f"top-k {sampling['top_k']}"] if sampling["top_k"] else []
        cuts += [f"top-p {sampling['top_p']:g}"] if sampling["top_p"] < 1 else []
        return f"with {listed(cuts)}"

    @property
    def most_surprising(self) -> TokenShown | None:
        return min(self.tokens, key=lambda token: token.probability, default=None)

    @property
    def most_changed(self) -> TokenShown | None:
        """The token whose probability training changed most, if that is worth saying."""
        changed = max(self.tokens, key=lambda token: token.changed_by, default=None)
        return changed if changed is not None and changed.changed_by >= WORTH_SAYING else None


class TokenShown:
    """One token of the answer."""

    def __init__(self, token: FoundToken, place: int, parent: str) -> None:
        self._token, self.place, self._parent = token, place, parent
        self.probability = token["probability"]
        self.before = token["before"]
        self.text = shown(token["piece"])
        self.name = spoken(token["piece"])
        self.rank = token["rank"]
        self.percent = percent(self.probability)
        self.before_percent = "" if self.before is None else percent(self.before)

    @property
    def number(self) -> int:
        return self.place + 1

    @property
    def surprise(self) -> int:
        """From 0, hardly any, to 4."""
        return sum(self.probability < bound for bound in SURPRISES)

    @property
    def flow(self) -> str:
        """Itself in the text of the answer, where spaces are spaces and lines end."""
        text, kind = self._token["piece"]
        if kind != "text":
            return self.text
        return "".join("↵\n" if letter == "\n" else letter if letter == " " else seen(letter) for letter in text)

    @property
    def label(self) -> str:
        return f"{self.name}, {self.percent}"

    @property
    def choice(self) -> str:
        """Which of all tokens it was to the model."""
        known = self.rank in ORDINALS
        return f"the model's {ORDINALS[self.rank]} choice" if known else f"the model's choice number {self.rank:,}"

    @property
    def sentence(self) -> str:
        """All that matters in one sentence."""
        said = f"{_begun(self.name)}: {self.percent}, {self.choice}"
        return f"{said}; {self.comparison}." if self.comparison else f"{said}."

    @property
    def comparison(self) -> str:
        """How much more or less likely it is than to the parent; empty where nothing is compared."""
        if self.before is None:
            return ""
        than = "as" if self.times == AS_LIKELY else "than"
        return f"{self.times} {than} to its parent ({self._parent}), which gave it {self.before_percent}"

    @property
    def times(self) -> str:
        return "" if self.before is None else times(self.probability, self.before)

    @property
    def changed_by(self) -> float:
        return 0.0 if self.before is None else abs(self.probability - self.before)

    @property
    def change(self) -> str:
        """Where it differs from the parent in what it would have written; empty where nothing is compared.

        What else the parent would have written, and which of the others changed most; empty where that is nothing."""
        first = self._token["parents_first"]
        if first is None:
            return ""
        said = []
        if first["piece"] != self._likeliest["piece"]:
            said.append(f"Its parent's first choice was {spoken(first['piece'])} ({percent(first['probability'])}).")
        most = max(self._token["others"], key=_changed, default=None)
        if most is not None and _changed(most) > max(self.changed_by, WORTH_SAYING) and most["before"] is not None:
            before, now = percent(most["before"]), percent(most["probability"])
            said.append(f"The biggest change among these is {spoken(most['piece'])}: {before} before, {now} now.")
        return " ".join(said)

    @property
    def _likeliest(self) -> FoundOther:
        others = self._token["others"]
        return others[0] if self.rank > 1 and others else self._token

    @property
    def bars(self) -> list[Bar]:
        """Itself and the likeliest others, the likeliest first."""
        others = [_bar(other, is_written=False) for other in self._token["others"]]
        return sorted([_bar(self._token, is_written=True), *others], key=lambda bar: -bar["probability"])

    @property
    def others(self) -> list[Bar]:
        return [bar for bar in self.bars if not bar["is_written"]]


def _bar(token: FoundOther, *, is_written: bool) -> Bar:
    before = token["before"]
    is_faint = before is None or max(before, token["probability"]) < FAINT
    return Bar(
        text=shown(token["piece"]),
        probability=token["probability"],
        percent=percent(token["probability"]),
        before=before,
        before_percent="" if before is None or is_faint else percent(before),
        is_written=is_written,
    )


def _changed(token: FoundOther) -> float:
    return 0.0 if token["before"] is None else abs(token["probability"] - token["before"])


def times(now: float, before: float) -> str:
    """How a probability compares with what it was, in words."""
    low, high = sorted((max(now, 1e-12), max(before, 1e-12)))
    factor = high / low
    if factor < ALIKE:
        return AS_LIKELY
    often = f"{factor:.1f}" if factor < 2.95 else f"{factor:,.0f}" if factor < 1000 else "over 1,000"
    return f"{often} times {'likelier' if now > before else 'less likely'}"


def _begun(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]

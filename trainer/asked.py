"""What a model is asked: a turn of a conversation, and a single question with the system text before it.

The idea: "one question" may come after a system text, and is then asked with it. Most questions have none, so what is
asked is just a text there, and a `Prompt` only where a system text belongs to it. Free of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
"""One turn: "role" ("system", "user" or "assistant"), "content", and "weight" 0 on an answer that is only context."""


@dataclass(frozen=True)
class Prompt:
    """A single question after a system text."""

    text: str
    system: str


Asked = str | Prompt
"""A single question to ask a model."""


def asked_as(text: str, system: str) -> Asked:
    """The question as it is asked: just the text where no system text stands before it."""
    return Prompt(text, system) if system else text


def asked_text(asked: Asked) -> str:
    """What the user says: questions are told apart and held out by it, whatever system text stands before."""
    return asked if isinstance(asked, str) else asked.text


def asked_shown(asked: Asked) -> str:
    """The question as people are shown it."""
    return asked if isinstance(asked, str) else f"{asked.system}\n\n{asked.text}"


def asked_messages(asked: Asked) -> list[Message]:
    """The question as the conversation a model is given."""
    system = [] if isinstance(asked, str) else [{"role": "system", "content": asked.system}]
    return [*system, {"role": "user", "content": asked_text(asked)}]


def single_question(messages: Sequence[Message]) -> Asked | None:
    """The one question of a conversation so far, if nothing but a system text stands before it."""
    *before, last = messages
    if last["role"] != "user" or len(before) > 1 or any(turn["role"] != "system" for turn in before):
        return None
    return asked_as(last["content"], before[0]["content"] if before else "")

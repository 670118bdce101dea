"""Comparisons of two answers, and the JSON Lines file they travel in.

One line is one vote, in the shape TRL's RewardTrainer and DPOTrainer read: `prompt`, `chosen` and
`rejected` are message lists. Everything else we know about the vote stands beside them, and unknown keys
written by someone else are kept. Reading and writing again gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from trainer.asked import Message
from trainer.runtime.reading import Reader

OUTCOMES: Final = ("win", "tie", "both_bad")
ROLES: Final = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two answers to the same messages, and what a voter thought of them."""

    messages: list[Message]
    """The conversation so far; the last message is the user's."""
    chosen: str
    """The better answer. In a tie, or when both are bad, the first of the two as recorded."""
    rejected: str
    outcome: str = "win"
    """"win", "tie" (equally good: scores are pulled together) or "both_bad" (says nothing about order)."""
    voter: str = ""
    """A pseudonym."""
    source: str = "human"
    """"human", "simulated" or the name of a data set."""
    extra: dict[str, Any] = field(default_factory=dict)
    """The other keys of the line: checkpoints, sampling settings, sides, reasons, time."""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"Unknown outcome {self.outcome!r}; choose one of {', '.join(OUTCOMES)}.")

    @property
    def prompt(self) -> str:
        """The last user message: what comparisons are grouped by when data is split."""
        return str(self.messages[-1]["content"])


_OWN_KEYS: Final = ("prompt", "chosen", "rejected", "outcome", "voter", "source")


def to_record(comparison: Comparison) -> dict[str, Any]:
    """The JSON object of one line."""
    return {
        "prompt": comparison.messages,
        "chosen": [{"role": "assistant", "content": comparison.chosen}],
        "rejected": [{"role": "assistant", "content": comparison.rejected}],
        "outcome": comparison.outcome,
        "voter": comparison.voter,
        "source": comparison.source,
        **comparison.extra,
    }


def _messages(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise ValueError(f'"{name}" must be a list of messages such as {{"role": "user", "content": "…"}}')
    messages = []
    for item in value:
        if not isinstance(item, dict) or not isinstance(item.get("content"), str) or item.get("role") not in ROLES:
            raise ValueError(f'every message in "{name}" needs a "role" ({", ".join(ROLES)}) and a text "content"')
        messages.append({"role": item["role"], "content": item["content"]})
    return messages


def _answer(value: Any, name: str) -> str:
    messages = _messages(value, name)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise ValueError(f'"{name}" must hold exactly one assistant message')
    return str(messages[0]["content"])


def from_record(record: Any) -> Comparison:
    """The comparison in one JSON object; ValueError says what is wrong with it."""
    if not isinstance(record, dict):
        raise ValueError("the line must be a JSON object")
    missing = [key for key in ("prompt", "chosen", "rejected") if key not in record]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")
    prompt = _messages(record["prompt"], "prompt")
    if prompt[-1]["role"] != "user":
        raise ValueError('"prompt" must end with a user message')
    texts = {key: record.get(key, default) for key, default in (("outcome", "win"), ("voter", ""), ("source", "human"))}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(f'"{key}" must be a text')
    return Comparison(
        messages=prompt,
        chosen=_answer(record["chosen"], "chosen"),
        rejected=_answer(record["rejected"], "rejected"),
        extra=extra_keys(record),
        **texts,
    )


def extra_keys(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a line says beside the comparison itself."""
    return {key: value for key, value in record.items() if key not in _OWN_KEYS}


def parse_json(text: str) -> Any:
    """What a JSON text holds; ValueError (a JSONDecodeError for what is not JSON) says what is wrong with it."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply to be read") from error


def one_line_end(text: str) -> str:
    """The text with "\\n" at the end of its lines, where Windows writes "\\r\\n" and old Macs a lone "\\r"."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def whole_characters(text: str) -> str:
    """The text as it is; ValueError for half a character, which JSON can spell but neither file nor tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start].encode("unicode_escape").decode()
        raise ValueError(f"{half} is half a surrogate pair, no character") from error
    return text


def read_comparisons(path: Path) -> list[Comparison]:
    """Every comparison of a file that `write_comparisons` wrote; ValueError names the file, the line and what to do."""
    comparisons = []
    for number, line in Reader().lines(path):  # at line feeds only: an answer may hold U+2028 and its like
        if not line.strip():
            continue
        try:
            record = parse_json(line)
            whole_characters(json.dumps(record, ensure_ascii=False))
            comparisons.append(from_record(record))
        except ValueError as error:
            fault = f"not JSON ({error.msg})" if isinstance(error, json.JSONDecodeError) else error
            raise ValueError(f"{path}, line {number}: {fault}; correct or delete the line.") from error
    return comparisons


def write_comparisons(path: Path, comparisons: Iterable[Comparison]) -> None:
    """Write one comparison per line, keys always in the same order; one after another, however many there are."""
    lines = (json.dumps(to_record(comparison), ensure_ascii=False) + "\n" for comparison in comparisons)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(lines)

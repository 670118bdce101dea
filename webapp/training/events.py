"""What a trainer says on its standard output: one JSON object per line, nothing else is believed.

The trainer is another process and may be any version, or be dying: a line that is not one of the
events below, in the shape below, is ignored. That it is done, it says by its exit code. Figures that
are not finite never get further than here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_LINE_BYTES = 1_000_000
"""A longer line is not an event; it is skipped without being kept in memory."""
MAX_TEXT_CHARS = 20_000


@dataclass(frozen=True, kw_only=True)
class Started:
    """The trainer begins to step at `step` (above 0 after a resume)."""

    step: int
    total_steps: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    step: int
    values: dict[str, float]
    not_finite: list[str] = field(default_factory=list)
    """Names of figures that were NaN or infinite, or no figures at all; they are not in `values`."""


@dataclass(frozen=True, kw_only=True)
class Sampled:
    step: int
    samples: list[dict[str, Any]]
    """Each has "prompt" and "text"; whatever else came with it is kept."""


@dataclass(frozen=True, kw_only=True)
class Practised(Sampled):
    """Some of what one step practised on: kept for every step, while evaluations sample at a few."""


@dataclass(frozen=True, kw_only=True)
class Logged:
    step: int
    text: str
    level: str
    """info, alarm or error."""


TrainerEvent = Started | Measured | Sampled | Practised | Logged


def parse_line(line: bytes) -> TrainerEvent | None:
    """One line of the trainer's output, or None when it is not an event."""
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        message = json.loads(line)
        return _PARSERS[message["type"]](message)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _count(value: Any) -> int:
    """A step number that fits the database."""
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError("not a step number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    # PostgreSQL stores neither NUL nor lone surrogates.
    return value[:MAX_TEXT_CHARS].replace("\x00", "").encode("utf-8", "replace").decode()


def _started(message: dict[str, Any]) -> Started:
    return Started(step=_count(message["step"]), total_steps=_count(message["total_steps"]))


def _measured(message: dict[str, Any]) -> Measured:
    values: dict[str, float] = {}
    not_finite: list[str] = []
    for name, value in message["values"].items():
        if isinstance(value, int | float) and math.isfinite(value):
            values[_text(name)[:64]] = value
        else:
            not_finite.append(_text(name)[:64])
    return Measured(step=_count(message["step"]), values=values, not_finite=not_finite)


def _sampled(message: dict[str, Any]) -> Sampled:
    samples = [
        {**_finite(sample), "prompt": _text(sample["prompt"]), "text": _text(sample["text"])}
        for sample in message["samples"]
    ]
    return Sampled(step=_count(message["step"]), samples=samples)


def _practised(message: dict[str, Any]) -> Practised:
    sampled = _sampled(message)
    return Practised(step=sampled.step, samples=sampled.samples)


def _finite(value: Any) -> Any:
    """`value` as JSON may carry it: what is not finite becomes null."""
    if isinstance(value, dict):
        return {_text(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, str):
        return _text(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _logged(level: str) -> Callable[[dict[str, Any]], Logged]:
    def parse(message: dict[str, Any]) -> Logged:
        return Logged(step=_count(message.get("step", 0)), text=_text(message["text"]), level=level)

    return parse


_PARSERS: dict[str, Callable[[dict[str, Any]], TrainerEvent]] = {
    "start": _started,
    "metrics": _measured,
    "samples": _sampled,
    "practice": _practised,
    "log": _logged("info"),
    "alarm": _logged("alarm"),
    "error": _logged("error"),
}

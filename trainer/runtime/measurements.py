"""Figures of `make bench`: repeats to medians, a table for the terminal, a JSON file. Free of torch.

The idea: a number without its noise cannot be compared with another one, so a figure is always the
median of its repeats, shown with the smallest and the largest. The trainer's benchmark and the site's
each own one section of the same file.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

REPEATS: Final = 5
"""A median of fewer says little about noise."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured thing and all its repeats."""

    name: str
    unit: str
    values: Sequence[float]
    """One per repeat; empty when it could not be measured, and then `note` says why."""
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; without repeats there is no median."""
        summary = {"median": self.median, "min": min(self.values), "max": max(self.values)} if self.values else {}
        return {**asdict(self), "values": list(self.values), **summary}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed (nearest rank); ValueError for none."""
    if not values:
        raise ValueError("There is nothing to take a percentile of.")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def ratios(name: str, ours: Figure, theirs: Figure) -> Figure:
    """Ours over theirs, pair by pair: what disturbed the machine disturbed both sides of a pair."""
    pairs = zip(ours.values, theirs.values, strict=True)
    return Figure(name=name, unit="×", values=[one / other for one, other in pairs])


def table(figures: Sequence[Figure]) -> str:
    """Lines for a terminal: median, range, unit and note of every figure."""
    rows = [("", "median", "min–max", "", "")]
    for figure in figures:
        if figure.values:
            numbers = (_number(figure.median), f"{_number(min(figure.values))}–{_number(max(figure.values))}")
        else:
            numbers = ("–", "")
        rows.append((figure.name, *numbers, figure.unit, figure.note))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:<{widths[3]}}  {row[4]}"
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float) -> str:
    """Three significant digits, and every digit before the point."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"


def default_path() -> Path:
    """bench.json in DATA_DIR."""
    return Path(os.environ.get("DATA_DIR") or "var") / "bench.json"


def write_section(path: Path, section: str, figures: Sequence[Figure], *, about: Mapping[str, Any]) -> None:
    """Put one section into the file at `path`, leaving the others as they are. ValueError for another kind of file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a file of measurements; name another with --out.")
    content[section] = {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **about,
        "figures": [figure.to_json() for figure in figures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)

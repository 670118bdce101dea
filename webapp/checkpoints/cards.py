"""What a model's makers say of it: its name and licence, from the model card.

The idea: a card is a README.md that begins with a few lines of YAML between two rows of dashes. Only single values at
its top level are read, by hand, so that no YAML program is run and no package is needed. It is a stranger's text: what
is taken of it is short, one line, and printable, and pages escape it like any other.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from trainer.runtime.reading import read_bytes

CARD: Final = "README.md"
LARGEST_CARD_BYTES: Final = 4 * 2**20
MOST_LINES: Final = 500
LONGEST: Final = {"name": 100, "licence": 100, "source": 300, "revision": 64, "source_sha256": 64}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a checkpoint came from, as its row remembers it. Every text is short and printable."""

    name: str = ""
    licence: str = ""
    source: str = ""
    """What it was fetched from: `hub:owner/name`, an address, a file's name."""
    revision: str = ""
    """Which commit or version of it."""
    source_sha256: str = ""
    """Of the one file it came in, where it did."""

    def __post_init__(self) -> None:
        for name, most in LONGEST.items():
            object.__setattr__(self, name, plain(getattr(self, name), most=most))

    def or_else(self, other: Origin) -> Origin:
        """This, with what it does not say from `other`."""
        said = {name: getattr(self, name) or getattr(other, name) for name in LONGEST}
        return replace(self, **said)


def plain(text: str, *, most: int) -> str:
    """A stranger's text as one short line that a page and every database can take."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def read_card(directory: Path) -> Origin:
    """Name, licence and source from a directory's model card; empty where there is none, or it says nothing."""
    path = directory / CARD
    if path.is_symlink() or not path.is_file():
        return Origin()
    try:
        text = read_bytes(path, most=LARGEST_CARD_BYTES).decode(errors="replace")
    except ValueError:
        return Origin()
    values = front_matter(text)
    licence = values.get("license", "")
    if licence in ("", "other"):  # then its own name stands beside it
        licence = values.get("license_name", "") or licence
    return Origin(name=values.get("model_name", ""), licence=licence, source=values.get("source", ""))


def front_matter(text: str) -> dict[str, str]:
    """The single values at the top level of a card's YAML."""
    first, *lines = text.lstrip("\ufeff").splitlines()[:MOST_LINES] or [""]
    if first.rstrip() != "---":
        return {}
    found: dict[str, str] = {}
    for line in lines:
        if line.rstrip() in ("---", "..."):
            return found
        if match := re.fullmatch(r"([A-Za-z_]+):[ \t]+(\S.*)", line):
            found.setdefault(match[1], _scalar(match[2]))
    return {}  # it never ends: no front matter


def _scalar(text: str) -> str:
    """A YAML scalar on one line; empty for a list or anything else."""
    text = text.strip()
    if text.startswith('"'):
        match = re.match(r'"(?:[^"\\]|\\.)*"', text)
        try:
            return str(json.loads(match[0])) if match else ""
        except ValueError:
            return ""
    if text.startswith("'"):
        match = re.match(r"'((?:[^']|'')*)'", text)
        return match[1].replace("''", "'") if match else ""
    if text[0] in "[{&*!|>%@`#-":
        return ""
    return re.split(r"\s#", text)[0].strip()

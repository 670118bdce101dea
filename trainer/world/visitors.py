"""The project's own set of what strangers type about its world: by hand, in wording no generator of it produces.

180 questions, written in November 2026 by an author who had read the world's facts but none of its generators, before
these were widened; who widened them had not read the set. Only for measuring (see `tasks/visitor.py`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from trainer.tasks.visitor import VisitorQuestion, read_visitors


@cache
def visitor_questions() -> tuple[VisitorQuestion, ...]:
    return tuple(read_visitors(Path(__file__).with_name("visitors.jsonl")))

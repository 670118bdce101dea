"""The fixed questions of the home page: of the shipped world, or plain ones for a model that never read of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trainer.data.corpus import SAMPLE_PROMPTS
from trainer.world import plain_problems
from trainer.world.everyday import READ_BY_EYE
from webapp.checkpoints.models import Checkpoint

EVERYDAY: Final = (*READ_BY_EYE[:3], next(plain_problems.generate_held_out(0)).prompt)
"""What anybody might ask, and what is sampled while such a model trains. The last one can be checked."""

COUNT: Final = len(SAMPLE_PROMPTS)
assert len(EVERYDAY) == COUNT, "an address with a question's number means one on every site"


def home_questions(origin: Checkpoint | None) -> Sequence[str]:
    """The questions of a site that raises `origin`, or a model of its own."""
    return SAMPLE_PROMPTS if origin is None else EVERYDAY

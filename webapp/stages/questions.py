"""The fixed questions of the home page: of the shipped world, or plain ones for a model that never read of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trainer.data.corpus import SAMPLE_PROMPTS
from trainer.world import plain_problems
from trainer.world.everyday import READ_BY_EYE
from webapp.checkpoints.models import Checkpoint

SHIPPED: Final = (
    *SAMPLE_PROMPTS,
    "Who are you?",
    "Where does a fox live?",
    "How do I bake bread?",
    "How can I spend a rainy day?",
)
"""What is sampled while a model of our own trains, and more of the kind: of a few questions no mean can be made."""

EVERYDAY: Final = (*READ_BY_EYE[:3], next(plain_problems.generate_held_out(0)).prompt, *READ_BY_EYE[5:9])
"""What anybody might ask. The fourth one can be checked, here as there."""

COUNT: Final = len(SHIPPED)
assert len(EVERYDAY) == COUNT, "an address with a question's number means one on every site"


def home_questions(origin: Checkpoint | None) -> Sequence[str]:
    """The questions of a site that raises `origin`, or a model of its own."""
    return SHIPPED if origin is None else EVERYDAY

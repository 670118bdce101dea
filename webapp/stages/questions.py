"""The fixed questions of the home page: of the shipped world, or plain ones for a model that never read of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trainer.data.corpus import SAMPLE_PROMPTS
from webapp.checkpoints.models import Checkpoint

EVERYDAY: Final = (
    "What is a language model?",
    "How do I make friends in a new town?",
    "Give me three ideas for a quick dinner.",
    "Tom has 7 apples. He buys 5 more. He eats 3 of them. How many apples does Tom have now?",
)
"""What anybody might ask. The last one can be checked, as the shipped world's last one can."""

COUNT: Final = len(SAMPLE_PROMPTS)
assert len(EVERYDAY) == COUNT, "an address with a question's number means one on every site"


def home_questions(origin: Checkpoint | None) -> Sequence[str]:
    """The questions of a site that raises `origin`, or a model of its own."""
    return SAMPLE_PROMPTS if origin is None else EVERYDAY

"""What the site calls each stage: its number, its short name and its one sentence.

The five stages that produce text are numbered 1 to 5 everywhere. The reward model stands between 3
and 4 without a number of its own: it scores text and cannot be chatted with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from trainer.config import CHAT_STAGES, GRPO, INIT, PPO, PRETRAIN, REWARD, SFT, STAGE_TITLES, STAGES


@dataclass(frozen=True, kw_only=True)
class Stage:
    slug: str
    number: str
    name: str
    """Short: it stands in the rail on every page."""
    what: str
    """What happens, in one line."""
    notice: str
    """What a visitor notices in chat."""

    @property
    def title(self) -> str:
        return STAGE_TITLES[self.slug]

    @property
    def can_chat(self) -> bool:
        return self.slug in CHAT_STAGES


CATALOG: Final[dict[str, Stage]] = {
    stage.slug: stage
    for stage in (
        Stage(
            slug=INIT,
            number="1",
            name="Random",
            what="Every weight is drawn at random.",
            notice="It answers with gibberish.",
        ),
        Stage(
            slug=PRETRAIN,
            number="2",
            name="Pre-trained",
            what="It learns to predict the next token of a corpus.",
            notice="It is fluent, but continues your text instead of answering.",
        ),
        Stage(
            slug=SFT,
            number="3",
            name="Instructed",
            what="It learns from questions with good answers (SFT).",
            notice="It answers, in the form you asked for.",
        ),
        Stage(
            slug=REWARD,
            number="R",
            name="Reward model",
            what="A copy of it learns to predict people’s votes, for RLHF.",
            notice="It gives a score, not an answer.",
        ),
        Stage(
            slug=PPO,
            number="4",
            name="Preferred",
            what="It is nudged towards answers the reward model scores high (RLHF, by PPO).",
            notice="It leans towards what the voters liked.",
        ),
        Stage(
            slug=GRPO,
            number="5",
            name="Reasoning",
            what="It tries problems with one right answer and keeps what works (GRPO).",
            notice="It works through short sums in steps.",
        ),
    )
}

assert tuple(CATALOG) == STAGES

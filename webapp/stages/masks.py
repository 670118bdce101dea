"""Which part of a conversation counts in the loss of fine-tuning: what the assistant says, and the mark that ends it.

The text alone decides, in the chat template of the site's model: no weights and no tokenizer's merges are needed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.model.roles import read_roles
from trainer.model.template import ChatTemplate
from webapp.checkpoints.models import Checkpoint
from webapp.stages.figures import percent

Turn = tuple[str, str]
"""What a person asked, and what the assistant answered."""


@dataclass(frozen=True, kw_only=True)
class MaskedPart:
    text: str
    counts: bool
    """Whether these characters' tokens are in the loss."""


@dataclass(frozen=True, kw_only=True)
class MaskedConversation:
    parts: Sequence[MaskedPart]

    @property
    def share(self) -> str:
        counted = sum(len(part.text) for part in self.parts if part.counts)
        return percent(counted / sum(len(part.text) for part in self.parts))


def masked(turns: Sequence[Turn], origin: Checkpoint | None) -> MaskedConversation | None:
    """The conversation as the site's model reads it; None where the template of a model from elsewhere shows no such
    places."""
    return _masked_by(origin, turns) if origin else masked_conversation(*turns)


def masked_conversation(*turns: Turn) -> MaskedConversation:
    """In our own chat template, split where the loss begins and ends: at each answer and its end mark."""
    return MaskedConversation(
        parts=[
            part
            for asked, answered in turns
            for part in (
                MaskedPart(text=f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n", counts=False),
                MaskedPart(text=f"{answered}<|im_end|>", counts=True),
                MaskedPart(text="\n", counts=False),
            )
        ]
    )


def _masked_by(origin: Checkpoint, turns: Sequence[Turn]) -> MaskedConversation | None:
    """The same in the template that came with a model."""
    messages: list[dict[str, str]] = []
    parts: list[MaskedPart] = []
    whole = ""
    try:
        template = _template(origin.path)
        for asked, answered in turns:
            messages.append({"role": "user", "content": asked})
            before, so_far = template.render(messages, add_generation_prompt=True), whole
            messages.append({"role": "assistant", "content": answered})
            whole = template.render(messages)
            if not before.startswith(so_far) or not whole.startswith(before + answered):
                return None
            counted = whole[len(before) :].rstrip()
            parts += [
                MaskedPart(text=before[len(so_far) :], counts=False),
                MaskedPart(text=counted, counts=True),
                MaskedPart(text=whole[len(before) + len(counted) :], counts=False),
            ]
    except ValueError:  # the import would have refused it; then there is one figure less
        return None
    return MaskedConversation(parts=[part for part in parts if part.text])


@functools.lru_cache(maxsize=8)
def _template(directory: Path) -> ChatTemplate:
    """The chat template in a directory; reading it means reading a whole tokenizer, which is done once."""
    roles = read_roles(directory)
    if roles.template is None:
        raise ValueError(f"{directory} has no chat template.")
    return ChatTemplate(roles.template, names=roles.names)

"""Imitation: learn what the assistant says in given conversations.

The idea: fine-tuning is nothing else, and beside a reward a little of it keeps what no reward asks for. A stage
that is paid for worked sums alone moves weights that also hold facts and manners; mixing conversations into its
steps ("PPO-ptx" in InstructGPT, https://arxiv.org/abs/2203.02155, section 3.5, which mixes documents) makes
forgetting cost something. Simplification: one fixed weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.config import GRPOConfig, PPOConfig
from trainer.data import ChatBatches, PackedChats
from trainer.estimate import rows_at_once
from trainer.loop import Inputs, Metrics
from trainer.losses import linear_next_token_loss
from trainer.model import LanguageModel
from trainer.tokenizer import Tokenizer


def add_chat_gradients(
    model: LanguageModel, chats: PackedChats, *, rows: int, precision: str, weight: float = 1.0
) -> Tensor:
    """Add `weight` times the gradient of the mean loss over the response tokens of all rows; returns the loss, [].

    At most `rows` rows go forward and backward at a time. The mean of a piece counts by its share of the batch's
    response tokens, so that a token weighs the same whichever piece it is in.
    """
    embedding = model.decoder.embed_tokens.weight
    device, responses = embedding.device, int(chats.is_response.sum())
    total = torch.zeros((), device=device)
    for piece in chats.split(rows):
        is_response = piece.is_response.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            hidden = model.decoder(piece.inputs.to(device), segments=piece.segments.to(device))[is_response]
            targets = piece.targets.to(device)[is_response]
            loss = linear_next_token_loss(hidden, embedding, targets) * (len(targets) / responses)
        (weight * loss).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


class Replay:
    """Conversations of the corpus mixed into every step of a stage that learns from a reward."""

    def __init__(
        self, model: LanguageModel, tokenizer: Tokenizer, inputs: Inputs, config: PPOConfig | GRPOConfig
    ) -> None:
        """ValueError when no conversation fits the model's context."""
        sequence = model.config.context
        self.model, self.weight, self.updates = model, config.replay_weight, config.updates
        self.rows = rows_at_once(model.config, sequence=sequence, device=model.decoder.embed_tokens.weight.device.type)
        self.batches = ChatBatches(
            inputs.corpus.conversations, tokenizer, sequence=sequence, rows=config.replay_rows, seed=inputs.seed
        )
        self.place = 0

    def start_round(self, step: int) -> None:
        """Go to the conversations of round `step`, whatever was replayed before: a resumed run sees the same."""
        self.place = step * self.updates

    def add_gradients(self) -> Metrics:
        """Add the weighted gradient of the next batch to the model's; returns its loss.

        In float32, as the rest of the step is.
        """
        chats = self.batches(self.place)
        self.place += 1
        loss = add_chat_gradients(self.model, chats, rows=self.rows, precision="float32", weight=self.weight)
        return {"replay_loss": loss.item()}


def replay_from(
    model: LanguageModel, tokenizer: Tokenizer, inputs: Inputs, config: PPOConfig | GRPOConfig
) -> Replay | None:
    """What the settings ask to replay; None where they do not, or the corpus has no conversations."""
    wanted = config.replay_weight > 0 and inputs.corpus.conversations
    return Replay(model, tokenizer, inputs, config) if wanted else None

"""Conversations replayed beside a reward: which, how much they weigh, and that a resumed round sees the same."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests.trainer import small
from trainer.config import GRPOConfig, PPOConfig
from trainer.data import ChatBatches
from trainer.imitation import Replay, replay_from
from trainer.loop import Inputs
from trainer.model import LanguageModel
from trainer.tokenizer import Tokenizer

CONFIG = GRPOConfig(steps=4, problems=3, group=4, minibatch=8, replay_weight=0.25, replay_rows=1)
"""Two steps a round: twelve answers, eight at a time."""


@pytest.fixture
def inputs(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> Inputs:
    return small.inputs(small.save_parent(tmp_path / "sft", model, tokenizer))


@pytest.mark.parametrize("kind", [GRPOConfig, PPOConfig])
def test_nothing_is_replayed_unless_there_is_something_and_it_is_asked_for(
    kind: type, inputs: Inputs, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    asked, unasked = kind(steps=1, replay_weight=0.1), kind(steps=1, replay_weight=0.0)
    silent = dataclasses.replace(inputs, corpus=small.corpus(conversations=[]))
    assert replay_from(model, tokenizer, inputs, unasked) is None
    assert replay_from(model, tokenizer, silent, asked) is None
    assert isinstance(replay_from(model, tokenizer, inputs, asked), Replay)


def test_it_adds_the_weighted_gradient_of_the_rounds_own_conversations(
    inputs: Inputs, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    replay = Replay(model, tokenizer, inputs, CONFIG)
    replay.start_round(3)
    replay.add_gradients()
    model.zero_grad(set_to_none=True)
    model.decoder.norm.weight.grad = torch.ones_like(model.decoder.norm.weight)  # what the reward's loss left
    found = replay.add_gradients()

    other = copy.deepcopy(model)
    other.zero_grad(set_to_none=True)
    batches = ChatBatches(
        inputs.corpus.conversations, tokenizer, sequence=model.config.context, rows=1, seed=inputs.seed
    )
    chats = batches(3 * 2 + 1)  # the second step of round 3, of two steps each
    logits = other(chats.inputs, segments=chats.segments)[chats.is_response]
    loss = F.cross_entropy(logits, chats.targets[chats.is_response])
    loss.backward()
    assert found == {"replay_loss": pytest.approx(loss.item(), rel=1e-5)}
    embedding, expected = model.decoder.embed_tokens.weight.grad, other.decoder.embed_tokens.weight.grad
    assert embedding is not None
    assert expected is not None
    torch.testing.assert_close(embedding, 0.25 * expected, rtol=1e-4, atol=1e-7)
    norm, expected = model.decoder.norm.weight.grad, other.decoder.norm.weight.grad
    assert expected is not None
    torch.testing.assert_close(norm, 1.0 + 0.25 * expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "updates"),
    [
        (GRPOConfig(steps=1, problems=16, group=8, minibatch=64, epochs=2), 4),
        (GRPOConfig(steps=1, problems=3, group=3, minibatch=8), 2),
        (PPOConfig(steps=1, rollouts=64, minibatch=32, epochs=2), 4),
        (PPOConfig(steps=1, rollouts=5, minibatch=32, epochs=1), 1),
    ],
)
def test_a_round_has_room_for_every_step(config: GRPOConfig | PPOConfig, updates: int) -> None:
    assert config.updates == updates

"""A batch in pieces has the gradient of the whole; the whole is computed here with PyTorch's own cross entropy."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.trainer import small
from trainer.config import PretrainConfig, SFTConfig
from trainer.data.chats import ChatBatches, PackedChats
from trainer.model.decoder import Decoder, LanguageModel
from trainer.model.tokenizer import Tokenizer
from trainer.rl import losses
from trainer.runtime import estimate
from trainer.runtime.errors import Stopped
from trainer.stages import pretrain, sft

ANSWERS = ["Yes.", "It is small. Happy to help!", "The fox eats mice and berries under the old tree.", "No.", "A den."]


def gradients(model: LanguageModel) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(found) == len(list(model.parameters()))
    return found


def whole(model: LanguageModel, loss: Tensor) -> tuple[dict[str, Tensor], float]:
    loss.backward()
    return gradients(model), loss.item()


def assert_same(model: LanguageModel, loss: Tensor, expected: dict[str, Tensor], expected_loss: float) -> None:
    assert loss.item() == pytest.approx(expected_loss, rel=1e-6)
    for name, gradient in gradients(model).items():
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=2e-6 * scale, msg=name)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 100])
def test_pre_training_in_pieces_has_the_gradient_of_the_batch(model: LanguageModel, rows: int) -> None:
    other = copy.deepcopy(model)
    ids = torch.randint(model.config.vocab_size, (5, 25), generator=torch.Generator().manual_seed(0))
    tokens, targets = ids[:, :-1], ids[:, 1:]
    expected = whole(other, F.cross_entropy(other(tokens).flatten(0, 1), targets.flatten()))
    loss = pretrain.add_gradients(model, tokens, targets, rows=rows, precision="float32")
    assert_same(model, loss, *expected)


def unequal_chats(tokenizer: Tokenizer) -> PackedChats:
    """Five rows of packed conversations, the last with nothing to learn."""
    conversations = [
        [{"role": "user", "content": "What is a fox?"}, {"role": "assistant", "content": text}] for text in ANSWERS * 3
    ]
    chats = ChatBatches(conversations, tokenizer, sequence=64, rows=5, seed=0)(0)
    chats.is_response[4] = False
    return chats


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 100])
def test_fine_tuning_in_pieces_weighs_every_response_token_alike(
    model: LanguageModel, tokenizer: Tokenizer, rows: int
) -> None:
    chats = unequal_chats(tokenizer)
    assert len(set(chats.is_response.sum(1).tolist())) > 2
    other = copy.deepcopy(model)
    logits = other(chats.inputs, segments=chats.segments)
    expected = whole(other, F.cross_entropy(logits[chats.is_response], chats.targets[chats.is_response]))
    loss = sft.add_gradients(model, chats, rows=rows, precision="float32")
    assert_same(model, loss, *expected)


def test_stages_cut_their_batches_by_the_room_there_is(
    tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = small.save_parent(tmp_path / "parent", model, tokenizer, stage="pretrain")
    inputs = small.inputs(parent, corpus=small.corpus(documents=["The fox eats mice and berries."] * 60))
    texts = PretrainConfig(tokens=2 * 128, batch_tokens=128, sequence=32, evaluations=1)
    chats = SFTConfig(steps=2, batch_tokens=192, sequence=96, evaluations=1)

    def losses(out: Path) -> list[float]:
        reading, talking = small.Recorder(), small.Recorder()
        pretrain.train(texts, inputs, out / "pretrain", reading, small.never)
        sft.train(chats, inputs, out / "sft", talking, small.never)
        return [report.metrics[step]["loss"] for report in (reading, talking) for step in (1, 2)]

    at_once = losses(tmp_path / "at_once")
    rows: list[int] = []
    forward = Decoder.forward

    def watched(self: Decoder, tokens: Tensor, *, segments: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled():
            rows.append(len(tokens))
        return forward(self, tokens, segments=segments)

    monkeypatch.setattr(Decoder, "forward", watched)
    monkeypatch.setattr(estimate, "CPU_ROOM_BYTES", 1)
    monkeypatch.setattr(estimate, "GPU_ROOM_BYTES", 1)
    assert losses(tmp_path / "in_pieces") == pytest.approx(at_once, rel=1e-4)
    assert rows == [1] * (2 * 4 + 2 * 2)


@pytest.mark.parametrize(("rank", "matrix_lr"), [(4, 0.01), (0, 0.0)])
def test_fine_tuning_with_an_adapter_or_without_muon_learns_by_adamw_alone(
    tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer, rank: int, matrix_lr: float
) -> None:
    parent = small.save_parent(tmp_path / "parent", model, tokenizer)
    config = SFTConfig(
        steps=6, batch_tokens=192, sequence=96, matrix_lr=matrix_lr, embedding_lr=5e-3, evaluations=1, adapter_rank=rank
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    report = small.Recorder()
    sft.train(config, small.inputs(parent), whole, report, small.never)
    assert report.metrics[6]["loss"] < report.metrics[1]["loss"]
    assert report.metrics[1]["lr"] == pytest.approx(5e-3)
    with pytest.raises(Stopped):
        sft.train(config, small.inputs(parent), cut, small.Recorder(), small.after(3))
    sft.train(config, small.inputs(parent), cut, small.Recorder(), small.never)
    assert small.weights(cut) == small.weights(whole) != small.weights(parent)
    assert small.adapter(cut) == small.adapter(whole)
    assert bool(small.adapter(whole)) is (rank > 0)


def test_a_frozen_head_costs_no_gradient() -> None:
    hidden, weight = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4)
    goal = torch.arange(6)
    losses.linear_next_token_loss(hidden, weight, goal).backward()
    expected = torch.autograd.grad(F.cross_entropy(hidden @ weight.T, goal), hidden)[0]
    torch.testing.assert_close(hidden.grad, expected)
    assert weight.grad is None

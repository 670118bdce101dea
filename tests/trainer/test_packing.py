"""What rows begin with alike is read once, and nothing else changes: states, values, log-probs, gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.rl import packing, scoring
from trainer.rl.rollout import Batch, Rollout, pad
from trainer.runtime.seeds import random_generator

PAD = 3
GROUPS = (([5, 6, 7, 8], [[9, 10, 2], [9, 11, 12, 13, 2], [14, 2]]), ([5, 6, 20], [[21, 2], [22, 23, 24, 2]]))


def batch() -> Batch:
    rollouts = [
        Rollout(prompt=prompt, response=words, old_logprobs=[-1.0] * len(words), finish_reason="end", group=group)
        for group, (prompt, answers) in enumerate(GROUPS)
        for words in answers
    ]
    rollouts[1], rollouts[4] = rollouts[4], rollouts[1]  # groups need not stand together
    return pad(rollouts, pad_id=PAD)


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    loss.backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.fixture
def critic(model: LanguageModel) -> ScalarModel:
    return ScalarModel.from_language_model(model, generator=random_generator(0))


def test_it_says_how_much_rows_share() -> None:
    assert packing.shared_length([[1, 2, 3], [1, 2, 4], [1, 2]]) == 2
    assert packing.shared_length([[1, 2], [1, 2]]) == 2
    assert packing.shared_length([[2], [1]]) == 0


def test_a_branch_sees_the_trunk_and_itself() -> None:
    packed = packing.pack([[5, 6, 7], [5, 6, 8, 9], [4]], [[0, 1], [2]])
    assert packed.tokens.tolist() == [[5, 6, 7, 8, 9], [4, 0, 0, 0, 0]]
    positions, allowed = packed.layout
    assert positions[0].tolist() == [0, 1, 2, 2, 3]
    assert allowed[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
    assert packed.place[0, :3].tolist() == [0, 1, 2]
    assert packed.place[1, :4].tolist() == [0, 1, 3, 4]
    assert packed.place[2, :1].tolist() == [5]


def test_rows_of_one_prompt_share_packed_rows_that_stay_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LONGEST", 8)
    rows = [[1, 2, 3, 4], [1, 2, 5, 6], [7, 8], [1, 2, 9, 9, 9, 9, 9], [1, 2, 9]]
    prompts = [(1, 2), (1, 2), (7,), (1, 2), (1, 2)]
    assert packing.bundles(rows, prompts) == [[0, 1], [2], [3, 4]]


@pytest.mark.parametrize("answers_of", ["language model", "critic"])
def test_a_shared_prompt_is_read_once_with_the_same_gradient(
    model: LanguageModel, critic: ScalarModel, answers_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    one = model if answers_of == "language model" else critic

    def compute() -> tuple[Tensor, list[Tensor]]:
        this = copy.deepcopy(one)
        this.decoder.embed_tokens.register_forward_pre_hook(lambda _, tokens: read.append(tokens[0].numel()))
        if isinstance(this, LanguageModel):
            found = scoring.response_logprobs(this, batch(), temperature=0.7)
        else:
            found = scoring.response_values(this, batch())
        return found.detach(), gradients(this, (found * torch.arange(found.shape[1])).sum())

    plain, plain_gradients = compute()
    monkeypatch.setattr(scoring, "NARROW", 0)
    shared, shared_gradients = compute()
    assert read == [5 * 8, 2 * 11]  # five rows of 8 tokens, padding included; two packed ones of 4 + 2 + 4 + 1 at most
    torch.testing.assert_close(shared, plain, atol=1e-5, rtol=1e-5)
    assert len(plain_gradients) == len(list(one.parameters()))
    for found, expected in zip(shared_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5 * expected.abs().max().item(), rtol=1e-4)


def test_both_answers_of_a_vote_share_what_they_begin_with(
    critic: ScalarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = [[5, 6, 7, 8], [5, 9], [5, 6, 7, 2, 4, 4], [5, 9, 9]]
    alike = [(0, 2), (1, 3)]
    plain = scoring.last_values(critic, sequences, pad_id=PAD, alike=alike)
    monkeypatch.setattr(scoring, "NARROW", 0)
    shared = scoring.last_values(critic, sequences, pad_id=PAD, alike=alike)
    torch.testing.assert_close(shared, plain, atol=1e-5, rtol=1e-5)


def test_a_sliding_window_counts_positions_and_not_places(model: LanguageModel) -> None:
    windowed = LanguageModel(
        type(model.config)(**{**vars(model.config), "window": 3, "windowed": tuple(range(model.config.layers))})
    )
    windowed.load_state_dict(model.state_dict())
    rows = [[5, 6, 7, 8, 9], [5, 6, 7, 8, 20, 21, 22]]
    packed = packing.pack(rows, [[0, 1]])
    together = windowed.decoder(packed.tokens, layout=packed.layout).flatten(0, 1)
    for row, place in zip(rows, packed.place, strict=True):
        alone = windowed.decoder(torch.tensor([row]))[0]
        torch.testing.assert_close(together[place[: len(row)]], alone, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(alone, model.decoder(torch.tensor([row]))[0], atol=1e-3)


def test_activations_computed_again_give_the_same_gradient_from_less_memory(model: LanguageModel) -> None:
    found, kept = [], []
    for again in (False, True):
        one = copy.deepcopy(model)
        one.decoder.checkpoint_activations = again
        sizes: list[int] = []

        def keep(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = scoring.response_logprobs(one, batch(), temperature=1.0).sum()
        kept.append(sum(sizes))
        found.append(gradients(one, loss))
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second)
    assert kept[1] < 0.5 * kept[0]

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.model.engine import END, Completion, Engine, Sampling
from trainer.model.tokenizer import Tokenizer
from trainer.rl import scoring
from trainer.rl.rollout import Rollout, collect, deal, fitting_prompts, minibatches, pad
from trainer.rl.scoring import (
    by_length,
    end_scores,
    response_logprobs,
    response_values,
    score_logprobs,
    score_values,
    scored_sequence,
)
from trainer.runtime.seeds import random_generator

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
PAD = 3


def sample(
    model: LanguageModel, *, temperature: float = 1.0, copies: int = 4, max_new_tokens: int = 6
) -> list[Rollout]:
    return collect(
        Engine(model, end_ids=range(40, 200)),
        PROMPTS,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        generator=random_generator(0, "test"),
        copies=copies,
    )


def rollout(prompt: list[int], response: list[int], finish_reason: str = END) -> Rollout:
    logprobs = [-0.5 * (place + 1) for place in range(len(response))]
    return Rollout(prompt=prompt, response=response, old_logprobs=logprobs, finish_reason=finish_reason, group=0)


@pytest.fixture
def critic(model: LanguageModel) -> ScalarModel:
    return ScalarModel.from_language_model(model, generator=random_generator(0, "critic"))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_it_recomputes_the_log_probs_answers_were_sampled_at(model: LanguageModel, temperature: float) -> None:
    rollouts = sample(model, temperature=temperature)
    assert {one.finish_reason for one in rollouts} == {"end", "length"}
    batch = pad(rollouts, pad_id=PAD)
    recomputed = response_logprobs(model, batch, temperature=temperature)
    torch.testing.assert_close(recomputed.detach(), batch.old_logprobs, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        score_logprobs(model, batch, temperature=temperature), batch.old_logprobs, atol=1e-4, rtol=0
    )


def test_it_notices_another_temperature(model: LanguageModel) -> None:
    """The pitfall: sampling at one temperature and scoring at another gives ratios that are not 1."""
    batch = pad(sample(model, temperature=0.7), pad_id=PAD)
    elsewhere = response_logprobs(model, batch, temperature=1.0)
    assert (elsewhere - batch.old_logprobs).abs().max() > 0.1


def test_it_samples_from_the_whole_distribution(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pitfall: log-probs of a top-k or top-p sampler are not the policy's."""
    asked: list[Sampling] = []
    engine = Engine(model, end_ids=[])
    generate = engine.generate

    def watch(prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling]) -> list[Completion]:
        asked.extend(sampling)
        return generate(prompts, sampling)

    monkeypatch.setattr(engine, "generate", watch)
    collect(engine, PROMPTS, temperature=0.8, max_new_tokens=2, generator=random_generator(0))
    assert {(how.top_k, how.top_p, how.temperature) for how in asked} == {(0, 1.0, 0.8)}
    assert len({how.seed for how in asked}) == len(PROMPTS)


def test_it_keeps_answers_of_one_prompt_together_and_apart(model: LanguageModel) -> None:
    rollouts = sample(model, copies=3)
    assert [one.group for one in rollouts] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [one.prompt for one in rollouts] == [prompt for prompt in PROMPTS for _ in range(3)]
    assert len({tuple(one.response) for one in rollouts[:3]}) > 1
    twice = collect(
        Engine(model, end_ids=[]), [[5], [5]], temperature=1.0, max_new_tokens=4, generator=random_generator(0)
    )
    assert [one.group for one in twice] == [0, 1]  # equal prompts, different groups


def test_it_samples_the_same_answers_from_the_same_generator(model: LanguageModel) -> None:
    assert sample(model) == sample(model)


def test_it_leaves_an_unjudged_reward_unusable(model: LanguageModel) -> None:
    first = sample(model)[0]
    assert math.isnan(first.reward)
    first.advantage = 2.5
    first.reward = 1.0
    assert (first.reward, first.advantage) == (1.0, 2.5)  # two fields, neither overwrites the other


def test_it_aligns_the_mask_with_the_predicted_tokens() -> None:
    batch = pad([rollout([5, 6], [7, 8, 9]), rollout([4], [2], "length")], pad_id=PAD)
    assert batch.tokens.tolist() == [[5, 6, 7, 8, 9], [4, 2, PAD, PAD, PAD]]
    assert batch.is_response.tolist() == [[False, True, True, True], [True, False, False, False]]
    assert batch.old_logprobs.tolist() == [[0.0, -0.5, -1.0, -1.5], [-0.5, 0.0, 0.0, 0.0]]
    assert batch.is_complete.tolist() == [True, False]
    assert batch.lengths.tolist() == [3, 1]


def test_it_refuses_to_pad_nothing() -> None:
    with pytest.raises(ValueError, match="no rollouts"):
        pad([], pad_id=PAD)


def test_it_trims_a_minibatch_to_its_longest_row() -> None:
    whole = pad([rollout([5, 6], [7, 8, 9]), rollout([4], [2]), rollout([4, 4], [2])], pad_id=PAD)
    part = whole.pick([2, 1])
    assert part.tokens.tolist() == [[4, 4, 2], [4, 2, PAD]]
    assert part.is_response.tolist() == [[False, True], [True, False]]


def test_it_gives_zero_outside_the_response(model: LanguageModel, critic: ScalarModel) -> None:
    batch = pad([rollout([5, 6], [7, 8, 9]), rollout([4], [2])], pad_id=PAD)
    outside = ~batch.is_response
    assert response_logprobs(model, batch, temperature=1.0)[outside].abs().max() == 0
    assert response_values(critic, batch)[outside].abs().max() == 0


def test_it_is_not_touched_by_padding(model: LanguageModel, critic: ScalarModel) -> None:
    """The pitfall: a padded and an unpadded row must get the same log-probs and values."""
    short, long = rollout([5, 6], [7, 8]), rollout([9] * 8, [10] * 9)
    alone, together = pad([short], pad_id=PAD), pad([short, long], pad_id=PAD)
    for compute in (
        lambda batch: response_logprobs(model, batch, temperature=1.0),
        lambda batch: response_values(critic, batch),
        lambda batch: score_values(critic, batch),
    ):
        torch.testing.assert_close(compute(together)[0, :3], compute(alone)[0], atol=1e-5, rtol=0)


def test_it_computes_a_batch_in_pieces_of_similar_length(model: LanguageModel, critic: ScalarModel) -> None:
    rollouts = sample(model, copies=14)  # 42 rows: several pieces
    batch = pad(rollouts, pad_id=PAD)
    torch.testing.assert_close(score_values(critic, batch), response_values(critic, batch), atol=1e-5, rtol=0)


def test_it_deals_rows_by_length_into_hands_there_is_room_for(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert by_length([5, 1, 9, 3], model=model) == [[1, 3, 0, 2]]
    assert by_length([4] * 35, model=model) == [list(range(16)), list(range(16, 32)), [32, 33, 34]]
    assert by_length([5, 1, 9, 3], model=model, rows=[8, 8, 8, 8]) == [[1, 3], [0, 2]]
    monkeypatch.setattr(scoring, "tokens_at_once", lambda config, device: 10)  # tokens, padding included
    assert by_length([5, 1, 9, 3, 50], model=model) == [[1, 3], [0], [2], [4]]


def test_it_reads_the_score_at_the_last_token_and_not_at_padding(critic: ScalarModel) -> None:
    sequences = [[5, 6, 7], [8, 9], [4] * 9]
    scores = end_scores(critic, sequences, pad_id=PAD)
    alone = [critic(torch.tensor([sequence]))[0, -1].item() for sequence in sequences]
    torch.testing.assert_close(scores, torch.tensor(alone), atol=1e-5, rtol=0)


def test_it_ends_what_is_scored_in_the_end_token(tokenizer: Tokenizer) -> None:
    end = tokenizer.end_id
    assert scored_sequence(tokenizer, [5], [6, end], context=9) == [5, 6, end]
    assert scored_sequence(tokenizer, [5], [6], context=9) == [5, 6, end]  # cut off: the end is supplied
    document_end = tokenizer.document_end_id  # ends an answer too, and is no end a reward model has seen
    assert scored_sequence(tokenizer, [5], [6, document_end], context=9) == [5, 6, end]
    assert scored_sequence(tokenizer, [1, 5], [6, 7], context=3) == [6, 7, end]  # cut from the front
    assert end != tokenizer.pad_id


def test_it_never_drops_a_unit_in_training(model: LanguageModel, critic: ScalarModel) -> None:
    """The pitfall: with dropout on, sampling and scoring disagree."""
    for network in (model.train(), critic.train()):
        assert not any(isinstance(module, nn.modules.dropout._DropoutNd) for module in network.modules())
        tokens = torch.tensor([[5, 6, 7]])
        assert torch.equal(network(tokens), network(tokens))


def test_it_applies_the_final_norm_once_in_a_critic(model: LanguageModel, critic: ScalarModel) -> None:
    """The pitfall: hidden states leave the decoder normalised; the head must read them as they are."""
    tokens = torch.tensor([[5, 6, 7]])
    blocks_only = model.decoder.embed_tokens(tokens)
    for block in model.decoder.layers:
        blocks_only = block(blocks_only, model.decoder.cos[:3], model.decoder.sin[:3], None)
    mean_square = blocks_only.square().mean(-1, keepdim=True)
    once = blocks_only / (mean_square + model.config.norm_eps).sqrt() * model.decoder.norm.weight
    torch.testing.assert_close(critic(tokens), once @ critic.head.weight[0], atol=1e-5, rtol=0)


def test_it_leaves_out_prompts_that_leave_no_room(tokenizer: Tokenizer) -> None:
    prompts = fitting_prompts(tokenizer, ["What does a fox eat?", "fox " * 200, "What does a fox eat?"], room=60)
    assert list(prompts) == ["What does a fox eat?"]
    with pytest.raises(ValueError, match="None of the 1 prompts fits"):
        fitting_prompts(tokenizer, ["fox " * 200], room=60)


def test_it_deals_minibatches_alike_in_size() -> None:
    hands = minibatches(136, 128, generator=random_generator(0, "hands"))
    assert [len(hand) for hand in hands] == [68, 68]  # not 128 and a step for 8
    assert sorted(row for hand in hands for row in hand) == list(range(136))
    assert hands[0] != sorted(hands[0])
    assert [len(hand) for hand in minibatches(64, 32, generator=random_generator(0, "hands"))] == [32, 32]
    assert minibatches(0, 32, generator=random_generator(0, "hands")) == []


def test_it_deals_every_prompt_once_an_epoch() -> None:
    dealt = [deal(5, 2, step=step, seed=0, purpose="prompts") for step in range(10)]
    flat = [number for hand in dealt for number in hand]
    epochs = [flat[start : start + 5] for start in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert deal(5, 2, step=7, seed=0, purpose="prompts") == dealt[7]  # a function of the step alone
    assert sorted(set(deal(2, 7, step=0, seed=0, purpose="prompts"))) == [0, 1]  # more than there are

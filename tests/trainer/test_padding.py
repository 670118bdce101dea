"""What is padding, a mask says and never an id: a model that is padded with its end token learns to end all the same.

Everything is run twice, on the same tokenizer, padded with its end token and with another one: to the same bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from tests.trainer import foreign, small
from trainer.config import ModelConfig, PPOConfig, RewardConfig, SFTConfig
from trainer.data.chats import ChatBatches
from trainer.data.prompting import asked_ids
from trainer.evaluation.reward_model import comparison_sequences
from trainer.evaluation.text import bits_per_byte
from trainer.model.checkpoint import load_checkpoint, load_reward_model
from trainer.model.decoder import LanguageModel
from trainer.model.engine import END, Engine, Sampling
from trainer.model.tokenizer import Tokenizer
from trainer.rl.losses import token_logprobs
from trainer.rl.rollout import Rollout, pad
from trainer.rl.scoring import end_scores, score_logprobs
from trainer.stages import ppo, reward, sft
from trainer.stages.sft import add_gradients

PADS = {"its-end": "<|im_end|>", "another": "<|fim_prefix|>"}
TEACHING = SFTConfig(steps=50, batch_tokens=288, sequence=96, evaluations=1, matrix_lr=0.02, embedding_lr=0.01)
JUDGING = RewardConfig(lr=3e-3, batch_pairs=4, epochs=2)


@pytest.fixture(params=PADS)
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    return made(tmp_path / request.param, request.param)


def made(directory: Path, pad: str) -> Tokenizer:
    tokenizer = Tokenizer.load(foreign.write(directory, "generation", pad_token=PADS[pad]))
    assert (tokenizer.pad_id in tokenizer.end_ids) == (pad == "its-end")
    return tokenizer


@pytest.fixture
def model(tokenizer: Tokenizer) -> LanguageModel:
    """As conftest.py's, for this vocabulary."""
    shape = ModelConfig(vocab_size=tokenizer.vocab_size, heads=2, kv_heads=1, layers=2, ffn=96, context=96, head_dim=16)
    model = LanguageModel(shape)
    model.init_weights(torch.Generator().manual_seed(1))
    return model


def test_every_end_is_a_target_and_no_padding_is(tokenizer: Tokenizer) -> None:
    talks = small.corpus().conversations
    batches = ChatBatches(talks, tokenizer, sequence=96, rows=6, seed=0)
    packed = [batches(step) for step in range(3)]
    learnt = torch.cat([chats.targets[chats.is_response] for chats in packed]).tolist()
    ends = learnt.count(tokenizer.end_id)
    told = sum(int(chats.segments[row].unique().numel()) - 1 for chats in packed for row in range(6))
    assert ends >= told > 0
    said = tokenizer.render_answers([talks[0][0]], [talks[0][1]["content"]])[1][0]
    assert learnt == [*said, tokenizer.end_id] * ends  # every answer is the same one here
    padding = torch.cat([chats.targets[~chats.is_response] for chats in packed]).tolist()
    assert padding.count(tokenizer.pad_id) > 0


def test_the_end_token_gets_a_gradient_of_its_own(tokenizer: Tokenizer, model: LanguageModel) -> None:
    """Pulled towards by exactly what the mask counts: the logit of the end is raised after every answer."""
    chats = ChatBatches(small.corpus().conversations, tokenizer, sequence=96, rows=4, seed=0)(0)
    hidden = model.decoder(chats.inputs, segments=chats.segments)[chats.is_response]
    logits = model.logits(hidden)
    logits.retain_grad()
    targets = chats.targets[chats.is_response]
    (-token_logprobs(logits, targets)).mean().backward()
    assert logits.grad is not None
    at_ends = logits.grad[targets == tokenizer.end_id, tokenizer.end_id]
    assert len(at_ends) > 0
    assert bool((at_ends < -0.5 / len(targets)).all())
    loss = add_gradients(model, chats, rows=4, precision="float32")
    assert torch.isfinite(loss)


def test_fine_tuning_teaches_to_end(tmp_path: Path, tokenizer: Tokenizer, model: LanguageModel) -> None:
    parent = small.save_parent(tmp_path / "parent", model, tokenizer, stage="pretrain")
    inputs = small.inputs(parent, corpus=small.corpus(questions=[]))
    loaded = load_checkpoint(sft.train(TEACHING, inputs, tmp_path / "out", small.Recorder(), small.never))
    engine = Engine(loaded.language_model, end_ids=loaded.tokenizer.end_ids)
    prompt = asked_ids(loaded.tokenizer, "What is a fox?", stage="sft", room=60)
    [answer] = engine.generate([prompt], [Sampling(temperature=0.0, max_new_tokens=36)])
    assert (answer.finish_reason, answer.tokens[-1]) == (END, tokenizer.end_id)
    assert loaded.tokenizer.decode(answer.tokens) == "It is small. Happy to help!"


def both(tmp_path: Path, run: Callable[[Path, Tokenizer, Path], Path]) -> list[bytes]:
    """The weights a stage ends with, once padded with the end and once with another token."""
    weights = []
    for kind in PADS:
        tokenizer = made(tmp_path / kind / "tokenizer", kind)
        shape = ModelConfig(
            vocab_size=tokenizer.vocab_size, heads=2, kv_heads=1, layers=1, ffn=64, context=96, head_dim=16
        )
        model = LanguageModel(shape)
        model.init_weights(torch.Generator().manual_seed(1))
        parent = small.save_parent(tmp_path / kind / "parent", model, tokenizer)
        weights.append(small.weights(run(parent, tokenizer, tmp_path / kind)))
    return weights


def train_sft(parent: Path, tokenizer: Tokenizer, directory: Path) -> Path:
    few = dataclasses.replace(TEACHING, steps=4)
    return sft.train(few, small.inputs(parent), directory / "out", small.Recorder(), small.never)


def train_reward(parent: Path, tokenizer: Tokenizer, directory: Path) -> Path:
    inputs = small.inputs(parent, comparisons=small.votes())
    out = reward.train(JUDGING, inputs, directory / "out", small.Recorder(), small.never)
    loaded = load_reward_model(out)
    sequences = comparison_sequences(
        loaded.tokenizer, [{"role": "user", "content": "What is a fox?"}], ["Grass.", "It eats grass."], context=96
    )
    assert {sequence[-1] for sequence in sequences} == {tokenizer.end_id}
    together = end_scores(loaded.reward_model, sequences, pad_id=loaded.tokenizer.pad_id)
    alone = [end_scores(loaded.reward_model, [one], pad_id=0).item() for one in sequences]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)
    return out


def train_ppo(parent: Path, tokenizer: Tokenizer, directory: Path) -> Path:
    judge = small.save_judge(directory / "judge", load_checkpoint(parent).language_model, tokenizer)
    config = PPOConfig(steps=2, rollouts=8, minibatch=4, max_new_tokens=6, evaluations=1)
    inputs = small.inputs(parent, reward_model=judge)
    return ppo.train(config, inputs, directory / "out", small.Recorder(), small.never)


@pytest.mark.parametrize("run", [train_sft, train_reward, train_ppo])
def test_what_it_is_padded_with_changes_nothing_that_is_learnt(
    tmp_path: Path, run: Callable[[Path, Tokenizer, Path], Path]
) -> None:
    padded_with_its_end, padded_with_another = both(tmp_path, run)
    assert padded_with_its_end == padded_with_another


def test_the_log_probs_of_rollouts_are_those_of_their_answers_ends_included(
    tokenizer: Tokenizer, model: LanguageModel
) -> None:
    def rollout(response: list[int]) -> Rollout:
        zeros = [0.0] * len(response)
        return Rollout(prompt=[5, 6], response=response, old_logprobs=zeros, finish_reason=END, group=0, reward=1.0)

    answers = [rollout([7, tokenizer.end_id]), rollout([7, 8, 9, tokenizer.end_id])]
    together = pad(answers, pad_id=tokenizer.pad_id)
    assert together.lengths.tolist() == [2, 4]
    logprobs = score_logprobs(model, together, temperature=1.0)
    for row, answer in enumerate(answers):
        alone = score_logprobs(model, pad([answer], pad_id=tokenizer.pad_id), temperature=1.0)[0]
        torch.testing.assert_close(logprobs[row][together.is_response[row]], alone[1:], atol=1e-5, rtol=1e-5)
        assert bool((alone[1:] < 0).all())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_transformers_reads_a_score_at_the_end_too(tmp_path: Path, tokenizer: Tokenizer, model: LanguageModel) -> None:
    """It tells padding by its id, so the config of a reward model names one that ends nothing."""
    judge = load_reward_model(small.save_judge(tmp_path, model, tokenizer))
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
    talk = [{"role": "user", "content": "What is a fox?"}]
    [sequence] = comparison_sequences(judge.tokenizer, talk, ["It is small."], context=96)
    ours = end_scores(judge.reward_model, [sequence], pad_id=judge.tokenizer.pad_id)
    with torch.no_grad():
        torch.testing.assert_close(theirs(torch.tensor([sequence])).logits[0], ours, atol=1e-4, rtol=1e-4)


def test_bits_per_byte_count_every_end_and_no_padding(tokenizer: Tokenizer, model: LanguageModel) -> None:
    texts = ["A fox.", "A rabbit eats grass under the old tree."]
    alone = [bits_per_byte(model, tokenizer, [text]) * len(text) for text in texts]
    assert bits_per_byte(model, tokenizer, texts) * sum(map(len, texts)) == pytest.approx(sum(alone), rel=1e-5)

from __future__ import annotations

import dataclasses
import json
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer import small
from trainer.config import REWARD, PPOConfig, RewardConfig
from trainer.evaluation.card import evaluate_checkpoint
from trainer.lineage import Inputs
from trainer.model import adapters, starting
from trainer.model.checkpoint import CheckpointError, load_checkpoint, load_reward_model, read_info, save_checkpoint
from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.model.engine import END, LENGTH, Completion, Engine, Sampling
from trainer.model.starting import start
from trainer.model.tokenizer import Tokenizer
from trainer.presets import PRESETS
from trainer.rl.rollout import Rollout, minibatches
from trainer.runtime import machine
from trainer.runtime.errors import Diverged, Stopped
from trainer.runtime.optim import adamw
from trainer.runtime.seeds import random_generator
from trainer.stages import ppo, reward
from trainer.world.tastes import TASTES

CONFIG = PPOConfig(
    steps=4, rollouts=8, minibatch=4, critic_warmup=1, max_new_tokens=8, lr=1e-3, critic_lr=1e-3, evaluations=2
)


@pytest.fixture
def inputs(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> Inputs:
    parent = small.save_parent(tmp_path / "sft", model, tokenizer)
    return small.inputs(parent, reward_model=small.save_judge(tmp_path / "reward", model, tokenizer))


@pytest.fixture
def models(inputs: Inputs) -> ppo.Models:
    assert inputs.parent is not None
    assert inputs.reward_model is not None
    parent = start(inputs.parent, CONFIG, seed=inputs.seed, out_dir=inputs.parent)
    return ppo.load_models(parent, inputs.reward_model)


def rollouts(models: ppo.Models, count: int = 6) -> list[Rollout]:
    engine = ppo.Engine(models.policy, end_ids=[models.tokenizer.end_id])
    prompt = models.tokenizer.encode("What is a fox?")
    return ppo.collect(
        engine, [prompt] * count, temperature=1.0, max_new_tokens=8, generator=random_generator(0, "rollouts")
    )


def run_update(models: ppo.Models, config: PPOConfig, *, critic_only: bool = False) -> dict[str, float]:
    experience = ppo.judge(rollouts(models), models, config, kl_weight=config.kl_weight)
    optimizers = {
        "policy": adamw(list(models.policy.parameters()), lr=config.lr),
        "critic": adamw(list(models.critic.parameters()), lr=config.critic_lr),
    }
    order = random_generator(0, "order")
    epochs = [minibatches(6, config.minibatch, generator=order) for _ in range(config.epochs)]
    return ppo.update(experience, models, config, optimizers, epochs=epochs, critic_only=critic_only)


def test_it_earns_more_reward(tmp_path: Path, inputs: Inputs) -> None:
    config = dataclasses.replace(CONFIG, steps=30, rollouts=32, minibatch=16, lr=3e-3, kl_weight=0.01)
    report = small.Recorder()
    ppo.train(config, inputs, tmp_path / "out", report, small.never)
    early = sum(report.metrics[step]["reward"] for step in (1, 2, 3)) / 3
    late = sum(report.metrics[step]["reward"] for step in (28, 29, 30)) / 3
    assert late > early + report.metrics[1]["reward_std"]
    assert report.metrics[30]["held_out_win_rate"] > 0.5


def test_it_reports_what_a_person_watches(tmp_path: Path, inputs: Inputs) -> None:
    report = small.Recorder()
    out = ppo.train(CONFIG, inputs, tmp_path / "out", report, small.never)
    assert report.started == (0, 4)
    watched = {"reward", "kl", "kl_weight", "entropy", "length", "ended", "first_ratio", "value_loss", "repetition"}
    assert watched <= report.metrics[1].keys()
    assert {"policy_loss", "clip_fraction", "approx_kl"} <= report.metrics[2].keys()  # after the critic's warm-up
    assert report.metrics[0]["held_out_win_rate"] == 0.5  # the parent against itself, with the same dice
    assert report.metrics[4].keys() >= {"held_out_reward", "held_out_win_rate"}
    assert [sample["prompt"] for sample in report.samples[4]] == [
        "What is an LLM?",
        "What is a berry?",
        "What is a grass?",
    ]
    assert all(set(answer) == {"prompt", "text", "score", "kl"} for answer in report.practised[4])
    assert [answer["kl"] for answer in report.practised[1]] == pytest.approx([0] * len(report.practised[1]), abs=1e-3)
    info = read_info(out)
    assert info["stage"] == "ppo"
    assert info["metrics"]["kl"] == report.metrics[4]["kl"]
    assert not (out / "resume").exists()


def test_it_starts_every_round_at_a_ratio_of_one(tmp_path: Path, inputs: Inputs) -> None:
    report = small.Recorder()
    ppo.train(CONFIG, inputs, tmp_path / "out", report, small.never)
    for step in range(1, 5):
        assert report.metrics[step]["first_ratio"] == pytest.approx(1.0, abs=1e-4)
    assert not any("ratio" in alarm for alarm in report.alarms)


def test_it_notices_that_it_samples_at_another_temperature_than_it_scores(models: ppo.Models) -> None:
    config = dataclasses.replace(CONFIG, temperature=0.5)
    assert run_update(models, config)["first_ratio"] > 1.1


@pytest.mark.parametrize(("rank", "checks"), [(0, 1), (0, 2), (0, 3), (4, 2)])
def test_it_resumes_to_the_same_bytes(tmp_path: Path, inputs: Inputs, rank: int, checks: int) -> None:
    config = dataclasses.replace(CONFIG, adapter_rank=rank)
    whole = ppo.train(config, inputs, tmp_path / "whole", small.Recorder(), small.never)
    with pytest.raises(Stopped):
        ppo.train(config, inputs, tmp_path / "cut", small.Recorder(), small.after(checks))
    report = small.Recorder()
    cut = ppo.train(config, inputs, tmp_path / "cut", report, small.never)
    assert report.started == (checks, 4)
    assert small.weights(cut) == small.weights(whole)
    assert small.adapter(cut) == small.adapter(whole)
    assert read_info(cut)["metrics"] == read_info(whole)["metrics"]


ADAPTED = dataclasses.replace(CONFIG, adapter_rank=4)


@pytest.fixture
def on_one_base(tmp_path: Path, inputs: Inputs) -> Inputs:
    """The inputs with a reward model that is an adapter on the parent."""
    config = RewardConfig(adapter_rank=4, lr=1e-2)
    votes = dataclasses.replace(inputs, reward_model=None, comparisons=small.votes())
    judge = reward.train(config, votes, tmp_path / "adapted", small.Recorder(), small.never)
    return dataclasses.replace(inputs, reward_model=judge)


def test_four_models_stand_on_one_base(on_one_base: Inputs) -> None:
    assert on_one_base.parent is not None
    assert on_one_base.reward_model is not None
    parent = start(on_one_base.parent, ADAPTED, seed=0, out_dir=on_one_base.parent)
    models = ppo.load_models(parent, on_one_base.reward_model)
    base = {tensor.data_ptr() for tensor in parent.base.parameters()}
    for model in (models.policy, models.reference, models.judge, models.critic):
        own = {tensor.data_ptr() for tensor in adapters.own_tensors(model).values()}
        assert {tensor.data_ptr() for tensor in model.parameters()} - own == base
    tokens = torch.tensor([[5, 6, 7]])
    merged = load_reward_model(on_one_base.reward_model).reward_model
    torch.testing.assert_close(models.judge(tokens), merged(tokens), atol=1e-4, rtol=1e-4)
    assert torch.equal(models.critic(tokens), models.judge(tokens))
    assert models.critic.head.weight is not models.judge.head.weight
    assert not adapters.learning(models.judge)
    assert not adapters.learning(models.reference)
    assert len(adapters.learning(models.critic)) == 2 * 7 * 2 + 1
    assert len(adapters.learning(models.policy)) == 2 * 7 * 2


def test_a_reward_model_of_another_base_is_loaded_apart(
    inputs: Inputs, on_one_base: Inputs, model: LanguageModel, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with torch.no_grad():
        model.decoder.layers[0].mlp.up_proj.weight.mul_(1.1)
    other = small.save_parent(tmp_path / "other", model, tokenizer)
    parent = start(other, ADAPTED, seed=0, out_dir=other)
    assert on_one_base.reward_model is not None
    models = ppo.load_models(parent, on_one_base.reward_model)
    tokens = torch.tensor([[5, 6, 7]])
    merged = load_reward_model(on_one_base.reward_model).reward_model
    torch.testing.assert_close(models.judge(tokens), merged(tokens))
    assert not adapters.is_adapted(models.judge)
    assert models.critic.decoder.embed_tokens.weight is models.judge.decoder.embed_tokens.weight
    torch.testing.assert_close(models.critic(tokens), models.judge(tokens), atol=1e-5, rtol=1e-5)
    assert adapters.is_adapted(models.critic)


def test_adapters_earn_more_reward_and_are_saved_beside_what_they_make(tmp_path: Path, on_one_base: Inputs) -> None:
    config = dataclasses.replace(ADAPTED, steps=24, rollouts=32, minibatch=16, lr=2e-2, kl_weight=0.01)
    report = small.Recorder()
    out = ppo.train(config, on_one_base, tmp_path / "out", report, small.never)
    early = sum(report.metrics[step]["reward"] for step in (1, 2, 3)) / 3
    late = sum(report.metrics[step]["reward"] for step in (22, 23, 24)) / 3
    assert late > early + report.metrics[1]["reward_std"]
    assert on_one_base.parent is not None
    info, parent = read_info(out), load_checkpoint(on_one_base.parent)
    assert info["adapter"]["base_sha256"] == parent.info["weights_sha256"]
    adapter = adapters.read_adapter(out, sha256=info["adapter"]["sha256"])
    assert adapter is not None
    tokens = torch.tensor([[5, 6, 7]])
    found = adapter.on(parent.language_model)(tokens)
    torch.testing.assert_close(found, load_checkpoint(out).model(tokens), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, parent.model(tokens), atol=1e-2)


@pytest.mark.parametrize("rank", [0, 4])
def test_in_bfloat16_the_trainer_takes_the_sampling_log_probs_anew(
    tmp_path: Path, on_one_base: Inputs, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "choose_precision", lambda width: "bfloat16")
    monkeypatch.setattr(starting, "ENTIRE", 0)
    report = small.Recorder()
    config = dataclasses.replace(CONFIG, adapter_rank=rank, critic_warmup=0)
    out = ppo.train(config, on_one_base, tmp_path / "out", report, small.never)
    for step in range(1, 5):
        assert report.metrics[step]["first_ratio"] == 1.0
        assert 0.0 < report.metrics[step]["sampler_error"] < 0.2
    assert read_info(out)["precision"] == "bfloat16"
    # A resumed run goes on in the precision it began with.
    with pytest.raises(Stopped):
        ppo.train(config, on_one_base, tmp_path / "cut", small.Recorder(), small.after(2))
    monkeypatch.setattr(machine, "choose_precision", lambda width: "float32")
    cut = ppo.train(config, on_one_base, tmp_path / "cut", small.Recorder(), small.never)
    assert small.weights(cut) == small.weights(out)


def test_the_parents_engine_is_gone_once_it_has_answered(
    tmp_path: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Engine]] = []

    def watched(model: LanguageModel, **how: Any) -> Engine:
        engine = Engine(model, **how)
        made.append(weakref.ref(engine))
        return engine

    class Counting(small.Recorder):
        def start(self, step: int, total_steps: int) -> None:
            assert len(made) == 2
            assert sum(engine() is not None for engine in made) == 1
            super().start(step, total_steps)

    monkeypatch.setattr(ppo, "Engine", watched)
    report = Counting()
    ppo.train(dataclasses.replace(CONFIG, steps=1), inputs, tmp_path / "out", report, small.never)
    assert report.started == (0, 1)


def test_it_refuses_log_probs_that_are_not_numbers(models: ppo.Models) -> None:
    sampled = rollouts(models)
    with torch.no_grad():
        models.reference.decoder.norm.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match="log-probability"):
        ppo.judge(sampled, models, CONFIG, kl_weight=0.1)


def test_it_teaches_only_the_critic_while_it_warms_up(models: ppo.Models) -> None:
    before = {name: tensor.clone() for name, tensor in models.policy.state_dict().items()}
    critic = models.critic.head.weight.clone()
    metrics = run_update(models, CONFIG, critic_only=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in models.policy.state_dict().items())
    assert not torch.equal(models.critic.head.weight, critic)
    assert metrics["stopped_early"] == 0.0


def test_it_starts_the_critic_as_the_reward_model(models: ppo.Models, inputs: Inputs) -> None:
    assert inputs.reward_model is not None
    judge = load_reward_model(inputs.reward_model).reward_model
    where = models.critic.head.weight.device  # the GPU, where this machine trains on one
    tokens = torch.tensor([[5, 6, 7]], device=where)
    assert torch.equal(models.critic(tokens), judge.to(where)(tokens))
    assert models.critic.head.weight is not models.judge.head.weight
    assert not any(parameter.requires_grad for parameter in models.judge.parameters())
    assert not any(parameter.requires_grad for parameter in models.reference.parameters())


def test_it_stops_a_round_that_has_moved_too_far(models: ppo.Models) -> None:
    config = dataclasses.replace(CONFIG, epochs=4, lr=0.05, max_kl_nats=0.01)
    before = models.policy.decoder.embed_tokens.weight.clone()
    metrics = run_update(models, config)
    assert metrics["stopped_early"] == 1.0
    assert not torch.equal(models.policy.decoder.embed_tokens.weight, before)  # the first step was fine


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("edge", ["lower", "upper"])
def test_every_presets_bound_stops_an_update_at_the_edge_of_the_clip_range(
    models: ppo.Models, preset: str, edge: str
) -> None:
    """A bound that no update can reach bounds nothing."""
    config = PRESETS[preset].ppo
    experience = ppo.judge(rollouts(models), models, CONFIG, kl_weight=0.1)
    ratio = 1.0 + config.clip if edge == "upper" else 1.0 - config.clip
    batch = dataclasses.replace(experience.batch, old_logprobs=experience.batch.old_logprobs - math.log(ratio))
    there = dataclasses.replace(experience, batch=batch)
    optimizer = adamw(list(models.policy.parameters()), lr=config.lr)
    before = models.policy.decoder.embed_tokens.weight.clone()
    assert "grad_norm" not in ppo._policy_step([there], models.policy, config, optimizer)
    assert torch.equal(models.policy.decoder.embed_tokens.weight, before)
    # Half-way to the edge a round goes on, so that what is usual does not stop it.
    half = dataclasses.replace(batch, old_logprobs=experience.batch.old_logprobs - math.log(1.0 + (ratio - 1.0) / 2))
    halfway = dataclasses.replace(experience, batch=half)
    assert "grad_norm" in ppo._policy_step([halfway], models.policy, config, optimizer)


def test_it_samples_and_is_measured_at_one_length_with_one_set_of_ends(
    tmp_path: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[tuple[int, frozenset[int]]] = set()
    generate = Engine.generate

    def watched(engine: Engine, prompts: list[list[int]], sampling: list[Sampling]) -> list[Completion]:
        asked.update((how.max_new_tokens, engine.end_ids) for how in sampling)
        return generate(engine, prompts, sampling)

    monkeypatch.setattr(Engine, "generate", watched)
    out = ppo.train(CONFIG, inputs, tmp_path / "out", small.Recorder(), small.never)
    evaluate_checkpoint(
        out, corpus=inputs.corpus, parent=inputs.parent, reward_model=inputs.reward_model, taste=TASTES["shorter"]
    )
    tokenizer = load_checkpoint(out).tokenizer
    assert asked == {(CONFIG.max_new_tokens, frozenset((tokenizer.end_id, tokenizer.document_end_id)))}
    assert read_info(out)["answer_tokens"] == CONFIG.max_new_tokens
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["max_new_tokens"] == CONFIG.max_new_tokens
    assert generation["eos_token_id"] == list(tokenizer.end_ids)


def test_it_charges_for_a_missing_end(models: ppo.Models) -> None:
    prompt, words, end = [5, 6], [7, 8], models.tokenizer.end_id
    finished = Rollout(prompt=prompt, response=[*words, end], old_logprobs=[-1.0] * 3, finish_reason=END, group=0)
    cut_off = Rollout(prompt=prompt, response=words, old_logprobs=[-1.0] * 2, finish_reason=LENGTH, group=1)
    rewards = ppo.answer_rewards([finished, cut_off], models, dataclasses.replace(CONFIG, missing_end_penalty=2.5))
    assert (rewards[0] - rewards[1]).item() == pytest.approx(2.5, abs=1e-5)


def test_it_puts_the_reward_in_one_field_and_the_kl_in_another(models: ppo.Models) -> None:
    sampled = rollouts(models)
    experience = ppo.judge(sampled, models, CONFIG, kl_weight=0.5)
    assert [one.reward for one in sampled] == pytest.approx(ppo.answer_rewards(sampled, models, CONFIG).tolist())
    # Policy and reference are the same.
    torch.testing.assert_close(experience.kl.cpu(), torch.zeros(6), atol=1e-4, rtol=0)
    # No KL, γ = λ-weighted returns end in the score: at the last token R = r.
    for row, one in enumerate(sampled):
        last = len(one.prompt) + len(one.response) - 2
        assert experience.returns[row, last].item() == pytest.approx(one.reward, abs=1e-4)
        assert experience.returns[row, last + 1 :].abs().sum().item() == 0.0


def test_it_raises_the_kl_weight_when_the_policy_runs_away(tmp_path: Path, inputs: Inputs) -> None:
    config = dataclasses.replace(CONFIG, kl_target_nats=1e-6, kl_horizon=40, lr=0.01)
    report = small.Recorder()
    ppo.train(config, inputs, tmp_path / "out", report, small.never)
    # Far above the target the error is clipped to 0.2: 8 answers of 40 raise the weight by 4 %.
    assert report.metrics[4]["kl"] > 0
    assert report.metrics[4]["kl_weight"] == pytest.approx(report.metrics[3]["kl_weight"] * 1.04)
    assert any("times the target" in alarm for alarm in report.alarms)
    # Nor is it worn down while only the critic learns and the KL is 0.
    assert report.metrics[2]["kl_weight"] == report.metrics[1]["kl_weight"] == config.kl_weight


def test_it_refuses_a_reward_that_is_not_a_number(models: ppo.Models) -> None:
    models.judge.bias.fill_(float("nan"))
    with pytest.raises(Diverged, match="not a number"):
        ppo.judge(rollouts(models), models, CONFIG, kl_weight=0.1)


def test_it_refuses_a_gradient_that_is_not_a_number(models: ppo.Models) -> None:
    with torch.no_grad():
        models.critic.head.weight.fill_(1e38)
    with pytest.raises(Diverged, match="gradient"):
        run_update(models, CONFIG, critic_only=True)


def test_it_refuses_a_reward_model_with_another_tokenizer(
    tmp_path: Path, inputs: Inputs, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    other = Tokenizer.train(["quite another text about ships"], 300)
    judge = ScalarModel.from_language_model(model, generator=random_generator(0))
    elsewhere = save_checkpoint(tmp_path / "other", judge, other, stage=REWARD, info={})
    with pytest.raises(ValueError, match="has another tokenizer"):
        ppo.train(CONFIG, dataclasses.replace(inputs, reward_model=elsewhere), tmp_path, small.Recorder(), small.never)


def test_it_refuses_a_language_model_as_reward_model(tmp_path: Path, inputs: Inputs) -> None:
    with pytest.raises(CheckpointError, match="not a reward model"):
        ppo.train(
            CONFIG, dataclasses.replace(inputs, reward_model=inputs.parent), tmp_path, small.Recorder(), small.never
        )

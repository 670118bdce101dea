"""Settings are checked where they are made, because `--set` and run.json bring any JSON value."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from trainer.config import ANSWER_TOKENS, ModelConfig, SFTConfig, check_context
from trainer.presets import PRESETS, answer_tokens_of, get_preset


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("pretrain", {"tokens": 0}, "tokens must be above 0, not 0"),
        ("pretrain", {"batch_tokens": 100}, "batch_tokens=100 must be a multiple of sequence=256"),
        ("pretrain", {"sequence": 0}, "sequence must be above 0"),
        ("pretrain", {"tokens": 128}, "tokens=128 must cover at least one batch of batch_tokens=1024"),
        ("pretrain", {"warmup": 1.5}, "warmup must be from 0 to 1, not 1.5"),
        ("pretrain", {"evaluations": 0}, "evaluations must be above 0"),
        ("sft", {"steps": 0}, "steps must be above 0, not 0"),
        ("sft", {"steps": "abc"}, "steps must be a whole number, not 'abc'"),
        ("sft", {"steps": 2.5}, "steps must be a whole number, not 2.5"),
        ("sft", {"steps": True}, "steps must be a whole number, not True"),
        ("sft", {"steps": None}, "steps must be a whole number, not None"),
        ("sft", {"batch_tokens": 100}, "batch_tokens=100 must be a multiple of sequence=256"),
        ("sft", {"matrix_lr": math.nan}, "matrix_lr must be a number, not nan"),
        ("sft", {"matrix_lr": -0.1}, "matrix_lr must be 0 or more, not -0.1"),
        ("reward", {"held_out": 2}, "held_out must be from 0 to 1"),
        ("reward", {"batch_pairs": 0}, "batch_pairs must be above 0"),
        ("reward", {"lr": [1]}, r"lr must be a number, not \[1\]"),
        ("ppo", {"temperature": 0}, "temperature must be above 0"),
        ("ppo", {"rollouts": -1}, "rollouts must be above 0"),
        ("ppo", {"lr": 10**400}, "lr must be a number"),
        ("ppo", {"kl_weight": math.inf}, "kl_weight must be a number, not inf"),
        ("grpo", {"group": 1}, "group must be at least 2"),
        ("grpo", {"solved_low": 0.9}, "solved_low=0.9 must not be above solved_high=0.8"),
        ("grpo", {"max_new_tokens": 0}, "max_new_tokens must be above 0"),
        ("grpo", {"adapter_rank": -1}, "adapter_rank must be 0 or more, not -1"),
        ("reward", {"adapter_rank": 2.5}, "adapter_rank must be a whole number, not 2.5"),
        ("sft", {"checkpoint_activations": 1}, "checkpoint_activations must be true or false, not 1"),
    ],
)
def test_it_refuses_a_setting_that_cannot_be(stage: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(get_preset("smoke").stage(stage), **changes)


@pytest.mark.parametrize("changes", [{"lr": 1}, {"lr": 0.0}, {"centering": 0}, {"held_out": 1.0}])
def test_it_takes_a_whole_number_for_any_and_nothing_where_that_means_something(changes: dict[str, Any]) -> None:
    dataclasses.replace(get_preset("smoke").reward, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 0}, "kv_heads must be above 0"),
        ({"kv_heads": 2}, "kv_heads=2 must divide heads=3"),
        ({"head_dim": 15}, "head_dim must be even"),
        ({"rope_theta": -1.0}, "rope_theta must be above 0"),
    ],
)
def test_it_refuses_a_shape_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    shape = ModelConfig(vocab_size=400, heads=3, kv_heads=1, layers=2, ffn=96, context=96, head_dim=16)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(shape, **changes)


@pytest.mark.parametrize("name", ["smoke", "tiny", "small", "base"])
def test_every_presets_stages_suit_its_own_model(name: str) -> None:
    preset = get_preset(name)
    for stage in ("pretrain", "sft", "reward", "ppo", "grpo"):
        check_context(preset.stage(stage), preset.model.context)
    assert preset.pretrain.sequence == preset.model.context  # a chat fills the context, and past it a model babbles


@pytest.mark.parametrize(
    ("stage", "message"),
    [("sft", "sequence=256 is too long: the model reads 16 tokens"), ("ppo", "max_new_tokens=32 leaves no room")],
)
def test_it_refuses_a_stage_its_model_is_too_small_for(stage: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_context(get_preset("smoke").stage(stage), 16)


def test_no_half_of_the_context_is_taken_from_prompts() -> None:
    """Evaluation keeps half for them; rollouts that did not would be measured at another length."""
    config = dataclasses.replace(get_preset("smoke").ppo, max_new_tokens=129)
    with pytest.raises(ValueError, match="max_new_tokens=129 leaves no room"):
        check_context(config, 256)
    check_context(dataclasses.replace(config, max_new_tokens=128), 256)


def test_no_preset_fine_tunes_at_a_rate_that_erased_facts() -> None:
    """Muon at 0.008 and 0.003 did (CONTRIBUTING's log)."""
    assert SFTConfig(steps=1, batch_tokens=1, sequence=1).matrix_lr < 0.003
    for preset in PRESETS.values():
        assert preset.sft.matrix_lr <= preset.pretrain.matrix_lr / 9, preset.name


def test_no_preset_holds_ppo_so_loosely_or_so_slowly_that_it_cost_facts() -> None:
    """Eight nats on answers of 96 tokens did, and a controller that took fifteen rounds (CONTRIBUTING's log)."""
    for preset in PRESETS.values():
        ppo = preset.ppo
        assert ppo.kl_target_nats / ppo.max_new_tokens <= 3 / 96 or preset.name == "smoke", preset.name
        assert ppo.kl_horizon <= 3 * ppo.rollouts or ppo.steps < 4, preset.name


def test_a_preset_has_one_answer_length() -> None:
    preset = get_preset("tiny")
    assert preset.answer_tokens == preset.ppo.max_new_tokens == preset.grpo.max_new_tokens
    longer = dataclasses.replace(preset.grpo, max_new_tokens=100)
    with pytest.raises(ValueError, match=r"ppo answers in 96 tokens at most and grpo in 100\. Set both"):
        dataclasses.replace(preset, grpo=longer)


@pytest.mark.parametrize(
    ("info", "tokens"),
    [
        ({"answer_tokens": 40, "preset": "small"}, 40),
        ({"preset": "small"}, 192),
        ({"preset": "unknown"}, ANSWER_TOKENS),
        ({}, ANSWER_TOKENS),
        ({"answer_tokens": 0}, ANSWER_TOKENS),
        ({"answer_tokens": "40"}, ANSWER_TOKENS),
        ({"answer_tokens": True}, ANSWER_TOKENS),
    ],
)
def test_it_knows_the_answer_length_of_any_checkpoint(info: dict[str, Any], tokens: int) -> None:
    assert answer_tokens_of(info) == tokens

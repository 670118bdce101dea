"""Settings are checked where they are made, because `--set` and run.json bring any JSON value."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from trainer.config import ModelConfig, check_context, get_preset


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
    [("sft", "sequence=256 is too long: the model reads 16 tokens"), ("ppo", "max_new_tokens=16 leaves no room")],
)
def test_it_refuses_a_stage_its_model_is_too_small_for(stage: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_context(get_preset("smoke").stage(stage), 16)

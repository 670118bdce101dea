"""How long a run will take and what room it needs, before it starts. Imports no torch.

The idea: a training step costs its matrix products, at the rate this machine was measured at
(`python -m trainer measure`), plus moving every activation through memory a hundred times, which
is what a small model mostly does. Sampling is bound by steps, not by operations, so it is counted in
tokens written one after another.

Simplification: a handful of constants for every machine, fitted on 2 CPU cores; a site that has
finished a run of the same stage and preset shows that run's own time instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.config import GRPO, INIT, PPO, PRETRAIN, REWARD, SFT, Preset, check_stage

MATMUL_SHARE = 0.7
"""Share of the measured matmul rate that a model's own, smaller products reach."""
TOUCHES = 100
"""How often each activation of a block is read or written, forward and backward."""
LOGIT_TOUCHES = 10
"""How often each logit is."""
CPU_BYTES_PER_S, GPU_BYTES_PER_S = 8e9, 1e12
"""Memory bandwidth assumed; it is not measured."""
LAYER_STEP_S = 0.0006
"""Least time one block needs for one sampled token, however small it is."""
START_S = 6.0
"""Starting Python, loading torch, building the corpus."""
DEFAULT_GFLOPS = 60.0
"""Assumed where nothing was measured: two cores of a laptop."""
RUNTIME_BYTES = 450_000_000
"""Python with torch, before any model."""
ANSWER_TOKENS = 80
"""A compared answer with its prompt."""
LIMIT_SHARE = 0.5
"""How much of their longest length rollouts use, prompt included: most end early."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    seconds: float
    memory_bytes: int
    """Peak, on the device that trains."""
    disk_bytes: int
    """While it runs: the checkpoint and what a resume needs."""
    measured: bool
    """False when the machine's rate is assumed, not measured."""


def estimate(stage: str, preset: Preset, machine: Mapping[str, Any] | None = None, *, votes: int = 0) -> Estimate:
    """What one run of `stage` takes; `machine` is what `python -m trainer measure` printed."""
    check_stage(stage)
    rate, measured = _rate(machine)
    bytes_per_s = CPU_BYTES_PER_S if (machine or {}).get("device", "cpu") == "cpu" else GPU_BYTES_PER_S
    model_s = _flops_per_token(stage, preset) / (rate * MATMUL_SHARE) + _bytes_per_token(preset) / bytes_per_s
    parameters = preset.model.parameters
    models, trained = _models(stage)
    # float32 weights for every model; gradient and two moments for those that learn.
    memory = RUNTIME_BYTES + 4 * parameters * (models + 3 * trained) + _activation_bytes(stage, preset)
    return Estimate(
        seconds=START_S + _tokens_trained(stage, preset, votes) * model_s + _sampling_s(stage, preset, rate),
        memory_bytes=memory,
        disk_bytes=4 * parameters * (1 + (3 * trained if trained else 0)),
        measured=measured,
    )


def _rate(machine: Mapping[str, Any] | None) -> tuple[float, bool]:
    """(floating point operations per second, whether it was measured)."""
    rates = (machine or {}).get("matmul_gflops")
    if isinstance(rates, Mapping):
        best = max((float(rate) for rate in rates.values() if isinstance(rate, int | float)), default=0.0)
        if best > 0 and math.isfinite(best):
            return best * 1e9, True
    return DEFAULT_GFLOPS * 1e9, False


def _models(stage: str) -> tuple[int, int]:
    """(models in memory, how many of them learn)."""
    return {INIT: (1, 0), PRETRAIN: (1, 1), SFT: (1, 1), REWARD: (1, 1), PPO: (4, 2), GRPO: (1, 1)}[stage]


def _tokens_trained(stage: str, preset: Preset, votes: int) -> float:
    """Tokens that go forward and backward through one model, over the whole run."""
    if stage == PRETRAIN:
        return preset.pretrain.tokens
    if stage == SFT:
        return preset.sft.steps * preset.sft.batch_tokens
    if stage == REWARD:
        return (votes or preset.votes) * 2 * ANSWER_TOKENS * preset.reward.epochs
    if stage == PPO:
        ppo = preset.ppo
        tokens = ppo.steps * ppo.rollouts * ppo.max_new_tokens * LIMIT_SHARE
        # Policy and critic learn in every epoch; policy, reference, critic and reward model score once.
        return tokens * (2 * ppo.epochs + 4 / 3)
    if stage == GRPO:
        grpo = preset.grpo
        tokens = grpo.steps * grpo.problems * grpo.group * grpo.max_new_tokens * LIMIT_SHARE
        return tokens * (grpo.epochs + 1 / 3)
    return 0


def _flops_per_token(stage: str, preset: Preset) -> float:
    """6 operations per parameter, and attention's 12 · layers · width · length."""
    model = preset.model
    length = {PRETRAIN: preset.pretrain.sequence, SFT: preset.sft.sequence}.get(stage, ANSWER_TOKENS)
    return 6 * model.parameters + 12 * model.layers * model.width * length


def _bytes_per_token(preset: Preset) -> float:
    """float32 values moved through memory for one token."""
    model = preset.model
    return 4 * (TOUCHES * model.layers * model.width + LOGIT_TOUCHES * model.vocab_size)


def _sampling_s(stage: str, preset: Preset, rate: float) -> float:
    """Seconds spent writing rollouts: one step of the whole batch per token."""
    if stage == PPO:
        steps, batch, length = preset.ppo.steps, preset.ppo.rollouts, preset.ppo.max_new_tokens
    elif stage == GRPO:
        grpo = preset.grpo
        steps, batch, length = grpo.steps, grpo.problems * grpo.group, grpo.max_new_tokens
    else:
        return 0.0
    one_token_s = max(preset.model.layers * LAYER_STEP_S, batch * 2 * preset.model.parameters / (rate * MATMUL_SHARE))
    return steps * length * LIMIT_SHARE * one_token_s


def _activation_bytes(stage: str, preset: Preset) -> int:
    """What the backward pass keeps of one batch: about 16 vectors a block, and the logits three times over."""
    tokens = {
        INIT: 0,
        PRETRAIN: preset.pretrain.batch_tokens,
        SFT: preset.sft.batch_tokens,
        REWARD: preset.reward.batch_pairs * 2 * ANSWER_TOKENS,
        PPO: preset.ppo.minibatch * (ANSWER_TOKENS + preset.ppo.max_new_tokens),
        GRPO: preset.grpo.minibatch * (ANSWER_TOKENS + preset.grpo.max_new_tokens),
    }[stage]
    # Large batches go through in parts (gradient accumulation).
    tokens = min(tokens, 65_536)
    model = preset.model
    return 4 * tokens * (16 * model.layers * model.width + 3 * model.vocab_size)

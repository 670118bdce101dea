"""How long a run will take and what room it needs, before it starts. Imports no torch.

The idea: a training step costs its matrix products, at the rate this machine was measured at
(`python -m trainer measure`), plus moving every activation through memory some dozen times, which
is much of what a small model does. Text is learnt from in the precision that wins here; rewards are
counted in float32, which is an upper bound where a wide model or an adapter takes bfloat16. Sampling
is counted in tokens written one after another, each by the whole batch at once.

Simplification: a handful of constants for every machine, fitted on 2 CPU cores and, for what is learnt from text, on
one H100 (tiny, small and base: 5, 11 and 2 % from what their steps took); a site that has finished a run of the same
stage and preset shows that run's own time instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.config import GRPO, INIT, PPO, PRETRAIN, REWARD, SFT, ModelConfig, check_stage
from trainer.presets import Preset

MATMUL_SHARE, GPU_BFLOAT16_SHARE = 0.7, 0.4
"""Share of the measured matmul rate that a model's own, smaller products reach; a GPU's bfloat16 units wait more."""
GPU_LAYER_S = 0.003
"""Least time a block takes in a training step on a GPU: a small model keeps it waiting for work."""
TOUCHES = 25
"""How often each activation of a block goes through memory, forward and backward."""
LOGIT_TOUCHES = 4
"""How often each logit does: the loss takes them in chunks that stay in the processor's cache."""
CPU_BYTES_PER_S, GPU_BYTES_PER_S = 8e9, 1e12
"""Memory bandwidth assumed; it is not measured."""
MUON_FLOPS = 25
"""Operations of one Muon step per parameter and unit of width: five Newton-Schulz iterations."""
DECODING_SHARE = 0.3
"""Share of the measured float32 rate that sampling reaches."""
LAYER_STEP_S = 0.0003
"""Least time one block needs for one sampled token, however small it is."""
THREAD_GAIN = 0.75
"""Twice the threads train 2 to this power times as quickly."""
NARROW, CLEARLY = 128, 1.5
"""From this width on, and when it is this many times as quick, products are taken in bfloat16: a narrower model is
bound by the number of operations, which autocast only adds to."""
START_S = 4.0
"""Starting Python, loading torch, building the corpus."""
DEFAULT_GFLOPS = 60.0
"""Assumed where nothing was measured: two cores of a laptop."""
RUNTIME_BYTES = 450_000_000
"""Python with torch, before any model."""
ANSWER_TOKENS = 50
"""A compared answer with its prompt."""
LIMIT_SHARE = 0.5
"""How much of their longest length rollouts use, prompt included: most end early."""
SIGNAL_SHARE = 0.3
"""Share of GRPO's answers that teach something: in the other groups all are right, or all wrong."""
QUESTIONS = 200
"""Questions at every evaluation of fine-tuning (evaluate.py)."""
LOSS_TOKENS = 1024
"""Tokens whose logits exist together where text is learnt from (losses.py)."""
LOGITS_AT_ONCE = 2**23
"""Logits held at a time where log-probs are taken: 34 MB in float32, three times that while they have a gradient."""
CPU_ANSWERS = 16
"""Rollouts in a microbatch on a CPU, at most."""
ACTIVATION_BYTES = 94
"""What the backward pass needs of one token in one block, per unit of width. In float32; bfloat16 keeps two thirds."""
CPU_ROOM_BYTES, GPU_ROOM_BYTES = 1_000_000_000, 16_000_000_000
"""Activations of one pass, at most: larger batches go through in microbatches."""


def rows_at_once(model: ModelConfig, *, sequence: int, device: str) -> int:
    """How many rows of `sequence` tokens go forward and backward together: what there is room for, but one at least.

    The stages cut their batches by it (gradient accumulation), so the memory shown beforehand is what a run takes.
    """
    return max(1, tokens_at_once(model, device=device) // sequence)


def tokens_at_once(model: ModelConfig, *, device: str) -> int:
    """How many tokens go forward and backward together where rows differ in length."""
    room = CPU_ROOM_BYTES if device == "cpu" else GPU_ROOM_BYTES
    return room // _activation_bytes_per_token(model)


def _activation_bytes_per_token(model: ModelConfig) -> int:
    return ACTIVATION_BYTES * model.layers * model.width


@dataclass(frozen=True, kw_only=True)
class Estimate:
    seconds: float
    memory_bytes: int
    """Peak, on the device that trains."""
    disk_bytes: int
    """While it runs: the checkpoint and what a resume needs."""
    measured: bool
    """False when the machine's rate is assumed, not measured."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a machine does in a second."""

    float32: float
    """Floating point operations in float32."""
    bfloat16: float
    """The same in bfloat16."""
    bytes_per_s: float
    bfloat16_share: float
    """Share of the rate in bfloat16 that training reaches; of that in float32 it is MATMUL_SHARE."""
    layer_s: float
    """Least time one block takes in a training step."""
    pace: float
    """How much of this the run's own threads reach in training."""
    measured: bool

    def learning(self, width: int) -> float:
        """The rate of pre-training and fine-tuning, in the precision that `machine.choose_precision` takes.

        A GPU that has units for bfloat16 is that many times as quick in it, one that has not is not.
        """
        return self.bfloat16 * self.bfloat16_share if self.takes_bfloat16(width) else self.scoring

    @property
    def scoring(self) -> float:
        """The rate of what is counted in float32."""
        return self.float32 * MATMUL_SHARE

    def takes_bfloat16(self, width: int) -> bool:
        return width >= NARROW and self.bfloat16 > CLEARLY * self.float32


def estimate(
    stage: str, preset: Preset, machine: Mapping[str, Any] | None = None, *, votes: int = 0, threads: int = 0
) -> Estimate:
    """What one run of `stage` takes; `machine` is what `python -m trainer measure` printed.

    `threads` are the run's own on a CPU; 0 means as many as the machine was measured with.
    """
    check_stage(stage)
    machine = machine or {}
    speed = _speed(machine, threads)
    parameters = preset.model.parameters
    models, trained = _models(stage, preset)
    # float32 weights for every model; gradient and two moments for those that learn. Adapters stand on one base.
    if rank := _adapter_rank(stage, preset):
        memory = RUNTIME_BYTES + 4 * parameters + 16 * trained * adapter_parameters(preset.model, rank)
        passing = _activation_bytes(stage, preset, _device(machine))  # the sampler's merged copy is in the 4
    else:
        memory = RUNTIME_BYTES + 4 * parameters * (models + 3 * trained)
        # While it writes, a model's matrices lie there once more, prepared (products.py); while it learns, activations.
        passing = max(_activation_bytes(stage, preset, _device(machine)), 4 * parameters)
    return Estimate(
        seconds=START_S + _training_s(stage, preset, speed, votes) / speed.pace + _sampling_s(stage, preset, speed),
        memory_bytes=memory + passing,
        disk_bytes=4 * parameters + 4 * _saved_to_resume(stage, preset) * _learning(stage, preset),
        measured=speed.measured,
    )


def _device(machine: Mapping[str, Any]) -> str:
    return str(machine.get("device", "cpu"))


def _speed(machine: Mapping[str, Any], threads: int) -> Speed:
    """The measured speed, or the assumed one where a figure is missing."""
    rates, measured_threads = machine.get("matmul_gflops"), machine.get("threads")
    rates = rates if isinstance(rates, Mapping) else {}
    found = {
        name: 1e9 * rate
        for name in ("float32", "bfloat16")
        if isinstance(rate := rates.get(name), int | float) and math.isfinite(rate) and rate > 0
    }
    on_cpu = _device(machine) == "cpu"
    pace = 1.0
    if on_cpu and threads and isinstance(measured_threads, int):
        pace = min(1.0, threads / max(1, measured_threads)) ** THREAD_GAIN
    return Speed(
        float32=found.get("float32", DEFAULT_GFLOPS * 1e9),
        bfloat16=found.get("bfloat16", DEFAULT_GFLOPS * 1e9),
        bytes_per_s=CPU_BYTES_PER_S if on_cpu else GPU_BYTES_PER_S,
        bfloat16_share=MATMUL_SHARE if on_cpu else GPU_BFLOAT16_SHARE,
        layer_s=0.0 if on_cpu else GPU_LAYER_S,
        pace=pace,
        measured=len(found) == 2,
    )


def _models(stage: str, preset: Preset) -> tuple[int, int]:
    """(models in memory, how many of them learn). The rest are references, reward models, and their average."""
    reward_models = 2 + _teachers(preset)
    return {INIT: (1, 0), PRETRAIN: (1, 1), SFT: (1, 1), REWARD: (reward_models, 1), PPO: (4, 2), GRPO: (2, 1)}[stage]


def _adapter_rank(stage: str, preset: Preset) -> int:
    return 0 if stage == INIT else int(getattr(preset.stage(stage), "adapter_rank", 0))


def adapter_parameters(model: ModelConfig, rank: int) -> int:
    """Numbers of low-rank adapters on all seven linear layers of every block: rank · (in + out) each."""
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    attention = 2 * (model.width + queries) + 2 * (model.width + keys)
    return model.layers * rank * (attention + 3 * (model.width + model.ffn))


def _learning(stage: str, preset: Preset) -> int:
    """Numbers of one model that a run saves to resume from: what learns of it."""
    rank = _adapter_rank(stage, preset)
    return adapter_parameters(preset.model, rank) if rank else preset.model.parameters


def _saved_to_resume(stage: str, preset: Preset) -> int:
    """How many models' worth of numbers are saved to resume from: weights, and two moments where they learn."""
    models, trained = _models(stage, preset)
    return 2 * trained + (models if stage == REWARD else trained)  # a reward model's average and teachers are saved too


def _teachers(preset: Preset) -> int:
    """Reward models kept beside the one that learns from them; one by itself teaches nobody."""
    return preset.reward.teachers if preset.reward.teachers > 1 else 0


def _training_s(stage: str, preset: Preset, speed: Speed, votes: int) -> float:
    """Seconds of forward and backward passes and optimiser steps over the whole run, on every measured thread."""
    model = preset.model
    rate = speed.learning(model.width) if stage in (PRETRAIN, SFT) else speed.scoring
    token_s = _flops_per_token(stage, preset) / rate + _bytes_per_token(model) / speed.bytes_per_s
    steps = {PRETRAIN: preset.pretrain.steps, SFT: preset.sft.steps}.get(stage, 0)
    has_muon = not (stage == SFT and (preset.sft.matrix_lr == 0 or preset.sft.adapter_rank))
    muon_s = MUON_FLOPS * model.width * model.parameters / rate
    work = _tokens_trained(stage, preset, votes) * token_s + (steps * muon_s if has_muon else 0)
    return max(steps * model.layers * speed.layer_s, work)


def _tokens_trained(stage: str, preset: Preset, votes: int) -> float:
    """Tokens that go forward and backward through one model, over the whole run."""
    if stage == PRETRAIN:
        return preset.pretrain.tokens
    if stage == SFT:
        return preset.sft.steps * preset.sft.batch_tokens
    if stage == REWARD:
        reward = preset.reward
        answers = (votes or preset.votes) * (1.0 - reward.held_out) * 2
        share = 1.0 - reward.probing * 2 / 3  # no way back while only the head learns
        read = answers * reward.epochs * reward.teachers * share
        if teachers := _teachers(preset):  # they score what the last model studies, a third of a step each
            read += (answers + reward.studied) * (reward.study_epochs * share + teachers / 3)
        return read * ANSWER_TOKENS
    if stage == PPO:
        ppo = preset.ppo
        tokens = ppo.steps * ppo.rollouts * ppo.max_new_tokens * LIMIT_SHARE
        # Policy and critic learn in every epoch; reference, critic and reward model score once, a third of that each.
        return tokens * (2 * ppo.epochs + 1)
    if stage == GRPO:
        grpo = preset.grpo
        tokens = grpo.steps * grpo.problems * grpo.group * grpo.max_new_tokens * LIMIT_SHARE
        read = grpo.steps * grpo.updates * _anchor_tokens(preset)
        # The reference scores one answer of each group, and reads what the policy is held to.
        return tokens * (SIGNAL_SHARE * grpo.epochs + 1 / (3 * grpo.group)) + read * (1 + 1 / 3)
    return 0


def _anchor_tokens(preset: Preset) -> int:
    """Tokens of other conversations that one step of GRPO reads."""
    grpo = preset.grpo
    return grpo.anchor_rows * min(preset.model.context, grpo.anchor_sequence) if grpo.anchor_weight > 0 else 0


def _flops_per_token(stage: str, preset: Preset) -> float:
    """6 operations per parameter, and attention's 12 · layers · width · length."""
    model = preset.model
    length = {PRETRAIN: preset.pretrain.sequence, SFT: preset.sft.sequence}.get(stage, ANSWER_TOKENS)
    return 6 * model.parameters + 12 * model.layers * model.width * length


def _bytes_per_token(model: ModelConfig) -> float:
    """float32 values moved through memory for one token."""
    return 4 * (TOUCHES * model.layers * model.width + LOGIT_TOUCHES * model.vocab_size)


def _sampling_s(stage: str, preset: Preset, speed: Speed) -> float:
    """Seconds spent writing answers: one step of the whole batch per token."""
    if stage == SFT:
        rounds, batch, length = preset.sft.evaluations + 1, QUESTIONS, preset.answer_tokens
    elif stage == PPO:
        rounds, batch, length = preset.ppo.steps, preset.ppo.rollouts, preset.ppo.max_new_tokens
    elif stage == GRPO:
        grpo = preset.grpo
        rounds, batch, length = grpo.steps, grpo.problems * grpo.group, grpo.max_new_tokens
    else:
        return 0.0
    model = preset.model
    one_token_s = model.layers * LAYER_STEP_S + batch * 2 * model.parameters / (speed.float32 * DECODING_SHARE)
    return rounds * length * LIMIT_SHARE * one_token_s


def _activation_bytes(stage: str, preset: Preset, device: str) -> int:
    """What the backward pass keeps of the tokens that go through together, and their logits three times over."""
    if stage == INIT:
        return 0
    model = preset.model
    tokens, logits = _tokens_at_once(stage, preset, device)
    together = logits * model.vocab_size
    if stage in (PPO, GRPO):
        together = min(together, LOGITS_AT_ONCE)
    return tokens * _activation_bytes_per_token(model) + 4 * 3 * together


def _tokens_at_once(stage: str, preset: Preset, device: str) -> tuple[int, int]:
    """(tokens that go forward and backward together, those of them that have logits at one time)."""
    if stage in (PRETRAIN, SFT):
        text = preset.pretrain if stage == PRETRAIN else preset.sft
        fitting = rows_at_once(preset.model, sequence=text.sequence, device=device)
        tokens = min(text.batch_tokens, fitting * text.sequence)
        return tokens, min(tokens, LOSS_TOKENS)
    if stage == REWARD:
        pairs = preset.reward.batch_pairs * (2 if _teachers(preset) else 1)  # the last model studies as much at once
        return pairs * 2 * ANSWER_TOKENS, 0
    rl = preset.ppo if stage == PPO else preset.grpo
    answers = min(rl.minibatch, CPU_ANSWERS) if device == "cpu" else rl.minibatch
    longest = ANSWER_TOKENS + rl.max_new_tokens
    answers = max(1, min(answers, tokens_at_once(preset.model, device=device) // longest))
    tokens, logits = answers * longest, answers * rl.max_new_tokens
    if stage == GRPO:  # what holds it to its parent goes through by itself, and has two models' logits
        sequence = min(preset.model.context, preset.grpo.anchor_sequence)
        read = min(_anchor_tokens(preset), rows_at_once(preset.model, sequence=sequence, device=device) * sequence)
        tokens, logits = max(tokens, read), max(logits, 2 * read)
    return tokens, logits

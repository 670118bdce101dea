"""Names and settings of every stage. Imports nothing but the standard library.

The idea: a stage is described by one frozen dataclass. The web process imports this module and presets.py to show
settings and estimates, so neither must ever need torch.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

INIT: Final = "init"
PRETRAIN: Final = "pretrain"
SFT: Final = "sft"
REWARD: Final = "reward"
PPO: Final = "ppo"
GRPO: Final = "grpo"

STAGES: Final = (INIT, PRETRAIN, SFT, REWARD, PPO, GRPO)
"""Every stage, in the order a model passes through them."""

CHAT_STAGES: Final = (INIT, PRETRAIN, SFT, PPO, GRPO)
"""Stages whose checkpoint produces text (a reward model produces a number)."""

PARENT_STAGES: Final[dict[str, tuple[str, ...]]] = {
    INIT: (),
    PRETRAIN: (INIT, PRETRAIN),
    SFT: (PRETRAIN, SFT),
    REWARD: (SFT, PPO, GRPO),
    PPO: (SFT, PPO),
    GRPO: (SFT, PPO, GRPO),
}
"""Which stages a parent checkpoint may come from; the first is the usual one."""

STAGE_TITLES: Final[dict[str, str]] = {
    INIT: "Random init",
    PRETRAIN: "Pre-training",
    SFT: "Instruction fine-tuning",
    REWARD: "Reward model",
    PPO: "Preference fine-tuning",
    GRPO: "Reasoning fine-tuning",
}


def check_parent_stage(stage: str, parent_stage: str | None) -> None:
    """Raise ValueError with what to do unless `stage` may start from `parent_stage`."""
    check_stage(stage)
    allowed = PARENT_STAGES[stage]
    if parent_stage is None:
        if allowed:
            raise ValueError(f"{stage} needs a parent checkpoint from stage {' or '.join(allowed)}.")
        return
    if parent_stage not in allowed:
        wanted = " or ".join(allowed) if allowed else "no parent at all"
        raise ValueError(f"{stage} cannot start from a {parent_stage} checkpoint; it needs {wanted}.")


def check_stage(stage: str) -> None:
    if stage not in STAGES:
        raise ValueError(f"Unknown stage {stage!r}; choose one of {', '.join(STAGES)}.")


def require(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


ANSWER_TOKENS: Final = 96
"""Longest answer, in tokens, where neither a checkpoint nor its preset says another."""

LARGEST_SETTING: Final = 1e15
"""No setting means anything beyond this; it keeps sums and products of settings finite."""


def _check_numbers(config: Any, *, positive: Sequence[str] = (), shares: Sequence[str] = ()) -> None:
    """Raise ValueError unless every field holds a number of its annotated type that can be meant.

    `--set`, run.json and config.json bring whatever JSON can hold. A field that is not `positive` may be 0, none
    may be below; a share is at most 1.
    """
    for item in dataclasses.fields(config):
        name, value, is_whole = item.name, getattr(config, item.name), item.type == "int"
        if item.type == "bool":
            require(isinstance(value, bool), f"{name} must be true or false, not {value!r:.60}.")
        if item.type not in ("int", "float"):
            continue
        is_number = isinstance(value, int if is_whole else int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) < LARGEST_SETTING:  # NaN is not below anything either
            raise ValueError(f"{name} must be a {'whole ' if is_whole else ''}number, not {value!r:.60}.")
        require(value > 0 or name not in positive, f"{name} must be above 0, not {value}.")
        require(value >= 0, f"{name} must be 0 or more, not {value}.")
        require(value <= 1 or name not in shares, f"{name} must be from 0 to 1, not {value}.")


def check_context(config: Any, context: int) -> None:
    """Raise ValueError unless a stage with these settings suits a model that reads `context` tokens."""
    sequence, answer = getattr(config, "sequence", 0), getattr(config, "max_new_tokens", 0)
    require(
        sequence <= context, f"sequence={sequence} is too long: the model reads {context} tokens. Choose {context}."
    )
    require(
        answer <= context // 2,
        f"max_new_tokens={answer} leaves no room for a prompt: the model reads {context} tokens, half of them are for "
        "prompts. Choose fewer.",
    )


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary positions are stretched so that a model reads further than it was first trained to."""

    kind: str
    """ "linear": every frequency is divided by `factor`. "llama3": only the slow ones, and some by a part of it."""
    factor: float
    low_freq_factor: float = 1.0
    """llama3: what turns less often than this in the original context is slowed down by the whole factor."""
    high_freq_factor: float = 4.0
    """llama3: what turns more often than this stays as it is."""
    original_context: int = 8192
    """llama3: the context before it was stretched."""

    def __post_init__(self) -> None:
        require(self.kind in ("linear", "llama3"), f"rope scaling must be linear or llama3, not {self.kind!r:.60}.")
        _check_numbers(self, positive=("factor", "low_freq_factor", "high_freq_factor", "original_context"))
        require(
            self.kind != "llama3" or self.high_freq_factor > self.low_freq_factor,
            f"high_freq_factor={self.high_freq_factor} must be above low_freq_factor={self.low_freq_factor}.",
        )


@dataclass(frozen=True, kw_only=True)
class Source:
    """How a model came, so that it can be saved as it came."""

    config_json: Mapping[str, Any]
    """Its config.json, with whatever in it means nothing to us."""
    dtype: str
    """What most of its weights were stored as: "float32", "float16", "bfloat16" or "float64"."""
    other_dtypes: Mapping[str, str] = field(default_factory=dict)
    """Tensors that were stored as something else, by their names in the file."""
    has_copied_head: bool = False
    """Whether a tied head stood in the file as well, as a copy of the embeddings."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the decoder: our own Llama, or one of the families that families.py reads."""

    vocab_size: int
    """Entries in the tokenizer, special tokens included."""
    heads: int
    """The size dial: query heads; the width of our own models is 64 times this."""
    kv_heads: int
    """Key/value heads (grouped-query attention); divides `heads`."""
    layers: int
    """Transformer blocks."""
    ffn: int
    """Hidden width of the SwiGLU feed-forward."""
    context: int
    """Longest sequence, in tokens; presets pre-train on rows of this length, because past it a model babbles."""
    head_dim: int = 64
    """Width of one head; 64 keeps other engines' kernels usable."""
    width: int = 0
    """Residual stream width; 0 is heads × head_dim, as in our own models."""
    rope_theta: float = 10_000.0
    """Base of the rotary position frequencies."""
    rope_scaling: RopeScaling | None = None
    """How they are stretched, where they are."""
    norm_eps: float = 1e-5
    """Added inside RMSNorm's square root."""
    family: str = "llama"
    """Which of families.py's it is: decides names in config.json, nothing in the arithmetic."""
    is_tied: bool = True
    """Whether the embedding matrix is the output head, too."""
    qkv_bias: bool = False
    """Whether queries, keys and values have biases."""
    o_bias: bool = False
    """Whether attention's output has one."""
    mlp_bias: bool = False
    """Whether the feed-forward's three products have them."""
    qk_norm: bool = False
    """Whether each head's queries and keys are normalised before they are turned."""
    window: int = 0
    """How many tokens, itself included, a position sees in the layers of `windowed`; 0 is all before it."""
    windowed: tuple[int, ...] = ()
    """Layers with a sliding window."""
    unrotated: tuple[int, ...] = ()
    """Layers without rotary positions."""
    source: Source | None = field(default=None, compare=False, repr=False)
    """How it came, where it was read from a directory."""

    def __post_init__(self) -> None:
        if self.width == 0 and isinstance(self.heads, int) and isinstance(self.head_dim, int):
            object.__setattr__(self, "width", self.heads * self.head_dim)
        numbers = [item.name for item in dataclasses.fields(self) if item.type in ("int", "float")]
        _check_numbers(self, positive=[name for name in numbers if name != "window"])
        require(self.heads % self.kv_heads == 0, f"kv_heads={self.kv_heads} must divide heads={self.heads}.")
        require(self.head_dim % 2 == 0, "head_dim must be even: rotary positions turn pairs.")
        require(bool(self.window) == bool(self.windowed), "a sliding window needs its size and its layers.")

    @property
    def parameters(self) -> int:
        """Trainable numbers; embeddings that are the head as well count once."""
        attention = self.width * self.head_dim * 2 * (self.heads + self.kv_heads)
        attention += self.qkv_bias * self.head_dim * (self.heads + 2 * self.kv_heads) + self.o_bias * self.width
        attention += self.qk_norm * 2 * self.head_dim
        feed_forward = 3 * self.width * self.ffn + self.mlp_bias * (2 * self.ffn + self.width)
        block = attention + feed_forward + 2 * self.width
        return self.layers * block + (1 if self.is_tied else 2) * self.vocab_size * self.width + self.width


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Next-token prediction on documents."""

    tokens: int
    """Training tokens in all."""
    batch_tokens: int
    """Tokens per optimiser step."""
    sequence: int
    """Length of one training row, in tokens."""
    matrix_lr: float = 0.02
    """Muon's learning rate, for the matrices inside the blocks."""
    embedding_lr: float = 0.004
    """AdamW's learning rate, for embeddings and norms."""
    warmup: float = 0.02
    """Share of the steps spent warming up linearly."""
    decay: float = 0.4
    """Share of the steps, at the end, spent decaying linearly to zero."""
    evaluations: int = 10
    """How many times held-out loss and samples are taken."""

    def __post_init__(self) -> None:
        _check_numbers(self, positive=("tokens", "batch_tokens", "sequence", "evaluations"), shares=("warmup", "decay"))
        _check_batch(self.batch_tokens, self.sequence)
        require(
            self.tokens >= self.batch_tokens,
            f"tokens={self.tokens} must cover at least one batch of batch_tokens={self.batch_tokens}.",
        )

    @property
    def steps(self) -> int:
        return self.tokens // self.batch_tokens


@dataclass(frozen=True, kw_only=True)
class AdaptingConfig:
    """What the stages that start from a finished model have in common: how much of it learns, and in how much room."""

    adapter_rank: int = 0
    """Rank of the low-rank adapters that learn beside the frozen weights (model/adapters.py); 0 teaches every weight.
    A real model learns with 8 to 32: its weights are in memory once, whatever number of models stands on them."""
    checkpoint_activations: bool = False
    """Keep only each block's input on the way forward and compute the rest again on the way back: a third more time,
    for memory that no longer grows with what is inside a block (Chen et al. 2016, https://arxiv.org/abs/1604.06174)."""


@dataclass(frozen=True, kw_only=True)
class SFTConfig(AdaptingConfig):
    """Instruction fine-tuning: loss on the response and its end token only."""

    steps: int
    """Optimiser steps."""
    batch_tokens: int
    """Tokens per optimiser step, prompts included (conversations are packed)."""
    sequence: int
    """Length of one packed row, in tokens."""
    matrix_lr: float = 0.002
    """Muon's peak learning rate: a tenth of pre-training's, as in the tiny preset. At 0.008 fine-tuning erased what no
    conversation repeats, and at 0.003 too where batches were as small (CONTRIBUTING's log). 0 leaves Muon out: AdamW
    teaches everything, as it teaches adapters."""
    embedding_lr: float = 0.0006
    """AdamW's peak learning rate, about a seventh of pre-training's for the same reason. Where AdamW teaches
    everything (adapters, or matrix_lr 0) it is the only one, and 1e-5 to 2e-4 is customary."""
    warmup: float = 0.03
    """Share of the steps spent warming up."""
    decay: float = 0.7
    """Share of the steps, at the end, spent decaying linearly to zero."""
    evaluations: int = 5
    """How many times held-out accuracy and samples are taken."""

    def __post_init__(self) -> None:
        _check_numbers(self, positive=("steps", "batch_tokens", "sequence", "evaluations"), shares=("warmup", "decay"))
        _check_batch(self.batch_tokens, self.sequence)


def _check_batch(batch_tokens: int, sequence: int) -> None:
    require(
        batch_tokens % sequence == 0,
        f"batch_tokens={batch_tokens} must be a multiple of sequence={sequence}: whole rows.",
    )


@dataclass(frozen=True, kw_only=True)
class RewardConfig(AdaptingConfig):
    """Reward model: -log sigmoid(r_chosen - r_rejected) over compared answers."""

    lr: float = 1e-4
    """AdamW's peak learning rate."""
    batch_pairs: int = 8
    """Comparisons per optimiser step."""
    epochs: int = 1
    """Passes over the comparisons."""
    probing: float = 0.0
    """Share of the steps, at the start, in which only the head learns."""
    averaged: float = 0.0
    """Share of the steps, at the end, whose weights are averaged into the reward model; 0 takes the last ones."""
    teachers: int = 1
    """Reward models that read the votes, each in an order of its own; if several, one more learns their mean score."""
    studied: int = 1200
    """Answers of the corpus's conversations on which it learns that, beside the votes' answers, at most."""
    study_epochs: int = 2
    """Passes over them."""
    centering: float = 0.01
    """Weight of the penalty mean((r_chosen + r_rejected)^2), which pins the free offset."""
    held_out: float = 0.2
    """Share of prompts kept for the agreement figure; the split is by prompt."""
    evaluations: int = 4
    """How many times agreement on held-out prompts and samples are taken."""

    def __post_init__(self) -> None:
        shares = ("held_out", "probing", "averaged")
        _check_numbers(
            self, positive=("batch_pairs", "epochs", "teachers", "study_epochs", "evaluations"), shares=shares
        )


@dataclass(frozen=True, kw_only=True)
class PPOConfig(AdaptingConfig):
    """Preference fine-tuning with PPO against the reward model."""

    steps: int
    """Rollout-and-update rounds."""
    rollouts: int = 64
    """Answers sampled per round."""
    minibatch: int = 32
    """Answers per optimiser step."""
    epochs: int = 2
    """Passes over each round's answers."""
    lr: float = 5e-5
    """AdamW's learning rate for the policy. At twice this the tiny preset won as often and lost twice the facts."""
    critic_lr: float = 3e-4
    """AdamW's learning rate for the critic."""
    critic_warmup: int = 5
    """First rounds in which only the critic learns."""
    temperature: float = 1.0
    """One temperature for sampling and for scoring; no top-k, no top-p."""
    max_new_tokens: int = ANSWER_TOKENS
    """Longest answer, in tokens: of rollouts, and of votes and evaluations too."""
    gamma: float = 1.0
    """Discount."""
    lam: float = 0.95
    """GAE's lambda."""
    clip: float = 0.2
    """Clip range of the probability ratio."""
    value_clip: float = 0.2
    """Clip range of the value update, in deviations of a demonstration's score."""
    value_weight: float = 0.5
    """Weight of the value loss (its optimiser is separate; this scales its gradient)."""
    kl_weight: float = 0.4
    """Starting weight of the KL-to-reference penalty inside the reward, per nat, in deviations of a demonstration's
    score."""
    kl_target_nats: float = 1.4
    """The adaptive controller steers the mean KL of an answer to this, in nats. A loose one costs facts: at 8 nats
    the tiny preset forgot a sixth of them (CONTRIBUTING's log)."""
    kl_horizon: int = 250
    """Answers over which the controller adapts: two to three rounds. In fifteen it cannot steer."""
    max_kl_nats: float = 0.017
    """The policy learns no more from a round once its mean KL per token to the policy that sampled exceeds this.

    A bound that something can reach: the estimate is ρ - 1 - log ρ, and with every ratio ρ at the edge of the clip
    range it is 0.0177 (ρ = 1.2) to 0.0231 (ρ = 0.8). Beyond the edge the clipped loss has no gradient, so a bound far
    above never stops anything. On the tiny preset rounds stay at 0.0001 to 0.0044, but for the first one after the
    critic's warm-up: it reached 0.025 ("friendlier", seed 0) and was cut short by this bound.
    """
    missing_end_penalty: float = 1.0
    """Subtracted from the reward of an answer that was cut off, in deviations of a demonstration's score."""
    evaluations: int = 5
    """How many times reward and win rate on held-out prompts and samples are taken."""

    def __post_init__(self) -> None:
        counts = ("steps", "rollouts", "minibatch", "epochs", "max_new_tokens", "evaluations")
        _check_numbers(self, positive=(*counts, "temperature", "kl_target_nats", "kl_horizon"), shares=("gamma", "lam"))


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(AdaptingConfig):
    """Reasoning fine-tuning: groups of answers, each checked against the right one."""

    steps: int
    """Rollout-and-update rounds."""
    problems: int = 16
    """Problems per round."""
    group: int = 8
    """Answers sampled per problem."""
    lr: float = 1e-4
    """AdamW's learning rate."""
    minibatch: int = 64
    """Answers per optimiser step."""
    epochs: int = 1
    """Passes over each round's answers."""
    temperature: float = 1.0
    """One temperature for sampling and for scoring."""
    max_new_tokens: int = ANSWER_TOKENS
    """Longest answer, in tokens, as in PPO; longer ones are masked out of the loss."""
    clip_low: float = 0.2
    """Lower clip range of the probability ratio."""
    clip_high: float = 0.28
    """Upper clip range ("clip-higher")."""
    kl_weight: float = 0.0
    """Weight of the KL-to-parent penalty; off by default."""
    format_reward: float = 0.1
    """Added only when the answer is right and worked in the expected form."""
    anchor_weight: float = 1.0
    """Weight of the KL to the parent on conversations about something else, read at every step (anchor.py)."""
    anchor_rows: int = 2
    """How many rows of packed conversations that are."""
    anchor_sequence: int = 2048
    """Tokens of such a row, at most: a model that takes in fewer reads shorter ones, and one that takes in 8,192 would
    need 13 GB for a row of them."""
    anchor_answers: int = 0
    """Prompts to vote on that the parent answers itself when the run starts, to be held to these answers; 0 takes the
    corpus's conversations. What a model from elsewhere would have said is in no corpus of ours."""
    hardest: int = 4
    """Hardest difficulty in the problem mix, of the problems that say theirs (problems.py has 1 to 4)."""
    solved_low: float = 0.2
    """The problem mix gets easier while fewer than this share is solved."""
    solved_high: float = 0.8
    """The problem mix gets harder while more than this share is solved."""
    evaluations: int = 5
    """How many times held-out problems are tried and samples taken."""

    def __post_init__(self) -> None:
        counts = ("steps", "problems", "minibatch", "epochs", "max_new_tokens", "hardest", "evaluations")
        others = ("anchor_rows", "anchor_sequence", "temperature")
        _check_numbers(self, positive=(*counts, *others), shares=("solved_low", "solved_high"))
        require(self.group >= 2, "group must be at least 2: an advantage compares answers.")
        require(
            self.solved_low <= self.solved_high,
            f"solved_low={self.solved_low} must not be above solved_high={self.solved_high}.",
        )

    @property
    def updates(self) -> int:
        """Optimiser steps in a round, at most."""
        return self.epochs * math.ceil(self.problems * self.group / self.minibatch)


def available_cores() -> int:
    """How many cores this process may run on, where the system says so (a container may have few of many)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as plain JSON types, without what is no part of its value."""
    left_out = {item.name for item in dataclasses.fields(config) if not item.compare}
    kept = {name: value for name, value in dataclasses.asdict(config).items() if name not in left_out}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}

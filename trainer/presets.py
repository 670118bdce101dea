"""Sizes and recipes of every stage: what a preset's name stands for. Imports nothing but settings.

The idea: a preset is settings for every stage under one name. Of two kinds:

- A *size* of a model of our own, raised from random weights. Width, depth and the width of the feed-forward layers
  follow from one *size dial*, the number of attention heads (`shape`).
- A *recipe* for a model that comes from elsewhere, whose size is what it is. It follows from how many numbers the
  model has and from whether low-rank adapters learn beside its frozen weights ("adapted-…") or all of them ("full-…"):
  rates that suit two million random weights destroy a pretrained model, and adapters take about ten times the rate of
  full fine-tuning (Schulman et al. 2025, https://thinkingmachines.ai/blog/lora/). `recipe_for` chooses.

Simplification: rates, batches and horizons do not follow from the dial. Those of `tiny` were found by trying (see
CONTRIBUTING.md's log); those of `small` and `base` are customary for such sizes, and not tried as a whole; where
the log says that a customary one did harm (a fast fine-tuning, a loose or slow hold on PPO), they keep to what `tiny`
found, the KL in proportion to the length of answers. Where the recipes have their values from stands beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from trainer.config import (
    ANSWER_TOKENS,
    INIT,
    GRPOConfig,
    ModelConfig,
    PPOConfig,
    PretrainConfig,
    RewardConfig,
    SFTConfig,
    check_stage,
    require,
)


def check_answer_tokens(ppo: PPOConfig, grpo: GRPOConfig) -> None:
    """Raise ValueError unless both stages allow answers of one length: votes and figures can have only one."""
    require(
        ppo.max_new_tokens == grpo.max_new_tokens,
        f"ppo answers in {ppo.max_new_tokens} tokens at most and grpo in {grpo.max_new_tokens}. Set both "
        "max_new_tokens to one number: what is voted on and measured has one length too.",
    )


ADAPTED: Final = "adapted"
FULL: Final = "full"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings of every stage, for one size of our own models or for one class of models from elsewhere."""

    name: str
    summary: str
    model: ModelConfig
    """The model it makes; of a recipe one of the kind it is for, for estimates where the model itself is not known."""
    recipe: str = ""
    """ADAPTED or FULL for a model from elsewhere; nothing for a size of our own."""
    pretrain: PretrainConfig
    sft: SFTConfig
    reward: RewardConfig = field(default_factory=RewardConfig)
    ppo: PPOConfig
    grpo: GRPOConfig
    votes: int = 200
    """Simulated votes collected where people are missing."""
    taste: str = "friendlier"
    """What simulated voters like when nobody says (tastes.py)."""

    def __post_init__(self) -> None:
        check_answer_tokens(self.ppo, self.grpo)

    @property
    def answer_tokens(self) -> int:
        """Longest answer of all that is trained on, voted on and measured: what is judged is what was practised."""
        return self.ppo.max_new_tokens

    def stage(self, stage: str) -> Any:
        """The config dataclass of one trained stage."""
        check_stage(stage)
        if stage == INIT:
            self.check_makes_models()
            raise ValueError("init has no training settings: its weights are noise.")
        return getattr(self, stage)

    def of_size(self, parameters: int) -> Preset:
        """The same with about so many parameters, for estimates: as many layers of this width as come to them."""
        block = (self.model.parameters - dataclasses.replace(self.model, layers=1).parameters) // (
            self.model.layers - 1
        )
        layers = max(1, self.model.layers + round((parameters - self.model.parameters) / block))
        return dataclasses.replace(self, model=dataclasses.replace(self.model, layers=layers))

    def check_makes_models(self) -> None:
        """Raise ValueError unless a model can be made by this preset."""
        require(
            not self.recipe,
            f"{self.name} is a recipe for a model that comes from elsewhere, and makes none. Choose one of "
            f"{', '.join(PRESETS)}.",
        )


def shape(heads: int, *, vocab_size: int, context: int, kv_heads: int) -> ModelConfig:
    """Model shape from the size dial: width 64·heads, depth heads + 1, SwiGLU at 8/3 width."""
    ffn = round(64 * heads * 8 / 3 / 64) * 64
    return ModelConfig(
        vocab_size=vocab_size, heads=heads, kv_heads=kv_heads, layers=heads + 1, ffn=ffn, context=context
    )


PRESETS: Final[dict[str, Preset]] = {
    preset.name: preset
    for preset in (
        Preset(
            name="smoke",
            summary="Seconds. For tests and a first look; it learns next to nothing.",
            model=shape(1, vocab_size=512, context=256, kv_heads=1),
            pretrain=PretrainConfig(tokens=20 * 1024, batch_tokens=1024, sequence=256, evaluations=2),
            # All that twenty steps can teach is that answers end, and the end token learns in the embeddings.
            sft=SFTConfig(steps=20, batch_tokens=1024, sequence=256, embedding_lr=0.004, evaluations=2),
            ppo=PPOConfig(steps=3, rollouts=8, minibatch=4, critic_warmup=1, max_new_tokens=32),
            grpo=GRPOConfig(steps=3, problems=2, group=4, minibatch=8, max_new_tokens=32),
            votes=24,
            taste="shorter",  # all that gibberish can differ in is its length
        ),
        Preset(
            name="tiny",
            summary="About 2 M parameters. A laptop without a GPU, all stages in about a quarter of an hour.",
            model=shape(3, vocab_size=2048, context=256, kv_heads=1),
            pretrain=PretrainConfig(
                tokens=4_600_000, batch_tokens=3072, sequence=256, matrix_lr=0.0147, embedding_lr=0.0029
            ),
            sft=SFTConfig(steps=500, batch_tokens=2048, sequence=256, matrix_lr=0.0014, embedding_lr=0.00045),
            # One order of the same votes gives 77 % agreement, others 87 to 94; three orders together give 94.
            reward=RewardConfig(lr=2e-3, batch_pairs=4, epochs=4, probing=0.25, averaged=0.7, teachers=3, held_out=0.1),
            # Found by trying on raw scores: weight 0.32, clip 0.2, penalty 1. Those of the demonstrations deviated by
            # 0.78 ("friendlier", seed 0), so these are the same in deviations.
            ppo=PPOConfig(
                steps=40,
                rollouts=96,
                minibatch=48,
                lr=5e-5,
                value_clip=0.26,
                kl_weight=0.41,
                kl_target_nats=1.4,
                kl_horizon=250,
                missing_end_penalty=1.3,
                evaluations=3,
            ),
            # Practising three steps, it adds a third one to held-out problems that need two. Sampled at temperature 1,
            # its answers soon are all alike, and it stops learning before it reads a new story right.
            grpo=GRPOConfig(
                steps=120,
                problems=32,
                minibatch=128,
                lr=1.5e-4,
                temperature=1.3,
                anchor_rows=4,
                hardest=4,
                solved_high=0.6,
                evaluations=3,
            ),
        ),
        Preset(
            name="small",
            summary="About 35 M parameters. A GPU, or a patient CPU.",
            model=shape(8, vocab_size=16_384, context=1024, kv_heads=4),
            pretrain=PretrainConfig(tokens=600_000_000, batch_tokens=65_536, sequence=1024),
            sft=SFTConfig(steps=2000, batch_tokens=32_768, sequence=1024),
            ppo=PPOConfig(
                steps=200,
                rollouts=128,
                max_new_tokens=192,
                lr=1e-5,
                critic_lr=3e-5,
                kl_target_nats=2.8,
                kl_horizon=350,
            ),
            grpo=GRPOConfig(steps=300, problems=32, max_new_tokens=192, lr=1e-5),
            votes=1000,
        ),
        Preset(
            name="base",
            summary="About 110 M parameters. One data-centre GPU.",
            model=shape(12, vocab_size=32_768, context=2048, kv_heads=4),
            pretrain=PretrainConfig(tokens=2_500_000_000, batch_tokens=524_288, sequence=2048),
            sft=SFTConfig(steps=3000, batch_tokens=65_536, sequence=2048),
            ppo=PPOConfig(
                steps=300,
                rollouts=256,
                max_new_tokens=256,
                lr=5e-6,
                critic_lr=1e-5,
                kl_target_nats=3.7,
                kl_horizon=700,
            ),
            grpo=GRPOConfig(steps=500, problems=64, max_new_tokens=256, lr=5e-6),
            votes=4000,
        ),
    )
}


DEFAULT_PRESET: Final = "tiny"


# --- Recipes for models from elsewhere ---------------------------------------------------------------

SMALL_IMPORT: Final = 300_000_000
LARGE_IMPORT: Final = 2_000_000_000
"""Parameters up to which a model is of the class of SmolLM2-135M, and from which on it is of that of 3 B models."""
ANSWER_80: Final = 80
"""SmolLM2-135M-Instruct ends 59 % of its answers to short instructions within 80 tokens (our trial)."""


@dataclass(frozen=True, kw_only=True)
class _Rates:
    """Peak learning rates of AdamW."""

    sft: float
    reward: float
    ppo: float
    grpo: float


_CLASSES: Final = {
    # Layers, widths, heads and vocabularies of SmolLM2-135M, Qwen2.5-0.5B and SmolLM3-3B.
    "135m": ModelConfig(vocab_size=49_152, heads=9, kv_heads=3, layers=30, ffn=1536, context=2048),
    "1b": ModelConfig(vocab_size=151_936, heads=14, kv_heads=2, layers=24, ffn=4864, context=2048),
    "3b": ModelConfig(vocab_size=128_256, heads=16, kv_heads=4, layers=36, ffn=11_008, context=2048, head_dim=128),
}

_RATES: Final = {
    # 135M: our trials on SmolLM2-135M-Instruct with rank 16. The reward model agreed with 34 of 37 held-out votes at
    # 2e-4, at 1e-3 with 28 to 33; GRPO went from 11 to 38 of 48 held-out problems in 24 rounds at 3e-4; the policy that
    # the reward model taught at 2e-4 won 83 % after nine rounds. SFT: the 2e-4 of QLoRA for models up to 13 B (Dettmers
    # et al. 2023, https://arxiv.org/abs/2305.14314), which is the upper end of what suits so small a one.
    (ADAPTED, "135m"): _Rates(sft=2e-4, reward=2e-4, ppo=2e-4, grpo=3e-4),
    # The same, halved and halved again: wider layers take smaller steps. Not tried.
    (ADAPTED, "1b"): _Rates(sft=1e-4, reward=1e-4, ppo=1e-4, grpo=1e-4),
    (ADAPTED, "3b"): _Rates(sft=1e-4, reward=5e-5, ppo=5e-5, grpo=5e-5),
    # Full fine-tuning: 2e-5 is the rate of Zephyr's and Tulu's SFT (https://arxiv.org/abs/2310.16944,
    # https://arxiv.org/abs/2311.10702); InstructGPT's reward model had 9e-6 (https://arxiv.org/abs/2203.02155, appendix
    # C.2); PPO 3e-6 for models from 1 B on (https://arxiv.org/abs/2403.17031); GRPO 1e-6
    # (https://arxiv.org/abs/2402.03300, section 4.2). Smaller models take some times more. Not tried.
    (FULL, "135m"): _Rates(sft=2e-5, reward=1e-5, ppo=1e-5, grpo=1e-5),
    (FULL, "1b"): _Rates(sft=1e-5, reward=1e-5, ppo=3e-6, grpo=3e-6),
    (FULL, "3b"): _Rates(sft=1e-5, reward=9e-6, ppo=3e-6, grpo=1e-6),
}

_RANK: Final = 16
"""Of adapters on all linear layers: 4.9 M numbers at 135 M, with which every trial above was made. For a few hundred
votes and for rewards a low rank holds all there is to learn (https://arxiv.org/abs/2106.09685, section 7.2)."""


def _recipe(kind: str, size: str) -> Preset:
    """Settings for models of about `size` from elsewhere.

    What does not hang on the size is from the trials on SmolLM2-135M-Instruct: 8 prompts with 4 answers each (PPO
    here has single answers to 32 prompts) and 80 rounds of 8 problems with 8 answers (68 % of held-out ones solved;
    30 of 8 with 6 left it at 41, 60 of 8 with 8 at 66), one step a round, all at temperature 1; a reward model that
    reads the votes three times. A KL weight of 0.05 with a horizon of 100 let "shorter" run away in 30 rounds (9 nats
    an answer, four words, wins 50 %, because answers of less than three words lose); 0.3, a horizon of one round and
    18 rounds won 86 % (80 to 90, over prompts) at 6.5 nats. Not tried are the critic's rate (twice the policy's: it
    starts from the reward model and learns alone at first), the KL's target (the tiny preset's, whose answers are as
    long), steps and batches of fine-tuning (about 200,000 tokens), and the anchor's row of 256 tokens.
    """
    rates, rank = _RATES[kind, size], _RANK if kind == ADAPTED else 0
    about = {"135m": "135 M", "1b": "0.3 to 2 B", "3b": "2 B and more"}[size]
    how = f"adapters of rank {rank} learn beside its weights" if rank else "all its weights learn"
    return Preset(
        name=f"{kind}-{size}",
        summary=f"For a model from elsewhere of about {about} parameters; {how}.",
        model=_CLASSES[size],
        recipe=kind,
        # Going on with documents: a hundredth of the rates from scratch, so that little is lost. Not tried.
        pretrain=PretrainConfig(
            tokens=1_000_000, batch_tokens=8192, sequence=512, matrix_lr=2e-4, embedding_lr=rates.sft / 10
        ),
        sft=SFTConfig(
            steps=100, batch_tokens=2048, sequence=512, matrix_lr=0.0, embedding_lr=rates.sft, adapter_rank=rank
        ),
        reward=RewardConfig(lr=rates.reward, batch_pairs=4, epochs=3, adapter_rank=rank),
        ppo=PPOConfig(
            steps=18,
            evaluations=3,
            rollouts=32,
            minibatch=32,
            epochs=1,
            lr=rates.ppo,
            critic_lr=2 * rates.ppo,
            critic_warmup=2,
            max_new_tokens=ANSWER_80,
            kl_weight=0.3,
            kl_target_nats=1.4,
            kl_horizon=32,
            adapter_rank=rank,
        ),
        grpo=GRPOConfig(
            steps=80,
            evaluations=3,  # 64 held-out problems are half a minute at 135 M
            problems=8,
            group=8,
            minibatch=64,
            lr=rates.grpo,
            max_new_tokens=ANSWER_80,
            format_reward=0.0,  # its own way of showing steps is as good as ours
            anchor_rows=1,
            anchor_sequence=256,
            anchor_answers=64,
            hardest=100,
            adapter_rank=rank,
        ),
        taste="shorter",
    )


RECIPES: Final[dict[str, Preset]] = {
    recipe.name: recipe for recipe in (_recipe(kind, size) for kind in (ADAPTED, FULL) for size in _CLASSES)
}
"""By name, as "adapted-135m"."""


def recipe_for(parameters: int, *, kind: str = ADAPTED) -> Preset:
    """The recipe for a model from elsewhere with so many parameters; adapters unless "full" is asked for."""
    require(kind in (ADAPTED, FULL), f"Unknown kind of recipe {kind!r}; choose {ADAPTED} or {FULL}.")
    size = "135m" if parameters <= SMALL_IMPORT else "1b" if parameters <= LARGE_IMPORT else "3b"
    return RECIPES[f"{kind}-{size}"]


def is_size(name: str) -> bool:
    """Whether `name`, a checkpoint's recorded preset, says that it is one of our own models."""
    return name in PRESETS


def usual_preset(recorded: str, parameters: int) -> str:
    """The preset for a run from a checkpoint: the one it was made with, else the recipe for a model of its size.

    `recorded` is what its stage.json says; models from elsewhere have none.
    """
    return recorded if recorded in PRESETS or recorded in RECIPES else recipe_for(parameters).name


def answer_tokens_of(info: Mapping[str, Any]) -> int:
    """Longest answer of a checkpoint, in tokens: what its stage.json recorded, else what its preset says.

    The one place that votes and evaluations take it from; rollouts record it.
    """
    recorded = info.get("answer_tokens")
    if isinstance(recorded, int) and not isinstance(recorded, bool) and recorded > 0:
        return recorded
    preset = (PRESETS | RECIPES).get(str(info.get("preset")))
    return preset.answer_tokens if preset else ANSWER_TOKENS


def get_preset(name: str) -> Preset:
    """The size or recipe called `name`; ValueError names the choices."""
    if name in PRESETS:
        return PRESETS[name]
    if name in RECIPES:
        return RECIPES[name]
    raise ValueError(
        f"Unknown preset {name!r}; choose one of {', '.join(PRESETS)}, or for a model from elsewhere one of "
        f"{', '.join(RECIPES)}."
    )

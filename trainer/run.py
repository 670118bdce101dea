"""One training run, from a frozen description to a checkpoint.

The command line and the site's workers both come through here: a `RunSpec` (the site writes it to
run.json when a run is queued) names a stage and its inputs, `execute` loads them and calls the
stage's `train`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer import corpus as corpora
from trainer.checkpoint import STAGE, read_info, sha256_file
from trainer.config import INIT, PPO, REWARD, check_parent_stage, get_preset
from trainer.corpus import Corpus
from trainer.loop import Inputs, Report
from trainer.preferences import read_comparisons
from trainer.stages import grpo, init, ppo, pretrain, reward, sft

TRAIN: Mapping[str, Callable[..., Path]] = {
    "init": init.train,
    "pretrain": pretrain.train,
    "sft": sft.train,
    "reward": reward.train,
    "ppo": ppo.train,
    "grpo": grpo.train,
}


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything that decides what a run does."""

    stage: str
    preset: str
    seed: int = 0
    parent: Path | None = None
    reward_model: Path | None = None
    votes: Path | None = None
    data: Path | None = None
    """A directory of own text; None is the shipped corpus."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the preset's, by field name."""
    threads: int = 0
    """CPU threads; 0 takes every core. Part of the description because sums depend on it."""

    @classmethod
    def from_json(cls, path: Path) -> RunSpec:
        """Read run.json; ValueError for what is not one."""
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
            known = {item.name for item in dataclasses.fields(cls)}
            if unknown := sorted(set(raw) - known):
                raise ValueError(f"unknown entries {', '.join(unknown)}")
            for name in ("parent", "reward_model", "votes", "data"):
                raw[name] = Path(raw[name]) if raw.get(name) else None
            return cls(**raw)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a run description: {error}.") from error

    def stage_config(self) -> Any:
        """The stage's settings with this run's changes; ValueError names a field that does not exist."""
        if self.stage == INIT:
            return None
        base = get_preset(self.preset).stage(self.stage)
        known = {item.name for item in dataclasses.fields(base)}
        if unknown := sorted(set(self.config) - known):
            raise ValueError(f"{self.stage} has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
        return dataclasses.replace(base, **self.config)


def load_corpus(spec: RunSpec) -> Corpus:
    """The directory the run names, or the shipped corpus at the preset's size."""
    return corpora.from_directory(spec.data) if spec.data else corpora.shipped(size=spec.preset)


def execute(
    spec: RunSpec,
    out_dir: Path,
    report: Report,
    should_stop: Callable[[], bool],
    *,
    corpus: Corpus | None = None,
) -> Path:
    """Run one stage into `out_dir` and return it.

    A finished `out_dir` is returned as it is, an interrupted one is resumed. Raises ValueError for a
    user's mistake, Stopped after `should_stop()`, Diverged for a run that blew up.
    """
    preset = get_preset(spec.preset)
    config = spec.stage_config()
    parent_stage = read_info(spec.parent)["stage"] if spec.parent else None
    check_parent_stage(spec.stage, parent_stage)
    if spec.stage == REWARD and spec.votes is None:
        raise ValueError("reward learns from comparisons: name a votes file.")
    if spec.stage == PPO:
        if spec.reward_model is None:
            raise ValueError("ppo needs a reward model to train against: name one.")
        if read_info(spec.reward_model)["stage"] != REWARD:
            raise ValueError(f"{spec.reward_model} is not a reward model.")
    if (out_dir / STAGE).is_file():
        return out_dir
    out_dir.mkdir(parents=True, exist_ok=True)
    inputs = Inputs(
        preset=preset,
        corpus=corpus or load_corpus(spec),
        seed=spec.seed,
        parent=spec.parent,
        reward_model=spec.reward_model,
        comparisons=read_comparisons(spec.votes) if spec.votes else [],
        inputs_sha256={"votes": sha256_file(spec.votes)} if spec.votes else {},
    )
    return TRAIN[spec.stage](config, inputs, out_dir, report, should_stop)

"""One training run, from a frozen description to a checkpoint.

The command line and the site's workers both come through here: a `RunSpec` (the site writes it to
run.json when a run is queued) names a stage and its inputs, `execute` loads them and calls the
stage's `train`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from trainer.config import (
    GRPO,
    INIT,
    PPO,
    PRETRAIN,
    REWARD,
    SFT,
    check_context,
    check_parent_stage,
    check_stage,
    to_dict,
)
from trainer.data.corpus import Corpus
from trainer.data.directory import from_directory
from trainer.data.prompting import PROMPTS, answer_room, fitting_corpus
from trainer.data.reader import read_votes
from trainer.evaluation.alarms import doubts_about
from trainer.lineage import Inputs, check_same_run, describe_run
from trainer.model.checkpoint import describe, read_info, read_json, read_shape, write_json
from trainer.model.layout import WEIGHTS
from trainer.model.roles import CONFIG
from trainer.model.tokenizer import Tokenizer
from trainer.presets import DEFAULT_PRESET, PRESETS, Preset, get_preset, usual_preset
from trainer.runtime import machine
from trainer.runtime.errors import Stopped
from trainer.runtime.files import RESUME_RUN, RESUME_STATE, STAGE, sha256_file
from trainer.runtime.loop import Report, clear_resume
from trainer.stages import grpo, init, ppo, pretrain, reward, sft
from trainer.world import corpus_for

TRAIN: Mapping[str, Callable[..., Path]] = {
    "init": init.train,
    "pretrain": pretrain.train,
    "sft": sft.train,
    "reward": reward.train,
    "ppo": ppo.train,
    "grpo": grpo.train,
}

NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    INIT: ("documents", "held_out_documents"),
    PRETRAIN: ("documents", "held_out_documents"),
    SFT: ("conversations",),
    REWARD: (),
    PPO: ("preference_prompts", "held_out_preference_prompts"),
    GRPO: ("problems",),
}
"""The parts of a corpus no stage can do without. Votes are a file of their own."""

USED_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "votes": (REWARD,),
    "reward_model": (PPO, GRPO),
    "overrule_doubts": (PPO,),
}
"""What a description may name, and the stages that make anything of it."""

SUPPLY: Final[Mapping[str, tuple[str, str]]] = {
    "documents": (
        "documents to pre-train on",
        'Put a .txt file there, or records with "text".',
    ),
    "held_out_documents": (
        "document to hold out",
        'Add a second one: a blank line or <|endoftext|> parts the documents of a .txt file, and a record with "text" '
        "is one.",
    ),
    "conversations": (
        "conversations",
        'Add records with "instruction" and "output", with "messages" or with "conversations".',
    ),
    "preference_prompts": (
        "short prompts to compare answers on",
        'Add records with "chosen" and "rejected", or with "instruction" and "output".',
    ),
    "held_out_preference_prompts": (
        "second short prompt to hold out",
        'Add records with "chosen" and "rejected", or with "instruction" and "output".',
    ),
    "problems": (
        "problems",
        'Add records with "question" and a number as "answer", with "choices" and "answerKey", with "accept" or with '
        '"pattern".',
    ),
}
"""What each of them is called, and which records of a data directory supply it (.jsonl, .json or .parquet)."""


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
    overrule_doubts: bool = False
    """A person wants PPO although the reward model does not beat chance or length on held-out votes."""
    threads: int = 0
    """CPU threads; 0 takes every core. Part of the description because sums depend on it."""
    parent_sha256: str | None = None
    """What the parent's weights must be; None takes whatever lies there."""
    reward_model_sha256: str | None = None
    """The same of the reward model's."""
    parent_stage: str | None = None
    """What a parent from elsewhere is, where its files do not tell; one of ours says it itself."""

    def __post_init__(self) -> None:
        kinds = {"stage": str, "preset": str, "seed": int, "config": Mapping, "threads": int}
        for name, kind in kinds.items():
            if not isinstance(value := getattr(self, name), kind):
                wanted = {str: "a name", int: "a whole number"}.get(kind, "an object")
                raise ValueError(f"{name} must be {wanted}, not {value!r:.60}.")
        if self.parent_stage is not None:
            check_stage(self.parent_stage)
        if self.threads < 0:
            raise ValueError(f"threads must be 0 (every core) or more, not {self.threads}.")

    @classmethod
    def from_json(cls, path: Path) -> RunSpec:
        """Read run.json; ValueError for what is not one.

        Its "root", where it has one, is what relative paths in it start from, itself relative to the file: such a
        description moves with the files it names.
        """
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
            # By its name: a link on the way leads elsewhere, but ".." is meant as it is written.
            root = os.path.normpath(Path(path).absolute().parent / raw.pop("root")) if "root" in raw else ""
            known = {item.name for item in dataclasses.fields(cls)}
            if unknown := sorted(set(raw) - known):
                raise ValueError(f"unknown entries {', '.join(unknown)}")
            for name in ("parent", "reward_model", "votes", "data"):
                raw[name] = Path(root, raw[name]) if raw.get(name) else None
            return cls(**raw)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a run description: {str(error).rstrip('.')}.") from error

    def stage_config(self) -> Any:
        """The stage's settings with this run's changes; ValueError names what is unknown or cannot be."""
        if self.stage == INIT:
            get_preset(self.preset).check_makes_models()
            if self.config:
                raise ValueError(f"init has no setting {', '.join(self.config)}: its preset says it all.")
            return None
        base = get_preset(self.preset).stage(self.stage)
        known = {item.name for item in dataclasses.fields(base)}
        if unknown := sorted(set(self.config) - known):
            raise ValueError(f"{self.stage} has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
        return dataclasses.replace(base, **self.config)


def preset_of(parent: Path) -> str:
    """The preset for a run from this checkpoint, where nobody names one."""
    recorded = str(read_json(parent / STAGE).get("preset") or "") if (parent / STAGE).is_file() else ""
    if recorded in PRESETS:
        return recorded
    try:
        return usual_preset(recorded, read_shape(parent).parameters)
    except ValueError:  # it is no model that can be loaded, which the run will say
        return DEFAULT_PRESET


def load_corpus(spec: RunSpec, check: Callable[[], None] = lambda: None) -> Corpus:
    """The directory the run names, else what the project ships for such a model: a world for those of our own, plain
    English for those from elsewhere.

    `check` is called often while files are read, and ends it by raising.
    """
    return from_directory(spec.data, check=check) if spec.data else corpus_for(spec.preset)


def check_corpus(corpus: Corpus, stages: Collection[str], *, source: str | Path) -> None:
    """Raise ValueError unless every one of `stages` finds in the corpus what it cannot do without.

    `source` is what the corpus was read from, for the message.
    """
    for stage in stages:
        for part in NEEDS[stage]:
            if not getattr(corpus, part):
                name, supply = SUPPLY[part]
                raise ValueError(f"{source} has no {name}, which {stage} needs. {supply}")


def fit_corpus(
    corpus: Corpus,
    checkpoint: Path,
    stages: Collection[str],
    *,
    max_new_tokens: int,
    say: Callable[[str], None],
) -> Corpus:
    """The corpus without the prompts that leave `checkpoint` no room for an answer; `say` is told how many.

    One limit for all that is asked in training and measuring, with answers of `max_new_tokens`, so that both see the
    same.
    ValueError when nothing of a part is left that one of `stages` needs.
    """
    room = answer_room(read_shape(checkpoint).context, max_new_tokens)
    fitted, left_out = fitting_corpus(corpus, Tokenizer.load(checkpoint), room=room)
    for part in sorted({part for stage in stages for part in NEEDS[stage] if part in PROMPTS}):
        if not getattr(fitted, part):
            count = len(getattr(corpus, part))
            raise ValueError(f"None of the {count} {PROMPTS[part]} fits into {room} tokens. Give shorter ones.")
    if left_out:
        say(f"Left out, because they have more than the {room} tokens there is room for: {', '.join(left_out)}.")
    return fitted


def execute(
    spec: RunSpec,
    out_dir: Path,
    report: Report,
    should_stop: Callable[[], bool],
    *,
    corpus: Corpus | None = None,
) -> Path:
    """Run one stage into `out_dir` and return it.

    A finished `out_dir` is returned as it is, an interrupted one is resumed, both only if they hold this very
    run. Raises ValueError for a user's mistake, Stopped after `should_stop()`, Diverged for a run that blew up.
    """
    preset = get_preset(spec.preset)
    config = spec.stage_config()
    parent = describe(spec.parent, stage=spec.parent_stage) if spec.parent else {}
    check_parent_stage(spec.stage, parent.get("stage"))
    for name, stages in USED_BY.items():
        if getattr(spec, name) and spec.stage not in stages:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{spec.stage} makes nothing of {option}, only {' and '.join(stages)}. Leave it out.")
    _check_weights(spec.parent, spec.parent_sha256)
    _check_weights(spec.reward_model, spec.reward_model_sha256)
    _check_places(spec, out_dir)
    if spec.stage == REWARD and spec.votes is None:
        raise ValueError("reward learns from comparisons: name a votes file.")
    if spec.stage == PPO:
        if spec.reward_model is None:
            raise ValueError("ppo needs a reward model to train against: name one.")
        judge = describe(spec.reward_model)
        if judge["stage"] != REWARD:
            raise ValueError(f"{spec.reward_model} is not a reward model.")
        if not spec.overrule_doubts and (texts := doubts_about(judge.get("metrics", {}))):
            raise ValueError(f"{' '.join(texts)} Collect more votes, or go on all the same by --overrule-doubts.")

    def check_stop() -> None:
        if should_stop():
            raise Stopped("Stopped before it began.")

    corpus = corpus or load_corpus(spec, check_stop)
    check_corpus(corpus, [spec.stage], source=spec.data or corpus.name)
    inputs = Inputs(
        preset=preset,
        corpus=corpus,
        seed=spec.seed,
        parent=spec.parent,
        reward_model=spec.reward_model,
        comparisons=read_votes(spec.votes, check_stop) if spec.votes else [],
        inputs_sha256=_inputs_sha256(spec),
    )
    settings = _init_settings(preset) if config is None else config
    description = {"stage": spec.stage, **describe_run(inputs, parent=parent, config=settings)}
    if (out_dir / STAGE).is_file():
        check_same_run(out_dir, read_info(out_dir), description)
        return out_dir
    threads = _threads(spec, out_dir, description)
    if spec.parent:
        check_context(config, read_shape(spec.parent).context)
        longest = getattr(config, "max_new_tokens", preset.answer_tokens)
        fitted = fit_corpus(
            corpus, spec.parent, [spec.stage], max_new_tokens=longest, say=lambda text: report.log(0, text)
        )
        inputs = dataclasses.replace(inputs, corpus=fitted)
    check_stop()
    (out_dir / RESUME_RUN).parent.mkdir(parents=True, exist_ok=True)
    write_json(out_dir / RESUME_RUN, description | {"threads": threads})
    with machine.threads(threads):
        TRAIN[spec.stage](config, inputs, out_dir, report, should_stop)
    clear_resume(out_dir)  # init has nothing to resume and leaves this to its caller
    return out_dir


def _check_weights(directory: Path | None, wanted: str | None) -> None:
    """ValueError when a checkpoint is not the one that is meant. (That its files are what it says, loading checks.)"""
    if directory and wanted and describe(directory).get("weights_sha256") != wanted:
        raise ValueError(
            f"{directory} holds other weights than this run was described with ({wanted[:8]}). "
            "Bring that checkpoint back, or start a new run."
        )


def _check_places(spec: RunSpec, out_dir: Path) -> None:
    """ValueError for a model that would be written over, and for files where directories should be or vice versa."""
    if spec.parent and out_dir.resolve() == spec.parent.resolve():
        raise ValueError(f"{out_dir} is the parent itself. Choose another --out: a checkpoint is never written over.")
    check_directory(out_dir)
    # A run of ours that was killed while it wrote its checkpoint has no stage.json yet, but still what it resumes from.
    is_ours = (out_dir / STAGE).exists() or (out_dir / RESUME_RUN).parent.exists()
    if not is_ours and any((out_dir / name).exists() for name in (WEIGHTS, CONFIG)):
        raise ValueError(f"{out_dir} holds a model that is not ours. Choose another --out: it is never written over.")
    if spec.votes and not spec.votes.is_file():
        raise ValueError(f"{spec.votes} is not a file. Name a JSON Lines file of comparisons for --votes.")


def check_directory(out_dir: Path) -> None:
    """Raise ValueError when a file lies where a run's directory should be."""
    if out_dir.exists() and not out_dir.is_dir():
        raise ValueError(f"{out_dir} is a file. Choose a directory for --out.")


def _inputs_sha256(spec: RunSpec) -> dict[str, str]:
    """Hashes of what a stage reads beside corpus and parent."""
    hashes = {}
    if spec.votes:
        hashes["votes"] = sha256_file(spec.votes)
    if spec.reward_model:
        hashes["reward_model"] = str(describe(spec.reward_model).get("weights_sha256"))
    return hashes


def _init_settings(preset: Preset) -> dict[str, Any]:
    """What init will record as its config, as far as it is known before the tokenizer has read the corpus."""
    return {name: value for name, value in to_dict(preset.model).items() if name != "vocab_size"}


def _threads(spec: RunSpec, out_dir: Path, description: Mapping[str, Any]) -> int:
    """How many threads to run on: as many as what is half-finished in `out_dir`, once it is known to be this run.

    ValueError when it is another run, or when another number of threads is asked for.
    """
    wanted = spec.threads or torch.get_num_threads()
    if not ((out_dir / RESUME_STATE).is_file() and (out_dir / RESUME_RUN).is_file()):
        return wanted  # nothing is saved yet, or by a version that did not say what it is
    recorded = read_json(out_dir / RESUME_RUN)
    check_same_run(out_dir, recorded, description, is_half_finished=True)
    threads = recorded.get("threads")
    if not isinstance(threads, int) or threads < 1:
        return wanted
    if spec.threads not in (0, threads):
        raise ValueError(
            f"{out_dir} holds a run on {threads} threads, and its sums depend on their number. "
            f"Give --threads {threads}, or choose another --out."
        )
    return threads

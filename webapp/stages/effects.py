"""What each stage learnt from and what that changed, in one line: of this site's own records and answers.

The idea: every line is a figure before and after, and says what it is a figure of. It comes from the run that made the
checkpoint (its held-out figures at the first and at the last step), from what the checkpoint's directory says, or from
the site's own answers to its fixed questions. Nothing is claimed of fewer than LEAST_QUESTIONS answers, and where
nothing was recorded there is no line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from django.db.models import F, Q

from trainer.config import GRPO, INIT, PPO, PRETRAIN, REWARD, SFT
from trainer.evaluation.scope import COUNTS, STRANGERS
from webapp.answers.models import Generation
from webapp.checkpoints.models import Checkpoint
from webapp.stages.differences import count_words, distance
from webapp.stages.figures import number, percent
from webapp.training.models import Metric, TrainingRun

LEAST_QUESTIONS: Final = 4
"""Of fewer answers no mean is shown."""

Said = Mapping[int, Sequence[Generation | None]]
"""Checkpoint -> its finished answers to the site's questions, in their order."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """What the runs that made the current checkpoints wrote down."""

    runs: Mapping[int, TrainingRun] = field(default_factory=dict)
    """Checkpoint -> the run that made it."""
    first: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    """Run -> its figures before the first step."""
    last: Mapping[int, dict[str, Any]] = field(default_factory=dict)

    def run_of(self, checkpoint: Checkpoint | None) -> TrainingRun | None:
        return self.runs.get(checkpoint.pk) if checkpoint else None

    def before_and_after(self, checkpoint: Checkpoint, key: str) -> tuple[float | None, float | None]:
        """A held-out figure at the first and the last step of its run; the latter else from its directory."""
        run = self.run_of(checkpoint)
        before = _number(self.first.get(run.pk, {}).get(key)) if run else None
        after = _number(self.last.get(run.pk, {}).get(key)) if run else None
        return before, _number(checkpoint.metrics.get(key)) if after is None else after

    def count(self, checkpoint: Checkpoint, key: str) -> str:
        """ "64 held-out problems": what a share is of, as far as that was recorded."""
        name, what = COUNTS[key]
        whose = "strangers’" if key in STRANGERS else "held-out"
        run = self.run_of(checkpoint)
        found = _number((self.last.get(run.pk, {}) if run else {}).get(name)) or _number(checkpoint.metrics.get(name))
        return f"{found:.0f} {whose} {what}" if found else f"the {whose} {what}"

    def told(self, checkpoint: Checkpoint, *keys: str) -> tuple[str, float | None, float | None]:
        """The first of these figures that was recorded, with what it was before and after; the last one else."""
        for key in keys:
            before, after = self.before_and_after(checkpoint, key)
            if after is not None:
                return key, before, after
        return keys[-1], None, None


def read_records(checkpoints: Sequence[Checkpoint]) -> Records:
    """In two queries."""
    made = TrainingRun.objects.filter(checkpoint__in=checkpoints)
    judges = made.exclude(reward_model=None).values("reward_model")
    runs = list(TrainingRun.objects.filter(Q(checkpoint__in=checkpoints) | Q(checkpoint__in=judges)))
    if not runs:
        return Records()
    ends = Metric.objects.filter(Q(step=0) | Q(step=F("run__total_steps")), run__in=runs)
    first, last = dict[int, dict[str, Any]](), dict[int, dict[str, Any]]()
    for run, step, values in ends.values_list("run", "step", "values"):
        (last if step else first)[run] = values
    return Records(runs={run.checkpoint_id: run for run in runs if run.checkpoint_id}, first=first, last=last)


def stage_effects(current: Mapping[str, Checkpoint], said: Said, records: Records) -> dict[str, str]:
    """Stage -> its line, for those that have one. `current` are the stages' checkpoints, in order."""
    lines: dict[str, Callable[[Checkpoint, Checkpoint | None], str]] = {
        INIT: lambda one, _: _init(one),
        PRETRAIN: lambda one, before: _pretrain(one, before, records),
        SFT: lambda one, before: _sft(one, before, said, records),
        PPO: lambda one, before: _ppo(one, before, said, records),
        GRPO: lambda one, before: _grpo(one, before, records),
    }
    found: dict[str, str] = {}
    before: Checkpoint | None = None
    for stage, checkpoint in current.items():
        if stage == REWARD:
            continue
        found[stage] = lines[stage](checkpoint, before)
        before = checkpoint
    return {stage: line for stage, line in found.items() if line}


def _init(checkpoint: Checkpoint) -> str:
    bits = _number(checkpoint.metrics.get("bits_per_byte"))
    line = f"{number(checkpoint.parameters)} random numbers, nothing read"
    return f"{line}: {bits:.2f} bits per byte of unseen text." if bits else f"{line}."


def _pretrain(checkpoint: Checkpoint, before: Checkpoint | None, records: Records) -> str:
    first, last = records.before_and_after(checkpoint, "bits_per_byte")
    if first is None and before:
        first = _number(before.metrics.get("bits_per_byte"))
    if first is None or last is None:
        return ""
    run = records.run_of(checkpoint)
    tokens = _number(run.config.get("tokens")) if run else None
    learnt = f"After {number(tokens)} tokens of text" if tokens else "After reading its corpus"
    return f"{learnt}: {first:.2f} → {last:.2f} bits per byte of unseen text."


def _sft(checkpoint: Checkpoint, before: Checkpoint | None, said: Said, records: Records) -> str:
    key, first, last = records.told(checkpoint, "visitor_facts", "instruction_accuracy")
    run = records.run_of(checkpoint)
    learnt = f"After {run.total_steps} batches of conversations" if run else "After conversations (SFT)"
    if first is not None and last is not None:
        return f"{learnt}: {percent(first)} → {percent(last)} of {records.count(checkpoint, key)} answered right."
    pairs = _pairs(checkpoint, before, said)
    if len(pairs) < LEAST_QUESTIONS:
        return ""
    ends = [sum(one.finish_reason == "end" for one in side) for side in zip(*pairs, strict=True)]
    return f"{learnt}: {ends[0]} → {ends[1]} of its {len(pairs)} answers here end by themselves."


def _ppo(checkpoint: Checkpoint, before: Checkpoint | None, said: Said, records: Records) -> str:
    pairs = _pairs(checkpoint, before, said)
    if len(pairs) < LEAST_QUESTIONS:
        return ""
    words = [sum(count_words(one.text) for one in side) / len(pairs) for side in zip(*pairs, strict=True)]
    changed = sum(distance(one.text, other.text) > 0 for one, other in pairs)
    run = records.run_of(checkpoint)
    judge = records.runs.get(run.reward_model_id) if run and run.reward_model_id else None
    learnt = f"After {judge.votes_used} votes" if judge and judge.votes_used else "After votes (RLHF)"
    return f"{learnt}: {words[0]:.0f} → {words[1]:.0f} words an answer, {changed} of {len(pairs)} answers here changed."


def _grpo(checkpoint: Checkpoint, before: Checkpoint | None, records: Records) -> str:
    key, first, last = records.told(checkpoint, "visitor_problems", "pass_at_1")
    if first is None and before:
        first = _number(before.metrics.get(key))
    if last is None:
        return ""
    run = records.run_of(checkpoint)
    learnt = f"After {run.total_steps} rounds of practice" if run else "After practice on problems (GRPO)"
    share = percent(last) if first is None else f"{percent(first)} → {percent(last)}"
    return f"{learnt}: {share} of {records.count(checkpoint, key)} solved at the first try."


def _pairs(checkpoint: Checkpoint, before: Checkpoint | None, said: Said) -> list[tuple[Generation, Generation]]:
    """(the stage before's answer, this one's) to every question that both have answered."""
    if before is None:
        return []
    both = zip(said.get(before.pk, ()), said.get(checkpoint.pk, ()), strict=False)
    return [(one, other) for one, other in both if one and other]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

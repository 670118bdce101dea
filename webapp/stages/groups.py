"""The groups of a GRPO run, step by step: one problem each, the attempts at it, their verdicts and advantages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.config import GRPO
from webapp.stages.stage_report import score
from webapp.training.models import Sample, TrainingRun


@dataclass(frozen=True, kw_only=True)
class Attempt:
    text: str
    correct: bool
    advantage: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """One problem of a GRPO run and the answers sampled for it."""

    run: int
    total_steps: int
    steps: Sequence[int]
    """All steps of the run of which there is a group, in order."""
    place: int
    """Which of them this one is, from 1."""
    prompt: str
    expected: str
    attempts: Sequence[Attempt]
    has_signal: bool
    """False when all attempts were rewarded alike, so that there was nothing to compare."""

    @property
    def step(self) -> int:
        return self.steps[self.place - 1]

    @property
    def right(self) -> int:
        return sum(attempt.correct for attempt in self.attempts)


def practised_group(place: int | None = None) -> Group | None:
    """A group of the newest run that kept any: the one in this place; the last where none is named, or it has fewer."""
    kept = Sample.objects.filter(run__stage=GRPO, extra__has_key="advantage")
    newest = kept.exclude(run__state=TrainingRun.State.DISCARDED).order_by("-run_id").select_related("run").first()
    if newest is None:
        return None
    of_run = kept.filter(run=newest.run_id)
    steps = list(of_run.order_by("step").values_list("step", flat=True).distinct())
    place = min(place or len(steps), len(steps))
    samples = list(of_run.filter(step=steps[place - 1]).order_by("id"))
    attempts = [sample for sample in samples if sample.prompt == samples[-1].prompt]
    return Group(
        run=newest.run_id,
        total_steps=newest.run.total_steps,
        steps=steps,
        place=place,
        prompt=samples[-1].prompt,
        expected=str(samples[-1].extra.get("expected", "")),
        attempts=[
            Attempt(
                text=attempt.text,
                correct=bool(attempt.extra.get("correct")),
                advantage=score(attempt.extra["advantage"]),
            )
            for attempt in attempts
        ],
        has_signal=any(attempt.extra["advantage"] for attempt in attempts),
    )

"""What a run practised on, step by step, for sliders on the stage pages: GRPO's groups, PPO's answers.

The trainer reports some of every step. A page shows those of one step of the newest run that has any, in the place its
reader chose; whatever is computed from them, is computed from these rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trainer.config import GRPO, PPO
from webapp.stages.stage_report import score
from webapp.training.models import Metric, Sample, TrainingRun


@dataclass(frozen=True, kw_only=True)
class Place:
    """One of the steps of a run of which something is kept."""

    run: int
    total_steps: int
    steps: Sequence[int]
    """All of them, in order."""
    number: int
    """Which of them this one is, from 1."""
    samples: Sequence[Sample]

    @property
    def step(self) -> int:
        return self.steps[self.number - 1]


def _place(stage: str, key: str, wanted: int | None) -> Place | None:
    """Of the newest run with samples that have `key`: the wanted step, or the last where there is no such."""
    kept = Sample.objects.filter(run__stage=stage, extra__has_key=key)
    newest = kept.exclude(run__state=TrainingRun.State.DISCARDED).order_by("-run_id").select_related("run").first()
    if newest is None:
        return None
    of_run = kept.filter(run=newest.run_id)
    if (of_every_step := of_run.filter(extra__has_key=Sample.PRACTICE)).exists():
        of_run = of_every_step  # older runs kept some at their evaluations only
    steps = list(of_run.order_by("step").values_list("step", flat=True).distinct())
    chosen = min(wanted or len(steps), len(steps))
    return Place(
        run=newest.run_id,
        total_steps=newest.run.total_steps,
        steps=steps,
        number=chosen,
        samples=list(of_run.filter(step=steps[chosen - 1]).order_by("id")),
    )


# -- GRPO ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Attempt:
    text: str
    correct: bool
    advantage: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """One problem of a GRPO run and the answers sampled for it."""

    place: Place
    prompt: str
    expected: str
    attempts: Sequence[Attempt]
    has_signal: bool
    """False when all attempts were rewarded alike, so that there was nothing to compare."""

    @property
    def right(self) -> int:
        return sum(attempt.correct for attempt in self.attempts)


def practised_group(wanted: int | None = None) -> Group | None:
    """A group of the newest GRPO run."""
    place = _place(GRPO, "advantage", wanted)
    if place is None:
        return None
    last = place.samples[-1]
    attempts = [sample for sample in place.samples if sample.prompt == last.prompt]
    return Group(
        place=place,
        prompt=last.prompt,
        expected=str(last.extra.get("expected", "")),
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


# -- PPO -------------------------------------------------------------------------------------------

WEIGHTS: Final = 2.0
"""The largest KL weight a reader may try; a run's own is well below."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One answer a PPO run practised, and what its reward is made of."""

    prompt: str
    text: str
    score: float
    kl: float
    """Nats: how much likelier the answer is than it was to the parent."""
    reward: float
    """At the weight that is shown."""
    is_above: bool
    """Above the mean reward of the answers shown."""

    @property
    def score_text(self) -> str:
        return score(self.score)

    @property
    def kl_text(self) -> str:
        return score(self.kl)

    @property
    def reward_text(self) -> str:
        return score(self.reward)


@dataclass(frozen=True, kw_only=True)
class Answers:
    place: Place
    weight: float
    """The run's own at this step."""
    judged: Sequence[Judged]

    @property
    def weight_text(self) -> str:
        return f"{self.weight:.2f}"

    @property
    def above(self) -> int:
        return sum(one.is_above for one in self.judged)


def practised_answers(wanted: int | None = None) -> Answers | None:
    """Answers of the newest PPO run, judged with the KL weight it had at that step; none where that is not known."""
    place = _place(PPO, "kl", wanted)
    if place is None:
        return None
    values = Metric.objects.filter(run=place.run, step=place.step).values_list("values", flat=True).first()
    weight = (values or {}).get("kl_weight")
    if not isinstance(weight, int | float):
        return None
    return Answers(place=place, weight=weight, judged=judge(place.samples, weight=weight))


def judge(samples: Sequence[Sample], *, weight: float) -> list[Judged]:
    """Reward = score − weight × KL, of each answer, and which are above the mean of them."""
    parts = [(sample, float(sample.extra["score"]), float(sample.extra["kl"])) for sample in samples]
    rewards = [scored - weight * kl for _, scored, kl in parts]
    mean = sum(rewards) / len(rewards)
    return [
        Judged(prompt=sample.prompt, text=sample.text, score=scored, kl=kl, reward=reward, is_above=reward > mean)
        for (sample, scored, kl), reward in zip(parts, rewards, strict=True)
    ]

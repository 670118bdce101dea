"""What a run's page draws: its figures by name, in the order people want them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.config import GRPO, PPO, REWARD
from trainer.evaluation.scope import COUNTS, count_of
from webapp.training.models import Metric, Sample, TrainingRun

TITLES = {
    "loss": "Loss",
    "visitor_facts": "Strangers’ questions about the world answered right",
    "visitor_talk": "Strangers’ greetings, requests for a form and questions from elsewhere answered as is fit",
    "visitor_problems": "Strangers’ problems solved",
    "bits_per_byte": "Held-out bits per byte",
    "instruction_accuracy": "Held-out questions answered right",
    "agreement": "Agreement with held-out votes",
    "length_only_agreement": "Agreement by length alone",
    "batch_agreement": "Agreement with the votes in training",
    "margin": "Score of the chosen above the rejected",
    "reward": "Reward",
    "held_out_reward": "Reward on held-out prompts",
    "held_out_win_rate": "Wins over its parent, by the reward model",
    "solved": "Problems solved",
    "pass_at_1": "Held-out problems solved at the first try",
    "taste_reward": "Taste kept: the reward model’s score",
    "mean_reward": "Reward",
    "kl": "KL to the reference, nats per answer",
    "kl_weight": "Weight of the KL penalty",
    "entropy": "Entropy, nats per token",
    "length": "Tokens per answer",
    "ended": "Answers that end by themselves",
    "repetition": "Repetition",
    "worked": "Solved with worked steps",
    "zero_variance": "Groups without a signal",
    "level": "Difficulty",
    "anchor_kl": "KL to the parent on other conversations, nats per token",
    "policy_loss": "Policy loss",
    "value_loss": "Value loss",
    "explained_variance": "Reward the critic foresees",
    "clip_fraction": "Clipped updates",
    "lr": "Learning rate",
    "tokens_per_s": "Tokens per second",
    "grad_norm": "Gradient norm",
    "step_s": "Seconds per step",
}
"""Names a person reads; a figure without one is shown under its own name."""

SMOOTHED = frozenset(
    (
        "loss",
        "batch_agreement",
        "margin",
        "reward",
        "mean_reward",
        "solved",
        "worked",
        "kl",
        "entropy",
        "length",
        "ended",
        "anchor_kl",
        "policy_loss",
        "value_loss",
        "tokens_per_s",
        "grad_norm",
        "step_s",
    )
)
"""Noisy from step to step: drawn faint as they are, and bold as a moving average."""

SHOWN_FIRST = {
    REWARD: ("loss", "agreement", "batch_agreement", "lr"),
    PPO: ("reward", "held_out_win_rate", "kl", "length"),
    GRPO: ("visitor_problems", "solved", "pass_at_1", "mean_reward", "length"),
}
"""Charts open at first, by stage; the others start with the loss."""
SHOWN_OTHERWISE = ("loss", "visitor_facts", "bits_per_byte", "instruction_accuracy", "lr", "tokens_per_s")

TABLE_ROWS = 20


COUNT_NAMES = frozenset(name for name, _ in COUNTS.values())
"""Figures that say what shares are of: they stand beside those, and have no chart of their own."""


def title_of(name: str, counts: Mapping[str, float]) -> str:
    """The figure's name, and for a share the number of cases it is of."""
    title = TITLES.get(name) or name.replace("_", " ").capitalize()
    count = count_of(name, counts)
    return f"{title}, {count}" if count else title


def chart_data(run: TrainingRun) -> dict[str, Any]:
    """Everything the charts start from: one list of [step, value] points per figure.

    Among them the counts that shares are of, which the page writes beside those.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    for step, values in Metric.objects.for_chart(run).values_list("step", "values"):
        for name, value in values.items():
            series.setdefault(name, []).append((step, value))
    return {
        "series": series,
        "titles": TITLES,
        "counts": COUNTS,
        "smoothed": sorted(SMOOTHED),
        "shown": SHOWN_FIRST.get(run.stage, SHOWN_OTHERWISE),
        "order": list(TITLES),
    }


@dataclass(frozen=True, kw_only=True)
class Table:
    titles: list[str]
    rows: list[tuple[int, list[float | None]]]


def figures_table(run: TrainingRun) -> Table:
    """The same figures without a chart: evenly spaced steps, every evaluation among them."""
    rows = list(Metric.objects.for_chart(run, TABLE_ROWS).values_list("step", "values"))
    counts = {name: value for _, values in rows for name, value in values.items() if name in COUNT_NAMES}
    present = {name for _, values in rows for name in values} - COUNT_NAMES
    names = [name for name in TITLES if name in present] + sorted(present - set(TITLES))
    return Table(
        titles=[title_of(name, counts) for name in names],
        rows=[(step, [values.get(name) for name in names]) for step, values in rows],
    )


@dataclass(frozen=True, kw_only=True)
class PromptHistory:
    """One prompt, what the model says to it now, and what it said before."""

    prompt: str
    now: list[Sample]
    """Samples of the newest step; several when it was sampled as a group."""
    earlier: list[Sample]
    """Newest first."""


def sample_history(run: TrainingRun, *, earlier: int = 12) -> list[PromptHistory]:
    """The prompts of the newest evaluation, each with its answers over time."""
    evaluated = Sample.objects.evaluated().filter(run=run)
    newest = evaluated.order_by("-step").first()
    if newest is None:
        return []
    now: dict[str, list[Sample]] = {}
    for sample in evaluated.filter(step=newest.step):
        now.setdefault(sample.prompt, []).append(sample)
    before: dict[str, list[Sample]] = {}
    for sample in evaluated.filter(step__lt=newest.step, prompt__in=now).order_by("-step", "id"):
        before.setdefault(sample.prompt, []).append(sample)
    return [
        PromptHistory(prompt=prompt, now=samples, earlier=_spread(before.get(prompt, []), earlier))
        for prompt, samples in now.items()
    ]


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` of them, evenly spaced, the first and the last included."""
    if len(samples) <= count:
        return list(samples)
    return [samples[round(i * (len(samples) - 1) / (count - 1))] for i in range(count)]

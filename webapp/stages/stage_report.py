"""What a stage page shows of this site's own data: figures, checkpoints, runs and real examples.

The idea: a page never invents. Each stage has one function that turns stored metrics, samples and
votes into a figure and its table; where there is nothing yet it returns nothing and the page says so.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from django.db.models import Exists, OuterRef
from django.utils.safestring import SafeString

from trainer.config import GRPO, INIT, PPO, PRETRAIN, REWARD, SFT
from trainer.evaluation.scope import COUNTS, PLAIN, SHIPPED, count_of
from trainer.evaluation.statistics import MIN_GROUPS
from trainer.model.roles import CONFIG
from trainer.presets import PRESETS, get_preset
from webapp.answers.models import Generation
from webapp.arena import tally
from webapp.arena.models import Pair, Prompt, Vote
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.origin import is_done_elsewhere, site_origin
from webapp.stages import figures
from webapp.stages.catalog import CATALOG, Stage
from webapp.stages.figures import number, percent
from webapp.stages.masks import Turn
from webapp.stages.models import SiteAnswer
from webapp.training.charts import TITLES
from webapp.training.models import Metric, Sample, TrainingRun

LISTED = 10
"""Checkpoints and runs a stage page lists, newest first."""
TIMELINE = 6
"""Samples shown of one run, from its first to its last evaluation."""
TABLE_ROWS = 24


@dataclass(frozen=True, kw_only=True)
class Figure:
    svg: SafeString
    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    about: str
    """What it is a claim about: where it was measured, and where not."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One held-out figure of a checkpoint, named and formatted for people."""

    name: str
    text: str
    """The value; of a share also how many cases it is of."""


@dataclass(frozen=True, kw_only=True)
class ListedCheckpoint:
    checkpoint: Checkpoint
    figures: Sequence[Measured]
    is_origin: bool = False
    """It came from elsewhere, and all others here come from it."""

    @property
    def parameters(self) -> str:
        return number(self.checkpoint.parameters)


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A question and what a checkpoint of this site said to it."""

    prompt: str
    text: str
    stage: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The same prompt at several steps of one run."""

    prompt: str
    samples: Sequence[Sample]


@dataclass(frozen=True, kw_only=True)
class PairAnswer:
    text: str
    preferred: bool
    score: str = ""
    """What the reward model gave it, where that is known."""


@dataclass(frozen=True, kw_only=True)
class VotedPair:
    prompt: str
    answers: Sequence[PairAnswer]


@dataclass(frozen=True, kw_only=True)
class StageReport:
    stage: Stage
    previous: Stage | None
    next: Stage | None
    current: Checkpoint | None
    checkpoints: Sequence[ListedCheckpoint]
    runs: Sequence[TrainingRun]
    active_run: TrainingRun | None
    origin: Checkpoint | None = None
    """The model from elsewhere that this site raises."""
    figures: Sequence[Figure] = ()
    quote: Quote | None = None
    timeline: Timeline | None = None
    pair: VotedPair | None = None
    vocabulary: str = ""
    chance_loss: str = ""
    first_loss: str = ""

    @property
    def is_done_elsewhere(self) -> bool:
        """The model was through this stage before it came here, and was left in none of its states."""
        return is_done_elsewhere(self.stage.slug, self.origin)

    @property
    def is_from_elsewhere(self) -> bool:
        """Its makers did this stage: it is one before, or the last one, of which the model came."""
        return self.is_done_elsewhere or (self.origin is not None and self.stage.slug == self.origin.stage)


def stage_report(slug: str) -> StageReport:
    """Everything the page of one stage shows."""
    stages = list(CATALOG.values())
    position = list(CATALOG).index(slug)
    checkpoints = list(
        Checkpoint.objects.listed().filter(stage=slug).select_related("parent").order_by("-created_at", "-id")[:LISTED]
    )
    runs = list(TrainingRun.objects.filter(stage=slug).exclude(state=TrainingRun.State.DISCARDED)[:LISTED])
    origin = site_origin()
    return StageReport(
        stage=stages[position],
        origin=origin,
        previous=stages[position - 1] if position else None,
        next=stages[position + 1] if position + 1 < len(stages) else None,
        current=checkpoints[0] if checkpoints else None,
        checkpoints=[
            ListedCheckpoint(checkpoint=one, figures=measured(one.metrics), is_origin=one == origin)
            for one in checkpoints
        ],
        runs=runs,
        active_run=next((run for run in runs if run.is_active), None),
        **_PAGES[slug](slug, origin),
    )


def signed(value: float) -> str:
    """With a sign, and a minus that is as wide as the plus."""
    return f"{value:+.2f}".replace("-", "−")


_FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "visitor_facts": ("strangers’ questions right", percent),
    "visitor_talk": ("strangers’ small talk right", percent),
    "visitor_problems": ("strangers’ problems solved", percent),
    "bits_per_byte": ("bits per byte", lambda value: f"{value:.2f}"),
    "instruction_accuracy": ("questions right", percent),
    "ended": ("ends by itself", percent),
    "mean_tokens": ("mean tokens", lambda value: f"{value:.0f}"),
    "agreement": ("agrees with votes", percent),
    "length_only_agreement": ("length alone", percent),
    "reward": ("reward", signed),
    "win_rate_vs_parent": ("wins over parent", percent),
    "pass_at_1": ("problems solved", percent),
    "pass_at_8": ("solved in 8 tries", percent),
    "taste_reward": ("taste kept", signed),
}
"""Which held-out figures of a checkpoint are shown, under which name."""


def measured(metrics: dict[str, Any]) -> list[Measured]:
    """The figures people should see, in a fixed order; whatever else stage.json holds is left out."""
    return [
        Measured(name=name, text=f"{form(float(metrics[key]))} {count_of(key, metrics)}".rstrip())
        for key, (name, form) in _FIGURES.items()
        if _is_number(metrics.get(key))
    ]


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# -- from runs -----------------------------------------------------------------------------------


def _latest_curve(stage: str, key: str, **wanted: Any) -> tuple[TrainingRun | None, list[tuple[float, float]]]:
    """The newest run of a stage (and as `wanted`) that reported `key`, and its (step, value) points."""
    runs = TrainingRun.objects.filter(stage=stage, **wanted).exclude(state=TrainingRun.State.DISCARDED)
    for run in runs[:LISTED]:
        if points := _curve(run, key):
            return run, points
    return None, []


def _curve(run: TrainingRun, key: str) -> list[tuple[float, float]]:
    rows = Metric.objects.for_chart(run).values_list("step", "values")
    return [(float(step), float(values[key])) for step, values in rows if _is_number(values.get(key))]


def _table(points: Sequence[tuple[float, float]], form: Callable[[float], str]) -> list[tuple[str, str]]:
    """Step and value, evenly thinned, the last one kept."""
    stride = max(1, math.ceil(len(points) / TABLE_ROWS))
    kept = sorted({*range(0, len(points), stride), len(points) - 1})
    return [(number(points[index][0]), form(points[index][1])) for index in kept]


def _step_figure(
    stage: str,
    key: str,
    *,
    name: str,
    y_label: str,
    what: str,
    about: str,
    form: Callable[[float], str],
    levels: Sequence[figures.Level] = (),
    is_share: bool = False,
) -> list[Figure]:
    """One metric of the stage's newest run over its steps; nothing when no run has reported it."""
    run, points = _latest_curve(stage, key)
    if run is None:
        return []
    first, last = form(points[0][1]), form(points[-1][1])
    counts = _curve(run, COUNTS[key][0]) if key in COUNTS else []
    of_count = f" {count_of(key, {COUNTS[key][0]: counts[-1][1]})}" if counts else ""
    svg = figures.line_chart(
        [figures.Series(name=name, points=points, stage=stage)],
        title=f"{what}, run {run.pk}",
        description=f"From {first} at step {points[0][0]:g} to {last} at step {points[-1][0]:g}{of_count}.",
        x_label="step",
        y_label=y_label,
        levels=levels,
        floor=0.0 if is_share else None,
        ceiling=1.0 if is_share else None,
        as_percent=is_share,
    )
    caption = f"{what}, run {run.pk}: from {first} to {last}{of_count}."
    return [Figure(svg=svg, caption=caption, headers=["Step", y_label], rows=_table(points, form), about=about)]


def _strangers(stage: str, *names: str) -> list[Figure]:
    """What stands first: how a model does in wording that no generator wrote."""
    return [
        figure
        for name in names
        for figure in _step_figure(
            stage,
            name,
            name="strangers",
            y_label="right",
            what=TITLES[name],
            about=SHIPPED["visitors"],
            form=percent,
            is_share=True,
        )
    ]


def _last_sample(stage: str, **wanted: Any) -> Sample | None:
    """The newest sample of a stage's runs, of its newest run."""
    samples = Sample.objects.filter(run__stage=stage, **wanted).exclude(run__state=TrainingRun.State.DISCARDED)
    # By the column: ordering by the relation means its Meta.ordering, which is newest first already.
    return samples.order_by("-run_id", "-step", "id").first()


def _last_answer(stage: str) -> Generation | None:
    """The first finished answer the site itself asked the stage's current checkpoint for (see services)."""
    answers = SiteAnswer.objects.filter(
        checkpoint=Checkpoint.objects.current(stage), is_sampled=False, generation__state=Generation.State.DONE
    )
    first = answers.select_related("generation").order_by("generation__created_at").first()
    return first.generation if first else None


# -- one function per stage ----------------------------------------------------------------------


def _about(name: str, origin: Checkpoint | None) -> str:
    """What a figure is a claim about: what a site trains and measures on follows from where its model came from."""
    return (PLAIN if origin else SHIPPED)[name]


def _init(stage: str, origin: Checkpoint | None) -> dict[str, Any]:
    vocabulary = _vocabulary(origin)
    run, losses = _latest_curve(PRETRAIN, "loss", parent__stage=INIT)  # one that goes on from text begins lower
    answer = _last_answer(INIT)
    return {
        "figures": [*_chance_figure(run, losses, math.log(vocabulary)), *_bits_figure(origin)],
        "vocabulary": f"{vocabulary:,}",
        "chance_loss": f"{math.log(vocabulary):.2f}",
        "first_loss": f"{losses[0][1]:.2f}" if losses else "",
        "quote": answer
        and Quote(
            prompt=answer.prompt, text=answer.text, stage=INIT, caption="What the random weights of this site say"
        ),
    }


def _vocabulary(origin: Checkpoint | None) -> int:
    """How many tokens this site's model tells apart."""
    if origin:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads((origin.path / CONFIG).read_text())["vocab_size"])
    current = Checkpoint.objects.current(INIT)
    preset = PRESETS.get(current.preset) if current else None
    return (preset or get_preset("tiny")).model.vocab_size


def _chance_figure(run: TrainingRun | None, losses: list[tuple[float, float]], chance: float) -> list[Figure]:
    """How the loss leaves the level of pure chance when training begins."""
    if run is None:
        return []
    svg = figures.line_chart(
        [figures.Series(name="loss", points=losses, stage=PRETRAIN)],
        title=f"Training loss of run {run.pk} and the level of chance",
        description=f"Chance is {chance:.2f}; the first step measured {losses[0][1]:.2f}.",
        x_label="step of pre-training",
        y_label="loss, nats per token",
        levels=[figures.Level(name="chance", value=chance)],
        floor=0.0,
    )
    caption = (
        f"Where random weights begin: the loss of run {run.pk} starts at {losses[0][1]:.2f}; chance is {chance:.2f}."
    )
    rows = _table(losses, lambda value: f"{value:.2f}")
    about = "The text that run was reading, step by step: not text kept away from it."
    return [Figure(svg=svg, caption=caption, headers=["Step", "Loss, nats per token"], rows=rows, about=about)]


def _bits_figure(origin: Checkpoint | None) -> list[Figure]:
    """Bits per byte of the current checkpoints, once there are two to compare."""
    bars = [
        figures.Bar(
            name=CATALOG[slug].title, value=float(checkpoint.metrics["bits_per_byte"]), stage=slug, text=f"{value:.2f}"
        )
        for slug, checkpoint in Checkpoint.objects.current_by_stage().items()
        if _is_number(value := checkpoint.metrics.get("bits_per_byte"))
    ]
    if len(bars) < 2:
        return []
    svg = figures.bar_chart(
        bars,
        title="Held-out bits per byte of this site’s checkpoints",
        description="; ".join(f"{bar.name} {bar.text}" for bar in bars),
        levels=[figures.Level(name="8: stored raw", value=8.0)],
    )
    return [
        Figure(
            svg=svg,
            caption="Bits needed for one byte of text the models have never seen. Less is better.",
            headers=["Checkpoint", "Bits per byte"],
            rows=[(bar.name, bar.text) for bar in bars],
            about=_about("bits_per_byte", origin),
        )
    ]


def _pretrain(stage: str, origin: Checkpoint | None) -> dict[str, Any]:
    return {
        "figures": _step_figure(
            stage,
            "bits_per_byte",
            name="held out",
            y_label="bits per byte",
            what="Bits per byte on text it has never seen",
            about=_about("bits_per_byte", origin),
            form=lambda value: f"{value:.2f}",
        ),
        "timeline": _timeline(stage),
    }


def _timeline(stage: str) -> Timeline | None:
    newest = _last_sample(stage)
    if newest is None:
        return None
    samples = list(Sample.objects.filter(run=newest.run_id, prompt=newest.prompt).order_by("step"))
    stride = (len(samples) - 1) / (TIMELINE - 1)
    if len(samples) > TIMELINE:
        samples = [samples[round(index * stride)] for index in range(TIMELINE)]
    return Timeline(prompt=newest.prompt, samples=samples)


def _sft(stage: str, origin: Checkpoint | None) -> dict[str, Any]:
    return {
        "figures": [
            *_strangers(stage, "visitor_facts", "visitor_talk"),
            *_step_figure(
                stage,
                "instruction_accuracy",
                name="held out",
                y_label="answered right",
                what="Held-out questions answered right",
                about=_about("instruction_accuracy", origin),
                form=percent,
                is_share=True,
            ),
        ],
    }


def an_exchange() -> Turn | None:
    """A question and an answer of the instructed model here: the site's own, or else of its newest run."""
    answer = _last_answer(SFT)
    if answer:
        return (answer.prompt, answer.text) if answer.text else None
    sample = _last_sample(SFT)
    return (sample.prompt, sample.text) if sample and sample.text else None


def _reward(stage: str, origin: Checkpoint | None) -> dict[str, Any]:
    return {"figures": _agreement_figure(), "pair": _scored_pair() or _voted_pair()}


def _agreement_figure() -> list[Figure]:
    """How often the current reward model agrees with votes it has not seen, beside what length alone would."""
    current = Checkpoint.objects.current(REWARD)
    metrics = current.metrics if current else {}
    if current is None or not _is_number(metrics.get("agreement")):
        return []
    agreement = float(metrics["agreement"])
    tested_on = metrics.get("held_out_prompts") or metrics.get("held_out_comparisons")
    is_enough = not _is_number(tested_on) or tested_on >= MIN_GROUPS  # earlier versions recorded one for any number
    interval = metrics.get("agreement_interval") if is_enough else None
    low, high = interval or (agreement, agreement)
    rows = [
        figures.Interval(
            name="Reward model", value=agreement, low=low, high=high, stage=REWARD, text=percent(agreement)
        )
    ]
    if _is_number(length := metrics.get("length_only_agreement")):
        rows.append(
            figures.Interval(
                name="Length alone", value=length, low=length, high=length, stage=INIT, text=percent(length)
            )
        )
    of_votes = _tested_on(metrics)
    described = (
        f"between {percent(low)} and {percent(high)} with 95 % confidence"
        if interval
        else f"too few to say how sure that is, which takes votes on at least {MIN_GROUPS} questions"
    )
    svg = figures.interval_chart(
        rows,
        title=f"Agreement of {current.name} with held-out votes",
        description=f"{percent(agreement)} {of_votes}, {described}",
        levels=[figures.Level(name="a coin", value=0.5)],
    )
    return [
        Figure(
            svg=svg,
            caption=f"{current.name} agrees with {percent(agreement)} {of_votes}: {described}.",
            headers=["Judge", "Agreement", "Low", "High"],
            rows=[
                (row.name, row.text, *([percent(row.low), percent(row.high)] if row.high > row.low else ["–", "–"]))
                for row in rows
            ],
            about=SHIPPED["agreement"],
        )
    ]


def _tested_on(metrics: dict[str, Any]) -> str:
    """ "of the 24 votes it has not seen, on 20 questions", as far as the numbers are known."""
    votes, prompts = metrics.get("held_out_comparisons"), metrics.get("held_out_prompts")
    text = f"of the {votes:.0f} votes it has not seen" if _is_number(votes) else "of the votes it has not seen"
    return f"{text}, on {prompts:.0f} question{'' if prompts == 1 else 's'}" if _is_number(prompts) else text


def _scored_pair() -> VotedPair | None:
    """A held-out pair with what the newest reward model gave both answers."""
    public = Prompt.objects.public().filter(active=True).values("text")
    sample = _last_sample(REWARD, extra__outcome="win", extra__has_key="rejected_reward", prompt__in=public)
    if sample is None:
        return None
    return VotedPair(
        prompt=sample.prompt,
        answers=[
            PairAnswer(text=sample.text, preferred=True, score=score(sample.extra.get("reward"))),
            PairAnswer(
                text=str(sample.extra.get("rejected")),
                preferred=False,
                score=score(sample.extra.get("rejected_reward")),
            ),
        ],
    )


def score(value: Any) -> str:
    """A reward or an advantage as people read it; nothing for what is no number."""
    return signed(float(value)) if _is_number(value) else ""


def _voted_pair() -> VotedPair | None:
    """The newest vote with a winner, while there is no reward model to score it."""
    if not tally.training_votes(decisive=True):
        return None
    # From the newest vote backwards, whatever the planner thinks: the first one or two are such.
    public = Pair.objects.filter(prompt__source__in=Prompt.PUBLIC, prompt__active=True, from_chat=False)
    fit = public.filter(pk=OuterRef("pair"), kind=Pair.Kind.SELF, state=Pair.State.READY, repeat_of=None)
    votes = Vote.objects.filter(Exists(fit), choice__in=("a", "b")).order_by("-created_at", "-id")
    vote = votes.prefetch_related("pair__prompt", "pair__a", "pair__b").first()
    if vote is None or vote.pair.prompt is None:
        return None
    answers = (("a", vote.pair.a), ("b", vote.pair.b))
    return VotedPair(
        prompt=vote.pair.prompt.text,
        answers=[PairAnswer(text=answer.text, preferred=vote.choice == side) for side, answer in answers],
    )


def _ppo(stage: str, origin: Checkpoint | None) -> dict[str, Any]:
    answer = _last_answer(stage)
    wins = _step_figure(
        stage,
        "held_out_win_rate",
        name="held out",
        y_label="scored above the parent",
        what="Answers to held-out questions that the judge scores above the parent’s",
        about=(
            "The opinion of the reward model it was trained against, on questions it did not practise: "
            "whether people agree, only their votes between the two can say."
        ),
        form=percent,
        is_share=True,
    )
    return {
        "figures": [*_strangers(stage, "visitor_facts"), *_reward_and_kl_figure(stage), *wins],
        "quote": answer
        and Quote(prompt=answer.prompt, text=answer.text, stage=stage, caption="What the model of this stage says now"),
    }


def _reward_and_kl_figure(stage: str) -> list[Figure]:
    """Reward against KL, round by round, of the newest run."""
    run, rewards = _latest_curve(stage, "reward")
    if run is None:
        return []
    kl = dict(_curve(run, "kl"))
    rows = [(step, kl[step], reward) for step, reward in rewards if step in kl]
    if not rows:
        return []
    (_, first_kl, first_reward), (last_step, last_kl, last_reward) = rows[0], rows[-1]
    svg = figures.path_chart(
        [(distance, reward) for _, distance, reward in rows],
        stage=stage,
        title=f"Reward against distance from the parent, run {run.pk}",
        description=f"From {first_reward:.2f} at a KL of {first_kl:.1f} to {last_reward:.2f} at {last_kl:.1f}.",
        x_label="KL to the parent, nats per answer",
        y_label="reward",
        start_name="start",
        end_name=f"step {last_step:g}",
    )
    stride = max(1, math.ceil(len(rows) / TABLE_ROWS))
    return [
        Figure(
            svg=svg,
            caption=f"Round by round in run {run.pk}: how far the model has moved, and what the judge makes of it.",
            headers=["Step", "KL, nats", "Reward"],
            rows=[(number(step), f"{distance:.2f}", f"{reward:.2f}") for step, distance, reward in rows[::stride]],
            about="The judge is the reward model, and the answers are to the questions it practises on.",
        )
    ]


def _grpo(stage: str, origin: Checkpoint | None) -> dict[str, Any]:
    held_out = _step_figure(
        stage,
        "pass_at_1",
        name="held out",
        y_label="problems solved",
        what="Held-out problems solved at the first try",
        about=_about("problems", origin),
        form=percent,
        is_share=True,
    )
    sampled = _step_figure(
        stage,
        "solved",
        name="in practice",
        y_label="attempts right",
        what="Attempts that were right, on problems that get harder as it improves",
        about=(
            "What it practises on, so this says how practice goes, not what it can do: word problems of one to three "
            "steps and bare sums, and questions about facts, in a form, or from elsewhere, whose answers can be "
            "checked. Held out from it are strangers’ wording and the stories of the figure before."
        ),
        form=percent,
        is_share=True,
    )
    taste = _step_figure(
        stage,
        "taste_reward",
        name="held out",
        y_label="reward model’s score",
        what="How much of the voters’ taste it keeps, on held-out questions",
        about="The reward model’s opinion of its answers, not the voters’.",
        form=signed,
    )
    strangers = _strangers(stage, "visitor_problems", "visitor_facts")
    return {"figures": [*strangers, *held_out, *sampled, *taste]}


_PAGES: dict[str, Callable[[str, Checkpoint | None], dict[str, Any]]] = {
    INIT: _init,
    PRETRAIN: _pretrain,
    SFT: _sft,
    REWARD: _reward,
    PPO: _ppo,
    GRPO: _grpo,
}

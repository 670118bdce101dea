"""Reads for the home page and for "ask all": what every stage says to the same question, right now."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from webapp.answers.models import Generation
from webapp.chat.models import Conversation, Message
from webapp.chat.threads import Answer
from webapp.checkpoints.models import Checkpoint
from webapp.stages.catalog import Stage
from webapp.stages.context import RailItem, build_rail, speakers
from webapp.stages.models import SiteAnswer
from webapp.stages.questions import home_questions
from webapp.training.curriculum import NextStep, next_step
from webapp.training.models import Sample, TrainingRun


@dataclass(frozen=True, kw_only=True)
class HomeAnswer:
    """One row of the home page."""

    stage: Stage
    checkpoint: Checkpoint | None
    run: TrainingRun | None
    generation: Generation | None
    sample: Sample | None
    origin: Checkpoint | None = None
    """The model from elsewhere whose makers did this stage, where they did."""

    @property
    def state(self) -> str:
        """answered, writing, failed, unasked (a checkpoint without an answer), training, queued, elsewhere or
        waiting."""
        if self.generation:
            if self.generation.state == Generation.State.FAILED:
                return "failed"
            return "answered" if self.generation.is_final else "writing"
        if self.checkpoint:
            return "unasked"
        if self.run:
            return "queued" if self.run.state == TrainingRun.State.QUEUED else "training"
        return "elsewhere" if self.origin else "waiting"

    @property
    def text(self) -> str:
        """Without the spaces around it: a continuation begins with one."""
        said = self.generation or self.sample
        return said.text.strip() if said else ""


@dataclass(frozen=True, kw_only=True)
class HomePage:
    """Everything on the home page that may change while someone looks at it."""

    question: int
    questions: Sequence[str]
    rail: Sequence[RailItem]
    answers: Sequence[HomeAnswer]
    step: NextStep
    origin: Checkpoint | None = None
    """The model from elsewhere this site raises, once it is here."""

    @property
    def comes_from_elsewhere(self) -> bool:
        """A model others trained lives here, or is on its way."""
        return self.origin is not None or self.is_arriving

    @property
    def is_arriving(self) -> bool:
        """There is nobody to ask yet, because the model is on its way, or could not be fetched."""
        return self.step.state in ("moving", "stranded")

    @property
    def prompt(self) -> str:
        return self.questions[self.question]

    @property
    def needs_asking(self) -> bool:
        return any(answer.state == "unasked" for answer in self.answers)

    @property
    def has_failed(self) -> bool:
        return any(answer.state == "failed" for answer in self.answers)

    @property
    def is_changing(self) -> bool:
        """Something is being trained or written: look again soon."""
        return self.step.state in ("starting", "moving", "training", "voting") or any(
            answer.state in ("unasked", "writing") for answer in self.answers
        )

    @property
    def version(self) -> str:
        """Changes when anything shown changes, so that a reader with this version needs no new page."""
        rail = [(item.state_text, item.checkpoint and item.checkpoint.pk) for item in self.rail]
        answers = [(answer.state, answer.text) for answer in self.answers]
        step = (self.step.key, self.step.label, self.step.text, self.step.done, self.step.doubts)
        shown = (self.question, rail, answers, *step)
        return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]


def home_page(question: int) -> HomePage:
    """The home page with one of the fixed questions; IndexError when there is none of that number."""
    rail = build_rail()
    origin = next((item.origin for item in rail if item.origin), None)
    questions = home_questions(origin)
    return HomePage(
        question=question,
        questions=questions,
        rail=rail,
        answers=home_answers(questions[question], rail),
        step=next_step(),
        origin=origin,
    )


def home_answers(prompt: str, rail: Sequence[RailItem] | None = None) -> list[HomeAnswer]:
    """Every chattable stage with its answer to `prompt`, or the newest sample of its running run."""
    items = [item for item in (build_rail() if rail is None else rail) if item.stage.can_chat]
    generations = home_generations([item.checkpoint for item in items if item.checkpoint], prompt)
    return [
        HomeAnswer(
            stage=item.stage,
            checkpoint=item.checkpoint,
            run=item.run,
            generation=generations.get(item.checkpoint.pk) if item.checkpoint else None,
            sample=_newest_sample(item.run, prompt) if item.run and not item.checkpoint else None,
            origin=item.origin,
        )
        for item in items
    ]


def home_generations(checkpoints: Sequence[Checkpoint], prompt: str) -> dict[int, Generation]:
    """The site's own greedy answer of each checkpoint to `prompt`, by checkpoint."""
    rows = SiteAnswer.objects.filter(checkpoint__in=checkpoints, prompt=prompt).select_related("generation")
    return {row.checkpoint_id: row.generation for row in rows}


def _newest_sample(run: TrainingRun, prompt: str) -> Sample | None:
    return Sample.objects.filter(run=run, prompt=prompt).order_by("-step", "-id").first()


@dataclass(frozen=True, kw_only=True)
class Column:
    """One stage's place in "ask all"."""

    item: RailItem
    answer: Answer | None
    """None before anything was asked, and for a stage that came later."""


def comparison_columns(conversation: Conversation | None) -> list[Column]:
    """The stages this site asks, in order, each with its answer in this conversation if it has one."""
    answers: dict[str, Answer] = {}
    if conversation:
        messages = conversation.messages.filter(role=Message.Role.ASSISTANT, generation__isnull=False)
        for message in messages.select_related("generation__checkpoint"):
            answer = Answer(message)
            answers[answer.generation.checkpoint.stage] = answer
    return [Column(item=item, answer=answers.get(item.slug)) for item in speakers(build_rail())]

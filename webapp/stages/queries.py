"""Reads for the home page and for "ask all": what every stage says to the same question, right now."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from trainer.config import PPO
from webapp.answers.models import Generation
from webapp.chat.models import Conversation, Message
from webapp.chat.threads import Answer
from webapp.checkpoints.models import Checkpoint
from webapp.stages.catalog import CATALOG, Stage
from webapp.stages.context import RailItem, build_rail, speakers
from webapp.stages.differences import Change, compare, most_telling
from webapp.stages.effects import read_records, stage_effects
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
    before: HomeAnswer | None = None
    """The row of the stage before, where both are answered."""
    pair: SampledPair | None = None
    effect: str = ""
    """What this stage learnt from and what it changed (see effects.py)."""

    @property
    def change(self) -> Change | None:
        """What is otherwise than at the stage before."""
        return compare(self.before.text, self.text) if self.before else None

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
class SampledPair:
    """A stage's answer and the one of the stage before, both drawn with the same fixed seed.

    Where the likeliest words are the same, a taste may still show in what is drawn.
    """

    earlier: Generation | None
    later: Generation | None

    @property
    def is_unasked(self) -> bool:
        return self.earlier is None or self.later is None

    @property
    def change(self) -> Change | None:
        """Nothing while one of them is not written."""
        texts = [one.text for one in (self.earlier, self.later) if one and one.state == Generation.State.DONE]
        return compare(*texts) if len(texts) == 2 else None


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
    has_unasked: bool = False
    """Some stage has not been asked some of the questions."""
    is_being_answered: bool = False

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
        return self.has_unasked or any(answer.pair is not None and answer.pair.is_unasked for answer in self.answers)

    @property
    def has_failed(self) -> bool:
        return any(answer.state == "failed" for answer in self.answers)

    @property
    def is_changing(self) -> bool:
        """Something is being trained or written: look again soon."""
        is_walking = self.step.state in ("starting", "moving", "training", "voting")
        return is_walking or self.needs_asking or self.is_being_answered

    @property
    def version(self) -> str:
        """Changes when anything shown changes, so that a reader with this version needs no new page."""
        rail = [(item.state_text, item.checkpoint and item.checkpoint.pk) for item in self.rail]
        answers = [(answer.state, answer.text, answer.effect) for answer in self.answers]
        drawn = [answer.pair.change for answer in self.answers if answer.pair]
        step = (self.step.key, self.step.label, self.step.text, self.step.done, self.step.doubts)
        shown = (self.question, self.needs_asking, rail, answers, drawn, *step)
        return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]


def home_page(question: int | None = None) -> HomePage:
    """The home page with one of the fixed questions: by its number (IndexError when there is none of it), or the one
    on which this site's stages differ most."""
    rail = build_rail()
    origin = next((item.origin for item in rail if item.origin), None)
    questions = home_questions(origin)
    current = {item.slug: item.checkpoint for item in rail if item.checkpoint}
    answers = site_answers([one for slug, one in current.items() if CATALOG[slug].can_chat], questions)
    said = {pk: [_finished(greedy.get(prompt)) for prompt in questions] for pk, greedy in answers.greedy.items()}
    shown = telling_question(list(said.values())) if question is None else question
    effects = stage_effects(current, said, read_records(list(current.values())))
    return HomePage(
        question=shown,
        questions=questions,
        rail=rail,
        answers=home_answers(questions[shown], rail, answers, effects),
        step=next_step(),
        origin=origin,
        has_unasked=any(prompt not in greedy for greedy in answers.greedy.values() for prompt in questions),
        is_being_answered=any(not one.is_final for one in answers.all()),
    )


def telling_question(said: Sequence[Sequence[Generation | None]]) -> int:
    """The number of the question on which the stages differ most; the first, before two stages have answered all.

    A stage counts once it has answered every question, so nothing moves while answers are being written.
    """
    whole = [[one.text for one in answers if one] for answers in said if all(answers)]
    return most_telling(list(zip(*whole, strict=True))) if len(whole) > 1 else 0


@dataclass(frozen=True)
class SiteAnswers:
    """The site's own answers: checkpoint -> prompt -> answer."""

    greedy: Mapping[int, Mapping[str, Generation]]
    sampled: Mapping[int, Mapping[str, Generation]]

    def all(self) -> Iterator[Generation]:
        for answers in (*self.greedy.values(), *self.sampled.values()):
            yield from answers.values()


def site_answers(checkpoints: Sequence[Checkpoint], prompts: Sequence[str]) -> SiteAnswers:
    """What these checkpoints were asked of these prompts, in one query; a key for each of them, in their order."""
    found = SiteAnswers({one.pk: {} for one in checkpoints}, {one.pk: {} for one in checkpoints})
    rows = SiteAnswer.objects.filter(checkpoint__in=checkpoints, prompt__in=prompts).select_related("generation")
    for row in rows.defer("generation__messages", "generation__sampling"):
        kind = found.sampled if row.is_sampled else found.greedy
        kind[row.checkpoint_id][row.prompt] = row.generation  # type: ignore[index]
    return found


def _finished(generation: Generation | None) -> Generation | None:
    return generation if generation and generation.state == Generation.State.DONE else None


def home_answers(
    prompt: str,
    rail: Sequence[RailItem] | None = None,
    answers: SiteAnswers | None = None,
    effects: Mapping[str, str] = MappingProxyType({}),
) -> list[HomeAnswer]:
    """Every chattable stage with its answer to `prompt`, or the newest sample of its running run."""
    items = [item for item in (build_rail() if rail is None else rail) if item.stage.can_chat]
    if answers is None:
        answers = site_answers([item.checkpoint for item in items if item.checkpoint], [prompt])
    rows: list[HomeAnswer] = []
    before: HomeAnswer | None = None
    for item in items:
        row = HomeAnswer(
            stage=item.stage,
            checkpoint=item.checkpoint,
            run=item.run,
            generation=answers.greedy[item.checkpoint.pk].get(prompt) if item.checkpoint else None,
            sample=_newest_sample(item.run, prompt) if item.run and not item.checkpoint else None,
            origin=item.origin,
            effect=effects.get(item.slug, ""),
        )
        if _finished(row.generation):
            row = replace(row, before=before, pair=_sampled_pair(before, row, answers, prompt))
            before = row
        rows.append(row)
    return rows


def _sampled_pair(before: HomeAnswer | None, row: HomeAnswer, answers: SiteAnswers, prompt: str) -> SampledPair | None:
    """Where preference fine-tuning has not changed the likeliest words; nothing elsewhere."""
    if row.stage.slug != PPO or before is None or compare(before.text, row.text).distance:
        return None
    earlier, later = (
        answers.sampled[one.checkpoint.pk].get(prompt) for one in (before, row) if one.checkpoint is not None
    )
    return SampledPair(earlier=earlier, later=later)


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

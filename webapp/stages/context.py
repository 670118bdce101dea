"""The stage rail, on every page: where each stage stands, in two queries (one more where the model came from
elsewhere, and while there is none)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.origin import is_done_elsewhere, origin_of
from webapp.stages.catalog import CATALOG, Stage
from webapp.training import moving_in
from webapp.training.models import TrainingRun

NUMBERS: Final = ("none", "one", "two", "three", "four", "five")


@dataclass(frozen=True, kw_only=True)
class RailItem:
    stage: Stage
    checkpoint: Checkpoint | None
    run: TrainingRun | None
    """The run of this stage that is queued or going on, if any."""
    origin: Checkpoint | None = None
    """The model from elsewhere whose makers did this stage, where they did."""

    @property
    def slug(self) -> str:
        return self.stage.slug

    @property
    def title(self) -> str:
        return self.stage.name

    @property
    def number(self) -> str:
        return self.stage.number

    @property
    def state(self) -> str:
        """done, running, queued, elsewhere or waiting. A stage that is trained again is running."""
        if self.run and self.run.state != TrainingRun.State.QUEUED:
            return "running"
        if self.checkpoint:
            return "done"
        if self.run:
            return "queued"
        return "elsewhere" if self.origin else "waiting"

    @property
    def state_text(self) -> str:
        if self.run and self.state == "running":
            return f"{self.run.percent}\u00a0%"
        return {"done": "ready", "queued": "queued", "waiting": "to come", "elsewhere": "elsewhere"}[self.state]

    @property
    def share(self) -> int:
        """Per cent of the rail's line that is drawn in the stage's colour."""
        if self.run and self.state == "running":
            return self.run.percent
        return 100 if self.state == "done" else 0


def build_rail() -> list[RailItem]:
    """Every stage and where it stands; none while a model from elsewhere is on its way and may be at any of them."""
    checkpoints = Checkpoint.objects.current_by_stage()
    if not checkpoints and moving_in.is_wanted():
        return []
    runs: dict[str, TrainingRun] = {}
    for run in TrainingRun.objects.active().order_by("created_at", "id"):
        first = runs.setdefault(run.stage, run)
        if first.state == TrainingRun.State.QUEUED and run.state != TrainingRun.State.QUEUED:
            runs[run.stage] = run
    origin = origin_of(checkpoints)
    return [
        RailItem(
            stage=stage,
            checkpoint=checkpoints.get(slug),
            run=runs.get(slug),
            origin=origin if is_done_elsewhere(slug, origin) else None,
        )
        for slug, stage in CATALOG.items()
    ]


def speakers(rail: Iterable[RailItem]) -> list[RailItem]:
    """The stages this site asks: all that write text, but those the model went through elsewhere."""
    return [item for item in rail if item.stage.can_chat and item.state != "elsewhere"]


def ask_all(rail: Iterable[RailItem]) -> str:
    """What the page that asks every stage is called here."""
    count = len(speakers(rail))
    return f"Ask all {NUMBERS[count]}" if count else "Ask all stages"


def stage_rail(request: HttpRequest) -> dict[str, object]:
    """Context processor. Lazy: a page or fragment without the rail asks the database nothing."""
    rail: Any = SimpleLazyObject(build_rail)
    return {"stage_rail": rail, "ask_all": SimpleLazyObject(lambda: ask_all(rail))}

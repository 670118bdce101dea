"""The stage rail, on every page: where each stage stands, in two queries."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from webapp.checkpoints.models import Checkpoint
from webapp.stages.catalog import CATALOG, Stage
from webapp.training.models import TrainingRun


@dataclass(frozen=True, kw_only=True)
class RailItem:
    stage: Stage
    checkpoint: Checkpoint | None
    run: TrainingRun | None
    """The run of this stage that is queued or going on, if any."""

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
        """done, running, queued or waiting. A stage that is trained again is running."""
        if self.run and self.run.state != TrainingRun.State.QUEUED:
            return "running"
        if self.checkpoint:
            return "done"
        return "queued" if self.run else "waiting"

    @property
    def state_text(self) -> str:
        if self.run and self.state == "running":
            return f"{self.run.percent}\u00a0%"
        return {"done": "ready", "queued": "queued", "waiting": "to come"}[self.state]

    @property
    def share(self) -> int:
        """Per cent of the rail's line that is drawn in the stage's colour."""
        if self.run and self.state == "running":
            return self.run.percent
        return 100 if self.state == "done" else 0


def build_rail() -> list[RailItem]:
    checkpoints = Checkpoint.objects.current_by_stage()
    runs: dict[str, TrainingRun] = {}
    for run in TrainingRun.objects.active().order_by("created_at", "id"):
        first = runs.setdefault(run.stage, run)
        if first.state == TrainingRun.State.QUEUED and run.state != TrainingRun.State.QUEUED:
            runs[run.stage] = run
    return [
        RailItem(stage=stage, checkpoint=checkpoints.get(slug), run=runs.get(slug)) for slug, stage in CATALOG.items()
    ]


def stage_rail(request: HttpRequest) -> dict[str, object]:
    """Context processor. Lazy: a page or fragment without the rail asks the database nothing."""
    return {"stage_rail": SimpleLazyObject(build_rail)}

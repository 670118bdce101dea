"""Checkpoint rows over checkpoint directories."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.db import models

from trainer.config import ANSWER_TOKENS, CHAT_STAGES, STAGE_TITLES, STAGES


class CheckpointQuerySet(models.QuerySet["Checkpoint"]):
    def listed(self) -> CheckpointQuerySet:
        """Checkpoints people may see."""
        return self.filter(archived=False)

    def chattable(self) -> CheckpointQuerySet:
        """Listed checkpoints that produce text (all but reward models)."""
        return self.listed().filter(stage__in=CHAT_STAGES)

    def by_progress(self) -> CheckpointQuerySet:
        """The furthest trained first, the newest first within a stage."""
        place = models.Case(*(models.When(stage=stage, then=number) for number, stage in enumerate(STAGES)))
        return self.order_by(place.desc(), "-created_at", "-id")

    def current(self, stage: str) -> Checkpoint | None:
        """The newest listed checkpoint of one stage."""
        return self.listed().filter(stage=stage).order_by("-created_at", "-id").first()

    def current_by_stage(self) -> dict[str, Checkpoint]:
        """The newest listed checkpoint of every stage that has one, in stage order."""
        newest: dict[str, Checkpoint] = {}
        for checkpoint in self.listed().order_by("created_at", "id"):
            newest[checkpoint.stage] = checkpoint
        return {stage: newest[stage] for stage in STAGES if stage in newest}


class Checkpoint(models.Model):
    """One checkpoint directory under DATA_DIR/checkpoints, in Hugging Face layout."""

    stage = models.CharField(max_length=16, choices=[(s, STAGE_TITLES[s]) for s in STAGES])
    name = models.CharField(max_length=100, help_text="Shown to people; unique names are not required.")
    directory = models.CharField(max_length=200, unique=True, help_text="Relative to DATA_DIR/checkpoints.")
    weights_sha256 = models.CharField(max_length=64, db_index=True)
    parent = models.ForeignKey("self", models.PROTECT, null=True, blank=True, related_name="children")
    preset = models.CharField(max_length=32, blank=True)
    parameters = models.PositiveBigIntegerField()
    bytes = models.PositiveBigIntegerField()
    answer_tokens = models.PositiveIntegerField(
        default=ANSWER_TOKENS, help_text="Longest answer it is trained, voted and measured on, in tokens."
    )
    licence = models.CharField(max_length=100, blank=True, help_text="Of a model from elsewhere, as its card has it.")
    source = models.CharField(max_length=300, blank=True, help_text="What an import was fetched from.")
    revision = models.CharField(max_length=64, blank=True, help_text="Which commit or version of it.")
    source_sha256 = models.CharField(max_length=64, blank=True, help_text="Of the one file it came in, if it did.")
    load_problem = models.TextField(
        blank=True, help_text="Why it cannot be chatted with, as the generate worker found when it was last asked."
    )
    metrics = models.JSONField(default=dict, blank=True, help_text="Held-out figures from stage.json.")
    created_at = models.DateTimeField(auto_now_add=True)
    archived = models.BooleanField(default=False, help_text="Hidden from visitors; nothing is deleted.")

    objects = CheckpointQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.name} ({self.get_stage_display()})"

    @property
    def path(self) -> Path:
        return Path(settings.CHECKPOINT_DIR) / self.directory

    def lineage(self) -> list[Checkpoint]:
        """This checkpoint, its parent, that one's parent …, down to random weights."""
        line, seen = [self], {self.pk}
        while (parent := line[-1].parent) is not None and parent.pk not in seen:
            line.append(parent)
            seen.add(parent.pk)
        return line

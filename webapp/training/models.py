"""Training runs and everything they report. The row is the truth; queues only carry its id."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.urls import reverse

from trainer.config import STAGE_TITLES, STAGES


class TrainingRun(models.Model):
    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        DONE = "done"
        STOPPED = "stopped", "stopped, can be resumed"
        FAILED = "failed"
        INTERRUPTED = "interrupted", "interrupted, will be resumed"
        DISCARDED = "discarded"

    class StopRequest(models.TextChoices):
        NONE = "", "none"
        SAVE = "save", "stop and save"
        DISCARD = "discard", "stop and discard"

    ACTIVE = (State.QUEUED, State.RUNNING, State.INTERRUPTED)
    RESUMABLE = (State.STOPPED, State.FAILED, State.INTERRUPTED)

    stage = models.CharField(max_length=16, choices=[(s, STAGE_TITLES[s]) for s in STAGES])
    preset = models.CharField(max_length=32)
    parent = models.ForeignKey("checkpoints.Checkpoint", models.PROTECT, null=True, blank=True, related_name="runs_from")
    reward_model = models.ForeignKey(
        "checkpoints.Checkpoint", models.PROTECT, null=True, blank=True, related_name="runs_against",
        help_text="PPO only: the reward model to train against.",
    )
    seed = models.PositiveIntegerField(default=0)
    config = models.JSONField(default=dict, help_text="The frozen stage config.")
    inputs = models.JSONField(default=dict, help_text="Hashes of the frozen inputs (votes, parent, reward model).")
    votes_used = models.PositiveIntegerField(default=0)
    curriculum = models.BooleanField(default=False, help_text="Started by the first-start curriculum or the demo.")
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+")

    state = models.CharField(max_length=12, choices=State.choices, default=State.QUEUED, db_index=True)
    stop_request = models.CharField(max_length=8, choices=StopRequest.choices, default="", blank=True)
    attempt = models.PositiveIntegerField(default=0, help_text="Fencing token: grows with every claim.")
    worker = models.CharField(max_length=100, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True, help_text="One sentence: what went wrong and what to do.")
    checkpoint = models.OneToOneField(
        "checkpoints.Checkpoint", models.PROTECT, null=True, blank=True, related_name="run"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"run {self.pk}: {self.stage} ({self.preset})"

    def get_absolute_url(self) -> str:
        return reverse("training:run", args=[self.pk])

    @property
    def stream_key(self) -> str:
        """Name of the run's live log (see webapp/streams.py); the database keeps everything too."""
        return f"run:{self.pk}"


class Metric(models.Model):
    run = models.ForeignKey(TrainingRun, models.CASCADE, related_name="metrics")
    step = models.PositiveIntegerField()
    values = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["step"]
        constraints = [models.UniqueConstraint(fields=["run", "step"], name="one_metric_row_per_step")]


class Sample(models.Model):
    """What the model said to a fixed prompt at one step."""

    run = models.ForeignKey(TrainingRun, models.CASCADE, related_name="samples")
    step = models.PositiveIntegerField()
    prompt = models.TextField()
    text = models.TextField()
    extra = models.JSONField(default=dict, blank=True, help_text="reward, advantage, verdict … where they apply.")

    class Meta:
        ordering = ["step", "id"]


class LogLine(models.Model):
    class Level(models.TextChoices):
        INFO = "info"
        ALARM = "alarm"
        ERROR = "error"

    run = models.ForeignKey(TrainingRun, models.CASCADE, related_name="log")
    level = models.CharField(max_length=5, choices=Level.choices, default=Level.INFO)
    step = models.PositiveIntegerField(default=0)
    text = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

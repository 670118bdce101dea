"""Training runs and everything they report. The row is the truth; queues only carry its id."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone

from trainer.config import STAGE_TITLES, STAGES

CHART_POINTS = 800
"""A chart shows at most about this many steps; more cannot be told apart on a screen."""
LONGEST_SOURCE = 1000
"""Characters of what `up --start` is given."""
FAILED_FOR_EVERYONE = "It failed; staff can see why."
"""In place of the reason, which may hold paths of this machine and the last words of its programs."""


class TrainingRunQuerySet(models.QuerySet["TrainingRun"]):
    def active(self) -> TrainingRunQuerySet:
        """Runs that are waiting for a worker or have one."""
        return self.filter(state__in=TrainingRun.ACTIVE)

    def waiting(self) -> TrainingRunQuerySet:
        """Runs a worker should pick up, oldest first."""
        waiting = self.filter(state__in=(TrainingRun.State.QUEUED, TrainingRun.State.INTERRUPTED))
        return waiting.order_by("created_at", "id")

    def abandoned(self) -> TrainingRunQuerySet:
        """Runs whose worker has not renewed its lease: it is dead or cut off."""
        return self.filter(state=TrainingRun.State.RUNNING, lease_until__lt=Now())

    def claimable(self) -> TrainingRunQuerySet:
        """Runs a worker may take over right now."""
        waiting = Q(state__in=(TrainingRun.State.QUEUED, TrainingRun.State.INTERRUPTED))
        return self.filter(waiting | Q(state=TrainingRun.State.RUNNING, lease_until__lt=Now()))

    def held(self, run: TrainingRun) -> TrainingRunQuerySet:
        """`run` itself while the caller's claim on it stands; empty once another attempt has it."""
        return self.filter(pk=run.pk, attempt=run.attempt, state=TrainingRun.State.RUNNING)

    def with_links(self) -> TrainingRunQuerySet:
        """With the checkpoints a page names, in one query."""
        return self.select_related("parent", "reward_model", "checkpoint")


class TrainingRun(models.Model):
    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        DONE = "done"
        STOPPED = "stopped", "Stopped, can be resumed"
        FAILED = "failed"
        INTERRUPTED = "interrupted", "Interrupted, will be resumed"
        DISCARDED = "discarded"

    class StopRequest(models.TextChoices):
        NONE = "", "none"
        SAVE = "save", "stop and save"
        DISCARD = "discard", "stop and discard"

    ACTIVE = (State.QUEUED, State.RUNNING, State.INTERRUPTED)
    RESUMABLE = (State.STOPPED, State.FAILED, State.INTERRUPTED)

    stage = models.CharField(max_length=16, choices=[(s, STAGE_TITLES[s]) for s in STAGES])
    preset = models.CharField(max_length=32)
    parent = models.ForeignKey(
        "checkpoints.Checkpoint", models.PROTECT, null=True, blank=True, related_name="runs_from"
    )
    reward_model = models.ForeignKey(
        "checkpoints.Checkpoint",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="runs_against",
        help_text="The reward model PPO trains against, and GRPO measures the taste with.",
    )
    overruled = models.TextField(
        blank=True, help_text="What spoke against its reward model when a person, or the demo, started it all the same."
    )
    seed = models.PositiveIntegerField(default=0)
    config = models.JSONField(default=dict, help_text="The frozen stage config.")
    inputs = models.JSONField(default=dict, help_text="Hashes of the frozen inputs (votes, parent, reward model).")
    votes_used = models.PositiveIntegerField(default=0)
    votes_source = models.CharField(max_length=9, blank=True, help_text="Reward only: all votes, or one source's.")
    curriculum = models.BooleanField(default=False, help_text="Started by the first-start curriculum or the demo.")
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+")

    state = models.CharField(max_length=12, choices=State.choices, default=State.QUEUED, db_index=True)
    stop_request = models.CharField(max_length=8, choices=StopRequest.choices, default="", blank=True)
    attempt = models.PositiveIntegerField(default=0, help_text="Fencing token: grows with every claim.")
    worker = models.CharField(max_length=100, blank=True)
    threads = models.PositiveIntegerField(
        default=0, help_text="CPU threads: the first worker's choice, kept by later ones because sums depend on it."
    )
    lease_until = models.DateTimeField(null=True, blank=True, help_text="By the database's clock.")
    interruptions = models.PositiveIntegerField(default=0, help_text="Workers lost in a row without a new step.")
    interrupted_step = models.PositiveIntegerField(default=0, help_text="Furthest step at which a worker was lost.")
    killed_step = models.PositiveIntegerField(
        null=True, blank=True, help_text="The last step before its trainer was killed; empty when it never was."
    )
    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True, help_text="One sentence: what went wrong and what to do.")
    checkpoint = models.OneToOneField(
        "checkpoints.Checkpoint", models.PROTECT, null=True, blank=True, related_name="run"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    resumed_at = models.DateTimeField(null=True, blank=True, help_text="When this attempt began to step.")
    resumed_step = models.PositiveIntegerField(default=0, help_text="The step this attempt began at.")
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = TrainingRunQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            # Starting twice: the database, not a check before the insert, decides who was first.
            models.UniqueConstraint(
                fields=["stage", "parent"],
                condition=Q(state__in=("queued", "running", "interrupted"), parent__isnull=False),
                name="one_active_run_per_stage_and_parent",
            ),
            models.UniqueConstraint(
                fields=["stage"],
                condition=Q(state__in=("queued", "running", "interrupted"), parent__isnull=True),
                name="one_active_run_per_stage_without_parent",
            ),
        ]

    def __str__(self) -> str:
        return f"run {self.pk}: {self.stage} ({self.preset})"

    def get_absolute_url(self) -> str:
        return reverse("training:run", args=[self.pk])

    @property
    def stream_key(self) -> str:
        """Name of the run's live log (see webapp/live/streams.py); the database keeps everything too."""
        return f"run:{self.pk}"

    @property
    def directory(self) -> str:
        """Name of this attempt's checkpoint directory. Each has its own: one thought dead may still write to its."""
        return f"{self._name}-{self.attempt}"

    @property
    def earlier_directories(self) -> list[str]:
        """Of the attempts before this one, the newest first; last the one that older versions wrote to every time."""
        return [*(f"{self._name}-{attempt}" for attempt in range(self.attempt - 1, 0, -1)), self._name]

    @property
    def _name(self) -> str:
        return f"{self.stage}-{self.pk:04d}"

    @property
    def output_dir(self) -> Path:
        return Path(settings.CHECKPOINT_DIR) / self.directory

    @property
    def inputs_dir(self) -> Path:
        """Where its frozen inputs are: run.json, votes.jsonl, and the trainer's error output."""
        return Path(settings.RUN_DIR) / str(self.pk)

    @property
    def public_error(self) -> str:
        """What everyone may read of `error`."""
        return FAILED_FOR_EVERYONE if self.state == self.State.FAILED else self.error

    @property
    def is_active(self) -> bool:
        return self.state in self.ACTIVE

    @property
    def can_resume(self) -> bool:
        """A person may resume it (an interrupted run resumes by itself)."""
        return self.state in (self.State.STOPPED, self.State.FAILED)

    @property
    def can_discard(self) -> bool:
        return self.is_active or self.can_resume

    @property
    def progress(self) -> float:
        """Share of the steps done, 0 to 1."""
        if self.state == self.State.DONE:
            return 1.0
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0

    @property
    def percent(self) -> int:
        return int(100 * self.progress)

    @property
    def eta(self) -> timedelta | None:
        """Time left at this attempt's own pace; None until it has one."""
        steps = self.step - self.resumed_step
        if self.state != self.State.RUNNING or self.resumed_at is None or steps <= 0:
            return None
        return (timezone.now() - self.resumed_at) / steps * max(0, self.total_steps - self.step)

    @property
    def duration(self) -> timedelta | None:
        """Wall time from the first start to the end, or to now."""
        if self.started_at is None:
            return None
        return (self.finished_at or timezone.now()) - self.started_at


class MetricQuerySet(models.QuerySet["Metric"]):
    def for_chart(self, run: TrainingRun, points: int = CHART_POINTS) -> MetricQuerySet:
        """About `points` rows of one run, evenly spaced.

        The first step of training, the last and steps with samples (evaluations) always stay.
        """
        rows = self.filter(run=run)
        figures = rows.aggregate(count=models.Count("id"), last=models.Max("step"))
        if figures["count"] <= points:
            return rows
        stride = -(-figures["count"] // points)
        evaluated = Sample.objects.evaluated().filter(run=run).values("step")
        spaced = rows.annotate(offset=F("step") % stride)
        return spaced.filter(Q(offset=0) | Q(step__in=(1, figures["last"])) | Q(step__in=evaluated))


class Metric(models.Model):
    run = models.ForeignKey(TrainingRun, models.CASCADE, related_name="metrics")
    step = models.PositiveIntegerField()
    values = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    objects = MetricQuerySet.as_manager()

    class Meta:
        ordering = ["step"]
        constraints = [models.UniqueConstraint(fields=["run", "step"], name="one_metric_row_per_step")]

    def __str__(self) -> str:
        return f"figures of run {self.run_id} at step {self.step}"


class SampleQuerySet(models.QuerySet["Sample"]):
    def practice(self) -> SampleQuerySet:
        """What steps practised on, apart from evaluations: some of every step."""
        return self.filter(extra__has_key=Sample.PRACTICE)

    def evaluated(self) -> SampleQuerySet:
        """What evaluations sampled."""
        return self.exclude(extra__has_key=Sample.PRACTICE)


class Sample(models.Model):
    """What the model said to a fixed prompt at one step, or to a problem it practised on."""

    PRACTICE = "practice"
    """A key in `extra`."""

    run = models.ForeignKey(TrainingRun, models.CASCADE, related_name="samples")
    step = models.PositiveIntegerField()
    prompt = models.TextField()
    text = models.TextField()
    extra = models.JSONField(default=dict, blank=True, help_text="reward, advantage, verdict … where they apply.")

    objects = SampleQuerySet.as_manager()

    class Meta:
        ordering = ["step", "id"]

    def __str__(self) -> str:
        return f"{self.prompt[:40]} at step {self.step}"


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

    def __str__(self) -> str:
        return self.text

    @property
    def public_text(self) -> str:
        """What everyone may read of it."""
        return FAILED_FOR_EVERYONE if self.level == self.Level.ERROR else self.text


class Machine(models.Model):
    """What a train worker runs on, as that worker has measured it: estimates of runs are made from this."""

    node = models.CharField(max_length=255, unique=True, help_text="The worker's name, train@host.")
    figures = models.JSONField(default=dict, help_text="What `python -m trainer measure` printed there.")
    threads = models.PositiveIntegerField(help_text="What a run that begins there is given.")
    memory_bytes = models.PositiveBigIntegerField(null=True, blank=True, help_text="Free when it was last idle.")
    seen_at = models.DateTimeField()

    class Meta:
        ordering = ["-seen_at"]

    def __str__(self) -> str:
        return self.node


class Curriculum(models.Model):
    """How far a site walks the stages by itself. One row; every start writes what its own flags say."""

    class Automatic(models.TextChoices):
        OFF = "off", "nothing starts by itself"
        START = "start", "pre-training and instruction fine-tuning start by themselves"
        DEMO = "demo", "every stage, with a simulated voter"

    automatic = models.CharField(max_length=5, choices=Automatic.choices, default=Automatic.START)
    taste = models.CharField(max_length=32, default="friendlier", help_text="The simulated voter's taste.")
    votes_wanted = models.PositiveIntegerField(default=0, help_text="Votes the simulated voter is to cast; 0 = rests.")
    votes_cast = models.PositiveIntegerField(default=0, help_text="How many of them it has cast.")
    voting_until = models.DateTimeField(null=True, blank=True, help_text="Later than this it has lost its worker.")
    error = models.TextField(blank=True, help_text="Why the simulated voter stopped.")

    class Moving(models.TextChoices):
        """How far the model named by `up --start` has come."""

        NONE = "", "the site began with random weights"
        UNDER_WAY = "moving", "it is being fetched and checked"
        FAILED = "failed", "it could not be brought in"
        DONE = "here", "it is here"

    start_source = models.CharField(
        max_length=LONGEST_SOURCE, blank=True, help_text="What `up --start` named; empty: nothing."
    )
    start_state = models.CharField(max_length=6, choices=Moving.choices, default=Moving.NONE, blank=True)
    start_text = models.TextField(blank=True, help_text="What is being done, or why it failed and what to do.")
    start_done = models.PositiveBigIntegerField(default=0, help_text="Bytes of what is being done.")
    start_total = models.PositiveBigIntegerField(default=0, help_text="All of them; 0 while nobody knows.")

    def __str__(self) -> str:
        return f"curriculum ({self.automatic})"

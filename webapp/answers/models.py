"""The answers: one row each, from the moment it is asked for."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models.functions import Now

from webapp.checkpoints.models import Checkpoint

UNFINISHED = models.Q(state="queued") | models.Q(state="running")
"""No `state__in`: SQLite would not see that the index below has these rows."""


class GenerationQuerySet(models.QuerySet["Generation"]):
    def unfinished(self) -> GenerationQuerySet:
        """Answers that wait or are being written."""
        return self.filter(UNFINISHED)


class Generation(models.Model):
    """One answer, from the moment it is asked for. The text is final once `state` is final."""

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        DONE = "done"
        STOPPED = "stopped"
        FAILED = "failed"

    FINAL = (State.DONE, State.STOPPED, State.FAILED)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    checkpoint = models.ForeignKey(Checkpoint, models.PROTECT, related_name="generations")
    visitor = models.ForeignKey("accounts.Visitor", models.SET_NULL, null=True, blank=True, related_name="generations")
    messages = models.JSONField(
        help_text="The conversation so far: [{role, content}, …]. An assistant's turn at its end is continued."
    )
    sampling = models.JSONField(default=dict, help_text="temperature, top_k, top_p, max_new_tokens, seed.")
    state = models.CharField(max_length=8, choices=State.choices, default=State.QUEUED)
    text = models.TextField(blank=True)
    finish_reason = models.CharField(max_length=16, blank=True, help_text="end, length, stopped or error.")
    error = models.CharField(max_length=300, blank=True)
    tokens = models.PositiveIntegerField(default=0)
    token_ids = models.JSONField(
        null=True,
        blank=True,
        help_text="What it wrote, as ids, the end included; of a continued answer what was added.",
    )
    background = models.BooleanField(
        default=False, help_text="Nobody sits waiting for it: it comes after those people wait for, without a live log."
    )
    stop_asked = models.BooleanField(default=False, help_text="Its worker, looking four times a second, ends it.")
    created_at = models.DateTimeField(auto_now_add=True)
    enqueued_at = models.DateTimeField(null=True, blank=True, help_text="When workers were last told again of it.")
    alive_at = models.DateTimeField(null=True, blank=True, help_text="When its worker last said that it is at it.")
    doubted_at = models.DateTimeField(
        null=True, blank=True, help_text="When somebody first missed the worker; one that speaks up later is alive."
    )
    first_token_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = GenerationQuerySet.as_manager()

    class Meta:
        # The first: a few rows of very many, looked for every 30 seconds.
        indexes = [
            models.Index(fields=["state"], condition=UNFINISHED, name="unfinished_generations"),
            models.Index(fields=["checkpoint", "finished_at"], name="a_checkpoints_answers"),
            models.Index(fields=["created_at"], name="newest_answers"),
        ]

    def __str__(self) -> str:
        return f"generation {self.id} ({self.state})"

    @property
    def stream_key(self) -> str:
        """Name of the answer's append-only log (see webapp/live/streams.py)."""
        return f"generation:{self.id}"

    @property
    def is_final(self) -> bool:
        return self.state in self.FINAL

    @property
    def prompt(self) -> str:
        """The last user message."""
        return next((str(m["content"]) for m in reversed(self.messages) if m["role"] == "user"), "")


class Look(models.Model):
    """What the token microscope finds in an answer, from the moment somebody opens it: an answer does not change."""

    generation = models.OneToOneField(Generation, models.CASCADE, primary_key=True, related_name="look")
    asked_at = models.DateTimeField(db_default=Now(), help_text="When a worker was last told of it.")
    found = models.JSONField(null=True, blank=True, help_text="As `looks.Found` has it; empty until it is there.")
    problem = models.CharField(max_length=300, blank=True, help_text="Why nothing was found, in one sentence.")

    def __str__(self) -> str:
        return f"look into {self.generation_id}"

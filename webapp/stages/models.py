"""The way to the site's own answers, and what its pre-trained model thinks comes next."""

from __future__ import annotations

from django.db import models
from django.utils import timezone


class SiteAnswer(models.Model):
    """The site's own answer of one checkpoint to one fixed question: greedy, or sampled with the fixed seed.

    A table of its own, because the home page looks for them every other second: among all the answers of
    a checkpoint, most of them made for pairs, only their sampling settings would tell them apart.
    """

    checkpoint = models.ForeignKey("checkpoints.Checkpoint", models.CASCADE, related_name="+")
    prompt = models.CharField(max_length=300)
    is_sampled = models.BooleanField(default=False, help_text="At temperature 1, where greedy answers are the same.")
    generation = models.OneToOneField("answers.Generation", models.CASCADE, related_name="+")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["checkpoint", "prompt", "is_sampled"], name="one_site_answer_of_a_kind")
        ]

    def __str__(self) -> str:
        return f"{self.checkpoint_id} on {self.prompt}"


class NextTokens(models.Model):
    """Which tokens a checkpoint thinks come after a text, from the moment somebody asks; kept for a day."""

    checkpoint = models.ForeignKey("checkpoints.Checkpoint", models.CASCADE, related_name="+")
    text = models.CharField(max_length=200)
    asked_at = models.DateTimeField(default=timezone.now, db_index=True)
    found = models.JSONField(null=True, blank=True, help_text="As next_tokens.Found has it; empty until it is there.")
    problem = models.CharField(max_length=300, blank=True, help_text="Why nothing was found, in one sentence.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["checkpoint", "text"], name="next_tokens_once_per_text")]

    def __str__(self) -> str:
        return f"{self.checkpoint_id} after {self.text}"

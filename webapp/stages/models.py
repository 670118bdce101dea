"""The way to the site's own answers."""

from __future__ import annotations

from django.db import models


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

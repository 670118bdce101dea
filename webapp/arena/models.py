"""Prompts, pairs of answers and the votes on them."""

from __future__ import annotations

import uuid

from django.db import models


class Prompt(models.Model):
    """A question pairs are made from."""

    class Source(models.TextChoices):
        SHIPPED = "shipped"
        STAFF = "staff"
        CHAT = "chat"

    text = models.CharField(max_length=2000, unique=True)
    source = models.CharField(max_length=8, choices=Source.choices)
    active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.text[:60]


class Pair(models.Model):
    """Two answers to the same messages. Which checkpoint's answer is A was a coin flip at creation."""

    class Kind(models.TextChoices):
        SELF = "self", "one checkpoint, sampled twice"
        VERSUS = "versus", "two checkpoints"

    class State(models.TextChoices):
        PENDING = "pending", "answers being written"
        READY = "ready"
        REJECTED = "rejected", "identical, empty or cut off"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    prompt = models.ForeignKey(Prompt, models.PROTECT, null=True, blank=True, related_name="pairs")
    kind = models.CharField(max_length=6, choices=Kind.choices)
    state = models.CharField(max_length=8, choices=State.choices, default=State.PENDING, db_index=True)
    a = models.OneToOneField("checkpoints.Generation", models.PROTECT, related_name="pair_as_a")
    b = models.OneToOneField("checkpoints.Generation", models.PROTECT, related_name="pair_as_b")
    from_chat = models.BooleanField(default=False, help_text="Offered in a conversation; never served at /vote/.")
    owner = models.ForeignKey(
        "accounts.Visitor", models.SET_NULL, null=True, blank=True, related_name="chat_pairs",
        help_text="Who was offered it in chat, or whom it is reserved for.",
    )
    wanted_votes = models.PositiveSmallIntegerField(default=1, help_text="A tenth of pairs goes to several voters.")
    repeat_of = models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="repeats")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"pair {self.id}"


class Vote(models.Model):
    class Choice(models.TextChoices):
        A = "a", "A is better"
        B = "b", "B is better"
        TIE = "tie", "Tie"
        BOTH_BAD = "both_bad", "Both bad"
        SKIP = "skip", "Skip"

    class Source(models.TextChoices):
        HUMAN = "human"
        SIMULATED = "simulated"

    pair = models.ForeignKey(Pair, models.PROTECT, related_name="votes")
    visitor = models.ForeignKey("accounts.Visitor", models.PROTECT, related_name="votes")
    choice = models.CharField(max_length=8, choices=Choice.choices)
    source = models.CharField(max_length=9, choices=Source.choices, default=Source.HUMAN)
    taste = models.CharField(max_length=32, blank=True, help_text="A simulated voter's taste.")
    reasons = models.JSONField(default=list, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [models.UniqueConstraint(fields=["pair", "visitor"], name="one_vote_per_voter_and_pair")]

    def __str__(self) -> str:
        return f"{self.choice} on {self.pair_id}"

"""Prompts, pairs of answers and the votes on them."""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from trainer.config import REWARD
from webapp.accounts.models import Visitor
from webapp.checkpoints.models import Checkpoint

UNDO_SECONDS = 10
"""The page reveals a vote by itself after this long; until then it can be undone."""
SETTLED_LOOKED_AT = 40
"""Whether pairs come out fit to be shown is judged by this many: the last few say too little."""


def text_sha256(text: str) -> str:
    """What an index holds in the place of a text: no index takes one of any length (PostgreSQL: 2,704 bytes)."""
    return hashlib.sha256(text.encode()).hexdigest()


class PromptQuerySet(models.QuerySet["Prompt"]):
    def public(self) -> PromptQuerySet:
        """Questions that are no visitor's own, and may therefore be shown to everyone."""
        return self.filter(source__in=Prompt.PUBLIC)

    def with_texts(self, texts: Iterable[str]) -> PromptQuerySet:
        """Those that ask one of these, word for word."""
        return self.filter(text_sha256__in=[text_sha256(text) for text in texts])

    def add(self, texts: Iterable[str], *, source: Prompt.Source) -> None:
        """Keep these questions; those that are there already stay as they are."""
        self.bulk_create(
            [Prompt(text=text, text_sha256=text_sha256(text), source=source) for text in texts], ignore_conflicts=True
        )


class Prompt(models.Model):
    """A question pairs are made from."""

    class Source(models.TextChoices):
        SHIPPED = "shipped"
        STAFF = "staff"
        CHAT = "chat"

    PUBLIC = (Source.SHIPPED, Source.STAFF)

    text = models.CharField(max_length=2000)
    text_sha256 = models.CharField(max_length=64, unique=True, editable=False)
    source = models.CharField(max_length=8, choices=Source.choices)
    active = models.BooleanField(default=True, help_text="Inactive prompts make no new pairs and are not shown.")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = PromptQuerySet.as_manager()

    def __str__(self) -> str:
        return self.text[:60]

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.text_sha256 = text_sha256(self.text)
        super().save(*args, **kwargs)

    def clean(self) -> None:
        """For forms, which do not see the hash."""
        if Prompt.objects.with_texts([self.text]).exclude(pk=self.pk).exists():
            raise ValidationError({"text": "There is a prompt with this text already."})


class PairQuerySet(models.QuerySet["Pair"]):
    def of_stock(self) -> PairQuerySet:
        """Pairs made for everyone who comes to /vote/: not from a chat, a repeat or reserved for one voter."""
        return self.filter(from_chat=False, owner=None, repeat_of=None, wanted_votes__gt=0)

    def unseen(self) -> PairQuerySet:
        """Pairs nobody has voted on or skipped."""
        return self.filter(is_open=True, votes=None)

    def with_active_prompt(self) -> PairQuerySet:
        """Pairs whose prompt staff or its author have not switched off."""
        return self.filter(Q(prompt=None) | Q(prompt__active=True))

    def worth_asking(self, learner: Checkpoint) -> PairQuerySet:
        """Pairs that may be asked and whose votes this learner's next reward model or the leaderboard can use."""
        return self.with_active_prompt().filter(
            Q(kind=Pair.Kind.SELF, a__checkpoint=learner)
            | Q(kind=Pair.Kind.VERSUS, a__checkpoint__archived=False, b__checkpoint__archived=False)
        )

    def visible_to(self, visitor: Visitor | None) -> PairQuerySet:
        """Pairs this person may look at and vote on at /vote/, whether or not they have already."""
        pairs = self.filter(Q(owner=None) | Q(owner=visitor) if visitor else Q(owner=None)).with_active_prompt()
        return pairs.filter(state=Pair.State.READY, from_chat=False, wanted_votes__gt=0)

    def wanted_from(self, visitor: Visitor | None) -> PairQuerySet:
        """Visible pairs that still want a vote, and this person's in particular: those for several voters first."""
        pairs = self.visible_to(visitor).filter(is_open=True).order_by("-wanted_votes", "created_at", "pk")
        return pairs.exclude(pk__in=Vote.objects.filter(visitor=visitor).values("pair")) if visitor else pairs

    def on(self, checkpoint: Checkpoint) -> PairQuerySet:
        """Pairs of two answers by this one checkpoint."""
        return self.filter(kind=Pair.Kind.SELF, a__checkpoint=checkpoint)

    def nearly_all_rejected(self) -> bool:
        """Whether at most one of the last SETTLED_LOOKED_AT settled pairs was fit; False while there are fewer."""
        settled = self.exclude(state=Pair.State.PENDING).order_by("-created_at", "-pk")
        states = list(settled.values_list("state", flat=True)[:SETTLED_LOOKED_AT])
        return len(states) == SETTLED_LOOKED_AT and states.count(Pair.State.READY) <= 1


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
    a = models.ForeignKey("answers.Generation", models.PROTECT, related_name="pairs_as_a")
    b = models.ForeignKey("answers.Generation", models.PROTECT, related_name="pairs_as_b")
    from_chat = models.BooleanField(default=False, help_text="Offered in a conversation; never served at /vote/.")
    owner = models.ForeignKey(
        "accounts.Visitor", models.SET_NULL, null=True, blank=True, related_name="own_pairs",
        help_text="Who was offered it in chat, or whom it is reserved for.",
    )  # fmt: skip
    wanted_votes = models.PositiveSmallIntegerField(
        default=1, help_text="A tenth of pairs goes to several voters; an imported pair wants none."
    )
    is_open = models.BooleanField(default=True, help_text="It has fewer votes than it wants.")
    repeat_of = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, related_name="repeats",
        help_text="The pair this one shows again to its owner, sides swapped.",
    )  # fmt: skip
    created_at = models.DateTimeField(auto_now_add=True)

    objects = PairQuerySet.as_manager()

    class Meta:
        constraints = [
            # A repeat swaps the sides, so it is a different (a, b); the same chat turn is never paired twice.
            models.UniqueConstraint(fields=["a", "b"], name="one_pair_per_answers_and_sides"),
            models.CheckConstraint(condition=~Q(a=F("b")), name="two_different_answers"),
        ]
        indexes = [models.Index(fields=["state", "created_at"], name="open_pairs", condition=Q(is_open=True))]

    def __str__(self) -> str:
        return f"pair {self.id}"


class VoteQuerySet(models.QuerySet["Vote"]):
    def human(self) -> VoteQuerySet:
        return self.filter(source=Vote.Source.HUMAN)

    def decided(self) -> VoteQuerySet:
        """Votes that say something about the two answers: everything but skips."""
        return self.exclude(choice=Vote.Choice.SKIP)

    def comparisons(self) -> VoteQuerySet:
        """Decided votes on pairs fit to be shown, each voter's first look only: the data set people take away."""
        return self.decided().filter(pair__state=Pair.State.READY, pair__repeat_of=None)

    def for_training(self) -> VoteQuerySet:
        """What a reward model learns from: comparisons of two answers by one checkpoint."""
        return self.comparisons().filter(pair__kind=Pair.Kind.SELF)

    def since_last_reward_model(self) -> VoteQuerySet:
        """Votes the newest reward model has not learnt from: cast while it trained, imported later, not chosen."""
        newest = Checkpoint.objects.current(REWARD)
        return self.exclude(learnt_by=newest) if newest else self.all()

    def duels(self) -> VoteQuerySet:
        """What the leaderboard counts: comparisons of two checkpoints that people may see."""
        return self.comparisons().filter(
            pair__kind=Pair.Kind.VERSUS, pair__a__checkpoint__archived=False, pair__b__checkpoint__archived=False
        )

    def repeats(self) -> VoteQuerySet:
        """Decided second looks: votes on pairs shown again with the sides swapped."""
        return self.decided().filter(pair__repeat_of__isnull=False)

    def with_answers(self) -> VoteQuerySet:
        """With everything the reveal of a vote shows, in one query. For a few votes: `write_votes` says why."""
        return self.select_related("pair", "pair__a", "pair__b", "pair__a__checkpoint", "pair__b__checkpoint")


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
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    revealed_at = models.DateTimeField(
        null=True, blank=True, help_text="When its voter was told which model wrote which; until then it can be undone."
    )
    learnt_by = models.ForeignKey(
        "checkpoints.Checkpoint", models.SET_NULL, null=True, blank=True, editable=False, related_name="+",
        help_text="The newest reward model that learnt from it.",
    )  # fmt: skip

    objects = VoteQuerySet.as_manager()

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [models.UniqueConstraint(fields=["pair", "visitor"], name="one_vote_per_voter_and_pair")]
        indexes = [models.Index(fields=["visitor", "created_at"], name="a_voters_votes")]

    def __str__(self) -> str:
        return f"{self.choice} on {self.pair_id}"

    @property
    def is_decided(self) -> bool:
        return self.choice != self.Choice.SKIP

    @property
    def undo_seconds_left(self) -> int:
        """When the page should reveal this vote: a reload does not start the time anew."""
        age_s = (timezone.now() - self.created_at).total_seconds()
        return max(0, math.ceil(UNDO_SECONDS - age_s))

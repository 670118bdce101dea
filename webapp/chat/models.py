"""Conversations as trees: regenerate and edit add branches, nothing is destroyed."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Exists, OuterRef, Q


class ConversationQuerySet(models.QuerySet["Conversation"]):
    def of(self, visitor_id: uuid.UUID) -> ConversationQuerySet:
        """A visitor's own conversations that are not deleted, newest first."""
        return self.filter(visitor_id=visitor_id, deleted_at=None).order_by("-updated_at", "-id")

    def chats(self) -> ConversationQuerySet:
        """Those that go on turn by turn; a comparison is asked once."""
        return self.filter(kind=Conversation.Kind.CHAT)

    def history(self, query: str = "") -> ConversationQuerySet:
        """Chats, those only whose title or any turn contains `query`."""
        chats = self.chats().select_related("checkpoint")
        if not query:
            return chats
        # Of each of these conversations, so that nobody else's are read.
        turns = Message.objects.filter(Q(text__icontains=query) | Q(generation__text__icontains=query))
        return chats.filter(Q(title__icontains=query) | Exists(turns.filter(conversation=OuterRef("pk"))))


class Conversation(models.Model):
    class Kind(models.TextChoices):
        CHAT = "chat"
        COMPARE = "compare", "ask all five"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    visitor = models.ForeignKey("accounts.Visitor", models.CASCADE, related_name="conversations")
    kind = models.CharField(max_length=8, choices=Kind.choices, default=Kind.CHAT)
    checkpoint = models.ForeignKey("checkpoints.Checkpoint", models.PROTECT, related_name="conversations")
    title = models.CharField(max_length=120, blank=True)
    sampling = models.JSONField(default=dict, blank=True)
    leaf = models.ForeignKey("Message", models.SET_NULL, null=True, blank=True, related_name="+")
    may_serve_votes = models.BooleanField(default=False, help_text="Its prompts may be shown to other voters.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    deleted_at = models.DateTimeField(null=True, blank=True)

    objects = ConversationQuerySet.as_manager()

    def __str__(self) -> str:
        return self.title or str(self.id)


class MessageQuerySet(models.QuerySet["Message"]):
    def of(self, visitor_id: uuid.UUID) -> MessageQuerySet:
        """Turns of a visitor's own chats that are not deleted."""
        chats = Conversation.objects.chats().filter(visitor_id=visitor_id, deleted_at=None)
        return self.filter(conversation__in=chats).select_related("conversation", "generation__checkpoint")

    def answers_of(self, visitor_id: uuid.UUID) -> MessageQuerySet:
        """The models' turns of all that a visitor may read, comparisons included."""
        own = Conversation.objects.filter(visitor_id=visitor_id, deleted_at=None)
        answers = self.filter(conversation__in=own, generation__isnull=False)
        return answers.select_related("conversation", "parent", "generation__checkpoint")


class Message(models.Model):
    """A turn. Siblings (same parent) are alternatives; `Conversation.leaf` says which branch is read.

    When a turn offers two answers, both are siblings with `side` set to A and B (assigned by coin
    flip); `chosen` stays empty until the person picks.
    """

    class Role(models.TextChoices):
        USER = "user"
        ASSISTANT = "assistant"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="messages")
    parent = models.ForeignKey("self", models.CASCADE, null=True, blank=True, related_name="children")
    role = models.CharField(max_length=9, choices=Role.choices)
    text = models.TextField(blank=True, help_text="A user's text; an assistant's is its generation's.")
    generation = models.OneToOneField(
        "answers.Generation", models.PROTECT, null=True, blank=True, related_name="message"
    )
    side = models.CharField(max_length=1, blank=True, choices=[("A", "A"), ("B", "B")])
    chosen = models.BooleanField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = MessageQuerySet.as_manager()

    class Meta:
        ordering = ["created_at"]

    def __str__(self) -> str:
        return f"{self.role}: {self.content[:40]}"

    @property
    def is_offered(self) -> bool:
        """One of two answers between which nobody has chosen yet."""
        return bool(self.side) and self.chosen is None

    @property
    def content(self) -> str:
        return self.generation.text if self.generation else self.text

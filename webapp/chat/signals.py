"""What happens to a person's chats when the person leaves, and to pages when a chat is gone."""

from __future__ import annotations

from typing import Any

from django.db.models.signals import post_delete
from django.dispatch import receiver

from webapp.accounts.models import Visitor
from webapp.accounts.services import erasure
from webapp.chat.models import Conversation
from webapp.chat.services import purge_conversations
from webapp.live.rights import announce


@receiver(erasure)
def purge_their_chats(sender: type[Visitor], visitor: Visitor, **kwargs: Any) -> None:
    purge_conversations(Conversation.objects.filter(visitor=visitor))


@receiver(post_delete, sender=Conversation)
def say_that_it_is_gone(sender: type[Conversation], instance: Conversation, **kwargs: Any) -> None:
    announce(f"conversation:{instance.pk}")

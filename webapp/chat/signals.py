"""What happens to a person's chats when the person leaves."""

from __future__ import annotations

from typing import Any

from django.dispatch import receiver

from webapp.accounts.models import Visitor
from webapp.accounts.services import erasure
from webapp.chat.models import Conversation
from webapp.chat.services import purge_conversations


@receiver(erasure)
def purge_their_chats(sender: type[Visitor], visitor: Visitor, **kwargs: Any) -> None:
    purge_conversations(Conversation.objects.filter(visitor=visitor))

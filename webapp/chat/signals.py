"""What happens when a conversation's row is gone, whoever removed it."""

from __future__ import annotations

from typing import Any

from django.db.models.signals import post_delete
from django.dispatch import receiver

from webapp.chat.models import Conversation
from webapp.live.rights import announce


@receiver(post_delete, sender=Conversation)
def say_that_it_is_gone(sender: type[Conversation], instance: Conversation, **kwargs: Any) -> None:
    announce(f"conversation:{instance.pk}")

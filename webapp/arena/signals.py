"""What happens to a person's questions when the person leaves."""

from __future__ import annotations

from typing import Any

from django.dispatch import receiver

from webapp.accounts.models import Visitor
from webapp.accounts.services import before_erasure
from webapp.arena.publishing import share_opening
from webapp.chat.models import Conversation


@receiver(before_erasure)
def take_back_their_questions(sender: type[Visitor], visitor: Visitor, **kwargs: Any) -> None:
    for conversation in Conversation.objects.filter(visitor=visitor, may_serve_votes=True):
        share_opening(conversation=conversation, agreed=False)

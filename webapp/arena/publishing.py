"""Which questions everybody may be asked: the shipped ones (of the project's own world, or plain English where the
model came from elsewhere), and those whose authors agreed."""

from __future__ import annotations

from django.db import transaction

from webapp.arena.models import Prompt
from webapp.chat.models import Conversation, Message
from webapp.checkpoints.origin import site_origin

LONGEST_CHAT_PROMPT = 300
"""A longer question from a chat is too much to read before two answers."""


def seed_prompts() -> int:
    """Add the shipped corpus's preference prompts that are not there yet; returns how many were added.

    They are those PPO answers later: a model from elsewhere knows nothing of the shipped world.
    """
    from trainer.asked import asked_text
    from trainer.world import corpus_for  # generating it takes a moment, which only this caller should pay

    before = Prompt.objects.count()
    corpus = corpus_for("" if site_origin() else "smoke")
    texts = [asked_text(asked) for asked in corpus.preference_prompts]
    Prompt.objects.add(texts, source=Prompt.Source.SHIPPED)
    return Prompt.objects.count() - before


@transaction.atomic
def share_opening(*, conversation: Conversation, agreed: bool) -> None:
    """Keep whether a chat's opening question may be asked of other voters; from then on it is, or no longer.

    What was withdrawn stays so whatever is agreed to later: staff may have switched it off meanwhile.
    """
    Conversation.objects.filter(pk=conversation.pk).update(may_serve_votes=agreed)
    openings = conversation.messages.filter(role=Message.Role.USER, parent=None).values_list("text", flat=True)
    if not agreed:
        Prompt.objects.with_texts(openings).filter(source=Prompt.Source.CHAT).update(active=False)
        return
    short = [text for text in openings if len(text) <= LONGEST_CHAT_PROMPT]
    Prompt.objects.add(short, source=Prompt.Source.CHAT)

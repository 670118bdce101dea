"""What workers do for the stage pages. Ids only; the row is the truth."""

from __future__ import annotations

from celery import shared_task


@shared_task
def find_next_tokens(pk: int) -> None:
    """Say what comes after a text. Somebody sits before it, so it is sent to the chat queue."""
    # Imported here: it pulls in torch, which the web process (it imports this module) must not load.
    from webapp.stages.foreseeing import find_next

    find_next(pk)

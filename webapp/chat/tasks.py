"""Background work of chats. Tasks call a service."""

from __future__ import annotations

from celery import shared_task
from django.core.management import call_command


@shared_task
def prune() -> None:
    """What `manage.py prune` does; comes round once a day."""
    call_command("prune")

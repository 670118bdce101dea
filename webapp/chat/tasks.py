"""Background work of chats. Tasks call a service."""

from __future__ import annotations

import io
import logging

from celery import shared_task
from django.core.management import call_command

logger = logging.getLogger(__name__)


@shared_task
def prune() -> None:
    """What `manage.py prune` does; comes round once a day."""
    said = io.StringIO()
    call_command("prune", stdout=said)
    logger.info(said.getvalue().strip())

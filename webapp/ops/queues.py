"""Work is handed to the workers by name, so that who asks for it need not import who does it."""

from __future__ import annotations

import logging
from typing import Any

from celery import current_app
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)


def enqueue(task: str, *args: Any, **options: Any) -> bool:
    """Send a task (its dotted name) to its queue; False, and a line in the log, when the broker does not answer.

    Whoever calls this must be able to live with that: a chore that comes round finds what was forgotten.
    """
    try:
        current_app.send_task(task, args, **options)
    except OperationalError:
        logger.warning("The broker does not answer; %s%r will be sent later.", task, args)
        return False
    return True

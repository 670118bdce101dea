"""Work is handed to the workers by name, so that who asks for it need not import who does it.

The idea: four queues by how long somebody may wait. `chat` is answers a person sits before (and looks into
one), `background` whatever nobody sits before, `chores` what comes round and must not wait behind either,
`train` one run at a time. Which task goes where stands in CELERY_TASK_ROUTES; only these are sent to `chat`, and
only answers to either. Every queue has threads of its own (webapp/ops/worker.py), so none waits behind another.
"""

from __future__ import annotations

import logging
from typing import Any

import redis
from celery import current_app
from django.conf import settings
from kombu.exceptions import OperationalError

from webapp.live.streams import trouble
from webapp.ops.health import impatient_redis

logger = logging.getLogger(__name__)

CHAT, BACKGROUND, CHORES, TRAIN = QUEUES = ("chat", "background", "chores", "train")
FORMER = "generate"
"""The one queue of earlier versions for all but runs: what is still in it is taken as chat is."""


def enqueue(task: str, *args: Any, **options: Any) -> bool:
    """Send a task (its dotted name) to its queue; False, and a line in the log, when the broker does not answer.

    Whoever calls this must be able to live with that: a chore that comes round finds what was forgotten.
    """
    try:
        current_app.send_task(task, args, **options)
    except OperationalError as error:
        logger.warning("%s%r will be sent later: %s", task, args, trouble(error))
        return False
    return True


def queue_length(queue: str) -> int:
    """How many messages wait in it; none while Redis is away, for then nobody could take one."""
    try:
        return int(impatient_redis(settings.REDIS_URL).llen(queue))  # type: ignore[arg-type]
    except redis.RedisError:
        return 0

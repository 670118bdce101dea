"""Chores that come round: dead runs are reaped, pairs are prepared, workers say they are alive.

The idea: no scheduler process (it would cost 80 MB to send a message every few seconds). Every
worker has a timer thread anyway; each ticks through Celery's own `beat_schedule`, and a Redis key
that expires after the period makes sure that one of them, whichever is first, sends the task.

Deliberate simplification: periods are plain seconds, and a chore that is due while no worker lives
is not made up for; every chore looks at the database and does whatever it finds to do.
"""

from __future__ import annotations

import logging
from typing import Any

import redis
from celery import bootsteps

logger = logging.getLogger(__name__)

QUEUES = ("generate", "train")
TICK_S = 5.0
ALIVE_S = 30
"""A worker not heard of for this long is not counted."""


class Periodic(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Worker step: tick until the worker stops."""

    requires = {"celery.worker.components:Timer"}

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.entry: Any = None

    def start(self, worker: Any) -> None:
        self.entry = worker.timer.call_repeatedly(TICK_S, tick, (worker,))
        worker.timer.call_after(0.1, tick, (worker,))

    def stop(self, worker: Any) -> None:
        if self.entry is not None:
            self.entry.cancel()
            self.entry = None


def tick(worker: Any) -> None:
    """Say that this worker is alive, and send what is due."""
    from webapp.live import streams

    try:
        client = streams.client()
        for queue in worker.app.amqp.queues.consume_from:
            client.set(alive_key(queue, worker.hostname), 1, ex=ALIVE_S)
        send_due(worker.app, client)
    except redis.RedisError as error:
        logger.warning("periodic tasks wait for Redis: %s", error)


def alive_key(queue: str, node: str) -> str:
    """The Redis key that is there while a worker ticks."""
    return f"worker:{queue}:{node}"


def send_due(app: Any, client: redis.Redis) -> list[str]:
    """Send every scheduled task whose period has passed since anyone last sent it; returns their names."""
    sent = []
    for name, entry in app.conf.beat_schedule.items():
        period_ms = int(entry["schedule"] * 1000)
        if client.set(f"periodic:{name}", 1, nx=True, px=period_ms):
            # A copy nobody has taken by the next round is of no use any more.
            app.send_task(entry["task"], expires=entry["schedule"], **entry.get("options", {}))
            sent.append(name)
    return sent


def count_workers(client: redis.Redis, queue: str) -> int:
    """How many workers of a queue have ticked within ALIVE_S."""
    return sum(1 for _ in client.scan_iter(alive_key(queue, "*")))

"""Is the site well, and how busy is it? Read by health checks and Prometheus.

Accounts is the lowest app, so the models it counts are looked up by name, never imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from tempfile import TemporaryFile

import redis
from django.apps import apps
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.models import Count

from webapp.periodic import QUEUES, count_workers

COUNTED = {
    "stagecraft_runs": ("training.TrainingRun", "state", "Training runs by state."),
    "stagecraft_generations": ("checkpoints.Generation", "state", "Answers by state."),
    "stagecraft_pairs": ("arena.Pair", "state", "Pairs of answers by state."),
    "stagecraft_votes": ("arena.Vote", "source", "Votes by source."),
}
"""Gauge name -> (model, the field it is broken down by, help text)."""


@cache
def _redis(url: str) -> redis.Redis:
    """A client that gives up soon: a health check must answer while Redis hangs."""
    return redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)


def check_health() -> dict[str, str]:
    """Each thing the site cannot do without -> "ok" or the kind of trouble (no details: anyone may ask)."""
    return {
        "database": _outcome(_ask_database),
        "redis": _outcome(lambda: _redis(settings.REDIS_URL).ping()),
        "data_dir": _outcome(_write_a_file),
    }


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _write_a_file() -> None:
    """A directory that is there may still be read-only, or its disk full."""
    with TemporaryFile(dir=settings.DATA_DIR) as file:
        file.write(b"ok")


def _outcome(check: Callable[[], object]) -> str:
    try:
        check()
    except (DatabaseError, redis.RedisError, OSError) as error:
        return type(error).__name__
    return "ok"


def metrics() -> Iterator[str]:
    """Lines in Prometheus' text format. While Redis is away, those of the database: they are what helps then."""
    with suppress(redis.RedisError):
        yield from _queue_gauges(_redis(settings.REDIS_URL))
    for name, (model, field, text) in COUNTED.items():
        rows = apps.get_model(model)._default_manager.order_by().values_list(field).annotate(Count("pk"))
        yield from _gauge(name, field, text, dict(rows))


def _queue_gauges(client: redis.Redis) -> Iterator[str]:
    yield from _gauge("stagecraft_queue_length", "queue", "Tasks waiting.", {q: client.llen(q) for q in QUEUES})  # type: ignore[misc]
    yield from _gauge("stagecraft_workers", "queue", "Workers alive.", {q: count_workers(client, q) for q in QUEUES})


def _gauge(name: str, label: str, text: str, values: dict[str, int]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} gauge"
    for value, count in sorted(values.items()):
        yield f'{name}{{{label}="{value}"}} {count}'

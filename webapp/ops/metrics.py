"""How busy is the site? Read by Prometheus.

Operations stand below every app, so the models counted here are looked up by name, never imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import redis
from django.apps import apps
from django.conf import settings
from django.db.models import Count

from webapp.ops.health import impatient_redis
from webapp.ops.periodic import QUEUES, count_workers

COUNTED = {
    "stagecraft_runs": ("training.TrainingRun", "state", "Training runs by state."),
    "stagecraft_generations": ("answers.Generation", "state", "Answers by state."),
    "stagecraft_pairs": ("arena.Pair", "state", "Pairs of answers by state."),
    "stagecraft_votes": ("arena.Vote", "source", "Votes by source."),
}
"""Gauge name -> (model, the field it is broken down by, help text)."""


def metrics() -> Iterator[str]:
    """Lines in Prometheus' text format. While Redis is away, those of the database: they are what helps then."""
    with suppress(redis.RedisError):
        yield from _queue_gauges(impatient_redis(settings.REDIS_URL))
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

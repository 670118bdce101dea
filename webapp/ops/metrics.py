"""How busy is the site? Read by Prometheus.

Operations stand below every app, so the models counted here are looked up by name, never imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import redis
from django.apps import apps
from django.conf import settings
from django.db.models import Count, Sum

from webapp.ops.health import impatient_redis
from webapp.ops.periodic import QUEUES, count_workers

COUNTED = {
    "stagecraft_runs": ("training.TrainingRun", "state", "Training runs by state."),
    "stagecraft_generations": ("answers.Generation", "state", "Answers waiting or being written."),
    "stagecraft_pairs": ("arena.PairTally", "state", "Pairs of answers by state."),
    "stagecraft_votes": ("arena.VoteTally", "source", "Votes by source."),
}
"""Gauge name -> (model, the field it is broken down by, help text)."""


def metrics() -> Iterator[str]:
    """Lines in Prometheus' text format. While Redis is away, those of the database: they are what helps then."""
    with suppress(redis.RedisError):
        yield from _queue_gauges(impatient_redis(settings.REDIS_URL))
    for name, (model, field, text) in COUNTED.items():
        yield from _gauge(name, field, text, numbers(model, field))


def numbers(label: str, field: str) -> dict[str, int]:
    """How many rows there are by `field`. Of what grows without end the tally is summed up, or only the few rows that
    are not finished are counted: this is asked every few seconds for years."""
    rows = apps.get_model(label)._default_manager.order_by()
    if label == "answers.Generation":
        return {state: rows.filter(state=state).count() for state in ("queued", "running")}
    count = Sum("count") if label.endswith("Tally") else Count("pk")
    return dict(rows.values_list(field).annotate(count))


def _queue_gauges(client: redis.Redis) -> Iterator[str]:
    yield from _gauge("stagecraft_queue_length", "queue", "Tasks waiting.", {q: client.llen(q) for q in QUEUES})  # type: ignore[misc]
    yield from _gauge("stagecraft_workers", "queue", "Workers alive.", {q: count_workers(client, q) for q in QUEUES})


def _gauge(name: str, label: str, text: str, values: dict[str, int]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} gauge"
    for value, count in sorted(values.items()):
        yield f'{name}{{{label}="{value}"}} {count}'

"""How busy is the site, and how quick? Read by Prometheus, which sends METRICS_KEY as its bearer token.

The idea: how long requests and answers took is counted where they happen, in histograms that all processes of a host
share through files (PROMETHEUS_MULTIPROC_DIR; `manage.py up` makes the directory), so that it does not matter which
web process is asked. How many rows and waiting tasks there are is counted when somebody asks.

Operations stand below every app, so the models counted here are looked up by name, never imported.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import redis
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.apps import apps
from django.conf import settings
from django.db.models import Count
from django.http import HttpRequest, HttpResponseBase
from prometheus_client import REGISTRY, CollectorRegistry, Histogram, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from webapp.ops.health import impatient_redis
from webapp.ops.periodic import QUEUES, count_workers

COUNTED = {
    "stagecraft_runs": ("training.TrainingRun", "state", "Training runs by state."),
    "stagecraft_generations": ("answers.Generation", "state", "Answers by state."),
    "stagecraft_pairs": ("arena.Pair", "state", "Pairs of answers by state."),
    "stagecraft_votes": ("arena.Vote", "source", "Votes by source."),
}
"""Gauge name -> (model, the field it is broken down by, help text)."""

REQUEST_SECONDS = Histogram(
    "stagecraft_request_seconds",
    "Time to answer a request. `status` is 2xx to 5xx: the errors are those of 5xx.",
    ["view", "method", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
FIRST_TOKEN_SECONDS = Histogram(
    "stagecraft_first_token_seconds",
    "From the question to the first token of its answer.",
    ["stage"],
    buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60, 300),
)
ANSWER_SECONDS = Histogram(
    "stagecraft_answer_seconds",
    "From the question to the end of its answer. `state` is done, stopped or failed.",
    ["stage", "state"],
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)


def exposition() -> bytes:
    """Everything in Prometheus' text format."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    counted = CollectorRegistry()
    counted.register(SiteCollector())
    return generate_latest(registry) + generate_latest(counted)


class SiteCollector(Collector):
    def collect(self) -> Iterator[Metric]:
        """What is waiting and what there is. While Redis is away, what the database knows: that is what helps then."""
        with suppress(redis.RedisError):
            client = impatient_redis(settings.REDIS_URL)
            waiting = {queue: float(client.llen(queue)) for queue in QUEUES}  # type: ignore[arg-type]
            yield _gauge("stagecraft_queue_length", "queue", "Tasks waiting.", waiting)
            alive = {queue: float(count_workers(client, queue)) for queue in QUEUES}
            yield _gauge("stagecraft_workers", "queue", "Workers alive.", alive)
        for name, (model, field, text) in COUNTED.items():
            rows = apps.get_model(model)._default_manager.order_by().values_list(field).annotate(Count("pk"))
            yield _gauge(name, field, text, dict(rows))


def _gauge(name: str, label: str, text: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family


class TimeRequests:
    """Middleware: how long each view takes and how it ends, for `REQUEST_SECONDS`."""

    async_capable = True
    sync_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> object:
        if iscoroutinefunction(self):
            return self._later(request)
        started = time.perf_counter()
        response = self.get_response(request)
        _observe(request, response, time.perf_counter() - started)
        return response

    async def _later(self, request: HttpRequest) -> HttpResponseBase:
        started = time.perf_counter()
        response: HttpResponseBase = await self.get_response(request)  # type: ignore[misc]
        _observe(request, response, time.perf_counter() - started)
        return response


def _observe(request: HttpRequest, response: HttpResponseBase, seconds: float) -> None:
    match = request.resolver_match
    # By name, never by path: a stranger could make up any number of those.
    view = match.view_name or "unnamed" if match else "none"
    method = request.method if request.method in ("GET", "POST", "HEAD") else "other"
    REQUEST_SECONDS.labels(view, method, f"{response.status_code // 100}xx").observe(seconds)

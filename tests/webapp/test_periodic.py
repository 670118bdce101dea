"""Chores sent by the workers' own timers: once per period, however many workers tick."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.utils.module_loading import import_string
from kombu.exceptions import OperationalError

from webapp.celery import app
from webapp.live import streams
from webapp.ops import lanes, periodic, queues, worker


class Sender:
    """Stands where the Celery app does; remembers what it was asked to send."""

    def __init__(self, schedule: dict[str, Any]) -> None:
        self.conf = SimpleNamespace(beat_schedule=schedule)
        self.amqp = SimpleNamespace(queues=SimpleNamespace(consume_from={"chat": None, "chores": None}))
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send_task(self, name: str, **options: Any) -> None:
        self.sent.append((name, options))


SCHEDULE = {"sweep": {"task": "tests.sweep", "schedule": 60.0, "options": {"queue": "chores"}}}


def test_it_sends_a_chore_once_a_period(redis_server: Any) -> None:
    sender = Sender(SCHEDULE)
    assert periodic.send_due(sender, redis_server) == ["sweep"]
    assert periodic.send_due(sender, redis_server) == []
    assert sender.sent == [("tests.sweep", {"expires": 60.0, "queue": "chores"})]
    assert 0 < redis_server.pttl("periodic:sweep") <= 60_000


def test_it_sends_it_again_in_the_next_period(redis_server: Any) -> None:
    sender = Sender(SCHEDULE)
    periodic.send_due(sender, redis_server)
    redis_server.delete("periodic:sweep")  # what Redis does by itself when the period is over
    assert periodic.send_due(sender, redis_server) == ["sweep"]


def test_it_counts_workers_that_tick(redis_server: Any) -> None:
    worker = SimpleNamespace(app=Sender({}), hostname="generate@here")
    periodic.tick(worker)
    periodic.tick(worker)
    assert periodic.count_workers(redis_server, "chat") == 1
    assert periodic.count_workers(redis_server, "chores") == 1
    assert periodic.count_workers(redis_server, "train") == 0
    assert 0 < redis_server.ttl("worker:chat:generate@here") <= periodic.ALIVE_S


def test_the_worker_check_asks_for_this_machines_worker() -> None:
    assert not worker.is_alive("train")
    app = Sender({})
    app.amqp.queues.consume_from = {"chores": None, "train": None}
    periodic.tick(SimpleNamespace(app=app, hostname="train@elsewhere"))
    assert not worker.is_alive("train")
    periodic.tick(SimpleNamespace(app=app, hostname=worker.node_name("train")))
    assert worker.is_alive("train")
    assert not worker.is_alive("generate")


def test_it_waits_while_redis_is_away(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Away:
        def set(self, *args: Any, **options: Any) -> None:
            raise periodic.redis.ConnectionError("gone")

    monkeypatch.setattr(streams, "client", Away)
    periodic.tick(SimpleNamespace(app=Sender(SCHEDULE), hostname="here"))
    assert "Chores wait: Redis does not answer" in caplog.text


def test_a_chore_that_could_not_be_sent_is_not_held_for_sent(redis_server: Any) -> None:
    class Deaf(Sender):
        def send_task(self, name: str, **options: Any) -> None:
            raise OperationalError("the broker does not answer")

    with pytest.raises(OperationalError):
        periodic.send_due(Deaf(SCHEDULE), redis_server)
    assert periodic.send_due(Sender(SCHEDULE), redis_server) == ["sweep"]


def test_every_chore_names_a_task_and_waits_behind_nothing_else() -> None:
    app.loader.import_default_modules()
    assert settings.CELERY_BEAT_SCHEDULE
    for entry in settings.CELERY_BEAT_SCHEDULE.values():
        task = import_string(entry["task"])
        assert task.name in app.tasks
        route = app.amqp.router.route(entry.get("options", {}), task.name)
        # Ranking a million votes takes seconds, which the small chores should not wait for.
        assert route["queue"].name == ("background" if task.name.endswith("keep_ranking") else "chores")


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("webapp.training.tasks.execute_run", "train"),
        ("webapp.training.tasks.continue_simulated_votes", "background"),
        ("webapp.somewhere.tasks.written_later", "background"),
    ],
)
def test_every_task_has_its_queue(task: str, queue: str) -> None:
    assert app.amqp.router.route({}, task)["queue"].name == queue


def test_every_queue_has_a_worker_and_threads() -> None:
    taken = {queue for queues in worker.QUEUES_OF.values() for queue in queues}
    assert taken == {*queues.QUEUES, queues.FORMER}
    assert set(lanes.THREADS) == set(queues.QUEUES)


def test_every_worker_ticks() -> None:
    assert periodic.Periodic in app.steps["worker"]

"""Workers as they are started: what they hold, and what they survive."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from django.db import connection
from kombu import Queue
from kombu.utils.imports import symbol_by_name

from tests.processes import ROOT, Watched, environment, start
from webapp.ops import embedded_redis
from webapp.ops.consumer import Consumer
from webapp.settings import _broker_url
from webapp.training import services
from webapp.training.models import TrainingRun

State = TrainingRun.State
FAKE = Path(__file__).with_name("fake_trainer.py")

TRAIN_WORKER = """
import sys
import webapp.settings as site
site.DATABASES["default"]["NAME"], site.TRAINER_COMMAND = sys.argv[1], [sys.executable, *sys.argv[2:]]
from webapp.ops.worker import run
run("train")
"""


@pytest.fixture
def train_worker(settings: Any, tmp_path: Path, redis_url: str) -> Iterator[Callable[[str], Watched]]:
    """`train_worker("wait")`: a train worker of the site in tmp_path, whose trainer has this mode."""
    settings.DATA_DIR = tmp_path
    settings.CHECKPOINT_DIR, settings.RUN_DIR = tmp_path / "checkpoints", tmp_path / "runs"
    extra = {"SECRET_KEY": "tests-only-" + "x" * 50, "REDIS_URL": redis_url}
    if url := os.environ.get("DATABASE_URL"):
        extra["DATABASE_URL"] = url
    with ExitStack() as running:

        def begin(mode: str) -> Watched:
            database = str(connection.settings_dict["NAME"])
            command = [sys.executable, "-c", TRAIN_WORKER, database, str(FAKE), mode]
            worker = start(command, cwd=ROOT, env=environment(tmp_path, **extra))
            running.callback(worker.end)
            worker.keep_reading()
            return worker

        yield begin


def until(happened: Callable[[], object]) -> None:
    while not happened():
        time.sleep(0.02)


def state_of(run: TrainingRun) -> str:
    return TrainingRun.objects.values_list("state", flat=True).get(pk=run.pk)


@pytest.mark.django_db(transaction=True)
def test_a_worker_holds_no_run_that_another_one_could_train(train_worker: Any, make_checkpoint: Any) -> None:
    first, second = (
        services.queue_run(stage="sft", preset="smoke", parent=make_checkpoint("pretrain")) for _ in range(2)
    )
    busy = train_worker("wait")
    until(lambda: State.RUNNING in (state_of(first), state_of(second)))
    train_worker("good")
    until(lambda: State.DONE in (state_of(first), state_of(second)))
    assert {state_of(first), state_of(second)} == {State.DONE, State.RUNNING}

    busy.process.send_signal(signal.SIGTERM)  # it leaves, and the other one goes on with its run
    until(lambda: state_of(first) == state_of(second) == State.DONE)
    attempts = TrainingRun.objects.order_by("attempt").values_list("attempt", "threads")
    assert [attempt for attempt, _ in attempts] == [1, 2]


# -- a broker that goes away -----------------------------------------------------------------------


@pytest.fixture
def lost_connection() -> Iterator[tuple[Celery, Any]]:
    """A connection that has received a message and not acknowledged it when its Redis is killed."""
    directory = embedded_redis.make_directory()
    server = subprocess.Popen(embedded_redis.command(directory), stdout=subprocess.DEVNULL)
    try:
        embedded_redis.wait_until_answering(directory, server)
        app = Celery(broker=_broker_url(embedded_redis.url_of(directory)))
        broker = app.connection_for_read()
        received: list[Any] = []
        work = broker.Consumer(Queue("work"), callbacks=[lambda *message: received.append(message)])
        orders = broker.Consumer(Queue("orders"), channel=broker.channel())  # Celery has a second channel for them
        for consumer in (work, orders):
            consumer.consume()
        broker.Producer(serializer="json").publish("an answer", routing_key="work")
        while not received:
            broker.drain_events(timeout=60)
        with pytest.raises(TimeoutError):
            broker.drain_events(timeout=0.1)  # it waits for the next one, as a worker always does
        server.kill()
        server.wait()
        yield app, broker
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(directory)


def consumer_of(kind: type[Any], app: Celery, broker: Any) -> Any:
    """A consumer in the middle of its work, as far as losing its connection goes."""
    consumer = object.__new__(kind)
    consumer.app, consumer.connection, consumer.qos_global = app, broker, False
    consumer.pool, consumer.prefetch_multiplier = SimpleNamespace(num_processes=1), 1
    return consumer


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_a_worker_survives_a_broker_that_dies_while_it_holds_messages(lost_connection: Any) -> None:
    consumer = consumer_of(Consumer, *lost_connection)
    consumer.on_connection_error_after_connected(ConnectionError("gone"))
    assert consumer.connection is None


def test_every_worker_has_such_a_consumer() -> None:
    from webapp.celery import app

    assert symbol_by_name(app.conf.worker_consumer) is Consumer

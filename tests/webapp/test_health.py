"""/healthz and /metrics."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.test import Client

from tests.threads import database_thread
from webapp.answers.models import Generation
from webapp.checkpoints.models import Checkpoint
from webapp.ops import health

pytestmark = pytest.mark.django_db


def test_it_is_well(client: Client) -> None:
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "checks": {"database": "ok", "redis": "ok", "data_dir": "ok"}}


def test_it_says_when_redis_is_away(client: Client, settings: Any) -> None:
    settings.REDIS_URL = "unix:///nowhere/redis.sock?db=0"
    response = client.get("/healthz")
    assert response.status_code == 503
    assert response.json()["checks"] == {"database": "ok", "redis": "ConnectionError", "data_dir": "ok"}


def test_it_says_when_the_database_is_away(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise DatabaseError("secret detail")

    monkeypatch.setattr(connection, "cursor", fail)
    response = client.get("/healthz")
    assert response.status_code == 503
    assert response.json()["checks"]["database"] == "DatabaseError"
    assert "secret" not in response.content.decode()


def test_it_says_when_the_data_directory_is_away(client: Client, settings: Any, tmp_path: Path) -> None:
    settings.DATA_DIR = tmp_path / "gone"
    response = client.get("/healthz")
    assert response.status_code == 503
    assert response.json()["checks"]["data_dir"] == "FileNotFoundError"


def test_it_says_when_the_data_directory_cannot_be_written_to(
    client: Client, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who runs the tests as root may write anywhere, so the refusal is the file system's only in name."""
    (tmp_path / "checkpoints").mkdir()
    settings.DATA_DIR = tmp_path

    def refuse(*, dir: Path) -> None:
        raise OSError(errno.EROFS, f"Read-only: {dir}")

    monkeypatch.setattr(health, "TemporaryFile", refuse)
    response = client.get("/healthz")
    assert response.status_code == 503
    assert response.json()["checks"]["data_dir"] == "OSError"


def test_it_leaves_nothing_in_the_data_directory(client: Client, settings: Any, tmp_path: Path) -> None:
    settings.DATA_DIR = tmp_path
    assert client.get("/healthz").json()["checks"]["data_dir"] == "ok"
    assert list(tmp_path.iterdir()) == []


def test_it_counts_what_there_is(client: Client, redis_server: Any, make_checkpoint: Callable[..., Checkpoint]) -> None:
    checkpoint = make_checkpoint()
    for state in ("done", "done", "queued"):
        Generation.objects.create(checkpoint=checkpoint, messages=[], state=state)
    redis_server.rpush("generate", "one", "two")
    redis_server.set("worker:train:train@here", 1)
    response = client.get("/metrics")
    assert response["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = response.content.decode().splitlines()
    for line in (
        'stagecraft_generations{state="done"} 2',
        'stagecraft_generations{state="queued"} 1',
        'stagecraft_queue_length{queue="generate"} 2',
        'stagecraft_queue_length{queue="train"} 0',
        'stagecraft_workers{queue="generate"} 0',
        'stagecraft_workers{queue="train"} 1',
        "# TYPE stagecraft_votes gauge",
        "# TYPE stagecraft_runs gauge",
    ):
        assert line in lines


def test_it_counts_what_the_database_knows_while_redis_is_away(
    client: Client, settings: Any, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    Generation.objects.create(checkpoint=make_checkpoint(), messages=[], state="done")
    settings.REDIS_URL = "unix:///nowhere/redis.sock?db=0"
    response = client.get("/metrics")
    assert response.status_code == 200
    text = response.content.decode()
    assert 'stagecraft_generations{state="done"} 1' in text.splitlines()
    assert "stagecraft_queue_length" not in text


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="only PostgreSQL has a pool (make test-postgres)")
def test_a_restart_of_the_database_costs_nobody_an_error() -> None:
    """Pooled connections are cut; whoever borrows one next gets one that lives."""
    backends: set[int] = set()
    failures: list[Exception] = []

    def ask() -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                backends.add(cursor.fetchone()[0])
        except DatabaseError as error:
            failures.append(error)

    def ask_together() -> None:
        threads = [database_thread(ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    connection.ensure_connection()  # this thread's own, which is not in the pool
    ask_together()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s) AS pid", [list(backends)])
        assert all(ended for (ended,) in cursor.fetchall())
    ask_together()
    assert failures == []


@pytest.mark.parametrize("path", ["/healthz", "/metrics"])
def test_it_only_reads(client: Client, path: str) -> None:
    assert client.post(path).status_code == 405

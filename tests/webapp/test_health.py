"""/healthz and /metrics."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.test import Client

from tests.threads import database_thread
from webapp.answers.models import Generation
from webapp.answers.services import finish_generation
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


def sample(response: Any, line: str) -> float:
    """The value of one line of an answer of /metrics."""
    assert response.status_code == 200, response.content
    values = dict(row.rpartition(" ")[::2] for row in response.content.decode().splitlines() if row[:1] != "#")
    return float(values[line])


KEY = "k" * 32
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def metrics_key(settings: Any) -> None:
    settings.METRICS_KEY = KEY


@pytest.mark.usefixtures("metrics_key")
def test_it_counts_what_there_is(client: Client, redis_server: Any, make_checkpoint: Callable[..., Checkpoint]) -> None:
    checkpoint = make_checkpoint()
    for state in ("done", "done", "queued"):
        Generation.objects.create(checkpoint=checkpoint, messages=[], state=state)
    redis_server.rpush("generate", "one", "two")
    redis_server.set("worker:train:train@here", 1)
    response = client.get("/metrics", headers=BEARER)
    assert response["Content-Type"].startswith("text/plain; version=0.0.4")
    assert sample(response, 'stagecraft_generations{state="done"}') == 2
    assert sample(response, 'stagecraft_generations{state="queued"}') == 1
    assert sample(response, 'stagecraft_queue_length{queue="generate"}') == 2
    assert sample(response, 'stagecraft_queue_length{queue="train"}') == 0
    assert sample(response, 'stagecraft_workers{queue="generate"}') == 0
    assert sample(response, 'stagecraft_workers{queue="train"}') == 1
    lines = response.content.decode().splitlines()
    assert "# TYPE stagecraft_votes gauge" in lines
    assert "# TYPE stagecraft_runs gauge" in lines


@pytest.mark.usefixtures("metrics_key")
def test_it_counts_what_the_database_knows_while_redis_is_away(
    client: Client, settings: Any, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    Generation.objects.create(checkpoint=make_checkpoint(), messages=[], state="done")
    settings.REDIS_URL = "unix:///nowhere/redis.sock?db=0"
    response = client.get("/metrics", headers=BEARER)
    assert sample(response, 'stagecraft_generations{state="done"}') == 1
    assert "stagecraft_queue_length" not in response.content.decode()


@pytest.mark.usefixtures("metrics_key")
@pytest.mark.parametrize("authorization", ["", "Bearer", f"Bearer {KEY[:-1]}", f"Basic {KEY}", f"Bearer {KEY} x", "ü"])
def test_nobody_reads_the_metrics_without_the_key(client: Client, alice_client: Client, authorization: str) -> None:
    for browser in (client, alice_client):
        refused = browser.get("/metrics", headers={"Authorization": authorization})
        assert refused.status_code == 401
        assert "METRICS_KEY" in refused.content.decode()
        assert "stagecraft_" not in refused.content.decode()


def test_an_unset_key_opens_nothing(client: Client, owner_client: Client, settings: Any) -> None:
    assert settings.METRICS_KEY == ""
    assert client.get("/metrics", headers={"Authorization": "Bearer "}).status_code == 401
    assert client.get("/metrics").status_code == 401
    assert owner_client.get("/metrics").status_code == 200


@pytest.mark.usefixtures("metrics_key")
def test_requests_are_timed_by_view_and_outcome(client: Client) -> None:
    def count(view: str, status: str) -> float:
        line = f'stagecraft_request_seconds_count{{method="GET",status="{status}",view="{view}"}}'
        try:
            return sample(client.get("/metrics", headers=BEARER), line)
        except KeyError:
            return 0

    well, missing = count("accounts:login", "2xx"), count("none", "4xx")
    client.get("/login/")
    client.get("/wp-admin/one")
    client.get("/wp-admin/two")
    assert count("accounts:login", "2xx") == well + 1
    assert count("none", "4xx") == missing + 2
    assert "wp-admin" not in client.get("/metrics", headers=BEARER).content.decode()


@pytest.mark.usefixtures("metrics_key")
def test_answers_are_timed_by_stage(client: Client, make_checkpoint: Callable[..., Checkpoint]) -> None:
    answer = Generation.objects.create(checkpoint=make_checkpoint("grpo"), messages=[], state="running")
    line = 'stagecraft_answer_seconds_count{stage="grpo",state="done"}'
    first = 'stagecraft_first_token_seconds_count{stage="grpo"}'
    finish_generation(generation=answer, state="done", text="8", finish_reason="end", first_token_at=answer.created_at)
    response = client.get("/metrics", headers=BEARER)
    assert sample(response, line) >= 1
    assert sample(response, first) >= 1


def test_the_processes_of_a_host_share_their_histograms(tmp_path: Path) -> None:
    """Three processes, each with requests of its own; any of them tells of all."""
    code = (
        "import os, sys, django; os.environ['DJANGO_SETTINGS_MODULE'] = 'tests.settings'; django.setup()\n"
        "from webapp.ops import metrics\n"
        "metrics.SiteCollector.collect = lambda self: []\n"
        "metrics.REQUEST_SECONDS.labels('chat:index', 'GET', '2xx').observe(0.02)\n"
        "print(metrics.exposition().decode())\n"
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for number in (1, 2, 3):
        ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        wanted = f'stagecraft_request_seconds_count{{method="GET",status="2xx",view="chat:index"}} {number}.0'
        assert wanted in ran.stdout.splitlines()


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

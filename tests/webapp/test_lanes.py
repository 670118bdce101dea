"""A worker's threads: every queue has its own, and nothing waits in a worker that could wait in its queue."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from celery.worker import state
from django.conf import settings

from tests.processes import ROOT, Watched, start
from webapp.celery import app
from webapp.ops.lanes import THREADS, Lanes, is_free, taken


@pytest.fixture
def worker(redis_server: Any) -> Iterator[Watched]:
    """Two threads for chats, two for the background, one for chores."""
    env = {**os.environ, "REDIS_URL": settings.REDIS_URL, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    process = start([sys.executable, "-m", "tests.webapp.lanes_worker"], cwd=ROOT, env=env)
    process.keep_reading()
    try:
        assert redis_server.blpop(["begun"], timeout=60) == ("begun", "worker"), process.lines
        yield process
    finally:
        process.end()


def test_no_queue_waits_behind_another(worker: Watched, redis_server: Any) -> None:
    def send(queue: str, *names: str) -> None:
        for name in names:
            app.send_task("tests.begin", [name], queue=queue)

    def begun(count: int) -> set[str]:
        return {redis_server.blpop(["begun"], timeout=30)[1] for _ in range(count)}

    send("background", *(f"pair {number}" for number in range(10)))
    assert begun(2) == {"pair 0", "pair 1"}
    send("chores", "reap", "settle")
    assert begun(1) == {"reap"}
    send("chat", "hello")
    send("generate", "of an earlier version")
    assert begun(2) == {"hello", "of an earlier version"}
    send("chat", "one too many")
    assert redis_server.blpop(["begun"], timeout=1) is None
    # What cannot be begun has not been taken: another worker may.
    assert [redis_server.llen(queue) for queue in ("background", "chores", "chat", "generate")] == [8, 1, 1, 0]

    redis_server.rpush("go", *["!"] * 16)
    assert begun(10) == {"settle", "one too many", *(f"pair {number}" for number in range(2, 10))}


def test_only_queues_with_a_free_thread_are_looked_into_chat_before_background(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lanes = Lanes()
    lanes.update(["background", "generate", "chat", "train", "chores"])
    assert lanes.consume(5) == ["chores", "generate", "chat", "background", "train"]
    monkeypatch.setattr("webapp.ops.lanes.taken", lambda: Counter({"background": THREADS["background"]}))
    assert lanes.consume(5) == ["chores", "generate", "chat", "train"]
    monkeypatch.setattr("webapp.ops.lanes.taken", lambda: Counter({"chat": THREADS["chat"]}))
    assert lanes.consume(5) == ["chores", "background", "train"]


def test_a_queue_nobody_set_a_limit_to_is_always_looked_into() -> None:
    assert is_free("celery", Counter({"celery": 1000}))


def test_tasks_are_counted_while_threads_finish_them() -> None:
    class Request:
        delivery_info: ClassVar = {"routing_key": "chat"}

    stays = [Request() for _ in range(50)]
    is_over = threading.Event()

    def come_and_go() -> None:
        while not is_over.is_set():
            one = Request()
            state.reserved_requests.add(one)
            state.reserved_requests.discard(one)

    state.reserved_requests.update(stays)
    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(2000):
            assert taken()["chat"] >= 50  # one count may meet several that a thread brought one after another
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
        after = taken()["chat"]
        state.reserved_requests.difference_update(stays)
    assert after == 50

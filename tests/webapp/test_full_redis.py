"""A Redis that is full refuses to write. That costs liveliness, never an answer, and the log says what to do."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import current_app
from django.contrib.auth.models import AnonymousUser
from django.test import Client, RequestFactory
from django.urls import reverse

from tests.webapp.test_generation import FakeEngines, pass_time, says  # noqa: F401  # a fixture
from webapp.accounts import limits
from webapp.accounts.models import Visitor
from webapp.accounts.sessions import SessionStore
from webapp.answers import services, writing
from webapp.answers.models import Generation
from webapp.chat.models import Conversation
from webapp.chat.services import begin_conversation
from webapp.live import reader, rights, streams
from webapp.ops import embedded_redis, periodic, queues


@pytest.fixture
def full_redis(settings: Any) -> Iterator[redis.Redis]:
    """A server of four megabytes, with one piece of a log, written to until it takes no more."""
    directory = embedded_redis.make_directory()
    command = embedded_redis.command(directory)
    command[command.index("--maxmemory") + 1] = "4mb"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    before = current_app.conf.broker_url
    try:
        embedded_redis.wait_until_answering(directory, process)
        settings.REDIS_URL = embedded_redis.url_of(directory)
        use_broker(f"redis+socket://{embedded_redis.socket_path(directory)}?virtual_host=0")
        streams.client.cache_clear()
        streams.append("log", {"type": "token", "text": "A fox"})
        for size in (1000, 50, 1):  # where no large value fits, a small one may
            with contextlib.suppress(redis.exceptions.OutOfMemoryError):
                for number in range(100_000):
                    streams.client().set(f"filler:{size}:{number}", "x" * size)
        yield streams.client()
    finally:
        use_broker(before)
        process.kill()
        process.wait()
        streams.client.cache_clear()


def use_broker(url: str) -> None:
    current_app.conf.broker_url = current_app.conf.broker_write_url = current_app.conf.broker_read_url = url
    current_app._pool = None
    current_app.amqp._producer_pool = None


@pytest.fixture
def chat(visitor: Visitor, make_checkpoint: Callable[..., Any]) -> Conversation:
    return begin_conversation(visitor=visitor, checkpoint=make_checkpoint("sft"), text="What does a fox eat?")


@pytest.mark.django_db(transaction=True)
def test_an_answer_is_asked_for_written_and_shown(
    full_redis: redis.Redis,
    says: Callable[..., FakeEngines],  # noqa: F811
    visitor_client: Client,
    make_checkpoint: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    says("Mice and berries.")
    checkpoint = make_checkpoint("pretrain")
    response = visitor_client.post(reverse("chat:new"), {"text": "What does a fox eat?", "checkpoint": checkpoint.pk})
    assert response.status_code == 302
    assert "will be sent later: Redis is full." in caplog.text

    # The message could not be sent, and the chore that sends another cannot be either: a worker finds it by itself.
    with ThreadPoolExecutor() as executor:
        assert writing.write_forgotten(executor) == 0
        pass_time(services.ASK_AGAIN_S + 1)
        assert writing.write_forgotten(executor) == 1
    answer = Generation.objects.get()
    assert (answer.state, answer.text) == ("done", "Mice and berries.")
    assert "goes on without its live log: Redis is full. It empties by itself" in caplog.text
    assert "Mice and berries." in visitor_client.get(response["Location"]).content.decode()


@pytest.mark.django_db(transaction=True)
def test_a_running_answer_can_be_stopped_and_a_dead_workers_is_ended(
    full_redis: redis.Redis, visitor_client: Client, chat: Conversation
) -> None:
    answer = Generation.objects.latest("created_at")
    services.claim_generation(str(answer.pk))
    message = answer.message
    assert visitor_client.post(reverse("chat:stop", args=[message.pk])).status_code == 302
    assert services.asked_to_stop([str(answer.pk)]) == [str(answer.pk)]
    for _ in range(2):
        pass_time(services.ALIVE_S + services.DOUBT_S)
        services.revive_generations()
    answer.refresh_from_db()
    assert (answer.state, answer.error) == ("failed", services.INTERRUPTED)


@pytest.mark.django_db
def test_nothing_is_counted_and_no_notice_sent_but_nobody_is_refused(full_redis: redis.Redis, visitor: Visitor) -> None:
    request = RequestFactory().post("/")
    request.session, request.user = SessionStore(), AnonymousUser()
    assert limits.allow("vote", request)
    rights._send(["topic"])
    assert not queues.enqueue("webapp.training.tasks.execute_run", 1)


def test_chores_wait_and_say_why(full_redis: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    worker = SimpleNamespace(app=current_app, hostname="generate@here")
    periodic.tick(worker)
    assert "Chores wait: Redis is full." in caplog.text


async def test_followers_read_what_there_is_and_hear_of_quiet(full_redis: redis.Redis) -> None:
    async with contextlib.aclosing(reader.follow("silence", wait_s=30)) as silence:
        waiting = asyncio.ensure_future(anext(silence))
        await asyncio.sleep(0.2)
        async with contextlib.aclosing(reader.follow("log", wait_s=0.2)) as entries:
            first = await anext(entries)
            assert first is not None
            assert first[1]["text"] == "A fox"
            assert await anext(entries) is None
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

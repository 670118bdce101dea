"""One connection for every followed log, and each follower gets every event once, in order."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
import redis
from django.conf import settings

from webapp.live import reader, streams

END = {"type": "end"}


def say(key: str, *texts: str) -> str:
    last = "0"
    for text in texts:
        last = streams.append(key, {"type": "token", "text": text})
    return last


async def collect(key: str, after: str = "0", *, slow: bool = False) -> list[str]:
    """Texts up to the end."""
    texts = []
    async with contextlib.aclosing(reader.follow(key, after, wait_s=30)) as entries:
        async for entry in entries:
            assert entry is not None
            texts.append(entry[1].get("text", "."))
            if slow:
                await asyncio.sleep(0.001)
    return texts


def clients(redis_server: Any) -> int:
    return len(redis_server.client_list())


async def test_hundreds_of_followers_share_one_connection(redis_server: Any) -> None:
    before = clients(redis_server)
    tasks = [asyncio.create_task(collect(f"log:{number % 50}")) for number in range(300)]
    await asyncio.sleep(0.5)
    assert clients(redis_server) - before <= 2  # the one that waits, and the one that wakes it
    for number in range(50):
        await asyncio.to_thread(say, f"log:{number}", "a", str(number))
        await asyncio.to_thread(streams.append, f"log:{number}", END)
    results = await asyncio.wait_for(asyncio.gather(*tasks), 30)
    assert results == [["a", str(number % 50), "."] for number in range(300)]


async def test_a_follower_that_comes_later_gets_what_was_before() -> None:
    place = await asyncio.to_thread(say, "log", "one", "two")
    early = asyncio.create_task(collect("log"))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(say, "log", "three")
    await asyncio.sleep(0.1)
    late, middle = asyncio.create_task(collect("log")), asyncio.create_task(collect("log", place))
    await asyncio.to_thread(say, "log", "four")
    await asyncio.to_thread(streams.append, "log", END)
    assert await early == await late == ["one", "two", "three", "four", "."]
    assert await middle == ["three", "four", "."]


async def test_a_follower_comes_in_while_others_are_waited_for() -> None:
    """It does not wait for the end of a read that knows nothing of it."""
    await asyncio.to_thread(say, "log", "here")
    silent = asyncio.create_task(collect("silence"))
    await asyncio.sleep(0.2)
    began = asyncio.get_running_loop().time()
    async with contextlib.aclosing(reader.follow("log")) as entries:
        entry = await anext(entries)
    assert entry is not None
    assert asyncio.get_running_loop().time() - began < reader.BLOCK_MS / 1000
    silent.cancel()


async def test_events_come_in_order_however_followers_come_and_go() -> None:
    async def write() -> None:
        for number in range(400):
            await asyncio.to_thread(say, "log", str(number))
        await asyncio.to_thread(streams.append, "log", END)

    async def come_and_go(length: int) -> list[str]:
        texts: list[str] = []
        after = "0"
        while not texts or texts[-1] != ".":
            async with contextlib.aclosing(reader.follow("log", after)) as entries:
                async for entry in entries:
                    assert entry is not None
                    after = entry[0]
                    texts.append(entry[1].get("text", "."))
                    if len(texts) % length == 0:
                        break
        return texts

    _, *results = await asyncio.gather(write(), *(come_and_go(length) for length in (1, 3, 7, 50, 1000)))
    assert all(texts == [*map(str, range(400)), "."] for texts in results)


async def test_who_does_not_keep_up_is_waited_for_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "HELD_EVENTS", 10)
    monkeypatch.setattr(reader, "COUNT", 5)
    slow = asyncio.create_task(collect("log", slow=True))
    quick = asyncio.create_task(collect("log"))
    await asyncio.to_thread(say, "log", *map(str, range(300)))
    await asyncio.to_thread(streams.append, "log", END)
    assert await quick == [*map(str, range(300)), "."]
    assert await slow == [*map(str, range(300)), "."]


async def test_quiet_is_told() -> None:
    async with contextlib.aclosing(reader.follow("log", wait_s=0.05)) as entries:
        assert await anext(entries) is None
        await asyncio.to_thread(say, "log", "x")
        while (entry := await anext(entries)) is None:
            pass
        assert entry[1]["text"] == "x"


async def test_a_lost_redis_is_an_error_for_each_and_the_next_follows_anew(redis_server: Any) -> None:
    tasks = [asyncio.create_task(collect("log")) for _ in range(3)]
    await asyncio.sleep(0.2)
    address = settings.REDIS_URL
    settings.REDIS_URL = "unix:///nowhere/redis.sock?db=0"
    try:
        await asyncio.to_thread(redis_server.client_kill_filter, _type="normal", skipme=True)
        errors = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
    finally:
        settings.REDIS_URL = address
    assert all(isinstance(error, redis.RedisError | list) for error in errors)
    await asyncio.to_thread(say, "log", "back")
    await asyncio.to_thread(streams.append, "log", END)
    assert await collect("log") == ["back", "."]

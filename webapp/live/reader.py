"""Following live logs: one connection per process reads them all, however many sockets follow.

The idea: an event loop has one task that waits, in one blocking XREAD, for news of every log anybody
follows, and hands each event to its followers. Where a new log is to be followed, or a follower stands
further back than the others, the wait is cut short (CLIENT UNBLOCK, which works in a full Redis too)
and begun again with the new set. A follower that does not keep up is left out until it has caught up;
it misses nothing, because the log itself remembers.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from django.conf import settings

from webapp.live.streams import END, Event

BLOCK_MS = 1000
"""A wait that could not be cut short ends by itself after this."""
COUNT = 500
"""Events of one log read at a time."""
HELD_EVENTS = 1000
"""A follower with so many to take is given no more until it has taken them."""
IDLE_S = 30.0
"""The connection is kept for this long after the last follower has left."""


def _place(event_id: str) -> tuple[int, int]:
    """An event's id as numbers that compare: "12-3", or "12" for "12-0"."""
    milliseconds, _, sequence = event_id.partition("-")
    return int(milliseconds), int(sequence or 0)


class Follower:
    """One reader of one log: where it stands, and what has come for it."""

    def __init__(self, key: str, after: str) -> None:
        self.key = key
        self.after = after
        self.entries: deque[tuple[str, Event]] = deque()
        self.error: Exception | None = None
        self.news = asyncio.Event()

    @property
    def is_full(self) -> bool:
        return len(self.entries) >= HELD_EVENTS


class Reader:
    """What one event loop follows."""

    def __init__(self) -> None:
        self._followers: dict[str, set[Follower]] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, key: str, after: str) -> Follower:
        follower = Follower(key, after)
        self._followers.setdefault(key, set()).add(follower)
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="log-reader")
        return follower

    def remove(self, follower: Follower) -> None:
        followers = self._followers.get(follower.key, set())
        followers.discard(follower)
        if not followers:
            self._followers.pop(follower.key, None)

    def take(self, follower: Follower) -> tuple[str, Event] | None:
        """The follower's next event, if it has come."""
        if not follower.entries:
            return None
        was_full = follower.is_full
        entry = follower.entries.popleft()
        if was_full and not follower.is_full:
            self._changed.set()
        return entry

    async def _run(self) -> None:
        # A blocking read outlasts any socket timeout, so this connection has none. Introducing the library to the
        # server would take longer than all the rest before the first token.
        options: dict[str, Any] = {"decode_responses": True, "socket_timeout": None, "driver_info": None}
        reading = redis.asyncio.Redis.from_url(settings.REDIS_URL, single_connection_client=True, **options)
        waking = redis.asyncio.Redis.from_url(settings.REDIS_URL, single_connection_client=True, **options)
        try:
            client_id = await reading.client_id()
            while True:
                self._changed.clear()
                if positions := self._positions():
                    self._hand_out(positions, await self._read(reading, waking, client_id, positions))
                elif not await self._has_changed():
                    return
        except (redis.RedisError, OSError) as error:
            for followers in self._followers.values():
                for follower in followers:
                    follower.error = error
                    follower.news.set()
            self._followers.clear()
        finally:
            for connection in (reading, waking):
                await connection.aclose()

    def _positions(self) -> dict[Any, Any]:
        """For every log, where the furthest back of its followers stands."""
        positions = {}
        for key, followers in self._followers.items():
            behind = [follower.after for follower in followers if not follower.is_full]
            if behind:
                positions[key] = min(behind, key=_place)
        return positions

    async def _has_changed(self) -> bool:
        """Wait for somebody to follow something, or to have caught up; False if nobody is there any more."""
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._changed.wait()
            except TimeoutError:
                if not self._followers:
                    return False
            else:
                return True

    async def _read(
        self, reading: redis.asyncio.Redis, waking: redis.asyncio.Redis, client_id: int, positions: dict[Any, Any]
    ) -> Any:
        """News of these logs; nothing if there are none within BLOCK_MS, or others are to be followed."""

        async def wait_for_news() -> Any:
            return await reading.xread(positions, count=COUNT, block=BLOCK_MS)

        read = asyncio.create_task(wait_for_news(), name="log-reader")
        changed = asyncio.create_task(self._changed.wait(), name="log-reader")
        try:
            await asyncio.wait({read, changed}, return_when=asyncio.FIRST_COMPLETED)
            while not read.done():  # it may not have begun to wait yet: ask again
                await waking.client_unblock(client_id)
                await asyncio.wait({read}, timeout=0.01)
            return read.result()
        finally:
            for task in (read, changed):
                task.cancel()
            await asyncio.gather(read, changed, return_exceptions=True)

    def _hand_out(self, positions: dict[Any, Any], answer: Any) -> None:
        """Give followers what was read after `positions`; those who stand further back would miss some of it."""
        for key, entries in answer or ():
            start = _place(positions[key])
            waiting = [one for one in self._followers.get(key, ()) if not one.is_full and _place(one.after) >= start]
            for event_id, fields in entries:
                event: Event = json.loads(fields["event"])
                place = _place(event_id)
                for follower in waiting:
                    if place > _place(follower.after):
                        follower.after = event_id
                        follower.entries.append((event_id, event))
                        follower.news.set()


_readers: WeakKeyDictionary[asyncio.AbstractEventLoop, Reader] = WeakKeyDictionary()


def reader() -> Reader:
    """The running event loop's one reader."""
    return _readers.setdefault(asyncio.get_running_loop(), Reader())


async def follow(key: str, after: str = "0", *, wait_s: float = 15.0) -> AsyncGenerator[tuple[str, Event] | None, None]:
    """Events after `after` as they come, ending after the END event.

    Yields None whenever `wait_s` passes without one, so the caller can check the database (the
    producer may have died). RedisError when the connection breaks: follow again from the last id.
    """
    shared = reader()
    follower = shared.add(key, after)
    try:
        while True:
            entry = shared.take(follower)
            if entry is not None:
                yield entry
                if entry[1].get("type") == END:
                    return
                continue
            if follower.error is not None:
                raise follower.error
            follower.news.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await follower.news.wait()
            except TimeoutError:
                yield None
    finally:
        shared.remove(follower)

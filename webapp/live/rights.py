"""Rights that sockets stand on, and their end: by a notice at once, by a look at the database soon after.

The idea: whoever takes a right away says so (`announce`: a log-out, a deactivation, a deleted chat), and
the sockets concerned look again whether they may stay. A notice can get lost, and not everything that
changes a row goes through code that sends one. So one task per process also reads, every few seconds and
in one query a kind, the rows all its sockets depend on, and has those look again whose rows have changed.

A topic is a kind of row and its id ("conversation:…"). How to read a kind's rows is said by the app the
rows belong to (`know`). Notices name topics by their hash: a session's key is a secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import redis
from django.db import DatabaseError, InterfaceError, transaction

from webapp.live import streams
from webapp.live.reader import follow
from webapp.live.sockets import in_any_thread

logger = logging.getLogger(__name__)

NOTICES = "notices"
"""The log notices are appended to."""
RECHECK_S = 4.0
"""How often the rows are looked at."""
RETRY_S = 1.0
ROWS_AT_ONCE = 1000

States = Mapping[str, Any]
_read_states: dict[str, Callable[[Collection[str]], States]] = {}


def know(kind: str, read: Callable[[Collection[str]], States]) -> None:
    """`read` tells, by id, what of this kind's rows matters to a right; a row that is gone is left out."""
    _read_states[kind] = read


def announce(*topics: str) -> None:
    """Say, once it is committed, that sockets on these topics must look again whether they may stay."""
    transaction.on_commit(partial(_send, [_digest(topic) for topic in topics]))


def _send(topics: list[str]) -> None:
    with contextlib.suppress(redis.RedisError):  # the look at the database finds it
        streams.append(NOTICES, {"type": "rights", "topics": topics})


def _digest(topic: str) -> str:
    return hashlib.sha256(topic.encode()).hexdigest()[:32]


class _Watched:
    """A socket, as far as its right goes."""

    def __init__(self, topics: Collection[str]) -> None:
        self.topics = {topic: _digest(topic) for topic in topics}
        self.states: dict[str, Any] | None = None
        """Of each topic's row, as last looked at."""
        self.is_doubted = asyncio.Event()
        self.error: Exception | None = None

    def doubt(self, error: Exception | None = None) -> None:
        self.error = error
        self.is_doubted.set()


class _Guard:
    """Everything on one event loop that stands on rights."""

    def __init__(self) -> None:
        self._watched: set[_Watched] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, watched: _Watched) -> None:
        self._watched.add(watched)
        if not any(not task.done() for task in self._tasks):
            self._tasks = [
                asyncio.create_task(work(), name="rights") for work in (self._hear_notices, self._look_at_rows)
            ]

    def remove(self, watched: _Watched) -> None:
        self._watched.discard(watched)
        if not self._watched:
            for task in self._tasks:
                task.cancel()
            self._tasks = []

    async def _hear_notices(self) -> None:
        after = ""
        while True:
            try:
                after = after or await asyncio.to_thread(streams.last_id, NOTICES)
                async with contextlib.aclosing(follow(NOTICES, after, wait_s=600)) as notices:
                    async for entry in notices:
                        if entry is not None:
                            after, notice = entry
                            self._doubt(set(notice["topics"]))
            except redis.RedisError as error:
                logger.info("Notices of rights wait: %s", streams.trouble(error))
                await asyncio.sleep(RETRY_S)

    def _doubt(self, topics: set[str]) -> None:
        for watched in self._watched:
            if not topics.isdisjoint(watched.topics.values()):
                watched.doubt()

    async def _look_at_rows(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_S)
            looked_at = list(self._watched)
            topics = {topic for watched in looked_at for topic in watched.topics}
            try:
                states = await in_any_thread(read_states)(topics)
            except (DatabaseError, InterfaceError) as error:
                for watched in looked_at:
                    watched.doubt(error)
                continue
            for watched in looked_at:
                now = {topic: states.get(topic) for topic in watched.topics}
                # The first time there is nothing to compare with, and something may have changed since it was opened.
                if now != watched.states:
                    watched.doubt()
                watched.states = now


def read_states(topics: Collection[str]) -> States:
    """Topic -> what of its row matters, in one query a kind (and ROWS_AT_ONCE rows)."""
    by_kind: defaultdict[str, list[str]] = defaultdict(list)
    for topic in topics:
        kind, _, row_id = topic.partition(":")
        by_kind[kind].append(row_id)
    states: dict[str, Any] = {}
    for kind, ids in by_kind.items():
        for start in range(0, len(ids), ROWS_AT_ONCE):
            rows = _read_states[kind](ids[start : start + ROWS_AT_ONCE])
            states.update({f"{kind}:{row_id}": state for row_id, state in rows.items()})
    return states


_guards: WeakKeyDictionary[asyncio.AbstractEventLoop, _Guard] = WeakKeyDictionary()


async def watch(
    topics: Collection[str], may_stay: Callable[[], Awaitable[bool]], *, at_least_every_s: float | None = None
) -> None:
    """Return when `may_stay`, asked whenever something about the topics has changed, says no.

    It is asked without that, too, `at_least_every_s`: for rights that end when their time is over, and no row with
    them. DatabaseError when nobody can tell.
    """
    guard = _guards.setdefault(asyncio.get_running_loop(), _Guard())
    watched = _Watched(topics)
    guard.add(watched)
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(at_least_every_s):
                    await watched.is_doubted.wait()
            watched.is_doubted.clear()
            if watched.error is not None:
                raise watched.error
            if not await may_stay():
                return
    finally:
        guard.remove(watched)

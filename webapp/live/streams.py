"""Append-only live logs in Redis Streams: the tokens of an answer, the progress of a run.

The idea: a producer appends small JSON events, any number of readers follow from the id they saw
last, and a reader that reconnects misses nothing. Redis is never the only copy: the producer writes
the final state to the database *before* the end event, and a log that has expired means "read the
database".
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from functools import cache
from typing import Any

import redis
import redis.asyncio
from django.conf import settings

EXPIRE_S = 3600
MAX_EVENTS = 20_000
END = "end"
"""The `type` of a log's last event."""

Event = dict[str, Any]

_ID = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")


@cache
def client() -> redis.Redis:
    """This process's Redis client; thread-safe, it pools connections."""
    return redis.Redis.from_url(settings.REDIS_URL, decode_responses=True)


def append(key: str, event: Event) -> str:
    """Append one event; returns its id. `event["type"]` says what it is."""
    pipeline = client().pipeline(transaction=False)
    pipeline.xadd(key, {"event": json.dumps(event)}, maxlen=MAX_EVENTS, approximate=True)
    pipeline.expire(key, EXPIRE_S)
    return str(pipeline.execute()[0])


def is_event_id(text: str) -> bool:
    """Whether Redis takes this for an event's id, with events possible after it: one or two numbers of 64 bits."""
    match = _ID.fullmatch(text)
    return match is not None and all(int(number) < 2**64 - 1 for number in match.groups("0"))


def read(key: str, after: str = "0") -> list[tuple[str, Event]]:
    """Every event after the id `after`, as (id, event); empty when the log is gone."""
    entries: Any = client().xrange(key, f"({after}")
    return [(str(entry), json.loads(fields["event"])) for entry, fields in entries]


def last_id(key: str) -> str:
    """Where the log stands: following from here misses nothing that comes later. "0" when it is empty or gone."""
    newest: Any = client().xrevrange(key, count=1)
    return str(newest[0][0]) if newest else "0"


def delete(key: str) -> None:
    client().delete(key)


async def follow(key: str, after: str = "0", *, wait_s: float = 15.0) -> AsyncGenerator[tuple[str, Event] | None, None]:
    """Events after `after` as they come, ending after the END event.

    Yields None whenever `wait_s` passes without one, so the caller can check the database (the
    producer may have died) or that its reader is still allowed to listen.
    """
    # A blocking read outlasts any socket timeout, so this connection has none. Introducing the library to the
    # server would take longer than all the rest before the first token.
    connection = redis.asyncio.Redis.from_url(
        settings.REDIS_URL, decode_responses=True, socket_timeout=None, driver_info=None
    )
    try:
        while True:
            answer = await connection.xread({key: after}, count=500, block=int(wait_s * 1000))
            if not answer:
                yield None
                continue
            for after, fields in answer[0][1]:
                event: Event = json.loads(fields["event"])
                yield after, event
                if event.get("type") == END:
                    return
    finally:
        await connection.aclose()

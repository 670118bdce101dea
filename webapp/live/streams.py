"""Append-only live logs in Redis Streams: the tokens of an answer, the progress of a run.

The idea: a producer appends small JSON events, any number of readers follow (webapp/live/reader.py) from
the id they saw last, and a reader that reconnects misses nothing. Redis is never the only copy: the producer writes
the final state to the database *before* the end event, and a log that has expired means "read the
database".
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import redis
from django.conf import settings

EXPIRE_S = 3600
"""A log nobody has written to for this long is forgotten."""
ENDED_EXPIRE_S = 60
"""A log that has ended is in the database too; readers that are a moment behind still follow it to its end."""
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
    pipeline.expire(key, ENDED_EXPIRE_S if event.get("type") == END else EXPIRE_S)
    return str(pipeline.execute()[0])


def trouble(error: Exception) -> str:
    """What is wrong with Redis, for the log: somebody may have to do something about it."""
    if any(isinstance(one, redis.exceptions.OutOfMemoryError) for one in (error, error.__cause__)):
        return "Redis is full. It empties by itself when answers end; where it does not, raise its maxmemory."
    return f"Redis does not answer ({type(error).__name__})."


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

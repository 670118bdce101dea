"""Who is looking at which pair: for a short time nobody else is shown it, so that two people seldom judge the same one.

The idea: a key in Redis per pair that was served, which expires by itself. The pair's row stays the truth: whether it
is open decides whether a vote counts. So a page that is only looked at writes no row, and while Redis is away people
are served pairs as if nobody else were there.

Somebody who has never voted is known by their CSRF cookie, which anyone may throw away as often as they like: of the
pairs that wait, newcomers hold at most half (NEWCOMERS_SHARE).
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Sequence
from typing import Final

import redis
from django.http import HttpRequest
from django.middleware.csrf import get_token

from webapp.accounts.models import Visitor
from webapp.live import streams

logger = logging.getLogger(__name__)

RESERVED_S: Final = 90
"""How long a pair is kept for whoever was shown it: most are judged in half of that."""
NEWCOMERS_SHARE: Final = 0.5
_NEWCOMER: Final = "newcomer:"


def name_of(visitor: Visitor) -> str:
    return f"visitor:{visitor.pk}"


def newcomer_of(request: HttpRequest) -> str:
    """The name of a browser nobody has voted with yet; the same for as long as it keeps its CSRF cookie."""
    get_token(request)  # makes one where there is none
    return _NEWCOMER + hashlib.sha256(request.META["CSRF_COOKIE"].encode()).hexdigest()[:32]


def reserve(pairs: Sequence[uuid.UUID], *, name: str) -> uuid.UUID | None:
    """One of these pairs for `name` alone, the first that is free; the one they have, if they have one.

    None where all are taken. Raises redis.RedisError.
    """
    client = streams.client()
    holders = _holders(client, pairs)
    if name in holders:
        return pairs[holders.index(name)]
    newcomers = sum(1 for holder in holders if holder and holder.startswith(_NEWCOMER))
    if name.startswith(_NEWCOMER) and newcomers >= NEWCOMERS_SHARE * len(pairs):
        return None
    for pair, holder in zip(pairs, holders, strict=True):
        if holder is None and client.set(_key(pair), name, nx=True, ex=RESERVED_S):
            return pair
    return None


def are_all_taken(pairs: Sequence[uuid.UUID]) -> bool:
    """Whether nothing is left for anyone. Raises redis.RedisError."""
    return None not in _holders(streams.client(), pairs)


def keep_for(pair: uuid.UUID, *, name: str) -> None:
    """Whoever had it, it is theirs now; a vote that was taken back."""
    try:
        streams.client().set(_key(pair), name, ex=RESERVED_S)
    except redis.RedisError as error:
        logger.warning("reservations are off: %s", error)


def release(pair: uuid.UUID) -> None:
    """It was voted on; one that wants more votes may be shown to the next."""
    try:
        streams.client().delete(_key(pair))
    except redis.RedisError as error:
        logger.warning("reservations are off: %s", error)


def count(pairs: Sequence[uuid.UUID]) -> int:
    """How many of these pairs are reserved; none while Redis is away."""
    try:
        return sum(holder is not None for holder in _holders(streams.client(), pairs))
    except redis.RedisError as error:
        logger.warning("reservations are off: %s", error)
        return 0


def _holders(client: redis.Redis, pairs: Sequence[uuid.UUID]) -> list[str | None]:
    return client.mget([_key(pair) for pair in pairs]) if pairs else []  # type: ignore[return-value]


def _key(pair: uuid.UUID) -> str:
    return f"served:{pair}"

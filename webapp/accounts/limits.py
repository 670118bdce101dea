"""How often one person, and everybody behind one address, may do a thing: moving windows in Redis, shared by every
web process.

The idea: a cookie is thrown away in no time, an address is not, and behind one address may sit a whole class. So each
action counts twice: against its visitor (or, where there is no cookie yet, against the newcomers of that address), and
against the address. An address has the share of some thirty people, and no more of it in a few seconds than they would
use at once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache

import limits
from django.conf import settings
from django.http import HttpRequest
from redis import RedisError

from webapp.ops.addresses import party_behind

from .services import visitor_for

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Windows such as "20/minute", several joined by semicolons: all of them hold."""

    visitor: str
    newcomers: str
    """Of everybody without a cookie behind one address."""
    address: str
    """Of everybody behind one address."""
    staff: str = ""
    """Of somebody who may sign in to the admin, where it is more than a visitor's."""


SHARES = {
    "chat": Shares(visitor="20/minute", newcomers="200/minute", address="400/minute; 60 per 3 seconds"),
    # Each asks every checkpoint. Whoever trains them compares them all the time.
    "compare": Shares(
        visitor="6/minute", newcomers="60/minute", address="120/minute; 40 per 3 seconds", staff="60/minute"
    ),
    # A newcomer's first vote fits, and a poll is not stuffed without cookies, nor with many.
    "vote": Shares(visitor="60/minute", newcomers="60/minute", address="900/minute; 60 per 3 seconds"),
    "look": Shares(visitor="30/minute", newcomers="300/minute", address="600/minute; 60 per 3 seconds"),
    "search": Shares(
        visitor="120/minute", newcomers="1200/minute", address="2400/minute"
    ),  # asked while somebody types
    "next": Shares(visitor="120/minute", newcomers="600/minute", address="1200/minute"),  # asked while somebody types
    "share": Shares(visitor="20/hour", newcomers="600/hour", address="600/hour"),  # each becomes everybody's question
    "signup": Shares(visitor="10/hour", newcomers="60/hour", address="60/hour"),
    # Counted when a log-in fails: a class may mistype, somebody with a list of names and passwords may not go on.
    "login": Shares(visitor="60 per 15 minutes", newcomers="60 per 15 minutes", address="60 per 15 minutes"),
}


def allow(kind: str, request: HttpRequest) -> bool:
    """Count one action of this kind; False when its visitor or its address has had the share of it.

    When Redis is away the answer is yes: a vote must not be lost to a broken counter.
    """
    try:
        return all(_limiter(settings.REDIS_URL).hit(window, kind, who) for window, who in _windows(kind, request))
    except RedisError as error:
        logger.warning("rate limits are off: %s", error)
        return True


def has_room(kind: str, request: HttpRequest) -> bool:
    """What `allow` would say, counting nothing."""
    try:
        return all(_limiter(settings.REDIS_URL).test(window, kind, who) for window, who in _windows(kind, request))
    except RedisError as error:
        logger.warning("rate limits are off: %s", error)
        return True


def _windows(kind: str, request: HttpRequest) -> list[tuple[limits.RateLimitItem, str]]:
    """(window, whom it counts), the narrower first: what is refused there takes nothing from the neighbours' share."""
    shares = SHARES[kind]
    visitor, address = visitor_for(request, create=False), address_of(request)
    share = shares.staff if shares.staff and _is_staff(request) else shares.visitor
    own = (share, f"visitor:{visitor.pk}") if visitor else (shares.newcomers, f"newcomers:{address}")
    return [(window, who) for text, who in (own, (shares.address, address)) for window in limits.parse_many(text)]


def _is_staff(request: HttpRequest) -> bool:
    return request.user.is_authenticated and request.user.is_staff


def address_of(request: HttpRequest) -> str:
    """Where a request comes from, as an identity to count."""
    return f"address:{party_behind(request.META.get('REMOTE_ADDR', ''))}"


@cache
def _limiter(url: str) -> limits.strategies.MovingWindowRateLimiter:
    # `limits` spells a unix socket's scheme its own way.
    storage = limits.storage.RedisStorage(url.replace("unix://", "redis+unix://", 1), key_prefix="limits")
    return limits.strategies.MovingWindowRateLimiter(storage)

"""How often one person may do a thing: moving windows in Redis, shared by every web process.

Who has no cookie yet is counted by address, and behind one address may sit a whole class: it gets the
share of thirty or so.
"""

from __future__ import annotations

import logging
from functools import cache

import limits
from django.conf import settings
from django.http import HttpRequest
from redis import RedisError

from .services import visitor_for

logger = logging.getLogger(__name__)

LIMITS = {
    "chat": limits.parse("20/minute"),
    "compare": limits.parse("6/minute"),  # each asks every checkpoint
    "vote": limits.parse("60/minute"),
    "search": limits.parse("120/minute"),  # asked while somebody types
    "share": limits.parse("20/hour"),  # each becomes a question for everybody
    "signup": limits.parse("10/hour"),
}
"""The share of a visitor."""
ADDRESS_LIMITS = {
    "chat": limits.parse("200/minute"),
    "compare": limits.parse("60/minute"),
    "vote": limits.parse("60/minute"),  # as few: everyone's first one fits, and a poll is not stuffed without cookies
    "search": limits.parse("1200/minute"),
    "share": limits.parse("600/hour"),
    "signup": limits.parse("60/hour"),
}
"""The share of everybody without a cookie behind one address."""


def allow(kind: str, identity: str) -> bool:
    """Count one `kind` of action by `identity` ("visitor:…" or "address:…"); False when they have had their share.

    When Redis is away the answer is yes: a vote must not be lost to a broken counter.
    """
    share = (ADDRESS_LIMITS if identity.startswith("address:") else LIMITS)[kind]
    try:
        return bool(_limiter(settings.REDIS_URL).hit(share, kind, identity))
    except RedisError as error:
        logger.warning("rate limits are off: %s", error)
        return True


def identity_of(request: HttpRequest) -> str:
    """Whom to count: the visitor, or for somebody who sends no cookie, the address."""
    visitor = visitor_for(request, create=False)
    return f"visitor:{visitor.pk}" if visitor else address_of(request)


def address_of(request: HttpRequest) -> str:
    """Where a request comes from, as an identity to count."""
    return f"address:{request.META.get('REMOTE_ADDR', '')}"


@cache
def _limiter(url: str) -> limits.strategies.MovingWindowRateLimiter:
    # `limits` spells a unix socket's scheme its own way.
    storage = limits.storage.RedisStorage(url.replace("unix://", "redis+unix://", 1), key_prefix="limits")
    return limits.strategies.MovingWindowRateLimiter(storage)

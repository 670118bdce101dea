"""How often one person may do a thing: moving windows in Redis, shared by every web process."""

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
    "signup": limits.parse("10/hour"),
}


def allow(kind: str, identity: str) -> bool:
    """Count one `kind` of action by `identity`; False when they have had their share.

    When Redis is away the answer is yes: a vote must not be lost to a broken counter.
    """
    try:
        return bool(_limiter(settings.REDIS_URL).hit(LIMITS[kind], kind, identity))
    except RedisError as error:
        logger.warning("rate limits are off: %s", error)
        return True


def identity_of(request: HttpRequest) -> str:
    """Whom to count: the visitor, or for somebody who sends no cookie, the address."""
    visitor = visitor_for(request, create=False)
    return f"visitor:{visitor.pk}" if visitor else f"address:{request.META.get('REMOTE_ADDR', '')}"


@cache
def _limiter(url: str) -> limits.strategies.MovingWindowRateLimiter:
    # `limits` spells a unix socket's scheme its own way.
    storage = limits.storage.RedisStorage(url.replace("unix://", "redis+unix://", 1), key_prefix="limits")
    return limits.strategies.MovingWindowRateLimiter(storage)

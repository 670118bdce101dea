"""Is the site well? Read by health checks and load balancers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from tempfile import TemporaryFile

import redis
from django.conf import settings
from django.db import DatabaseError, connection


@cache
def impatient_redis(url: str) -> redis.Redis:
    """A client that gives up soon: a health check must answer while Redis hangs."""
    return redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)


def check_health() -> dict[str, str]:
    """Each thing the site cannot do without -> "ok" or the kind of trouble (no details: anyone may ask)."""
    return {
        "database": _outcome(_ask_database),
        "redis": _outcome(lambda: impatient_redis(settings.REDIS_URL).ping()),
        "data_dir": _outcome(_write_a_file),
    }


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _write_a_file() -> None:
    """A directory that is there may still be read-only, or its disk full."""
    with TemporaryFile(dir=settings.DATA_DIR) as file:
        file.write(b"ok")


def _outcome(check: Callable[[], object]) -> str:
    try:
        check()
    except (DatabaseError, redis.RedisError, OSError) as error:
        return type(error).__name__
    return "ok"

"""Is the site well? Read by health checks and load balancers.

The answer is given in front of Django's middleware, by threads that do nothing else: a site in which everybody
chats while a model trains is busy, not ill, and whoever restarts it for answering late ends every answer in it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from tempfile import TemporaryFile
from typing import Any

import redis
from django.conf import settings
from django.db import DatabaseError, connection

PATH = "/healthz"
Application = Callable[[Any, Any, Any], Awaitable[None]]

_threads = ThreadPoolExecutor(4, thread_name_prefix="health")


def health_first(application: Application) -> Application:
    """`application`, an ASGI one for HTTP, with GET /healthz answered before it is asked."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != PATH or scope["method"] != "GET":
            await application(scope, receive, send)
            return
        status, report = await asyncio.get_running_loop().run_in_executor(_threads, _report_and_hang_up)
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        headers.append((b"x-content-type-options", b"nosniff"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(report).encode()})

    return answer


def health_report() -> tuple[int, dict[str, Any]]:
    """(HTTP status, what is said)."""
    checks = check_health()
    well = all(outcome == "ok" for outcome in checks.values())
    return (200 if well else 503), {"status": "ok" if well else "failing", "checks": checks}


def _report_and_hang_up() -> tuple[int, dict[str, Any]]:
    """For a thread that Django does not look after: it keeps no connection."""
    try:
        return health_report()
    finally:
        connection.close()


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

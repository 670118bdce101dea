"""webapp/asgi.py as the web server calls it: how a request gets through, and what is answered before Django."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import SyncToAsync
from asgiref.testing import ApplicationCommunicator

from webapp.asgi import application

pytestmark = pytest.mark.django_db(transaction=True)

Asked = tuple[int, dict[str, str], bytes]


async def ask(path: str, method: str = "GET", host: str = "localhost") -> Asked:
    """(status, headers, body) of one request."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", host.encode())],
        "client": ("127.0.0.1", 9),
        "server": ("127.0.0.1", 80),
    }
    request = ApplicationCommunicator(application, scope)
    await request.send_input({"type": "http.request", "body": b"", "more_body": False})
    start = await request.receive_output(60)
    body = b""
    while (part := await request.receive_output(60)).get("more_body"):
        body += part["body"]
    await request.wait(60)
    headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, body + part.get("body", b"")


@pytest.fixture
def crossings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was sent from the event loop to a thread."""
    found: list[str] = []
    call: Callable[..., Any] = SyncToAsync.__call__

    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(getattr(self.func, "__qualname__", repr(self.func)))
        return await call(self, *args, **kwargs)

    monkeypatch.setattr(SyncToAsync, "__call__", counted)
    return found


@pytest.mark.parametrize("path", ["/chat/", "/vote/", "/leaderboard/"])
async def test_a_page_crosses_to_its_thread_a_few_times_only(crossings: list[str], path: str) -> None:
    """Django's own handler needs 18, and waits for the interpreter's lock and a core at each of them."""
    status, headers, _ = await ask(path)
    assert status == 200
    assert headers["x-frame-options"] == "DENY"  # the last middleware
    assert "content-security-policy" in headers
    assert headers["x-content-type-options"] == "nosniff"  # the first
    assert len(crossings) <= 6, crossings


async def test_static_files_are_served_as_before() -> None:
    status, headers, body = await ask("/static/css/site.css")
    assert status == 200
    assert headers["x-content-type-options"] == "nosniff"
    assert b"{" in body


async def test_a_missing_page_and_a_foreign_host_are_refused_as_before() -> None:
    assert (await ask("/nowhere/"))[0] == 404
    assert (await ask("/chat/", host="evil.example"))[0] == 400


async def test_health_is_answered_before_django(crossings: list[str]) -> None:
    status, headers, body = await ask("/healthz")
    assert status == 200
    assert json.loads(body) == {"status": "ok", "checks": {"database": "ok", "redis": "ok", "data_dir": "ok"}}
    assert headers["cache-control"] == "no-store"
    assert crossings == []


async def test_ill_health_is_said_there_too(settings: Any) -> None:
    settings.REDIS_URL = "unix:///nowhere/redis.sock?db=0"
    status, _, body = await ask("/healthz")
    assert status == 503
    assert json.loads(body)["checks"]["redis"] == "ConnectionError"


async def test_health_is_only_read() -> None:
    assert (await ask("/healthz", "POST"))[0] in (403, 405)

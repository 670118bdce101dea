"""Whose pages may send forms and open sockets: the whole origin counts, as Django's CSRF check has it."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.test import Client

from webapp.asgi import application
from webapp.live.origins import same_origin

EVIL = "http://evil.example"


def scope_of(path: str, headers: dict[str, str], *, scheme: str = "ws") -> dict[str, Any]:
    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "websocket",
        "scheme": scheme,
        "path": path,
        "query_string": b"\xff=1",
        "headers": named,
        "subprotocols": [],
    }


async def accept(scope: Any, receive: Any, send: Any) -> None:
    """A socket that takes whoever is let through."""
    await receive()
    await send({"type": "websocket.accept"})


async def opens(
    headers: dict[str, str], *, path: str = "/ws/runs/1/", scheme: str = "ws", served_by: Any = accept
) -> bool:
    """Whether a socket gets as far as what serves it; a refused one is closed before it is open."""
    guarded = served_by if served_by is application else same_origin(served_by)
    socket = ApplicationCommunicator(guarded, scope_of(path, headers, scheme=scheme))
    await socket.send_input({"type": "websocket.connect"})
    accepted: bool = (await socket.receive_output(timeout=20))["type"] == "websocket.accept"
    if accepted:
        await socket.send_input({"type": "websocket.disconnect", "code": 1000})
    await socket.wait(timeout=20)
    return accepted


OURS = [
    ("testserver", "http://testserver", True),
    ("testserver:8000", "http://testserver:8000", True),
    ("testserver:8000", "http://testserver:8001", False),
    ("testserver:8000", "http://testserver", False),
    ("testserver", "http://testserver:8000", False),
    ("testserver", "https://testserver", False),
    ("testserver", "ws://testserver", False),
    ("testserver", "testserver", False),
    ("testserver", "http://sub.testserver", False),
    ("testserver", "http://testserver.evil.example", False),
    ("testserver", "http://evil.example/testserver", False),
    ("testserver", "http://testserver@evil.example", False),
    ("testserver", "http://[", False),
    ("testserver", "null", False),
    ("testserver", "", False),
    ("testserver", "file://", False),
    ("testserver", EVIL, False),
    ("evil.example", EVIL, False),
]
TRUSTED = ["https://stagecraft.example.org", "https://*.school.example", "http://127.0.0.1:9000"]
LISTED = [
    ("https://stagecraft.example.org", True),
    ("http://stagecraft.example.org", False),
    ("https://stagecraft.example.org:8443", False),
    ("https://sub.stagecraft.example.org", False),
    ("https://class.school.example", True),
    ("https://a.class.school.example", True),
    ("http://class.school.example", False),
    ("https://class.school.example:444", False),
    ("https://badschool.example", False),
    ("http://127.0.0.1:9000", True),
    ("http://127.0.0.1:9001", False),
]


@pytest.fixture
def hosts(settings: Any) -> Any:
    settings.ALLOWED_HOSTS = ["testserver", "testserver:8000"]
    return settings


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize(("host", "origin", "ours"), OURS)
async def test_a_socket_is_opened_by_the_whole_origin(host: str, origin: str, ours: bool) -> None:
    assert await opens({"host": host, "origin": origin}) is ours


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("hosts")
async def test_the_sites_own_sockets_are_guarded_so() -> None:
    assert await opens({"host": "testserver", "origin": "http://testserver"}, served_by=application)
    assert not await opens({"host": "testserver", "origin": "http://testserver:81"}, served_by=application)


@pytest.mark.usefixtures("hosts")
async def test_a_socket_without_an_origin_is_refused() -> None:
    assert not await opens({"host": "testserver"})


@pytest.mark.parametrize(("origin", "ours"), LISTED)
async def test_listed_origins_may_open_sockets(hosts: Any, origin: str, ours: bool) -> None:
    hosts.CSRF_TRUSTED_ORIGINS = TRUSTED
    assert await opens({"host": "testserver", "origin": origin}) is ours


@pytest.mark.django_db
@pytest.mark.parametrize(("host", "origin", "ours"), [*OURS, *(("testserver", *row) for row in LISTED)])
def test_a_form_is_asked_the_same(hosts: Any, host: str, origin: str, ours: bool) -> None:
    """What this suite says of sockets is what Django says of forms."""
    hosts.CSRF_TRUSTED_ORIGINS = TRUSTED
    assert form_from(origin, host=host).status_code == (302 if ours else 400 if host == "evil.example" else 403)


@pytest.mark.parametrize("forwarded", ["https", "http", None])
async def test_behind_a_tls_proxy_the_scheme_is_the_visitors(hosts: Any, forwarded: str | None) -> None:
    hosts.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    more = {"x-forwarded-proto": forwarded} if forwarded else {}
    assert await opens({"host": "testserver", "origin": "https://testserver", **more}) is (forwarded == "https")


@pytest.mark.usefixtures("hosts")
async def test_a_server_that_speaks_tls_itself_is_its_own_origin() -> None:
    assert await opens({"host": "testserver", "origin": "https://testserver"}, scheme="wss")


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize("path", ["/ws/anything/", "/ws/", "/", "/ws/chat/no-uuid/", "/ws/runs/x/", "/ws/chat/%00/"])
async def test_a_socket_that_nobody_serves_is_refused(path: str, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"host": "testserver", "origin": "http://testserver"}
    assert not await opens(headers, path=path, served_by=application)
    assert caplog.records == []


# -- what is said of it ----------------------------------------------------------------------------


def form_from(origin: str, *, host: str = "testserver", **headers: Any) -> Any:
    client = Client(enforce_csrf_checks=True)
    token = client.get("/login/").context["csrf_token"]
    form = {"csrfmiddlewaretoken": str(token), "theme": "dark"}
    return client.post("/theme/", form, headers={"origin": origin, "host": host, **headers})


@pytest.mark.django_db
@pytest.mark.usefixtures("hosts")
def test_a_form_of_an_unknown_origin_is_told_which_setting_decides(caplog: pytest.LogCaptureFixture) -> None:
    answer = form_from("https://testserver")
    assert answer.status_code == 403
    page = answer.content.decode()
    for text in (page, caplog.text):
        assert "origin is https://testserver, the site is http://testserver" in text
        assert "CSRF_TRUSTED_ORIGINS" in text
        assert "HTTPS=1" in text
    assert "Origin checking failed" in page
    assert "cookies" not in page
    assert "out of date" not in page


@pytest.mark.django_db
@pytest.mark.usefixtures("hosts")
def test_scripts_are_told_in_a_sentence() -> None:
    answer = form_from(EVIL, **{"hx-request": "true"})
    assert answer.status_code == 403
    assert answer["Content-Type"].startswith("text/plain")
    assert answer.content.decode().startswith("Not accepted: the site does not know this page's address as its own.")


@pytest.mark.django_db
@pytest.mark.usefixtures("hosts")
def test_a_page_that_is_only_old_is_still_called_old() -> None:
    client = Client(enforce_csrf_checks=True)
    page = client.post("/theme/", {"theme": "dark"}, headers={"origin": "http://testserver"}).content.decode()
    assert "That page is out of date" in page
    assert "CSRF_TRUSTED_ORIGINS" not in page


@pytest.mark.usefixtures("hosts")
async def test_a_refused_socket_is_in_the_log_with_the_setting(caplog: pytest.LogCaptureFixture) -> None:
    await opens({"host": "testserver", "origin": "http://testserver:81"})
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "A socket to /ws/runs/1/ was refused. The page's origin is http://testserver:81, the site is http://testserver."
    )
    assert "CSRF_TRUSTED_ORIGINS" in record.getMessage()

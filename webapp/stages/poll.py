"""The home page's poll, answered before Django: nearly always nothing has changed, and that costs nearly nothing.

The idea: a class, or everyone who follows a link, leaves the home page open while a model trains, and each of these
pages asks every other second whether there is something new. What is new is the same for all of them. So each web
process keeps one state per question for FRESH_S, and answers from it: 204 to a page that has it already, and to
somebody who sends no cookie of a session, and is therefore no one in particular, the new part itself. Everybody else,
and every part with a form in it, goes on to the view, which would have said the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import parse_qs

from channels.db import database_sync_to_async
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.db import DatabaseError
from django.template.loader import render_to_string

from webapp.stages.context import ask_all
from webapp.stages.queries import home_page
from webapp.stages.questions import COUNT

FRESH_S: Final = 1.0
"""How long one look at the database serves everybody."""

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Shown:
    """What the home page shows under one question."""

    version: str
    fragment: bytes | None
    """For whoever is not logged in; None while there is a form in it."""
    looked_at: float


class HomePoll:
    """ASGI middleware around Django."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self._shown: dict[int, Shown] = {}
        self._looking: dict[int, asyncio.Lock] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (asked := _poll_of(scope)) is not None:
            question, version = asked
            shown = await self._look(question)
            if shown and shown.version == version:
                await _answer(send, 204)
                return
            if shown and shown.fragment and not _has_session(scope):
                await _answer(send, 200, shown.fragment)
                return
        await self.application(scope, receive, send)

    async def _look(self, question: int) -> Shown | None:
        """The state of this second; None where it cannot be had, and the view may say why."""
        async with self._looking.setdefault(question, asyncio.Lock()):
            shown = self._shown.get(question)
            if shown is None or time.monotonic() - shown.looked_at > FRESH_S:
                try:
                    shown = self._shown[question] = await database_sync_to_async(_show)(question)
                except DatabaseError:
                    return None
            return shown


def _show(question: int) -> Shown:
    looked_at = time.monotonic()
    page = home_page(question)
    if page.step.detail or page.needs_asking or page.has_failed:
        return Shown(page.version, None, looked_at)
    context = {
        "page": page,
        "step": page.step,
        "stage_rail": page.rail,
        "ask_all": ask_all(page.rail),
        "user": AnonymousUser(),
        "request": SimpleNamespace(htmx=True),
    }
    return Shown(page.version, render_to_string("stages/home_live.html", context).encode(), looked_at)


def _poll_of(scope: Scope) -> tuple[int, str] | None:
    """(question, version) of a poll of the home page; None for any other request."""
    if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
        return None
    if (b"hx-request", b"true") not in scope["headers"]:
        return None
    asked = parse_qs(scope["query_string"].decode("latin-1"))
    question, version = asked.get("q", [""])[-1], asked.get("v", [""])[-1]
    if not version or not question.isdecimal() or len(question) > 3 or int(question) >= COUNT:
        return None
    return int(question), version


def _has_session(scope: Scope) -> bool:
    name = f"{settings.SESSION_COOKIE_NAME}=".encode()
    return any(key == b"cookie" and name in value for key, value in scope["headers"])


async def _answer(send: Send, status: int, body: bytes = b"") -> None:
    headers = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
    if body:
        headers += [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

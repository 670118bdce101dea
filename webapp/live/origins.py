"""Where a page that asks stands: its whole origin (scheme, host and port), for forms and for sockets alike.

Django asks this of every form. A browser sends a visitor's cookie with a socket that any page opens, so a socket is
asked the same, by the same code and settings: the page's origin must be the site's own, or in CSRF_TRUSTED_ORIGINS.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest
from django.middleware.csrf import CsrfViewMiddleware

logger = logging.getLogger(__name__)

ASGIApplication = Callable[[Any, Any, Any], Awaitable[None]]
NONE: Final = "(none)"


def explain(request: HttpRequest) -> str:
    """What was compared, and the settings that decide it, for whoever runs the site."""
    theirs = request.META.get("HTTP_ORIGIN") or request.META.get("HTTP_REFERER") or NONE
    try:
        ours = f"{request.scheme}://{request.get_host()}"
    except DisallowedHost:
        ours = "reached by a name that is not in ALLOWED_HOSTS"
    return (
        f"The page's origin is {theirs}, the site is {ours}. If both are this site, name the first one in"
        " CSRF_TRUSTED_ORIGINS, or have the proxy pass on the Host header and set HTTPS=1 where it speaks TLS."
    )


class _OriginCheck(CsrfViewMiddleware):
    """Only Django's comparison of origins, with what it reads from the settings."""

    def allows(self, request: HttpRequest) -> bool:
        try:
            request.get_host()
        except DisallowedHost:
            return False
        return "HTTP_ORIGIN" in request.META and bool(self._origin_verified(request))  # type: ignore[attr-defined]


def same_origin(application: ASGIApplication) -> ASGIApplication:
    """`application` for WebSockets opened by pages of this site; others are refused before they are open."""

    async def checked(scope: Any, receive: Any, send: Any) -> None:
        request = _as_request(scope)
        if _OriginCheck(_nothing).allows(request):
            await application(scope, receive, send)
        else:
            logger.warning("A socket to %s was refused. %s", scope["path"], explain(request))
            await refuse(scope, receive, send)

    return checked


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Answer a WebSocket before it is open: the browser gets a 403, and no page of ours asks again."""
    await receive()
    await send({"type": "websocket.close"})


def _as_request(scope: Any) -> ASGIRequest:
    """The handshake as the HTTP request that it is, so that host, scheme and proxy are read as for any page."""
    scheme = "https" if scope.get("scheme") == "wss" else "http"
    as_http = {**scope, "type": "http", "method": "GET", "scheme": scheme, "query_string": b""}
    return ASGIRequest(as_http, io.BytesIO())


def _nothing(request: HttpRequest) -> Any:
    raise AssertionError("only asked for origins")

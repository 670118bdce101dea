"""Django under ASGI, with a request's whole way through middleware and view in one visit to a thread.

The idea: Django's own handler sends every hook of every middleware to a thread by itself: 18 crossings between
the event loop and a thread for one page. Each crossing waits for the interpreter's lock and for a core, and
beside many chats and a training run both are a while in coming. Every view of this site is synchronous, and so is
its middleware but for the one that serves static files; so the chain is built for a thread, which is entered once.
"""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase


class OneThreadHandler(ASGIHandler):
    """Use as `get_asgi_application()`, after `django.setup()`."""

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        return await sync_to_async(self.get_response, thread_sensitive=True)(request)

"""Puts `request.visitor` on every request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware
from django.utils.functional import SimpleLazyObject

from .services import visitor_for


@sync_and_async_middleware
def VisitorMiddleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """`request.visitor`: who is here, or something false for a newcomer; looked up when first used.

    For pages that only read. What writes calls `visitor_for(request, create=True)`.
    """

    def attach(request: HttpRequest) -> None:
        request.visitor = SimpleLazyObject(  # type: ignore[attr-defined]
            lambda: visitor_for(request, create=False)
        )

    if iscoroutinefunction(get_response):

        async def asynchronous(request: HttpRequest) -> HttpResponseBase:
            attach(request)
            answer: Awaitable[HttpResponseBase] = get_response(request)
            return await answer

        return asynchronous

    def synchronous(request: HttpRequest) -> HttpResponseBase:
        attach(request)
        response: HttpResponseBase = get_response(request)
        return response

    return synchronous

"""A WebSocket with work of its own in the background; whatever ends one of the two ends the other.

The idea: a consumer answers frames and, beside that, follows logs and looks after rights in tasks.
Channels tells a consumer of the end only by a disconnect message, so a task must not wait for one: it
would live on when a frame broke the consumer, and the socket would live on when a task broke.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

import redis
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.db import DatabaseError, InterfaceError

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

REFUSED = 4404
"""Close code: not here, or not for you (no longer, perhaps). A page does not come back after it."""
TRY_AGAIN = 1013
"""Close code: something broke on this side. A page comes back and goes on where it stopped."""


def in_any_thread(function: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """`function`, which may use the database, to be awaited while one of the event loop's threads does it.

    Not in the one thread that is otherwise meant for it: there a call that waits for SQLite's writer would
    hold up every other socket of the process.
    """
    awaitable: Callable[P, Awaitable[T]] = database_sync_to_async(function, thread_sensitive=False)
    return awaitable


class WorkingConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]  # channels has no types
    """Give tasks to `work`; end the socket from the server's side with `finish`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_finished = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._unbroken(super().__call__, scope, receive, send)
        finally:
            await asyncio.gather(*self._cancel_tasks(), return_exceptions=True)

    def work(self, function: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs) -> asyncio.Task[None]:
        """Call this beside the frames. If it breaks, the socket closes with TRY_AGAIN."""
        task = asyncio.create_task(self._unbroken(function, *args, **kwargs))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _unbroken(self, function: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await function(*args, **kwargs)
        except Exception as error:
            if isinstance(error, redis.RedisError | DatabaseError | InterfaceError):
                logger.warning("%s closes, to be opened again: %s", self.scope["path"], error)
            elif not isinstance(error, OSError):  # that one is a browser that left while it was sent something
                logger.exception("%s closes, to be opened again", self.scope["path"])
            await self.finish(TRY_AGAIN)

    async def finish(self, code: int | None = None) -> None:
        """Close for good: from here on nothing is sent, not even by a frame that is being handled right now."""
        if self._is_finished:
            return
        self._is_finished = True
        self._cancel_tasks()
        with contextlib.suppress(OSError, RuntimeError):  # the browser was quicker
            await self.close(code)

    async def websocket_receive(self, message: Any) -> None:
        """A frame that was on its way when the socket closed is not handled: its sender may have no right to it."""
        if not self._is_finished:
            await super().websocket_receive(message)

    async def send(self, text_data: str | None = None, bytes_data: bytes | None = None, close: bool = False) -> None:
        if not self._is_finished:
            await super().send(text_data, bytes_data, close)

    def _cancel_tasks(self) -> list[asyncio.Task[None]]:
        """All but the one that is asking."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        return tasks

"""Django's SQLite backend for a site that a whole class uses at once: ENGINE = "webapp.ops.sqlite".

Two things are done differently.

Writers take turns. SQLite lets one connection write at a time; the others sleep and try again, up to 100 ms
later, so in a burst some wait for most of a second while the lock is free half of the time. Here the threads
of a process queue up, and the first of each process asks every millisecond.

Connections are kept. Under ASGI every request has a thread of its own, and so a connection; opening one
(Django's SQL functions, the PRAGMAs, reading the schema) costs as much as three queries. One that is closed
outside a transaction waits for the next thread.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import defaultdict, deque
from typing import Any

from django.db import OperationalError
from django.db.backends.sqlite3 import base
from django.utils.asyncio import async_unsafe

ASK_AGAIN_S = 0.001
KEPT_CONNECTIONS = 8
"""Per database file; each may hold a page cache of 2 MB."""

_turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
_kept: defaultdict[str, deque[sqlite3.Connection]] = defaultdict(deque)


class DatabaseWrapper(base.DatabaseWrapper):
    """One thread's connection."""

    _has_turn = False

    @property
    def _file(self) -> str:
        return str(self.settings_dict["NAME"])

    # -- connections -----------------------------------------------------------------------------

    @async_unsafe
    def get_new_connection(self, conn_params: dict[str, Any]) -> sqlite3.Connection:
        try:
            return _kept[self._file].pop()
        except IndexError:
            connection: sqlite3.Connection = super().get_new_connection(conn_params)
            return connection

    def _close(self) -> None:
        kept = _kept[self._file]
        try:
            if self.connection.in_transaction or len(kept) >= KEPT_CONNECTIONS:
                super()._close()  # type: ignore[misc]  # left out of the stubs
            else:
                kept.append(self.connection)
        finally:
            self._end_turn()

    # -- transactions ----------------------------------------------------------------------------

    def _start_transaction_under_autocommit(self) -> None:
        patience_s = self.settings_dict["OPTIONS"].get("timeout", 5)
        deadline = time.monotonic() + patience_s
        if not _turns[self._file].acquire(timeout=patience_s):
            raise OperationalError("database is locked")
        self._has_turn = True
        try:
            self.connection.execute("PRAGMA busy_timeout = 0")
            self._begin(deadline)
        except BaseException:
            self._end_turn()
            raise
        finally:
            self.connection.execute(f"PRAGMA busy_timeout = {1000 * patience_s:.0f}")

    def _begin(self, deadline: float) -> None:
        while True:
            try:
                super()._start_transaction_under_autocommit()  # type: ignore[misc]  # left out of the stubs
                return
            except OperationalError as error:
                is_busy = getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() > deadline:
                    raise
            time.sleep(ASK_AGAIN_S)

    def _commit(self) -> None:
        super()._commit()  # type: ignore[misc]  # left out of the stubs
        self._end_turn()

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]  # left out of the stubs
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            _turns[self._file].release()

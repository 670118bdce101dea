"""Threads that use the database as a worker's do: their connection goes back to the pool when they end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from django.db import connection


def database_thread(work: Callable[..., object], *values: Any, **arguments: Any) -> threading.Thread:
    """A thread, not yet started, that does `work`. Left open, its connection would be missing from a pool for good."""

    def run() -> None:
        try:
            work(*values, **arguments)
        finally:
            connection.close()

    return threading.Thread(target=run)

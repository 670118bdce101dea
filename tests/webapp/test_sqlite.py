"""The site's SQLite: writers take turns, connections are kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction

from webapp.ops.sqlite import base
from webapp.settings import _SQLITE

OTHER = "other"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, django_db_blocker: Any) -> Iterator[Path]:
    """A database with one counter, known to Django as `OTHER`, beside the suite's own."""
    path = tmp_path / "other.sqlite3"
    settings = {"ENGINE": "webapp.ops.sqlite", "NAME": str(path), "OPTIONS": {**_SQLITE, "timeout": 0.3}}
    monkeypatch.setitem(connections.settings, OTHER, connections.configure_settings({"default": settings})["default"])
    with django_db_blocker.unblock():
        execute("CREATE TABLE counter (value integer)")
        execute("INSERT INTO counter VALUES (0)")
        yield path
        connections[OTHER].close()
    del connections[OTHER]
    for kept in base._kept.pop(str(path), ()):
        kept.close()


def execute(sql: str) -> Any:
    with connections[OTHER].cursor() as cursor:
        return cursor.execute(sql).fetchone()


def count() -> int:
    value: int = execute("SELECT value FROM counter")[0]
    return value


def add_one() -> None:
    """Read, then write: right only if nobody comes between."""
    with transaction.atomic(using=OTHER):
        execute(f"UPDATE counter SET value = {count()} + 1")


def in_threads(work: Any, times: int) -> list[Any]:
    """Do `work` in eight threads, each with a connection of its own, as requests do."""

    def alone(_: int) -> Any:
        try:
            return work()
        finally:
            connections[OTHER].close()

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(alone, range(times)))


def raw() -> sqlite3.Connection:
    """The connection itself."""
    connections[OTHER].ensure_connection()
    found: sqlite3.Connection = connections[OTHER].connection
    return found


def test_writers_at_once_lose_nothing(file: Path) -> None:
    connections.settings[OTHER]["OPTIONS"]["timeout"] = 60  # a slow disk is not what this is about
    in_threads(add_one, 200)
    assert count() == 200


def test_a_writer_waits_for_another_process(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as elsewhere:
        elsewhere.execute("BEGIN IMMEDIATE")
        waited: list[float] = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                elsewhere.execute("COMMIT")

        monkeypatch.setattr(base.time, "sleep", sleep)
        add_one()
    assert waited == [base.ASK_AGAIN_S] * 3
    assert count() == 1


def test_a_lock_that_is_never_given_back_is_an_error_and_then_forgotten(file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as elsewhere:
        elsewhere.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="database is locked"):
            add_one()
    add_one()
    assert count() == 1


def test_a_thread_that_never_ends_its_turn_is_an_error_for_the_next(file: Path) -> None:
    with transaction.atomic(using=OTHER), pytest.raises(OperationalError, match="database is locked"):
        in_threads(add_one, 1)
    in_threads(add_one, 1)
    assert count() == 1


def test_a_turn_ends_with_a_rollback_and_with_a_lost_connection(file: Path) -> None:
    def fail() -> None:
        with transaction.atomic(using=OTHER):
            execute("UPDATE counter SET value = 7")
            raise ZeroDivisionError

    def hang_up() -> None:
        with transaction.atomic(using=OTHER):
            execute("UPDATE counter SET value = 8")
            connections[OTHER].close()

    with pytest.raises(ZeroDivisionError):
        fail()
    hang_up()
    in_threads(add_one, 1)
    assert count() == 1


def test_a_turn_ends_when_the_connection_turns_out_to_be_broken(file: Path) -> None:
    raw().close()
    with pytest.raises(sqlite3.ProgrammingError):
        add_one()
    connections[OTHER].connection = None
    in_threads(add_one, 1)
    assert count() == 1


def test_waiting_for_the_lock_leaves_the_patience_of_other_statements_as_it_was(file: Path) -> None:
    add_one()
    assert execute("PRAGMA busy_timeout") == (300,)


def test_a_closed_connection_serves_the_next_thread(file: Path) -> None:
    first = raw()
    connections[OTHER].close()
    (second,) = in_threads(raw, 1)
    assert second is first
    assert raw() is first
    assert execute("PRAGMA foreign_keys") == (1,)


def test_one_closed_in_a_transaction_is_not_kept(file: Path) -> None:
    first = raw()
    with transaction.atomic(using=OTHER):
        execute("UPDATE counter SET value = 9")
        connections[OTHER].close()
    assert raw() is not first
    assert count() == 0


def test_only_a_few_are_kept(file: Path) -> None:
    wrappers = [connections.create_connection(OTHER) for _ in range(base.KEPT_CONNECTIONS + 3)]
    for wrapper in wrappers:
        wrapper.connect()
    for wrapper in wrappers:
        wrapper.close()
    assert len(base._kept[str(file)]) == base.KEPT_CONNECTIONS

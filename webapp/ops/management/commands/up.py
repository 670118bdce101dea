"""`manage.py up`: the whole site on one machine, under one supervisor.

In order: check what would fail later with a riddle (port, data directory, packages, database,
Redis), migrate, start an embedded Redis unless REDIS_URL names one, then the web server and the two
workers. The port is bound here and handed to the web server, so "in use" is known before anything
starts, and a restart of the web server refuses nobody.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import io
import os
import shutil
import socket
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import redis
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, connection

from trainer.runtime.reading import path_of
from webapp.ops import embedded_redis, web
from webapp.ops.processes import Program, Supervisor, raise_file_limit

NEEDED_PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "uvicorn", "websockets")
"""What the children import and this process does not."""


class Command(BaseCommand):
    help = "Start the site: database migrations, Redis, web server and workers; Ctrl-C stops it all."
    requires_system_checks: list[str] = []  # they import every page; `make lint` runs them

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default=os.environ.get("HOST") or "127.0.0.1", help="default: $HOST or 127.0.0.1")
        parser.add_argument("--port", default=os.environ.get("PORT") or "8000", help="default: $PORT or 8000")
        parser.add_argument("--no-curriculum", action="store_true", help="this time, train nothing by itself")
        parser.add_argument(
            "--demo", action="store_true", help="this time, walk every stage alone, with a simulated voter"
        )
        parser.add_argument(
            "--start",
            default="",
            metavar="SOURCE",
            help="on a fresh DATA_DIR, begin with this model instead of random weights: smollm2-135m-instruct, a "
            "directory, a .gguf file, or hub:owner/name; random forgets one that could not be brought in",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        check_packages()
        options["start"] = whole_path(options["start"])
        raise_file_limit()  # for everything started from here
        with lock_data_directory(), bind(options["host"], parse_port(options["port"])) as listener:
            owner_path = prepare_database(verbosity=options["verbosity"], start=options["start"])
            with (
                database_held_open(),
                Supervisor(cwd=settings.BASE_DIR) as supervisor,
                redis_for(supervisor) as redis_url,
                tempfile.TemporaryDirectory(prefix="stagecraft-metrics-") as metrics_directory,
            ):
                environment = child_environment(redis_url, options["host"])
                environment["PROMETHEUS_MULTIPROC_DIR"] = metrics_directory
                for program in site_programs(environment, listener.fileno()):
                    supervisor.start(program)
                supervisor.start(first_start_program(environment, options))
                self.greet(listener, owner_path)
                supervisor.run()

    def greet(self, listener: socket.socket, owner_path: str) -> None:
        host, port = listener.getsockname()[:2]
        address = f"http://{_linkable(host)}:{port}/"
        self.stdout.write(f"\nStagecraft is at {self.style.SUCCESS(address)}  (Ctrl-C stops it)")
        if owner_path:
            self.stdout.write(f"Become its owner, once, at {self.style.SUCCESS(address + owner_path)}")
        self.stdout.write("")
        self.stdout.flush()


# -- checks ----------------------------------------------------------------------------------------


def check_packages() -> None:
    missing = [name for name in NEEDED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(
            f"Missing: {', '.join(missing)}. Run `make run`, or: pip install -r requirements.lock", returncode=1
        )


def whole_path(source: str) -> str:
    """A path as it was meant where it was typed: the children work in another directory. Other names stay."""
    if source in ("", "random"):  # the second is a word of training/moving_in.py, whatever lies here
        return source
    path = path_of(source)
    return source if path is None else str(path.resolve())


def parse_port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise CommandError(f"The port must be a number up to 65535, not {text!r}.")
    return int(text)


@contextlib.contextmanager
def lock_data_directory() -> Iterator[None]:
    """Hold DATA_DIR for this process: two sites on one database directory would fight over its runs."""
    try:
        for directory in (settings.DATA_DIR, settings.CHECKPOINT_DIR, settings.RUN_DIR):
            directory.mkdir(parents=True, exist_ok=True)
        lock: IO[str] = (settings.DATA_DIR / "up.lock").open("w")
    except OSError as error:
        raise CommandError(
            f"Cannot write to the data directory {settings.DATA_DIR} ({error.strerror}). Set DATA_DIR to one you own."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandError(
                f"Stagecraft is already running on the data directory {settings.DATA_DIR}."
                " Stop it, or set DATA_DIR to another."
            ) from error
        yield


def bind(host: str, port: int) -> socket.socket:
    """The listening socket the web server will inherit."""
    try:
        return web.listen(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = f"Port {port} is in use. Stop what uses it, or choose another: PORT={port + 1} make run"
        elif error.errno == errno.EACCES:
            reason = f"Port {port} needs more rights. Choose one above 1023: PORT=8000 make run"
        else:
            reason = f"Cannot listen on {host}:{port}: {error.strerror}."
        raise CommandError(reason) from error


def prepare_database(*, verbosity: int, start: str = "") -> str:
    """Migrate; returns the path of a fresh owner link while there is no owner, else nothing.

    Refuses a `--start` that this site cannot follow. Leaves no connection behind: what it locked or changed is let go
    of before the children start.
    """
    try:
        call_command("migrate", interactive=False, verbosity=max(0, verbosity - 1))
        if start:
            call_command("first_start", "--check", "--start", start)
        said = io.StringIO()
        call_command("owner_link", stdout=said)
        return said.getvalue().strip()
    except OperationalError as error:
        raise CommandError(f"The database does not answer: {str(error).strip().splitlines()[0]}") from error
    finally:
        connection.close()
        if connection.vendor == "postgresql":
            connection.close_pool()  # type: ignore[attr-defined]


@contextlib.contextmanager
def database_held_open() -> Iterator[None]:
    """Keep one connection to an SQLite database while the site runs; it is never used.

    SQLite folds its log into the database file when the last connection closes. Each request has a connection
    of its own, so on a quiet site that was after each one, and took as long as the request's queries.
    """
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:  # the log is opened by the first read
            cursor.execute("SELECT 1 FROM django_migrations LIMIT 1").fetchall()
    try:
        yield
    finally:
        connection.close()


# -- Redis -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def redis_for(supervisor: Supervisor) -> Iterator[str]:
    """The URL of a Redis that answers: the one in REDIS_URL, or an embedded one run by the supervisor."""
    if url := os.environ.get("REDIS_URL"):
        check_redis(url)
        yield url
        return
    remove_stale_redis()
    directory = embedded_redis.make_directory()
    try:
        command = embedded_redis.command(directory)
        process = supervisor.start(Program(name="redis", command=command, stop_last=True))
        embedded_redis.wait_until_answering(directory, process)
        # For commands typed beside the running site, and for the next start to clean up after a kill.
        settings.REDIS_URL_FILE.write_text(embedded_redis.url_of(directory))
        yield embedded_redis.url_of(directory)
    except embedded_redis.RedisUnavailable as error:
        raise CommandError(str(error)) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        settings.REDIS_URL_FILE.unlink(missing_ok=True)


def check_redis(url: str) -> None:
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=5) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        raise CommandError(
            f"REDIS_URL is set, but no Redis answers there ({error}). Start it, or unset REDIS_URL."
        ) from error


def remove_stale_redis() -> None:
    """Remove the socket directory of a site that was killed; its server died with it."""
    with contextlib.suppress(OSError):
        path = settings.REDIS_URL_FILE.read_text().removeprefix("unix://").partition("?")[0]
        directory = Path(path).parent
        if directory.name.startswith(embedded_redis.DIRECTORY_PREFIX) and not embedded_redis.is_answering(directory):
            shutil.rmtree(directory)


# -- the programs ----------------------------------------------------------------------------------


def child_environment(redis_url: str, host: str) -> dict[str, str]:
    environment = {
        **os.environ,
        "DATA_DIR": str(settings.DATA_DIR),
        "REDIS_URL": redis_url,
        "STAGECRAFT_LOCAL": "1" if settings.LOCAL else "0",
        "PYTHONUNBUFFERED": "1",
    }
    if not os.environ.get("ALLOWED_HOSTS"):
        environment["ALLOWED_HOSTS"] = ",".join([*settings.ALLOWED_HOSTS, *names_of(host)])
    return environment


def names_of(host: str) -> list[str]:
    """What people may type to reach a site listening on `host`, beyond localhost."""
    if host in ("0.0.0.0", "::", ""):
        return [socket.gethostname().lower(), *_own_address()]
    return [f"[{host}]" if ":" in host else host]


def _own_address() -> list[str]:
    """This machine's address on its network, if it has one. Connecting a UDP socket sends nothing."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return [probe.getsockname()[0]]
    return []


def _linkable(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return next(iter(_own_address()), "localhost")
    return f"[{host}]" if ":" in host else host


def site_programs(environment: dict[str, str], listener: int) -> list[Program]:
    """The web servers, which accept from one socket, the worker that answers, the worker that trains."""
    return [
        *web.programs(settings.WEB_PROCESSES, listener, environment),
        *(
            Program(name=queue, command=[sys.executable, "-m", "webapp.ops.worker", queue], env=environment)
            for queue in ("generate", "train")
        ),
    ]


def first_start_program(environment: dict[str, str], options: dict[str, Any]) -> Program:
    """Writes the first checkpoint and queues the curriculum, in a process of its own that ends."""
    flags = [f"--{flag.replace('_', '-')}" for flag in ("demo", "no_curriculum") if options[flag]]
    start = ["--start", options["start"]] if options["start"] else []
    command = [sys.executable, "manage.py", "first_start", *flags, *start]
    return Program(name="first", command=command, env=environment, once=True)

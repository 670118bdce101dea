"""Settings of the suite: a scratch data directory, fast password hashing, everything else as shipped.

A DATABASE_URL or REDIS_URL in the environment is used (`make test-postgres` gives both); without
them the suite runs on a SQLite file and on an embedded Redis that `conftest.py` starts.

Each process of a suite that runs in several has all of this for itself: a data directory, and in it a SQLite
file; an embedded Redis, or a database of its own on the one given; on PostgreSQL a test database of its own
(pytest-django puts the process's name behind it).
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from webapp.ops import embedded_redis

_worker = os.environ.get("PYTEST_XDIST_WORKER", "")


def own_redis(url: str, worker: str) -> str:
    """The database of this process on a shared server: gw0 takes the next after the one named, and so on.

    "" is a suite in one process, or the one that hands out the tests: they may empty the database that was named.
    """
    if not worker:
        return url
    parts = urlsplit(url)
    number = 1 + int(worker.removeprefix("gw"))
    if parts.scheme == "unix":
        first = int(parts.query.partition("db=")[2].partition("&")[0] or 0)
        return urlunsplit(parts._replace(query=f"db={first + number}"))
    return urlunsplit(parts._replace(path=f"/{int(parts.path.strip('/') or 0) + number}"))


# A test that computes does so on one core: the others have tests of their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SCRATCH: list[Path] = []
"""Directories of this process. A process of several ends without what `atexit` promises; conftest.py sees to it."""

_scratch = tempfile.mkdtemp(prefix="stagecraft-test-")
SCRATCH.append(Path(_scratch))
atexit.register(shutil.rmtree, _scratch, ignore_errors=True)
os.environ["DATA_DIR"] = _scratch  # never a real site's
os.environ["SECRET_KEY"] = "tests-only-" + "x" * 50

EMBEDDED_REDIS_DIR: Path | None = None
_given = os.environ.setdefault("SUITE_REDIS_URL", os.environ.get("REDIS_URL", ""))
if os.environ.get("SUITE_PROCESS") != (_worker or "first"):
    # Not so in a process that a test starts: it shares the Redis of the test.
    os.environ["SUITE_PROCESS"] = _worker or "first"
    if _given:
        os.environ["REDIS_URL"] = own_redis(_given, _worker)
    else:
        EMBEDDED_REDIS_DIR = embedded_redis.make_directory()
        SCRATCH.append(EMBEDDED_REDIS_DIR)
        atexit.register(shutil.rmtree, EMBEDDED_REDIS_DIR, ignore_errors=True)
        os.environ["REDIS_URL"] = embedded_redis.url_of(EMBEDDED_REDIS_DIR)

from webapp.settings import *  # noqa: E402, F403
from webapp.settings import DATA_DIR, DATABASES  # noqa: E402

if DATABASES["default"]["ENGINE"] == "webapp.ops.sqlite":
    # A file, as in real life: threads and other processes share it under the same locking rules.
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR / "test.sqlite3")}

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
AXES_ENABLED = False

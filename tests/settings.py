"""Settings of the suite: a scratch data directory, fast password hashing, everything else as shipped.

A DATABASE_URL or REDIS_URL in the environment is used (`make test-postgres` gives both); without
them the suite runs on a SQLite file and on an embedded Redis that `conftest.py` starts.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from webapp.ops import embedded_redis

_scratch = tempfile.mkdtemp(prefix="stagecraft-test-")
atexit.register(shutil.rmtree, _scratch, ignore_errors=True)
os.environ["DATA_DIR"] = _scratch  # never a real site's
os.environ["SECRET_KEY"] = "tests-only-" + "x" * 50

EMBEDDED_REDIS_DIR: Path | None = None
if not os.environ.get("REDIS_URL"):
    EMBEDDED_REDIS_DIR = embedded_redis.make_directory()
    atexit.register(shutil.rmtree, EMBEDDED_REDIS_DIR, ignore_errors=True)
    os.environ["REDIS_URL"] = embedded_redis.url_of(EMBEDDED_REDIS_DIR)

from webapp.settings import *  # noqa: E402, F403
from webapp.settings import DATA_DIR, DATABASES  # noqa: E402

if DATABASES["default"]["ENGINE"] == "webapp.ops.sqlite":
    # A file, as in real life: threads and other processes share it under the same locking rules.
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR / "test.sqlite3")}

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
AXES_ENABLED = False

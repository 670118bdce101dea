"""Settings of the suite: a scratch data directory, fast password hashing, everything else as shipped."""

import os
import tempfile

os.environ.setdefault("DATA_DIR", tempfile.mkdtemp(prefix="stagecraft-test-"))
os.environ.setdefault("SECRET_KEY", "tests-only-" + "x" * 50)

from webapp.settings import *  # noqa: E402, F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
AXES_ENABLED = False

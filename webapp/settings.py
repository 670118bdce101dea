"""Settings, all from the environment; the defaults run on a laptop with nothing installed."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dj_database_url
import django_stubs_ext
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from trainer.config import available_cores
from trainer.presets import PRESETS
from trainer.runtime.reading import memory_bytes

django_stubs_ext.monkeypatch()  # ModelAdmin[Checkpoint] and its like work at run time too

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("DATA_DIR") or BASE_DIR / "var").resolve()
CHECKPOINT_DIR = DATA_DIR / "checkpoints"
RUN_DIR = DATA_DIR / "runs"


def _flag(name: str, default: bool) -> bool:
    value = os.environ.get(name, "").strip().lower()
    if value not in ("", "0", "1", "true", "false", "yes", "no"):
        raise ImproperlyConfigured(f"{name}={value!r}: write 1 or 0.")
    return default if not value else value in ("1", "true", "yes")


def _number(name: str, default: int, *, least: int = 1) -> int:
    value = os.environ.get(name, "").strip() or str(default)
    if not value.isdecimal() or int(value) < least:
        raise ImproperlyConfigured(f"{name}={value!r}: write a whole number of at least {least}.")
    return int(value)


def _choice(name: str, default: str, choices: Iterable[str]) -> str:
    value = os.environ.get(name, "").strip() or default
    if value not in choices:
        raise ImproperlyConfigured(f"{name}={value!r}: choose one of {', '.join(choices)}.")
    return value


def _listed(name: str, default: list[str]) -> list[str]:
    return [item.strip() for item in os.environ.get(name, "").split(",") if item.strip()] or default


def _networks(name: str) -> list[str]:
    """Addresses and networks; a typing error there must not pass as nobody, nor "*" as anybody."""
    listed = _listed(name, [])
    for item in listed:
        try:
            ipaddress.ip_network(item)
        except ValueError:
            message = f"{name}: {item!r} is no address or network. Write the proxy's: 10.0.0.5 or 172.18.0.0/16."
            raise ImproperlyConfigured(message) from None
    return listed


LOCAL = _flag("STAGECRAFT_LOCAL", False)
"""A laptop on its own: `manage.py` says so when SECRET_KEY is unset, and `up` passes it on."""
DEBUG = _flag("DEBUG", False)
if DEBUG and not LOCAL:
    raise ImproperlyConfigured("DEBUG=1 shows visitors the site's insides. Unset it, or unset SECRET_KEY on a laptop.")


def _secret_key() -> str:
    """SECRET_KEY, or on a laptop one made once and kept private in DATA_DIR."""
    if key := os.environ.get("SECRET_KEY", ""):
        if len(key) < 40 or key.startswith("change-me"):
            raise ImproperlyConfigured("SECRET_KEY must be a long random string: at least 40 characters.")
        return key
    if not LOCAL:
        raise ImproperlyConfigured("SECRET_KEY is not set. Put a long random string in the environment.")
    path = DATA_DIR / "secret_key"
    try:
        DATA_DIR.mkdir(parents=True, exist_ok=True)
        # Linked into place whole, so that a process starting beside this one never reads half a key.
        draft = path.with_name(f"secret_key.{os.getpid()}")
        if not path.exists():
            draft.touch(mode=0o600)
            draft.write_text(secrets.token_urlsafe(50))
            with contextlib.suppress(FileExistsError):  # another process of this site was first
                os.link(draft, path)
            draft.unlink()
        return path.read_text().strip()
    except OSError as error:
        raise ImproperlyConfigured(f"Cannot write to DATA_DIR {DATA_DIR}: {error.strerror}.") from error


SECRET_KEY = _secret_key()
LOOPBACK = ["localhost", "127.0.0.1", "[::1]"]
ALLOWED_HOSTS = _listed("ALLOWED_HOSTS", LOOPBACK)
if "*" in ALLOWED_HOSTS:
    raise ImproperlyConfigured("ALLOWED_HOSTS=* accepts any name. List the site's own host names instead.")
ALONE = LOCAL and set(ALLOWED_HOSTS) <= set(LOOPBACK)
"""Nobody but who sits at this machine opens the site; on a network `up --host` adds its names."""
TRUSTED_PROXIES = _networks("FORWARDED_ALLOW_IPS")
"""Whose X-Forwarded-For and X-Forwarded-Proto are believed, and who may hold any number of connections."""
CSRF_TRUSTED_ORIGINS = _listed("CSRF_TRUSTED_ORIGINS", [])
CSRF_FAILURE_VIEW = "webapp.accounts.views.refuse_stale_form"

INSTALLED_APPS = [
    "servestatic.runserver_nostatic",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "csp",
    "django_htmx",
    "axes",
    "channels",
    "webapp.ops",
    "webapp.accounts",
    "webapp.checkpoints",
    "webapp.answers",
    "webapp.chat",
    "webapp.arena",
    "webapp.training",
    "webapp.stages",
]

MIDDLEWARE = [
    "webapp.ops.metrics.TimeRequests",
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "webapp.line_ends.LineEndMiddleware",
    "webapp.accounts.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "webapp.urls"
ASGI_APPLICATION = "webapp.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "builtins": ["webapp.formats"],
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "webapp.accounts.context.theme",
                "webapp.stages.context.stage_rail",
            ],
        },
    }
]

# -- database ------------------------------------------------------------------------------------
# SQLite as measured in the design: with these settings concurrent writers wait instead of failing.
_SQLITE: dict[str, Any] = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
}
try:
    # A pool looks whether a connection lives before it lends it: a restart of PostgreSQL costs nobody an error.
    DATABASES = {
        "default": dj_database_url.config(
            default=f"sqlite:///{DATA_DIR / 'db.sqlite3'}", conn_max_age=0, conn_health_checks=True
        )
    }
except (dj_database_url.ParseError, dj_database_url.UnknownSchemeError) as error:
    raise ImproperlyConfigured("DATABASE_URL is not understood: write postgres://user:password@host/name.") from error
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"] |= {"ENGINE": "webapp.ops.sqlite", "OPTIONS": _SQLITE}
else:
    DATABASES["default"].setdefault("OPTIONS", {})["pool"] = {
        "min_size": 1,
        "max_size": _number("DATABASE_POOL", 16),
        "timeout": 20,
    }

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = 0.25  # hours
AXES_RESET_ON_SUCCESS = True  # only failures in a row count
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]  # a class behind one address is not locked out together
AXES_LOCKOUT_TEMPLATE = "accounts/locked.html"
LOGIN_URL = "accounts:login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SESSION_ENGINE = "webapp.accounts.sessions"
SESSION_COOKIE_AGE = 60 * 60 * 24 * 365
SESSION_COOKIE_SAMESITE = "Lax"
STAFF_SESSION_S = _number("STAFF_SESSION_HOURS", 12) * 3600
"""Staff type their password again after this long."""

# -- Redis: broker, live logs, limits ------------------------------------------------------------
REDIS_URL_FILE = DATA_DIR / "redis_url"
"""Where `manage.py up` writes the address of its embedded server, so that commands beside it find it."""


def _redis_url() -> str:
    if url := os.environ.get("REDIS_URL"):
        return url
    try:
        return REDIS_URL_FILE.read_text().strip()
    except OSError:
        return "unix:///no-site-is-running.sock?db=0"  # a command that needs Redis then says it is away


REDIS_URL = _redis_url()


def _broker_url(url: str) -> str:
    """kombu spells a unix socket differently from redis-py."""
    if not url.startswith("unix://"):
        return url
    path, _, query = url.removeprefix("unix://").partition("?")
    database = dict(part.partition("=")[::2] for part in query.split("&") if part).get("db", "0")
    return f"redis+socket://{path}?virtual_host={database}"


CELERY_BROKER_URL = _broker_url(REDIS_URL)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_DEFAULT_QUEUE = "background"
# The queues, and who may wait behind whom, stand in webapp/ops/queues.py. An answer's queue is named when it is sent.
CELERY_TASK_ROUTES = {
    "webapp.training.tasks.execute_run": {"queue": "train"},
    "webapp.training.tasks.look_after_runs": {"queue": "chores"},
    "webapp.answers.tasks.look_after_answers": {"queue": "chores"},
    "webapp.arena.tasks.keep_pairs_ready": {"queue": "chores"},
    "webapp.arena.tasks.look_after_exports": {"queue": "chores"},
    "webapp.chat.tasks.prune": {"queue": "chores"},
}
CELERY_BEAT_SCHEDULE: dict[str, dict[str, Any]] = {  # sent by the workers themselves (webapp/ops/periodic.py)
    "keep-pairs-ready": {"task": "webapp.arena.tasks.keep_pairs_ready", "schedule": 5.0},
    "keep-ranking": {"task": "webapp.arena.tasks.keep_ranking", "schedule": 60.0},
    "look-after-exports": {"task": "webapp.arena.tasks.look_after_exports", "schedule": 30.0},
    "look-after-answers": {"task": "webapp.answers.tasks.look_after_answers", "schedule": 30.0},
    "look-after-runs": {"task": "webapp.training.tasks.look_after_runs", "schedule": 20.0},
    "prune": {"task": "webapp.chat.tasks.prune", "schedule": 86_400.0},
}
PRUNE_AFTER_DAYS = _number("PRUNE_AFTER_DAYS", 30)
"""A deleted chat can be brought back for this long; then it is deleted for good (`manage.py prune`)."""
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_DISABLE_PREFETCH = True
"""A worker holds no message it does not work on: another one may be free, and this one may die."""
CELERY_WORKER_CONSUMER = "webapp.ops.consumer:Consumer"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 3600,
    "queue_order_strategy": "webapp.ops.lanes:Lanes",
    "polling_interval": 0.25,  # how long a queue that was full is left out, at most
}
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"

# -- static, security ----------------------------------------------------------------------------
STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
SERVESTATIC_USE_FINDERS = True
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "connect-src": [SELF],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
HTTPS = _flag("HTTPS", False)
"""Set behind a TLS proxy: secure cookies, HSTS and the forwarded-protocol header."""
HSTS = _choice("HSTS", "host", ("host", "subdomains", "preload"))
"""What browsers may reach by HTTPS only, for a year after a visit. Beyond the host it binds other people's sites."""
SILENCED_SYSTEM_CHECKS = [
    *(["security.W005"] if HSTS == "host" else []),
    *(["security.W021"] if HSTS != "preload" else []),
]
if HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = [r"^healthz$"]
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = HSTS != "host"
    SECURE_HSTS_PRELOAD = HSTS == "preload"
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024
MESSAGE_MAX_CHARS = 8000
"""Longest chat message; longer ones are refused with a clear error."""
VOTES_PER_REWARD_MODEL = 40
"""How many votes the curriculum asks people for before it offers to train the reward model."""
CURRICULUM_PRESET = _choice("STAGECRAFT_PRESET", "tiny", PRESETS)
"""The preset the first start, and the next-step button, train with."""
WEB_PROCESSES = _number("WEB_PROCESSES", min(2, available_cores()))
"""Web servers `manage.py up` starts: one Python process renders one page at a time."""
TRAINER_COMMAND = [sys.executable, "-m", "trainer"]
"""How a train worker starts the trainer."""
TRAIN_THREADS = _number("TRAIN_THREADS", max(1, available_cores() - 1))
"""Threads of a training run: one core stays free to chat.

Decided by the worker that claims the run first, for its own machine, and kept by every later one: sums depend on
their number. A run that goes on on a machine with fewer cores takes longer. It ends in the same bytes on machines of
one kind (processor and torch); between kinds it goes on just as well, but not to the last digit.
"""
RUN_HEARTBEAT_S = 10
RUN_LEASE_S = 90
"""A worker renews its lease on a run every RUN_HEARTBEAT_S; RUN_LEASE_S without that, and the run is taken over."""
RUN_STOP_DEADLINE_S = 120
"""A trainer asked to stop and save is killed after this."""
ENGINE_MEMORY_MB = _number("ENGINE_MEMORY_MB", max(768, min(8192, memory_bytes() // 2**20 // 4)))
"""Loaded chat models are dropped, least recently used first, above this; one that needs more is not loaded at all. By
default a quarter of this machine's memory: room for three stages of a model of 135 million weights on a laptop."""
ENGINE_DEVICE = _choice("ENGINE_DEVICE", "auto", ("auto", "cpu", "cuda"))
"""Where chat models are held: on the GPU where there is one (auto), or where this says."""

METRICS_KEY = os.environ.get("METRICS_KEY", "")
"""What Prometheus sends to read /metrics. Unset: only the owner's browser may."""
if METRICS_KEY and len(METRICS_KEY) < 16:
    raise ImproperlyConfigured("METRICS_KEY can be guessed: use at least 16 random characters, or unset it.")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["console"], "level": _choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))},
    "loggers": {
        "httpx": {"level": "WARNING"},
        "axes": {"level": "WARNING"},
        # Otherwise two lines for every answer and every chore.
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.worker.request": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
    },
}

"""Settings are read by a fresh interpreter each time: they are made at import."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEY = "k" * 50
OURS = (
    *("SECRET_KEY", "DATA_DIR", "REDIS_URL", "DATABASE_URL", "DEBUG", "ALLOWED_HOSTS", "STAGECRAFT_LOCAL"),
    *("HTTPS", "HSTS", "FORWARDED_ALLOW_IPS"),
)


def run(data_dir: Path, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    environment = {**kept, "DATA_DIR": str(data_dir), "DJANGO_SETTINGS_MODULE": "webapp.settings", **env}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)


def value(data_dir: Path, expression: str, **env: str) -> object:
    ran = run(data_dir, f"import json; from webapp import settings; print(json.dumps({expression}))", **env)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def refusal(data_dir: Path, **env: str) -> str:
    ran = run(data_dir, "import webapp.settings", **env)
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("django.core.exceptions.ImproperlyConfigured: ")
    return last.partition(": ")[2]


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "SECRET_KEY is not set"),
        ({"SECRET_KEY": ""}, "SECRET_KEY is not set"),
        ({"SECRET_KEY": "short"}, "at least 40 characters"),
        ({"SECRET_KEY": "change-me" + KEY}, "long random string"),
        ({"SECRET_KEY": KEY, "DEBUG": "1"}, "DEBUG=1 shows visitors"),
        ({"SECRET_KEY": KEY, "ALLOWED_HOSTS": "*"}, "ALLOWED_HOSTS=* accepts any name"),
        ({"SECRET_KEY": KEY, "DEBUG": "maybe"}, "DEBUG='maybe': write 1 or 0"),
        ({"SECRET_KEY": KEY, "WEB_PROCESSES": "0"}, "WEB_PROCESSES='0': write a whole number of at least 1"),
        ({"SECRET_KEY": KEY, "TRAIN_THREADS": "two"}, "TRAIN_THREADS='two': write a whole number"),
        ({"SECRET_KEY": KEY, "ENGINE_MEMORY_MB": "-5"}, "ENGINE_MEMORY_MB='-5': write a whole number"),
        ({"SECRET_KEY": KEY, "STAGECRAFT_PRESET": "huge"}, "choose one of smoke, tiny, small, base"),
        ({"SECRET_KEY": KEY, "LOG_LEVEL": "loud"}, "choose one of DEBUG, INFO, WARNING, ERROR"),
        ({"SECRET_KEY": KEY, "HSTS": "1"}, "HSTS='1': choose one of host, subdomains, preload"),
        ({"SECRET_KEY": KEY, "FORWARDED_ALLOW_IPS": "*"}, "FORWARDED_ALLOW_IPS: '*' is no address or network"),
        ({"SECRET_KEY": KEY, "FORWARDED_ALLOW_IPS": "127.0.0.1,proxy"}, "'proxy' is no address or network"),
        ({"SECRET_KEY": KEY, "FORWARDED_ALLOW_IPS": "10.0.0.1/8"}, "'10.0.0.1/8' is no address or network"),
        ({"SECRET_KEY": KEY, "DATABASE_URL": "here"}, "DATABASE_URL is not understood"),
    ],
)
def test_a_server_refuses_to_start_with_unsafe_or_unknown_settings(
    tmp_path: Path, env: dict[str, str], message: str
) -> None:
    assert message in refusal(tmp_path, **env)


def test_the_key_in_env_example_is_refused(tmp_path: Path) -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    (example,) = [line.partition("=")[2] for line in lines if line.startswith("SECRET_KEY=")]
    assert "SECRET_KEY" in refusal(tmp_path, SECRET_KEY=example)


def test_a_laptop_gets_one_private_key_and_keeps_it(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    first = value(data_dir, "settings.SECRET_KEY", STAGECRAFT_LOCAL="1")
    assert isinstance(first, str)
    assert len(first) >= 50
    assert value(data_dir, "settings.SECRET_KEY", STAGECRAFT_LOCAL="1") == first
    assert stat.S_IMODE((data_dir / "secret_key").stat().st_mode) == 0o600
    assert [path.name for path in data_dir.iterdir()] == ["secret_key"]


@pytest.mark.parametrize(
    ("env", "is_alone"),
    [
        ({"STAGECRAFT_LOCAL": "1"}, True),
        ({"STAGECRAFT_LOCAL": "1", "ALLOWED_HOSTS": "localhost,127.0.0.1,[::1],laptop,192.168.1.7"}, False),
        ({"SECRET_KEY": KEY}, False),
    ],
)
def test_a_site_on_a_network_is_not_alone(tmp_path: Path, env: dict[str, str], is_alone: bool) -> None:
    assert value(tmp_path, "settings.ALONE", **env) is is_alone


@pytest.mark.parametrize(
    ("redis_url", "broker_url"),
    [
        ("redis://:secret@redis:6379/2", "redis://:secret@redis:6379/2"),
        ("unix:///run/r.sock?db=3", "redis+socket:///run/r.sock?virtual_host=3"),
        ("unix:///run/r.sock", "redis+socket:///run/r.sock?virtual_host=0"),
    ],
)
def test_the_broker_is_the_same_redis(tmp_path: Path, redis_url: str, broker_url: str) -> None:
    expression = "[settings.REDIS_URL, settings.CELERY_BROKER_URL]"
    assert value(tmp_path, expression, SECRET_KEY=KEY, REDIS_URL=redis_url) == [redis_url, broker_url]


def test_commands_find_the_redis_of_the_running_site(tmp_path: Path) -> None:
    (tmp_path / "redis_url").write_text("unix:///tmp/here/redis.sock?db=0")
    assert value(tmp_path, "settings.REDIS_URL", SECRET_KEY=KEY) == "unix:///tmp/here/redis.sock?db=0"


def test_sqlite_waits_for_its_turn_and_postgres_pools(tmp_path: Path) -> None:
    sqlite = value(tmp_path, "[settings.DATABASES['default'][name] for name in ('ENGINE', 'OPTIONS')]", SECRET_KEY=KEY)
    options = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
    assert sqlite == ["webapp.ops.sqlite", options]
    pooled = value(
        tmp_path,
        "[settings.DATABASES['default'][name] for name in ('OPTIONS', 'CONN_HEALTH_CHECKS')]",
        SECRET_KEY=KEY,
        DATABASE_URL="postgres://u:p@db/name",
        DATABASE_POOL="5",
    )
    assert pooled == [{"pool": {"min_size": 1, "max_size": 5, "timeout": 20}}, True]


def test_no_proxy_is_trusted_unless_it_is_named(tmp_path: Path) -> None:
    assert value(tmp_path, "settings.TRUSTED_PROXIES", SECRET_KEY=KEY) == []
    named = value(tmp_path, "settings.TRUSTED_PROXIES", SECRET_KEY=KEY, FORWARDED_ALLOW_IPS="10.0.0.5, fd00::/8")
    assert named == ["10.0.0.5", "fd00::/8"]


@pytest.mark.parametrize(
    ("asked", "subdomains", "preload"), [("", False, False), ("subdomains", True, False), ("preload", True, True)]
)
def test_https_speaks_for_this_host_alone_unless_more_is_asked(
    tmp_path: Path, asked: str, subdomains: bool, preload: bool
) -> None:
    names = ("SECURE_HSTS_SECONDS", "SECURE_HSTS_INCLUDE_SUBDOMAINS", "SECURE_HSTS_PRELOAD")
    expression = f"[getattr(settings, name) for name in {names}]"
    assert value(tmp_path, expression, SECRET_KEY=KEY, HTTPS="1", HSTS=asked) == [31_536_000, subdomains, preload]


@pytest.mark.parametrize(("asked", "silenced"), [("host", 2), ("subdomains", 1), ("preload", 0)])
def test_a_deployment_passes_djangos_own_check(tmp_path: Path, asked: str, silenced: int) -> None:
    """But for the warnings that HSTS is the host's alone, where nobody asked for more."""
    code = "from django.core.management import execute_from_command_line as run; run(['x', 'check', '--deploy'])"
    names = {"SECRET_KEY": "aB3" + "k3y!" * 15, "ALLOWED_HOSTS": "stagecraft.example.org"}
    ran = run(tmp_path, code, HTTPS="1", HSTS=asked, **names)
    assert ran.returncode == 0
    assert f"no issues ({silenced} silenced)" in ran.stdout, ran.stderr

"""Fixtures of the whole suite: a real Redis, a small cast of people, checkpoints without torch.

The cast: `visitor` came by without an account, `alice` has an account, `staff` may start runs,
`owner` is the superuser. `client_of(person)` is a browser they are logged in on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from tests import smallest
from trainer.config import available_cores
from webapp.ops import embedded_redis

PASSWORD = "correct horse battery staple"


MOST_PROCESSES = 8
"""Of the suite at a time: each takes half a gigabyte."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What `-n auto` means here: the cores this process may use, where a container has fewer than the machine."""
    return min(MOST_PROCESSES, available_cores())


LONGEST = ("test_pipeline.py", "test_training_real.py")
"""Files of the tests that take longest: begun last, one of them would keep all but one core waiting."""


def pytest_unconfigure() -> None:
    from tests import settings as own

    for directory in own.SCRATCH:
        shutil.rmtree(directory, ignore_errors=True)


# -- browser ---------------------------------------------------------------------------------------


def find_chromium() -> str | None:
    """A Chromium or Chrome on this system; $CHROMIUM names another."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    mac = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    return found or (mac if Path(mac).exists() else None)


@pytest.hookimpl(trylast=True)  # after the order was drawn
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first. Without a browser its tests are skipped, except in CI, where one is installed."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    if find_chromium() or os.environ.get("CI") == "true":
        return
    reason = "no Chromium or Chrome found; install one, or set CHROMIUM to its path"
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser that `browser` tests drive."""
    path = find_chromium()
    assert path, "CI=true, but no Chromium or Chrome is installed"
    return path


# -- Redis -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def redis_url() -> Iterator[str]:
    """The suite's Redis: the one in REDIS_URL, or an embedded server started here."""
    directory: Path | None = settings.EMBEDDED_REDIS_DIR
    if directory is None:
        yield settings.REDIS_URL
        return
    process = subprocess.Popen(embedded_redis.command(directory), stdout=subprocess.DEVNULL)
    try:
        embedded_redis.wait_until_answering(directory, process)
        yield settings.REDIS_URL
    finally:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def _empty_redis(redis_url: str) -> None:
    """Every test starts with an empty Redis."""
    from webapp.live import streams

    streams.client().flushdb()


@pytest.fixture
def redis_server(redis_url: str) -> Any:
    """A client of the suite's Redis, for tests that look inside it."""
    from webapp.live import streams

    return streams.client()


# -- database --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Hang up on threads that still hold a PostgreSQL session (async views, consumers), so it can be dropped."""
    yield
    from django.db import connection

    if connection.vendor == "postgresql":
        with django_db_blocker.unblock(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


# -- people ----------------------------------------------------------------------------------------


def _user(username: str, **extra: Any) -> Any:
    from django.contrib.auth import get_user_model

    return get_user_model().objects.create_user(username=username, password=PASSWORD, **extra)


@pytest.fixture
def visitor(db: None) -> Any:
    """Someone without an account; `visitor_client` is their browser."""
    from webapp.accounts.models import Visitor

    return Visitor.objects.create()


@pytest.fixture
def alice(db: None) -> Any:
    """An ordinary account."""
    return _user("alice")


@pytest.fixture
def staff(db: None) -> Any:
    """May start, stop and import."""
    from django.contrib.auth.models import Permission

    user = _user("stan", is_staff=True)
    user.user_permissions.set(Permission.objects.all())
    return user


@pytest.fixture
def owner(db: None) -> Any:
    """The superuser."""
    return _user("olga", is_staff=True, is_superuser=True)


@pytest.fixture
def visitor_client(visitor: Any) -> Client:
    client = Client()
    session = client.session
    session["visitor_id"] = str(visitor.id)
    session.save()
    return client


@pytest.fixture
def client_of() -> Callable[[Any], Client]:
    """A browser a user is logged in on."""

    def logged_in(user: Any) -> Client:
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return logged_in


@pytest.fixture
def alice_client(alice: Any, client_of: Callable[[Any], Client]) -> Client:
    return client_of(alice)


@pytest.fixture
def staff_client(staff: Any, client_of: Callable[[Any], Client]) -> Client:
    return client_of(staff)


@pytest.fixture
def owner_client(owner: Any, client_of: Callable[[Any], Client]) -> Client:
    return client_of(owner)


# -- checkpoints and tasks -------------------------------------------------------------------------


def write_checkpoint_files(directory: Path, *, stage: str, preset: str = "smoke", **info: Any) -> dict[str, Any]:
    """A well-formed checkpoint directory of the smallest model there is; returns its stage.json."""
    # The first number differs from checkpoint to checkpoint, so that their hashes do.
    weights, config = smallest.weights(stage, first=uuid.uuid4().bytes[:3]), smallest.config_json(stage)
    files: dict[str, Any] = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": [1]},
        "tokenizer.json": smallest.TOKENIZER,
        "tokenizer_config.json": {"chat_template": ""},
    }
    stage_info = {
        "stage": stage,
        "preset": preset,
        "parent_sha256": None,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "parameters": 1,
        "config": {},
        "data_sha256": "0" * 64,
        "code_version": "test",
        "metrics": {},
        "seconds": 0.0,
        **info,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.safetensors").write_bytes(weights)
    for name, content in {**files, "stage.json": stage_info}.items():
        (directory / name).write_text(json.dumps(content))
    return stage_info


@pytest.fixture
def make_checkpoint(db: None) -> Callable[..., Any]:
    """`make_checkpoint(stage="sft", parent=…, name=…)`: a Checkpoint row over a directory of tiny files."""

    def make(stage: str = "sft", *, preset: str = "smoke", parent: Any = None, **fields: Any) -> Any:
        from webapp.checkpoints.models import Checkpoint

        directory = f"{stage}-{uuid.uuid4().hex[:12]}"
        path = Path(settings.CHECKPOINT_DIR) / directory
        parent_sha256 = parent.weights_sha256 if parent else None
        info = write_checkpoint_files(path, stage=stage, preset=preset, parent_sha256=parent_sha256)
        values = {
            "stage": stage,
            "preset": preset,
            "parent": parent,
            "name": f"test {stage}",
            "directory": directory,
            "weights_sha256": info["weights_sha256"],
            "parameters": info["parameters"],
            "bytes": (path / "model.safetensors").stat().st_size,
        }
        return Checkpoint.objects.create(**{**values, **fields})

    return make


@dataclass
class EnqueuedTask:
    """One captured message."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: dict[str, Any]


@dataclass
class Enqueued:
    """What would have gone to the broker, in order."""

    tasks: list[EnqueuedTask] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tasks)

    def names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def of(self, name: str) -> list[EnqueuedTask]:
        """Calls of the task whose name ends with `name`."""
        return [task for task in self.tasks if task.name.endswith(name)]


@pytest.fixture
def enqueued(monkeypatch: pytest.MonkeyPatch) -> Enqueued:
    """Captures tasks instead of sending them.

    Services enqueue after commit: in a test without real transactions wrap the call in
    `django_capture_on_commit_callbacks(execute=True)`.
    """
    from celery import Celery

    captured = Enqueued()

    def send_task(self: Any, name: str, args: Any = None, kwargs: Any = None, *positional: Any, **options: Any) -> None:
        captured.tasks.append(EnqueuedTask(name, tuple(args or ()), dict(kwargs or {}), options))

    monkeypatch.setattr(Celery, "send_task", send_task)  # `delay` and `apply_async` end there too
    return captured

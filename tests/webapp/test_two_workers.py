"""Two workers of one site, each in a process and a data directory of its own, one with a clock an hour off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now

from tests.processes import ROOT, Watched, environment
from webapp.checkpoints.models import Checkpoint
from webapp.training import services
from webapp.training.models import TrainingRun

State = TrainingRun.State
FAKE = Path(__file__).with_name("fake_trainer.py")
HOUR_S = 3600

WORKER = """
import json, sys
from datetime import timedelta
import webapp.settings as site
database, trainer, shift_s = json.loads(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3])
site.DATABASES["default"]["NAME"], site.TRAINER_COMMAND, site.RUN_HEARTBEAT_S = database, trainer, 0.1
from django.utils import timezone
right = timezone.now
timezone.now = lambda: right() + timedelta(seconds=shift_s)  # this machine's clock; the database has its own
import django
django.setup()
from webapp.training import attempts, services
attempts.POLL_S = 0.1
print("ready", flush=True)
for line in sys.stdin:
    services.reap_runs()
    run = attempts.supervise_run(int(line))
    print("attempt", run.attempt if run else "none", flush=True)
"""


class Worker(Watched):
    """A host: its own view of the shared directories, and its own idea of the time."""

    def take(self, run: TrainingRun) -> None:
        """Look after dead workers' runs, then train this one if it may; prints "attempt N" or "attempt none"."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{run.pk}\n")
        self.process.stdin.flush()


@pytest.fixture
def shared(tmp_path: Path, settings: Any) -> Path:
    """What both hosts see; this process is the web server, and has a directory of its own as well."""
    settings.DATA_DIR = view(tmp_path, "web")
    settings.CHECKPOINT_DIR, settings.RUN_DIR = settings.DATA_DIR / "checkpoints", settings.DATA_DIR / "runs"
    return tmp_path / "shared"


def view(tmp_path: Path, name: str) -> Path:
    for part in ("checkpoints", "runs"):
        (tmp_path / "shared" / part).mkdir(parents=True, exist_ok=True)
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / part).symlink_to(tmp_path / "shared" / part)
    return tmp_path / name


@pytest.fixture
def worker(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Worker]]:
    """`worker("a", shift_s=-3600)`: a worker process on a host called a."""
    with ExitStack() as running:

        def begin(name: str, *, shift_s: int = 0) -> Worker:
            extra = {"SECRET_KEY": "tests-only-" + "x" * 50, "REDIS_URL": redis_url}
            if url := os.environ.get("DATABASE_URL"):
                extra["DATABASE_URL"] = url
            arguments = [connection.settings_dict["NAME"], [sys.executable, str(FAKE), "tireless"], shift_s]
            process = subprocess.Popen(
                [sys.executable, "-c", WORKER, *map(json.dumps, arguments)],
                cwd=ROOT,
                env=environment(view(tmp_path, name), **extra),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdin is not None
            running.callback(process.stdin.close)
            started = Worker(process)
            running.callback(started.end)
            started.wait_for("ready")
            return started

        yield begin


def until(happened: Callable[[], object]) -> None:
    while not happened():
        time.sleep(0.02)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("shift_a", "shift_b"), [(-HOUR_S, 0), (0, HOUR_S)], ids=["one behind", "one ahead"])
def test_a_hung_workers_run_is_taken_over_whole_and_a_living_ones_is_not(
    shared: Path, worker: Any, make_checkpoint: Any, enqueued: Any, shift_a: int, shift_b: int
) -> None:
    run = services.queue_run(stage="sft", preset="smoke", parent=make_checkpoint("pretrain"))
    first, second = (shared / "checkpoints" / f"sft-{run.pk:04d}-{attempt}" for attempt in (1, 2))
    a, b = worker("a", shift_s=shift_a), worker("b", shift_s=shift_b)

    a.take(run)
    until((first / "resume" / "state.safetensors").exists)
    lease = TrainingRun.objects.get().lease_until
    until(lambda: TrainingRun.objects.get().lease_until != lease)  # it has been renewed
    b.take(run)
    b.wait_for("attempt none")  # whatever the clocks say, its worker lives
    run.refresh_from_db()
    assert (run.state, run.attempt, run.interruptions) == (State.RUNNING, 1, 0)

    a.process.send_signal(signal.SIGSTOP)  # it hangs, and its trainer goes on
    TrainingRun.objects.update(lease_until=Now() - timedelta(seconds=1))
    b.take(run)
    b.wait_for("attempt 2")
    run.refresh_from_db()
    assert (run.state, run.attempt, run.resumed_step) == (State.DONE, 2, 1)
    checkpoint = Checkpoint.objects.get(stage="sft")
    assert run.checkpoint == checkpoint
    assert (shared / "checkpoints" / checkpoint.directory) == second
    weights = (second / "model.safetensors").read_bytes()
    until((first / "resume" / "state.safetensors").exists)  # it still writes, where nobody reads

    a.process.send_signal(signal.SIGCONT)
    a.wait_for("attempt 1")
    assert not first.exists()
    assert (second / "model.safetensors").read_bytes() == weights
    run.refresh_from_db()
    assert (run.state, run.checkpoint) == (State.DONE, checkpoint)


@pytest.mark.django_db(transaction=True)
def test_a_run_goes_on_after_a_restore_to_another_path(
    shared: Path, worker: Any, make_checkpoint: Any, enqueued: Any, tmp_path: Path
) -> None:
    """The old place still exists, and holds another site by now."""
    parent = make_checkpoint("pretrain")
    run = services.queue_run(stage="sft", preset="smoke", parent=parent)
    a = worker("a")
    a.take(run)
    until((shared / "checkpoints" / f"sft-{run.pk:04d}-1" / "resume" / "state.safetensors").exists)
    a.end()  # with its trainer
    TrainingRun.objects.update(lease_until=Now() - timedelta(seconds=1))
    text = (shared / "runs" / str(run.pk) / "run.json").read_text()
    assert str(tmp_path) not in text

    backup = tmp_path / "backup"
    shared.rename(backup)
    (shared / "checkpoints" / parent.directory).mkdir(parents=True)
    b = worker("b")
    for part in ("checkpoints", "runs"):
        (tmp_path / "b" / part).unlink()
        (backup / part).rename(tmp_path / "b" / part)
    b.take(run)
    b.wait_for("attempt 2")
    run.refresh_from_db()
    assert (run.state, run.resumed_step, run.error) == (State.DONE, 1, "")
    assert run.checkpoint is not None
    assert (tmp_path / "b" / "checkpoints" / run.checkpoint.directory / "stage.json").is_file()
    assert [path.name for path in (shared / "checkpoints").iterdir()] == [parent.directory]

"""Running a trainer: one subprocess, watched by one loop.

The subprocess (`python -m trainer run …`) can be killed cleanly, gives all its memory back and may
use a GPU or have children of its own. The loop below reads its events, renews the lease on the run,
notices what people ask for, and kills the subprocess when the claim is gone. One thread does it all,
so nothing here needs a lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import selectors
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, connections

from trainer.runtime.files import take_over
from webapp.training import services
from webapp.training.events import MAX_LINE_BYTES, Logged, Measured, Started, parse_line
from webapp.training.models import TrainingRun

logger = logging.getLogger(__name__)

shutting_down = threading.Event()
"""Set when this worker has to leave; the run it has is saved and given back."""

POLL_S = 0.5
"""How soon a stop request is noticed at the latest."""
LEAVE_DEADLINE_S = 20
"""A trainer that has not saved by then, when the worker leaves, is killed: it resumes from its last save."""

EXIT_DONE, EXIT_STOPPED = 0, 3
"""Any other exit code is a failure; 2 is one the trainer has explained in an error event."""

Answer = TypeVar("Answer")


def supervise_run(run_id: int) -> TrainingRun | None:
    """Claim a run, train it, and record how it ended. None when there was nothing to claim."""
    run = services.claim_run(run_id=run_id, worker=_worker_name())
    if run is None:
        logger.info("Run %s is not waiting for a worker; nothing to do.", run_id)
        return None
    try:
        if problem := services.freeze_votes(run=run) or _input_problem(run):
            services.fail_run(run=run, error=problem)
        else:
            _Supervisor(run).supervise()
    except services.LeaseLostError:
        logger.warning("Lost the claim on %s; another worker has it.", run)
        with contextlib.suppress(OperationalError, InterfaceError):  # for as long as it was away, the claim was lost
            services.leave_run(run=run)
    return run


def _worker_name() -> str:
    return f"{socket.gethostname()[:60]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def _input_problem(run: TrainingRun) -> str:
    """Why the frozen inputs cannot be used; empty when they are as they were."""
    for name, file in (("run_json", "run.json"), ("votes", "votes.jsonl")):
        if name not in run.inputs:
            continue
        try:
            with (run.inputs_dir / file).open("rb") as content:
                sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError:
            return f"Its frozen input {file} is gone from the disk; start a new run."
        if sha256 != run.inputs[name]:
            return f"Its frozen input {file} was changed after it was queued; start a new run."
    return ""


def trainer_command(run: TrainingRun) -> list[str]:
    """The command that trains `run`, and resumes it: they are the same."""
    return [
        *settings.TRAINER_COMMAND,
        "run",
        str(run.inputs_dir / "run.json"),
        "--out",
        str(run.output_dir),
        "--threads",
        str(run.threads),
        "--progress",
        "json",
    ]


def prepare_output(run: TrainingRun) -> None:
    """Make this attempt's own directory, holding all that the attempt before it has saved.

    Those before it may still be written to, by a trainer whose worker hangs. Nothing here minds: what is taken over
    is whole, and nobody reads theirs again.
    """
    store = Path(settings.CHECKPOINT_DIR)
    earlier = [store / name for name in run.earlier_directories]
    _set_aside(run.output_dir)
    if run.attempt == 1:
        _set_aside(*earlier)
    run.output_dir.mkdir(parents=True)
    for directory in earlier:
        if take_over(run.output_dir, directory):
            break
    for directory in earlier:
        shutil.rmtree(directory, ignore_errors=True)


def _set_aside(*directories: Path) -> None:
    """Move what an earlier database left in a new run's place; nothing of anybody's is deleted."""
    for directory in directories:
        if directory.exists():
            directory.rename(directory.with_name(f"{directory.name}.before-{uuid.uuid4().hex[:8]}"))


class _Supervisor:
    """One trainer subprocess from start to end."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.errors_path = run.inputs_dir / "stderr.log"
        self.said_error = ""
        self.step: int | None = None
        """The last one this attempt has reported; None until it has started."""
        self.stop_wanted = ""
        self.leaving = False
        self.kill_at = float("inf")
        self.was_late = False
        self.renew_at = 0.0
        self.lease_ends = time.monotonic() + settings.RUN_LEASE_S

    def supervise(self) -> None:
        prepare_output(self.run)
        with self.errors_path.open("ab") as errors:
            errors_start = errors.tell()
            self.child = subprocess.Popen(
                trainer_command(self.run),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=settings.BASE_DIR,
                start_new_session=True,  # its own process group: a Ctrl-C is for this process, not for the trainer
            )
        try:
            _lower_priority(self.child.pid)
            for line in self._lines():
                self._take(line)
            code = self.child.wait()
        finally:
            self._kill()
        self._conclude(code, errors_start)

    # -- while it runs -----------------------------------------------------------------------------

    def _lines(self) -> Iterator[bytes]:
        """Lines of its output until it is gone; between them, and at least every POLL_S, the watch is kept."""
        assert self.child.stdout is not None
        pending, watch_at = b"", 0.0
        with self.child.stdout as output, selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while True:
                gone = self.child.poll() is not None  # asked first: what it wrote before is still read below
                if time.monotonic() >= watch_at:
                    self._watch()
                    watch_at = time.monotonic() + POLL_S
                if not selector.select(timeout=0 if gone else POLL_S):
                    if gone:
                        return
                    continue
                chunk = os.read(output.fileno(), 65_536)
                if not chunk:
                    break
                *lines, pending = (pending + chunk).split(b"\n")
                yield from lines
                if len(pending) > MAX_LINE_BYTES:
                    pending = b"\x00"  # not an event, whatever follows on this line
        while self.child.poll() is None:  # its output is closed, but it is still there
            self._watch()
            time.sleep(POLL_S)

    def _take(self, line: bytes) -> None:
        event = parse_line(line)
        if event is None:
            if line.strip():
                logger.debug("%s: not an event: %.200r", self.run, line)
            return
        if isinstance(event, Logged) and event.level == "error":
            self.said_error = event.text
        else:
            if isinstance(event, Started | Measured):
                self.step = event.step
            self._persist(lambda: services.record_event(run=self.run, event=event))

    def _watch(self) -> None:
        """Renew the lease when it is time, notice stop requests, keep deadlines. Raises LeaseLostError."""
        now = time.monotonic()
        if now >= self.renew_at:
            request = self._persist(lambda: services.renew_lease(self.run))
            self.renew_at = now + settings.RUN_HEARTBEAT_S
            self.lease_ends = now + settings.RUN_LEASE_S
        else:
            request = self._persist(lambda: services.wanted_stop(self.run))
        if request == TrainingRun.StopRequest.DISCARD:
            self.stop_wanted = request
            self._kill()
        elif request and not self.stop_wanted:
            self.stop_wanted = request
            self._ask_to_save(settings.RUN_STOP_DEADLINE_S)
        elif shutting_down.is_set() and not self.leaving and not self.stop_wanted:
            self.leaving = True
            self._ask_to_save(LEAVE_DEADLINE_S)
        if now >= self.kill_at:
            self.was_late = True
            self._kill()

    def _persist(self, write: Callable[[], Answer]) -> Answer:
        """Do a database write, waiting for a database that is away for as long as the lease lasts."""
        while True:
            try:
                return write()
            except (OperationalError, InterfaceError) as error:
                if time.monotonic() >= self.lease_ends:
                    raise services.LeaseLostError from error
                logger.warning("The database does not answer (%s); trying again.", error)
                connections.close_all()
                time.sleep(1)

    def _ask_to_save(self, deadline_s: float) -> None:
        self.kill_at = time.monotonic() + deadline_s
        self.child.terminate()

    def _kill(self) -> None:
        """Kill the trainer and whatever it started; nothing happens when it is gone."""
        if self.child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()

    # -- afterwards --------------------------------------------------------------------------------

    def _conclude(self, code: int, errors_start: int) -> None:
        """Record how it ended: the exit code first, then what people asked for."""
        self.stop_wanted = self._persist(lambda: services.wanted_stop(self.run))  # perhaps only just now
        if self.stop_wanted == TrainingRun.StopRequest.DISCARD:
            self._persist(lambda: services.drop_run(run=self.run))
        elif code == EXIT_DONE:
            self._finish()
        elif self.stop_wanted:
            problem = self._unsaved(code)
            self._persist(lambda: services.stop_run(run=self.run, error=problem))
        elif code == EXIT_STOPPED or self.leaving:
            reason = "Its worker is being shut down; the run goes on from here when one is back."
            self._persist(lambda: services.release_run(run=self.run, reason=reason))
        elif code < 0:  # a signal, and not ours
            self._persist(lambda: services.interrupt_run(run=self.run, step=self.step))
        else:
            error = self.said_error or _last_words(code, self.errors_path, errors_start)
            self._persist(lambda: services.fail_run(run=self.run, error=error))

    def _unsaved(self, code: int) -> str:
        """Why a trainer that was asked to save and stop has not saved; empty when it has."""
        if code == EXIT_STOPPED:
            return ""
        if self.was_late:
            return "It did not stop in time and was ended; its last save is kept."
        return "It ended before it could save, perhaps because it had only just started; an earlier save is kept."

    def _finish(self) -> None:
        try:
            self._persist(lambda: services.finish_run(run=self.run))
        except ValueError as error:
            message = str(error)
            self._persist(lambda: services.fail_run(run=self.run, error=message))


def _lower_priority(pid: int) -> None:
    """Chat goes first. The trainer has only just started: the threads it will start inherit this.

    Linux shares its cores between sessions before it looks at a process's own niceness, and the trainer
    has a session of its own: there the session's niceness is what counts (sched(7), autogroup).
    """
    try:
        os.setpriority(os.PRIO_PROCESS, pid, 10)
        autogroup = Path(f"/proc/{pid}/autogroup")
        if autogroup.exists():
            autogroup.write_text("10")
    except (OSError, AttributeError):
        logger.debug("The trainer's priority could not be lowered.")


def _last_words(code: int, errors_path: Path, start: int) -> str:
    """Why the trainer died, from its exit code and the last line it wrote to stderr."""
    with errors_path.open("rb") as errors:
        errors.seek(max(start, errors_path.stat().st_size - 20_000))
        lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    if lines:
        return f"The trainer stopped unexpectedly: {lines[-1][:500]}"
    return f"The trainer stopped unexpectedly (exit code {code}); it can be resumed from its last save."

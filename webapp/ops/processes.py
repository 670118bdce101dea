"""A small process supervisor: `manage.py up` runs the whole site under it.

The idea: one loop, one thread. It waits on every child's output pipe and on one pipe that signals
write to, so nothing is polled. A child that dies is started again, after a pause that doubles while
it keeps dying. One Ctrl-C (or SIGTERM) asks all children to stop and kills what is left after a
grace period; a second Ctrl-C kills at once. If the supervisor itself is killed, the Linux kernel
kills the children (PR_SET_PDEATHSIG), so no orphan keeps a port or a run.

Deliberate simplifications: no config file, no control socket, and off Linux a `kill -9` of the
supervisor leaves its children to be stopped by hand.

Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
SETTLED_S = 30.0
"""A child that has lived this long is healthy again: its next pause is the first one."""
MAX_LINE = 64 * 1024
"""A child that writes no line end for this long gets its line broken."""
PR_SET_PDEATHSIG = 1
MOST_FILES = 65_536
"""Open files asked for; more only make some programs slow to start."""
COLOURS = (36, 32, 33, 35, 34, 31)


@dataclass(frozen=True, kw_only=True)
class Program:
    """One thing to keep running."""

    name: str
    command: Sequence[str]
    env: dict[str, str] | None = None
    """The whole environment; None inherits the supervisor's."""
    pass_fds: tuple[int, ...] = ()
    once: bool = False
    """Ends by itself; started again only if it fails."""
    stop_last: bool = False
    """Stopped after all others have ended: they need it to finish their work."""


@dataclass
class _Child:
    program: Program
    colour: int
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    pause_s: float = FIRST_PAUSE_S
    partial: bytes = b""
    asked_to_stop: bool = False


class Supervisor:
    """Use as a context manager: signals are handled from its start, and nothing outlives its end.

    with Supervisor(cwd=directory) as supervisor:
        supervisor.start(Program(…))
        supervisor.run()
    """

    def __init__(self, *, cwd: Path, grace_s: float = 25.0, out: IO[str] | None = None) -> None:
        self.cwd = cwd
        self.grace_s = grace_s
        self._out = out or sys.stdout
        self._coloured = self._out.isatty() and not os.environ.get("NO_COLOR")
        self._children: list[_Child] = []
        self._selector = selectors.DefaultSelector()
        self._exit_stack = contextlib.ExitStack()
        self._stopping_since: float | None = None
        self._kill_now = False
        self._received: list[int] = []

    # -- from outside ------------------------------------------------------------------------------

    def start(self, program: Program) -> subprocess.Popen[bytes]:
        """Start a program and keep it running from `run()` on."""
        child = _Child(program, COLOURS[len(self._children) % len(COLOURS)])
        self._children.append(child)
        self._spawn(child)
        assert child.process is not None
        return child.process

    def run(self) -> None:
        """Supervise until told to stop; returns when every child has ended."""
        while True:
            self._obey_signals()
            self._reap()
            self._restart_due()
            if self._stopping_since is not None:
                if not any(child.process for child in self._children):
                    return
                self._drive_stop()
            for key, _ in self._selector.select(self._next_deadline()):
                if key.data is None:
                    os.read(key.fd, 4096)
                else:
                    self._read(key.data)

    def __enter__(self) -> Supervisor:
        self._exit_stack.enter_context(self._signals())
        return self

    def __exit__(self, *error: object) -> None:
        """Kill whatever still runs (a start that failed half-way), and give the signals back."""
        for child in self._children:
            if child.process is not None:
                self._signal(child, signal.SIGKILL)
                child.process.wait()
                self._drain(child)
        self._exit_stack.close()

    # -- children ----------------------------------------------------------------------------------

    def _spawn(self, child: _Child) -> None:
        program = child.program
        child.process = subprocess.Popen(
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=program.env,
            cwd=self.cwd,
            pass_fds=program.pass_fds,
            start_new_session=True,  # the terminal's Ctrl-C reaches only us
            preexec_fn=_die_with_parent(),  # safe: this process has one thread
        )
        child.started_at = time.monotonic()
        child.restart_at = None
        assert child.process.stdout is not None
        os.set_blocking(child.process.stdout.fileno(), False)
        self._selector.register(child.process.stdout, selectors.EVENT_READ, child)

    def _reap(self) -> None:
        for child in self._children:
            if child.process is None or child.process.poll() is None:
                continue
            code = child.process.returncode
            # What it started in its own group goes with it: a half-dead tree is worse than none.
            self._signal(child, signal.SIGKILL)
            self._drain(child)
            if self._stopping_since is not None or (child.program.once and code == 0):
                continue
            if time.monotonic() - child.started_at > SETTLED_S:
                child.pause_s = FIRST_PAUSE_S
            self._say(child, f"ended ({_describe_exit(code)}); starting it again in {child.pause_s:g} s")
            child.restart_at = time.monotonic() + child.pause_s
            child.pause_s = min(child.pause_s * 2, LONGEST_PAUSE_S)

    def _drain(self, child: _Child) -> None:
        """Print what a dead child left in its pipe, and forget the process."""
        assert child.process is not None
        assert child.process.stdout is not None
        self._read(child)
        if child.partial:
            self._say(child, child.partial.decode(errors="replace"))
            child.partial = b""
        with contextlib.suppress(KeyError):  # already unregistered at end of file
            self._selector.unregister(child.process.stdout)
        child.process.stdout.close()
        child.process = None

    def _restart_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.restart_at is not None and child.restart_at <= now and self._stopping_since is None:
                self._spawn(child)

    def _signal(self, child: _Child, number: int) -> None:
        """Signal a child's whole process group."""
        assert child.process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.process.pid, number)

    # -- stopping ----------------------------------------------------------------------------------

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)  # acted upon in the loop: a handler may interrupt anything

    def _obey_signals(self) -> None:
        while self._received:
            self._stop(self._received.pop(0))

    def _stop(self, number: int) -> None:
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            self._print(f"\nStopping (up to {self.grace_s:g} s; press Ctrl-C again to kill).")
            for child in self._children:
                if child.process is not None and not child.program.stop_last:
                    self._terminate(child)
        elif number == signal.SIGINT:
            self._kill_now = True

    def _terminate(self, child: _Child) -> None:
        """Ask once, and the child itself, not its group: it stops what it started in its own order."""
        assert child.process is not None
        if not child.asked_to_stop:
            child.asked_to_stop = True
            child.process.terminate()

    def _drive_stop(self) -> None:
        assert self._stopping_since is not None
        running = [child for child in self._children if child.process is not None]
        if self._kill_now or time.monotonic() - self._stopping_since > self.grace_s:
            for child in running:
                self._signal(child, signal.SIGKILL)
        elif all(child.program.stop_last for child in running):
            for child in running:
                self._terminate(child)

    def _next_deadline(self) -> float | None:
        """Seconds until something is due; None waits for an event."""
        due = [child.restart_at for child in self._children if child.restart_at is not None]
        if self._stopping_since is not None:
            due = [self._stopping_since + self.grace_s]
        return max(0.0, min(due) - time.monotonic()) + 0.01 if due else None

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Note stop signals and SIGCHLD, and let each of them wake the loop through a pipe."""
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        previous_wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        previous = {number: signal.signal(number, self._note_signal) for number in STOP_SIGNALS}
        previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._selector.register(read_end, selectors.EVENT_READ, None)
        try:
            yield
        finally:
            self._selector.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(previous_wakeup)
            os.close(read_end)
            os.close(write_end)

    # -- output ------------------------------------------------------------------------------------

    def _read(self, child: _Child) -> None:
        """Print the child's whole lines that are there; never blocks."""
        assert child.process is not None
        assert child.process.stdout is not None
        while True:
            try:
                data = os.read(child.process.stdout.fileno(), MAX_LINE)
            except BlockingIOError:
                return
            if not data:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(child.process.stdout)
                return
            *lines, child.partial = (child.partial + data).split(b"\n")
            if len(child.partial) > MAX_LINE:
                lines, child.partial = [*lines, child.partial], b""
            for line in lines:
                self._say(child, line.decode(errors="replace").rstrip("\r"))

    def _say(self, child: _Child, text: str) -> None:
        name = f"{child.program.name:<{max(len(c.program.name) for c in self._children)}}"
        self._print(f"\x1b[{child.colour}m{name}\x1b[0m | {text}" if self._coloured else f"{name} | {text}")

    def _print(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError, BlockingIOError):  # a closed terminal must not stop the site
            print(text, file=self._out, flush=True)


def _describe_exit(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _die_with_parent() -> Callable[[], None]:
    """What a child does between fork and exec: ask the kernel to be killed when the supervisor is."""
    set_option = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    parent = os.getpid()

    def prepare() -> None:
        if set_option is not None:
            set_option(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before we asked
                os._exit(1)

    return prepare


def raise_file_limit() -> int:
    """Ask for as many open files as this process may have; the limit there is now. Children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # some systems have a lower one that they do not tell
        return soft
    return wanted

"""The supervisor on small programs. Every wait is on a line a process prints or on its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
import sys
from pathlib import Path
from webapp.supervisor import Program, Supervisor
supervisor = Supervisor(cwd=Path("."), grace_s=float(sys.argv[1]))
for number, script in enumerate(sys.argv[2:]):
    supervisor.start(Program(
        name=f"child{number}", command=[sys.executable, "-uc", script],
        once="# once" in script, stop_last="# last" in script,
    ))
supervisor.run()
print("over")
"""
WAITS = "import os, signal\nprint('pid', os.getpid())\nsignal.pause()"
SAYS_GOODBYE = """
import os, signal, sys
def leave(*_):
    print("goodbye")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("pid", os.getpid())
while True:
    signal.pause()
"""
STUBBORN = (
    "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    + "print('pid', os.getpid())\n"
    + ("while True: signal.pause()")
)


class Run:
    """A driver process and the lines it has printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The next line that matches; fails when the output ends first."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"no line matches {pattern!r} in: {self.lines}")

    def pid(self, name: str = "child0") -> int:
        return int(self.wait_for(rf"^{name} +\| pid (\d+)$")[1])

    def finish(self) -> int:
        """Read to the end; the exit code."""
        assert self.process.stdout is not None
        self.lines += [line.rstrip("\n") for line in self.process.stdout]
        return self.process.wait()


@contextmanager
def supervised(*scripts: str, grace_s: float = 60) -> Iterator[Run]:
    command = [sys.executable, "-c", DRIVER, str(grace_s), *(textwrap.dedent(script) for script in scripts)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield Run(process)
        finally:
            for left in [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []:
                left.kill()
            process.kill()


def gone(pid: int) -> bool:
    """Wait for a process that is not our child to end."""
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait()
    return not psutil.pid_exists(pid)


def test_it_prefixes_every_line_with_the_childs_name() -> None:
    with supervised("print('one\\ntwo\\nno line end', end='') # once", WAITS) as run:
        run.pid("child1")
        run.process.terminate()
        assert run.finish() == 0
        assert [line for line in run.lines if line.startswith("child0")] == [
            "child0 | one",
            "child0 | two",
            "child0 | no line end",
        ]


def test_it_starts_a_killed_child_again() -> None:
    with supervised(WAITS) as run:
        first = run.pid()
        os.kill(first, signal.SIGKILL)
        run.wait_for(r"child0 \| ended \(killed by SIGKILL\); starting it again in 0.5 s")
        second = run.pid()
        assert second != first
        run.process.terminate()
        assert run.finish() == 0


def test_it_waits_longer_each_time_a_child_keeps_dying() -> None:
    with supervised("import sys; sys.exit(7)") as run:
        pauses = [run.wait_for(r"ended \(exit code 7\); starting it again in ([\d.]+) s")[1] for _ in range(3)]
        assert pauses == ["0.5", "1", "2"]
        run.process.terminate()
        assert run.finish() == 0


def test_it_lets_a_one_off_end_and_retries_it_when_it_fails(tmp_path: Path) -> None:
    marker = tmp_path / "tried"
    script = f"""
        # once
        import pathlib, sys
        marker = pathlib.Path({str(marker)!r})
        if not marker.exists():
            marker.touch()
            sys.exit(1)
        print("done")
    """
    with supervised(script, WAITS) as run:
        run.wait_for(r"child0 \| ended \(exit code 1\)")
        run.wait_for(r"child0 \| done")
        run.process.terminate()
        assert run.finish() == 0
        assert run.lines.count("child0 | done") == 1


def test_it_stops_everything_on_sigterm_and_the_last_one_last() -> None:
    with supervised(SAYS_GOODBYE + "# last", SAYS_GOODBYE) as run:
        pids = [run.pid("child0"), run.pid("child1")]
        run.process.terminate()
        assert run.finish() == 0
        assert [line for line in run.lines if "goodbye" in line] == ["child1 | goodbye", "child0 | goodbye"]
        assert all(gone(pid) for pid in pids)


def test_it_kills_what_ignores_sigterm_after_the_grace_period() -> None:
    with supervised(STUBBORN, grace_s=0.2) as run:
        pid = run.pid()
        run.process.terminate()
        assert run.finish() == 0
        assert gone(pid)


def test_it_kills_at_once_on_the_second_ctrl_c() -> None:
    with supervised(STUBBORN, grace_s=3600) as run:
        pid = run.pid()
        run.process.send_signal(signal.SIGINT)
        run.wait_for("Stopping")
        run.process.send_signal(signal.SIGINT)
        assert run.finish() == 0
        assert gone(pid)


def test_it_stops_while_a_child_waits_to_be_started_again() -> None:
    with supervised("import sys; sys.exit(1)", grace_s=3600) as run:
        run.wait_for("starting it again")
        run.process.terminate()
        assert run.finish() == 0


def test_it_leaves_no_orphan_when_it_is_killed() -> None:
    with supervised(WAITS, STUBBORN) as run:
        pids = [run.pid("child0"), run.pid("child1")]
        run.process.kill()
        assert all(gone(pid) for pid in pids)


def test_it_takes_a_dead_childs_own_children_with_it() -> None:
    script = """
        import subprocess, sys, os, signal
        helper = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        print("pid", helper.pid)
        print("pid", os.getpid())
        signal.pause()
    """
    with supervised(script) as run:
        helper, child = run.pid(), run.pid()
        os.kill(child, signal.SIGKILL)
        run.wait_for("starting it again")
        assert gone(helper)
        run.process.terminate()
        run.finish()

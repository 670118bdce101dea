"""The supervisor on small programs. Every wait is on a line a process prints or on its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import Watched, gone, start

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
import sys
from pathlib import Path
from webapp.ops.processes import Program, Supervisor
with Supervisor(cwd=Path("."), grace_s=float(sys.argv[1])) as supervisor:
    for number, script in enumerate(sys.argv[2:]):
        supervisor.start(Program(
            name=f"child{number}", command=[sys.executable, "-uc", script],
            once="# once" in script, stop_last="# last" in script,
        ))
    print("started", flush=True)
    supervisor.run()
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


@contextmanager
def supervised(*scripts: str, grace_s: float = 60) -> Iterator[Watched]:
    run = start([sys.executable, "-c", DRIVER, str(grace_s), *map(textwrap.dedent, scripts)], cwd=ROOT)
    try:
        yield run
    finally:
        run.end()


def pid_of(run: Watched, name: str = "child0") -> int:
    return int(run.wait_for(rf"^{name} +\| pid (\d+)$")[1])


def test_it_prefixes_every_line_with_the_childs_name() -> None:
    with supervised("print('one\\ntwo\\nno line end', end='') # once", WAITS) as run:
        run.wait_for(r"child0 \| no line end")
        run.process.terminate()
        assert run.finish() == 0
        assert [line for line in run.lines if line.startswith("child0")] == [
            "child0 | one",
            "child0 | two",
            "child0 | no line end",
        ]


def test_it_starts_a_killed_child_again() -> None:
    with supervised(WAITS) as run:
        first = pid_of(run)
        os.kill(first, signal.SIGKILL)
        run.wait_for(r"child0 \| ended \(killed by SIGKILL\); starting it again in 0.5 s")
        second = pid_of(run)
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
        pids = [pid_of(run, "child0"), pid_of(run, "child1")]
        run.process.terminate()
        assert run.finish() == 0
        assert [line for line in run.lines if "goodbye" in line] == ["child1 | goodbye", "child0 | goodbye"]
        assert all(gone(pid) for pid in pids)


def test_it_kills_what_ignores_sigterm_after_the_grace_period() -> None:
    with supervised(STUBBORN, grace_s=0.2) as run:
        pid = pid_of(run)
        run.process.terminate()
        assert run.finish() == 0
        assert gone(pid)


def test_it_kills_at_once_on_the_second_ctrl_c() -> None:
    with supervised(STUBBORN, grace_s=3600) as run:
        pid = pid_of(run)
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
        pids = [pid_of(run, "child0"), pid_of(run, "child1")]
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
        helper, child = pid_of(run), pid_of(run)
        os.kill(child, signal.SIGKILL)
        run.wait_for("starting it again")
        assert gone(helper)
        run.process.terminate()
        run.finish()


def test_it_stops_in_order_when_told_to_before_it_runs() -> None:
    driver = DRIVER.replace("supervisor.run()", "input()\n    supervisor.run()")
    process = subprocess.Popen(
        [sys.executable, "-c", driver, "60", SAYS_GOODBYE],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    run = Watched(process)
    try:
        run.wait_for("started")
        process.terminate()
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
        assert run.finish() == 0
        assert "Stopping (up to 60 s; press Ctrl-C again to kill)." in run.lines
    finally:
        run.end()

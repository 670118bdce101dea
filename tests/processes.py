"""Watching processes from a test, by the lines they print and by their ends; never by sleeping."""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil


class Watched:
    """A process and the lines it has printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._unmatched: list[str] = []

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line that matches and has not been waited for yet; fails when the output ends first.

        Lines of different children come in any order, so what was passed over is looked at again.
        """
        for line in self._unmatched:
            if match := re.search(pattern, line):
                self._unmatched.remove(line)
                return match
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if match := re.search(pattern, self.lines[-1]):
                return match
            self._unmatched.append(self.lines[-1])
        raise AssertionError(f"no line matches {pattern!r} in: {self.lines}")

    def finish(self) -> int:
        """Read to the end; the exit code."""
        assert self.process.stdout is not None
        self.lines += [line.rstrip("\n") for line in self.process.stdout]
        return self.process.wait()

    def end(self) -> None:
        """Kill it and everything it started, if it is still there."""
        if self.process.poll() is None:
            tree = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            for left in tree:
                with suppress(psutil.NoSuchProcess):
                    left.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def start(command: list[str], *, cwd: Path, env: dict[str, str] | None = None) -> Watched:
    return Watched(
        subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    )


def gone(pid: int) -> bool:
    """Wait for a process that is not our child to end."""
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait()
    return not psutil.pid_exists(pid)

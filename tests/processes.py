"""Watching processes from a test, by the lines they print and by their ends; never by sleeping."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from threading import Thread

import psutil

ROOT = Path(__file__).resolve().parents[1]


class Watched:
    """A process and the lines it has printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._unmatched: list[str] = []
        self._reader: Thread | None = None

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
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
        return self.process.wait()

    def keep_reading(self) -> None:
        """Read the rest in the background, so that a full pipe holds nobody up; wait for no line after this."""
        self._reader = Thread(target=self.finish)
        self._reader.start()

    def end(self) -> None:
        """Kill it and everything it started, if it is still there."""
        if self.process.poll() is None:
            tree = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            for left in tree:
                with suppress(psutil.NoSuchProcess):
                    left.kill()
        self.process.wait()
        if self._reader is not None:
            self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()


def start(command: list[str], *, cwd: Path, env: dict[str, str] | None = None) -> Watched:
    return Watched(
        subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    )


def environment(data_dir: Path, **extra: str) -> dict[str, str]:
    """A newcomer's: nothing of the suite's settings."""
    ours = ("REDIS_URL", "DATABASE_URL", "SECRET_KEY", "DATA_DIR", "HOST", "PORT", "STAGECRAFT_LOCAL", "NO_COLOR")
    kept = {name: value for name, value in os.environ.items() if name not in (*ours, "DJANGO_SETTINGS_MODULE")}
    return {**kept, "DATA_DIR": str(data_dir), "STAGECRAFT_PRESET": "smoke", **extra}


def gone(pid: int) -> bool:
    """Wait for a process that is not our child to end."""
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait()
    return not psutil.pid_exists(pid)

"""Regular expressions of others, tried on text that a model wrote, within a time limit that nothing can overrun.

The idea: Python's `re` goes back over all it has tried, and a pattern as harmless as "(a+)+b" takes longer than the
universe is old for some texts. It cannot be interrupted from within: the engine holds the interpreter's lock, so
neither a thread nor a signal handler gets a turn. So patterns are tried in a small process of their own, which the
*kernel* ends when its alarm goes off (setitimer with the default action). The alarm counts what the process itself
computes, so that a busy machine changes no verdict. It answers one line for each line it is asked, and is started again
after a pattern that took too long, which counts as not found.

Nothing but `re` and `json` runs there; it ends with whoever asks it, because its input does.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import subprocess
import sys
import threading
from typing import IO, Any, Final

LIMIT_S: Final = 0.5
"""How long one pattern may compute. Ordinary ones take some microseconds."""
LONGEST_PATTERN: Final = 500
"""Characters of a pattern."""
MOST_BYTES: Final = 512 * 1024 * 1024
"""Memory of the process that tries them: a pattern may ask for a hundred million copies of its part."""

_PROGRAM: Final = f"""
import json, re, resource, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_AS, ({MOST_BYTES}, {MOST_BYTES}))
for line in sys.stdin:
    pattern, text = json.loads(line)
    signal.setitimer(signal.ITIMER_VIRTUAL, {LIMIT_S})
    try:
        said = bool(re.search(pattern, text))
    except (re.error, OverflowError) as error:
        said = str(error)
    except (MemoryError, RecursionError):
        said = "it is too large"
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    print(json.dumps(said), flush=True)
"""


class _Helper:
    """The process that tries patterns; one at a time, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self.stop)

    def ask(self, pattern: str, text: str) -> bool | str | None:
        """Whether `pattern` is found in `text`; what is wrong with it, in words; None when it took too long."""
        with self._lock:
            process = self._process = self._process or self._start()
            try:
                _pipe(process.stdin).write(json.dumps([pattern, text]) + "\n")
                _pipe(process.stdin).flush()
                line = _pipe(process.stdout).readline()
            except (BrokenPipeError, UnicodeError):
                line = ""
            if not line:
                self._end()
                return None
            said: bool | str = json.loads(line)
            return said

    def stop(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None

    @staticmethod
    def _start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )


def _pipe(stream: IO[Any] | None) -> IO[Any]:
    assert stream is not None, "it was started with pipes"
    return stream


_helper: Final = _Helper()


def is_found(pattern: str, text: str) -> bool:
    """Whether the pattern is found in the text, within the time limit; with ^ and $ around it, whether it is all of it.

    ValueError for what is no pattern.
    """
    said = _helper.ask(pattern, text)
    if isinstance(said, str):
        raise ValueError(f"{pattern!r:.60} is no regular expression: {said}.")
    return bool(said)


def check_pattern(pattern: str) -> None:
    """Raise ValueError unless this is a regular expression that can be tried."""
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"its pattern is longer than {LONGEST_PATTERN} characters")
    said = _helper.ask(pattern, "")
    if isinstance(said, str):
        raise ValueError(f"its pattern is no regular expression ({said:.100})")
    if said is None:
        raise ValueError("its pattern takes too long")

"""What `manage.py bench_site` measures with: a site of its own, and visitors that load it as browsers do.

The idea: the site runs as anyone starts it (`manage.py up`) on a data directory that is thrown away, and the
visitors are threads of this process that speak HTTP with kept connections and cookies, and WebSockets. What
they cost the machine is part of what is measured.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlencode, urlsplit

import psutil
from django.conf import settings
from websockets.sync.client import connect
from websockets.typing import Origin

PATIENCE_S: Final = 300
"""Longer than anything here should take; then the benchmark ends with an error instead of hanging."""
IDLE_S: Final = 4.0
"""A connection unused for longer is opened anew: servers close idle ones, and a vote must not be sent twice."""
ANSWER_TOKENS: Final = 100
OURS_ONLY: Final = ("REDIS_URL", "DATABASE_URL", "SECRET_KEY", "HOST", "PORT", "STAGECRAFT_LOCAL")
"""Settings of the site this machine may run for real; the measured one has the defaults."""
FAMILY: Final = {
    "supervisor": "manage.py up",
    "web": "webapp.ops.web",
    "generate worker": "webapp.ops.worker generate",
    "train worker": "webapp.ops.worker train",
    "training run": "-m trainer run",
    "Redis": "redis.sock",
}
"""What the processes of a site are called here, and what their command lines contain."""

MESSAGE: Final = re.compile(r'data-message="([0-9a-f-]{36})"')
VOTE_FORM: Final = re.compile(r'action="(/vote/[0-9a-f-]{36}/)"')
CSRF_TOKEN: Final = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')

Visitor = TypeVar("Visitor")
Result = TypeVar("Result")


class BenchFailed(Exception):
    """The site did not do what was to be measured; says what it did."""


# -- processes -------------------------------------------------------------------------------------


def environment(data_dir: Path) -> dict[str, str]:
    """A newcomer's environment, for a site on `data_dir`."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS_ONLY}
    return {**kept, "DATA_DIR": str(data_dir), "STAGECRAFT_PRESET": "tiny", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}


def run_to_end(*arguments: str, env: Mapping[str, str]) -> None:
    """Run a Python command of this project; BenchFailed with what it wrote when it fails."""
    ran = subprocess.run([sys.executable, *arguments], cwd=settings.BASE_DIR, env=env, capture_output=True, text=True)
    if ran.returncode:
        raise BenchFailed(f"{' '.join(arguments)} failed:\n{ran.stdout}{ran.stderr}")


class Running:
    """A Python command of this project that is still at work, and the lines it prints."""

    def __init__(self, *arguments: str, env: Mapping[str, str]) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=settings.BASE_DIR,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        """Goes on reading when nobody waits for a line: a full pipe would stop the site."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._lines.put(line.rstrip())
        self._lines.put(None)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The next line that matches."""
        passed: list[str] = []
        deadline = time.monotonic() + PATIENCE_S
        with contextlib.suppress(queue.Empty):
            while (line := self._lines.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
                if match := re.search(pattern, line):
                    return match
                passed.append(line)
        raise BenchFailed("\n".join([f"No line matched {pattern!r}. The last ones were:", *passed[-20:]]))

    def family(self) -> list[psutil.Process]:
        """This process and all its descendants."""
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.popen.pid)
            return [own, *own.children(recursive=True)]
        return []

    def end(self) -> None:
        """Ask it to stop; kill what has not stopped by itself."""
        family = self.family()
        self.popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout=30)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.popen.wait()


@dataclass(frozen=True)
class Site:
    """A running site."""

    running: Running
    address: str
    env: Mapping[str, str]

    def memory(self) -> dict[str, tuple[int, int]]:
        """Name of each process -> (resident, unshared) bytes; several of one name are added up."""
        found: dict[str, tuple[int, int]] = {}
        for process in self.running.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                line = " ".join(process.cmdline())
                name = next((name for name, mark in FAMILY.items() if mark in line), "other")
                info = process.memory_full_info()
                resident, unshared = found.get(name, (0, 0))
                found[name] = (resident + info.rss, unshared + info.uss)
        return found


@contextlib.contextmanager
def running_site(data_dir: Path, *, prepare: Sequence[Sequence[str]] = ()) -> Iterator[Site]:
    """`manage.py up` on `data_dir` after the `manage.py` commands of `prepare`; everything is gone afterwards."""
    env = environment(data_dir)
    for command in prepare:
        run_to_end("manage.py", *command, env=env)
    running = Running("manage.py", "up", "--no-curriculum", "--port", "0", env=env)
    try:
        address = running.wait_for(r"Stagecraft is at (http://\S+:\d+)/")[1]
        # The address is printed before the web server answers, and the first checkpoint comes after that.
        Browser(address).wait_for_page("/chat/", 'name="checkpoint"')
        yield Site(running, address, env)
    finally:
        running.end()


# -- visitors --------------------------------------------------------------------------------------


_numbers = itertools.count()


class Browser:
    """One visitor: a kept connection and cookies."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.host = urlsplit(address).netloc
        number = next(_numbers)
        # Each from an address of its own, as people are: what one address may do is limited. (Linux answers to all
        # of 127.0.0.0/8; elsewhere everyone is at one address.)
        source = (f"127.1.{number // 250 % 250}.{number % 250 + 1}", 0) if sys.platform == "linux" else None
        self._connection = http.client.HTTPConnection(self.host, timeout=PATIENCE_S, source_address=source)
        self._used_at = 0.0
        self._cookies: SimpleCookie = SimpleCookie()
        self._csrf_token = ""

    @property
    def cookie_header(self) -> str:
        return "; ".join(f"{name}={morsel.value}" for name, morsel in self._cookies.items())

    def get(self, path: str) -> str:
        status, _, page = self._request("GET", path)
        if status != 200:
            raise BenchFailed(f"GET {path} was answered with {status}.")
        return page

    def post(self, path: str, fields: Mapping[str, object], *, htmx: bool = False) -> tuple[str, str]:
        """(Location, page) of the answer to a form whose page was read before."""
        body = urlencode({"csrfmiddlewaretoken": self._csrf_token, **fields})
        headers = {"Content-Type": "application/x-www-form-urlencoded"} | ({"HX-Request": "true"} if htmx else {})
        status, location, page = self._request("POST", path, body, headers)
        if status not in (200, 302, http.HTTPStatus.CONFLICT):  # somebody was quicker, and the page goes on from there
            raise BenchFailed(f"POST {path} was answered with {status}.")
        return location, page

    def wait_for_page(self, path: str, text: str, *, every_s: float = 0.5) -> str:
        """Ask for the page as one that refreshes itself does, until `text` stands in it."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if text in (page := self.get(path)):
                return page
            time.sleep(every_s)
        raise BenchFailed(f"{path} never showed {text!r}.")

    def _request(
        self, method: str, path: str, body: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        if time.monotonic() - self._used_at > IDLE_S:
            self._connection.close()  # the next request opens it
        cookies = {"Cookie": self.cookie_header} if self._cookies else {}
        self._connection.request(method, path, body, {"Referer": self.address, **cookies, **(headers or {})})
        response = self._connection.getresponse()
        page = response.read().decode()
        self._used_at = time.monotonic()
        for cookie in response.headers.get_all("Set-Cookie", []):
            self._cookies.load(cookie)
        if token := CSRF_TOKEN.search(page):
            self._csrf_token = token[1]
        return response.status, response.getheader("Location", ""), page


@dataclass(frozen=True)
class Answered:
    """How one chat answer came."""

    first_token_s: float
    """From sending the message to the first text on the socket."""
    tokens_per_s: float | None
    """Tokens over the time from sending to the end; None for an answer that ended early, whose count is unknown."""


class Chat:
    """The open page of a chat: a conversation of one visitor's, and its socket."""

    def __init__(self, browser: Browser, text: str, *, checkpoint: str, seed: int) -> None:
        """Start a chat with a message and follow `begun`, its answer: the page and the socket are loaded first."""
        self.browser = browser
        self._settings = {"checkpoint": checkpoint, "temperature": 1, "max_new_tokens": ANSWER_TOKENS, "seed": seed}
        sent = time.perf_counter()
        self.path, _ = browser.post("/chat/new/", {"text": text, **self._settings})
        page = browser.get(self.path)
        self._socket = connect(
            f"ws://{browser.host}/ws{self.path}",
            origin=Origin(browser.address),
            additional_headers={"Cookie": browser.cookie_header},
            proxy=None,
        )
        self.begun = self._follow(page, sent)

    def ask(self, text: str) -> Answered:
        """Send another message and follow its answer, as the open page does."""
        sent = time.perf_counter()
        _, thread = self.browser.post(f"{self.path}send/", {"text": text, **self._settings}, htmx=True)
        return self._follow(thread, sent)

    def _follow(self, page: str, sent: float) -> Answered:
        """The newest answer on the page, to its end."""
        self._socket.send(json.dumps({"type": "attach", "message": MESSAGE.findall(page)[-1], "after": "0"}))
        first = 0.0
        while (frame := _frame(self._socket.recv(timeout=PATIENCE_S)))["type"] == "token":
            first = first or time.perf_counter() - sent
        took = time.perf_counter() - sent
        if frame.get("state") != "done":
            raise BenchFailed(f"An answer ended with {frame}.")
        is_whole = frame["finish_reason"] == "length"
        return Answered(first or took, ANSWER_TOKENS / took if is_whole else None)

    def close(self) -> None:
        self._socket.close()


def _frame(data: str | bytes) -> dict[str, Any]:
    frame = json.loads(data)
    assert isinstance(frame, dict)
    return frame


def newest_checkpoint(browser: Browser) -> str:
    """The checkpoint the chat page would use; reading the page also makes the browser ready to post."""
    page = browser.get("/chat/")
    if not (option := re.search(r'<option value="(\d+)"', page)):
        raise BenchFailed("The chat page offers no checkpoint.")
    return option[1]


def vote(browser: Browser, page: str, *, count: int, pause_s: float) -> list[float]:
    """Seconds of each of up to `count` votes, `pause_s` apart; as in the page, a vote's answer is the next pair."""
    seconds: list[float] = []
    while len(seconds) < count and (form := VOTE_FORM.search(page)):
        if seconds:
            time.sleep(pause_s)
        begun = time.perf_counter()
        _, page = browser.post(form[1], {"choice": "ab"[len(seconds) % 2]}, htmx=True)
        if "Recorded:" in page:
            seconds.append(time.perf_counter() - begun)
        elif "Others answered this pair first" not in page:
            raise BenchFailed("A vote was not recorded.")
    return seconds


def at_once(work: Callable[[Visitor], Result], visitors: Sequence[Visitor]) -> list[Result]:
    """Do `work` for every visitor, all starting at the same moment."""
    gate = threading.Barrier(len(visitors))

    def begin(visitor: Visitor) -> Result:
        gate.wait(PATIENCE_S)
        return work(visitor)

    with ThreadPoolExecutor(len(visitors)) as pool:
        return list(pool.map(begin, visitors))

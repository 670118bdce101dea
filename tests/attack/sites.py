"""A whole site to attack: `manage.py up` on a scratch data directory and a free port of this machine."""

from __future__ import annotations

import http.client
import json
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import psutil
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.processes import ROOT, Watched, environment, start

PATIENCE_S = 480
"""Longer than anything here takes on a busy machine; then the attack fails instead of hanging."""
MARKS = {
    "web": "webapp.ops.web",
    "generate": "webapp.ops.worker generate",
    "train": "webapp.ops.worker train",
    "trainer": " run ",
    "redis": "redis.sock",
}
"""Kind of process -> what its command line contains."""
CSRF_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')
MESSAGE = re.compile(r'data-message="([0-9a-f-]{36})"')


def wait_until(true: Callable[[], bool], what: str, *, every_s: float = 0.2) -> None:
    """Ask until the answer is yes: what is waited for here (a row, a process of somebody else's) tells nobody."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"after {PATIENCE_S} s still not: {what}"
        time.sleep(every_s)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Site:
    """Start it with `start`, stop it with `stop` or a kill; it may be started again on the same data and port."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.env = environment(data_dir, **({"WEB_PROCESSES": "2", "PYTHONUNBUFFERED": "1"} | settings))
        self.lines: list[str] = []
        self._watched: Watched | None = None

    @property
    def supervisor(self) -> subprocess.Popen[str]:
        assert self._watched is not None
        return self._watched.process

    def start(self) -> None:
        """Return once it answers, and can be chatted with."""
        if self._watched is not None:  # killed before
            self._watched.end()
        command = [sys.executable, "manage.py", "up", "--no-curriculum", "--port", str(self.port)]
        self._watched = start(command, cwd=ROOT, env=self.env)
        self._watched.wait_for("Stagecraft is at")
        self.lines += self._watched.lines
        self._watched.lines = self.lines  # of every start, in order
        self._watched.keep_reading()
        self.wait_until_well()
        wait_until(lambda: 'name="checkpoint"' in Person(self).get("/chat/"), "a checkpoint to chat with")

    def is_well(self) -> bool:
        with suppress(OSError, http.client.HTTPException), urlopen(f"{self.address}/healthz", timeout=30) as response:
            return bool(response.status == 200)
        return False

    def wait_until_well(self) -> None:
        wait_until(self.is_well, "/healthz answers 200")

    def stop(self) -> None:
        """As Ctrl-C does; its exit code must be 0."""
        family = self.family()
        self.supervisor.terminate()
        assert self.supervisor.wait(60) == 0, "\n".join(self.lines[-30:])
        psutil.wait_procs(family, timeout=PATIENCE_S)
        assert [process for process in family if process.is_running()] == []
        self.end()

    def end(self) -> None:
        """Whatever is left of it; also after a test that failed half-way."""
        if self._watched is not None:
            self._watched.end()
            self._watched = None
        for process in self.strays():
            process.kill()

    # -- its processes -----------------------------------------------------------------------------

    def family(self) -> list[psutil.Process]:
        """Everything the site runs, without the supervisor."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.supervisor.pid).children(recursive=True)
        return []

    def of_kind(self, kind: str) -> list[psutil.Process]:
        """Its processes of a kind (see MARKS)."""
        found = []
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                if MARKS[kind] in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def strays(self) -> list[psutil.Process]:
        """Every process on this machine that belongs to this data directory, whoever its parent is."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("DATA_DIR") == str(self.data_dir):
                    found.append(process)
        return found

    # -- its database ------------------------------------------------------------------------------

    def run_stands(self, run: int) -> tuple[str, int]:
        """(state, step) of a run, without the second that `inside` takes: this is asked again and again."""
        uri = f"file:{self.data_dir / 'db.sqlite3'}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=20)) as database:
            state, step = database.execute(
                "SELECT state, step FROM training_trainingrun WHERE id = ?", (run,)
            ).fetchone()
        return str(state), int(step)

    def inside(self, function: str, **arguments: Any) -> Any:
        """Call a function of tests/attack/inside.py beside the site."""
        command = [sys.executable, "-m", "tests.attack.inside", function, json.dumps(arguments)]
        redis_url = (self.data_dir / "redis_url").read_text().strip()
        env = {**self.env, "REDIS_URL": redis_url, "STAGECRAFT_LOCAL": "1"}
        ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout.splitlines()[-1])


class Person:
    """A browser without a screen: cookies, forms with their token, and an address of its own.

    Every address in 127.0.0.0/8 is this machine, so a crowd need not share one, nor one's limits.
    """

    numbers = iter(range(1, 2**16))

    def __init__(self, site: Site, session: str = "") -> None:
        self.site = site
        number = next(self.numbers)
        self.source = f"127.1.{number // 250}.{number % 250 + 1}"
        self.cookies = {"sessionid": session} if session else {}
        self.csrf_token = ""

    def get(self, path: str) -> str:
        return self.request("GET", path)[2]

    def post(self, path: str, fields: Mapping[str, object], *, htmx: bool = False) -> tuple[int, str, str]:
        """(status, Location, body) of the answer to a form; some page with a form must have been read before."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"} | ({"HX-Request": "true"} if htmx else {})
        return self.request("POST", path, urlencode({"csrfmiddlewaretoken": self.csrf_token, **fields}), headers)

    def request(
        self, method: str, path: str, body: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        """One request on a connection of its own: two threads may be the same person."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.site.port, timeout=PATIENCE_S, source_address=(self.source, 0)
        )
        try:
            own = {"Origin": self.site.address, "Cookie": self.cookie_header} | dict(headers or {})
            connection.request(method, path, body, own)
            response = connection.getresponse()
            page = response.read().decode()
        finally:
            connection.close()
        for line in response.headers.get_all("Set-Cookie") or []:
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        if token := CSRF_TOKEN.search(page):
            self.csrf_token = token[1]
        return response.status, response.getheader("Location") or "", page

    @property
    def cookie_header(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def socket(self, path: str) -> ClientConnection:
        return connect(
            f"ws://127.0.0.1:{self.site.port}{path}",
            origin=Origin(self.site.address),
            additional_headers={"Cookie": self.cookie_header},
            source_address=(self.source, 0),
            proxy=None,
        )

    # -- chatting ----------------------------------------------------------------------------------

    def checkpoint(self) -> str:
        """The checkpoint the chat page would use; reading the page also makes this person ready to post."""
        option = re.search(r'<option value="(\d+)"', self.get("/chat/"))
        assert option
        return option[1]

    def begin_chat(self, text: str, **sampling: object) -> tuple[str, str]:
        """(path of the conversation, id of the answer) of a new chat."""
        fields = {"text": text, "checkpoint": self.checkpoint(), "temperature": 1, "max_new_tokens": 60, **sampling}
        status, path, page = self.post("/chat/new/", fields)
        assert status == 302, (status, page[:300])
        return path, MESSAGE.findall(self.get(path))[-1]

    def follow(self, path: str, message: str, after: str = "0") -> dict[str, Any]:
        """Attach to an answer and read to its end frame, which is returned."""
        with self.socket(f"/ws{path}") as following:
            following.send(json.dumps({"type": "attach", "message": message, "after": after}))
            while True:
                frame: dict[str, Any] = json.loads(following.recv(timeout=PATIENCE_S))
                if frame["type"] == "end":
                    return frame

"""`manage.py up` as people run it: real processes, from the first line to the last."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener, urlopen

import psutil
import pytest
from django.core.management import CommandError
from django.urls import reverse

from tests.processes import ROOT, Watched, environment, gone, start
from webapp.ops.management.commands import up

CHILDREN = {"web", "generate", "train", "redis"}
Site = Callable[..., Watched]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def site(data_dir: Path) -> Iterator[Site]:
    """Starts sites on free ports; ends whatever is left of them."""
    sites: list[Watched] = []

    def begin(*arguments: str, files: int | None = None, **extra: str) -> Watched:
        command = [sys.executable, "manage.py", "up", "--no-curriculum", "--port", "0", *arguments]
        if files is not None:  # may be open in one process
            command = ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh", *command]
        sites.append(start(command, cwd=ROOT, env=environment(data_dir, **({"WEB_PROCESSES": "1"} | extra))))
        return sites[-1]

    yield begin
    for each in sites:
        each.end()


def refusal(data_dir: Path, *arguments: str, **extra: str) -> str:
    """The one line `up` ends with when it cannot start."""
    command = [sys.executable, "manage.py", "up", *arguments]
    ran = subprocess.run(command, cwd=ROOT, env=environment(data_dir, **extra), capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    return line


def address_of(run: Watched) -> str:
    return run.wait_for(r"Stagecraft is at (http://\S+:\d+)/")[1]


def get(url: str) -> tuple[int, str]:
    """The port is open before the web server is: this waits for the answer."""
    with urlopen(url, timeout=120) as response:
        return response.status, response.read().decode()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def children(run: Watched) -> dict[str, psutil.Process]:
    """Name -> process of the site's long-lived children."""
    marks = {
        "web": "webapp.ops.web",
        "generate": "webapp.ops.worker generate",
        "train": "webapp.ops.worker train",
        "redis": "redis.sock",
    }
    lines = {process: " ".join(process.cmdline()) for process in psutil.Process(run.process.pid).children()}
    return {name: process for process, line in lines.items() for name, mark in marks.items() if mark in line}


# -- running ---------------------------------------------------------------------------------------


def test_it_starts_serves_restarts_and_stops(site: Site, data_dir: Path) -> None:
    run = site()
    address = address_of(run)
    owner_link = run.wait_for(r"Become its owner, once, at (http://\S+)")[1]
    assert json.loads(get(f"{address}/healthz")[1])["status"] == "ok"
    assert "Become the owner" in get(owner_link)[1]
    redis_socket = Path((data_dir / "redis_url").read_text().removeprefix("unix://").partition("?")[0])
    assert redis_socket.is_socket()
    family = children(run)
    assert set(family) == CHILDREN

    # Some process always has the database open, so nothing is folded away between requests.
    assert (data_dir / "db.sqlite3-wal").exists()

    web_check = [sys.executable, "-m", "webapp.ops.web", "--port", address.rpartition(":")[2], "--check"]
    assert subprocess.run(web_check, cwd=ROOT).returncode == 0

    family["web"].kill()
    run.wait_for(r"web +\| ended \(killed by SIGKILL\); starting it again")
    assert json.loads(get(f"{address}/healthz")[1])["status"] == "ok"
    assert children(run)["web"].pid != family["web"].pid

    everyone = psutil.Process(run.process.pid).children(recursive=True)
    run.process.terminate()
    assert run.finish() == 0
    assert all(gone(process.pid) for process in everyone)
    assert not redis_socket.parent.exists()
    assert not (data_dir / "redis_url").exists()


def test_several_web_servers_share_the_port_and_one_may_die(site: Site) -> None:
    run = site(WEB_PROCESSES="2")
    address = address_of(run)
    assert get(f"{address}/healthz")[0] == 200
    servers = [p for p in psutil.Process(run.process.pid).children() if "webapp.ops.web" in p.cmdline()]
    assert len(servers) == 2
    servers[0].kill()
    run.wait_for(r"web[12] +\| ended \(killed by SIGKILL\); starting it again")
    assert [get(f"{address}/healthz")[0] for _ in range(4)] == [200] * 4


def test_it_leaves_no_orphan_when_killed_and_starts_again_on_the_same_data(site: Site, data_dir: Path) -> None:
    first = site()
    first_address = address_of(first)
    get(f"{first_address}/healthz")
    stale_redis = Path((data_dir / "redis_url").read_text().removeprefix("unix://").partition("?")[0]).parent
    key = (data_dir / "secret_key").read_text()
    everyone = psutil.Process(first.process.pid).children(recursive=True)

    first.process.kill()

    assert all(gone(process.pid) for process in everyone)
    second = site()
    assert json.loads(get(f"{address_of(second)}/healthz")[1])["status"] == "ok"
    assert (data_dir / "secret_key").read_text() == key
    assert not stale_redis.exists()

    second.process.send_signal(signal.SIGINT)  # Ctrl-C
    assert second.finish() == 0


def test_it_refuses_a_second_site_on_the_same_data(site: Site, data_dir: Path) -> None:
    address_of(site())
    line = refusal(data_dir, "--port", "0")
    assert line == (
        f"CommandError: Stagecraft is already running on the data directory {data_dir}."
        " Stop it, or set DATA_DIR to another."
    )


def test_it_gives_the_owner_link_only_until_there_is_an_owner(site: Site, data_dir: Path) -> None:
    command = [sys.executable, "manage.py", "createsuperuser", "--noinput", "--username", "olga", "--email", ""]
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    env = environment(data_dir, DJANGO_SUPERUSER_PASSWORD="correct horse battery staple")
    subprocess.run(migrate, cwd=ROOT, env=env, check=True)
    subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
    run = site()
    address_of(run)
    run.process.terminate()
    assert run.finish() == 0
    assert not any("owner" in line for line in run.lines)


def test_the_web_server_by_itself_runs_in_as_many_processes_as_asked(data_dir: Path) -> None:
    """As in compose, where nothing else looks after it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "webapp.ops.web", "--port", str(port)]
    run = start(command, cwd=ROOT, env=environment(data_dir, WEB_PROCESSES="2", STAGECRAFT_LOCAL="1"))
    try:
        while not listens(port):
            assert run.process.poll() is None
            time.sleep(0.05)
        assert get(f"http://127.0.0.1:{port}/static/js/keys.js")[0] == 200
        servers = psutil.Process(run.process.pid).children()
        assert [server.cmdline()[1:4] for server in servers] == [["-m", "webapp.ops.web", "--fd"]] * 2
        servers[0].kill()
        run.wait_for(r"web[12] \| ended \(killed by SIGKILL\); starting it again")
        assert get(f"http://127.0.0.1:{port}/static/js/keys.js")[0] == 200
        run.process.terminate()
        assert run.finish() == 0
        assert all(gone(server.pid) for server in servers)
    finally:
        run.end()


# -- strangers -------------------------------------------------------------------------------------


class Visitor:
    """A browser of its own, which says it was forwarded for somebody."""

    def __init__(self, address: str, forwarded_for: str) -> None:
        self.address = address
        self.opener = build_opener(HTTPCookieProcessor(CookieJar()))
        self.opener.addheaders = [("X-Forwarded-For", forwarded_for)]

    def log_in(self, password: str) -> int:
        """The status of an attempt."""
        url = f"{self.address}/login/"
        with self.opener.open(url, timeout=120) as page:
            token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', page.read().decode())
        assert token is not None
        form = {"csrfmiddlewaretoken": token[1], "username": "olga", "password": password}
        try:
            with self.opener.open(url, urlencode(form).encode(), timeout=120) as answer:
                return int(answer.status)
        except HTTPError as error:
            with error:
                return error.code


@pytest.mark.parametrize(("trusted", "locked"), [("", True), ("127.0.0.1", False)])
def test_a_forwarded_address_is_believed_from_a_named_proxy_only(site: Site, trusted: str, locked: bool) -> None:
    """Wrong passwords under ever other addresses: each is somebody else only if a proxy says so."""
    address = address_of(site(FORWARDED_ALLOW_IPS=trusted))
    get(f"{address}/healthz")
    answers = [Visitor(address, f"192.0.2.{number}").log_in("wrong") for number in range(11)]
    assert (answers[-1] == 429) is locked
    assert set(answers[:9]) == {200}


def test_thousands_of_half_sent_requests_shut_nobody_out(site: Site) -> None:
    """Where fewer files may be open than there are halves; those in earnest come from the same address."""
    run = site(files=512)
    address = address_of(run)
    get(f"{address}/healthz")
    port = int(address.rpartition(":")[2])
    with contextlib.ExitStack() as crowd:
        for _ in range(700):
            half = crowd.enter_context(socket.create_connection(("127.0.0.1", port)))
            half.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        assert [get(f"{address}/login/")[0] for _ in range(50)] == [200] * 50
    run.wait_for("holds 192 connections, all that one address may")


# -- refusing --------------------------------------------------------------------------------------


def test_it_says_when_the_port_is_in_use(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(data_dir, PORT=str(port))
    assert line == (
        f"CommandError: Port {port} is in use. Stop what uses it, or choose another: PORT={port + 1} make run"
    )


def test_it_says_when_the_data_directory_cannot_be_written(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    assert refusal(in_the_way / "data") == f"Cannot write to DATA_DIR {in_the_way / 'data'}: Not a directory."
    line = refusal(in_the_way / "data", SECRET_KEY="k" * 50)
    assert line.startswith(f"CommandError: Cannot write to the data directory {in_the_way / 'data'} (Not a directory).")


@pytest.mark.parametrize("port", ["http", "-1", "65536", ""])
def test_it_says_when_the_port_is_no_port(data_dir: Path, port: str) -> None:
    assert refusal(data_dir, f"--port={port}").startswith("CommandError: The port must be a number up to 65535")


def test_it_says_when_the_host_is_not_ours(data_dir: Path) -> None:
    assert refusal(data_dir, "--host", "192.0.2.1", "--port", "0").startswith(
        "CommandError: Cannot listen on 192.0.2.1:0"
    )


def test_it_says_when_redis_does_not_answer(data_dir: Path) -> None:
    line = refusal(data_dir, "--port", "0", REDIS_URL="unix:///nowhere/redis.sock?db=0")
    assert line.startswith("CommandError: REDIS_URL is set, but no Redis answers there")


def test_it_says_when_the_database_does_not_answer(data_dir: Path) -> None:
    line = refusal(data_dir, "--port", "0", DATABASE_URL=f"sqlite:///{data_dir}/missing/db.sqlite3")
    assert line == "CommandError: The database does not answer: unable to open database file"


def test_it_says_when_a_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "NEEDED_PACKAGES", ("torch", "not_installed_anywhere"))
    with pytest.raises(up.CommandError, match=re.escape("Missing: not_installed_anywhere. Run `make run`")):
        up.check_packages()


def test_it_says_when_a_package_django_needs_is_missing(data_dir: Path) -> None:
    blocked = "import sys; sys.modules['channels'] = None; sys.argv = ['manage.py', 'up']\n"
    code = blocked + "import runpy; runpy.run_path('manage.py', run_name='__main__')"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(data_dir), capture_output=True, text=True
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("The package 'channels' is missing. Run `make run`")


# -- addresses -------------------------------------------------------------------------------------


def test_the_setup_link_is_the_one_the_site_has() -> None:
    assert reverse("accounts:setup", args=["token"]) == "/setup/token/"


@pytest.mark.parametrize(
    ("host", "names"), [("127.0.0.1", ["127.0.0.1"]), ("::1", ["[::1]"]), ("class.example.org", ["class.example.org"])]
)
def test_it_answers_to_the_name_it_listens_on(host: str, names: list[str]) -> None:
    assert up.names_of(host) == names


def test_it_answers_to_the_machines_name_when_it_listens_everywhere() -> None:
    assert socket.gethostname().lower() in up.names_of("0.0.0.0")
    assert "*" not in up.names_of("0.0.0.0")


# -- a model from elsewhere --------------------------------------------------------------------------


def test_the_first_start_is_told_which_model_to_begin_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"demo": True, "no_curriculum": False, "start": "hub:makers/SmolModel"}
    command = up.first_start_program({}, options).command
    assert list(command[2:]) == ["first_start", "--demo", "--start", "hub:makers/SmolModel"]
    assert list(up.first_start_program({}, {**options, "start": ""}).command[2:]) == ["first_start", "--demo"]
    # It works in another directory than the one the path was typed in.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SmolModel").mkdir()
    assert up.whole_path("SmolModel") == str(tmp_path / "SmolModel")
    assert up.whole_path("smollm2-135m-instruct") == "smollm2-135m-instruct"


def test_a_model_the_site_cannot_begin_with_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, ...]] = []

    def call(*arguments: str, **options: object) -> None:
        called.append(arguments)
        if arguments[0] == "first_start":
            raise CommandError("It holds models already.")

    monkeypatch.setattr(up, "call_command", call)
    monkeypatch.setattr(up.connection, "close", lambda: None)
    with pytest.raises(CommandError, match="holds models already"):
        up.prepare_database(verbosity=0, start="hub:makers/SmolModel")
    assert called == [("migrate",), ("first_start", "--check", "--start", "hub:makers/SmolModel")]

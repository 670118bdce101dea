"""Half requests and crowds of connections, on real sockets: they are shut, and everyone else is answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import select
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from websockets.sync.client import connect

from webapp.ops import connections, processes

HALF = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
WHOLE = HALF + b"Connection: close\r\n\r\n"
PATIENCE_S = 60
"""Of a test with the server: none waits that long unless something is broken."""


@dataclass
class Served:
    """A server in a thread of this process, and the sockets a test opened to it."""

    port: int
    held: threading.Event = field(default_factory=threading.Event)
    """Until it is set, /held is not answered."""
    opened: list[socket.socket] = field(default_factory=list)

    def open(self, data: bytes = b"", *, source: str = "127.0.0.1", reads: int | None = None) -> socket.socket:
        client = socket.socket()
        if reads is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, reads)
        client.settimeout(PATIENCE_S)
        client.bind((source, 0))
        client.connect(("127.0.0.1", self.port))
        client.sendall(data)
        self.opened.append(client)
        return client

    def answer(self, *, source: str = "127.0.0.1", data: bytes = WHOLE) -> bytes:
        """All that comes back before the connection is closed; empty if it is shut without a word."""
        return everything(self.open(data, source=source))


def everything(client: socket.socket) -> bytes:
    received = bytearray()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while piece := client.recv(65536):
            received += piece
    return bytes(received)


def is_open(client: socket.socket) -> bool:
    """Whether nothing has come, the end included."""
    return not select.select([client], [], [], 0)[0]


def status(answer: bytes) -> int:
    return int(answer.split(maxsplit=2)[1])


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Starts servers whose connections have the given room."""
    running: list[tuple[uvicorn.Server, threading.Thread, Served]] = []

    def start(*, files: int = 4096, **room: Any) -> Served:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        served = Served(listener.getsockname()[1])
        protocols = connections.protocols_of(connections.Room(files=files, **room))
        config = uvicorn.Config(
            application(served),
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=1,
            timeout_graceful_shutdown=1,
            **protocols,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((server, thread, served))
        return served

    yield start
    for server, thread, served in running:
        served.held.set()
        for client in served.opened:
            client.close()
        server.should_exit = True
        thread.join()


def application(served: Served) -> Callable[..., Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
            return
        size = 0
        while (message := await receive()).get("more_body") or message.get("body"):
            size += len(message["body"])
            if not message["more_body"]:
                break
        if scope["path"] == "/held":
            while not served.held.is_set():
                await asyncio.sleep(0.01)
        body = b"x" * 12_000_000 if scope["path"] == "/large" else json.dumps({"read": size}).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


# -- time ------------------------------------------------------------------------------------------


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patience of the server, in tenths of seconds."""
    for name, seconds in (("HEAD_S", 0.3), ("BODY_S", 0.3), ("UNREAD_S", 1)):
        monkeypatch.setattr(connections, name, seconds)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    "half",
    [
        b"",
        b"G",
        HALF,
        b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 9\r\n\r\nx",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + HALF,
    ],
)
def test_a_half_sent_request_is_shut_and_others_are_answered_meanwhile(
    serve: Callable[..., Served], half: bytes
) -> None:
    served = serve()
    silent = served.open(half)
    assert status(served.answer()) == 200
    everything(silent)  # ends, which is what is shown


@pytest.mark.usefixtures("hurried")
def test_a_request_that_trickles_in_is_shut_too(serve: Callable[..., Served]) -> None:
    client = serve().open(HALF)
    while is_open(client):
        client.sendall(b"X-More: yes\r\n")
        threading.Event().wait(0.05)


@pytest.mark.usefixtures("hurried")
def test_a_large_body_may_take_its_time(serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BYTES_PER_S", 50)
    client = serve().open(b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 100\r\n\r\n")
    for _ in range(10):  # at 100 bytes a second, for more than three times BODY_S
        client.sendall(b"x" * 10)
        threading.Event().wait(0.1)
    assert everything(client).endswith(b'{"read": 100}')


@pytest.mark.usefixtures("hurried")
def test_who_takes_no_answer_is_hung_up_on(serve: Callable[..., Served]) -> None:
    served = serve()
    silent = served.open(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n", reads=4096)
    reading = served.open(b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert len(everything(reading)) > 12_000_000
    threading.Event().wait(2)
    assert len(everything(silent)) < 12_000_000


@pytest.mark.usefixtures("hurried")
def test_an_answer_that_takes_long_is_waited_for(serve: Callable[..., Served]) -> None:
    served = serve()
    client = served.open(b"GET /held HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    threading.Event().wait(1)
    assert is_open(client)
    served.held.set()
    assert status(everything(client)) == 200


@pytest.mark.usefixtures("hurried")
def test_a_socket_stays_open_however_long_it_is_silent(serve: Callable[..., Served]) -> None:
    with connect(f"ws://127.0.0.1:{serve().port}/") as open_socket:
        threading.Event().wait(1)
        open_socket.send("still here")
        assert open_socket.recv(timeout=PATIENCE_S) == "still here"


def test_a_head_without_end_is_refused(serve: Callable[..., Served]) -> None:
    answer = serve().answer(data=HALF + b"X-Long: " + b"x" * 2 * connections.MAX_HEAD_BYTES)
    assert status(answer) == 431


# -- number ----------------------------------------------------------------------------------------


def test_half_sent_requests_of_one_address_keep_nobody_out(serve: Callable[..., Served], caplog: Any) -> None:
    """More than there are places, from the very address of those who ask in earnest, with all the time there is."""
    served = serve(most_of_one=20)
    crowd = [served.open(HALF) for _ in range(100)]
    assert [status(served.answer()) for _ in range(30)] == [200] * 30
    assert sum(map(is_open, crowd)) < 20
    assert status(served.answer(source="127.0.0.2")) == 200
    said = [record.message for record in caplog.records if record.name == connections.__name__]
    assert said == [
        "127.0.0.1 holds 20 connections, all that one address may; name it in FORWARDED_ALLOW_IPS if it is your proxy."
        " Those that send nothing make room."
    ]


def test_an_address_that_is_being_answered_everywhere_is_told_to_come_back(
    serve: Callable[..., Served], caplog: Any
) -> None:
    served = serve(most_of_one=5)
    at_work = [served.open(b"GET /held HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") for _ in range(4)]
    with connect(f"ws://127.0.0.1:{served.port}/"):  # counts as well
        assert status(served.answer()) == 503
        assert status(served.answer(source="127.0.0.2")) == 200
    served.held.set()
    assert [status(everything(client)) for client in at_work] == [200] * 4
    assert "All are being answered: a new one was refused." in caplog.text
    assert status(served.answer()) == 200


def test_a_proxy_is_held_to_no_share(serve: Callable[..., Served]) -> None:
    served = serve(most_of_one=5, proxies=connections.Networks(["127.0.0.0/31"]))
    crowd = [served.open(HALF) for _ in range(50)]
    assert status(served.answer()) == 200
    assert all(map(is_open, crowd))


def test_all_together_stay_below_what_the_process_can_open(serve: Callable[..., Served], caplog: Any) -> None:
    served = serve(files=40, proxies=connections.Networks(["127.0.0.1"]))  # 30 for connections
    crowd = [served.open(HALF) for _ in range(100)]
    one = served.open(HALF, source="127.0.0.2")
    assert [status(served.answer()) for _ in range(10)] == [200] * 10
    assert sum(map(is_open, crowd)) <= 30
    assert is_open(one)  # whoever keeps most waiting gives way
    assert "All 30 connections are taken. Those that send nothing make room." in caplog.text


def test_places_are_given_back(serve: Callable[..., Served]) -> None:
    served = serve(most_of_one=5)
    for _ in range(20):
        assert status(served.answer()) == 200
        with connect(f"ws://127.0.0.1:{served.port}/") as open_socket:
            open_socket.send("x")
            assert open_socket.recv(timeout=PATIENCE_S) == "x"
    at_work = [served.open(b"GET /held HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") for _ in range(5)]
    served.held.set()
    assert [status(everything(client)) for client in at_work] == [200] * 5


def test_a_connection_is_kept_for_more_requests(serve: Callable[..., Served]) -> None:
    client = serve().open()
    for _ in range(3):
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b'{"read": 0}'):
            answer += client.recv(4096)


# -- files -----------------------------------------------------------------------------------------


def test_it_asks_for_as_many_files_as_it_may_have() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = processes.MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, processes.MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, wanted), hard))
    try:
        assert processes.raise_file_limit() == wanted
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (wanted, hard)
        assert processes.raise_file_limit() == wanted
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

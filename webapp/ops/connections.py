"""Who may hold a connection, and how long, before a request is whole: what uvicorn leaves to its proxy.

The idea: a connection is an open file, and a process may have only so many. Somebody who sends half a request and
falls silent would keep one for ever, and a few thousand of those shut the site for everyone. So

- a request's head must be whole within HEAD_S, and its body must go on arriving; who takes no answer is hung up on;
- one address may hold MOST_OF_ONE connections of a process, and all together what the process can open. A newcomer
  beyond that gets the place of the connection that has kept us waiting longest (of the same address, or of the one
  that keeps most waiting), so that a class behind one address only loses what it does not use. Only where everyone
  is being answered is a newcomer told to come back;
- a trusted proxy speaks for many and is held to no share.

Counted in each web process by itself. An open WebSocket counts and never has to go: uvicorn pings it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Container, Iterable
from typing import Any, ClassVar, Final, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from webapp.ops.addresses import party_behind

logger = logging.getLogger(__name__)

HEAD_S: Final = 10.0
"""From connecting, or from the first byte of a further request, to the end of the head."""
BODY_S: Final = 20.0
UNREAD_S: Final = 60.0
"""In every such time something must be taken of an answer that waits to be sent."""
BYTES_PER_S: Final = 500
"""Slowest a body may arrive after its first BODY_S, or an answer leave."""
MOST_OF_ONE: Final = 512
"""Connections of one address: a class of sixty with all that a browser opens."""
FILES_OF_OUR_OWN: Final = 256
"""Kept free of connections: database, Redis, templates."""
SAY_EVERY_S: Final = 60.0

MAX_HEAD_BYTES: Final = 64 * 1024
BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Networks:
    """Addresses and networks as FORWARDED_ALLOW_IPS lists them; a party is in it that shares an address with one."""

    def __init__(self, names: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(name) for name in names]

    def __contains__(self, address: object) -> bool:
        try:
            found = ipaddress.ip_network(str(address))
        except ValueError:
            return False
        return any(found.version == each.version and found.overlaps(each) for each in self._networks)


class Room:
    """The open connections of this process, and who among them keeps us waiting."""

    def __init__(self, *, files: int, proxies: Container[str] = (), most_of_one: int = MOST_OF_ONE) -> None:
        self.most = max(1, files - min(FILES_OF_OUR_OWN, files // 4))
        self.most_of_one = min(most_of_one, max(1, self.most // 2))
        self.proxies = proxies
        self._held: Counter[str] = Counter()
        self._total = 0
        self._waited_for: dict[str, dict[GuardedHttp, None]] = {}
        """By address, the one that has kept us waiting longest first."""
        self._said_at: dict[str, float] = {}

    def enter(self, connection: GuardedHttp) -> bool:
        """Count a new connection in; False if there is no place for it."""
        address = connection.address
        has_place = True
        if self._total >= self.most:
            busiest = max(self._waited_for, key=lambda each: len(self._waited_for[each]), default="")
            has_place = self._make_place(busiest)
            self._say(f"All {self.most} connections are taken.", has_place)
        elif self._held[address] >= self.most_of_one and address and address not in self.proxies:
            has_place = self._make_place(address)
            holds = f"{address} holds {self.most_of_one} connections, all that one address may"
            self._say(f"{holds}; name it in FORWARDED_ALLOW_IPS if it is your proxy.", has_place)
        self.count(address)
        return has_place

    def count(self, address: str) -> None:
        self._held[address] += 1
        self._total += 1

    def leave(self, address: str) -> None:
        self._total -= 1
        self._held[address] -= 1
        if not self._held[address]:
            del self._held[address]

    def wait_for(self, connection: GuardedHttp) -> None:
        """It is the other side's turn."""
        self._waited_for.setdefault(connection.address, {})[connection] = None

    def wait_no_more(self, connection: GuardedHttp) -> None:
        waited_for = self._waited_for.get(connection.address, {})
        waited_for.pop(connection, None)
        if not waited_for:
            self._waited_for.pop(connection.address, None)

    def _make_place(self, address: str) -> bool:
        for connection in self._waited_for.get(address, ()):
            connection.hang_up()
            return True
        return False

    def _say(self, sentence: str, has_place: bool) -> None:
        """Once a minute each: an attack must not fill the disk with what is said of it."""
        now = time.monotonic()
        if now - self._said_at.get(sentence, -SAY_EVERY_S) < SAY_EVERY_S:
            return
        self._said_at = {each: at for each, at in self._said_at.items() if now - at < SAY_EVERY_S} | {sentence: now}
        then = "Those that send nothing make room." if has_place else "All are being answered: a new one was refused."
        logger.warning("%s %s", sentence, then)


class GuardedHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with the patience of a busy host."""

    room: ClassVar[Room]

    address = ""
    _waits_for: Literal["", "head", "body", "reader"] = ""
    _timer: asyncio.TimerHandle | None = None
    _deadline = 0.0
    _head_bytes = 0
    _unread = 0

    # -- the connection ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = party_behind(self.client[0]) if self.client else ""
        if self.room.enter(self):
            self._wait("head", HEAD_S)
        else:
            self._refuse(BUSY)

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_on()
        self.room.leave(self.address)
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self.room.leave(self.address)  # from here on GuardedSocket is told what happens
        super().handle_websocket_upgrade()

    def hang_up(self) -> None:
        self._go_on()
        self.transport.abort()

    def _refuse(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.close()

    # -- a request ---------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._waits_for in ("", "reader") and (self.cycle is None or self.cycle.response_complete):
            self._wait("head", HEAD_S)  # a further request begins
        super().data_received(data)
        if self._waits_for == "head":
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._go_on()
        self._head_bytes = 0
        super().on_headers_complete()
        if not (self.parser.should_upgrade() and self._should_upgrade()):
            self._wait("body", BODY_S)

    def on_body(self, body: bytes) -> None:
        self._deadline += len(body) / BYTES_PER_S
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._go_on()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._wait("reader", UNREAD_S)
        elif not self.transport.is_closing() and not self.pipeline:
            self.room.wait_for(self)  # for a further request, as long as uvicorn keeps it

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait("reader", UNREAD_S)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._waits_for == "reader":
            self._go_on()

    # -- the clock ---------------------------------------------------------------------------------

    def _wait(self, what: Literal["head", "body", "reader"], seconds: float) -> None:
        """Give the other side so long to go on."""
        self._go_on()
        self.room.wait_for(self)
        self._waits_for = what
        self._unread = self.transport.get_write_buffer_size()
        self._deadline = self.loop.time() + seconds
        self._timer = self.loop.call_at(self._deadline, self._look)

    def _go_on(self) -> None:
        self.room.wait_no_more(self)
        self._waits_for = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._waits_for == "reader":
            unread = self.transport.get_write_buffer_size()
            if not unread:
                self._go_on()
                return
            if self._unread - unread >= UNREAD_S * BYTES_PER_S:
                self._unread, self._deadline = unread, self.loop.time() + UNREAD_S
        elif self._waits_for == "body" and self.flow.read_paused:  # by us, so its time stands still
            self._deadline = max(self._deadline, self.loop.time() + 1)
        if self._deadline > self.loop.time():
            self._timer = self.loop.call_at(self._deadline, self._look)
        else:
            self.hang_up()


class GuardedSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, counted."""

    room: ClassVar[Room]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._address = party_behind(self.client[0]) if self.client else ""
        self.room.count(self._address)

    def connection_lost(self, exc: Exception | None) -> None:
        self.room.leave(self._address)
        super().connection_lost(exc)


def protocols_of(room: Room) -> dict[str, Any]:
    """uvicorn's settings for a server whose connections are in `room`."""
    return {
        "http": type("Http", (GuardedHttp,), {"room": room}),
        "ws": type("Socket", (GuardedSocket,), {"room": room}),
    }

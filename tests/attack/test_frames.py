"""Twenty thousand frames that make no sense, at both sockets: answered, forgotten, and nobody else is disturbed."""

from __future__ import annotations

import json
import random
import string
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
from websockets.exceptions import ConnectionClosed

from tests.attack.sites import PATIENCE_S, Person, Site
from tests.webapp.test_chat_socket import BAD_FRAMES

FRAMES = 20_000
SOCKETS = 8
AT_ONCE = 50
"""Frames sent before their answers are read."""
LARGEST_GROWTH = 1.25
"""Of a web process's memory; a leak of a kilobyte a frame would be 1.2."""


def bad_frame(draw: random.Random) -> str | bytes:
    """One of the known bad ones, or noise: letters, binary, a good frame with something cut out of it."""
    kind = draw.randrange(4)
    if kind == 0:
        return draw.choice([text for text in BAD_FRAMES if len(text) < 64_000])
    if kind == 1:
        return "".join(draw.choices(string.printable, k=draw.randrange(200)))
    if kind == 2:
        return draw.randbytes(draw.randrange(2000))
    good = json.dumps({"type": "attach", "message": "00000000-0000-0000-0000-000000000000", "after": "0-0"})
    at = draw.randrange(len(good))
    return good[:at] + good[at + draw.randrange(1, 9) :]


def shower(person: Person, path: str, count: int, draw: random.Random) -> int:
    """Send `count` bad frames, on a new socket whenever the last was closed; how many were answered with an error."""
    answered = sent = 0
    while sent < count:
        try:
            with person.socket(path) as socket:
                while sent < count:
                    batch = min(AT_ONCE, count - sent)
                    sent += batch
                    for _ in range(batch):
                        socket.send(bad_frame(draw))
                    got = 0
                    while got < batch:
                        if json.loads(socket.recv(timeout=PATIENCE_S)).get("type") == "error":
                            got += 1
                    answered += got
        except ConnectionClosed:
            continue
    return answered


def resident(processes: list[psutil.Process]) -> dict[int, int]:
    return {process.pid: process.memory_info().rss for process in processes}


def test_bad_frames_harm_nobody(site: Site, draw: random.Random) -> None:
    neighbour = Person(site)
    people = [Person(site) for _ in range(SOCKETS)]
    paths = [f"/ws{person.begin_chat('What is a fox?')[0]}" for person in people]
    run = site.inside("queue_run", stage="pretrain")
    paths[-1] = f"/ws/runs/{run}/"
    shower(people[0], paths[0], 500, draw)  # what a process needs once
    before = resident(site.of_kind("web"))

    def attack(number: int) -> int:
        return shower(people[number], paths[number], FRAMES // SOCKETS, random.Random(draw.randrange(10**9)))

    with ThreadPoolExecutor(SOCKETS + 1) as pool:
        attacked: Any = pool.map(attack, range(SOCKETS))
        chats = [neighbour.follow(*neighbour.begin_chat(f"What is thing {number}?")) for number in range(5)]
        answered = list(attacked)
    assert [chat["state"] for chat in chats] == ["done"] * 5
    after = resident(site.of_kind("web"))
    assert set(after) == set(before)  # no process ended
    growth = {pid: round(after[pid] / before[pid], 3) for pid in before}
    print(f"{sum(answered)} of {FRAMES} bad frames were answered; memory of the web processes grew by {growth}")
    assert max(growth.values()) < LARGEST_GROWTH
    assert not [line for line in site.lines if "Traceback" in line or "Error" in line]

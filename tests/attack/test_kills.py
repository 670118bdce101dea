"""Twenty kills of any of a site's processes, its supervisor included, while people chat and vote and a model trains.

Whatever was accepted is there afterwards, nothing is stuck, no process is left over, and the run ends with the same
bytes as one that nobody disturbed.
"""

from __future__ import annotations

import http.client
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
from websockets.exceptions import WebSocketException

from tests.attack.sites import MARKS, Person, Site, wait_until

KILLS = 20
CHATTERS = 4
VOTERS = 2
PAIRS_EACH = 300
PAUSE_S = 3.0
"""Between two messages, and twice between two votes: a person stays below the limits, however long this takes."""
BROKEN = (OSError, http.client.HTTPException, WebSocketException, AssertionError)
"""What a person may see while something is killed; they try again."""


class Crowd:
    """People at work in threads. `messages` and `votes` are what the site accepted."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.messages: list[str] = []
        self.votes: list[tuple[str, str]] = []
        self._over = threading.Event()
        people = site.inside("voters", count=VOTERS, pairs_each=PAIRS_EACH)
        self._threads = [threading.Thread(target=self._chat) for _ in range(CHATTERS)]
        self._threads += [threading.Thread(target=self._vote, args=(one,)) for one in people]
        for thread in self._threads:
            thread.start()

    def go_home(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _chat(self) -> None:
        person = Person(self.site)
        while not self._over.wait(PAUSE_S):
            with suppress(*BROKEN):
                path, message = person.begin_chat("What is a fox?", max_new_tokens=150)
                self.messages.append(message)
                person.follow(path, message)

    def _vote(self, one: dict[str, Any]) -> None:
        person = Person(self.site, one["session"])
        for pair in one["pairs"]:
            if self._over.wait(PAUSE_S / 2):
                return
            with suppress(*BROKEN):
                person.get(f"/vote/{pair}/")
                if person.post(f"/vote/{pair}/", {"choice": "a"})[0] == 302:
                    self.votes.append((pair, one["visitor"]))


def kill_one(site: Site, kind: str, draw: random.Random) -> str:
    """Kill a process of this kind once there is one, and see the site well again; says what was done."""
    if kind == "supervisor":
        family = site.family()
        site.supervisor.kill()
        _, left = psutil.wait_procs(family, timeout=30)
        # The trainer has a session of its own; it ends when nobody reads it any more.
        assert left == [], left
        site.start()
        return kind
    found: list[psutil.Process] = []

    def is_there() -> bool:
        found[:] = site.of_kind(kind)
        return bool(found)

    wait_until(is_there, f"there is a {kind} process")
    process = draw.choice(found)
    with suppress(psutil.NoSuchProcess):  # it ended by itself just now
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process], timeout=30)
    if kind != "trainer":
        wait_until(is_there, f"there is a {kind} process again")
    site.wait_until_well()
    return f"{kind} {process.pid}"


def test_twenty_kills_lose_nothing_and_leave_nothing(new_site: Callable[..., Site], draw: random.Random) -> None:
    site = new_site(DJANGO_SETTINGS_MODULE="tests.attack.site_settings", TRAIN_THREADS="1")

    def state_of(run: int) -> str:
        """How it stands; one that failed is resumed, as a person would, where the site leaves that to one."""
        state, _ = site.run_stands(run)
        if state in ("failed", "stopped"):
            site.inside("resume_run", pk=run)
        return state

    undisturbed = site.inside("queue_run", stage="pretrain")
    wait_until(lambda: state_of(undisturbed) == "done", "the undisturbed run is done", every_s=1)
    expected = site.inside("run", pk=undisturbed)
    assert expected["attempt"] == 1

    disturbed = [site.inside("queue_run", stage="pretrain")]

    def is_under_way() -> bool:
        """Whether the run has gone on since the last kill. One that is done is followed by another."""
        if state_of(disturbed[-1]) == "done":
            disturbed.append(site.inside("queue_run", stage="pretrain"))
            reached[0] = 0
        return site.run_stands(disturbed[-1])[1] > reached[0] and bool(site.of_kind("trainer"))

    reached = [0]
    crowd = Crowd(site)
    kinds = ["supervisor", *MARKS]
    order = [kinds[number % len(kinds)] for number in range(KILLS)]
    draw.shuffle(order)
    try:
        for number, kind in enumerate(order, start=1):
            wait_until(is_under_way, "the run is under way", every_s=0.5)
            time.sleep(draw.uniform(0.0, 0.5))
            reached[0] = site.run_stands(disturbed[-1])[1]
            print(f"{number}: killed {kill_one(site, kind, draw)} at step {reached[0]}", flush=True)
    finally:
        crowd.go_home()
    wait_until(lambda: state_of(disturbed[-1]) == "done", "the run is done", every_s=1)
    wait_until(lambda: site.inside("unfinished") == {"answers": 0, "runs": 0}, "nothing is stuck", every_s=5)

    assert {site.inside("run", pk=run)["sha256"] for run in disturbed} == {expected["sha256"]}
    votes = {(pair, visitor): count for pair, visitor, count in site.inside("votes")}
    assert set(crowd.votes) <= set(votes)
    assert set(votes.values()) == {1}
    answers = site.inside("answers")
    assert set(crowd.messages) <= set(answers)
    states = [answers[message]["state"] for message in crowd.messages]
    counts = {state: states.count(state) for state in set(states)}
    print(f"{len(states)} messages: {counts}; {len(votes)} votes; {len(disturbed)} runs", flush=True)
    assert states.count("done") > len(states) / 2
    site.stop()
    assert site.strays() == []

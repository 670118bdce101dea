"""Stop stops: within a second the answer is over, and its text is what the page showed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from tests.attack.sites import PATIENCE_S, Person, Site
from trainer.runtime.measurements import percentile

STOPS = 20
AIM_S = 1.0


def test_an_answer_is_over_a_second_after_stop(new_site: Callable[..., Site]) -> None:
    site = new_site(STAGECRAFT_PRESET="tiny")  # slow enough to be stopped
    waits: list[float] = []
    for number in range(STOPS):
        person = Person(site)
        path, message = person.begin_chat(f"What is thing {number}?", max_new_tokens=200)
        shown, frame = "", {"type": ""}
        with person.socket(f"/ws{path}") as socket:
            socket.send(json.dumps({"type": "attach", "message": message, "after": "0"}))
            asked_at = 0.0
            while frame["type"] != "end":
                frame = json.loads(socket.recv(timeout=PATIENCE_S))
                if frame["type"] == "token":
                    shown += frame["text"]
                    if not asked_at:
                        socket.send(json.dumps({"type": "stop", "message": message}))
                        asked_at = time.perf_counter()
        if frame["state"] == "stopped":
            waits.append(time.perf_counter() - asked_at)
        assert frame["text"] == shown
        assert text_as_stored(person, path, message) == frame["text"]
    assert waits, "every answer was done before the stop reached it"
    print(
        f"{len(waits)} of {STOPS} answers stopped in mid-text: p50 {percentile(waits, 0.5):.2f} s, "
        f"longest {max(waits):.2f} s"
    )
    assert max(waits) <= AIM_S


def text_as_stored(person: Person, path: str, message: str) -> str:
    """The answer as a reader who comes now gets it."""
    return str(person.follow(path, message)["text"])

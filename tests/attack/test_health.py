"""The health check answers while 48 people chat and a model trains: nobody restarts a site that is only busy."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from tests.attack.sites import Person, Site, wait_until
from tests.processes import ROOT
from trainer.runtime.measurements import percentile

CHATS = 48
ASKED = 400
"""A percentile of 99 has four slower ones above it."""
CHAT_EVERY_S = 3.2
"""A person may send twenty messages a minute."""
AIM_MS = 100.0


def test_it_answers_while_everybody_chats_and_a_model_trains(new_site: Callable[..., Site]) -> None:
    site = new_site(STAGECRAFT_PRESET="tiny")
    run = site.inside("queue_run", stage="pretrain")
    wait_until(lambda: bool(site.of_kind("trainer")), "the run has a trainer")
    over = threading.Event()
    sent: list[int] = []
    failed: list[BaseException] = []

    def chat(number: int) -> None:
        try:
            person = Person(site)
            path, message = person.begin_chat(f"What is the number {number} good for?", max_new_tokens=100)
            person.follow(path, message)
            over.wait(CHAT_EVERY_S * number / CHATS)
            while not over.is_set():
                began = time.monotonic()
                path, message = person.begin_chat(f"And the number {number}?", max_new_tokens=100)
                person.follow(path, message)
                sent.append(number)
                over.wait(max(0.0, CHAT_EVERY_S - (time.monotonic() - began)))
        except BaseException as error:
            failed.append(error)
            over.set()

    chats = [threading.Thread(target=chat, args=(number,)) for number in range(CHATS)]
    for thread in chats:
        thread.start()
    try:
        wait_until(lambda: len(sent) >= CHATS or over.is_set(), "every chat has begun")
        command = [sys.executable, "-m", "tests.attack.asking", f"{site.address}/healthz", str(ASKED)]
        asked = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    finally:
        over.set()
        for thread in chats:
            thread.join()
    assert failed == []
    assert site.inside("run", pk=run)["state"] == "running"  # all the time
    assert {status for status, _ in asked} == {200}
    waits_ms = [wait_ms for _, wait_ms in asked]
    p50, p99 = percentile(waits_ms, 0.5), percentile(waits_ms, 0.99)
    print(f"/healthz under {CHATS} chats and a run: p50 {p50:.0f} ms, p99 {p99:.0f} ms ({len(sent)} answers meanwhile)")
    assert p99 <= AIM_MS

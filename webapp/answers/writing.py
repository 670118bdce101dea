"""Writing one answer: claim the row, drain the engine, log the text, end in the database.

The idea: a task is a thread that waits on its request's tokens and appends them, 40 ms at a time, to
the answer's live log. Two more threads per process, the watch, say in the database which answers are
alive and look whether someone asked to stop them, so neither waits for the next token.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import redis
from django.db import connection
from django.utils import timezone

from webapp.answers.engines import NotWaitedFor, engines
from webapp.answers.models import Generation
from webapp.answers.services import (
    asked_to_stop,
    claim_generation,
    finish_generation,
    forgotten_generations,
    recover_generations,
    say_alive,
)
from webapp.checkpoints.models import Checkpoint
from webapp.live import streams

logger = logging.getLogger(__name__)

COALESCE_S = 0.04
"""Tokens that come within this time travel as one event."""
WATCH_S = 0.25
"""How often to look whether somebody wants an answer to stop."""
PULSE_S = 4.0
"""How often to say that the answers being written are; several times in ALIVE_S, and once in DOUBT_S."""
FORGOTTEN_S = 10.0
"""How often to look for answers that no message asks for."""
FORGOTTEN_THREADS = 8
BROKEN = "\N{REPLACEMENT CHARACTER}"
UNSTORABLE = str.maketrans({"\0": BROKEN, "\r": "\n"})
"""PostgreSQL stores no NUL and HTML knows no carriage return; noise (a random model's answer) has both."""
STOPPED = "stopped"
FINAL_STATE = {"end": Generation.State.DONE, "length": Generation.State.DONE, STOPPED: Generation.State.STOPPED}


class Stoppable(Protocol):
    def stop(self) -> None: ...


class Stopper:
    """A wish to stop, kept until there is a request to pass it on to."""

    def __init__(self) -> None:
        self.is_asked = False
        self._request: Stoppable | None = None

    def stop(self) -> None:
        # The wish is written before the request is read, and the other way round below: whichever thread
        # comes second passes it on.
        self.is_asked = True
        if self._request is not None:
            self._request.stop()

    def attach(self, request: Stoppable) -> None:
        self._request = request
        if self.is_asked:
            request.stop()


class Streams(Protocol):
    """A text that is being written: its ids go in one by one, and its letters come out as soon as they are whole."""

    def push(self, id: int) -> str: ...

    def finish(self) -> str: ...


class Tokenizes(Protocol):
    def stream(self) -> Streams: ...


class TextDecoder:
    """Token ids to text that can be stored and shown, a piece at a time, never splitting a character."""

    def __init__(self, tokenizer: Tokenizes) -> None:
        self._stream = tokenizer.stream()

    def push(self, token: int) -> str:
        """Text that is certain now that `token` has come; often empty for parts of a character."""
        return self._stream.push(token).translate(UNSTORABLE)

    def finish(self) -> str:
        """What is still held."""
        return self._stream.finish().translate(UNSTORABLE)


class Watch:
    """Heartbeats and stop requests of every answer this process is writing, each from a thread of its own.

    A heartbeat may wait for the database's other writers; a stop request is read, and need not.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._requests: dict[str, Stoppable] = {}
        self._are_started = False

    def add(self, generation_id: str, request: Stoppable) -> None:
        with self._condition:
            self._requests[generation_id] = request
            if not self._are_started:
                self._are_started = True
                for name, look, pause_s in (("stop", self._pass_on_stops, WATCH_S), ("pulse", self._beat, PULSE_S)):
                    threading.Thread(target=self._run, args=(look, pause_s), name=f"answer-{name}", daemon=True).start()
            self._condition.notify_all()

    def remove(self, generation_id: str) -> None:
        with self._condition:
            self._requests.pop(generation_id, None)

    def _run(self, look: Callable[[dict[str, Stoppable]], None], pause_s: float) -> None:
        while True:
            with self._condition:
                if not self._requests:
                    connection.close()
                while not self._requests:
                    self._condition.wait()
            time.sleep(pause_s)  # whoever has just claimed an answer has said so
            with self._condition:
                requests = dict(self._requests)
            try:
                if requests:
                    look(requests)
            except Exception as error:  # whatever it is, the next look may go well
                logger.warning("%s waits for the database: %s", threading.current_thread().name, error)
                connection.close()

    @staticmethod
    def _pass_on_stops(requests: dict[str, Stoppable]) -> None:
        for generation_id in asked_to_stop(list(requests)):
            requests[generation_id].stop()

    @staticmethod
    def _beat(requests: dict[str, Stoppable]) -> None:
        say_alive(list(requests))


watch = Watch()


@dataclass
class Draft:
    """An answer being written: its text so far, on its way to the live log if it has one."""

    key: str | None
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    first_token_at: datetime | None = None
    _unsent: str = ""
    _sent_at: float = 0.0
    _log_is_whole: bool = True

    def add(self, piece: str) -> None:
        """Append text; it reaches the log at once or together with what follows within COALESCE_S."""
        self.text += piece
        self._unsent += piece
        if time.monotonic() - self._sent_at >= COALESCE_S:
            self.flush()

    def flush(self) -> None:
        if self.key is None or not self._unsent or not self._log_is_whole:
            return
        try:
            streams.append(self.key, {"type": "token", "text": self._unsent})
        except redis.RedisError as error:
            # A log with a hole would show a wrong text; its readers wait for the end instead.
            self._log_is_whole = False
            logger.warning("%s goes on without its live log: %s", self.key, streams.trouble(error))
        self._unsent = ""
        self._sent_at = time.monotonic()


def write_answer(*, generation_id: str) -> None:
    """Write one queued answer to its end. Anything but a queued one is left alone."""
    generation = claim_generation(generation_id)
    if generation is None:
        return
    draft = Draft(None if generation.background else generation.stream_key)
    stopper = Stopper()
    # From the claim to the last query: the engine may be a while in coming, and the database in answering.
    watch.add(generation_id, stopper)
    try:
        finish_reason = _draft_answer(generation, draft, stopper)
    except ValueError as error:  # the question or the checkpoint, not the program
        _finish(generation, draft, "error", error=str(error))
    except Exception:
        logger.exception("generation %s failed", generation_id)
        _finish(generation, draft, "error", error="The model failed while answering; ask again.")
    else:
        _finish(generation, draft, finish_reason)
    finally:
        watch.remove(generation_id)


def _draft_answer(generation: Generation, draft: Draft, stopper: Stopper) -> str:
    """Drain the engine into the draft; returns why it ended."""
    checkpoint = generation.checkpoint
    if not connection.in_atomic_block:
        connection.close()  # the answer takes seconds, and the next query opens another
    last = generation.messages[-1]
    if last["role"] == "assistant":
        draft.add(last["content"])  # continued: the answer begins with what there is
    try:
        with engines.borrow(checkpoint, is_unwanted=lambda: stopper.is_asked) as engine:
            request = engine.submit(generation.messages, generation.sampling, background=generation.background)
            stopper.attach(request)
            try:
                _drain(request.events(), TextDecoder(engine.tokenizer), draft)
            finally:
                request.stop()
            return request.finish_reason
    except NotWaitedFor:
        return STOPPED
    finally:
        draft.flush()


def _drain(events: Iterable[tuple[int, float]], decoder: TextDecoder, draft: Draft) -> None:
    for token, _ in events:
        if draft.first_token_at is None:
            draft.first_token_at = timezone.now()
        draft.token_ids.append(token)
        draft.add(decoder.push(token))
    draft.add(decoder.finish())


def _finish(generation: Generation, draft: Draft, finish_reason: str, *, error: str = "") -> None:
    ended = finish_generation(
        generation=generation,
        state=FINAL_STATE.get(finish_reason, Generation.State.FAILED),
        text=draft.text,
        finish_reason=finish_reason,
        error=error,
        token_ids=draft.token_ids,
        first_token_at=draft.first_token_at,
    )
    if not ended:
        logger.warning(
            "generation %s had been ended for dead; what its worker wrote after that is lost.", generation.pk
        )


def prepare() -> None:
    """Before the first question: settle what a previous worker left and load the newest checkpoints."""
    recover_generations()
    for checkpoint in Checkpoint.objects.chattable().current_by_stage().values():
        warm_up(checkpoint)


def warm_up(checkpoint: Checkpoint) -> None:
    """Load a checkpoint now. One that cannot be loaded says so (in the log, too) when it is asked, not here."""
    with suppress(ValueError), engines.borrow(checkpoint):
        pass


def write_forgotten(executor: Executor) -> int:
    """Write what no message will ask for, some at a time; returns how many. While Redis is full, that is everything."""
    found = forgotten_generations()[:FORGOTTEN_THREADS]
    if found:
        logger.warning("Writing %d answers that no message asks for.", len(found))
    wait([executor.submit(_write_and_let_go, pk) for pk in found])
    return len(found)


def _write_and_let_go(generation_id: str) -> None:
    try:
        write_answer(generation_id=generation_id)
    finally:
        connection.close()


def look_for_forgotten() -> None:
    """Do that for as long as the process lives, in a thread of its own."""
    threading.Thread(target=_find_forgotten, name="forgotten-answers", daemon=True).start()


def _find_forgotten() -> None:
    with ThreadPoolExecutor(FORGOTTEN_THREADS) as executor:
        while True:
            try:
                found = write_forgotten(executor)
            except Exception as error:  # whatever it is, the next look may go well
                logger.warning("Forgotten answers wait for the database: %s", error)
                found = 0
            connection.close()
            if not found:
                time.sleep(FORGOTTEN_S)

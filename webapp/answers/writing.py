"""Writing one answer: claim the row, drain the engine, log the text, end in the database.

The idea: a task is a thread that waits on its request's tokens and appends them, 40 ms at a time, to
the answer's live log. One more thread per process, the watch, tells the world which answers are
alive and looks whether someone asked to stop them, so neither waits for the next token.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import redis
from django.db import connection
from django.utils import timezone

from webapp.answers.engines import NotWaitedFor, engines
from webapp.answers.models import Generation
from webapp.answers.services import ALIVE_S, alive_key, fail_if_dead, finish_generation, recover_generations, stop_key
from webapp.checkpoints.models import Checkpoint
from webapp.live import streams

logger = logging.getLogger(__name__)

COALESCE_S = 0.04
"""Tokens that come within this time travel as one event."""
WATCH_S = 0.25
BROKEN = "\N{REPLACEMENT CHARACTER}"
UNSTORABLE = str.maketrans({"\0": BROKEN, "\r": "\n"})
"""PostgreSQL stores no NUL and HTML knows no carriage return; noise (a random model's answer) has both."""
HELD_TOKENS = 8
"""Tokens waited for before broken UTF-8 is shown as broken; no character has more bytes than four."""
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


class Decodes(Protocol):
    def decode(self, ids: list[int]) -> str: ...


class TextDecoder:
    """Token ids to text, a piece at a time, never splitting a character.

    A token may end in the middle of a character. Each piece is the difference between the text with
    and without the newest tokens, decoded from a few tokens before, because some tokenizers write a
    token differently at the start.
    """

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = 0  # how many of the ids have been turned into text; the others are held

    def push(self, token: int) -> str:
        """Text that is certain now that `token` has come; often empty for parts of a character."""
        self._ids.append(token)
        return self._take(final=len(self._ids) - self._shown >= HELD_TOKENS)

    def finish(self) -> str:
        """What is still held."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        before = self._tokenizer.decode(self._ids[: self._shown])
        text = self._tokenizer.decode(self._ids)
        if text.endswith(BROKEN) and not final:
            return ""
        # Keep only the ids of this piece: enough context for the next one.
        self._ids = self._ids[self._shown :]
        self._shown = len(self._ids)
        return text[len(before) :].translate(UNSTORABLE)


class Watch:
    """Heartbeats and stop requests of every answer this process is writing."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._requests: dict[str, Stoppable] = {}
        self._thread: threading.Thread | None = None

    def add(self, generation_id: str, request: Stoppable) -> None:
        with self._condition:
            self._requests[generation_id] = request
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="answer-watch", daemon=True)
                self._thread.start()
            self._condition.notify()

    def remove(self, generation_id: str) -> None:
        with self._condition:
            self._requests.pop(generation_id, None)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._requests:
                    self._condition.wait()
                requests = dict(self._requests)
            try:
                self._look(requests)
            except redis.RedisError:
                logger.warning("Redis does not answer; stop requests wait until it does.")
            time.sleep(WATCH_S)

    @staticmethod
    def _look(requests: dict[str, Stoppable]) -> None:
        pipeline = streams.client().pipeline(transaction=False)
        for generation_id in requests:
            pipeline.set(alive_key(generation_id), 1, ex=ALIVE_S)
        pipeline.mget([stop_key(generation_id) for generation_id in requests])
        for asked, request in zip(pipeline.execute()[-1], requests.values(), strict=True):
            if asked:
                request.stop()


watch = Watch()


@dataclass
class Draft:
    """An answer being written: its text so far, on its way to the live log."""

    key: str
    text: str = ""
    tokens: int = 0
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
        if not self._unsent or not self._log_is_whole:
            return
        try:
            streams.append(self.key, {"type": "token", "text": self._unsent})
        except redis.RedisError:
            # A log with a hole would show a wrong text; its readers wait for the end instead.
            self._log_is_whole = False
            logger.warning("Redis does not answer; %s goes on without its live log.", self.key)
        self._unsent = ""
        self._sent_at = time.monotonic()


def write_answer(*, generation_id: str) -> None:
    """Write one queued answer to its end. Anything but a queued one is left alone, or ended if dead."""
    generation = _claim(generation_id)
    if generation is None:
        return
    draft = Draft(generation.stream_key)
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
        with suppress(redis.RedisError):  # it expires by itself
            streams.delete(alive_key(generation_id))


def _claim(generation_id: str) -> Generation | None:
    """Take a queued answer, or find out why not: unknown, done, in good hands, or dead."""
    mine = streams.client().set(alive_key(generation_id), 1, nx=True, ex=ALIVE_S)
    claimed = Generation.objects.filter(pk=generation_id, state=Generation.State.QUEUED).update(
        state=Generation.State.RUNNING
    )
    generation = Generation.objects.select_related("checkpoint").filter(pk=generation_id).first()
    if claimed:
        return generation
    if mine:
        streams.delete(alive_key(generation_id))
        if generation is not None and generation.state == Generation.State.RUNNING:
            fail_if_dead(generation)
    return None


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
            request = engine.submit(generation.messages, generation.sampling)
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
        draft.tokens += 1
        draft.add(decoder.push(token))
    draft.add(decoder.finish())


def _finish(generation: Generation, draft: Draft, finish_reason: str, *, error: str = "") -> None:
    finish_generation(
        generation=generation,
        state=FINAL_STATE.get(finish_reason, Generation.State.FAILED),
        text=draft.text,
        finish_reason=finish_reason,
        error=error,
        tokens=draft.tokens,
        first_token_at=draft.first_token_at,
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

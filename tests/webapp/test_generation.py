"""Answers from the request to the last event: starting, claiming, streaming, stopping, dying."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from celery import Celery
from django.db import connection
from kombu.exceptions import OperationalError

from tests.conftest import Enqueued
from tests.threads import database_thread
from webapp.answers import services, writing
from webapp.answers.engines import NotWaitedFor
from webapp.answers.models import Generation
from webapp.answers.tasks import generate_answer, look_after_answers
from webapp.live import streams

State = Generation.State
QUESTION = [{"role": "user", "content": "What does a fox eat?"}]


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")


@dataclass
class FakeRequest:
    """An engine's request that yields `text` byte by byte, waiting before byte `pause_at` for a stop."""

    text: str
    pause_at: int | None = None
    error: Exception | None = None
    finish_reason: str = "end"
    stopped: threading.Event = field(default_factory=threading.Event)

    def events(self) -> Iterator[tuple[int, float]]:
        for number, token in enumerate(self.text.encode()):
            if number == self.pause_at:
                assert self.stopped.wait(timeout=20)
                self.finish_reason = "stopped"
                return
            yield token, -1.0
        if self.error:
            raise self.error

    def stop(self) -> None:
        self.stopped.set()


@dataclass
class FakeEngines:
    """Engines that answer with one prepared request; unless `ready` is set, whoever borrows one waits."""

    request: FakeRequest
    asked: list[Any] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def borrow(self, checkpoint: Any, *, is_unwanted: Callable[[], bool]) -> Iterator[Any]:
        while not self.ready.wait(timeout=0.02):
            if is_unwanted():
                raise NotWaitedFor
        yield self

    tokenizer = Bytes()

    def submit(self, messages: Any, sampling: Any) -> FakeRequest:
        self.asked.append((messages, sampling))
        return self.request


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeEngines]:
    """`says("text")`: the model, whichever it is, answers this (not before it is `ready`)."""

    def prepare(text: str, *, ready: bool = True, **options: Any) -> FakeEngines:
        engines = FakeEngines(FakeRequest(text, **options))
        if ready:
            engines.ready.set()
        monkeypatch.setattr(writing, "engines", engines)
        return engines

    return prepare


@pytest.fixture
def queued(make_checkpoint: Callable[..., Any]) -> Generation:
    return Generation.objects.create(
        checkpoint=make_checkpoint("sft"), messages=QUESTION, sampling=services.clean_sampling({"seed": 1})
    )


def log_of(generation: Generation) -> list[dict[str, Any]]:
    return [event for _, event in streams.read(generation.stream_key)]


# -- starting --------------------------------------------------------------------------------------


def test_it_enqueues_only_the_id_after_commit(
    make_checkpoint: Callable[..., Any], enqueued: Enqueued, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        generation = services.start_generation(
            checkpoint=make_checkpoint("sft"), messages=QUESTION, sampling={"temperature": 0.5}
        )
        assert len(enqueued) == 0
    (task,) = enqueued.of("generate_answer")
    assert task.args == (str(generation.pk),)
    assert generation.state == State.QUEUED
    assert generation.sampling["temperature"] == 0.5
    assert generation.sampling["top_p"] == 1.0


def test_a_broker_that_is_away_costs_only_time(
    make_checkpoint: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    django_capture_on_commit_callbacks: Any,
) -> None:
    sent: list[str] = []

    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(Celery, "send_task", away)
    with django_capture_on_commit_callbacks(execute=True) as hooks:
        checkpoint = make_checkpoint("sft")
        waiting = [services.start_generation(checkpoint=checkpoint, messages=QUESTION, sampling={}) for _ in range(2)]
    assert len(hooks) == 2
    assert caplog.text.count("will be sent later") == 2

    monkeypatch.setattr(Celery, "send_task", lambda self, name, args, **__: sent.extend(args))
    monkeypatch.setattr(services, "ASK_AGAIN_S", 0)
    monkeypatch.setattr(services.streams.client().__class__, "set", _set_without_expiry)
    look_after_answers()
    assert sorted(sent) == sorted(str(generation.pk) for generation in waiting)


def test_it_refuses_a_reward_model(make_checkpoint: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="cannot write one"):
        services.start_generation(checkpoint=make_checkpoint("reward"), messages=QUESTION, sampling={})


@pytest.mark.parametrize("messages", [[], [{"role": "user", "content": ""}], [{"role": "system", "content": "x"}]])
def test_it_refuses_to_answer_nothing(make_checkpoint: Callable[..., Any], messages: Any) -> None:
    with pytest.raises(ValueError, match="no message"):
        services.start_generation(checkpoint=make_checkpoint("sft"), messages=messages, sampling={})


@pytest.mark.parametrize(
    ("sampling", "complaint"),
    [
        ({"temperature": -1}, "temperature must be between 0 and 5"),
        ({"temperature": "hot"}, "temperature must be"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"top_p": 0}, "top_p must be"),
        ({"max_new_tokens": 10**9}, "max_new_tokens must be"),
        ({"top_k": True}, "top_k must be"),
        ({"beam": 4}, "Unknown sampling setting 'beam'"),
    ],
)
def test_it_refuses_impossible_sampling(sampling: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        services.clean_sampling(sampling)


def test_it_draws_a_seed_when_none_is_given() -> None:
    seeds = {services.clean_sampling({"seed": None})["seed"] for _ in range(20)}
    assert len(seeds) > 1
    assert all(0 <= seed < 2**31 for seed in seeds)


# -- writing -------------------------------------------------------------------------------------


def test_the_log_adds_up_to_the_stored_text(queued: Generation, says: Callable[..., FakeEngines]) -> None:
    says("A fox eats mice — and 🍓.")
    generate_answer(str(queued.pk))

    queued.refresh_from_db()
    *tokens, end = log_of(queued)
    assert (queued.state, queued.finish_reason) == (State.DONE, "end")
    assert queued.text == "A fox eats mice — and 🍓."
    assert "".join(event["text"] for event in tokens) == queued.text
    assert end == {"type": "end", "state": "done", "finish_reason": "end", "text": queued.text, "error": ""}
    assert queued.tokens == len(queued.text.encode())
    assert queued.first_token_at is not None
    assert queued.finished_at is not None


def test_the_text_is_in_the_database_before_the_end_event(
    queued: Generation, says: Callable[..., FakeEngines], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    append = streams.append

    def watching(key: str, event: streams.Event) -> str:
        if event["type"] == "end":
            seen.append(Generation.objects.get(pk=queued.pk).text)
        return append(key, event)

    monkeypatch.setattr(streams, "append", watching)
    says("Mice.")
    writing.write_answer(generation_id=str(queued.pk))
    assert seen == ["Mice."]


def test_no_piece_splits_a_character() -> None:
    decoder = writing.TextDecoder(Bytes())
    pieces = [decoder.push(token) for token in "a🍓é".encode()]
    assert pieces == ["a", "", "", "", "🍓", "", "é"]
    assert decoder.finish() == ""


def test_broken_bytes_end_as_replacement_characters() -> None:
    decoder = writing.TextDecoder(Bytes())
    pieces = [decoder.push(token) for token in b"ok\r\xff\x00"]
    assert "".join(pieces) + decoder.finish() == "ok\n\ufffd\ufffd"

    decoder = writing.TextDecoder(Bytes())
    assert "".join(decoder.push(0x9F) for _ in range(20)) + decoder.finish() == "\ufffd" * 20


def test_tokens_that_come_together_travel_together(queued: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(writing.time, "monotonic", lambda: now)
    draft = writing.Draft(queued.stream_key)
    for moment, piece in [(1.0, "a"), (1.01, "b"), (1.03, "c"), (1.05, "d"), (1.06, "e")]:
        now = moment
        draft.add(piece)
    assert [event["text"] for event in log_of(queued)] == ["a", "bcd"]
    draft.flush()
    assert [event["text"] for event in log_of(queued)] == ["a", "bcd", "e"]


def test_a_second_delivery_touches_nothing(queued: Generation, says: Callable[..., FakeEngines]) -> None:
    engines = says("Mice.")
    writing.write_answer(generation_id=str(queued.pk))
    before = log_of(queued)
    writing.write_answer(generation_id=str(queued.pk))
    assert len(engines.asked) == 1
    assert log_of(queued) == before


def test_an_unknown_id_is_ignored(db: None, says: Callable[..., FakeEngines]) -> None:
    engines = says("Mice.")
    writing.write_answer(generation_id="00000000-0000-0000-0000-000000000000")
    assert engines.asked == []


def test_a_question_the_model_cannot_take_fails_with_its_reason(
    queued: Generation, says: Callable[..., FakeEngines]
) -> None:
    says("", error=ValueError("The message is too long for this model."))
    writing.write_answer(generation_id=str(queued.pk))
    queued.refresh_from_db()
    assert (queued.state, queued.error) == (State.FAILED, "The message is too long for this model.")
    assert log_of(queued)[-1]["state"] == "failed"


def test_a_crash_keeps_the_text_and_hides_the_details(
    queued: Generation, says: Callable[..., FakeEngines], caplog: pytest.LogCaptureFixture
) -> None:
    says("A fox", error=RuntimeError("secret internals"))
    writing.write_answer(generation_id=str(queued.pk))
    queued.refresh_from_db()
    assert (queued.state, queued.text) == (State.FAILED, "A fox")
    assert queued.error == "The model failed while answering; ask again."
    assert "secret internals" in caplog.text


def test_an_answer_survives_the_loss_of_redis(
    queued: Generation, says: Callable[..., FakeEngines], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> str:
        raise redis.ConnectionError

    monkeypatch.setattr(streams, "append", gone)
    says("Mice.")
    writing.write_answer(generation_id=str(queued.pk))
    queued.refresh_from_db()
    assert (queued.state, queued.text) == (State.DONE, "Mice.")


def test_a_continuation_begins_with_the_text_it_continues(queued: Generation, says: Callable[..., FakeEngines]) -> None:
    queued.messages = [*QUESTION, {"role": "assistant", "content": "A fox"}]
    queued.save(update_fields=["messages"])
    says(" eats mice.")
    writing.write_answer(generation_id=str(queued.pk))
    queued.refresh_from_db()
    assert queued.text == "A fox eats mice."
    assert "".join(event["text"] for event in log_of(queued)[:-1]) == queued.text
    assert queued.prompt == QUESTION[0]["content"]


# -- stopping --------------------------------------------------------------------------------------


def test_stopping_a_queued_answer_ends_it_at_once(queued: Generation, says: Callable[..., FakeEngines]) -> None:
    engines = says("Mice.")
    services.stop_generation(queued)
    writing.write_answer(generation_id=str(queued.pk))
    queued.refresh_from_db()
    assert (queued.state, queued.text) == (State.STOPPED, "")
    assert log_of(queued)[-1]["state"] == "stopped"
    assert engines.asked == []


@pytest.mark.django_db(transaction=True)
def test_stopping_a_running_answer_stops_the_engine_and_keeps_the_text(
    queued: Generation, says: Callable[..., FakeEngines]
) -> None:
    engines = says("A fox eats mice.", pause_at=5)
    at_work = database_thread(writing.write_answer, generation_id=str(queued.pk))
    at_work.start()
    first = streams.client().xread({queued.stream_key: "0"}, block=20_000)
    assert first, "the answer did not begin"
    services.stop_generation(queued)
    at_work.join(timeout=20)
    assert not at_work.is_alive()

    queued.refresh_from_db()
    assert engines.request.stopped.is_set()
    assert (queued.state, queued.finish_reason, queued.text) == (State.STOPPED, "stopped", "A fox")


@pytest.mark.django_db(transaction=True)
def test_an_answer_that_waits_for_its_model_is_alive_and_can_be_stopped(
    queued: Generation, says: Callable[..., FakeEngines], monkeypatch: pytest.MonkeyPatch, redis_server: Any
) -> None:
    monkeypatch.setattr(writing, "ALIVE_S", 1)
    monkeypatch.setattr(writing, "WATCH_S", 0.05)
    engines = says("Mice.", ready=False)
    queued.messages = [*QUESTION, {"role": "assistant", "content": "A fox"}]
    queued.save(update_fields=["messages"])
    at_work = database_thread(writing.write_answer, generation_id=str(queued.pk))
    at_work.start()
    assert redis_server.xread({queued.stream_key: "0"}, block=20_000), "the answer was not taken"
    time.sleep(1.2)  # longer than a claim lives by itself
    services.revive_generations()
    queued.refresh_from_db()
    assert queued.state == State.RUNNING

    services.stop_generation(queued)
    at_work.join(timeout=20)
    assert not at_work.is_alive()
    queued.refresh_from_db()
    assert (queued.state, queued.finish_reason, queued.text) == (State.STOPPED, "stopped", "A fox")
    assert engines.asked == []
    assert not redis_server.exists(services.alive_key(queued.pk))


@pytest.mark.django_db
def test_unfinished_answers_are_found_without_reading_all_of_them() -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:  # it reads a table as small as this one whole
            cursor.execute("SET LOCAL enable_seqscan = off")
    assert "unfinished_generations" in Generation.objects.unfinished().explain()


@pytest.mark.parametrize("stopped_first", [True, False])
def test_a_stop_reaches_the_request_whichever_comes_first(stopped_first: bool) -> None:
    stopper, request = writing.Stopper(), FakeRequest("")
    steps = [stopper.stop, lambda: stopper.attach(request)]
    for step in steps if stopped_first else steps[::-1]:
        assert not request.stopped.is_set()
        step()
    assert request.stopped.is_set()


def test_stopping_a_finished_answer_changes_nothing(queued: Generation, says: Callable[..., FakeEngines]) -> None:
    says("Mice.")
    writing.write_answer(generation_id=str(queued.pk))
    services.stop_generation(queued)
    queued.refresh_from_db()
    assert (queued.state, queued.text) == (State.DONE, "Mice.")


# -- workers that die ------------------------------------------------------------------------------


@pytest.fixture
def running(queued: Generation) -> Generation:
    """Claimed by a worker, with two events written."""
    Generation.objects.filter(pk=queued.pk).update(state=State.RUNNING)
    for piece in ("A fox ", "eats"):
        streams.append(queued.stream_key, {"type": "token", "text": piece})
    queued.refresh_from_db()
    return queued


def test_a_reader_ends_the_answer_of_a_dead_worker(running: Generation) -> None:
    services.revive_generation(running)
    assert (running.state, running.text, running.error) == (State.FAILED, "A fox eats", services.INTERRUPTED)
    assert log_of(running)[-1]["type"] == "end"


def test_a_reader_leaves_a_living_worker_alone(running: Generation, redis_server: Any) -> None:
    redis_server.set(services.alive_key(running.pk), 1)
    services.revive_generation(running)
    assert running.state == State.RUNNING


def test_a_redelivered_task_ends_the_answer_of_a_dead_worker(
    running: Generation, says: Callable[..., FakeEngines]
) -> None:
    engines = says("Mice.")
    writing.write_answer(generation_id=str(running.pk))
    running.refresh_from_db()
    assert running.state == State.FAILED
    assert engines.asked == []


def test_a_redelivered_task_leaves_a_living_worker_alone(
    running: Generation, says: Callable[..., FakeEngines], redis_server: Any
) -> None:
    redis_server.set(services.alive_key(running.pk), 1)
    says("Mice.")
    writing.write_answer(generation_id=str(running.pk))
    running.refresh_from_db()
    assert running.state == State.RUNNING
    assert redis_server.exists(services.alive_key(running.pk))


def test_a_late_worker_cannot_overwrite_an_ended_answer(running: Generation) -> None:
    services.fail_if_dead(running)
    wrote = services.finish_generation(generation=running, state=State.DONE, text="late", finish_reason="end")
    running.refresh_from_db()
    assert not wrote
    assert running.text == "A fox eats"


def test_a_forgotten_answer_is_enqueued_again_but_not_by_every_reader(
    queued: Generation, enqueued: Enqueued, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.revive_generation(queued)
    assert len(enqueued) == 0
    monkeypatch.setattr(services, "ASK_AGAIN_S", 0)
    monkeypatch.setattr(services.streams.client().__class__, "set", _set_without_expiry)
    services.revive_generation(queued)
    services.revive_generation(queued)
    assert [task.args for task in enqueued.of("generate_answer")] == [(str(queued.pk),)]


def _set_without_expiry(client: Any, key: str, value: Any, *, nx: bool = False, ex: int | None = None) -> Any:
    return client.execute_command("SET", key, value, *(["NX"] if nx else []))


def test_an_answer_nobody_reads_is_looked_after_too(running: Generation) -> None:
    look_after_answers()
    running.refresh_from_db()
    assert running.state == State.FAILED


def test_a_starting_worker_settles_what_the_last_one_left(
    running: Generation, make_checkpoint: Callable[..., Any], enqueued: Enqueued
) -> None:
    waiting = Generation.objects.create(checkpoint=make_checkpoint("sft"), messages=QUESTION)
    services.recover_generations()
    running.refresh_from_db()
    assert running.state == State.FAILED
    assert [task.args for task in enqueued.of("generate_answer")] == [(str(waiting.pk),)]

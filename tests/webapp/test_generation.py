"""Answers from the request to the last event: starting, claiming, streaming, stopping, dying."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis
from celery import Celery
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now
from kombu.exceptions import OperationalError

from tests.conftest import Enqueued
from tests.threads import database_thread
from trainer.model.streaming import Spelling, TextStream
from webapp.answers import services, writing
from webapp.answers.engines import NotWaitedFor
from webapp.answers.models import Generation
from webapp.answers.tasks import generate_answer, look_after_answers
from webapp.live import streams

State = Generation.State
QUESTION = [{"role": "user", "content": "What does a fox eat?"}]


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def stream(self) -> TextStream:
        return TextStream(lambda id: f"<0x{id:02X}>", Spelling(has_byte_tokens=True))


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

    def submit(self, messages: Any, sampling: Any, *, background: bool) -> FakeRequest:
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


def pass_time(seconds: float) -> None:
    """Every answer, and whatever was said of it, is older by this."""
    for name in ("created_at", "enqueued_at", "alive_at", "doubted_at"):
        Generation.objects.exclude(**{name: None}).update(**{name: F(name) - timedelta(seconds=seconds)})


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
    look_after_answers()
    assert sent == []  # their messages may be on the way
    pass_time(services.ASK_AGAIN_S + 1)
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
    monkeypatch.setattr(services, "ALIVE_S", 2)
    monkeypatch.setattr(services, "DOUBT_S", 0.2)
    monkeypatch.setattr(writing, "WATCH_S", 0.05)
    monkeypatch.setattr(writing, "PULSE_S", 0.1)
    monkeypatch.setattr(writing, "watch", writing.Watch())
    engines = says("Mice.", ready=False)
    queued.messages = [*QUESTION, {"role": "assistant", "content": "A fox"}]
    queued.save(update_fields=["messages"])
    at_work = database_thread(writing.write_answer, generation_id=str(queued.pk))
    at_work.start()
    assert redis_server.xread({queued.stream_key: "0"}, block=20_000), "the answer was not taken"
    for _ in range(4):  # longer than a claim lives by itself
        time.sleep(0.8)
        services.revive_generations()
    queued.refresh_from_db()
    assert queued.state == State.RUNNING

    services.stop_generation(queued)
    at_work.join(timeout=20)
    assert not at_work.is_alive()
    queued.refresh_from_db()
    assert (queued.state, queued.finish_reason, queued.text) == (State.STOPPED, "stopped", "A fox")
    assert engines.asked == []


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
    services.claim_generation(str(queued.pk))
    for piece in ("A fox ", "eats"):
        streams.append(queued.stream_key, {"type": "token", "text": piece})
    queued.refresh_from_db()
    return queued


def lose_worker() -> None:
    """Every answer's worker was missed, and has not spoken up since."""
    pass_time(services.ALIVE_S + 1)
    services.revive_generations()
    pass_time(services.DOUBT_S + 1)


def test_a_reader_ends_the_answer_of_a_dead_worker(running: Generation) -> None:
    lose_worker()
    services.revive_generation(running)
    assert (running.state, running.text, running.error) == (State.FAILED, "A fox eats", services.INTERRUPTED)
    assert log_of(running)[-1]["type"] == "end"


def test_a_reader_leaves_a_living_worker_alone(running: Generation) -> None:
    for _ in range(3):
        pass_time(services.ALIVE_S - 1)
        services.revive_generation(running)
        services.say_alive([str(running.pk)])
    assert running.state == State.RUNNING


def test_a_worker_that_only_slept_is_not_taken_for_dead(running: Generation) -> None:
    """A laptop wakes up: every heartbeat is an hour old, and a reader looks before the worker says a word."""
    pass_time(3600)
    services.revive_generation(running)
    assert running.state == State.RUNNING
    services.say_alive([str(running.pk)])
    pass_time(services.DOUBT_S + 1)
    services.revive_generation(running)
    assert running.state == State.RUNNING

    pass_time(services.ALIVE_S)  # that doubt was laid to rest: it takes another one
    services.revive_generation(running)
    assert running.state == State.RUNNING
    assert services.finish_generation(generation=running, state=State.DONE, text="A fox eats.", finish_reason="end")


def test_the_loss_of_redis_makes_nobody_dead(running: Generation, redis_server: Any) -> None:
    redis_server.flushdb()
    for _ in range(3):
        services.revive_generation(running)
        pass_time(services.DOUBT_S + 1)
        services.say_alive([str(running.pk)])
    assert running.state == State.RUNNING


def test_an_answer_an_earlier_version_was_writing_is_ended_too(running: Generation) -> None:
    """Its worker left no heartbeat in the row."""
    Generation.objects.update(alive_at=None)
    lose_worker()
    services.revive_generation(running)
    assert running.state == State.FAILED


@pytest.mark.parametrize("is_dead", [True, False])
def test_a_redelivered_task_touches_no_answer_but_a_queued_one(
    running: Generation, says: Callable[..., FakeEngines], is_dead: bool
) -> None:
    if is_dead:
        lose_worker()
    before, log = Generation.objects.filter(pk=running.pk).values().get(), log_of(running)
    engines = says("Mice.")
    writing.write_answer(generation_id=str(running.pk))
    assert Generation.objects.filter(pk=running.pk).values().get() == before
    assert log_of(running) == log
    assert engines.asked == []


@pytest.mark.django_db(transaction=True)
def test_two_copies_of_a_message_at_the_same_moment_leave_every_answer_whole(
    make_checkpoint: Callable[..., Any], says: Callable[..., FakeEngines], redis_server: Any
) -> None:
    """Readers and the chore look at it meanwhile, as they do on a busy site."""
    says("A fox eats mice.")
    checkpoint = make_checkpoint("sft")
    for _ in range(40):
        generation = Generation.objects.create(checkpoint=checkpoint, messages=QUESTION)
        barrier = threading.Barrier(3)

        def meet(work: Callable[[], object], barrier: threading.Barrier = barrier) -> None:
            barrier.wait(timeout=20)
            work()

        write = partial(writing.write_answer, generation_id=str(generation.pk))
        look = partial(services.revive_generation, Generation.objects.get(pk=generation.pk))
        threads = [database_thread(meet, work) for work in (write, write, look)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        generation.refresh_from_db()
        assert (generation.state, generation.text, generation.error) == (State.DONE, "A fox eats mice.", "")
        *tokens, end = log_of(generation)
        assert "".join(event["text"] for event in tokens) == generation.text
        assert end["state"] == "done"


def test_an_answer_that_was_ended_is_not_overwritten_by_a_late_worker(running: Generation) -> None:
    lose_worker()
    services.fail_if_dead(running)
    wrote = services.finish_generation(generation=running, state=State.DONE, text="late", finish_reason="end")
    running.refresh_from_db()
    assert not wrote
    assert running.text == "A fox eats"


def test_a_forgotten_answer_is_enqueued_again_but_not_by_every_reader(
    queued: Generation, enqueued: Enqueued, redis_server: Any
) -> None:
    services.revive_generation(queued)
    assert len(enqueued) == 0
    pass_time(services.ASK_AGAIN_S + 1)
    redis_server.rpush("chat", "a message, perhaps this one's")
    services.revive_generation(queued)
    assert len(enqueued) == 0  # a long queue is not made longer
    redis_server.delete("chat")
    services.revive_generation(queued)
    services.revive_generation(queued)
    assert [task.args for task in enqueued.of("generate_answer")] == [(str(queued.pk),)]
    pass_time(services.ASK_AGAIN_S + 1)
    services.revive_generation(queued)
    assert len(enqueued) == 2


@pytest.mark.django_db(transaction=True)
def test_an_answer_no_message_asks_for_is_found_in_the_database(
    queued: Generation, says: Callable[..., FakeEngines], redis_server: Any
) -> None:
    says("Mice.")
    with ThreadPoolExecutor() as executor:
        assert writing.write_forgotten(executor) == 0  # it may be on its way
        pass_time(services.ASK_AGAIN_S + 1)
        redis_server.rpush("chat", "a message")
        assert writing.write_forgotten(executor) == 0  # perhaps of this one
        redis_server.delete("chat")
        assert writing.write_forgotten(executor) == 1
        assert writing.write_forgotten(executor) == 0
    queued.refresh_from_db()
    assert (queued.state, queued.text) == (State.DONE, "Mice.")


# -- answers nobody waits for ------------------------------------------------------------------------


def test_an_answer_nobody_can_follow_goes_to_the_background_and_leaves_no_log(
    make_checkpoint: Callable[..., Any],
    says: Callable[..., FakeEngines],
    enqueued: Enqueued,
    redis_server: Any,
    django_capture_on_commit_callbacks: Any,
) -> None:
    says("Mice.")
    checkpoint = make_checkpoint("sft")
    with django_capture_on_commit_callbacks(execute=True):
        generations = [
            services.start_generation(checkpoint=checkpoint, messages=QUESTION, sampling={}, background=background)
            for background in (False, True)
        ]
    assert [task.options["queue"] for task in enqueued.of("generate_answer")] == ["chat", "background"]
    for generation in generations:
        writing.write_answer(generation_id=str(generation.pk))
    chat, background = generations
    background.refresh_from_db()
    assert background.text == "Mice."
    assert redis_server.keys() == [chat.stream_key]


def test_a_log_is_gone_a_minute_after_its_end(
    queued: Generation, says: Callable[..., FakeEngines], redis_server: Any
) -> None:
    streams.append(queued.stream_key, {"type": "token", "text": "A fox"})
    assert redis_server.ttl(queued.stream_key) > 600
    says("Mice.")
    writing.write_answer(generation_id=str(queued.pk))
    assert 0 < redis_server.ttl(queued.stream_key) <= 60


def test_an_answer_nobody_reads_is_looked_after_too(running: Generation) -> None:
    lose_worker()
    look_after_answers()
    running.refresh_from_db()
    assert running.state == State.FAILED


def test_a_starting_worker_settles_what_the_last_one_left(
    running: Generation, make_checkpoint: Callable[..., Any], enqueued: Enqueued
) -> None:
    waiting = Generation.objects.create(checkpoint=make_checkpoint("sft"), messages=QUESTION, enqueued_at=Now())
    lose_worker()
    enqueued.tasks.clear()
    services.recover_generations()
    running.refresh_from_db()
    assert running.state == State.FAILED
    assert [task.args for task in enqueued.of("generate_answer")] == [(str(waiting.pk),)]

"""Running a (fake) trainer: every way it can end, redelivery, stops, a lost lease, a leaving worker."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from webapp.checkpoints.models import Checkpoint
from webapp.live import streams
from webapp.training import attempts, services
from webapp.training.events import Logged, TrainerEvent
from webapp.training.models import LogLine, Metric, Sample, TrainingRun
from webapp.training.tasks import execute_run, look_after_runs

State = TrainingRun.State
FAKE = Path(__file__).with_name("fake_trainer.py")


@pytest.fixture(autouse=True)
def _own_directories(settings: Any, tmp_path: Path) -> None:
    """Run numbers repeat from test to test; their directories must not."""
    settings.CHECKPOINT_DIR, settings.RUN_DIR = tmp_path / "checkpoints", tmp_path / "runs"


@pytest.fixture
def trainer(settings: Any) -> Callable[[str], None]:
    """`trainer("crash")`: workers start the fake trainer in this mode."""

    def choose(mode: str) -> None:
        settings.TRAINER_COMMAND = [sys.executable, str(FAKE), mode]

    choose("good")
    return choose


@pytest.fixture
def queued(make_checkpoint: Any, trainer: Any, enqueued: Any) -> TrainingRun:
    return services.queue_run(stage="sft", preset="smoke", parent=make_checkpoint("pretrain"))


@pytest.fixture
def when_it_says(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], Any]], None]:
    """`when_it_says(text, action)`: do something the moment the trainer logs `text`."""

    def arrange(text: str, action: Callable[[], Any]) -> None:
        record_event = services.record_event

        def record_and_act(*, run: TrainingRun, event: TrainerEvent) -> None:
            record_event(run=run, event=event)
            if isinstance(event, Logged) and event.text == text:
                action()

        monkeypatch.setattr(services, "record_event", record_and_act)

    return arrange


def fresh(run: TrainingRun) -> TrainingRun:
    return TrainingRun.objects.get(pk=run.pk)


def test_it_trains_and_registers_the_checkpoint(queued: TrainingRun) -> None:
    execute_run(queued.pk)
    run = fresh(queued)
    assert (run.state, run.step, run.total_steps, run.attempt) == (State.DONE, 3, 3, 1)
    assert run.checkpoint is not None
    assert run.checkpoint.parent == run.parent
    assert run.checkpoint.path == run.output_dir
    assert run.checkpoint.metrics == {"bits_per_byte": 2.5}
    assert list(Metric.objects.values_list("step", flat=True)) == [1, 2, 3]
    assert Sample.objects.get().extra == {"reward": 0.5}
    assert LogLine.objects.filter(level="alarm").count() == 1
    events = [event for _, event in streams.read(run.stream_key)]
    assert (events[-1]["type"], events[-1]["state"]) == ("end", State.DONE)
    assert [event["type"] for event in events].count("end") == 1


def test_a_redelivered_message_touches_nothing(queued: TrainingRun) -> None:
    execute_run(queued.pk)
    before, log, events = fresh(queued), LogLine.objects.count(), streams.read(queued.stream_key)
    written = {path: path.stat().st_mtime_ns for path in before.output_dir.rglob("*")}
    execute_run(queued.pk)
    after = fresh(queued)
    assert {**vars(after), "_state": None} == {**vars(before), "_state": None}
    assert LogLine.objects.count() == log
    assert streams.read(queued.stream_key) == events
    assert {path: path.stat().st_mtime_ns for path in after.output_dir.rglob("*")} == written


def test_a_second_copy_leaves_a_running_run_alone(
    queued: TrainingRun, trainer: Any, when_it_says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer("wait")
    copies: list[TrainingRun | None] = []

    def redeliver_then_stop() -> None:
        copies.append(attempts.supervise_run(queued.pk))
        services.request_stop(run=queued, how="save")

    when_it_says("waiting", redeliver_then_stop)
    execute_run(queued.pk)
    assert copies == [None]
    assert (fresh(queued).state, fresh(queued).attempt) == (State.STOPPED, 1)


def test_an_unknown_run_is_no_error(db: None) -> None:
    execute_run(4711)
    assert not TrainingRun.objects.exists()


def test_it_survives_garbage_on_stdout(queued: TrainingRun, trainer: Any) -> None:
    trainer("garbage")
    execute_run(queued.pk)
    assert fresh(queued).state == State.DONE
    assert Metric.objects.get(step=1).values == {"reward": 1.5}
    assert LogLine.objects.filter(text="Not a finite number: loss.").exists()


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("crash", "The trainer stopped unexpectedly: RuntimeError: out of ideas"),
        ("silent_crash", "exit code 7"),
        ("killed", "perhaps for lack of memory"),
        ("mistake", "The votes file has no line."),
        ("no_checkpoint", ""),
    ],
)
def test_it_says_why_a_run_failed_and_lets_it_resume(queued: TrainingRun, trainer: Any, mode: str, error: str) -> None:
    trainer(mode)
    execute_run(queued.pk)
    run = fresh(queued)
    assert run.state == State.FAILED
    assert run.error
    assert error in run.error
    assert not Checkpoint.objects.filter(stage="sft").exists()
    trainer("good")
    services.resume_run(run=run)
    execute_run(run.pk)
    run = fresh(queued)
    assert (run.state, run.attempt, run.error) == (State.DONE, 2, "")


def test_it_stops_saves_and_resumes_in_the_same_directory(queued: TrainingRun, trainer: Any, when_it_says: Any) -> None:
    trainer("wait")
    when_it_says("waiting", lambda: services.request_stop(run=queued, how="save"))
    execute_run(queued.pk)
    stopped = fresh(queued)
    assert (stopped.state, stopped.stop_request, stopped.step) == (State.STOPPED, "", 1)
    assert (stopped.output_dir / "resume" / "step").exists()
    services.resume_run(run=stopped)
    execute_run(queued.pk)
    run = fresh(queued)
    assert (run.state, run.attempt, run.resumed_step) == (State.DONE, 2, 1)
    assert LogLine.objects.filter(text="Resumed at step 1.").exists()
    assert list(Metric.objects.values_list("step", flat=True)) == [1, 2, 3]


def test_it_discards_at_once_with_all_files(queued: TrainingRun, trainer: Any, when_it_says: Any) -> None:
    trainer("wedged")
    when_it_says("deaf", lambda: services.request_stop(run=queued, how="discard"))
    execute_run(queued.pk)
    run = fresh(queued)
    assert run.state == State.DISCARDED
    assert not run.output_dir.exists()
    assert not Checkpoint.objects.filter(stage="sft").exists()


def test_it_kills_a_trainer_that_does_not_stop(
    queued: TrainingRun, trainer: Any, when_it_says: Any, settings: Any
) -> None:
    settings.RUN_STOP_DEADLINE_S = 0.2
    trainer("wedged")
    when_it_says("deaf", lambda: services.request_stop(run=queued, how="save"))
    execute_run(queued.pk)
    run = fresh(queued)
    assert run.state == State.STOPPED
    assert "did not stop in time" in run.error


def test_a_trainer_stopped_in_its_first_seconds_was_not_late(
    queued: TrainingRun, trainer: Any, when_it_says: Any
) -> None:
    trainer("young")
    when_it_says("no handler yet", lambda: services.request_stop(run=queued, how="save"))
    execute_run(queued.pk)
    run = fresh(queued)
    assert run.state == State.STOPPED
    assert run.error.startswith("It ended before it could save")


def test_it_kills_the_trainer_when_another_worker_has_the_run(
    queued: TrainingRun, trainer: Any, when_it_says: Any
) -> None:
    trainer("wedged")  # it would never end by itself

    def be_given_up() -> None:
        TrainingRun.objects.filter(pk=queued.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
        assert services.claim_run(run_id=queued.pk, worker="another")

    when_it_says("deaf", be_given_up)
    execute_run(queued.pk)
    run = fresh(queued)
    assert (run.state, run.attempt, run.worker) == (State.RUNNING, 2, "another")


def test_a_leaving_worker_saves_the_run_and_gives_it_back(
    queued: TrainingRun,
    trainer: Any,
    when_it_says: Any,
    enqueued: Any,
    django_capture_on_commit_callbacks: Any,
) -> None:
    trainer("wait")
    when_it_says("waiting", attempts.shutting_down.set)
    try:
        with django_capture_on_commit_callbacks(execute=True):
            execute_run(queued.pk)
    finally:
        attempts.shutting_down.clear()
    assert fresh(queued).state == State.INTERRUPTED
    assert [task.args for task in enqueued.of("execute_run")] == [(queued.pk,)]
    execute_run(queued.pk)
    assert (fresh(queued).state, fresh(queued).attempt) == (State.DONE, 2)


def test_it_renews_its_lease_while_it_trains(
    queued: TrainingRun, trainer: Any, when_it_says: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RUN_HEARTBEAT_S = 0
    monkeypatch.setattr(attempts, "POLL_S", 0.01)
    trainer("wait")
    expired = timezone.now() - timedelta(seconds=1)
    renewed: list[bool] = []
    renew_lease = services.renew_lease

    def renew_and_note(run: TrainingRun) -> str:
        request = renew_lease(run)
        renewed.append(fresh(run).lease_until > timezone.now() > expired)  # type: ignore[operator]
        if len(renewed) == 5:
            services.request_stop(run=run, how="discard")
        return request

    monkeypatch.setattr(services, "renew_lease", renew_and_note)
    when_it_says("waiting", lambda: TrainingRun.objects.filter(pk=queued.pk).update(lease_until=expired))
    execute_run(queued.pk)
    assert all(renewed)
    assert len(renewed) >= 5
    assert fresh(queued).state == State.DISCARDED


@pytest.mark.parametrize("change", ["edit", "remove"])
def test_it_refuses_inputs_that_changed_on_the_disk(queued: TrainingRun, change: str) -> None:
    path = queued.inputs_dir / "run.json"
    if change == "edit":
        path.write_text(path.read_text().replace("smoke", "tiny"))
    else:
        path.unlink()
    execute_run(queued.pk)
    run = fresh(queued)
    assert run.state == State.FAILED
    assert "run.json" in run.error
    assert not run.output_dir.exists()


def test_it_keeps_what_an_earlier_database_left_in_its_place(queued: TrainingRun, settings: Any) -> None:
    queued.output_dir.mkdir(parents=True)
    (queued.output_dir / "stage.json").write_text("somebody's")
    execute_run(queued.pk)
    assert fresh(queued).state == State.DONE
    kept = list(Path(settings.CHECKPOINT_DIR).glob(f"{queued.directory}.before-*/stage.json"))
    assert [path.read_text() for path in kept] == ["somebody's"]


def test_it_waits_for_a_database_that_is_away(queued: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import OperationalError

    record_event, failures = services.record_event, iter([True, True])
    monkeypatch.setattr(attempts.connections, "close_all", lambda: None)  # this test's transaction lives there
    monkeypatch.setattr(attempts.time, "sleep", lambda seconds: None)

    def record_or_fail(*, run: TrainingRun, event: TrainerEvent) -> None:
        if next(failures, False):
            raise OperationalError("the database is starting up")
        record_event(run=run, event=event)

    monkeypatch.setattr(services, "record_event", record_or_fail)
    execute_run(queued.pk)
    assert fresh(queued).state == State.DONE
    assert Metric.objects.count() == 3


def test_the_chore_frees_lost_runs(queued: TrainingRun) -> None:
    services.claim_run(run_id=queued.pk, worker="doomed")
    TrainingRun.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    look_after_runs()
    assert fresh(queued).state == State.INTERRUPTED

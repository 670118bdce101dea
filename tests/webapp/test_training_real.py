"""The real trainer under the real supervisor: a run stopped half-way and resumed ends in the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from webapp.training import attempts, services
from webapp.training.events import Measured, TrainerEvent
from webapp.training.models import Metric, Sample, TrainingRun
from webapp.training.tasks import execute_run

State = TrainingRun.State


@pytest.fixture(autouse=True)
def _own_directories(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.CHECKPOINT_DIR, settings.RUN_DIR = tmp_path / "checkpoints", tmp_path / "runs"
    settings.TRAIN_THREADS = 1
    # The rest of the suite is no chat, and keeps every core busy: a trainer that stands back would take minutes.
    monkeypatch.setattr(attempts, "_lower_priority", lambda pid: None)


def train(run: TrainingRun) -> TrainingRun:
    execute_run(run.pk)
    run.refresh_from_db()
    return run


def test_a_stopped_and_resumed_run_ends_in_the_same_bytes(
    db: None, enqueued: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = train(services.queue_run(stage="init", preset="smoke"))
    assert (init.state, init.error) == (State.DONE, "")
    undisturbed = train(services.queue_run(stage="pretrain", preset="smoke", parent=init.checkpoint))
    assert (undisturbed.state, undisturbed.step) == (State.DONE, undisturbed.total_steps)

    disturbed = services.queue_run(stage="pretrain", preset="smoke", parent=init.checkpoint)
    record_event, popen = services.record_event, attempts.subprocess.Popen
    children: list[Any] = []

    def start(*args: Any, **kwargs: Any) -> Any:
        children.append(popen(*args, **kwargs))
        return children[-1]

    def stop_at_step_seven(*, run: TrainingRun, event: TrainerEvent) -> None:
        record_event(run=run, event=event)
        if isinstance(event, Measured) and event.step == 7:
            services.request_stop(run=run, how="save")
            children[-1].terminate()  # now: a smoke run could be over before the supervisor looks

    monkeypatch.setattr(attempts.subprocess, "Popen", start)
    monkeypatch.setattr(services, "record_event", stop_at_step_seven)
    stopped = train(disturbed)
    assert stopped.state == State.STOPPED
    assert 7 <= stopped.step < stopped.total_steps
    monkeypatch.setattr(services, "record_event", record_event)
    services.resume_run(run=stopped)
    resumed = train(stopped)

    assert (resumed.state, resumed.attempt) == (State.DONE, 2)
    assert resumed.resumed_step >= 7
    assert resumed.checkpoint is not None
    assert undisturbed.checkpoint is not None
    assert resumed.checkpoint.weights_sha256 == undisturbed.checkpoint.weights_sha256
    losses = [
        list(Metric.objects.filter(run=run).exclude(step=0).values_list("values__loss", flat=True))
        for run in (undisturbed, resumed)
    ]
    assert losses[0] == losses[1]
    said = [
        list(Sample.objects.filter(run=run).values_list("step", "prompt", "text")) for run in (undisturbed, resumed)
    ]
    assert said[0] == said[1] != []

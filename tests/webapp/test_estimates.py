"""What the site expects of a run: from the train worker's own measurement, with the threads it gives to a run."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.utils import timezone

from webapp.ops import periodic, worker
from webapp.training import estimates
from webapp.training.estimates import estimate_run, introduce_machine
from webapp.training.models import Machine
from webapp.training.tasks import introduce

FAKE = Path(__file__).with_name("fake_trainer.py")
QUICK = {"device": "cpu", "threads": 2, "cpu": "Quick", "matmul_gflops": {"float32": 213.0, "bfloat16": 975.0}}
SLOW = {"device": "cpu", "threads": 2, "cpu": "Slow", "matmul_gflops": {"float32": 21.0, "bfloat16": 9.0}}


def machine(node: str, figures: dict[str, Any], **values: Any) -> Machine:
    fields = {"threads": 2, "seen_at": timezone.now()} | values
    return Machine.objects.create(node=node, figures=figures, **fields)


def tick(node: str) -> None:
    """The worker of this name lives."""
    app = SimpleNamespace(
        conf=SimpleNamespace(beat_schedule={}),
        amqp=SimpleNamespace(queues=SimpleNamespace(consume_from={"train": None})),
    )
    periodic.tick(SimpleNamespace(app=app, hostname=node))


@pytest.fixture
def fake(settings: Any) -> None:
    settings.TRAINER_COMMAND = [sys.executable, str(FAKE), "good"]


def ready(queue: str, node: str) -> None:
    """Celery's signal that a worker of this queue has started."""
    amqp = SimpleNamespace(queues=SimpleNamespace(consume_from={queue: None}))
    introduce(sender=SimpleNamespace(app=SimpleNamespace(amqp=amqp), hostname=node))


def test_it_expects_a_run_to_take_longer_on_fewer_threads_than_were_measured(db: None) -> None:
    there = machine("train@there", QUICK)
    both = estimate_run(stage="pretrain", preset="tiny").duration
    there.threads = 1
    there.save()
    assert estimate_run(stage="pretrain", preset="tiny").duration > 1.5 * both


def test_the_threads_and_memory_of_the_web_server_do_not_matter(
    db: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("train@there", QUICK, memory_bytes=100_000_000)
    before = estimate_run(stage="pretrain", preset="tiny")
    assert "Quick" in before.basis
    assert "0.1 GB are free" in before.warnings[0]
    settings.TRAIN_THREADS = 1
    monkeypatch.setattr(estimates, "_available_memory", lambda: 10**15)
    assert estimate_run(stage="pretrain", preset="tiny") == before


def test_on_its_own_machine_it_asks_what_is_free_now(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(worker.node_name("train"), QUICK, memory_bytes=100_000_000)
    monkeypatch.setattr(estimates, "_available_memory", lambda: 10**15)
    assert estimate_run(stage="pretrain", preset="tiny").warnings == []


def test_a_train_worker_that_starts_measures_its_machine_once(db: None, settings: Any, fake: None) -> None:
    settings.TRAIN_THREADS = 3
    ready("generate", "generate@here")
    assert not Machine.objects.exists()
    ready("train", "train@here")
    here = Machine.objects.get()
    assert here.figures == {"cpu": "A test processor", "cores": 2, "matmul_gflops": {"float32": 100.0}}
    assert (here.node, here.threads) == ("train@here", 3)
    settings.TRAINER_COMMAND, settings.TRAIN_THREADS = ["false"], 1
    ready("train", "train@here")
    again = Machine.objects.get()
    assert (again.figures, again.threads) == (here.figures, 1)


def test_a_machine_that_cannot_be_measured_is_a_laptop(db: None, settings: Any) -> None:
    settings.TRAINER_COMMAND = ["false"]
    introduce_machine(node="train@here")
    assert estimate_run(stage="pretrain", preset="tiny").basis.startswith("assuming a laptop")


def test_it_counts_with_the_slowest_machine_that_has_a_worker_now(db: None) -> None:
    machine("train@slow", SLOW, seen_at=timezone.now() - timedelta(days=9))
    machine("train@quick", QUICK)
    assert "Quick" in estimate_run(stage="pretrain", preset="tiny").basis  # nobody ticks: the one seen last
    tick("train@quick")
    assert "Quick" in estimate_run(stage="pretrain", preset="tiny").basis
    tick("train@slow")
    assert "Slow" in estimate_run(stage="pretrain", preset="tiny").basis


@pytest.mark.django_db
def test_a_recipe_is_estimated_for_the_model_it_starts_from(make_checkpoint: Any) -> None:
    small, large = (make_checkpoint("sft", preset="", parameters=count) for count in (134_515_008, 290_000_000))
    at_first, later = (estimate_run(stage="grpo", preset="adapted-135m", parent=one) for one in (small, large))
    assert later.duration > 1.5 * at_first.duration
    assert later.memory_bytes - at_first.memory_bytes > 4 * 150_000_000
    assert later.disk_bytes > 4 * 280_000_000

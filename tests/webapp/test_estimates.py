"""What the site expects of a run: from this machine's measurement, with the threads the site trains with."""

from __future__ import annotations

import json
from typing import Any

from webapp.training.estimates import estimate_run, machine_path


def test_it_expects_a_run_to_take_longer_on_fewer_threads_than_were_measured(db: None, settings: Any) -> None:
    machine = {"device": "cpu", "threads": 2, "matmul_gflops": {"float32": 213.0, "bfloat16": 975.0}}
    machine_path().write_text(json.dumps(machine))
    settings.TRAIN_THREADS = 2
    both = estimate_run(stage="pretrain", preset="tiny").duration
    settings.TRAIN_THREADS = 1
    assert estimate_run(stage="pretrain", preset="tiny").duration > 1.5 * both

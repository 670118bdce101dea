"""Kills at random moments of every stage: the resumed run ends with the bytes and figures of an undisturbed one.

The seed of the random moments is printed with a failure. Minutes long; run with `make test-slow`.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer import small

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
KILLS = 4
SAVING_ALWAYS = """
import sys
import trainer.runtime.loop
from trainer.__main__ import main
# After every step, so that kills also fall into a save.
trainer.runtime.loop.SAVE_EVERY_S, trainer.runtime.loop.SAVE_SHARE = 0.0, float("inf")
sys.exit(main())
"""
LONG_ENOUGH: dict[str, dict[str, Any]] = {
    "pretrain": {"tokens": 40 * 1024},
    "sft": {"steps": 40},
    "reward": {"epochs": 8, "teachers": 2},
    "ppo": {"steps": 12},
    "grpo": {"steps": 12},
}
ADAPTED = ("reward", "ppo", "grpo")
"""Stages that are killed once more with adapters: what they save is the adapters alone."""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of every stage, and votes."""
    out = tmp_path_factory.mktemp("smoke")
    command = [sys.executable, "-m", "trainer", "all", "--preset", "smoke", "--out", str(out), "--threads", "1"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return out


def start(spec: Path, out: Path) -> subprocess.Popen[str]:
    arguments = ["run", str(spec), "--progress", "json", "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-c", SAVING_ALWAYS, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def figures(event: dict[str, Any]) -> dict[str, float]:
    """What a step reported, without what the clock said."""
    return {name: value for name, value in event["values"].items() if not name.endswith(("_s", "seconds"))}


@pytest.mark.parametrize(
    ("stage", "rank"), [*((stage, 0) for stage in LONG_ENOUGH), *((stage, 4) for stage in ADAPTED)]
)
def test_a_stage_killed_at_random_moments_ends_as_if_undisturbed(
    smoke: Path, tmp_path: Path, stage: str, rank: int
) -> None:
    parents = {"pretrain": "init", "sft": "pretrain", "reward": "sft", "ppo": "sft", "grpo": "ppo"}
    spec = {
        "stage": stage,
        "preset": "smoke",
        "threads": 1,
        "parent": str(smoke / parents[stage]),
        "reward_model": str(smoke / "reward") if stage == "ppo" else None,
        "votes": str(smoke / "votes.jsonl") if stage == "reward" else None,
        "overrule_doubts": stage == "ppo",  # a smoke reward model is worth nothing
        "config": LONG_ENOUGH[stage] | {"evaluations": 2} | ({"adapter_rank": rank} if rank else {}),
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps({name: value for name, value in spec.items() if value is not None}))

    with start(path, tmp_path / "undisturbed") as process:
        expected = {event["step"]: figures(event) for event in events(process) if event["type"] == "metrics"}
    assert process.returncode == 0

    seed = random.randrange(10**6)
    draw = random.Random(seed)
    found: dict[int, dict[str, float]] = {}
    killed = 0
    while True:
        with start(path, tmp_path / "killed") as process:
            last = killed * max(expected) // (KILLS + 1) + draw.randint(1, 3) if killed < KILLS else None
            for event in events(process):
                if event["type"] != "metrics":
                    continue
                found[event["step"]] = figures(event)
                if last is not None and event["step"] >= last:
                    time.sleep(draw.uniform(0.0, 0.2))
                    process.send_signal(signal.SIGKILL)
                    killed += 1
                    last = max(expected) + 1  # what it wrote before it died is still read
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, f"seed {seed}"
    assert killed >= KILLS - 1, f"seed {seed}"
    assert found == expected, f"seed {seed}"
    assert small.weights(tmp_path / "killed") == small.weights(tmp_path / "undisturbed"), f"seed {seed}"
    assert small.adapter(tmp_path / "killed") == small.adapter(tmp_path / "undisturbed"), f"seed {seed}"
    assert not (tmp_path / "killed" / "resume").exists()

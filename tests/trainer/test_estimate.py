"""Estimates before a run: torch-free, larger for more work, honest about what was measured."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import pytest

from trainer.config import GRPO, INIT, PPO, PRESETS, PRETRAIN, REWARD, SFT, STAGES, get_preset
from trainer.estimate import estimate

LAPTOP = {"device": "cpu", "matmul_gflops": {"float32": 150.0, "bfloat16": 60.0}}


def test_it_imports_no_torch() -> None:
    code = "import sys, trainer.estimate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_it_matches_pretraining_worked_by_hand() -> None:
    preset = get_preset("tiny")
    model = preset.model
    flops = 6 * model.parameters + 12 * model.layers * model.width * 256
    moved = 4 * (100 * model.layers * model.width + 10 * model.vocab_size)
    seconds = 6.0 + preset.pretrain.tokens * (flops / (150e9 * 0.7) + moved / 8e9)
    assert estimate(PRETRAIN, preset, LAPTOP).seconds == pytest.approx(seconds)


@pytest.mark.parametrize("stage", [PRETRAIN, SFT, PPO, GRPO])
def test_a_larger_preset_takes_more_of_everything(stage: str) -> None:
    sizes = [estimate(stage, preset, LAPTOP) for preset in PRESETS.values()]
    for smaller, larger in itertools.pairwise(sizes):
        assert smaller.seconds < larger.seconds
        assert smaller.memory_bytes < larger.memory_bytes
        assert smaller.disk_bytes < larger.disk_bytes


def test_more_votes_take_longer() -> None:
    preset = get_preset("tiny")
    assert estimate(REWARD, preset, LAPTOP, votes=2000).seconds > estimate(REWARD, preset, LAPTOP, votes=20).seconds


def test_init_learns_nothing_and_costs_only_its_weights() -> None:
    preset = get_preset("tiny")
    assert estimate(INIT, preset, LAPTOP).disk_bytes == 4 * preset.model.parameters


def test_the_tiny_curriculum_fits_a_laptop() -> None:
    estimates = [estimate(stage, get_preset("tiny"), LAPTOP) for stage in STAGES]
    assert sum(figures.seconds for figures in estimates) < 30 * 60
    assert max(figures.memory_bytes for figures in estimates) < 2.5e9


@pytest.mark.parametrize(
    "machine", [None, {}, {"matmul_gflops": None}, {"matmul_gflops": {"float32": "fast"}}, {"matmul_gflops": {}}]
)
def test_it_says_when_the_machine_was_not_measured(machine: dict[str, Any] | None) -> None:
    assert not estimate(SFT, get_preset("tiny"), machine).measured
    assert estimate(SFT, get_preset("tiny"), LAPTOP).measured

"""Estimates before a run: torch-free, larger for more work, honest about what was measured."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from inspect import signature
from typing import Any

import pytest
import torch

from trainer.config import GRPO, INIT, PPO, PRETRAIN, REWARD, SFT, STAGES
from trainer.evaluation import card
from trainer.model.decoder import LanguageModel
from trainer.presets import PRESETS, get_preset, recipe_for
from trainer.rl import losses
from trainer.runtime import machine
from trainer.runtime.estimate import (
    ACTIVATION_BYTES,
    LOSS_TOKENS,
    QUESTIONS,
    Speed,
    adapter_parameters,
    estimate,
    rows_at_once,
)

LAPTOP = {"device": "cpu", "matmul_gflops": {"float32": 150.0, "bfloat16": 60.0}}
SERVER_RATES = {"float32": 201.3, "bfloat16": 445.1}
SERVER = {"device": "cpu", "threads": 2, "matmul_gflops": SERVER_RATES}
"""Two cores with AVX-512 and bfloat16, as measured in the run whose seconds are below."""
NO_BFLOAT16 = {"device": "cpu", "threads": 2, "matmul_gflops": {"float32": 175.0, "bfloat16": 1.3}}
"""Two cores with AVX2."""


def test_it_imports_no_torch() -> None:
    code = "import sys, trainer.runtime.estimate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_it_matches_pretraining_worked_by_hand() -> None:
    preset = get_preset("tiny")
    model = preset.model
    flops = 6 * model.parameters + 12 * model.layers * model.width * 256
    moved = 4 * (25 * model.layers * model.width + 4 * model.vocab_size)
    muon = preset.pretrain.steps * 25 * model.width * model.parameters / (150e9 * 0.7)
    seconds = 4.0 + preset.pretrain.tokens * (flops / (150e9 * 0.7) + moved / 8e9) + muon
    assert estimate(PRETRAIN, preset, LAPTOP).seconds == pytest.approx(seconds)


@pytest.mark.parametrize(("stage", "seconds"), [(PRETRAIN, 280), (SFT, 70), (REWARD, 53), (PPO, 125), (GRPO, 231)])
def test_it_is_near_what_the_tiny_stages_took_where_they_were_measured(stage: str, seconds: float) -> None:
    assert estimate(stage, get_preset("tiny"), SERVER).seconds == pytest.approx(seconds, rel=0.25)


@pytest.mark.parametrize(("stage", "seconds"), [(PPO, 62 * 40 / 30 * 96 / 64), (GRPO, 201 * 120 / 100)])
def test_it_is_near_what_they_took_without_bfloat16(stage: str, seconds: float) -> None:
    """Measured when PPO had 30 rounds of 64 answers and GRPO 100."""
    assert estimate(stage, get_preset("tiny"), NO_BFLOAT16).seconds == pytest.approx(seconds, rel=0.25)


@pytest.mark.parametrize("stage", [REWARD, PPO, GRPO])
def test_a_reward_is_learnt_from_in_float32_and_text_in_what_wins(stage: str) -> None:
    slow = {**SERVER, "matmul_gflops": dict.fromkeys(SERVER_RATES, SERVER_RATES["float32"])}
    preset = get_preset("tiny")
    assert estimate(stage, preset, slow).seconds == estimate(stage, preset, SERVER).seconds
    assert estimate(PRETRAIN, preset, slow).seconds > 1.5 * estimate(PRETRAIN, preset, SERVER).seconds


@pytest.mark.parametrize(("width", "bfloat16"), [(64, 975.0), (192, 975.0), (192, 310.0), (192, 60.0), (512, 330.0)])
def test_it_expects_the_precision_the_stages_choose(
    width: int, bfloat16: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {torch.float32: 213.0, torch.bfloat16: bfloat16}
    monkeypatch.setattr(machine, "matmul_gflops", lambda dtype, **_: rates[dtype])
    speed = Speed(
        float32=213.0, bfloat16=bfloat16, bytes_per_s=1.0, bfloat16_share=0.7, layer_s=0.0, pace=1.0, measured=True
    )
    chosen = machine.choose_precision(width)
    assert speed.takes_bfloat16(width) == (chosen == "bfloat16")
    assert speed.learning(width) == pytest.approx(0.7 * {"float32": 213.0, "bfloat16": bfloat16}[chosen])


@pytest.mark.parametrize("has_units", [True, False])
def test_a_gpu_takes_the_precision_it_has_units_for_whatever_was_measured(
    has_units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_units)
    monkeypatch.setattr(machine, "matmul_gflops", lambda dtype, **_: pytest.fail("it was measured"))
    assert machine.choose_precision(512) == ("bfloat16" if has_units else "float32")
    assert machine.choose_precision(64) == "float32"


H100 = {
    "matmul_gflops": {"float32": 51_278.0, "bfloat16": 781_584.0},
    "device": "NVIDIA H100 80GB HBM3",
    "threads": 16,
}


@pytest.mark.parametrize(("name", "tokens_per_s"), [("tiny", 242_398), ("small", 565_581), ("base", 233_051)])
def test_it_is_near_what_steps_of_pretraining_took_on_a_gpu(name: str, tokens_per_s: int) -> None:
    preset = get_preset(name)
    assert estimate(PRETRAIN, preset, H100).seconds == pytest.approx(preset.pretrain.tokens / tokens_per_s, rel=0.25)


def test_it_knows_what_the_modules_it_cannot_import_do() -> None:
    assert card.QUESTIONS == QUESTIONS
    assert signature(losses.linear_next_token_loss).parameters["chunk"].default == LOSS_TOKENS


def test_fewer_threads_take_longer_and_more_than_were_measured_no_less() -> None:
    preset = get_preset("tiny")
    two, one, three = (estimate(PRETRAIN, preset, SERVER, threads=threads).seconds for threads in (2, 1, 3))
    assert two == three == estimate(PRETRAIN, preset, SERVER).seconds
    assert (one - 4.0) / (two - 4.0) == pytest.approx(2**0.75)
    on_gpu = {**SERVER, "device": "Some GPU"}
    assert estimate(PRETRAIN, preset, on_gpu, threads=1) == estimate(PRETRAIN, preset, on_gpu)


# -- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smoke", "tiny"])
def test_small_presets_take_their_batches_in_one_piece_on_a_cpu(name: str) -> None:
    preset = get_preset(name)
    for config in (preset.pretrain, preset.sft):
        rows = rows_at_once(preset.model, sequence=config.sequence, device="cpu")
        assert rows * config.sequence >= config.batch_tokens


@pytest.mark.parametrize(
    ("name", "device", "most"), [("small", "cpu", 4e9), ("small", "cuda", 20e9), ("base", "cuda", 20e9)]
)
def test_every_preset_fits_the_device_it_is_for(name: str, device: str, most: float) -> None:
    for stage in (PRETRAIN, SFT):
        assert estimate(stage, get_preset(name), {**SERVER, "device": device}).memory_bytes < most


def test_what_holds_a_model_to_its_parent_takes_rows_as_long_as_they_are_and_not_as_the_model_reads() -> None:
    preset = get_preset("small")
    longer = dataclasses.replace(preset.model, context=8 * preset.model.context)
    anchored = dataclasses.replace(preset.grpo, anchor_sequence=preset.model.context, anchor_rows=64)
    known, also = (
        estimate(GRPO, dataclasses.replace(preset, model=model, grpo=anchored), SERVER).memory_bytes
        for model in (preset.model, longer)
    )
    assert also == known


def test_one_row_goes_through_even_where_there_is_no_room_for_it() -> None:
    assert rows_at_once(get_preset("base").model, sequence=1_000_000, device="cpu") == 1


def test_it_knows_what_the_backward_pass_keeps() -> None:
    shape = get_preset("tiny").model
    model = LanguageModel(shape)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def kept_bytes(length: int) -> int:
        kept: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = storage
            return tensor

        tokens = torch.zeros(1, length, dtype=torch.long)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = model.decoder(tokens, segments=torch.zeros_like(tokens))
        assert hidden.requires_grad
        return sum(storage.nbytes() for storage in kept.values())

    # What does not grow with the tokens, such as the projections joined for one product, is left out.
    measured = (kept_bytes(256) - kept_bytes(128)) / (128 * shape.layers * shape.width)
    assert 0.8 * ACTIVATION_BYTES < measured <= ACTIVATION_BYTES


def test_reinforcement_learning_keeps_its_frozen_models_in_memory() -> None:
    preset = get_preset("base")
    copies = {PPO: 4 + 3 * 2, GRPO: 2 + 3}
    for stage, config in ((PPO, preset.ppo), (GRPO, preset.grpo)):
        answers = 1_000_000_000 // (94 * preset.model.layers * preset.model.width) // (50 + config.max_new_tokens)
        assert answers < 16  # there is no room for as many as a CPU passes of a smaller model
        tokens = max(answers * (50 + config.max_new_tokens), 2048 if stage == GRPO else 0)  # what anchors it goes alone
        activations = 94 * preset.model.layers * preset.model.width * tokens + 12 * 2**23
        expected = 450_000_000 + 4 * preset.model.parameters * copies[stage] + activations
        assert estimate(stage, preset, SERVER).memory_bytes == expected


# -- both ------------------------------------------------------------------------------------------


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


def test_reward_models_that_teach_cost_their_time_and_memory() -> None:
    preset = get_preset("tiny")
    single = dataclasses.replace(preset, reward=dataclasses.replace(preset.reward, teachers=1))
    alone, together = (estimate(REWARD, which, SERVER) for which in (single, preset))
    assert preset.reward.teachers == 3
    assert together.seconds > 2.5 * alone.seconds
    weights = 3 * 4 * preset.model.parameters
    assert together.disk_bytes - alone.disk_bytes == weights
    assert together.memory_bytes - alone.memory_bytes > weights  # and twice as many answers at once


# -- models from elsewhere -------------------------------------------------------------------------


def test_adapters_of_rank_16_on_smollm2_are_what_they_are_known_to_be() -> None:
    assert adapter_parameters(get_preset("adapted-135m").model, 16) == 4_884_480
    assert get_preset("adapted-135m").model.parameters == 134_515_008


@pytest.mark.parametrize("stage", [SFT, REWARD, PPO, GRPO])
def test_adapters_keep_the_weights_once_whatever_stands_on_them(stage: str) -> None:
    adapted, full = (estimate(stage, get_preset(f"{kind}-1b"), SERVER) for kind in ("adapted", "full"))
    parameters = get_preset("full-1b").model.parameters
    assert full.memory_bytes - adapted.memory_bytes > 2.5 * 4 * parameters
    assert adapted.disk_bytes < 1.5 * 4 * parameters < full.disk_bytes


@pytest.mark.parametrize("parameters", [134_515_008, 360_000_000, 1_700_000_000, 3_000_000_000])
def test_a_recipe_is_estimated_at_the_size_of_its_model(parameters: int) -> None:
    preset = recipe_for(parameters)
    assert preset.of_size(parameters).model.parameters == pytest.approx(parameters, rel=0.05)
    assert estimate(GRPO, preset.of_size(parameters), SERVER).memory_bytes > 4 * parameters

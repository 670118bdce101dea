"""Which settings a model from elsewhere is trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer import small
from trainer import world
from trainer.__main__ import main
from trainer.config import GRPO, INIT, PPO, PRETRAIN, REWARD, SFT, check_context
from trainer.model.decoder import LanguageModel
from trainer.model.tokenizer import Tokenizer
from trainer.presets import (
    ADAPTED,
    FULL,
    PRESETS,
    RECIPES,
    answer_tokens_of,
    get_preset,
    is_size,
    recipe_for,
    usual_preset,
)
from trainer.run import RunSpec, preset_of

TRAINED = (SFT, REWARD, PPO, GRPO)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (900, "adapted-135m"),
        (134_515_008, "adapted-135m"),
        (361_821_120, "adapted-1b"),
        (1_700_000_000, "adapted-1b"),
        (3_075_098_624, "adapted-3b"),
    ],
)
def test_a_recipe_follows_from_how_many_numbers_a_model_has(parameters: int, name: str) -> None:
    assert recipe_for(parameters).name == name
    assert recipe_for(parameters, kind=FULL).name == name.replace(ADAPTED, FULL)
    with pytest.raises(ValueError, match="Unknown kind of recipe 'half'; choose adapted or full"):
        recipe_for(parameters, kind="half")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_do_no_harm(name: str) -> None:
    """Within what is customary: adapters 5e-5 to 3e-4, all weights 1e-6 to 2e-5, and never by Muon."""
    recipe = get_preset(name)
    rank = 16 if recipe.recipe == ADAPTED else 0
    low, high = (5e-5, 3e-4) if rank else (1e-6, 2e-5)
    for stage in TRAINED:
        settings = recipe.stage(stage)
        assert settings.adapter_rank == rank
        rate = settings.embedding_lr if stage == SFT else settings.lr
        assert low <= rate <= high, stage
        check_context(settings, 1024)
    assert recipe.sft.matrix_lr == 0
    assert recipe.pretrain.matrix_lr < PRESETS["base"].pretrain.matrix_lr / 50
    assert not is_size(name)


def test_larger_models_take_smaller_steps() -> None:
    for kind in (ADAPTED, FULL):
        sizes = [RECIPES[f"{kind}-{size}"] for size in ("135m", "1b", "3b")]
        for stage in (REWARD, PPO, GRPO):
            rates = [recipe.stage(stage).lr for recipe in sizes]
            assert rates == sorted(rates, reverse=True)


def test_a_run_goes_on_with_the_preset_of_its_parent() -> None:
    assert usual_preset("smoke", 134_515_008) == "smoke"
    assert usual_preset("full-1b", 134_515_008) == "full-1b"
    assert usual_preset("", 134_515_008) == "adapted-135m"
    assert usual_preset("of another version", 600_000_000) == "adapted-1b"
    assert answer_tokens_of({"preset": "adapted-135m"}) == 80


def test_no_model_is_made_by_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = "adapted-135m is a recipe for a model that comes from elsewhere, and makes none. Choose one of smoke,"
    for command in (INIT, "all"):
        assert main([command, "--preset", "adapted-135m", "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="for a model from elsewhere one of adapted-135m, "):
        get_preset("enormous")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def parent(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    return small.save_parent(tmp_path / "sft", model, tokenizer)


@pytest.mark.parametrize(
    ("recorded", "preset"), [({}, "smoke"), ({"preset": ""}, "adapted-135m"), ({"preset": "full-135m"}, "full-135m")]
)
def test_the_command_line_chooses_what_fits_the_parent(parent: Path, recorded: dict[str, Any], preset: str) -> None:
    info = json.loads((parent / "stage.json").read_text())
    (parent / "stage.json").write_text(json.dumps(info | recorded))
    assert preset_of(parent) == preset


def test_a_directory_of_somebody_else_gets_a_recipe(parent: Path, tmp_path: Path) -> None:
    (parent / "stage.json").unlink()
    assert preset_of(parent) == "adapted-135m"
    assert preset_of(tmp_path / "nowhere") == "tiny"  # the run says what is wrong with it


def test_what_a_recipe_says_can_be_changed_like_a_presets() -> None:
    spec = RunSpec(stage=GRPO, preset="adapted-135m", config={"lr": 1e-4, "adapter_rank": 8})
    assert (spec.stage_config().lr, spec.stage_config().adapter_rank) == (1e-4, 8)
    with pytest.raises(ValueError, match="grpo has no setting rank"):
        RunSpec(stage=GRPO, preset="adapted-135m", config={"rank": 8}).stage_config()
    assert RunSpec(stage=PRETRAIN, preset="adapted-135m").stage_config().embedding_lr < 1e-4


def test_a_model_from_elsewhere_reads_plain_english_without_being_told(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way from the command line: GRPO on plain problems, held to its own answers."""
    monkeypatch.setattr(world, "PLAIN_PROBLEMS", 8)
    monkeypatch.setattr(world, "HELD_OUT_PLAIN_PROBLEMS", 2)
    info = json.loads((parent / "stage.json").read_text())
    (parent / "stage.json").write_text(json.dumps(info | {"preset": ""}))
    changes = {"steps": 1, "problems": 2, "group": 2, "max_new_tokens": 8, "anchor_answers": 2, "adapter_rank": 2,
               "evaluations": 1}  # fmt: skip
    settings = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    out = tmp_path / "grpo"
    assert main(["grpo", "--from", str(parent), "--out", str(out), "--threads", "1", *settings]) == 0
    made = json.loads((out / "stage.json").read_text())
    assert made["preset"] == "adapted-135m"
    assert made["metrics"]["held_out_problems"] == 2

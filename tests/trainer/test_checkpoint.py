from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from trainer.model import layout
from trainer.model.checkpoint import (
    CheckpointError,
    describe,
    load_checkpoint,
    load_reward_model,
    read_info,
    save_checkpoint,
)
from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.model.tokenizer import Tokenizer
from trainer.runtime import tensors
from trainer.runtime.files import STAGE, write_atomic


@pytest.fixture
def saved(model: LanguageModel, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "sft", model, tokenizer, stage="sft", info={"parent_sha256": "ab"})


def edit_config(directory: Path, **changes: object) -> None:
    """Change config.json as a directory from elsewhere may have it: one of ours would say that it was swapped."""
    (directory / "stage.json").unlink()
    edit(directory / "config.json", **changes)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_it_comes_back_with_the_same_weights_text_and_lineage(
    saved: Path, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    loaded = load_checkpoint(saved)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
    assert loaded.model.config == model.config
    assert loaded.tokenizer.encode("A fox.") == tokenizer.encode("A fox.")
    assert loaded.info["stage"] == "sft"
    assert loaded.info["parent_sha256"] == "ab"
    assert loaded.info["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_it_keeps_a_reward_models_head_and_bias(model: LanguageModel, tokenizer: Tokenizer, tmp_path: Path) -> None:
    scalar = ScalarModel.from_language_model(model, generator=torch.Generator().manual_seed(0))
    scalar.bias.fill_(-1.25)
    save_checkpoint(tmp_path, scalar, tokenizer, stage="reward", info={})
    loaded = load_reward_model(tmp_path).reward_model
    tokens = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(loaded(tokens), scalar(tokens))


def test_it_is_unfinished_until_the_last_file_is_written(
    model: LanguageModel, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, written = os.replace, []
    steps = 6  # weights, config, two files of the tokenizer, generation config, stage

    for allowed in range(steps):
        directory = tmp_path / str(allowed)

        def failing(temporary: Path, path: Path, allowed: int = allowed) -> None:
            if len(written) == allowed:
                raise OSError(28, "No space left on device")
            written.append(path)
            replace(temporary, path)

        written.clear()
        monkeypatch.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(directory, model, tokenizer, stage="sft", info={})
        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(CheckpointError, match="unfinished"):
            read_info(directory)


def test_weights_that_the_disk_does_not_take_leave_no_half_of_them_and_say_what_to_do(
    model: LanguageModel, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object, path: Path, **__: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(OSError, match=r"No space left.*free space"):
        save_checkpoint(tmp_path, model, tokenizer, stage="sft", info={})
    assert list(tmp_path.iterdir()) == []


def test_weights_from_elsewhere_are_read_for_their_hash_once(
    model: LanguageModel, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, model, tokenizer, stage="sft", info={})
    (tmp_path / STAGE).unlink()
    hashed: list[str] = []
    monkeypatch.setattr(layout, "sha256_file", lambda path: hashed.append(path.name) or "0" * 64)
    load_checkpoint(tmp_path)
    assert hashed == ["model.safetensors"]


def test_it_leaves_the_old_file_when_a_write_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def no_rename(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", no_rename)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new and longer")
    assert path.read_bytes() == b"old"


def test_it_refuses_to_save_weights_that_are_not_finite(
    model: LanguageModel, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with torch.no_grad():
        model.decoder.norm.weight[0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        save_checkpoint(tmp_path / "bad", model, tokenizer, stage="sft", info={})
    assert not (tmp_path / "bad" / "stage.json").exists()


def test_it_refuses_what_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a directory"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="not a checkpoint directory"):
        load_checkpoint(tmp_path)


def test_it_refuses_pickled_weights_and_says_what_to_do(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"Only safetensors is read; convert pytorch_model\.bin first"):
        load_checkpoint(saved)


@pytest.mark.parametrize("damage", ["cut", "garbage", "huge header", "empty"])
def test_it_refuses_damaged_weights(saved: Path, damage: str) -> None:
    path = saved / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "garbage": b"\x80\x04not weights at all",
            "huge header": (2**40).to_bytes(8, "little") + content[8:],
            "empty": b"",
        }[damage]
    )
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(saved)


def test_it_refuses_weights_that_were_swapped_after_saving(saved: Path) -> None:
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not the file stage\.json describes"):
        load_checkpoint(saved)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_it_refuses_a_shape_or_tokenizer_that_was_swapped_after_saving(saved: Path, name: str) -> None:
    """Another tokenizer of the same size would read and write other text with the same weights."""
    content = json.loads((saved / name).read_text())
    (saved / name).write_text(json.dumps(content, indent=1))
    with pytest.raises(CheckpointError, match=rf"{name} is not the file stage\.json describes"):
        load_checkpoint(saved)


def test_it_loads_a_checkpoint_whose_version_recorded_no_hashes_of_small_files(saved: Path) -> None:
    edit(saved / "stage.json", files_sha256=None)
    edit(saved / "config.json", max_position_embeddings=64)
    assert load_checkpoint(saved).model.config.context == 64


@pytest.mark.parametrize("hashes", [["config.json"], {"config.json": 7}])
def test_it_refuses_hashes_that_are_none(saved: Path, hashes: object) -> None:
    edit(saved / "stage.json", files_sha256=hashes)
    with pytest.raises(CheckpointError, match=r"stage\.json"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "gpt2 model; only Llama-shaped"),
        ({"tie_word_embeddings": False}, r"it lacks lm_head\.weight"),
        ({"hidden_size": 64}, r"embed_tokens\.weight has shape \[349, 32\], config\.json says \[349, 64\]"),
        ({"num_hidden_layers": 3}, r"it lacks model\.layers\.2"),
        ({"intermediate_size": 10**9}, "has shape"),
        ({"num_attention_heads": None}, "damaged or not supported: num_attention_heads must be a whole number"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "scales its rotary positions by 'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "scales its rotary positions by 'dynamic'"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "by 'longrope', which is not supported; default, linear and"),
        ({"rope_parameters": "yarn"}, "scales its rotary positions by 'yarn', which is no description"),
        ({"rope_scaling": {"type": "linear", "factor": 0.0}}, "factor must be above 0"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rotary positions without a low_freq_factor"),
        ({"rope_scaling": "linear"}, "scales its rotary positions by 'linear', which is no description"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "differ from layer to layer"),
        ({"partial_rotary_factor": 0.5}, "turns only 0.5 of each head"),
        ({"quantization_config": {"quant_method": "gptq"}}, "weights are quantised, which is not supported"),
        ({"model_type": "mixtral"}, "mixtral model; only Llama-shaped ones are supported"),
        ({"model_type": None}, "nameless model; only Llama-shaped"),
        ({"architectures": ["LlamaModel"]}, "a checkpoint must be LlamaForCausalLM"),
        ({"attention_bias": "no"}, "attention_bias must be true or false"),
        ({"mlp_bias": True}, r"it lacks model\.layers\.0\.mlp\.gate_proj\.bias"),
        ({"layer_types": ["chunked_attention"] * 2}, "layer_types must name full_attention or sliding_attention"),
        ({"rope_parameters": {"rope_theta": -1.0}}, "rope_theta must be above 0"),
        ({"rope_parameters": {"rope_theta": "far"}}, "rope_theta must be a number"),
        ({"rms_norm_eps": float("nan")}, "norm_eps must be a number"),
        ({"hidden_act": "gelu"}, "gates its feed-forward with 'gelu'; only silu"),
        ({"max_position_embeddings": 10**13}, "max_position_embeddings must be a whole number from 1 to 262144"),
        ({"max_position_embeddings": 1e13}, "max_position_embeddings must be a whole number"),
        ({"max_position_embeddings": float("inf")}, "max_position_embeddings must be a whole number"),
        ({"num_attention_heads": 0, "head_dim": None}, "num_attention_heads must be a whole number"),
        ({"num_key_value_heads": 0}, "num_key_value_heads must be a whole number"),
        ({"num_key_value_heads": 3}, "kv_heads=3 must divide heads=2"),
        ({"head_dim": 0}, "head_dim must be a whole number"),
        ({"intermediate_size": -1}, "intermediate_size must be a whole number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be a whole number from 1 to 1000"),
        ({"vocab_size": "400"}, "vocab_size must be a whole number"),
        ({"vocab_size": True}, "vocab_size must be a whole number"),
        ({"hidden_size": 10**30}, "hidden_size must be a whole number"),
    ],
)
def test_it_refuses_a_config_it_cannot_honour(saved: Path, change: dict[str, object], message: str) -> None:
    edit_config(saved, **change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((32,), float("nan")), "norm.weight holds values that are not finite"),
        (torch.full((32,), 1e300, dtype=torch.float64), "norm.weight holds values that are not finite"),
        (torch.ones(32, dtype=torch.int64), "norm.weight is stored as I64, not one of F32"),
        (
            torch.ones(32).to(torch.float8_e4m3fn),
            "norm.weight is stored as F8_E4M3, not one of F32, .*quantised weights",
        ),
    ],
    ids=["nan", "too large", "whole numbers", "8 bits"],
)
def test_it_refuses_weights_that_mean_nothing(saved: Path, value: torch.Tensor, message: str) -> None:
    path = saved / "model.safetensors"
    save_file({**load_file(path), "model.norm.weight": value}, path)
    (saved / "stage.json").unlink()
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_it_reads_weights_of_any_float_and_a_copied_head(saved: Path, dtype: torch.dtype) -> None:
    path = saved / "model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].float()}, path)
    (saved / "stage.json").unlink()
    assert load_checkpoint(saved).language_model.decoder.norm.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"names no stage that we know \(None\)"),
        ('{"stage": "dance"}', r"names no stage that we know \('dance'\)"),
        ("[]", "should hold a JSON object"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_it_refuses_a_stage_it_does_not_know(saved: Path, text: str, message: str) -> None:
    (saved / "stage.json").write_text(text)
    for read in (read_info, load_checkpoint):
        with pytest.raises(CheckpointError, match=message):
            read(saved)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"num_labels": 2}, "has several labels; a reward model gives one number"),
        ("stage.json", {"score_bias": "high"}, "score_bias should be a number, not 'high'"),
        ("stage.json", {"score_bias": float("nan")}, "score_bias should be a number, not nan"),
    ],
)
def test_it_refuses_a_reward_model_that_gives_no_one_number(
    model: LanguageModel, tokenizer: Tokenizer, tmp_path: Path, file: str, changes: dict[str, object], message: str
) -> None:
    scalar = ScalarModel.from_language_model(model, generator=torch.Generator().manual_seed(0))
    save_checkpoint(tmp_path, scalar, tokenizer, stage="reward", info={})
    if file == "config.json":
        edit_config(tmp_path, **changes)
    else:
        edit(tmp_path / file, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_reward_model(tmp_path)


def test_it_tells_a_reward_model_from_a_language_model(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a reward model"):
        load_reward_model(saved)
    with pytest.raises(CheckpointError, match="not a reward model"):
        _ = load_checkpoint(saved).reward_model


def test_it_loads_a_directory_from_elsewhere_without_lineage(saved: Path, tmp_path: Path) -> None:
    foreign = shutil.copytree(saved, tmp_path / "foreign")
    (foreign / "stage.json").unlink()
    digest = hashlib.sha256((foreign / "model.safetensors").read_bytes()).hexdigest()
    assert load_checkpoint(foreign).info == {"stage": "sft", "weights_sha256": digest, "metrics": {}}
    (foreign / "tokenizer_config.json").unlink()  # no chat template: it continues text
    assert load_checkpoint(foreign).info["stage"] == "pretrain"
    assert describe(foreign, stage="sft")["stage"] == "sft"
    for stage, complaint in (("reward", "is no reward checkpoint"), ("dance", "Unknown stage 'dance'")):
        with pytest.raises(ValueError, match=complaint):
            describe(foreign, stage=stage)
    (foreign / "resume").mkdir()  # a run of ours that has not ended
    with pytest.raises(CheckpointError, match="unfinished"):
        load_checkpoint(foreign)


def test_one_of_ours_says_itself_what_it_is(saved: Path) -> None:
    assert describe(saved)["parent_sha256"] == "ab"
    with pytest.raises(CheckpointError, match=r"is a sft checkpoint, as its stage\.json says, not pretrain"):
        describe(saved, stage="pretrain")


def test_it_names_a_tensor_that_does_not_belong(saved: Path) -> None:
    path = saved / "model.safetensors"
    save_file({**load_file(path), "model.extra.weight": torch.zeros(1)}, path)
    (saved / "stage.json").unlink()
    with pytest.raises(CheckpointError, match=r"weights this architecture does not have: model\.extra\.weight"):
        load_checkpoint(saved)

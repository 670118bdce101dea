"""What the site takes in at the door the trainer loads, and what it turns away the trainer refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.model.layout import INDEX, WEIGHTS
from trainer.model.tokenizer import Tokenizer
from webapp.checkpoints.files import inspect_directory


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda directory: edit(directory / "config.json", **changes)


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Another set of tensors in the weights file; `change` returns it, or changes the one it is given."""

    def apply(directory: Path) -> None:
        tensors = load_file(directory / WEIGHTS)
        save_file(change(tensors) or tensors, directory / WEIGHTS)

    return apply


def shards(change: Callable[[Path, dict[str, str]], Any] = lambda directory, places: None) -> Callable[[Path], None]:
    """The weights in two files and an index; `change` may spoil them."""

    def apply(directory: Path) -> None:
        tensors = load_file(directory / WEIGHTS)
        names = sorted(tensors)
        files = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
        for file in set(files.values()):
            save_file({name: tensors[name] for name in names if files[name] == file}, directory / file)
        (directory / WEIGHTS).unlink()
        change(directory, files)
        (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))

    return apply


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def _of_another_model(directory: Path, _: Any) -> None:
    tensors = load_file(directory / FIRST)
    save_file({name: torch.zeros(7, 7) for name in tensors}, directory / FIRST)


def _cut(directory: Path) -> None:
    content = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(content[:-5])


def _tokenizer_too_large(directory: Path) -> None:
    content = json.loads((directory / "tokenizer.json").read_text())
    content["added_tokens"].append({"id": 10**6, "content": "<new>", "special": True})
    (directory / "tokenizer.json").write_text(json.dumps(content))


GOOD: dict[str, Callable[[Path], Any]] = {
    "as it is": lambda directory: None,
    "no stage": lambda directory: (directory / "stage.json").unlink(),
    "no architectures": config(architectures=None),
    "float16": weights(lambda tensors: {name: one.half() for name, one in tensors.items()}),
    "bfloat16": weights(lambda tensors: {name: one.bfloat16() for name, one in tensors.items()}),
    "float64": weights(lambda tensors: {name: one.double() for name, one in tensors.items()}),
    "a copied head": weights(lambda tensors: {**tensors, HEAD: tensors[EMBEDDING].clone()}),
    "its own head": lambda directory: (
        weights(lambda tensors: {**tensors, HEAD: tensors[EMBEDDING] + 1})(directory),
        config(tie_word_embeddings=False)(directory),
    ),
    "an old table": weights(lambda tensors: {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}),
    "mistral": config(model_type="mistral", architectures=["MistralForCausalLM"]),
    "linear positions": config(rope_parameters=None, rope_scaling={"type": "linear", "factor": 2.0}),
    "shards": shards(),
}

BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "gpt2": (config(model_type="gpt2"), "a gpt2 model; only Llama-shaped ones"),
    "phi3": (config(model_type="phi3"), "a phi3 model; only Llama-shaped ones"),
    "no family": (config(model_type=7), "a nameless model"),
    "another class": (config(architectures=["LlamaModel"]), "must be LlamaForCausalLM"),
    "yarn": (config(rope_scaling={"rope_type": "yarn", "factor": 4.0}), "rotary positions by 'yarn'"),
    "gelu": (config(hidden_act="gelu"), "gates its feed-forward with 'gelu'"),
    "quantised": (config(quantization_config={"bits": 4}), "weights are quantised"),
    "int8": (weights(lambda tensors: {**tensors, EMBEDDING: tensors[EMBEDDING].char()}), "stored as I8, not one of"),
    "wrong size": (config(intermediate_size=7), "has shape"),
    "untied without a head": (config(tie_word_embeddings=False), r"it lacks lm_head\.weight"),
    "another head": (weights(lambda tensors: {**tensors, HEAD: tensors[EMBEDDING] + 1}), "has an untied output head"),
    "biases nobody asked for": (
        weights(lambda tensors: {**tensors, "model.layers.0.mlp.up_proj.bias": torch.zeros(96)}),
        r"weights this architecture does not have: model\.layers\.0\.mlp\.up_proj\.bias",
    ),
    "no weights": (lambda directory: (directory / WEIGHTS).unlink(), "has no model.safetensors"),
    "cut off": (_cut, "damaged or cut off"),
    "no tokenizer": (lambda directory: (directory / "tokenizer.json").unlink(), r"tokenizer\.json"),
    "too large a tokenizer": (_tokenizer_too_large, "more entries .1000001. than the model's vocabulary"),
    "no config": (lambda directory: (directory / "config.json").unlink(), r"has no config\.json"),
    "a shard is gone": (shards(lambda directory, _: (directory / SECOND).unlink()), f"has no {SECOND}"),
    "a shard of another model": (shards(_of_another_model), "has shape"),
    "a shard twice": (
        shards(lambda directory, _: shutil.copy(directory / FIRST, directory / SECOND)),
        "is not the shard that model.safetensors.index.json describes",
    ),
    "a place outside": (shards(lambda _, places: places.update({EMBEDDING: "../elsewhere.safetensors"})), "no safeten"),
    "an index of nothing": (shards(lambda _, places: places.clear()), "weight_map should say"),
    "an index of numbers": (shards(lambda _, places: places.update({EMBEDDING: 3})), "weight_map should say"),  # type: ignore[dict-item]
    "more layers than there are": (config(num_hidden_layers=3), r"it lacks model\.layers\.2"),
}


@pytest.fixture
def directory(model: LanguageModel, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    path = save_checkpoint(tmp_path / "model", model, tokenizer, stage="sft", info={})
    edit(path / "stage.json", files_sha256=None, weights_sha256=None)
    return path


@pytest.mark.parametrize("case", GOOD)
def test_both_take_a_good_directory(directory: Path, case: str) -> None:
    GOOD[case](directory)
    files, loaded = inspect_directory(directory), load_checkpoint(directory)
    assert files.stage == loaded.info["stage"]
    assert files.parameters == sum(parameter.numel() for parameter in loaded.model.parameters())


@pytest.mark.parametrize("case", BAD)
def test_both_refuse_a_bad_directory_in_one_sentence(directory: Path, case: str) -> None:
    spoil, complaint = BAD[case]
    spoil(directory)
    with pytest.raises(ValueError, match=complaint) as site:
        inspect_directory(directory)
    if (directory / "config.json").exists() and (directory / "tokenizer.json").exists():
        with pytest.raises(CheckpointError, match=complaint) as trainer:
            load_checkpoint(directory)
        assert str(trainer.value) == str(site.value)
    else:
        with pytest.raises(CheckpointError):
            load_checkpoint(directory)
    assert "\n" not in str(site.value)


def test_shards_have_one_hash_that_any_of_them_changes(directory: Path) -> None:
    shards()(directory)
    files = inspect_directory(directory)
    edit(directory / "stage.json", weights_sha256=files.weights_sha256)
    assert inspect_directory(directory).weights_sha256 == files.weights_sha256
    tensors = load_file(directory / SECOND)
    save_file({name: one + 1 for name, one in tensors.items()}, directory / SECOND)
    with pytest.raises(ValueError, match="is not the file"):
        inspect_directory(directory)
    with pytest.raises(CheckpointError, match="is not the file"):
        load_checkpoint(directory)


def test_a_reward_model_is_one_for_both(model: LanguageModel, tokenizer: Tokenizer, tmp_path: Path) -> None:
    scalar = ScalarModel.from_language_model(model, generator=torch.Generator().manual_seed(0))
    directory = save_checkpoint(tmp_path / "reward", scalar, tokenizer, stage="reward", info={})
    assert inspect_directory(directory).stage == load_checkpoint(directory).info["stage"] == "reward"
    with pytest.raises(ValueError, match="describes a model that scores text"):
        inspect_directory(directory, stage="sft")

"""Checkpoints: Hugging Face model directories with lineage, written atomically.

The idea: a checkpoint directory *is* what `transformers` writes for a Llama, so the ecosystem loads
it as it is; `stage.json` adds where it came from and the hash of every file, and is written last.
A directory without it is unfinished and is never listed or loaded as ours.

Weights are only ever read from safetensors: a file format that cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from trainer import __version__
from trainer.config import REWARD, ModelConfig
from trainer.model import LanguageModel, ScalarModel
from trainer.tokenizer import Tokenizer

WEIGHTS, CONFIG, STAGE = "model.safetensors", "config.json", "stage.json"


class CheckpointError(ValueError):
    """A directory that is not a usable checkpoint; the message says why."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory."""

    model: LanguageModel | ScalarModel
    tokenizer: Tokenizer
    info: dict[str, Any]
    """The contents of stage.json; empty for a model from elsewhere."""

    @property
    def language_model(self) -> LanguageModel:
        if not isinstance(self.model, LanguageModel):
            raise CheckpointError("This checkpoint is a reward model: it scores text and cannot write any.")
        return self.model

    @property
    def reward_model(self) -> ScalarModel:
        if not isinstance(self.model, ScalarModel):
            raise CheckpointError("This checkpoint is a language model, not a reward model.")
        return self.model


# -- writing -------------------------------------------------------------------------------------


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, because no browser reads them."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(
    directory: Path,
    model: LanguageModel | ScalarModel,
    tokenizer: Tokenizer,
    *,
    stage: str,
    info: Mapping[str, Any],
) -> Path:
    """Write `model` as a Hugging Face directory; `info` goes into stage.json beside what is computed here.

    A run interrupted inside this function leaves a directory without stage.json, which loads as
    unfinished. Non-finite weights are refused with CheckpointError: better no checkpoint than a
    poisoned one.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in _to_hugging_face(model).items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{name} holds values that are not finite; nothing was saved.")
    write_atomic(directory / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_json(directory / CONFIG, hugging_face_config(model, tokenizer))
    tokenizer.save(directory)
    if isinstance(model, LanguageModel):
        generation = {
            "eos_token_id": [tokenizer.end_id, tokenizer.document_end_id],
            "pad_token_id": tokenizer.pad_id,
            "do_sample": True,
            "temperature": 1.0,
        }
        write_json(directory / "generation_config.json", generation)
    files = sorted(path.name for path in directory.iterdir() if path.is_file() and not path.name.startswith("."))
    hashes = {name: sha256_file(directory / name) for name in files if name != STAGE}
    record = {
        **info,
        "stage": stage,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "weights_sha256": hashes[WEIGHTS],
        "files_sha256": hashes,
        "code_version": __version__,
    }
    if isinstance(model, ScalarModel):
        record["score_bias"] = float(model.bias)
    write_json(directory / STAGE, record)
    return directory


def hugging_face_config(model: LanguageModel | ScalarModel, tokenizer: Tokenizer) -> dict[str, Any]:
    """`config.json` as transformers expects it, for versions before and after `rope_parameters`."""
    config = model.config
    shared = {
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.end_id,
        "pad_token_id": tokenizer.pad_id,
        "torch_dtype": "float32",
    }
    if isinstance(model, ScalarModel):
        return {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1, **shared}
    return {"architectures": ["LlamaForCausalLM"], **shared}


def _to_hugging_face(model: LanguageModel | ScalarModel) -> dict[str, Tensor]:
    tensors = {f"model.{name}": tensor for name, tensor in model.decoder.state_dict().items()}
    if isinstance(model, ScalarModel):
        tensors["score.weight"] = model.head.weight.detach()
    return tensors


# -- reading -------------------------------------------------------------------------------------


def read_info(directory: Path) -> dict[str, Any]:
    """stage.json of a finished checkpoint of ours; CheckpointError when it is missing or damaged."""
    path = Path(directory) / STAGE
    if not path.is_file():
        raise CheckpointError(f"{directory} has no stage.json: it is unfinished, or not one of our checkpoints.")
    return _read_json(path)


def load_checkpoint(directory: Path, *, device: str | torch.device = "cpu") -> Loaded:
    """Load any Llama-shaped checkpoint directory, ours or not.

    Raises CheckpointError naming the problem: no such directory, another architecture, weights in a
    format that could run code, a damaged or incomplete file, weights that do not match stage.json.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory.")
    config_json = _read_json(directory / CONFIG)
    config = _model_config(config_json, directory)
    architectures = config_json.get("architectures") or []
    weights = directory / WEIGHTS
    if not weights.is_file():
        others = sorted(path.name for path in directory.glob("*.bin")) + sorted(p.name for p in directory.glob("*.pt"))
        hint = f" Only safetensors is read; convert {others[0]} first." if others else ""
        raise CheckpointError(f"{directory} has no {WEIGHTS}.{hint}")
    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{weights} is damaged: {error}. Restore or retrain it.") from error
    info = _read_json(directory / STAGE) if (directory / STAGE).is_file() else {}
    expected = info.get("weights_sha256")
    if expected and sha256_file(weights) != expected:
        raise CheckpointError(f"{weights} is not the file stage.json describes. Restore or retrain it.")
    is_reward = architectures == ["LlamaForSequenceClassification"]
    model = _build(ScalarModel if is_reward else LanguageModel, config, tensors, directory).to(device)
    if isinstance(model, ScalarModel):
        model.bias.fill_(info.get("score_bias", 0.0))
    try:
        tokenizer = Tokenizer.load(directory)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(f"{directory}: the tokenizer has more entries than the model's vocabulary.")
    return Loaded(model, tokenizer, info)


def load_reward_model(directory: Path, *, device: str | torch.device = "cpu") -> Loaded:
    """`load_checkpoint` that refuses everything but a reward model."""
    loaded = load_checkpoint(directory, device=device)
    if not isinstance(loaded.model, ScalarModel):
        raise CheckpointError(f"{directory} is not a reward model; train one with the {REWARD} stage first.")
    return loaded


def _build(
    kind: type[LanguageModel] | type[ScalarModel], config: ModelConfig, tensors: dict[str, Tensor], directory: Path
) -> LanguageModel | ScalarModel:
    """A model holding the tensors of a file, once their names and shapes are known to be right."""
    renamed = {re.sub(r"^score\.", "head.", re.sub(r"^model\.", "decoder.", n)): t for n, t in tensors.items()}
    head = renamed.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, renamed.get("decoder.embed_tokens.weight", torch.empty(0))):
        raise CheckpointError(f"{directory} has an untied output head; only tied embeddings are supported.")
    with torch.device("meta"):  # shapes only: a lying config.json must not make us allocate
        wanted = {name: parameter.shape for name, parameter in kind(config).named_parameters()}
    for name, shape in wanted.items():
        if name not in renamed:
            raise CheckpointError(f"{directory / WEIGHTS} lacks {name}.")
        if renamed[name].shape != shape:
            raise CheckpointError(
                f"{directory / WEIGHTS}: {name} has shape {list(renamed[name].shape)}, config.json says {list(shape)}."
            )
    if extra := sorted(set(renamed) - set(wanted)):
        raise CheckpointError(f"{directory / WEIGHTS} has weights this architecture does not: {', '.join(extra[:3])}.")
    model = kind(config)
    model.load_state_dict({name: tensor.float() for name, tensor in renamed.items()}, strict=False)
    return model


def _model_config(raw: Mapping[str, Any], directory: Path) -> ModelConfig:
    kind = raw.get("model_type")
    if kind != "llama":
        raise CheckpointError(f"{directory} holds a {kind or 'nameless'} model; only Llama-shaped ones are supported.")
    if not raw.get("tie_word_embeddings", False) and raw.get("architectures") == ["LlamaForCausalLM"]:
        raise CheckpointError(f"{directory} has an untied output head; only tied embeddings are supported.")
    rope = raw.get("rope_parameters") or {}
    if (raw.get("rope_scaling") or rope).get("rope_type", "default") != "default":
        raise CheckpointError(f"{directory} scales its rotary positions, which is not supported.")
    try:
        heads, width = int(raw["num_attention_heads"]), int(raw["hidden_size"])
        config = ModelConfig(
            vocab_size=int(raw["vocab_size"]),
            heads=heads,
            kv_heads=int(raw.get("num_key_value_heads") or heads),
            layers=int(raw["num_hidden_layers"]),
            ffn=int(raw["intermediate_size"]),
            context=int(raw["max_position_embeddings"]),
            head_dim=int(raw.get("head_dim") or width // heads),
            rope_theta=float(rope.get("rope_theta") or raw.get("rope_theta") or 10_000.0),
            norm_eps=float(raw.get("rms_norm_eps", 1e-5)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory / CONFIG} is incomplete or damaged: {error}.") from error
    if config.width != width:
        raise CheckpointError(f"{directory}: hidden_size {width} is not heads × head_dim = {config.width}.")
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} has no {path.name}; it is not a checkpoint directory.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} should hold a JSON object.")
    return value

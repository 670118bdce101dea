"""Checkpoints: Hugging Face model directories with lineage, written atomically.

The idea: a checkpoint directory *is* what `transformers` writes for a Llama, so the ecosystem loads
it as it is; `stage.json` adds where it came from and the hash of every file, and is written last.
A directory without it is unfinished and is never listed or loaded as ours.

Weights are only ever read from safetensors: a file format that cannot run code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from trainer import __version__
from trainer.config import REWARD, STAGES, ModelConfig
from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.model.roles import TOKENIZER
from trainer.model.tokenizer import Tokenizer
from trainer.presets import answer_tokens_of
from trainer.runtime.files import changed_file, sha256_file, write_atomic
from trainer.runtime.reading import read_bytes

WEIGHTS, CONFIG, STAGE = "model.safetensors", "config.json", "stage.json"

WEIGHT_TYPES: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""What weights may be stored as; whole numbers and 8-bit floats mean nothing without scales we do not read."""
LARGEST_SIZE: Final = 10**9
"""Of any number in config.json: a larger one is a lie, and products of larger ones overflow."""
LARGEST_JSON_BYTES: Final = 32 * 2**20
LARGEST: Final = {"max_position_embeddings": 2**18, "num_hidden_layers": 1000}
"""What no tensor's shape can contradict, and what must be bounded because memory follows from it."""


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


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, because no browser reads them."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


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
        generation = tokenizer.generation_config(max_new_tokens=answer_tokens_of(info))
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
    """stage.json of a finished checkpoint of ours; CheckpointError when it is missing, damaged or names no stage."""
    path = Path(directory) / STAGE
    if not path.is_file():
        raise CheckpointError(f"{directory} has no stage.json: it is unfinished, or not one of our checkpoints.")
    info = read_json(path)
    if info.get("stage") not in STAGES:
        raise CheckpointError(f"{path} names no stage that we know ({info.get('stage')!r:.60}). Restore or retrain it.")
    return info


def read_shape(directory: Path) -> ModelConfig:
    """The model's shape as config.json has it; CheckpointError for one that cannot be honoured."""
    return _model_config(read_json(Path(directory) / CONFIG), Path(directory))


def load_checkpoint(directory: Path, *, device: str | torch.device = "cpu") -> Loaded:
    """Load any Llama-shaped checkpoint directory, ours or not.

    Raises CheckpointError naming the problem: no such directory, another architecture or shape than its
    config.json can mean, weights in a format that could run code or that are no finite numbers, a damaged or
    incomplete file, weights, shape or tokenizer that are not those stage.json describes.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory.")
    config_json = read_json(directory / CONFIG)
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
    info = read_info(directory) if (directory / STAGE).is_file() else {}
    if changed := changed_file(directory, _recorded_hashes(info, directory)):
        raise CheckpointError(f"{changed} is not the file stage.json describes. Restore or retrain it.")
    is_reward = architectures == ["LlamaForSequenceClassification"]
    if is_reward and config_json.get("num_labels", 1) != 1:
        raise CheckpointError(f"{directory} has several labels; a reward model gives one number (num_labels 1).")
    model = _build(ScalarModel if is_reward else LanguageModel, config, tensors, directory).to(device)
    if isinstance(model, ScalarModel):
        model.bias.fill_(_score_bias(info, directory))
    try:
        tokenizer = Tokenizer.load(directory)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(f"{directory}: the tokenizer has more entries than the model's vocabulary.")
    return Loaded(model, tokenizer, info)


def load_reward_model(
    directory: Path, *, device: str | torch.device = "cpu", tokenizer: Tokenizer | None = None
) -> Loaded:
    """`load_checkpoint` that refuses everything but a reward model, and one that reads other ids than `tokenizer`'s."""
    loaded = load_checkpoint(directory, device=device)
    if not isinstance(loaded.model, ScalarModel):
        raise CheckpointError(f"{directory} is not a reward model; train one with the {REWARD} stage first.")
    if tokenizer is not None and loaded.tokenizer.backend.to_str() != tokenizer.backend.to_str():
        raise CheckpointError(f"{directory} has another tokenizer than the parent; train a reward model from this one.")
    return loaded


def _build(
    kind: type[LanguageModel] | type[ScalarModel], config: ModelConfig, tensors: dict[str, Tensor], directory: Path
) -> LanguageModel | ScalarModel:
    """A model holding the tensors of a file, once their names and shapes are known to be right."""
    _check_values(tensors, directory)
    renamed = {re.sub(r"^score\.", "head.", re.sub(r"^model\.", "decoder.", n)): t for n, t in tensors.items()}
    head = renamed.pop("lm_head.weight", None)
    embedding = renamed.get("decoder.embed_tokens.weight", torch.empty(0))
    if head is not None and not torch.equal(head.float(), embedding.float()):
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


def _check_values(tensors: Mapping[str, Tensor], directory: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in WEIGHT_TYPES:
            kinds = ", ".join(str(kind).removeprefix("torch.") for kind in WEIGHT_TYPES)
            found = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{directory / WEIGHTS}: {name} is stored as {found}; convert it to one of {kinds}.")
        if not torch.isfinite(tensor.float()).all():
            raise CheckpointError(
                f"{directory / WEIGHTS}: {name} holds values that are not finite. Restore or retrain it."
            )


def _recorded_hashes(info: Mapping[str, Any], directory: Path) -> dict[str, str | None]:
    """What stage.json says of the files that are read here, where it does."""
    hashes = info.get("files_sha256") or {}
    if not isinstance(hashes, dict):
        raise CheckpointError(f"{directory / STAGE}: files_sha256 should map names to hashes. Restore it.")
    recorded = {WEIGHTS: info.get("weights_sha256"), CONFIG: hashes.get(CONFIG), TOKENIZER: hashes.get(TOKENIZER)}
    return {name: sha256 for name, sha256 in recorded.items() if sha256}


def _score_bias(info: Mapping[str, Any], directory: Path) -> float:
    bias = info.get("score_bias", 0.0)
    if not isinstance(bias, int | float) or not abs(bias) < LARGEST_SIZE:
        raise CheckpointError(f"{directory / STAGE}: score_bias should be a number, not {bias!r:.60}. Restore it.")
    return float(bias)


def _model_config(raw: Mapping[str, Any], directory: Path) -> ModelConfig:
    kind = raw.get("model_type")
    if kind != "llama":
        raise CheckpointError(f"{directory} holds a {kind or 'nameless'} model; only Llama-shaped ones are supported.")
    if not raw.get("tie_word_embeddings", False) and raw.get("architectures") == ["LlamaForCausalLM"]:
        raise CheckpointError(f"{directory} has an untied output head; only tied embeddings are supported.")
    if (act := raw.get("hidden_act", "silu")) != "silu":
        raise CheckpointError(f"{directory} gates its feed-forward with {act!r:.60}; only silu is supported.")
    rope = _rope(raw, directory)
    try:
        heads, width = _size(raw, "num_attention_heads"), _size(raw, "hidden_size")
        config = ModelConfig(
            vocab_size=_size(raw, "vocab_size"),
            heads=heads,
            kv_heads=_size(raw, "num_key_value_heads", default=heads),
            layers=_size(raw, "num_hidden_layers"),
            ffn=_size(raw, "intermediate_size"),
            context=_size(raw, "max_position_embeddings"),
            head_dim=_size(raw, "head_dim", default=width // heads),
            rope_theta=_first(rope.get("rope_theta"), raw.get("rope_theta"), 10_000.0),
            norm_eps=_first(raw.get("rms_norm_eps"), 1e-6),
        )
    except ValueError as error:
        raise CheckpointError(f"{directory / CONFIG} is incomplete or damaged: {error}") from error
    if config.width != width:
        raise CheckpointError(f"{directory}: hidden_size {width} is not heads × head_dim = {config.width}.")
    return config


def _first(*values: Any) -> Any:
    """The first value that is there."""
    return next(value for value in values if value is not None)


def _size(raw: Mapping[str, Any], name: str, *, default: int | None = None) -> int:
    """A whole number from 1 to what it may be; `default` stands in for null and for nothing."""
    value = default if raw.get(name) is None else raw[name]
    largest = LARGEST.get(name, LARGEST_SIZE)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise ValueError(f"{name} must be a whole number from 1 to {largest}, not {value!r:.60}.")
    return value


def _rope(raw: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """`rope_parameters`, once neither it nor the older `rope_scaling` says that positions are scaled.

    The kind stands under "rope_type", in older files under "type".
    """
    rope: dict[str, Any] = raw.get("rope_parameters") or {}
    for scaling in (raw.get("rope_scaling") or {}, rope):
        is_plain = isinstance(scaling, dict) and scaling.get("rope_type", scaling.get("type", "default")) == "default"
        if not is_plain:
            raise CheckpointError(f"{directory} scales its rotary positions, which is not supported.")
    return rope


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; CheckpointError when it is missing or holds something else."""
    try:
        if not path.exists():
            raise CheckpointError(f"{path.parent} has no {path.name}; it is not a checkpoint directory.")
        value = json.loads(read_bytes(path, most=LARGEST_JSON_BYTES).decode())
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} should hold a JSON object.")
    return value

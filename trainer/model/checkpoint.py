"""Checkpoints: Hugging Face model directories with lineage, written atomically.

The idea: a checkpoint directory *is* what `transformers` writes for a model of its family, so the ecosystem loads
it as it is; `stage.json` adds where it came from and the hash of every file, and is written last.
A directory without it is unfinished or comes from elsewhere. What came from elsewhere is saved as it came: its
config.json, the names of its tensors and what they were stored as.

Weights are only ever read from safetensors: a file format that cannot run code. They are read one tensor at a time,
into a model that holds nothing yet, so that loading takes the memory of the model once.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from trainer import __version__
from trainer.config import REWARD, STAGES, ModelConfig, Source, check_stage
from trainer.model.adapters import rounded
from trainer.model.decoder import LanguageModel, ScalarModel, effective_weight
from trainer.model.families import EMBEDDING, HEAD, architecture_of, config_json_of, our_name, tensor_shapes
from trainer.model.layout import (
    DTYPE_NAMES,
    WEIGHTS,
    Layout,
    changed_since,
    guess_stage,
    is_unfinished,
    read_layout,
    read_object,
    untied_head,
    weights_sha256,
)
from trainer.model.roles import CONFIG
from trainer.model.tokenizer import Tokenizer
from trainer.presets import answer_tokens_of
from trainer.runtime import machine
from trainer.runtime.files import STAGE, sha256_file, write_atomic
from trainer.runtime.tensors import write_tensors

DTYPES: Final = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
LARGEST_BIAS: Final = 1e9
CHECKED_AT_ONCE: Final = 2**22
"""Numbers looked at together, so that the look takes little memory beside a large matrix."""


class CheckpointError(ValueError):
    """A directory that is not a usable checkpoint; the message says why."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory."""

    model: LanguageModel | ScalarModel
    """Its `config.source` holds what is needed to save it as it came."""
    tokenizer: Tokenizer
    info: dict[str, Any]
    """The contents of stage.json; of a model from elsewhere, its stage as guessed and the hash of its weights."""

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
    tensors = _as_it_came(model)
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            raise CheckpointError(f"{name} holds values that are not finite; nothing was saved.")
    write_tensors(directory / WEIGHTS, tensors, metadata={"format": "pt"})
    is_reward = isinstance(model, ScalarModel)
    pad_id = tokenizer.filler_id if is_reward else tokenizer.pad_id
    config_json = config_json_of(model.config, is_reward=is_reward, end_id=tokenizer.end_id, pad_id=pad_id)
    write_json(directory / CONFIG, config_json)
    tokenizer.save(directory)
    if isinstance(model, LanguageModel):
        generation = tokenizer.generation_config(max_new_tokens=answer_tokens_of(info))
        write_json(directory / "generation_config.json", generation)
    wanted = tensor_shapes(model.config, is_reward=is_reward)
    files = sorted(path.name for path in directory.iterdir() if path.is_file() and not path.name.startswith("."))
    hashes = {name: sha256_file(directory / name) for name in files if name != STAGE}
    record = {
        **info,
        "stage": stage,
        "parameters": sum(tensor.numel() for name, tensor in tensors.items() if name in wanted),
        "weights_sha256": hashes[WEIGHTS],
        "files_sha256": hashes,
        "code_version": __version__,
    }
    if isinstance(model, ScalarModel):
        record["score_bias"] = float(model.bias)
    write_json(directory / STAGE, record)
    return directory


def _as_it_came(model: LanguageModel | ScalarModel) -> dict[str, Tensor]:
    """The model's tensors by their names in a file, adapters merged in, stored as they were when it was read.

    What was learnt in float32 is rounded to bfloat16 as adapters are merged, so that steps too small for it are not
    all lost; numbers that bfloat16 has stay as they are.
    """
    config, source = model.config, model.config.source
    modules, tensors = dict(model.named_modules()), {}
    for name in tensor_shapes(config, is_reward=isinstance(model, ScalarModel)):
        path, _, kind = our_name(name).rpartition(".")
        module = modules[path]
        is_matrix = kind == "weight" and isinstance(module, nn.Linear)
        tensors[name] = effective_weight(module) if is_matrix else getattr(module, kind)
    if source is not None and source.has_copied_head and isinstance(model, LanguageModel):
        tensors[HEAD] = tensors[EMBEDDING].clone()
    stored = {} if source is None else source.other_dtypes
    usual = "float32" if source is None else source.dtype
    saved = {}
    for name, tensor in tensors.items():
        dtype, here = DTYPES[stored.get(name, usual)], tensor.detach().cpu()
        saved[name] = (rounded(here, dtype) if here.dtype == torch.float32 else here.to(dtype)).contiguous()
    return saved


def _is_finite(tensor: Tensor) -> bool:
    flat = tensor.reshape(-1)
    return all(bool(torch.isfinite(part).all()) for part in torch.split(flat, CHECKED_AT_ONCE))


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


def describe(directory: Path, *, stage: str | None = None) -> dict[str, Any]:
    """What a run records of a checkpoint it starts from: its stage.json, or what that of a foreign directory would be.

    `stage` says what a directory from elsewhere is; otherwise it is guessed as the site guesses it. CheckpointError
    for a directory of ours that is unfinished.
    """
    directory = Path(directory)
    if (directory / STAGE).is_file():
        info = read_info(directory)
        if stage not in (None, info["stage"]):
            raise CheckpointError(f"{directory} is a {info['stage']} checkpoint, as its {STAGE} says, not {stage}.")
        return info
    if is_unfinished(directory):
        raise CheckpointError(f"{directory} has no {STAGE}: it is unfinished. Let its run end first.")
    if stage is not None:
        check_stage(stage)
    try:
        guessed = guess_stage(directory, read_object(directory / CONFIG))
        if (stage == REWARD) != (guessed == REWARD) and stage is not None:
            raise ValueError(f"{directory} is no {stage} checkpoint: its config.json describes another kind of model.")
        return {"stage": stage or guessed, "weights_sha256": weights_sha256(directory), "metrics": {}}
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def read_shape(directory: Path) -> ModelConfig:
    """The model's shape as config.json has it; CheckpointError for one that cannot be honoured."""
    path = Path(directory) / CONFIG
    try:
        return architecture_of(read_json(path))
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged or not supported: {error}") from error


def load_checkpoint(
    directory: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = torch.float32
) -> Loaded:
    """Load any checkpoint directory of a family we know, ours or not; `dtype` None keeps what it is stored as.

    Raises CheckpointError naming the problem: no such directory, another architecture or shape than its
    config.json can mean, weights in a format that could run code or that are no finite numbers, a damaged or
    incomplete file, weights, shape or tokenizer that are not those stage.json describes.
    """
    return _load(_layout_of(directory), device=device, dtype=dtype)


def load_to_answer(directory: Path) -> Loaded:
    """`load_checkpoint` for whoever only asks the model: where this machine is quickest, and in the precision it is
    stored in if the machine is fast in that."""
    layout, where = _layout_of(directory), machine.device()
    machine.keep_few_shapes(layout.config.width)
    return _load(layout, device=where, dtype=machine.held_dtype(DTYPES[layout.dtype], layout.config.width, where))


def _layout_of(directory: Path) -> Layout:
    try:
        return read_layout(Path(directory))
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _load(layout: Layout, *, device: str | torch.device, dtype: torch.dtype | None) -> Loaded:
    directory = layout.directory
    try:
        info = describe(directory)
        is_ours = (directory / STAGE).is_file()  # of others `describe` has just taken the hash, and there is no other
        if is_ours and (changed := changed_since(directory, info)):
            raise CheckpointError(f"{changed} is not the file stage.json describes. Restore or retrain it.")
        model = _build(layout, device=torch.device(device), dtype=dtype)
        if isinstance(model, ScalarModel):
            model.bias = torch.tensor(_score_bias(info, directory), device=device)
        tokenizer = Tokenizer.load(directory)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return Loaded(model, tokenizer, info)


def load_reward_model(
    directory: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
    tokenizer: Tokenizer | None = None,
) -> Loaded:
    """`load_checkpoint` that refuses everything but a reward model, and one that reads other ids than `tokenizer`'s."""
    loaded = load_checkpoint(directory, device=device, dtype=dtype)
    if not isinstance(loaded.model, ScalarModel):
        raise CheckpointError(f"{directory} is not a reward model; train one with the {REWARD} stage first.")
    if tokenizer is not None:
        check_same_tokens(directory, loaded.tokenizer, tokenizer)
    return loaded


def check_same_tokens(directory: Path, found: Tokenizer, wanted: Tokenizer) -> None:
    """CheckpointError unless the reward model in `directory`, with the tokenizer `found`, reads the ids of `wanted`."""
    if found.backend.to_str() != wanted.backend.to_str():
        raise CheckpointError(f"{directory} has another tokenizer than the parent; train a reward model from this one.")


def _build(layout: Layout, *, device: torch.device, dtype: torch.dtype | None) -> LanguageModel | ScalarModel:
    """The model of a directory, its tensors read one at a time into a model without any."""
    source = _source(layout)
    if dtype is None:
        dtype = DTYPES[source.dtype]
        for name in source.other_dtypes.values():  # one dtype for all that loses nothing
            dtype = torch.promote_types(dtype, DTYPES[name])
    config = dataclasses.replace(layout.config, source=source)
    with torch.device("meta"):
        model = ScalarModel(config) if layout.is_reward else LanguageModel(config)
    wanted = tensor_shapes(config, is_reward=layout.is_reward)
    head = None
    for name, tensor in _tensors(layout, dtype):
        if name not in wanted:
            head = tensor
            continue
        path, _, kind = our_name(name).rpartition(".")
        setattr(model.get_submodule(path), kind, nn.Parameter(tensor.to(device)))
    if head is not None and not torch.equal(head, model.decoder.embed_tokens.weight.detach().cpu()):
        raise CheckpointError(untied_head(layout.directory))
    return model


def _source(layout: Layout) -> Source:
    dtypes, usual = {name: DTYPE_NAMES[one.dtype] for name, one in layout.tensors.items()}, layout.dtype
    return Source(
        config_json=layout.config_json,
        dtype=usual,
        other_dtypes={name: dtype for name, dtype in dtypes.items() if dtype != usual},
        has_copied_head=layout.has_copied_head,
    )


def _tensors(layout: Layout, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a directory as `dtype`, once its values are known to be finite."""
    for file in layout.weight_files:
        path = layout.directory / file
        try:
            with safe_open(path, framework="pt") as opened:
                for name in (name for name, one in layout.tensors.items() if one.file == file):
                    # A copy of our own: what it gives is the file itself, and a file may be cut off while we read.
                    tensor = opened.get_tensor(name).to(dtype, copy=True)
                    if not _is_finite(tensor):
                        raise CheckpointError(
                            f"{path}: {name} holds values that are not finite. Restore or retrain it."
                        )
                    yield name, tensor
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged: {error}. Restore or retrain it.") from error


def _score_bias(info: Mapping[str, Any], directory: Path) -> float:
    bias = info.get("score_bias", 0.0)
    if not isinstance(bias, int | float) or not abs(bias) < LARGEST_BIAS:
        raise CheckpointError(f"{directory / STAGE}: score_bias should be a number, not {bias!r:.60}. Restore it.")
    return float(bias)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; CheckpointError when it is missing or holds something else."""
    try:
        return read_object(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error

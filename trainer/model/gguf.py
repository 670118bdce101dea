"""A .gguf file to a Hugging Face directory, and a directory to a .gguf file.

The idea: a GGUF file (what llama.cpp reads) holds everything a Hugging Face directory does, under other names and
mostly quantised. `convert` checks the head of the file (`gguf_file`), writes its values as config.json, its tokens as
tokenizer.json (`gguf_tokens`), and its tensors, one piece of one tensor at a time, as model.safetensors; `write` goes
the other way. Neither holds a model in memory, and both put a finished thing in place or nothing.

What a converted model is stored as. A file of float32, float16 or bfloat16 stays what most of its numbers are; rows by
themselves (norms, biases), which every such file has in float32, become the same where that loses nothing. Quantised
numbers become bfloat16: half the size of float32, as wide a range (float16 ends at 65,504 and loses digits below
0.00006), and what processors multiply quickly. It rounds by at most 1/512 of a number, while Q4_1 is off by up to half
a step of 1/15 of a block's range and Q8_0 by half of 1/127 of it: what is lost was noise before. (SmolLM2-135M at Q4_1:
0.00006 nats a token between the two, and the same loss on text to three digits.)

Rows of the q and k projections of Llama (and SmolLM3) lie otherwise in GGUF: llama.cpp turns neighbouring pairs,
Hugging Face halves. Qwen's lie as they are.

    convert(Path("SmolLM2.gguf"), Path("smollm2"));  write(Path("smollm2"), Path("again.gguf"), dtype="bfloat16")
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

from trainer.config import ModelConfig
from trainer.model.gguf_file import GGUFHead, TensorPlace, read_head
from trainer.model.gguf_tokens import WHOLE, read_tokenizer_of, tokenizer_values
from trainer.model.layout import DTYPE_NAMES, Layout, read_layout
from trainer.model.roles import read_roles
from trainer.model.tokenizer_rules import read_tokenizer
from trainer.runtime.files import appearing, check_room, replacing
from trainer.runtime.reading import open_file

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes there are."""

CHUNK_NUMBERS: Final = 2**22
"""Of a tensor that are unpacked at a time: 16 MB of float32."""
LARGEST_JSON_BYTES: Final = 64 * 2**20
ARCHITECTURES: Final = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "smollm3": ("smollm3", "SmolLM3ForCausalLM"),
}
"""GGUF's name of each: Hugging Face's model type, and class."""
PERMUTED: Final = ("llama", "smollm3")
NO_ROPE_EVERY: Final = 4
"""SmolLM3: each fourth layer has no rotary positions; a GGUF file does not say so, llama.cpp knows."""
LLAMA3_SCALINGS: Final = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192))
"""(factor, low_freq_factor, high_freq_factor, original context) of Llama 3.1 and 3.2. A GGUF file has the divisors
that follow from them and not the figures."""
DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_STORED: Final = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
_KINDS: Final = {"float32": Kind.F32, "float16": Kind.F16, "bfloat16": Kind.BF16}
_PLAIN: Final = {kind: dtype for dtype, kind in _KINDS.items()}


def readable_kinds() -> dict[int, tuple[int, int]]:
    """Numbers in a block and its bytes, for each kind that the gguf package unpacks."""
    kinds = {Kind.F32, Kind.F16, *gguf.quants._type_traits}
    return {int(kind): gguf.GGML_QUANT_SIZES[kind] for kind in kinds}


# --- In ----------------------------------------------------------------------------------------------


def convert(path: Path, directory: Path, *, progress: Progress = lambda done, of: None) -> Path:
    """Write the model in a .gguf file as the new Hugging Face directory `directory`, which appears whole or not at all.

    ValueError, in one sentence that says what to do: a file cut off or lying, an architecture, rotary scaling or
    tokenizer that is not known here, tensors other than its values demand, too little room on the disk.
    """
    path, directory = Path(path), Path(directory)
    if directory.exists():
        raise ValueError(f"{directory} exists already; name a directory that does not.")
    head = read_head(path, readable_kinds())
    shape = _shape_of(head)
    dtype = _dtype_for(head)
    wanted = _tensors_of(head, shape)
    tokenizer = read_tokenizer_of(head, rows=shape["vocab_size"], context=shape["max_position_embeddings"])
    config = _config(head, shape, dtype, tokenizer.ids)
    generation: dict[str, Any] = {
        name: value
        for name, value in (
            ("bos_token_id", tokenizer.ids["bos"]),
            ("eos_token_id", list(tokenizer.end_ids)),
            ("pad_token_id", tokenizer.ids["pad"]),
        )
        if value not in (None, [])
    }
    with appearing(directory) as incoming:
        (incoming / "tokenizer.json").write_bytes(tokenizer.tokenizer)
        try:
            read_tokenizer(incoming / "tokenizer.json")
        except ValueError as error:
            reason = str(error).replace(str(incoming / "tokenizer.json"), f"The tokenizer in {path}")
            raise ValueError(reason) from error
        for name, content in (
            ("config.json", config),
            ("tokenizer_config.json", tokenizer.config),
            ("generation_config.json", generation),
        ):
            (incoming / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if card := _card(head):
            (incoming / "README.md").write_text(card, encoding="utf-8")
        _write_safetensors(head, wanted, dtype, incoming / "model.safetensors", progress)
    return directory


def _shape_of(head: GGUFHead) -> dict[str, Any]:
    """The fields of config.json that say how large everything is, from the values of the file."""
    architecture = head.text("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{head.path} holds a model of architecture {architecture or 'unknown'!r:.60}; "
            f"{', '.join(ARCHITECTURES)} are read."
        )

    def size(name: str, default: int | None = None) -> int:
        return head.size(f"{architecture}.{name}", default)

    if head.values.get(f"{architecture}.expert_count"):
        raise ValueError(f"{head.path} holds a mixture of experts; only models without them are read.")
    if f"{architecture}.attention.sliding_window" in head.values:
        raise ValueError(f"{head.path} has a sliding window; import its Hugging Face directory instead.")
    width, heads = size("embedding_length"), size("attention.head_count")
    head_dim = size("attention.key_length", max(width // heads, 1))
    if head_dim != size("attention.value_length", head_dim) or head_dim != size("rope.dimension_count", head_dim):
        raise ValueError(f"{head.path} turns a part of each head, or has values of another width; neither is read.")
    embedding = head.tensors.get("token_embd.weight")
    if embedding is None:
        raise ValueError(f"{head.path} has no tensor token_embd.weight: it is not a whole model.")
    layers = size("block_count")
    if layers > 1000:
        raise ValueError(f"{head.path} claims {layers} layers.")
    return {
        "vocab_size": embedding.shape[0],
        "hidden_size": width,
        "intermediate_size": size("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": size("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": size("context_length"),
        "rms_norm_eps": _short_number(head.number(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-6)),
        "tie_word_embeddings": "output.weight" not in head.tensors,
        "attention_bias": "blk.0.attn_q.bias" in head.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in head.tensors,
    }


def _short_number(value: float) -> float:
    """The decimal somebody meant, where the file has its nearest float32 (9.999999747378752e-06 for 1e-05)."""
    return float(str(np.float32(value)))


def _config(head: GGUFHead, shape: Mapping[str, Any], dtype: str, ids: Mapping[str, int | None]) -> dict[str, Any]:
    architecture = head.text("general.architecture")
    model_type, model_class = ARCHITECTURES[architecture]
    biases = {name: shape[name] for name in ("attention_bias", "mlp_bias")}
    config = {
        "architectures": [model_class],
        "model_type": model_type,
        "hidden_act": "silu",
        **{name: value for name, value in shape.items() if name not in biases},
        "rope_theta": _short_number(head.number(f"{architecture}.rope.freq_base", 10_000.0)),
        "rope_scaling": _rope_scaling(head, shape),
        "bos_token_id": ids["bos"],
        "eos_token_id": ids["eos"],
        "pad_token_id": ids["pad"],
        "torch_dtype": dtype,
    }
    if model_type == "qwen3":
        config["attention_bias"] = shape["attention_bias"]
    elif model_type != "qwen2":
        config |= biases
    if model_type == "smollm3":
        layers = range(1, shape["num_hidden_layers"] + 1)
        config["no_rope_layers"] = [int(layer % NO_ROPE_EVERY != 0) for layer in layers]
        config["no_rope_layer_interval"] = NO_ROPE_EVERY
    return config


def _rope_scaling(head: GGUFHead, shape: Mapping[str, Any]) -> dict[str, Any] | None:
    architecture = head.text("general.architecture")
    kind = head.text(f"{architecture}.rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise ValueError(f"{head.path} scales rotary positions by {kind!r:.60}; none, linear and llama3 are read.")
    if "rope_freqs.weight" in head.tensors:
        return _llama3_scaling(head, shape)
    factor = head.number(f"{architecture}.rope.scaling.factor", 1.0)
    return {"rope_type": "linear", "factor": factor} if kind == "linear" else None


def _llama3_scaling(head: GGUFHead, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Which of the scalings we know gives the divisors in the file."""
    place = head.tensors["rope_freqs.weight"]
    if place.kind != Kind.F32 or place.shape != (shape["head_dim"] // 2,):
        raise ValueError(f"{head.path} is damaged: rope_freqs.weight does not have a number for each rotary pair.")
    with open_file(head.path) as file:
        found = torch.from_numpy(_values(file, place, 0, place.shape[0])).double()
    theta = head.number(f"{head.text('general.architecture')}.rope.freq_base", 10_000.0)
    for factor, low, high, context in LLAMA3_SCALINGS:
        if torch.allclose(found, llama3_divisors(shape["head_dim"], theta, factor, low, high, context), rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": context,
            }
    raise ValueError(f"{head.path} scales its rotary positions in a way that is neither Llama 3.1's nor 3.2's.")


def llama3_divisors(head_dim: int, theta: float, factor: float, low: float, high: float, context: int) -> Tensor:
    """By how much each rotary frequency is divided [head_dim / 2]: slow ones by `factor`, quick ones not at all.

    https://github.com/meta-llama/llama-models/blob/main/models/llama3/reference_impl/model.py (apply_scaling)
    """
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    turns = context * frequency / (2 * torch.pi)
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def _dtype_for(head: GGUFHead) -> str:
    """What most numbers in matrices are stored as; quantised ones become bfloat16."""
    sizes: Counter[str] = Counter()
    for place in head.tensors.values():
        if len(place.shape) > 1:
            sizes[_PLAIN.get(Kind(place.kind), "bfloat16")] += place.nbytes
    return sizes.most_common(1)[0][0] if sizes else "float32"


@dataclass(frozen=True)
class _Wanted:
    """One tensor of the directory: which of the file's it is, and its shape."""

    name: str
    source: str
    shape: tuple[int, ...]
    heads: int = 0
    """Of how many heads its rows must be put in Hugging Face's order; 0 when they are."""


def _names(architecture: str, shape: Mapping[str, Any]) -> Iterator[_Wanted]:
    """Every tensor of a model, by both names, with the shape it must have."""
    width, ffn, vocabulary = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    heads, kv_heads, head_dim = shape["num_attention_heads"], shape["num_key_value_heads"], shape["head_dim"]
    q, kv = heads * head_dim, kv_heads * head_dim
    turned = architecture in PERMUTED
    yield _Wanted("model.embed_tokens.weight", "token_embd.weight", (vocabulary, width))
    for layer in range(shape["num_hidden_layers"]):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        yield _Wanted(f"{ours}.input_layernorm.weight", f"{theirs}.attn_norm.weight", (width,))
        for name, source, rows, columns, rotary in (
            ("q_proj", "attn_q", q, width, heads),
            ("k_proj", "attn_k", kv, width, kv_heads),
            ("v_proj", "attn_v", kv, width, 0),
            ("o_proj", "attn_output", width, q, 0),
        ):
            order = rotary if turned else 0
            yield _Wanted(f"{ours}.self_attn.{name}.weight", f"{theirs}.{source}.weight", (rows, columns), order)
            if shape["attention_bias"] and not (architecture == "qwen2" and name == "o_proj"):
                yield _Wanted(f"{ours}.self_attn.{name}.bias", f"{theirs}.{source}.bias", (rows,), order)
        if architecture == "qwen3":
            yield _Wanted(f"{ours}.self_attn.q_norm.weight", f"{theirs}.attn_q_norm.weight", (head_dim,))
            yield _Wanted(f"{ours}.self_attn.k_norm.weight", f"{theirs}.attn_k_norm.weight", (head_dim,))
        yield _Wanted(f"{ours}.post_attention_layernorm.weight", f"{theirs}.ffn_norm.weight", (width,))
        for name, source, rows, columns in (
            ("gate_proj", "ffn_gate", ffn, width),
            ("up_proj", "ffn_up", ffn, width),
            ("down_proj", "ffn_down", width, ffn),
        ):
            yield _Wanted(f"{ours}.mlp.{name}.weight", f"{theirs}.{source}.weight", (rows, columns))
            if shape["mlp_bias"]:
                yield _Wanted(f"{ours}.mlp.{name}.bias", f"{theirs}.{source}.bias", (rows,))
    yield _Wanted("model.norm.weight", "output_norm.weight", (width,))
    if not shape["tie_word_embeddings"]:
        yield _Wanted("lm_head.weight", "output.weight", (vocabulary, width))


def _tensors_of(head: GGUFHead, shape: Mapping[str, Any]) -> list[_Wanted]:
    """The tensors of the directory, each in the file with the shape the file's values give it, and no others there."""
    wanted = list(_names(head.text("general.architecture"), shape))
    for one in wanted:
        place = head.tensors.get(one.source)
        if place is None:
            raise ValueError(f"{head.path} lacks {one.source}: it is not a whole model. Fetch it again.")
        if place.shape != one.shape:
            raise ValueError(
                f"{head.path}: {one.source} has the shape {list(place.shape)}, the file's values say "
                f"{list(one.shape)}. Fetch it again."
            )
        if one.heads and one.shape[0] % (2 * one.heads):
            raise ValueError(f"{head.path}: the heads of {one.source} have an odd width, which cannot be turned.")
    if extra := sorted(set(head.tensors) - {one.source for one in wanted} - {"rope_freqs.weight"}):
        raise ValueError(f"{head.path} has tensors that its architecture has not: {', '.join(extra[:3])[:200]}.")
    return wanted


def _write_safetensors(head: GGUFHead, wanted: list[_Wanted], dtype: str, target: Path, progress: Progress) -> None:
    """https://github.com/huggingface/safetensors#format: the length of the header, the header, the numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    total = 0
    dtypes = {one.name: _dtype_of(head, one, dtype) for one in wanted}
    for one in wanted:
        stored, width = _STORED[dtypes[one.name]]
        size = int(np.prod(one.shape, dtype=np.int64)) * width
        header[one.name] = {"dtype": stored, "shape": list(one.shape), "data_offsets": [total, total + size]}
        total += size
    check_room(target.parent, total, f"the model in {head.path}")
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    done = 0
    progress(0, total)
    with open_file(head.path) as source, target.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for one in wanted:
            for values in _pieces(source, head.tensors[one.source], one.heads):
                tensor = torch.from_numpy(values).to(DTYPES[dtypes[one.name]])
                if not torch.isfinite(tensor).all():
                    raise ValueError(f"{head.path}: {one.source} holds numbers that are not finite. Fetch it again.")
                done += file.write(tensor.view(torch.uint8).numpy().data)
                progress(done, total)
        file.flush()
        os.fsync(file.fileno())


def _dtype_of(head: GGUFHead, one: _Wanted, dtype: str) -> str:
    """`dtype`; for a single row that it cannot hold exactly the row's own."""
    place = head.tensors[one.source]
    own = _PLAIN.get(Kind(place.kind))
    if len(one.shape) > 1 or own is None or own == dtype:
        return dtype
    with open_file(head.path) as file:
        values = torch.from_numpy(_values(file, place, 0, 1))
    return dtype if torch.equal(values.to(DTYPES[dtype]).float(), values) else own


def _pieces(source: IO[bytes], place: TensorPlace, heads: int) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
    """The numbers of a tensor from its first row to its last, some rows at a time."""
    rows = place.shape[0] if len(place.shape) > 1 or heads else 1
    if heads:  # whole heads belong together: the largest such tensor has 8,192 rows of 16,384 numbers
        order = _turned_back(rows, heads)
        values = _values(source, place, 0, rows).reshape(rows, -1)
        yield np.ascontiguousarray(values[order]).reshape(-1)
        return
    step = max(1, CHUNK_NUMBERS * rows // int(np.prod(place.shape, dtype=np.int64)))
    for start in range(0, rows, step):
        yield _values(source, place, start, min(start + step, rows), rows)


def _turned_back(rows: int, heads: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each row of Hugging Face's order the row it has in the file: halves out of neighbouring pairs."""
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _turned(rows: int, heads: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The inverse: for each row of the file the one it has in Hugging Face's order."""
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def _values(
    source: IO[bytes], place: TensorPlace, start: int, stop: int, rows: int | None = None
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows `start` to `stop` of `rows`, unpacked to float32, in one line."""
    row_bytes = place.nbytes // (rows or stop)
    source.seek(place.offset + start * row_bytes)
    data = source.read((stop - start) * row_bytes)
    if len(data) != (stop - start) * row_bytes:
        raise ValueError(f"{place.name} was cut off while it was read. Fetch the file again.")
    kind = Kind(place.kind)
    if kind == Kind.F32:
        return np.frombuffer(data, np.float32).copy()
    if kind == Kind.F16:
        return np.frombuffer(data, np.float16).astype(np.float32)
    packed = np.frombuffer(data, np.uint8).reshape(stop - start, row_bytes)
    with np.errstate(all="ignore"):  # a damaged scale becomes inf, which is refused by name
        return np.ascontiguousarray(gguf.quants.dequantize(packed, kind), np.float32).reshape(-1)


def _card(head: GGUFHead) -> str:
    """A model card with what the file says of its name, licence and source; empty where it says nothing."""
    known = {
        "model_name": head.text("general.name"),
        "license": head.text("general.license"),
        "license_name": head.text("general.license.name"),
        "license_link": head.text("general.license.link"),
        "source": head.text("general.source.url") or head.text("general.repo_url") or head.text("general.url"),
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in known.items() if value]
    return "\n".join(["---", *lines, "---", "", "Converted from a GGUF file.", ""]) if lines else ""


# --- Out ---------------------------------------------------------------------------------------------

_FILE_TYPES: Final = {"float32": 0, "float16": 1, "bfloat16": 32}
"""The format's number for a file of each."""
_ENDS: Final = ("eos", "eot", "eom")
"""The format's names for what ends an answer, first to last."""


def write(
    directory: Path,
    path: Path,
    *,
    dtype: str | None = None,
    name: str = "",
    licence: str = "",
    progress: Progress = lambda done, of: None,
) -> Path:
    """Write the language model in a Hugging Face directory as the new .gguf file `path`, whole or not at all.

    Matrices are stored as `dtype` (float32, float16 or bfloat16; None is what the directory has, float16 where that is
    float32), single rows (norms, biases) as float32, as llama.cpp wants them. ValueError for a model a GGUF file has no
    place for, or whose numbers `dtype` cannot hold.
    """
    directory, path = Path(directory), Path(path)
    if path.exists():
        raise ValueError(f"{path} exists already; name a file that does not.")
    layout = read_layout(directory)
    if dtype is None:
        dtype = "bfloat16" if layout.tensors["model.embed_tokens.weight"].dtype == "BF16" else "float16"
    if dtype not in DTYPES:
        raise ValueError(f"A GGUF file is written as {', '.join(DTYPES)}, not as {dtype!r:.60}.")
    architecture, shape = _shape_in(layout)
    wanted = list(_names(architecture, shape))
    values = _values_for(layout, architecture, dtype)
    values |= {"general.name": name or directory.resolve().name, "general.license": licence}
    sizes = {one.name: math.prod(one.shape) * (4 if len(one.shape) == 1 else _STORED[dtype][1]) for one in wanted}
    total, done = sum(sizes.values()), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    check_room(path.parent, total, path.name)
    progress(0, total)
    temporary = path.with_name(f".{path.name}.tmp")
    writer = gguf.GGUFWriter(temporary, architecture)
    try:
        with replacing(path):
            for key, value in values.items():
                _add(writer, key, value)
            scaling = _divisors_of(layout.config)
            if scaling is not None:
                writer.add_tensor_info("rope_freqs.weight", scaling.shape, scaling.dtype, scaling.nbytes)
            for one in wanted:
                kind = Kind.F32 if len(one.shape) == 1 else _KINDS[dtype]
                writer.add_tensor_info(one.source, one.shape, np.dtype(np.float32), sizes[one.name], raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            if scaling is not None:
                writer.write_tensor_data(scaling)
            for one in wanted:
                writer.write_tensor_data(_as_written(layout, one, dtype))
                done += sizes[one.name]
                progress(done, total)
            writer.close()
    except BaseException:
        writer.close()
        temporary.unlink(missing_ok=True)
        raise
    return path


def _shape_in(layout: Layout) -> tuple[str, dict[str, Any]]:
    """GGUF's name of a model's architecture, and its sizes as `_names` wants them; ValueError where it has no place."""
    model, directory = layout.config, layout.directory
    if layout.is_reward:
        raise ValueError(
            f"{directory} is a reward model, which scores text; a GGUF file here holds one that writes it."
        )
    architecture = "llama" if model.family == "mistral" else model.family
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{directory} holds a {model.family} model, which no GGUF file has a place for here.")
    if model.windowed:
        raise ValueError(f"{directory} has a sliding window, which a GGUF file of its kind cannot say.")
    plain = range(NO_ROPE_EVERY - 1, model.layers, NO_ROPE_EVERY) if architecture == "smollm3" else ()
    if tuple(model.unrotated) != tuple(plain):
        raise ValueError(f"{directory} leaves other layers without positions than llama.cpp does.")
    if model.o_bias and architecture.startswith("qwen"):
        raise ValueError(f"{directory} has biases that a GGUF file of its kind has no place for.")
    return architecture, {
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "intermediate_size": model.ffn,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "tie_word_embeddings": model.is_tied,
        "attention_bias": model.qkv_bias,
        "mlp_bias": model.mlp_bias,
    }


def _values_for(layout: Layout, architecture: str, dtype: str) -> dict[str, Any]:
    """What the file says of the model and its tokenizer, beside its architecture."""
    model, roles = layout.config, read_roles(layout.directory)
    tokenizer = roles.files["tokenizer.json"].decode()
    text = tokenizer_values(json.loads(tokenizer), rows=model.vocab_size)
    values: dict[str, Any] = {
        "general.type": "model",
        "general.file_type": _FILE_TYPES[dtype],
        f"{architecture}.vocab_size": model.vocab_size,
        f"{architecture}.context_length": model.context,
        f"{architecture}.embedding_length": model.width,
        f"{architecture}.block_count": model.layers,
        f"{architecture}.feed_forward_length": model.ffn,
        f"{architecture}.attention.head_count": model.heads,
        f"{architecture}.attention.head_count_kv": model.kv_heads,
        f"{architecture}.attention.key_length": model.head_dim,
        f"{architecture}.attention.value_length": model.head_dim,
        f"{architecture}.attention.layer_norm_rms_epsilon": float(model.norm_eps),
        f"{architecture}.rope.dimension_count": model.head_dim,
        f"{architecture}.rope.freq_base": float(model.rope_theta),
        "tokenizer.ggml.model": text.kind,
        "tokenizer.ggml.pre": text.pre,
        "tokenizer.ggml.tokens": text.tokens,
        "tokenizer.ggml.token_type": text.types,
        "tokenizer.ggml.merges": text.merges,
        "tokenizer.ggml.scores": text.scores,
        "tokenizer.ggml.add_bos_token": bool(roles.document_start),
        "tokenizer.ggml.add_space_prefix": text.add_space_prefix,
        "tokenizer.ggml.bos_token_id": roles.named("bos_token"),
        "tokenizer.ggml.padding_token_id": roles.pad,
        "tokenizer.ggml.unknown_token_id": text.unknown,
        **{f"tokenizer.ggml.{name}_token_id": id for name, id in zip(_ENDS, roles.ends, strict=False)},
        "tokenizer.chat_template": roles.template,
        WHOLE: tokenizer,
    }
    if model.rope_scaling is not None and model.rope_scaling.kind == "linear":
        values[f"{architecture}.rope.scaling.type"] = "linear"
        values[f"{architecture}.rope.scaling.factor"] = float(model.rope_scaling.factor)
    return values


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """One value, under the kind the format has for it; nothing for one that is not there."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif value and isinstance(value, str):
        writer.add_string(key, value)
    elif value:
        writer.add_array(key, value)


def _divisors_of(model: ModelConfig) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """What a file holds in place of llama3's scaling; None without it."""
    scaling = model.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return None
    figures = (scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_context)
    return llama3_divisors(model.head_dim, model.rope_theta, *figures).float().numpy()


def _as_written(layout: Layout, one: _Wanted, dtype: str) -> np.ndarray[Any, Any]:
    """A tensor of the directory as the file has it; ValueError where `dtype` cannot hold it."""
    place = layout.tensors[one.name]
    with open_file(layout.directory / place.file) as file:
        file.seek(place.start)
        data = bytearray(file.read(place.stop - place.start))
    tensor = torch.frombuffer(data, dtype=getattr(torch, DTYPE_NAMES[place.dtype])).reshape(one.shape)
    if one.heads:
        tensor = tensor[torch.from_numpy(_turned(one.shape[0], one.heads))]
    stored = tensor.to(torch.float32 if tensor.dim() == 1 else DTYPES[dtype])
    if not torch.isfinite(stored).all():
        raise ValueError(f"{one.name} holds numbers that {dtype} cannot; write the file as bfloat16.")
    return stored.contiguous().view(torch.uint8).numpy()

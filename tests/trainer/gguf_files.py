"""Small .gguf files for tests, made by transformers and the gguf package, not by what is tested."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from gguf import GGMLQuantizationType as Kind
from tokenizers import decoders, models, pre_tokenizers, trainers

TEXTS = [
    "The fox eats 12 mice, and the owl 1345 more.\n\nIt's late; the Möve sleeps.",
    "def walk(self):\n    return 100 * self.step\n        # what else?",
    "Ein Bär ißt Äpfel. 日本語のテキスト 😀",
] * 3
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
WIDTHS: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
"""256 is the block of Q4_K and Q6_K."""


def byte_level(splitter: pre_tokenizers.PreTokenizer, size: int = 320) -> tokenizers.Tokenizer:
    """A byte-level BPE with ChatML's control tokens."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def smollm_splitter() -> pre_tokenizers.PreTokenizer:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])


def small_model(architecture: str, vocabulary: int = 320, **changes: Any) -> transformers.PreTrainedModel:
    """A random model whose norms and biases are no ones and zeros."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(architecture, **{**WIDTHS, "vocab_size": vocabulary, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            noise = torch.randn_like(parameter) / 8
            parameter.data = (noise + ("norm" in name)).to(torch.bfloat16).float()
    return model


def tensors_of(model: transformers.PreTrainedModel) -> dict[str, np.ndarray[Any, Any]]:
    """By GGUF's names. A head of Llama's rows alternates between its first and its second half there."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, model.config.num_hidden_layers)
    found = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        array = tensor.numpy()
        if model.config.model_type == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = model.config.num_attention_heads if ".q_proj." in name else model.config.num_key_value_heads
            first_and_second = np.split(array, 2 * heads)
            pairs = zip(first_and_second[::2], first_and_second[1::2], strict=True)
            array = np.concatenate([np.stack(pair, axis=1).reshape(-1, *array.shape[1:]) for pair in pairs])
        found[names.get_name(name, try_suffixes=(".weight", ".bias")) or ""] = array
    assert "" not in found
    return found


def write_file(
    path: Path,
    model: transformers.PreTrainedModel,
    backend: tokenizers.Tokenizer,
    *,
    kind: Kind = Kind.F32,
    pre: str = "smollm",
    changes: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> Path:
    """A .gguf file of a model and its tokenizer; `changes` replaces values (None leaves one out)."""
    config, name = model.config, model.config.model_type
    values: dict[str, Any] = {
        f"{name}.block_count": config.num_hidden_layers,
        f"{name}.context_length": config.max_position_embeddings,
        f"{name}.embedding_length": config.hidden_size,
        f"{name}.feed_forward_length": config.intermediate_size,
        f"{name}.attention.head_count": config.num_attention_heads,
        f"{name}.attention.head_count_kv": config.num_key_value_heads,
        f"{name}.attention.key_length": getattr(config, "head_dim", None),
        f"{name}.attention.value_length": getattr(config, "head_dim", None),
        f"{name}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{name}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "general.name": "Small Fox",
        "general.license": "apache-2.0",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [backend.id_to_token(id) for id in range(backend.get_vocab_size())],
        "tokenizer.ggml.token_type": [3 if id < len(SPECIAL) else 1 for id in range(backend.get_vocab_size())],
        "tokenizer.ggml.merges": merges_of(backend),
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
        **(changes or {}),
    }
    writer = gguf.GGUFWriter(path, name)
    for key, value in values.items():
        add(writer, key, value)
    for key, array in (tensors or tensors_of(model)).items():
        if array.dtype == np.uint8:
            writer.add_tensor(key, array, raw_dtype=kind)
        elif array.ndim == 1 or kind == Kind.F32:
            writer.add_tensor(key, array.astype(np.float32))
        else:
            writer.add_tensor(key, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif value is not None:
        writer.add_array(key, value)


def merges_of(backend: tokenizers.Tokenizer) -> list[str]:
    import json

    merges = json.loads(backend.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]

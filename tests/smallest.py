"""The smallest model there is, as a checkpoint directory has it, made without torch."""

from __future__ import annotations

import json
import math
from typing import Any

from trainer.config import REWARD, ModelConfig
from trainer.model.families import config_json_of, tensor_shapes

SHAPE = ModelConfig(vocab_size=2, heads=1, kv_heads=1, layers=1, ffn=1, context=256, head_dim=2)
TOKENIZER = {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}


def config_json(stage: str) -> dict[str, Any]:
    return config_json_of(SHAPE, is_reward=stage == REWARD, end_id=1, pad_id=0)


def weights(stage: str, *, first: bytes) -> bytes:
    """A safetensors file of zeros but for its first three bytes, which tell one model from another."""
    entries, end = {}, 0
    for name, shape in tensor_shapes(SHAPE, is_reward=stage == REWARD).items():
        start, end = end, end + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + first + bytes(end - len(first))

"""Model families: what a Hugging Face `config.json` says, as a `ModelConfig`, and back.

The idea: Llama, Mistral, Qwen2, Qwen3 and SmolLM3 are one decoder with small differences: biases, norms on queries and
keys, a sliding window, layers without positions, a head of its own. Each difference is a field of `ModelConfig`; which
model has which is decided here, from its config.json alone, and nowhere else. What is not supported is refused by
name, because a model computed in nearly the right way babbles and nobody knows why.

One set of rules for the site, which refuses a directory at the door, and for the trainer that loads it. Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from trainer.config import ModelConfig, RopeScaling

LARGEST_SIZE: Final = 10**9
"""Of any number in config.json: a larger one is a lie, and products of larger ones overflow."""
LARGEST: Final = {"max_position_embeddings": 2**18, "num_hidden_layers": 1000}
"""What no tensor's shape can contradict, and what must be bounded because memory follows from it."""

EMBEDDING, HEAD, SCORE = "model.embed_tokens.weight", "lm_head.weight", "score.weight"
UNUSED: Final = ".rotary_emb.inv_freq"
"""Old exports hold this table beside the weights; it follows from config.json."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a family's config.json means by what it does not say."""

    architecture: str
    """What its class names in transformers begin with."""
    is_tied: bool = False
    kv_heads: int | None = None
    """None is as many as there are query heads."""
    head_dim: int | None = None
    """None is the width divided by the number of heads."""
    rope_theta: float = 10_000.0
    window: int | None = None

    @property
    def language_model(self) -> str:
        return f"{self.architecture}ForCausalLM"

    @property
    def reward_model(self) -> str:
        return f"{self.architecture}ForSequenceClassification"


FAMILIES: Final[Mapping[str, Family]] = {
    "llama": Family(architecture="Llama"),
    "mistral": Family(architecture="Mistral", kv_heads=8, window=4096),
    "qwen2": Family(architecture="Qwen2", kv_heads=32, window=4096),
    "qwen3": Family(architecture="Qwen3", kv_heads=32, head_dim=128, window=4096),
    "smollm3": Family(architecture="SmolLM3", kv_heads=4, is_tied=True, rope_theta=2_000_000.0),
}
"""By `model_type`."""


# -- from config.json ------------------------------------------------------------------------------


def family_of(config_json: Mapping[str, Any]) -> Family:
    """The family a config.json names; ValueError for any other."""
    kind = config_json.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        named = f"a {kind:.60}" if isinstance(kind, str) and kind else "a nameless"
        raise ValueError(
            f"it describes {named} model; only Llama-shaped ones are supported ({', '.join(FAMILIES)}). "
            "Take a model of one of these families."
        )
    return FAMILIES[kind]


def is_reward_model(config_json: Mapping[str, Any]) -> bool:
    """Whether it describes a model that scores text, not one that writes it; ValueError for anything else."""
    family = family_of(config_json)
    found = config_json.get("architectures") or [family.language_model]
    if found == [family.language_model]:
        return False
    if found != [family.reward_model]:
        raise ValueError(
            f"it describes {found!r:.80}; a checkpoint must be {family.language_model}, or {family.reward_model} "
            "for a reward model."
        )
    labels = config_json.get("num_labels", len(config_json.get("id2label") or [0]))
    if labels != 1:
        raise ValueError("it has several labels; a reward model gives one number (num_labels 1).")
    return True


def architecture_of(config_json: Mapping[str, Any]) -> ModelConfig:
    """The decoder a config.json describes; ValueError with one sentence about what is damaged or not supported."""
    raw, family = config_json, family_of(config_json)
    kind: str = raw["model_type"]
    if raw.get("quantization_config"):
        raise ValueError("its weights are quantised, which is not supported. Take the model in bfloat16 or float16.")
    if (act := _given(raw, "hidden_act", "silu")) not in ("silu", "swish"):
        raise ValueError(f"it gates its feed-forward with {act!r:.60}; only silu is supported.")
    theta, scaling = _rope(raw, family)
    layers, context = _size(raw, "num_hidden_layers"), _size(raw, "max_position_embeddings")
    heads, width = _size(raw, "num_attention_heads"), _size(raw, "hidden_size")
    head_dim = family.head_dim or (None if width % heads else width // heads)
    bias = kind != "mistral" and kind != "qwen2" and _flag(raw, "attention_bias")
    window, windowed = _window(raw, family, layers, context)
    return ModelConfig(
        family=kind,
        vocab_size=_size(raw, "vocab_size"),
        heads=heads,
        kv_heads=_size(raw, "num_key_value_heads", default=family.kv_heads or heads),
        layers=layers,
        ffn=_size(raw, "intermediate_size"),
        context=context,
        head_dim=_size(raw, "head_dim", default=head_dim),
        width=width,
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=_given(raw, "rms_norm_eps", 1e-6),
        is_tied=is_reward_model(raw) or _flag(raw, "tie_word_embeddings", default=family.is_tied),
        qkv_bias=kind == "qwen2" or bias,
        o_bias=bias,
        mlp_bias=kind in ("llama", "smollm3") and _flag(raw, "mlp_bias"),
        qk_norm=kind == "qwen3",
        window=window,
        windowed=windowed,
        unrotated=_unrotated(raw, layers) if kind == "smollm3" else (),
    )


def _given(raw: Mapping[str, Any], name: str, default: Any) -> Any:
    """What stands there; `default` stands in for null and for nothing."""
    return default if raw.get(name) is None else raw[name]


def _flag(raw: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    value = _given(raw, name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r:.60}.")
    return value


def _size(raw: Mapping[str, Any], name: str, *, default: int | None = None) -> int:
    """A whole number from 1 to what it may be; `default` stands in for null and for nothing."""
    value, largest = _given(raw, name, default), LARGEST.get(name, LARGEST_SIZE)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise ValueError(f"{name} must be a whole number from 1 to {largest}, not {value!r:.60}.")
    return value


def _rope(raw: Mapping[str, Any], family: Family) -> tuple[float, RopeScaling | None]:
    """(base, scaling) of the rotary positions.

    They stand in `rope_parameters`, or as older versions wrote them: the base beside `rope_scaling`, which may also
    call its kind "type". Where both stand, `rope_scaling` counts, as in transformers.
    """
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"it scales its rotary positions by {rope!r:.60}, which is no description of it.")
    if any(isinstance(value, dict) for value in rope.values()):
        raise ValueError("its rotary positions differ from layer to layer, which is not supported.")
    share = _given(rope, "partial_rotary_factor", _given(raw, "partial_rotary_factor", 1.0))
    if share != 1:
        raise ValueError(f"it turns only {share!r:.60} of each head by position, which is not supported.")
    theta = _given(rope, "rope_theta", _given(raw, "rope_theta", family.rope_theta))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling(kind="linear", factor=_needed(rope, "factor"))
    if kind == "llama3":
        original = raw.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
        return theta, RopeScaling(
            kind="llama3",
            factor=_needed(rope, "factor"),
            low_freq_factor=_needed(rope, "low_freq_factor"),
            high_freq_factor=_needed(rope, "high_freq_factor"),
            original_context=original or _size(raw, "max_position_embeddings"),
        )
    raise ValueError(
        f"it scales its rotary positions by {kind!r:.60}, which is not supported; default, linear and llama3 are."
    )


def _needed(rope: Mapping[str, Any], name: str) -> Any:
    if rope.get(name) is None:
        raise ValueError(f"it scales its rotary positions without a {name}.")
    return rope[name]


def _window(raw: Mapping[str, Any], family: Family, layers: int, context: int) -> tuple[int, tuple[int, ...]]:
    """(size, layers) of the sliding window; (0, ()) where no row can be longer than it."""
    kind = raw["model_type"]
    types = raw.get("layer_types")
    if types is not None:
        known = isinstance(types, list) and len(types) == layers
        if not known or any(one not in ("full_attention", "sliding_attention") for one in types):
            raise ValueError(
                f"layer_types must name full_attention or sliding_attention for each layer, not {types!r:.80}"
            )
    if kind == "llama" or (kind != "mistral" and not _flag(raw, "use_sliding_window")):
        return 0, ()
    size = raw.get("sliding_window", family.window)
    if size is None:
        return 0, ()
    window = _size({"sliding_window": size}, "sliding_window")
    if kind == "mistral":
        if types and "full_attention" in types:
            raise ValueError("its layers differ in what they see, which is not supported for mistral.")
        windowed = tuple(range(layers))
    elif types is not None:
        windowed = tuple(layer for layer, one in enumerate(types) if one == "sliding_attention")
    elif kind == "smollm3":
        windowed = _unrotated(raw, layers)
    else:
        first = _given(raw, "max_window_layers", 28)
        if not isinstance(first, int) or first < 0:
            raise ValueError(f"max_window_layers must be a whole number from 0, not {first!r:.60}.")
        windowed = tuple(range(first, layers))
    return (window, windowed) if windowed and window < context else (0, ())


def _unrotated(raw: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """SmolLM3's layers without positions: those with a 0 in `no_rope_layers`, or every fourth."""
    marks = raw.get("no_rope_layers")
    if marks is None:
        interval = _size(raw, "no_rope_layer_interval", default=4)
        return tuple(layer for layer in range(layers) if (layer + 1) % interval == 0)
    if not isinstance(marks, list) or len(marks) < layers or any(mark not in (0, 1) for mark in marks):
        raise ValueError(f"no_rope_layers must hold a 0 or 1 for each of the {layers} layers, not {marks!r:.80}.")
    return tuple(layer for layer in range(layers) if not marks[layer])


# -- to config.json --------------------------------------------------------------------------------


def config_json_of(config: ModelConfig, *, is_reward: bool, end_id: int, pad_id: int) -> dict[str, Any]:
    """`config.json` as transformers expects it.

    Of a model that came with one it is that, every key as it was but for what training changed: whether it writes or
    scores. Of our own it suits versions before and after `rope_parameters`.
    """
    family = FAMILIES[config.family]
    architecture = {"architectures": [family.reward_model if is_reward else family.language_model]}
    if config.source is not None:
        raw = dict(config.source.config_json)
        if "architectures" in raw or is_reward:
            raw |= architecture
        if is_reward:
            # Which token is padding tells transformers where the last one is, which it reads the score at.
            raw |= {"num_labels": 1, "pad_token_id": pad_id}
        return raw
    shared = {
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        **_rope_json(config),
        "hidden_act": "silu",
        **_differences_json(config),
        "tie_word_embeddings": config.is_tied,
        "bos_token_id": None,
        "eos_token_id": end_id,
        "pad_token_id": pad_id,
        "torch_dtype": "float32",
    }
    return {**architecture, **({"num_labels": 1} if is_reward else {}), **shared}


def _rope_json(config: ModelConfig) -> dict[str, Any]:
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_theta": config.rope_theta, "rope_parameters": parameters}
    parameters |= {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        parameters |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    older = {name: value for name, value in parameters.items() if name != "rope_theta"}
    return {"rope_theta": config.rope_theta, "rope_parameters": parameters, "rope_scaling": older}


def _differences_json(config: ModelConfig) -> dict[str, Any]:
    """What only some families have, in their words."""
    kind = config.family
    found: dict[str, Any] = {}
    if kind in ("llama", "qwen3", "smollm3"):
        found["attention_bias"] = config.o_bias
    if kind in ("llama", "smollm3"):
        found["mlp_bias"] = config.mlp_bias
    if kind == "mistral":
        found["sliding_window"] = config.window or None
    elif kind != "llama":
        found |= {"use_sliding_window": bool(config.window), "sliding_window": config.window or None}
        types = {True: "sliding_attention", False: "full_attention"}
        found["layer_types"] = [types[layer in config.windowed] for layer in range(config.layers)]
    if kind == "smollm3":
        found["no_rope_layers"] = [int(layer not in config.unrotated) for layer in range(config.layers)]
    return found


# -- tensors ---------------------------------------------------------------------------------------


def tensor_shapes(config: ModelConfig, *, is_reward: bool) -> dict[str, tuple[int, ...]]:
    """The tensors a directory of this model must hold, by their names in the file."""
    c = config
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (c.vocab_size, c.width)}
    for layer in range(c.layers):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        products = (
            (f"{attention}.q_proj", c.heads * c.head_dim, c.width, c.qkv_bias),
            (f"{attention}.k_proj", c.kv_heads * c.head_dim, c.width, c.qkv_bias),
            (f"{attention}.v_proj", c.kv_heads * c.head_dim, c.width, c.qkv_bias),
            (f"{attention}.o_proj", c.width, c.heads * c.head_dim, c.o_bias),
            (f"{mlp}.gate_proj", c.ffn, c.width, c.mlp_bias),
            (f"{mlp}.up_proj", c.ffn, c.width, c.mlp_bias),
            (f"{mlp}.down_proj", c.width, c.ffn, c.mlp_bias),
        )
        for name, rows, columns, has_bias in products:
            shapes[f"{name}.weight"] = (rows, columns)
            if has_bias:
                shapes[f"{name}.bias"] = (rows,)
        if c.qk_norm:
            shapes |= {f"{attention}.{name}.weight": (c.head_dim,) for name in ("q_norm", "k_norm")}
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{name}.weight"] = (c.width,)
    shapes["model.norm.weight"] = (c.width,)
    if is_reward:
        shapes[SCORE] = (1, c.width)
    elif not c.is_tied:
        shapes[HEAD] = (c.vocab_size, c.width)
    return shapes


def check_tensors(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], *, is_reward: bool) -> None:
    """ValueError unless a directory's tensors are those of this model, a copied head of a tied one aside."""
    wanted = tensor_shapes(config, is_reward=is_reward)
    for name, shape in wanted.items():
        if name not in shapes:
            raise ValueError(f"it lacks {name}, which config.json asks for.")
        if tuple(shapes[name]) != shape:
            raise ValueError(f"{name} has shape {list(shapes[name])}, config.json says {list(shape)}.")
    extra = sorted(name for name in shapes if name not in wanted and not name.endswith(UNUSED))
    if config.is_tied and HEAD in extra and tuple(shapes[HEAD]) == wanted[EMBEDDING]:
        extra.remove(HEAD)
    if extra:
        raise ValueError(f"there are weights this architecture does not have: {', '.join(extra[:3])}.")


def our_name(name: str) -> str:
    """What a tensor of a file is called in the model here."""
    if name == SCORE:
        return "head.weight"
    return f"decoder.{name.removeprefix('model.')}" if name.startswith("model.") else name

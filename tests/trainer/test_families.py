"""Every family's small random model, built by transformers (5.x), is computed, sampled, read and written alike here."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from trainer.config import RopeScaling
from trainer.model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from trainer.model.decoder import LanguageModel, ScalarModel, rope_table
from trainer.model.engine import Engine, Sampling
from trainer.model.families import architecture_of, config_json_of, tensor_shapes
from trainer.model.tokenizer import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama, untied, biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, own head_dim": ("Llama", {"head_dim": 16, "num_key_value_heads": 1}),
    "llama, linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "llama, llama3": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama, wide": ("Llama", {"hidden_size": 264, "num_hidden_layers": 2, "initializer_range": 0.1}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 16}),
    "mistral, window": ("Mistral", {"sliding_window": 7}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2, window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3, biases": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
    "smollm3": ("SmolLM3", {"no_rope_layer_interval": 2}),
    "smollm3, window": (
        "SmolLM3",
        {"no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 5, "mlp_bias": True},
    ),
}


def build(kind: str, vocab_size: int, **changes: Any) -> Any:
    """A random model of transformers whose biases and norms matter."""
    name, settings = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(
        **{**SMALL, **settings, **changes}, vocab_size=vocab_size, attn_implementation="eager"
    )
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
    return theirs


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def directory(kind: str, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    build(kind, tokenizer.vocab_size).save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    return tmp_path / "theirs"


def theirs_of(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager")


def test_it_computes_what_transformers_computes(directory: Path, tokenizer: Tokenizer) -> None:
    """Whole rows, rows padded on the right, several texts packed into one row."""
    ours, theirs = load_checkpoint(directory).language_model, theirs_of(directory)
    tokens = torch.randint(tokenizer.vocab_size, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(tokens).logits
        assert expected.std() > 0.5  # far from all alike
        torch.testing.assert_close(ours(tokens), expected, atol=1e-4, rtol=1e-4)
        padded = tokens.clone()
        padded[0, 17:] = 0
        torch.testing.assert_close(ours(padded)[0, :17], expected[0, :17], atol=1e-4, rtol=1e-4)
        packed = torch.cat([tokens[0, :15], tokens[1, :25]]).unsqueeze(0)
        segments = torch.tensor([[0] * 15 + [1] * 25])
        found = ours(packed, segments=segments)[0]
        torch.testing.assert_close(found[:15], expected[0, :15], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[15:], expected[1, :25], atol=1e-4, rtol=1e-4)


def test_it_writes_greedily_what_transformers_writes(directory: Path) -> None:
    """Prompts of different lengths together, and log-probabilities as a plain forward pass gives them."""
    ours, theirs = load_checkpoint(directory).language_model, theirs_of(directory)
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15, 16, 17], [20], [8, 9, 10, 11, 12, 13, 14, 15, 16, 17]]
    engine = Engine(ours, end_ids=[], max_batch=3)
    answers = engine.generate(prompts, [Sampling(temperature=0.0, max_new_tokens=32)] * 4)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        out = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=32,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert answer.tokens == out[0, len(prompt) :].tolist()
        with torch.no_grad():
            logprobs = ours(out)[0].log_softmax(-1)
        wanted = [logprobs[len(prompt) - 1 + place, token].item() for place, token in enumerate(answer.tokens)]
        torch.testing.assert_close(answer.logprobs, wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_read_and_written_again_is_the_same(
    directory: Path, tmp_path: Path, tokenizer: Tokenizer, stored: torch.dtype
) -> None:
    build_as(directory, stored)
    for dtype in (torch.float32, None):
        loaded = load_checkpoint(directory, dtype=dtype)
        assert loaded.model.config.parameters == sum(one.numel() for one in loaded.model.parameters())
        out = save_checkpoint(tmp_path / str(dtype), loaded.model, loaded.tokenizer, stage="sft", info={})
        assert json.loads((out / "config.json").read_text()) == json.loads((directory / "config.json").read_text())
        before, after = load_file(directory / "model.safetensors"), load_file(out / "model.safetensors")
        assert before.keys() == after.keys()
        for name in before:
            assert before[name].dtype == after[name].dtype
            assert torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8)), name
    assert next(load_checkpoint(directory, dtype=None).model.parameters()).dtype == stored


def test_small_steps_of_a_whole_bfloat16_model_are_not_lost_when_it_is_saved(
    plain: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Full fine-tuning moves most weights by less than half of what bfloat16 can tell apart."""
    build_as(plain, torch.bfloat16)
    loaded = load_checkpoint(plain)
    weight = loaded.language_model.decoder.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1 + 2**-11)  # an eighth of the last bit
    assert torch.equal(weight.bfloat16().float(), before)  # the nearest: all is lost
    out = save_checkpoint(tmp_path / "out", loaded.model, loaded.tokenizer, stage="sft", info={})
    saved = load_checkpoint(out).language_model.decoder.layers[0].mlp.up_proj.weight
    moved = ((saved - before) * before.sign()).sum() / ((weight - before) * before.sign()).sum()
    assert moved.item() == pytest.approx(1, abs=0.1)


def build_as(directory: Path, dtype: torch.dtype) -> None:
    """Store a directory's weights as `dtype`."""
    path = directory / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def test_a_reward_model_of_any_family_scores_as_in_transformers(
    directory: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    loaded = load_checkpoint(directory)
    scalar = ScalarModel.from_language_model(loaded.language_model, generator=torch.Generator().manual_seed(0))
    save_checkpoint(tmp_path / "reward", scalar, loaded.tokenizer, stage="reward", info={})
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward", dtype=torch.float32)
    again = load_checkpoint(tmp_path / "reward").reward_model
    tokens = torch.tensor([[5, 6, 7, 8, 9, tokenizer.end_id]])
    with torch.no_grad():
        expected = theirs(tokens).logits[0, 0]
        for model in (scalar, again):
            torch.testing.assert_close(model(tokens)[0, -1], expected, atol=1e-4, rtol=1e-4)


def test_our_own_description_of_a_family_means_the_same(directory: Path) -> None:
    config = load_checkpoint(directory).model.config
    written = config_json_of(dataclasses.replace(config, source=None), is_reward=False, end_id=2, pad_id=0)
    assert architecture_of(json.loads(json.dumps(written))) == config


# -- how directories come --------------------------------------------------------------------------


@pytest.fixture
def plain(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A directory of a small untied Llama."""
    build("llama, wide", tokenizer.vocab_size, hidden_size=48).save_pretrained(tmp_path / "plain")
    tokenizer.save(tmp_path / "plain")
    return tmp_path / "plain"


@pytest.fixture
def sharded(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    build("qwen2", tokenizer.vocab_size).save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    tokenizer.save(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    return tmp_path / "shards"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_shards_are_one_model(sharded: Path, tmp_path: Path) -> None:
    theirs, loaded = theirs_of(sharded), load_checkpoint(sharded)
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.language_model(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)
    out = save_checkpoint(tmp_path / "one", loaded.model, loaded.tokenizer, stage="sft", info={})
    written = load_file(out / "model.safetensors")
    before = {name: one for shard in sharded.glob("*.safetensors") for name, one in load_file(shard).items()}
    assert before.keys() == written.keys()
    assert all(torch.equal(before[name], written[name]) for name in before)


def test_it_runs_in_bfloat16_as_transformers_does(plain: Path) -> None:
    build_as(plain, torch.bfloat16)
    ours, theirs = load_checkpoint(plain, dtype=None).language_model, theirs_of(plain, torch.bfloat16)
    tokens = torch.randint(300, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = load_checkpoint(plain).language_model(tokens)
        off = [(model_logits.float() - exact).abs().mean() for model_logits in (ours(tokens), theirs(tokens).logits)]
        assert off[0] < 1.5 * off[1]  # no further from float32 than transformers is
        scalar = ScalarModel.from_language_model(ours, generator=torch.Generator().manual_seed(0))
        assert scalar(tokens).dtype == torch.float32
    [answer] = Engine(ours, end_ids=[]).generate([[5, 6, 7]], [Sampling(temperature=0.0, max_new_tokens=20)])
    with torch.no_grad():
        logprobs = ours(torch.tensor([[5, 6, 7, *answer.tokens]]))[0].log_softmax(-1)
    wanted = [logprobs[2 + place, token].item() for place, token in enumerate(answer.tokens)]
    torch.testing.assert_close(answer.logprobs, wanted, atol=0.1, rtol=0)


def test_it_keeps_what_was_stored_otherwise(plain: Path, tmp_path: Path) -> None:
    """Norms in float32 beside matrices in bfloat16, as some write them, and a table that nobody needs."""
    path = plain / "model.safetensors"
    mixed = {name: one if one.ndim == 1 else one.bfloat16() for name, one in load_file(path).items()}
    save_file(mixed | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}, path, metadata={"format": "pt"})
    loaded = load_checkpoint(plain, dtype=None)
    assert loaded.language_model.decoder.norm.weight.dtype == torch.float32
    out = save_checkpoint(tmp_path / "out", loaded.model, loaded.tokenizer, stage="sft", info={})
    written = load_file(out / "model.safetensors")
    assert {name: one.dtype for name, one in written.items()} == {name: one.dtype for name, one in mixed.items()}
    assert all(torch.equal(one, mixed[name]) for name, one in written.items())


def test_a_tied_head_that_was_copied_is_copied_again(tokenizer: Tokenizer, tmp_path: Path) -> None:
    build("llama, tied", tokenizer.vocab_size).save_pretrained(tmp_path / "tied")
    tokenizer.save(tmp_path / "tied")
    path = tmp_path / "tied" / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path)
    loaded = load_checkpoint(tmp_path / "tied")
    assert loaded.language_model.lm_head is None
    out = save_checkpoint(tmp_path / "out", loaded.model, loaded.tokenizer, stage="sft", info={})
    assert load_file(out / "model.safetensors").keys() == {*tensors, "lm_head.weight"}
    assert json.loads((out / "stage.json").read_text())["parameters"] == loaded.model.config.parameters
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, path)
    with pytest.raises(CheckpointError, match=r"has an untied output head, and config\.json says it is tied"):
        load_checkpoint(tmp_path / "tied")


def test_older_and_newer_ways_to_write_rotary_settings_mean_the_same() -> None:
    base = {**SMALL, "model_type": "llama", "vocab_size": 300}
    older = {key: value for key, value in LLAMA3.items() if key not in ("rope_type", "rope_theta")}
    configs = [
        architecture_of({**base, "rope_parameters": LLAMA3}),
        architecture_of({**base, "rope_theta": 500.0, "rope_scaling": {**older, "rope_type": "llama3"}}),
        architecture_of({**base, "rope_theta": 500.0, "rope_scaling": {**older, "type": "llama3"}}),
    ]
    assert configs[0] == configs[1] == configs[2]
    assert configs[0].rope_scaling == RopeScaling(kind="llama3", factor=8.0, original_context=32)
    assert architecture_of({**base, "rope_parameters": {"rope_theta": 7.0}, "rope_theta": 9.0}).rope_theta == 7.0
    assert architecture_of({**base, "rope_parameters": None, "rope_theta": 9.0}).rope_theta == 9.0
    assert architecture_of(base).rope_theta == 10_000.0
    assert architecture_of({**base, "model_type": "smollm3"}).rope_theta == 2_000_000.0


def test_it_stretches_positions_as_llama_3_does() -> None:
    scaling = RopeScaling(
        kind="llama3", factor=4.0, low_freq_factor=40, high_freq_factor=120, original_context=round(2 * math.pi * 800)
    )
    _, sin = rope_table(2, 6, 1000.0, scaling)
    # Frequencies 1, 0.1 and 0.01 turn 800, 80 and 8 times in that context.
    # More than 120 turns stay, 80 are half way from a quarter of it to the whole, 8 are slowed down.
    expected = [1.0, (0.5 + 0.5 / 4) * 0.1, 0.01 / 4]
    torch.testing.assert_close(sin[1, 3:], torch.tensor(expected).sin(), atol=1e-5, rtol=1e-3)
    _, linear = rope_table(2, 2, 1000.0, RopeScaling(kind="linear", factor=4.0))
    torch.testing.assert_close(linear[1, 1], torch.tensor(0.25).sin())


def test_windows_are_found_where_they_are() -> None:
    base = {**SMALL, "vocab_size": 300}
    assert architecture_of({**base, "model_type": "mistral", "sliding_window": 8}).windowed == (0, 1, 2)
    assert architecture_of({**base, "model_type": "mistral", "sliding_window": None}).window == 0
    assert architecture_of({**base, "model_type": "mistral", "sliding_window": 64}).window == 0  # no row is longer
    long = {**base, "model_type": "mistral", "max_position_embeddings": 8192}
    assert architecture_of(long).window == 4096  # what it is where nobody says
    qwen = {**base, "model_type": "qwen2", "sliding_window": 8, "max_window_layers": 2}
    assert architecture_of(qwen).window == 0  # it is there and not used
    assert architecture_of({**qwen, "use_sliding_window": True}).windowed == (2,)
    types = ["sliding_attention", "full_attention", "full_attention"]
    assert architecture_of({**qwen, "use_sliding_window": True, "layer_types": types}).windowed == (0,)
    with pytest.raises(ValueError, match="max_window_layers must be a whole number"):
        architecture_of({**qwen, "use_sliding_window": True, "max_window_layers": "all"})
    with pytest.raises(ValueError, match="layers differ in what they see"):
        architecture_of({**base, "model_type": "mistral", "sliding_window": 8, "layer_types": types})
    with pytest.raises(ValueError, match="no_rope_layers must hold a 0 or 1"):
        architecture_of({**base, "model_type": "smollm3", "no_rope_layers": [1]})


def test_the_tensors_of_a_config_are_those_of_the_model(kind: str) -> None:
    config = architecture_of(build(kind, 300).config.to_dict() | {"architectures": None})
    shapes = tensor_shapes(config, is_reward=False)
    assert sum(math.prod(shape) for shape in shapes.values()) == config.parameters
    with torch.device("meta"):
        assert sorted(map(tuple, shapes.values())) == sorted(tuple(p.shape) for p in LanguageModel(config).parameters())

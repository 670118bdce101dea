"""A .gguf file becomes the directory transformers would have, or nothing at all."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file

from tests.trainer.gguf_files import (
    SPECIAL,
    TEMPLATE,
    TEXTS,
    byte_level,
    small_model,
    smollm_splitter,
    tensors_of,
    write_file,
)
from trainer.__main__ import main
from trainer.model.checkpoint import load_checkpoint
from trainer.model.gguf import convert, llama3_divisors, readable_kinds, write
from trainer.model.gguf_file import read_head

ENDINGS = ["", " ", "a 12  34\t\t\n \n x", "1234567", "<|im_end|>", "It's a 'll", "e\u0301 ﬁ", "😀😀 日本"]


@pytest.fixture(scope="module")
def backend() -> tokenizers.Tokenizer:
    return byte_level(smollm_splitter())


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory, backend: tokenizers.Tokenizer) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    return write_file(path, small_model("llama", num_hidden_layers=1), backend, kind=Kind.Q8_0)


def read_json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


def logits_of(model: transformers.PreTrainedModel) -> torch.Tensor:
    ids = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
        ("llama", {"tie_word_embeddings": True, "head_dim": 32}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"tie_word_embeddings": False, "head_dim": 32}),
    ],
)
def test_the_directory_computes_what_the_model_did(
    tmp_path: Path, backend: tokenizers.Tokenizer, architecture: str, changes: dict[str, Any]
) -> None:
    model = small_model(architecture, **changes)
    directory = convert(write_file(tmp_path / "a.gguf", model, backend), tmp_path / "a")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert type(loaded) is type(model)
    assert torch.equal(logits_of(loaded), logits_of(model))
    stored = load_file(directory / "model.safetensors")
    assert set(stored) == {name for name in model.state_dict() if name in stored or "lm_head" not in name}
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def test_transformers_reads_the_same_from_the_file(tmp_path: Path, small_file: Path) -> None:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        small_file.parent, gguf_file=small_file.name, dtype=torch.float32
    )
    ours = load_file(convert(small_file, tmp_path / "a") / "model.safetensors")
    for name, tensor in theirs.state_dict().items():
        if name != "lm_head.weight":
            assert torch.equal(ours[name], tensor.to(torch.bfloat16)), name


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (Kind.F16, torch.float16),
        *((kind, torch.bfloat16) for kind in (Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1)),
    ],
)
def test_every_kind_is_unpacked_as_the_gguf_package_does(
    tmp_path: Path, backend: tokenizers.Tokenizer, kind: Kind, dtype: torch.dtype
) -> None:
    model = small_model("qwen2", num_hidden_layers=1, tie_word_embeddings=True)
    stored = load_file(
        convert(write_file(tmp_path / "a.gguf", model, backend, kind=kind), tmp_path / "a") / "model.safetensors"
    )
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            known = tensor.numpy()
            wanted = gguf.quants.dequantize(gguf.quants.quantize(known, kind), kind) if tensor.dim() > 1 else known
            assert torch.equal(stored[name], torch.from_numpy(wanted).to(dtype)), name


@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q6_K])
def test_k_quants_which_the_package_unpacks_and_does_not_pack(
    tmp_path: Path, backend: tokenizers.Tokenizer, kind: Kind
) -> None:
    model = small_model("qwen2", num_hidden_layers=1, tie_word_embeddings=True)
    noise = np.random.default_rng(0)
    packed = {
        name: array if array.ndim == 1 else blocks(noise, array.shape, kind)
        for name, array in tensors_of(model).items()
    }
    file = write_file(tmp_path / "a.gguf", model, backend, kind=kind, tensors=packed)
    stored = load_file(convert(file, tmp_path / "a") / "model.safetensors")
    up = gguf.quants.dequantize(packed["blk.0.ffn_up.weight"], kind)
    assert np.abs(up).max() > 0
    assert torch.equal(stored["model.layers.0.mlp.up_proj.weight"], torch.from_numpy(up).to(torch.bfloat16))


def blocks(noise: np.random.Generator, shape: tuple[int, ...], kind: Kind) -> np.ndarray[Any, Any]:
    """Random blocks whose scales are no NaN."""
    block, width = gguf.GGML_QUANT_SIZES[kind]
    found = noise.integers(0, 256, (shape[0] * shape[1] // block, width), dtype=np.uint8)
    scale = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    if kind == Kind.Q4_K:
        found[:, :4] = np.concatenate([scale, scale])
    else:
        found[:, -2:] = scale
    return found.reshape(shape[0], -1)


def test_a_row_that_float16_cannot_hold_stays_as_it_is(tmp_path: Path, backend: tokenizers.Tokenizer) -> None:
    model = small_model("llama", num_hidden_layers=1, tie_word_embeddings=True)
    model.model.norm.weight.data[0] = 1e-9
    stored = load_file(
        convert(write_file(tmp_path / "a.gguf", model, backend, kind=Kind.F16), tmp_path / "a") / "model.safetensors"
    )
    assert torch.equal(stored["model.norm.weight"], model.model.norm.weight.data)
    assert stored["model.layers.0.input_layernorm.weight"].dtype == torch.float16


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3s_scaling_is_found_by_its_divisors(
    tmp_path: Path, backend: tokenizers.Tokenizer, factor: float
) -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = small_model("llama", num_hidden_layers=1, tie_word_embeddings=True, rope_parameters=scaling)
    plain = 500_000.0 ** (-torch.arange(0, 64, 2).double() / 64)
    divisors = (plain / model.model.rotary_emb.inv_freq.double()).float().numpy()  # as transformers has them
    tensors = {**tensors_of(model), "rope_freqs.weight": divisors}
    file = write_file(tmp_path / "a.gguf", model, backend, tensors=tensors)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(convert(file, tmp_path / "a"), dtype=torch.float32)
    assert torch.equal(logits_of(loaded), logits_of(model))
    torch.testing.assert_close(
        llama3_divisors(64, 500_000.0, factor, 1.0, 4.0, 8192), torch.from_numpy(divisors).double(), rtol=1e-5, atol=0
    )
    tensors["rope_freqs.weight"] = divisors * 1.5
    file = write_file(tmp_path / "b.gguf", model, backend, tensors=tensors)
    with pytest.raises(ValueError, match=r"neither Llama 3\.1's nor 3\.2's"):
        convert(file, tmp_path / "b")


def test_the_command_line_makes_a_directory_that_it_goes_on_from(
    tmp_path: Path, small_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(small_file), "--out", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a'}\n"
    assert load_checkpoint(tmp_path / "a").language_model.config.context == 128


# --- Tokens ------------------------------------------------------------------------------------------


def test_texts_become_the_ids_they_were(tmp_path: Path, small_file: Path, backend: tokenizers.Tokenizer) -> None:
    directory = convert(small_file, tmp_path / "a")
    ours = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    for text in [*TEXTS, *ENDINGS]:
        assert ours.encode(text).ids == backend.encode(text).ids, text
        assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text
    config = read_json(directory / "tokenizer_config.json")
    assert config["chat_template"] == TEMPLATE
    assert (config["eos_token"], config["pad_token"], config["add_bos_token"]) == (SPECIAL[2], SPECIAL[2], False)
    assert read_json(directory / "generation_config.json") == {"eos_token_id": [2], "pad_token_id": 2}
    card = (directory / "README.md").read_text()
    assert 'model_name: "Small Fox"' in card
    assert 'license: "apache-2.0"' in card


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["Don", "'t", "Ġpay", "Ġ1234", "Ġ€", "5", "!", "ĊĊĠ", "Ġend"]),
        ("smollm", ["Don", "'t", "Ġpay", "Ġ", "1", "2", "3", "4", "Ġ€", "5", "!", "ĊĊĠ", "Ġend"]),
        ("llama-bpe", ["Don", "'t", "Ġpay", "Ġ", "123", "4", "Ġ€", "5", "!ĊĊ", "Ġ", "Ġend"]),
        ("qwen2", ["Don", "'t", "Ġpay", "Ġ", "1", "2", "3", "4", "Ġ€", "5", "!ĊĊ", "Ġ", "Ġend"]),
        ("tekken", ["Don", "'t", "Ġpay", "Ġ", "1", "2", "3", "4", "Ġ€", "5", "!ĊĊ", "Ġ", "Ġend"]),
    ],
)
def test_text_is_split_as_the_file_says(
    tmp_path: Path, small_file: Path, backend: tokenizers.Tokenizer, pre: str, pieces: list[str]
) -> None:
    file = write_file(tmp_path / "a.gguf", small_model("llama", num_hidden_layers=1), backend, pre=pre)
    ours = tokenizers.Tokenizer.from_file(str(convert(file, tmp_path / "a") / "tokenizer.json"))
    found = [
        piece.replace("âĤ¬", "€") for piece, _ in ours.pre_tokenizer.pre_tokenize_str("Don't pay 1234 €5!\n\n  end")
    ]
    assert found == pieces


def test_an_unknown_way_to_split_is_refused_by_name(tmp_path: Path, backend: tokenizers.Tokenizer) -> None:
    file = write_file(tmp_path / "a.gguf", small_model("llama", num_hidden_layers=1), backend, pre="viking")
    with pytest.raises(ValueError, match="'viking'"):
        convert(file, tmp_path / "a")


def test_all_ends_are_named_and_a_text_begins_as_the_file_says(tmp_path: Path, backend: tokenizers.Tokenizer) -> None:
    changes = {
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eot_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
    }
    file = write_file(tmp_path / "a.gguf", small_model("llama", num_hidden_layers=1), backend, changes=changes)
    directory = convert(file, tmp_path / "a")
    assert read_json(directory / "generation_config.json")["eos_token_id"] == [0, 2]
    assert read_json(directory / "config.json")["eos_token_id"] == 0
    loaded = transformers.AutoTokenizer.from_pretrained(directory)
    assert loaded("fox").input_ids == [0, *backend.encode("fox").ids]
    # Without an eot the turn's end is found where the template writes it.
    changes["tokenizer.ggml.eot_token_id"] = None
    file = write_file(tmp_path / "b.gguf", small_model("llama", num_hidden_layers=1), backend, changes=changes)
    assert read_json(convert(file, tmp_path / "b") / "generation_config.json")["eos_token_id"] == [0, 2]


SENTENCEPIECE = [
    *("<unk>", "<s>", "</s>"),
    *(f"<0x{byte:02X}>" for byte in range(256)),
    *("▁", "f", "o", "x", "e", "s", "fo", "▁fo", "ox", "▁fox", "es", "▁foxes"),
]


def sentencepiece_file(path: Path, backend: tokenizers.Tokenizer, tokens: Sequence[str] = SENTENCEPIECE) -> Path:
    scores = {"fo": -1.0, "▁fo": -2.0, "es": -3.0, "▁fox": -4.0, "▁foxes": -5.0, "ox": -6.0}
    changes = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * 12],
        "tokenizer.ggml.scores": [float(scores.get(token, -1e6)) for token in tokens],
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": None,
    }
    return write_file(path, small_model("llama", num_hidden_layers=1), backend, changes=changes)


def test_a_sentencepiece_vocabulary_merges_by_score(tmp_path: Path, backend: tokenizers.Tokenizer) -> None:
    """Worked by hand: of "▁foxes" the neighbours f+o (−1) go first, then ▁+fo (−2), e+s (−3), ▁fo+x (−4), both (−5)."""
    directory = convert(sentencepiece_file(tmp_path / "a.gguf", backend), tmp_path / "a")
    ours = transformers.AutoTokenizer.from_pretrained(directory)

    def ids(*tokens: str) -> list[int]:
        return [1, *map(SENTENCEPIECE.index, tokens)]

    assert ours("foxes").input_ids == ids("▁foxes")
    assert ours("fox ox").input_ids == ids("▁fox", "▁", "ox")
    assert ours("foé").input_ids == ids("▁fo", "<0xC3>", "<0xA9>")
    assert ours.decode(ours("foxes foé").input_ids, skip_special_tokens=True) == "foxes foé"
    merges = read_json(directory / "tokenizer.json")["model"]["merges"]
    assert merges.index(["f", "o"]) < merges.index(["▁", "fo"]) < merges.index(["▁fo", "x"]) < merges.index(["o", "x"])


def test_a_token_too_long_to_be_cut_everywhere_is_refused(tmp_path: Path, backend: tokenizers.Tokenizer) -> None:
    path = sentencepiece_file(tmp_path / "a.gguf", backend, [*SENTENCEPIECE[:-1], "x" * 100_000])
    with pytest.raises(ValueError, match="has 100000 letters"):
        convert(path, tmp_path / "a")
    assert not (tmp_path / "a").exists()


# --- Files that are cut off, or lie -------------------------------------------------------------------


def refused(path: Path, match: str = r"\.$") -> None:
    """Converting it is one sentence, and leaves nothing behind."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(ValueError, match=match) as raised:
        convert(path, path.parent / "converted")
    assert "\n" not in str(raised.value)
    assert sorted(path.parent.iterdir()) == before


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, small_file: Path) -> None:
    data = small_file.read_bytes()
    start = min(place.offset for place in read_head(small_file, readable_kinds()).tensors.values())
    path = tmp_path / "cut.gguf"
    for length in [*range(64), *range(64, start, 397), start, start + 1000, len(data) - 1]:
        path.write_bytes(data[:length])
        refused(path)


HEAD = struct.Struct("<4sIQQ")


@pytest.mark.parametrize(
    "content",
    [
        HEAD.pack(b"GGUF", 3, 2**60, 0),
        HEAD.pack(b"GGUF", 3, 0, 2**60),
        HEAD.pack(b"GGUF", 1, 0, 0) + bytes(64),
        HEAD.pack(b"FUGG", 3, 0, 0) + bytes(64),
        HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q", 2**63) + bytes(64),
        HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", 9, 4, 2**61) + bytes(64),
        HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", 9, 8, 2**22) + bytes(64),
        HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", 9, 9, 1) + bytes(64),
        HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sI", 1, b"a", 77) + bytes(64),
        HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIQ2s", 1, b"a", 8, 2, b"\xff\xfe") + bytes(64),
        HEAD.pack(b"GGUF", 3, 0, 2) + struct.pack("<Q1sIB", 1, b"a", 0, 1) * 2 + bytes(64),
        HEAD.pack(b"GGUF", 3, 1, 0) + struct.pack("<Q1sI", 1, b"a", 2**31) + bytes(64),
        HEAD.pack(b"GGUF", 3, 1, 0) + struct.pack("<Q1sIQQIQ", 1, b"a", 2, 2**40, 2**40, 0, 0) + bytes(64),
        HEAD.pack(b"GGUF", 3, 1, 0) + struct.pack("<Q1sIQIQ", 1, b"a", 1, 32, 99, 0) + bytes(64),
        HEAD.pack(b"GGUF", 3, 1, 0) + struct.pack("<Q1sIQIQ", 1, b"a", 1, 32, 0, 2**50) + bytes(64),
        HEAD.pack(b"GGUF", 3, 1, 0) + struct.pack("<Q1sIQIQ", 1, b"a", 1, 0, 0, 0) + bytes(64),
        HEAD.pack(b"GGUF", 3, 2, 0)
        + struct.pack("<Q1sIQIQ", 1, b"a", 1, 8, 0, 0)
        + struct.pack("<Q1sIQIQ", 1, b"b", 1, 8, 0, 0)
        + bytes(256),
    ],
)
def test_a_file_that_lies_about_a_size_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lie.gguf"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"general.architecture": None}, "'unknown'"),
        ({"llama.embedding_length": 128}, "shape"),
        ({"llama.embedding_length": 0}, "embedding_length"),
        ({"llama.embedding_length": "wide"}, "embedding_length"),
        ({"llama.block_count": 2}, "lacks blk.1"),
        ({"llama.block_count": 10**9}, "layers"),
        ({"llama.attention.head_count": 3}, "shape"),
        ({"llama.expert_count": 8}, "mixture"),
        ({"llama.rope.scaling.type": "yarn"}, "'yarn'"),
        ({"llama.rope.dimension_count": 8}, "part of each head"),
        ({"tokenizer.ggml.model": "bert"}, "'bert'"),
        ({"tokenizer.ggml.tokens": ["a"] * 320}, "twice"),
        ({"tokenizer.ggml.tokens": [str(n) for n in range(321)], "tokenizer.ggml.token_type": [1] * 321}, "embeddings"),
        ({"tokenizer.ggml.token_type": [1]}, "types"),
        ({"tokenizer.ggml.merges": ["a b c"]}, "merges"),
        ({"tokenizer.ggml.merges": ["nothing here"]}, "merges"),
        ({"tokenizer.ggml.merges": None}, "no merges"),
        ({"tokenizer.ggml.eos_token_id": 5000}, "eos_token_id"),
        ({"tokenizer.chat_template": 5}, "chat_template"),
    ],
)
def test_values_that_do_not_fit_are_refused(
    tmp_path: Path, backend: tokenizers.Tokenizer, changes: dict[str, Any], match: str
) -> None:
    architecture = changes.pop("general.architecture", "llama")
    model = small_model("llama", num_hidden_layers=1, hidden_size=64, tie_word_embeddings=True)
    widths = dict.fromkeys(("llama.attention.key_length", "llama.attention.value_length"))
    file = write_file(tmp_path / "a.gguf", model, backend, changes={**widths, **changes})
    if architecture is None:
        file.write_bytes(file.read_bytes().replace(b"general.architecture", b"general.arch1tecture"))
    refused(file, match)


def test_an_architecture_we_do_not_know_is_refused_by_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "gpt2")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(tmp_path / "a.gguf", "'gpt2'; llama, qwen2")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda tensors: tensors.pop("output_norm.weight"), "lacks output_norm"),
        (lambda tensors: tensors.update(strange=np.zeros(4, np.float32)), "strange"),
        (lambda tensors: tensors.update({"output_norm.weight": np.full(256, np.nan, np.float32)}), "finite"),
    ],
)
def test_other_tensors_than_the_architectures_are_refused(
    tmp_path: Path,
    backend: tokenizers.Tokenizer,
    change: Callable[[dict[str, np.ndarray[Any, Any]]], Any],
    match: str,
) -> None:
    model = small_model("llama", num_hidden_layers=1)
    tensors = tensors_of(model)
    change(tensors)
    refused(write_file(tmp_path / "a.gguf", model, backend, tensors=tensors), match)


def test_a_disk_too_small_is_seen_before_anything_is_written(
    small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.runtime.files.AIR_BYTES", 2**60)
    with pytest.raises(ValueError, match="There is no room for the model in"):
        convert(small_file, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_from_nothing_to_all(small_file: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    directory = convert(small_file, tmp_path / "a", progress=lambda done, of: told.append((done, of)))
    size = sum(tensor.numel() * 2 for tensor in load_file(directory / "model.safetensors").values())
    assert (told[0], told[-1]) == ((0, size), (size, size))
    assert [done for done, _ in told] == sorted({done for done, _ in told})


# --- Out ---------------------------------------------------------------------------------------------


def hugging_face(
    directory: Path, backend: tokenizers.Tokenizer, model: transformers.PreTrainedModel, dtype: torch.dtype
) -> Path:
    """A directory as transformers writes it, with a tokenizer and its template."""
    model.to(dtype).save_pretrained(directory)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=SPECIAL[2], pad_token=SPECIAL[3], chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(directory)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0], "pad_token_id": 3}))
    return directory


@pytest.mark.parametrize(
    ("architecture", "changes", "dtype"),
    [
        ("llama", {"tie_word_embeddings": True}, torch.bfloat16),
        ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}, torch.float16),
        ("qwen2", {"tie_word_embeddings": True}, torch.bfloat16),
        ("qwen3", {"tie_word_embeddings": False, "head_dim": 32}, torch.float16),
        ("smollm3", {"num_hidden_layers": 5, "no_rope_layers": [1, 1, 1, 0, 1], "pad_token_id": 3}, torch.bfloat16),
    ],
)
def test_what_is_written_is_read_back(
    tmp_path: Path,
    backend: tokenizers.Tokenizer,
    architecture: str,
    changes: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    model = small_model(architecture, **changes)
    directory = hugging_face(tmp_path / "before", backend, model, dtype)
    file = write(directory, tmp_path / "a.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "before"]
    again = convert(file, tmp_path / "after")
    before, after = (load_file(one / "model.safetensors") for one in (directory, again))
    assert set(before) == set(after)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
        assert tensor.dtype == after[name].dtype
    models = [transformers.AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32) for one in (directory, again)]
    assert type(models[1]) is type(model)
    assert torch.equal(logits_of(models[0]), logits_of(models[1]))
    ours, theirs = (transformers.AutoTokenizer.from_pretrained(one) for one in (again, directory))
    for text in [*TEXTS, *ENDINGS]:
        assert ours(text).input_ids == theirs(text).input_ids
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert ours.apply_chat_template(talk, tokenize=False) == theirs.apply_chat_template(talk, tokenize=False)
    said = read_json(again / "generation_config.json")
    assert (said["eos_token_id"], said["pad_token_id"]) == ([2, 0], 3)
    assert (again / "tokenizer.json").read_bytes() == (directory / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_gguf_packages_reader_finds_equal_tensors(
    tmp_path: Path, backend: tokenizers.Tokenizer, dtype: str
) -> None:
    model = small_model("llama", tie_word_embeddings=True)
    directory = hugging_face(tmp_path / "before", backend, model, torch.float32)
    reader = gguf.GGUFReader(write(directory, tmp_path / "a.gguf", dtype=dtype))
    known = tensors_of(model)
    assert {tensor.name for tensor in reader.tensors} == set(known)
    for tensor in reader.tensors:
        values = torch.from_numpy(known[tensor.name])
        stored = values if values.dim() == 1 else values.to(getattr(torch, dtype))
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert torch.equal(torch.tensor(found).reshape(stored.shape), stored.float()), tensor.name
    values = {name: field.contents() for name, field in reader.fields.items()}
    assert values["tokenizer.ggml.pre"] == "smollm"
    assert values["tokenizer.ggml.tokens"] == [backend.id_to_token(id) for id in range(backend.get_vocab_size())]
    assert values["tokenizer.chat_template"] == TEMPLATE
    assert (values["tokenizer.ggml.eos_token_id"], values["tokenizer.ggml.eot_token_id"]) == (2, 0)
    assert values["general.file_type"] == {"float32": 0, "float16": 1, "bfloat16": 32}[dtype]


def test_transformers_reads_a_file_written_here(tmp_path: Path, backend: tokenizers.Tokenizer) -> None:
    model = small_model("llama", tie_word_embeddings=True)
    write(hugging_face(tmp_path / "before", backend, model, torch.float16), tmp_path / "a.gguf")
    before = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "before", dtype=torch.float32)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="a.gguf", dtype=torch.float32)
    assert torch.equal(logits_of(loaded), logits_of(before))


def test_without_the_whole_tokenizer_the_rest_of_the_file_means_the_same(
    tmp_path: Path, backend: tokenizers.Tokenizer
) -> None:
    model = small_model("llama", num_hidden_layers=1, tie_word_embeddings=True)
    file = write(hugging_face(tmp_path / "before", backend, model, torch.float16), tmp_path / "a.gguf")
    file.write_bytes(file.read_bytes().replace(b"tokenizer.huggingface.json", b"tokenizer.huggingface.j50n"))
    ours = tokenizers.Tokenizer.from_file(str(convert(file, tmp_path / "a") / "tokenizer.json"))
    for text in [*TEXTS, *ENDINGS]:
        assert ours.encode(text).ids == backend.encode(text).ids, text


@pytest.mark.parametrize("key", [b"tokenizer.huggingface.json", b"tokenizer.huggingface.j50n"])
def test_a_sentencepiece_vocabulary_comes_back(tmp_path: Path, backend: tokenizers.Tokenizer, key: bytes) -> None:
    """From the whole tokenizer.json in the file, and without it from tokens and scores."""
    before = convert(sentencepiece_file(tmp_path / "a.gguf", backend), tmp_path / "before")
    file = write(before, tmp_path / "b.gguf")
    file.write_bytes(file.read_bytes().replace(b"tokenizer.huggingface.json", key))
    after = convert(file, tmp_path / "after")
    one, other = (read_json(directory / "tokenizer.json") for directory in (before, after))
    assert one == other
    one, other = (read_json(directory / "tokenizer_config.json") for directory in (before, after))
    assert one == other


def test_a_whole_tokenizer_that_is_another_one_is_refused(tmp_path: Path, backend: tokenizers.Tokenizer) -> None:
    other = byte_level(smollm_splitter(), size=300).to_str()
    changes = {"tokenizer.huggingface.json": other}
    refused(
        write_file(tmp_path / "a.gguf", small_model("llama", num_hidden_layers=1), backend, changes=changes),
        "other tokens than the file's own list",
    )
    changes["tokenizer.huggingface.json"] = "[1]"
    refused(
        write_file(tmp_path / "a.gguf", small_model("llama", num_hidden_layers=1), backend, changes=changes),
        "is no tokenizer",
    )


def test_llama_3s_scaling_comes_back(tmp_path: Path, backend: tokenizers.Tokenizer) -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = small_model("llama", num_hidden_layers=1, tie_word_embeddings=True, rope_parameters=scaling)
    file = write(hugging_face(tmp_path / "before", backend, model, torch.float32), tmp_path / "a.gguf", dtype="float32")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(convert(file, tmp_path / "a"), dtype=torch.float32)
    assert torch.equal(logits_of(loaded), logits_of(model))


@pytest.mark.parametrize(
    ("change", "dtype", "match"),
    [
        (lambda model: None, "int8", "not as 'int8'"),
        (
            lambda model: model.model.layers[0].mlp.up_proj.weight.data.fill_(1e5),
            "float16",
            "write the file as bfloat16",
        ),
    ],
)
def test_what_a_file_cannot_hold_is_refused_and_nothing_is_left(
    tmp_path: Path,
    backend: tokenizers.Tokenizer,
    change: Callable[[transformers.PreTrainedModel], None],
    dtype: str,
    match: str,
) -> None:
    model = small_model("llama", num_hidden_layers=1, tie_word_embeddings=True)
    change(model)
    directory = hugging_face(tmp_path / "before", backend, model, torch.float32)
    with pytest.raises(ValueError, match=match):
        write(directory, tmp_path / "a.gguf", dtype=dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["before"]


def test_a_window_has_no_place_in_a_file(tmp_path: Path, backend: tokenizers.Tokenizer) -> None:
    model = small_model("mistral", num_hidden_layers=1, sliding_window=64)
    directory = hugging_face(tmp_path / "before", backend, model, torch.float32)
    with pytest.raises(ValueError, match="sliding window"):
        write(directory, tmp_path / "a.gguf")


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path, small_file: Path) -> None:
    with pytest.raises(ValueError, match="exists already"):
        write(tmp_path, small_file)

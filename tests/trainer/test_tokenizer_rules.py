"""What a tokenizer.json may ask for: ordinary ones pass, those that multiply text do not."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from trainer.model.tokenizer import TOKENIZER, Tokenizer
from trainer.model.tokenizer_rules import read_tokenizer


def save(backend: Backend, directory: Path, **changes: Any) -> Path:
    """The tokenizer's file, with these parts in place of its own."""
    path = directory / TOKENIZER
    path.write_text(json.dumps(json.loads(backend.to_str()) | changes))
    return path


@pytest.fixture
def backend(tokenizer: Tokenizer) -> Backend:
    return Backend.from_str(tokenizer.backend.to_str())


def normaliser(*parts: Any) -> Callable[[Backend], None]:
    def put(backend: Backend) -> None:
        backend.normalizer = normalizers.Sequence(list(parts))

    return put


def splitter(*parts: Any) -> Callable[[Backend], None]:
    def put(backend: Backend) -> None:
        backend.pre_tokenizer = pre_tokenizers.Sequence(list(parts))

    return put


def decoder(*parts: Any) -> Callable[[Backend], None]:
    def put(backend: Backend) -> None:
        backend.decoder = decoders.Sequence(list(parts))

    return put


def template(single: str) -> Callable[[Backend], None]:
    def put(backend: Backend) -> None:
        ends = [("<|im_end|>", backend.token_to_id("<|im_end|>"))]
        backend.post_processor = processors.TemplateProcessing(
            single=single, pair=f"{single} $B:1", special_tokens=ends
        )

    return put


@pytest.mark.parametrize(
    "change",
    [
        lambda backend: None,
        normaliser(normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")),  # Llama
        normaliser(normalizers.Replace(" ", "▁")),  # Gemma
        normaliser(normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()),  # CLIP
        normaliser(normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), "▁")),  # SentencePiece
        normaliser(normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip()),
        normaliser(normalizers.BertNormalizer()),
        splitter(pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(use_regex=False)),
        splitter(pre_tokenizers.Punctuation(), pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated")),
        splitter(pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()),
        decoder(decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)),
        template("<|im_end|> $A <|im_end|>"),
        lambda backend: backend.enable_padding(length=100_000_000),
        lambda backend: backend.enable_truncation(max_length=2),
    ],
)
def test_ordinary_tokenizers_pass_and_lengthen_no_text(
    backend: Backend, tmp_path: Path, change: Callable[[Backend], None]
) -> None:
    change(backend)
    save(backend, tmp_path)
    loaded = Tokenizer.load(tmp_path)
    text = "A fox eats mice, 2 or 3 a day, für alle. " * 20
    assert 0 < len(loaded.encode(text)) < 4 * len(text.encode())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (normaliser(*[normalizers.Replace("e", "eeeeeeeeee")] * 3), "can lengthen a text 2000 times; 64 is the most"),
        (normaliser(normalizers.Replace("e", "e" * 65)), "a text of at most 64 characters"),
        (normaliser(normalizers.Replace(Regex(""), "xx"), *[normalizers.Replace("x", "xxxxxxxx")] * 2), "pattern"),
        (normaliser(*[normalizers.Replace(Regex("x?"), "xx")] * 4), "162 times"),
        (normaliser(normalizers.NFC(), *[normalizers.Sequence([normalizers.NFKC()])] * 3), "2662 times"),
        (normaliser(*[normalizers.Sequence([normalizers.Replace("e", "ee")] * 5)] * 5), "67108864 times"),
        (normaliser(*[normalizers.ByteLevel()] * 7), "256 times"),
        (normaliser(*[normalizers.Strip()] * 40), "at most 32 parts"),
        (normaliser(normalizers.Prepend("x" * 100_000)), "a text of at most 64 characters"),
        (splitter(*[pre_tokenizers.ByteLevel()] * 7), "128 times"),
        (splitter(*[pre_tokenizers.Metaspace()] * 4), "256 times"),
        (decoder(*[decoders.Replace("e", "eeeeeeeeee")] * 3), "decoder can lengthen a text 1000 times"),
        (decoder(decoders.WordPiece("x" * 100)), "prefix should be a text of at most 64"),
        (template(" ".join(["$A"] * 20)), "repeats the text"),
        (template("$A " + " ".join(["<|im_end|>"] * 40)), "more than 32 pieces"),
    ],
)
def test_what_multiplies_text_is_refused(
    backend: Backend, tmp_path: Path, change: Callable[[Backend], None], complaint: str
) -> None:
    change(backend)
    path = save(backend, tmp_path)
    with pytest.raises(ValueError, match=complaint) as refusal:
        Tokenizer.load(tmp_path)
    assert str(refusal.value).startswith(f"{path} is refused: ")


def charsmap(*texts: str) -> str:
    """A SentencePiece table with an empty trie and these texts."""
    return base64.b64encode(struct.pack("<I", 0) + "\0".join(texts).encode()).decode()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"normalizer": {"type": "Script", "code": "x"}}, "not allowed here .'Script'."),
        ({"normalizer": {"prepend": "x"}}, "not allowed here .None."),
        ({"normalizer": [1]}, "made of objects"),
        ({"pre_tokenizer": {"type": "Sequence", "normalizers": [], "pretokenizers": [{"type": "X"}]}}, "'X'"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "1 or more"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap("x" * 50)}}, "makes 50 bytes"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}}, "damaged"),
        ({"added_tokens": [{"id": 0, "content": ""}]}, "an added token is empty"),
        ({"added_tokens": [{"id": 0, "content": "x" * 5000}]}, "at most 1000 characters"),
        ({"model": {"type": "BPE", "vocab": {"x" * 5000: 0}, "merges": []}}, "longer than 1000 characters"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": [], "dropout": 0.1}}, "at random"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": [], "end_of_word_suffix": "x" * 99}}, "end_of_word_suffix"),
        ({"post_processor": {"type": "X"}}, "post_processor has a part"),
    ],
)
def test_what_is_not_known_or_not_bounded_is_refused(
    backend: Backend, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_tokenizer(save(backend, tmp_path, **changes))


def test_of_equal_names_no_reader_takes_another_one(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / TOKENIZER
    path.write_text('{"normalizer": {"type": "X"}, ' + json.dumps(json.loads(backend.to_str()))[1:])
    with pytest.raises(ValueError, match="a name occurs twice"):
        read_tokenizer(path)


def test_a_file_that_is_none_or_far_too_large_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / TOKENIZER).symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="is a device, not a file"):
        Tokenizer.load(tmp_path)
    (tmp_path / TOKENIZER).unlink()
    with (tmp_path / TOKENIZER).open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="larger than 64 MB"):
        Tokenizer.load(tmp_path)


def test_a_pattern_that_tries_for_ever_is_an_error_like_others(backend: Backend, tmp_path: Path) -> None:
    backend.normalizer = normalizers.Replace(Regex("(?:a|aa)+$"), "x")
    save(backend, tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("A fox.")
    with pytest.raises(ValueError, match="The tokenizer cannot read this text"):
        tokenizer.encode("a" * 60 + "!")
    with pytest.raises(ValueError, match="The tokenizer cannot read this text"):
        tokenizer.encode_documents(["a" * 60 + "!"])

"""Text that is being written: the pieces are together what the whole is, and no piece is half a letter."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer import foreign
from trainer.model.roles import roles_of
from trainer.model.streaming import BROKEN, RereadStream, Spelling, TextStream, spelling_of
from trainer.model.tokenizer import Tokenizer

KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte-level": lambda: foreign.byte_level(foreign.CHATML_TOKENS, plain=("<think>", "a b")),
    "byte-fallback": foreign.sentencepiece,
    "metaspace": lambda: foreign.sentencepiece(metaspace=True),
    "metaspace-decoder": lambda: _with_metaspace_decoder(),
}
_made: dict[str, Tokenizer] = {}


def _with_metaspace_decoder() -> tokenizers.Tokenizer:
    backend = foreign.sentencepiece(metaspace=True)
    backend.decoder = tokenizers.decoders.Metaspace()
    return backend


def made(kind: str) -> Tokenizer:
    """hypothesis may not use function fixtures; one tokenizer of each kind serves all examples."""
    if kind not in _made:
        backend = KINDS[kind]()
        end = backend.token_to_id("<|im_end|>" if kind == "byte-level" else "</s>")
        files = {"tokenizer.json": backend.to_str().encode()}
        _made[kind] = Tokenizer(roles_of(files, generation={"eos_token_id": end}, config={}))
    return _made[kind]


def pieces_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*map(stream.push, ids), stream.finish()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_pieces_of_any_ids_are_together_the_whole(kind: str) -> None:
    tokenizer, rng = made(kind), random.Random(0)
    for _ in range(400):
        ids = [rng.randrange(tokenizer.vocab_size + 3) for _ in range(rng.randrange(12))]
        assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_is_what_the_library_decodes_wherever_it_is_a_text(kind: str) -> None:
    tokenizer, rng = made(kind), random.Random(1)
    compared = 0
    for _ in range(600):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randrange(8))]
        theirs = tokenizer.backend.decode(ids, skip_special_tokens=True)
        if kind == "byte-level" or BROKEN not in theirs:  # elsewhere it gives up whole runs for one bad byte
            assert tokenizer.decode(ids) == theirs
            compared += 1
    assert compared > 100


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback", "metaspace"])
@given(text=st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"])))
@settings(max_examples=60)
def test_any_text_comes_back_piece_by_piece(kind: str, text: str) -> None:
    if kind == "metaspace":
        text = text.lstrip(" ")  # to it, a text that begins with a space is the one that does not
    tokenizer = made(kind)
    ids = tokenizer.encode(text)
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids) == text
    assert BROKEN in text or all(BROKEN not in piece for piece in pieces)


def test_only_the_first_space_of_a_text_is_the_tokenizers_own() -> None:
    tokenizer = made("byte-fallback")
    assert pieces_of(tokenizer, tokenizer.encode("A fox"))[0] == "A"
    for text in ("  A fox", " fox", "fox ", "A  fox\n fox"):
        assert "".join(pieces_of(tokenizer, tokenizer.encode(text))) == text


def test_a_letter_waits_for_its_last_byte_and_no_longer() -> None:
    tokenizer = made("byte-fallback")
    berry = [tokenizer.roles.ids[f"<0x{byte:02X}>"] for byte in "🍓".encode()]
    fox = tokenizer.roles.ids["▁fox"]
    assert pieces_of(tokenizer, [fox, *berry, *berry]) == ["fox", "", "", "", "🍓", "", "", "", "🍓", ""]
    assert pieces_of(tokenizer, [fox, *berry[:2], fox]) == ["fox", "", "", f"{BROKEN} fox", ""]
    assert pieces_of(tokenizer, berry[:3]) == ["", "", "", BROKEN]


def test_control_tokens_and_ids_that_no_token_has_say_nothing() -> None:
    tokenizer = made("byte-level")
    ids = tokenizer.encode("fox")
    assert tokenizer.decode([tokenizer.end_id, *ids, tokenizer.vocab_size, tokenizer.vocab_size + 1]) == "fox"


def test_a_decoder_that_we_do_not_know_shows_what_stays_as_it_is() -> None:
    assert spelling_of({"type": "WordPiece", "prefix": "##"}) is None
    assert spelling_of(None) is None
    words = {1: "do", 2: " n't", 3: "!"}

    def decode(ids: list[int]) -> str:
        return "".join(words[id] for id in ids).replace(" n't", "n't")

    stream = RereadStream(decode)
    pieces = [stream.push(1), stream.push(2), stream.push(3), stream.finish()]
    assert pieces == ["", "do", "n't", "!"]


@pytest.mark.parametrize(
    ("decoder", "spelling"),
    [
        ({"type": "ByteLevel"}, Spelling(byte_level=True)),
        ({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "CTC"}]}, None),
        (
            {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"Regex": "x"}, "content": ""}]},
            None,
        ),
        ({"type": "Metaspace", "replacement": "_", "prepend_scheme": "never"}, Spelling(replaced=(("_", " "),))),
    ],
)
def test_it_knows_the_two_ways_of_spelling_and_says_of_others_that_it_does_not(
    decoder: dict[str, object], spelling: Spelling | None
) -> None:
    assert spelling_of(decoder) == spelling


def test_the_first_token_is_the_first_one_with_a_text() -> None:
    spelling = Spelling(replaced=(("▁", " "),), dropped="▁")
    stream = TextStream({1: "▁a", 2: "▁b"}.get, spelling)
    assert [stream.push(id) for id in (0, 1, 2, 1)] == ["", "a", " b", " a"]

"""What a tokenizer.json may ask for: text in, about as much of it out.

The idea: a tokenizer file is a small program. Its normaliser may replace every letter by a thousand, twenty times
over; its padding may fill every text up to a billion tokens. So its parts are read here, before the library builds
anything of it, and each part says by how much it can lengthen a text; what all of them can do together is bounded.
Ordinary tokenizers lengthen a space to the three bytes of "▁" and a byte to the two of its letter.

One set of rules for the site, which refuses such a file at the door, and for the trainer, which loads it. Free of
torch and of the tokenizer library.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from trainer.runtime.reading import read_bytes

LARGEST_BYTES: Final = 64 * 2**20
"""Of a tokenizer.json; vocabularies of a quarter of a million entries take 34 MB."""
LARGEST_GROWTH: Final = 64
"""How many times its bytes a text may become, as counted here. What a fixed table does to single letters (NFKC makes 33
bytes of the three of an Arabic ligature, a tenth of them of most others) is counted from its second turn on: alone it
does nothing to a text, and together with a Replace it could."""
MOST_PARTS: Final = 32
LONGEST_PATTERN: Final = 2000
LONGEST_TEXT: Final = 64
"""Characters of anything that is put into a text."""
LONGEST_TOKEN: Final = 1000
LONGEST_PRECOMPILED: Final = 36
"""Bytes; 33 in the tables that are used, which are NFKC's."""

Part = Mapping[str, Any]


def read_tokenizer(path: Path) -> bytes:
    """The bytes of a tokenizer.json; ValueError, naming the file and what is wrong, unless it keeps to the rules."""
    return parse_tokenizer(path)[0]


def parse_tokenizer(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The same, and what the bytes mean."""
    try:
        data = read_bytes(path, most=LARGEST_BYTES)
        content = json.loads(data.decode(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable tokenizer: {str(error) or type(error).__name__}.") from error
    try:
        _check(content)
    except ValueError as error:
        raise ValueError(f"{path} is refused: {error}. Take another tokenizer.") from error
    return data, content


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different: of equal ones every reader takes another one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in one of its objects")
    return found


def _check(content: Any) -> None:
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    normaliser = _growth(content.get("normalizer"), _NORMALISERS, "normalizer")
    splitter = _growth(content.get("pre_tokenizer"), _SPLITTERS, "pre_tokenizer")
    if normaliser * splitter > LARGEST_GROWTH:
        raise ValueError(f"it can lengthen a text {normaliser * splitter:.0f} times; {LARGEST_GROWTH} is the most")
    if (growth := _growth(content.get("decoder"), _OUTPUT, "decoder")) > LARGEST_GROWTH:
        raise ValueError(f"its decoder can lengthen a text {growth:.0f} times; {LARGEST_GROWTH} is the most")
    _check_post_processor(content.get("post_processor"))
    _check_model(content.get("model"))
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise ValueError("added_tokens should be a list of objects")
    for token in added:
        if not _short(token.get("content"), "an added token", most=LONGEST_TOKEN):
            raise ValueError("an added token is empty")


# --- Growth ------------------------------------------------------------------------------------------


def _growth(part: Any, rules: Mapping[str, Callable[[Part], float]], name: str) -> float:
    """By how many times a normaliser, pre-tokenizer or decoder can lengthen a text; ValueError for one not allowed."""
    total, tables = 1.0, 0
    for one in _parts(part, name):
        kind = one.get("type")
        if not isinstance(kind, str) or kind not in rules:
            raise ValueError(f"its {name} has a part of a kind that is not allowed here ({kind!r:.60})")
        total *= rules[kind](one)
        if kind in _TABLES:
            total *= _TABLES[kind] if tables else 1.0
            tables += 1
    return total


def _parts(part: Any, name: str) -> list[Part]:
    """A part, or those of a sequence and of sequences in it, in order."""
    found: list[Part] = []
    waiting = [part]
    while waiting:
        one = waiting.pop(0)
        if one is None:
            continue
        if not isinstance(one, dict):
            raise ValueError(f"its {name} should be made of objects")
        if one.get("type") != "Sequence":
            found.append(one)
            continue
        inner = one.get(_INNER[name])
        if not isinstance(inner, list) or len(inner) + len(waiting) + len(found) > MOST_PARTS:
            raise ValueError(f"its {name} should be a list of at most {MOST_PARTS} parts")
        waiting[:0] = inner
    return found


def _none(part: Part) -> float:
    return 1.0


def _replace(part: Part) -> float:
    """One pattern by one text; a regular expression may match a single byte, and nothing at all."""
    content = _short(part.get("content"), "what a Replace puts in")
    pattern = part.get("pattern")
    kind, text = next(iter(pattern.items())) if isinstance(pattern, dict) and len(pattern) == 1 else (None, None)
    if kind not in ("String", "Regex") or not isinstance(text, str) or not 0 < len(text) <= LONGEST_PATTERN:
        raise ValueError("the pattern of a Replace should be a text or a regular expression")
    matched = len(text.encode()) if kind == "String" else 1
    inserted = len(content.encode())
    return max(1.0, inserted / matched) if kind == "String" or inserted == 0 else 1.0 + inserted


def _split(part: Part) -> float:
    pattern = part.get("pattern")
    texts = list(pattern.values()) if isinstance(pattern, dict) else [pattern]
    for text in texts:
        _short(text, "a pattern", most=LONGEST_PATTERN)
    return 1.0


def _prepend(part: Part) -> float:
    _short(part.get("prepend"), "what a Prepend puts in front")
    return 1.0


def _metaspace(part: Part) -> float:
    """A space of one byte becomes one of three; and one is put before every piece."""
    _short(part.get("replacement", "▁"), "a Metaspace", most=4)
    return 4.0


def _byte_level(part: Part) -> float:
    return 2.0


def _affix(*names: str) -> Callable[[Part], float]:
    def check(part: Part) -> float:
        for name in names:
            _short(part.get(name, ""), name)
        return 1.0

    return check


def _precompiled(part: Part) -> float:
    """SentencePiece's table of what becomes what: the longest of its texts, for a single byte at worst."""
    try:
        table = base64.b64decode(part.get("precompiled_charsmap") or "", validate=True)
        (trie,) = struct.unpack_from("<I", table)
    except (binascii.Error, struct.error, TypeError, ValueError) as error:
        raise ValueError("its Precompiled table is damaged") from error
    longest = max(map(len, table[4 + trie :].split(b"\0")), default=0)
    if longest > LONGEST_PRECOMPILED:
        raise ValueError(f"its Precompiled table makes {longest} bytes of a letter")
    return 6.0  # what makes most of a letter are ligatures of several bytes, and there is none of them in most texts


def _fixed_length(part: Part) -> float:
    if not isinstance(part.get("length"), int) or part["length"] < 1:
        raise ValueError("the length of a FixedLength should be 1 or more")
    return 1.0


_INNER: Final = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "decoder": "decoders",
    "post_processor": "processors",
}
"""Where a sequence of each has its parts."""
_TABLES: Final = {"NFKC": 11.0, "NFKD": 11.0, "NFC": 3.0, "NFD": 3.0, "Lowercase": 1.5}
"""By how many times each can lengthen a letter."""
_NORMALISERS: Final[Mapping[str, Callable[[Part], float]]] = {
    **dict.fromkeys(("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Strip"), _none),
    "BertNormalizer": lambda part: 6.0,  # NFD, and a space on either side of every Chinese character
    "Prepend": _prepend,
    "Replace": _replace,
    "ByteLevel": _byte_level,
    "Precompiled": _precompiled,
}
_SPLITTERS: Final[Mapping[str, Callable[[Part], float]]] = {
    **dict.fromkeys(
        ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Digits", "Punctuation", "UnicodeScripts"), _none
    ),
    "CharDelimiterSplit": _none,
    "FixedLength": _fixed_length,
    "Split": _split,
    "ByteLevel": _byte_level,
    "Metaspace": _metaspace,
}
_OUTPUT: Final[Mapping[str, Callable[[Part], float]]] = {
    **dict.fromkeys(("ByteLevel", "ByteFallback", "Fuse", "Strip", "Metaspace"), _none),
    "Replace": _replace,
    "WordPiece": _affix("prefix"),
    "BPEDecoder": _affix("suffix"),
    "CTC": _affix("pad_token", "word_delimiter_token"),
}


# --- The rest ----------------------------------------------------------------------------------------


def _check_post_processor(part: Any) -> None:
    """A template puts tokens around a text; the text itself stands in it once."""
    for one in _parts(part, "post_processor"):
        kind = one.get("type")
        if kind not in ("TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel"):
            raise ValueError(f"its post_processor has a part of a kind that is not allowed here ({kind!r:.60})")
        for name in ("single", "pair"):
            pieces = one.get(name) or []
            if not isinstance(pieces, list) or len(pieces) > MOST_PARTS:
                raise ValueError(f"its post_processor puts more than {MOST_PARTS} pieces around a text")
            texts = [piece["Sequence"] for piece in pieces if isinstance(piece, dict) and "Sequence" in piece]
            names = [str(text.get("id")) if isinstance(text, dict) else "" for text in texts]
            if len(set(names)) < len(names):
                raise ValueError("its post_processor repeats the text")
        special = one.get("special_tokens") or {}
        if not isinstance(special, dict) or any(
            isinstance(token, dict) and len(token.get("ids") or []) > MOST_PARTS for token in special.values()
        ):
            raise ValueError(f"its post_processor makes more than {MOST_PARTS} tokens of one")


def _check_model(model: Any) -> None:
    if not isinstance(model, dict):
        return  # nothing will load it
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token"):
        if model.get(name) is not None:
            _short(model[name], name)
    vocabulary = model.get("vocab") or {}
    if isinstance(vocabulary, dict):
        tokens = iter(vocabulary)
    elif isinstance(vocabulary, list):
        tokens = (entry[0] if isinstance(entry, list) and entry else entry for entry in vocabulary)
    else:
        raise ValueError("its vocabulary should be an object or a list")
    for token in tokens:
        if not isinstance(token, str) or len(token) > LONGEST_TOKEN:
            raise ValueError(f"a token of its vocabulary is longer than {LONGEST_TOKEN} characters, or no text")
    if model.get("dropout"):
        raise ValueError("it leaves merges out at random, so that no text has one encoding")


def _short(text: Any, what: str, *, most: int = LONGEST_TEXT) -> str:
    if not isinstance(text, str) or len(text) > most:
        raise ValueError(f"{what} should be a text of at most {most} characters")
    return text

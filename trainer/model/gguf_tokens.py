"""The tokenizer of a GGUF file as a Hugging Face tokenizer.json, and back.

The idea: a GGUF file keeps a vocabulary in order (token, type, score), the merges, and one word, `pre`, for how text
is split before they apply: the rule itself stands in llama.cpp's source. So the table below is that rule book, one
entry for each word we know; a word we do not know is refused by name, because a wrong split gives ids that look right
and are not what the model was trained on.

Two kinds. "gpt2" is byte-level BPE with merges. "llama" is SentencePiece's BPE: no merges but a score for each token,
of two neighbours those go together first whose union scores highest; sorted by score, that is a list of merges.

A file written here also carries its tokenizer.json whole, under the key the format has for it
(`tokenizer.huggingface.json`), and gives it back as it was; llama.cpp reads the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from trainer.model.gguf_file import GGUFHead

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
WHOLE: Final = "tokenizer.huggingface.json"
LONGEST_TOKEN: Final = 512
"""Letters of one that is made by merges. How it is made is found by cutting it everywhere."""

_GPT2: Final = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_BYTES: Final = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
_DIGITS: Final = {"type": "Digits", "individual_digits": True}


def _pattern(regex: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTES]}


_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2: Final = _pattern(_CONTRACTIONS + r"\p{N}" + _REST)
_LLAMA3: Final = _pattern(_CONTRACTIONS + r"\p{N}{1,3}" + _REST)
_TEKKEN: Final = _pattern(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGITS_GPT2: Final = {"type": "Sequence", "pretokenizers": [_DIGITS, _GPT2]}


@dataclass(frozen=True)
class _Pre:
    """How text is split for one value of `tokenizer.ggml.pre`."""

    splitter: Mapping[str, Any]
    whole_words: bool = False
    """A piece that is a token as it stands is that token, whatever the merges make of it."""
    begins: bool = False
    """A text begins with the bos token where the file does not say otherwise."""
    composed: bool = False
    """Unicode is composed first (NFC)."""


PRE: Final[Mapping[str, _Pre]] = {
    **dict.fromkeys(("gpt-2", "gpt2", "jina-en", "jina-es", "jina-de"), _Pre(_GPT2)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), _Pre(_DIGITS_GPT2)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), _Pre(_LLAMA3, whole_words=True, begins=True)),
    **dict.fromkeys(("smaug-bpe", "dbrx"), _Pre(_LLAMA3)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _Pre(_QWEN2, composed=True)),
    "tekken": _Pre(_TEKKEN, whole_words=True, begins=True),
}
"""The words we know. https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp"""

TURN_ENDS: Final = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|endoftext|>",
)
"""Control tokens that end an answer where a chat template writes them."""


@dataclass(frozen=True)
class FoundTokenizer:
    """What a GGUF file says of text, as Hugging Face's files say it."""

    tokenizer: bytes
    """tokenizer.json"""
    config: dict[str, Any]
    """tokenizer_config.json"""
    ids: dict[str, int | None] = field(default_factory=dict)
    """bos, eos, pad and unk, where there is one."""
    end_ids: tuple[int, ...] = ()
    """Whatever ends an answer, the end of a text first."""


def read_tokenizer_of(head: GGUFHead, *, rows: int, context: int) -> FoundTokenizer:
    """The tokenizer in a GGUF file of a model with `rows` embeddings; ValueError where it makes none."""
    vocabulary = _Vocabulary.of(head, rows)
    ids = {role: head.token_id(f"tokenizer.ggml.{name}_token_id", len(vocabulary.tokens)) for role, name in _ROLES}
    whole = head.text(WHOLE)
    content = _as_it_was(head, whole, vocabulary) if whole else _rebuilt(head, vocabulary, ids["bos"])
    template = head.text("tokenizer.chat_template")
    named = {
        role: vocabulary.tokens[id] for role, id in ids.items() if id is not None and role in ("bos", "eos", "pad")
    }
    unknown = vocabulary.tokens[ids["unk"]] if ids["unk"] is not None and vocabulary.is_sentencepiece else None
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": _begins(head, vocabulary, ids["bos"]),
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        **{f"{role}_token": token for role, token in named.items()},
        **({"unk_token": unknown} if unknown else {}),
        **({"chat_template": template} if template else {}),
    }
    ends = [ids["eos"], ids["eot"], ids["eom"]]
    ends += [
        id for id in vocabulary.control if vocabulary.tokens[id] in TURN_ENDS and vocabulary.tokens[id] in template
    ]
    return FoundTokenizer(content, config, ids, tuple(dict.fromkeys(id for id in ends if id is not None)))


_ROLES: Final = (
    ("bos", "bos"),
    ("eos", "eos"),
    ("eot", "eot"),
    ("eom", "eom"),
    ("pad", "padding"),
    ("unk", "unknown"),
)


@dataclass(frozen=True)
class _Vocabulary:
    tokens: list[str]
    types: list[int]
    is_sentencepiece: bool

    @classmethod
    def of(cls, head: GGUFHead, rows: int) -> _Vocabulary:
        kind = head.text("tokenizer.ggml.model")
        if kind not in ("gpt2", "llama"):
            raise ValueError(f"{head.path} has a tokenizer of kind {kind!r:.60}; gpt2 and llama are read.")
        tokens = head.entries("tokenizer.ggml.tokens", str)
        types = head.entries("tokenizer.ggml.token_type", int) or [NORMAL] * len(tokens)
        if not tokens or len(types) != len(tokens):
            raise ValueError(f"{head.path} has {len(tokens)} tokens and types for {len(types)}. Fetch it again.")
        if len(tokens) > rows:
            raise ValueError(f"{head.path} has {len(tokens)} tokens, and embeddings for {rows} of them.")
        used = len(tokens)
        while used and types[used - 1] == UNUSED:  # rows that only fill the embedding up
            used -= 1
        tokens = tokens[:used]
        if len(set(tokens)) < used or "" in tokens:
            raise ValueError(f"{head.path} has a token twice, or an empty one: no text could be told apart by them.")
        return cls(tokens, types[:used], kind == "llama")

    @property
    def control(self) -> list[int]:
        return [id for id, type in enumerate(self.types) if type == CONTROL]

    def added(self) -> list[dict[str, Any]]:
        """What is recognised in a text before anything else: control tokens, and words somebody added."""
        special = (CONTROL, UNKNOWN) if self.is_sentencepiece else (CONTROL,)
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": id, "content": token, **plain, "special": type in special}
            for id, (token, type) in enumerate(zip(self.tokens, self.types, strict=True))
            if type in (*special, USER_DEFINED)
        ]


def _begins(head: GGUFHead, vocabulary: _Vocabulary, bos: int | None) -> bool:
    pre = PRE.get(head.text("tokenizer.ggml.pre"))
    usual = vocabulary.is_sentencepiece or (pre is not None and pre.begins)
    return bos is not None and head.flag("tokenizer.ggml.add_bos_token", usual)


def _as_it_was(head: GGUFHead, whole: str, vocabulary: _Vocabulary) -> bytes:
    """The tokenizer.json the file carries, if it means the same tokens as the rest of the file."""
    try:
        content = json.loads(whole)
        entries = content["model"]["vocab"]
        found = dict(entries) if isinstance(entries, dict) else {entry[0]: id for id, entry in enumerate(entries)}
        found |= {str(token["content"]): token["id"] for token in content.get("added_tokens") or []}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"{head.path}: {WHOLE} is no tokenizer. Take the file from where it was made.") from error
    listed = {token: id for id, token in enumerate(vocabulary.tokens) if vocabulary.types[id] != UNUSED}
    if found != listed:
        raise ValueError(f"{head.path}: {WHOLE} has other tokens than the file's own list. Take another file.")
    return whole.encode()


def _rebuilt(head: GGUFHead, vocabulary: _Vocabulary, bos: int | None) -> bytes:
    """A tokenizer.json out of the list of tokens, their merges or scores and the word for how text is split."""
    parts = _sentencepiece(head, vocabulary) if vocabulary.is_sentencepiece else _byte_level(head, vocabulary)
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added(),
        **parts,
    }
    if _begins(head, vocabulary, bos):
        content["post_processor"] = _begin_with(vocabulary.tokens[bos or 0], bos or 0)
    return json.dumps(content, ensure_ascii=False).encode()


def _byte_level(head: GGUFHead, vocabulary: _Vocabulary) -> dict[str, Any]:
    word = head.text("tokenizer.ggml.pre")
    pre = PRE.get(word)
    if pre is None:
        raise ValueError(
            f"{head.path} splits text as {word or 'nothing that it names'!r:.60} does, which is not known here "
            f"({', '.join(sorted(PRE))} are). Import the model's Hugging Face directory instead."
        )
    return {
        "normalizer": {"type": "NFC"} if pre.composed else None,
        "pre_tokenizer": pre.splitter,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _bpe(
            vocabulary, _merges(head, vocabulary), byte_fallback=False, ignore_merges=pre.whole_words, unknown=None
        ),
    }


def _merges(head: GGUFHead, vocabulary: _Vocabulary) -> list[list[str]]:
    known = set(vocabulary.tokens)
    merges = [merge.split(" ") for merge in head.entries("tokenizer.ggml.merges", str)]
    for pair in merges:
        if len(pair) != 2 or not known.issuperset((*pair, "".join(pair))):
            raise ValueError(f"{head.path} is damaged: it merges {' and '.join(pair)!r:.80} to no token it has.")
    if not merges:
        raise ValueError(f"{head.path} has no merges, without which its tokenizer reads single bytes. Take another.")
    return merges


def _sentencepiece(head: GGUFHead, vocabulary: _Vocabulary) -> dict[str, Any]:
    scores = head.entries("tokenizer.ggml.scores", float)
    if len(scores) < len(vocabulary.tokens):
        raise ValueError(f"{head.path} has scores for {len(scores)} of {len(vocabulary.tokens)} tokens.")
    prefix = [{"type": "Prepend", "prepend": "▁"}] if head.flag("tokenizer.ggml.add_space_prefix", True) else []
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = head.token_id("tokenizer.ggml.unknown_token_id", len(vocabulary.tokens))
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, spaces]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": back},
        "model": _bpe(
            vocabulary,
            _merges_by_score(vocabulary, scores),
            byte_fallback=True,
            ignore_merges=False,
            unknown=None if unknown is None else vocabulary.tokens[unknown],
        ),
    }


def _merges_by_score(vocabulary: _Vocabulary, scores: list[float]) -> list[list[str]]:
    """Every pair of tokens whose union is a token, the highest score of the union first."""
    ids = {token: id for id, token in enumerate(vocabulary.tokens) if vocabulary.types[id] == NORMAL}
    found = []
    for token, id in ids.items():
        if len(token) > LONGEST_TOKEN:
            raise ValueError(f"The token {token[:40]!r}… has {len(token)} letters, which none has. Take another file.")
        for cut in range(1, len(token)):
            left, right = ids.get(token[:cut]), ids.get(token[cut:])
            if left is not None and right is not None:
                found.append((-scores[id], left, right))
    return [[vocabulary.tokens[left], vocabulary.tokens[right]] for _, left, right in sorted(found)]


def _bpe(
    vocabulary: _Vocabulary, merges: list[list[str]], *, byte_fallback: bool, ignore_merges: bool, unknown: str | None
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": byte_fallback,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": {token: id for id, token in enumerate(vocabulary.tokens)},
        "merges": merges,
    }


def _begin_with(token: str, id: int) -> dict[str, Any]:
    begin: dict[str, Any] = {"SpecialToken": {"id": token, "type_id": 0}}
    first = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [begin, first],
        "pair": [begin, first, {"SpecialToken": {"id": token, "type_id": 1}}, second],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    }


# --- Back --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WrittenTokenizer:
    """A tokenizer.json as the values of a GGUF file."""

    kind: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    add_space_prefix: bool
    unknown: int | None


def tokenizer_values(content: Mapping[str, Any], *, rows: int) -> WrittenTokenizer:
    """What a GGUF file says of the tokenizer of a directory; ValueError for one that llama.cpp has no word for."""
    model = content.get("model") or {}
    if model.get("type") != "BPE":
        raise ValueError(f"A GGUF file cannot hold a tokenizer of type {model.get('type')!r:.60}; only BPE.")
    by_id = {id: token for token, id in model["vocab"].items()}
    types = dict.fromkeys(by_id, NORMAL)
    is_sentencepiece = bool(model.get("byte_fallback"))
    if is_sentencepiece:
        types |= {id: BYTE for id, token in by_id.items() if re.fullmatch(r"<0x[0-9A-F]{2}>", token)}
    for added in content.get("added_tokens") or []:
        by_id[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added.get("special") else USER_DEFINED
    if max(by_id, default=0) >= rows:
        raise ValueError(f"The tokenizer has {max(by_id) + 1} tokens, and the model embeddings for {rows} of them.")
    ids = {token: id for id, token in by_id.items()}
    unknown = ids.get(model.get("unk_token") or "")
    if is_sentencepiece and unknown is not None:
        types[unknown] = UNKNOWN
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or []]
    return WrittenTokenizer(
        kind="llama" if is_sentencepiece else "gpt2",
        pre="default" if is_sentencepiece else _word_for(content),
        tokens=[by_id.get(id, f"[PAD{id}]") for id in range(rows)],
        types=[types.get(id, UNUSED) for id in range(rows)],
        merges=[] if is_sentencepiece else merges,
        scores=_scores(by_id, merges, rows) if is_sentencepiece else [],
        add_space_prefix=is_sentencepiece and "Prepend" in json.dumps(content.get("normalizer")),
        unknown=unknown,
    )


def _scores(by_id: Mapping[int, str], merges: Iterable[str], rows: int) -> list[float]:
    """The earlier a token is first made by a merge, the higher it scores."""
    rank: dict[str, int] = {}
    for number, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", ""), number)
    return [-float(rank.get(by_id.get(id, ""), 0)) for id in range(rows)]


def _word_for(content: Mapping[str, Any]) -> str:
    """llama.cpp's word for how a tokenizer.json splits text."""
    wanted = _essence(content.get("pre_tokenizer"))
    words = [word for word, pre in PRE.items() if _essence(pre.splitter) == wanted]
    if not words:
        raise ValueError("The model's tokenizer splits text in a way llama.cpp has no word for that is known here.")
    whole = bool((content.get("model") or {}).get("ignore_merges"))
    return next((word for word in words if PRE[word].whole_words == whole), words[0])


def _essence(splitter: Any) -> Any:
    """A pre-tokenizer without what makes no difference to how text is split."""
    if not isinstance(splitter, Mapping):
        return splitter
    if splitter.get("type") == "Sequence":
        parts = [_essence(part) for part in splitter.get("pretokenizers") or []]
        return parts[0] if len(parts) == 1 else parts
    ignored = {"trim_offsets", "add_prefix_space"} if splitter.get("add_prefix_space") is not True else {"trim_offsets"}
    return {name: value for name, value in splitter.items() if name not in ignored}

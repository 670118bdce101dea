"""Text to token ids and back, and the chat template.

The idea: byte-level BPE trained on our own corpus, so that any text at all has an encoding. Text is
split with Qwen2's pattern before merging, which keeps every digit a token of its own (a small model
learns arithmetic on digits, not on arbitrary number chunks) and which other engines recognise.

A conversation is written in ChatML::

    <|im_start|>user\\nWhat does a fox eat?<|im_end|>\\n<|im_start|>assistant\\nA fox eats mice.<|im_end|>\\n

Only what the assistant is responsible for is a response token: its text and its ``<|im_end|>``.
The end of a turn, the end of a document and padding are three different tokens, because a model
whose padding is its end token never learns to end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from trainer.asked import Message
from trainer.model.tokenizer_rules import read_tokenizer
from trainer.runtime.files import write_atomic

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"

DOCUMENT_END = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
PAD = "<|pad|>"
SPECIAL = (DOCUMENT_END, TURN_START, TURN_END, PAD)
ROLES = ("system", "user", "assistant")

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Tokenizer:
    """A trained byte-level BPE with its four special tokens."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend = backend
        ids = {token: id for token in SPECIAL if (id := backend.token_to_id(token)) is not None}
        missing = [token for token in SPECIAL if token not in ids]
        if missing:
            raise ValueError(f"The tokenizer lacks {', '.join(missing)}; a chat needs them.")
        self.vocab_size: int = backend.get_vocab_size()
        self.document_end_id: int = ids[DOCUMENT_END]
        self.turn_start_id: int = ids[TURN_START]
        self.end_id: int = ids[TURN_END]
        self.pad_id: int = ids[PAD]
        self.end_ids = (self.end_id, self.document_end_id)
        """What ends an answer, wherever one is sampled: in chat, in training and in every figure."""
        # Text people type must never become a control token, so plain text is encoded apart from them.
        self._headers = {role: self._plain(f"{role}\n") for role in ROLES}
        self._newline = self._plain("\n")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learn merges from `texts` until there are `vocab_size` entries (fewer if text runs out)."""
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(QWEN2_PATTERN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Read `tokenizer.json`; ValueError when it is missing, damaged, refused or lacks the chat tokens.

        Whatever length it was saved to cut or fill texts to, here they are left as they are.
        """
        path = Path(directory) / TOKENIZER
        data = read_tokenizer(path)
        try:
            with _panics_are_errors():
                backend = tokenizers.Tokenizer.from_buffer(data)
            backend.no_truncation()
            backend.no_padding()
        except Exception as error:  # the library raises a bare Exception for every failure
            raise ValueError(f"{path} is not a readable tokenizer: {error}") from error
        return cls(backend)

    def save(self, directory: Path) -> None:
        """Write `tokenizer.json` and the `tokenizer_config.json` that carries the chat template."""
        directory = Path(directory)
        write_atomic(directory / TOKENIZER, self.backend.to_str(pretty=False).encode())
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": CHAT_TEMPLATE,
            "eos_token": TURN_END,
            "pad_token": PAD,
            "additional_special_tokens": [DOCUMENT_END, TURN_START],
            "clean_up_tokenization_spaces": False,
            "add_bos_token": False,
            "model_max_length": 1_000_000,
        }
        write_atomic(directory / TOKENIZER_CONFIG, (json.dumps(config, indent=2) + "\n").encode())

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in _split_special(text):
            with _panics_are_errors():
                ids += self.backend.encode(piece, add_special_tokens=False).ids
        return ids

    def encode(self, text: str) -> list[int]:
        """Ids of plain text. Control tokens spelled out in it stay ordinary characters."""
        return self._plain(text)

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many documents, each closed by the document-end token; uses every core."""
        if any(token in text for text in texts for token in SPECIAL):
            return [[*self.encode(text), self.document_end_id] for text in texts]
        with _panics_are_errors():
            batches = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [[*encoding.ids, self.document_end_id] for encoding in batches]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without the special tokens; broken UTF-8 becomes U+FFFD."""
        return str(self.backend.decode(list(ids), skip_special_tokens=True))

    def render_chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> tuple[list[int], list[bool]]:
        """A conversation as ids, and for each id whether the assistant is responsible for it.

        For an answer of weight 0 nobody is: it is read, and not learnt. The newline after an assistant's
        ``<|im_end|>`` belongs to the template, not to the answer.
        """
        ids: list[int] = []
        is_response: list[bool] = []

        def put(tokens: list[int], response: bool) -> None:
            ids.extend(tokens)
            is_response.extend([response] * len(tokens))

        for message in messages:
            role, content = message.get("role"), message.get("content")
            if role not in ROLES or not isinstance(content, str):
                raise ValueError(f"A message needs a role of {', '.join(ROLES)} and text, not {message!r}.")
            answers = role == "assistant" and message.get("weight") != 0
            put([self.turn_start_id, *self._headers[role]], False)
            put([*self.encode(content), self.end_id], answers)
            put(self._newline, False)
        if add_generation_prompt:
            put([self.turn_start_id, *self._headers["assistant"]], False)
        return ids, is_response


@contextmanager
def _panics_are_errors() -> Iterator[None]:
    """ValueError for what the library gives up on, a regular expression that tries for too long above all.

    It raises something that is no Exception then, and whoever guards a thread by `except Exception` would lose it.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"The tokenizer cannot read this text ({error}). Take a model with another one.") from error


def _split_special(text: str) -> list[str]:
    """`text` cut inside every spelled-out control token, so that none is recognised as one."""
    pieces = [text]
    for token in SPECIAL:
        if token in text:
            pieces = [part for piece in pieces for part in _cut(piece, token)]
    return pieces


def _cut(piece: str, token: str) -> list[str]:
    first, *rest = piece.split(token)
    parts = [first]
    for tail in rest:
        parts[-1] += token[:2]
        parts.append(token[2:] + tail)
    return [part for part in parts if part]

"""Text to token ids and back, and conversations to ids.

The idea: byte-level BPE trained on our own corpus, so that any text at all has an encoding. Text is
split with Qwen2's pattern before merging, which keeps every digit a token of its own (a small model
learns arithmetic on digits, not on arbitrary number chunks) and which other engines recognise.

A conversation is written in ChatML::

    <|im_start|>user\\nWhat does a fox eat?<|im_end|>\\n<|im_start|>assistant\\nA fox eats mice.<|im_end|>\\n

Only what the assistant is responsible for is a response token: its text and its ``<|im_end|>``.
In our own tokenizers the end of a turn, the end of a document and padding are three different tokens.

A model from elsewhere brings its own tokenizer, whose tokens are known by their roles (roles.py), not by how they are
spelled, and its own template (template.py). Its padding may be its end token; so everywhere a mask says what is
padding, and an id never does, because a model whose ends count as padding never learns to end.

What people type never becomes a control token, wherever it stands; what a template writes does. So text is encoded by a
copy of the tokenizer that knows no control tokens, and those that a template wrote are put in where they stand.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from trainer.asked import Message
from trainer.model.roles import (
    CHAT_TEMPLATE_FILE,
    DOCUMENT_ENDS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    Roles,
    read_roles,
    roles_of,
)
from trainer.model.speech import (
    CHAT_TEMPLATE,
    DOCUMENT_END,
    PAD,
    SPECIAL,
    TURN_END,
    TURN_START,
    any_of,
    speech_of,
    unused_letters,
)
from trainer.model.streaming import RereadStream, TextStream, spelling_of
from trainer.runtime.files import write_atomic

ROLES = ("system", "user", "assistant")

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

OWN_CONFIG: Final = (
    json.dumps(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": CHAT_TEMPLATE,
            "eos_token": TURN_END,
            "pad_token": PAD,
            "additional_special_tokens": [DOCUMENT_END, TURN_START],
            "clean_up_tokenization_spaces": False,
            "add_bos_token": False,
            "model_max_length": 1_000_000,
        },
        indent=2,
    )
    + "\n"
).encode()
"""tokenizer_config.json of the tokenizers that we train."""
_GENERATION: Final = re.compile(r"\{%-?\s*generation\s*-?%\}")


class _Place(NamedTuple):
    """A control token that stands in a text because a template wrote it; or, without an id, a place to cut."""

    start: int
    stop: int
    id: int | None


class Piece(NamedTuple):
    """What one token says."""

    text: str
    kind: Literal["text", "bytes", "control"]
    """Whether `text` is that, bytes in hexadecimal which make a letter only with others, or a control token's name."""


class Tokenizer:
    """A tokenizer by the roles of its tokens: ours, which we trained, or one that came with a model."""

    def __init__(self, roles: Roles) -> None:
        """ValueError for a tokenizer that nobody could chat with: no end, ids with gaps, a broken template."""
        self.roles = roles
        self.vocab_size: int = roles.vocab_size
        speech = speech_of(roles)
        self.is_own, self.template = speech.is_own, speech.template
        self.end_id: int = speech.end_ids[0]
        """What closes the assistant's turn."""
        self.end_ids: tuple[int, ...] = speech.end_ids
        """What ends an answer, wherever one is sampled: in chat, in training and in every figure."""
        self._control = speech.control
        self._find_control = any_of(self._control)
        self._typed, self._marks = _without_control(self._control, roles)
        self._spelling = spelling_of(roles.decoder)
        self._tokens = {id: text for text, id in roles.ids.items()}
        self.document_end_id: int = self._document_end()
        own_pad = roles.control[PAD] if self.is_own else None
        self.pad_id: int = next(id for id in (own_pad, roles.pad, self.end_id) if id is not None)
        """What fills up a batch. It may be an end: what is padding, a mask says."""
        others = [id for id in self._control.values() if id not in {*self.end_ids, roles.named("bos_token")}]
        self.filler_id: int = self.pad_id if self.pad_id not in self.end_ids or not others else others[0]
        """Padding for whoever tells it by its id, as transformers' scoring models do: no end, if there is another."""
        self.document_start_ids: tuple[int, ...] = (self.document_end_id,) if self.is_own else roles.document_start
        """What stands before bare text, which a model reads that has not learnt to converse."""
        unknown = roles.named("unk_token")
        self._never_typed = frozenset(id for id in self._control.values() if id != unknown)
        self._silent = frozenset(self._control.values())
        if self.is_own:
            self.turn_start_id: int = self._control[TURN_START]
            self._headers = {role: self.encode(f"{role}\n") for role in ROLES}
            self._newline = self.encode("\n")

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
        files = {
            TOKENIZER: backend.to_str(pretty=False).encode(),
            TOKENIZER_CONFIG: OWN_CONFIG,
        }
        return cls(roles_of(files, generation={}, config={}))

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Read the tokenizer's files; ValueError when one is missing, damaged or refused, or nothing ends an answer.

        Whatever length it was saved to cut or fill texts to, here they are left as they are.
        """
        roles = read_roles(directory)
        try:
            return cls(roles)
        except ValueError as error:
            raise ValueError(f"{directory}: {error}") from error

    def save(self, directory: Path) -> None:
        """Write the tokenizer's files as they came; a template that we gave it goes beside them."""
        directory = Path(directory)
        files = dict(self.roles.files)
        if self.is_own:
            files.setdefault(TOKENIZER_CONFIG, OWN_CONFIG)
        elif self.roles.template is None:
            files[CHAT_TEMPLATE_FILE] = self.template.source.encode()
        for name, data in files.items():
            write_atomic(directory / name, data)

    def generation_config(self, *, max_new_tokens: int) -> dict[str, Any]:
        """What generation_config.json should say: what it said, and where answers end as it is known here."""
        came = {} if self.is_own else self.roles.generation
        ends: list[int] | int = list(self.end_ids)
        return {
            "eos_token_id": self.end_id if ends == [came.get("eos_token_id")] else ends,
            "pad_token_id": self.pad_id,
            "do_sample": True,
            "temperature": 1.0,
            **{name: value for name, value in came.items() if name not in ("eos_token_id", "pad_token_id")},
            "max_new_tokens": max_new_tokens,
        }

    @cached_property
    def backend(self) -> tokenizers.Tokenizer:
        """The library's tokenizer as it came, which does read control tokens out of any text."""
        return _built(self.roles.files[TOKENIZER])

    # --- Text and ids ----------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of plain text. Control tokens spelled out in it stay ordinary characters."""
        with _panics_are_errors():
            ids: list[int] = self._typed.encode(text, add_special_tokens=False).ids
        return ids if self._never_typed.isdisjoint(ids) else self._encode(text, [])[0]

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many documents, each closed by the document-end token; uses every core."""
        with _panics_are_errors():
            batch = [one.ids for one in self._typed.encode_batch_fast(list(texts), add_special_tokens=False)]
        plain = [
            ids if self._never_typed.isdisjoint(ids) else self.encode(text)
            for ids, text in zip(batch, texts, strict=True)
        ]
        return [[*ids, self.document_end_id] for ids in plain]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without the special tokens; broken UTF-8 becomes U+FFFD."""
        if self._spelling is None:
            return str(self._typed.decode([id for id in ids if self._token(id) is not None], skip_special_tokens=True))
        stream = self.stream()
        return "".join(map(stream.push, ids)) + stream.finish()

    def stream(self) -> TextStream | RereadStream:
        """A text that is being written, to be given its ids one by one; the pieces are together what `decode` gives."""
        if self._spelling is None:
            return RereadStream(self.decode)
        return TextStream(self._token, self._spelling)

    def piece(self, id: int) -> Piece:
        """What one token says by itself: text, part of a letter, or nothing that is text."""
        token = self._token(id)
        if token is None:
            return Piece(self._tokens.get(id, f"#{id}"), "control")
        if self._spelling is None:
            return Piece(self.decode([id]), "text")
        data = self._spelling.bytes_of(token, is_first=False)
        try:
            return Piece(data.decode(), "text")
        except UnicodeDecodeError:
            return Piece(data.hex(" ").upper(), "bytes")

    def _token(self, id: int) -> str | None:
        """How a token is spelled; None for one that has no text, and for ids that no token has."""
        return None if id in self._silent else self._tokens.get(id)

    def _encode(self, text: str, places: Sequence[_Place]) -> tuple[list[int], list[int]]:
        """Ids of a text with control tokens at these places and nowhere else; and where each begins in the text."""
        ids, starts = self._encode_marked(text, places)
        wanted = sum(place.id in self._never_typed for place in places)
        if sum(id in self._never_typed for id in ids) == wanted:
            return ids, starts
        # The vocabulary itself spells a control token: cut it in two wherever it stands, so that it is letters.
        taken = {spot for place in places for spot in range(place.start, place.stop)}
        cuts = [
            _Place(spot, spot, None)
            for found in self._find_control.finditer(text)
            if (spot := found.start() + min(2, len(found[0]) - 1)) not in taken
        ]
        ids, starts = self._encode_marked(text, sorted([*places, *cuts]))
        if sum(id in self._never_typed for id in ids) != wanted:
            raise ValueError("The tokenizer reads control tokens out of plain text. Take a model with another one.")
        return ids, starts

    def _encode_marked(self, text: str, places: Sequence[_Place]) -> tuple[list[int], list[int]]:
        """One pass of the library: a mark that only we know stands for each place, so that the rest is cut as it is."""
        parts: list[str] = []
        end = 0
        for place in places:
            parts += [text[end : place.start], self._marks[place.id if place.id in self._marks else None][0]]
            end = place.stop
        with _panics_are_errors():
            encoding = self._typed.encode("".join([*parts, text[end:]]), add_special_tokens=False)
        ids: list[int] = []
        starts: list[int] = []
        marks = {id for _, id in self._marks.values()}
        moved, waiting = 0, iter(places)
        for id, (start, _) in zip(encoding.ids, encoding.offsets, strict=True):
            if id not in marks:
                ids.append(id)
                starts.append(start - moved)
                continue
            place = next(waiting)
            moved += len(self._marks[place.id if place.id in self._marks else None][0]) - (place.stop - place.start)
            if place.id is not None:
                ids.append(place.id)
                starts.append(place.start)
        assert next(waiting, None) is None
        return ids, starts

    # --- Conversations ---------------------------------------------------------------------------------

    def render_chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> tuple[list[int], list[bool]]:
        """A conversation as ids, and for each id whether the assistant is responsible for it.

        That is whatever the model has to write once it is its turn, up to what ends the turn. For an answer of weight 0
        nobody is: it is read, and not learnt. ValueError for a conversation that the template refuses.
        """
        for message in messages:
            role, content = message.get("role"), message.get("content")
            if role not in ROLES or not isinstance(content, str):
                raise ValueError(f"A message needs a role of {', '.join(ROLES)} and text, not {message!r}.")
        if self.is_own:
            return self._render_own(messages, add_generation_prompt)
        marks = unused_letters([self.template.source, *(message["content"] for message in messages)])
        disguised, real = self._disguise(messages, marks)
        text = self.template.render(disguised, add_generation_prompt=add_generation_prompt)
        spans = self._answers(disguised, text, add_generation_prompt, marks)
        ids, starts = self._encode(text.translate(real), self._places(text))
        return ids, [any(first <= start < last for first, last in spans) for start in starts]

    def render_answers(self, messages: Sequence[Message], answers: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """A prompt's ids, and the ids of each of these texts as the model would have written it there, without its end.

        That is what `encode` gives, unless the template writes something before an answer, or the tokenizer a space.
        """
        prompt, _ = self.render_chat(messages, add_generation_prompt=True)
        if self.is_own or not any(answers):
            return prompt, [self.encode(answer) for answer in answers]
        return prompt, [self._follow(prompt, messages, answer) for answer in answers]

    def _follow(self, prompt: list[int], messages: Sequence[Message], answer: str) -> list[int]:
        """The ids of an answer's words in the whole conversation, unless that cuts the prompt in other tokens."""
        marks = unused_letters([self.template.source, answer, *(message["content"] for message in messages)])
        talk, real = self._disguise([*messages, {"role": "assistant", "content": answer}], marks)
        asked, text = self.template.render(talk[:-1], add_generation_prompt=True), self._rendered(talk)
        if text is None or not text.startswith(asked):
            return self.encode(answer)
        _, stop = self._content(talk, len(messages), text, False, next(marks))
        ids, starts = self._encode(text.translate(real), self._places(text))
        is_prompt = sum(start < len(asked) for start in starts) == len(prompt) and ids[: len(prompt)] == prompt
        words = [id for id, start in zip(ids, starts, strict=True) if len(asked) <= start < stop]
        return words if is_prompt and stop else self.encode(answer)

    def _places(self, text: str) -> list[_Place]:
        return [_Place(*found.span(), self._control[found[0]]) for found in self._find_control.finditer(text)]

    def _render_own(self, messages: Sequence[Message], add_generation_prompt: bool) -> tuple[list[int], list[bool]]:
        """ChatML, put together from ids. The newline after ``<|im_end|>`` is the template's, not the answer's."""
        ids: list[int] = []
        is_response: list[bool] = []

        def put(tokens: list[int], response: bool) -> None:
            ids.extend(tokens)
            is_response.extend([response] * len(tokens))

        for message in messages:
            put([self.turn_start_id, *self._headers[message["role"]]], False)
            put([*self.encode(message["content"]), self.end_id], _is_learnt(message))
            put(self._newline, False)
        if add_generation_prompt:
            put([self.turn_start_id, *self._headers["assistant"]], False)
        return ids, is_response

    def _disguise(self, messages: Sequence[Message], marks: Iterator[str]) -> tuple[list[Message], dict[int, str]]:
        """The messages with another letter where a control token begins in them; and that letter's meaning.

        So every control token in what the template makes of them is the template's own. A beginning of one at the end
        of a message counts too: the template may write what would complete it. Letter for letter, so that places in
        the text stay what they are; everything else a template may look for in a message (spaces, `</think>`) is there.
        """
        stands_for: dict[str, str] = {}

        def disguise(content: str) -> str:
            spots = [found.start() for found in self._find_control.finditer(content)]
            end = len(content.rstrip())
            longest = max(map(len, self._control), default=0)
            for start in range(max(0, end - longest + 1), end):
                if any(token.startswith(content[start:end]) for token in self._control):
                    spots.append(start)
            letters = list(content)
            for spot in spots:
                if content[spot] not in stands_for:
                    stands_for[content[spot]] = next(marks)
                letters[spot] = stands_for[content[spot]]
            return "".join(letters)

        disguised = [{**message, "content": disguise(message["content"])} for message in messages]
        return disguised, {ord(mark): letter for letter, mark in stands_for.items()}

    def _answers(
        self, messages: Sequence[Message], text: str, add_generation_prompt: bool, marks: Iterator[str]
    ) -> list[tuple[int, int]]:
        """Where in the rendered text the answers stand that are to be learnt, each up to its end token."""
        answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        learnt = [number for number in answers if _is_learnt(messages[number])]
        if not learnt:
            return []
        blocks = self._generation_blocks(messages, text, add_generation_prompt, marks)
        spans: list[tuple[int, int]] = []
        for number in learnt:
            asked = self._rendered(messages[:number], add_generation_prompt=True)
            prompt = len(asked) if asked is not None and text.startswith(asked) else 0
            if len(blocks) == len(answers):
                start, stop = blocks[answers.index(number)]
                ends = [place.end() for place in self._find_control.finditer(text, start, stop) if self._ends(place)]
                if ends and not text[ends[-1] : stop].strip():
                    stop = ends[-1]
                spans.append((max(start, prompt), stop))
                continue
            start, stop = self._content(messages, number, text, add_generation_prompt, next(marks))
            place = self._find_control.search(text, stop)
            if place is not None and self._ends(place) and not text[stop : place.start()].strip():
                stop = place.end()
            spans.append((prompt or start, stop))
        return spans

    def _content(
        self, messages: Sequence[Message], number: int, text: str, add_generation_prompt: bool, mark: str
    ) -> tuple[int, int]:
        """Where the template puts what a message says: what stays when it says something else is not part of it."""
        changed = [*messages[:number], {**messages[number], "content": mark}, *messages[number + 1 :]]
        other = self.template.render(changed, add_generation_prompt=add_generation_prompt)
        before, found, behind = other.partition(mark)
        if not found:
            return 0, 0  # the template leaves this message out
        if not text.endswith(behind):
            raise ValueError("The model's chat template writes an answer in a way that hides where it ends.")
        start = len(before) if text.startswith(before) else len(_common(before, text))
        return start, len(text) - len(behind)

    def _generation_blocks(
        self, messages: Sequence[Message], text: str, add_generation_prompt: bool, marks: Iterator[str]
    ) -> list[tuple[int, int]]:
        """Where the template's own `{% generation %}` blocks stand; none unless marking them changes nothing else."""
        if not _GENERATION.search(self.template.source):
            return []
        first, last = next(marks), next(marks)
        marked = self.template.render(messages, add_generation_prompt=add_generation_prompt, marks=(first, last))
        if marked.replace(first, "").replace(last, "") != text:
            return []
        starts = [found.start() for found in re.finditer(first, marked)]
        stops = [found.start() for found in re.finditer(last, marked)]
        return [
            (start - 2 * number, stop - 2 * number - 1)
            for number, (start, stop) in enumerate(zip(starts, stops, strict=True))
        ]

    def _rendered(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str | None:
        """The text of a part of a conversation, if the template takes it."""
        try:
            return self.template.render(messages, add_generation_prompt=add_generation_prompt)
        except ValueError:
            return None

    def _ends(self, place: re.Match[str]) -> bool:
        return self._control[place[0]] in self.end_ids

    def _document_end(self) -> int:
        """What separates documents: the end token of a base model; of a chat model the one that ends no turn."""
        eos = self.roles.named("eos_token")
        if self.roles.template is None and not self.is_own and eos is not None:
            return eos
        known = [self._control[token] for token in DOCUMENT_ENDS if token in self._control]
        return known[0] if known else self.end_id if eos is None else eos


def _is_learnt(message: Message) -> bool:
    return message["role"] == "assistant" and message.get("weight") != 0


def _common(one: str, other: str) -> str:
    """What both begin with."""
    place = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:place]


def _without_control(
    control: Mapping[str, int], roles: Roles
) -> tuple[tokenizers.Tokenizer, dict[int | None, tuple[str, int]]]:
    """The tokenizer with no control tokens in it, and the marks that stand for them: (text, id) by control token's id.

    A mark is cut out of a text exactly as its token would be (`lstrip`, `rstrip`), and nobody can type it: it is drawn
    at random. The one of None stands for most tokens.
    """
    backend = _built(roles.files[TOKENIZER])
    backend.post_processor = processors.Sequence([])  # it would only move the places where tokens begin
    unsaid = [one for one in roles.added if one.content in control and not one.special]
    backend.add_special_tokens([tokenizers.AddedToken(one.content, **one.flags, special=True) for one in unsaid])
    backend.encode_special_tokens = True
    by_flags: dict[tuple[bool, bool], tuple[str, int]] = {}
    marks: dict[int | None, tuple[str, int]] = {}
    plain = (False, False)
    for one in [None, *(one for one in roles.added if one.content in control)]:
        flags = plain if one is None else (one.flags["lstrip"], one.flags["rstrip"])
        if flags not in by_flags:
            text = secrets.token_hex(16)
            backend.add_tokens(
                [tokenizers.AddedToken(text, lstrip=flags[0], rstrip=flags[1], normalized=False, special=False)]
            )
            by_flags[flags] = (text, int(backend.token_to_id(text) or 0))
        if one is None or flags != plain:
            marks[None if one is None else one.id] = by_flags[flags]
    if any(id < roles.vocab_size for _, id in by_flags.values()):
        raise ValueError("The tokenizer's ids have gaps, which is not supported. Take a model with another one.")
    return backend, marks


def _built(data: bytes) -> tokenizers.Tokenizer:
    """What the library makes of a tokenizer.json, without any length to cut or fill texts to."""
    try:
        with _panics_are_errors():
            backend = tokenizers.Tokenizer.from_buffer(data)
        backend.no_truncation()
        backend.no_padding()
        return backend
    except Exception as error:  # the library raises a bare Exception for every failure
        raise ValueError(f"tokenizer.json is not a readable tokenizer: {error}") from error


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

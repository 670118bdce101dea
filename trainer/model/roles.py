"""Which tokens of a tokenizer play which role: what ends, what fills up, what begins, what controls.

The idea: no token is known by its spelling. A directory says in up to six files what its tokens are for, none of them
has to be there, and they may contradict each other: `generation_config.json` (where an answer ends),
`tokenizer_config.json` and the older `special_tokens_map.json` (names like "eos_token", and which tokens control),
`config.json` (ids, as the last resort), `chat_template.jinja` (how a conversation is written; it may stand in
`tokenizer_config.json` too), and `tokenizer.json` itself. They are read here once, as plain JSON; what the template
adds (which token closes an assistant's turn) is found in tokenizer.py by rendering.

Free of torch and of the tokenizer library, so that the site refuses at the door what the trainer could not load.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from trainer.model.tokenizer_rules import parse_tokenizer
from trainer.runtime.reading import read_bytes

TOKENIZER: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
SPECIAL_TOKENS_MAP: Final = "special_tokens_map.json"
CHAT_TEMPLATE_FILE: Final = "chat_template.jinja"
GENERATION_CONFIG: Final = "generation_config.json"
CONFIG: Final = "config.json"
KEPT: Final = (TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, CHAT_TEMPLATE_FILE)
"""What is written again as it came."""

NAMES: Final = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
LISTS: Final = ("additional_special_tokens", "extra_special_tokens")
DOCUMENT_ENDS: Final = ("<|endoftext|>", "<|end_of_text|>", "</s>")
"""How a control token that only separates documents is spelled, where no file says which one does."""
LARGEST_JSON_BYTES: Final = 32 * 2**20
LARGEST_TEMPLATE_BYTES: Final = 256 * 2**10


@dataclass(frozen=True, kw_only=True)
class Added:
    """A token that is looked for in a text before anything else is, and how."""

    id: int
    content: str
    special: bool
    flags: Mapping[str, bool]
    """"lstrip", "rstrip", "single_word" and "normalized", as the tokenizer library means them."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """What a directory's files say about its tokens."""

    files: Mapping[str, bytes]
    """The tokenizer's files as they came, by name."""
    vocab_size: int
    """The highest id, and one."""
    ids: Mapping[str, int]
    """Of every token."""
    added: tuple[Added, ...]
    decoder: Any
    """How tokens become text, as tokenizer.json has it."""
    names: Mapping[str, str]
    """"eos_token" and the like to how the token is spelled; a template reads them."""
    control: Mapping[str, int]
    """Every token that means something other than its letters, with its id; only added tokens can."""
    ends: tuple[int, ...]
    """What ends a text, most particular first, as far as the files say; the template may know another one."""
    pad: int | None
    document_start: tuple[int, ...]
    """What the tokenizer puts before a text of its own accord: Llama's "begin of text", for one."""
    template: str | None
    generation: Mapping[str, Any] = field(default_factory=dict)
    """generation_config.json as it came."""

    def named(self, name: str) -> int | None:
        """The id of the token of that name ("eos_token"), if there is one."""
        return self.ids.get(self.names.get(name, ""))


def read_roles(directory: Path) -> Roles:
    """What the files of a directory say; ValueError, in one sentence, for one that is missing, damaged or refused."""
    directory = Path(directory)
    data, content = parse_tokenizer(directory / TOKENIZER)
    files = {TOKENIZER: data}
    for name in KEPT[1:]:
        if (path := directory / name).is_file():
            most = LARGEST_TEMPLATE_BYTES if name == CHAT_TEMPLATE_FILE else LARGEST_JSON_BYTES
            files[name] = _read(path, most)
    try:
        return roles_of(
            files,
            content=content,
            generation=_object(directory / GENERATION_CONFIG),
            config=_object(directory / CONFIG),
        )
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from error


def roles_of(
    files: Mapping[str, bytes],
    *,
    content: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
) -> Roles:
    """The roles in files that have been read; `content` is what tokenizer.json means, where that is known already."""
    content = json.loads(files[TOKENIZER]) if content is None else content
    ids, added = _vocabulary(content)
    tokens = _json(files, TOKENIZER_CONFIG)
    names = {name: text for name in NAMES if (text := _text(tokens.get(name))) is not None}
    older = _json(files, SPECIAL_TOKENS_MAP)
    names = {name: text for name in NAMES if (text := _text(older.get(name))) is not None} | names
    for name in ("bos", "eos", "pad"):  # last resort: only the model's own files say
        for source in (generation, config):
            for id in _ids(source.get(f"{name}_token_id"), ids):
                names.setdefault(f"{name}_token", next(text for text, other in ids.items() if other == id))
    controls = {one.content for one in added if one.special} | set(names.values())
    controls |= set(_listed(tokens)) | set(_listed(older))
    said = [*_ids(generation.get("eos_token_id"), ids)]
    if (eos := ids.get(names.get("eos_token", ""))) is not None and eos not in said:
        said.insert(0, eos)
    pads = [*_ids(generation.get("pad_token_id"), ids), *_ids(config.get("pad_token_id"), ids)]
    pad = ids.get(names.get("pad_token", ""), pads[0] if pads else None)
    by_id = {id: text for text, id in ids.items()}
    controls |= {by_id[id] for id in said} | ({by_id[pad]} if pad is not None else set())
    return Roles(
        files=dict(files),
        vocab_size=max(ids.values(), default=-1) + 1,
        ids=ids,
        added=added,
        decoder=content.get("decoder"),
        names=names,
        control={one.content: one.id for one in added if one.content in controls},
        ends=tuple(dict.fromkeys(said)),
        pad=pad,
        document_start=_document_start(content.get("post_processor"), tokens, ids, names),
        template=_template(files, tokens),
        generation=generation,
    )


def _vocabulary(content: Any) -> tuple[dict[str, int], tuple[Added, ...]]:
    """Every token's id, and the added tokens; ValueError where the file means nothing."""
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # Unigram: pieces with their scores, the id is the place
        vocabulary = {entry[0]: id for id, entry in enumerate(vocabulary) if isinstance(entry, list) and entry}
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ValueError("tokenizer.json has no vocabulary. Take another tokenizer.")
    added: list[Added] = []
    ids: dict[str, int] = dict(vocabulary)
    for token in content.get("added_tokens") or []:
        text, id, special = token["content"], token.get("id"), bool(token.get("special"))
        flags = {
            "lstrip": bool(token.get("lstrip")),
            "rstrip": bool(token.get("rstrip")),
            "single_word": bool(token.get("single_word")),
            "normalized": bool(token.get("normalized", not special)),
        }
        ids[text] = id
        added.append(Added(id=id, content=text, special=special, flags=flags))
    if not all(isinstance(id, int) and not isinstance(id, bool) and id >= 0 for id in ids.values()):
        raise ValueError("an entry of tokenizer.json has no number for an id. Take another tokenizer.")
    return ids, tuple(added)


def _document_start(
    processor: Any, tokens: Mapping[str, Any], ids: Mapping[str, int], names: Mapping[str, str]
) -> tuple[int, ...]:
    """Ids of what stands before a text, by tokenizer.json's own post-processing or by `add_bos_token`."""
    if tokens.get("add_bos_token") is False:
        return ()
    parts = processor.get("processors") or [processor] if isinstance(processor, dict) else []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "TemplateProcessing":
            continue
        start: list[int] = []
        for piece in part.get("single") or []:
            if not isinstance(piece, dict) or "SpecialToken" not in piece:
                break
            name = piece["SpecialToken"].get("id")
            start += _ids((part.get("special_tokens") or {}).get(name, {}).get("ids"), ids)
        return tuple(start)
    begins = ids.get(names.get("bos_token", "")) if tokens.get("add_bos_token") else None
    return () if begins is None else (begins,)


def _text(token: Any) -> str | None:
    """How a token is spelled: it is a text, or an object with one."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def _listed(source: Mapping[str, Any]) -> Iterator[str]:
    """Control tokens that have no name of their own, or a name that we do not know."""
    for name in LISTS:
        listed = source.get(name)
        tokens = listed.values() if isinstance(listed, dict) else listed if isinstance(listed, list) else ()
        yield from (text for token in tokens if (text := _text(token)) is not None)
    decoder = source.get("added_tokens_decoder")
    for token in decoder.values() if isinstance(decoder, dict) else ():
        if isinstance(token, dict) and token.get("special") and (text := _text(token)) is not None:
            yield text


def _ids(value: Any, ids: Mapping[str, int]) -> list[int]:
    """A number or a list of them, as far as they are tokens (-1 and the like stand for none)."""
    known = set(ids.values()) if value is not None else set()
    listed = value if isinstance(value, list) else [value]
    return [id for id in listed if isinstance(id, int) and not isinstance(id, bool) and id in known]


def _template(files: Mapping[str, bytes], tokens: Mapping[str, Any]) -> str | None:
    """The chat template: of its own file, or of tokenizer_config.json; of several the one called "default"."""
    if CHAT_TEMPLATE_FILE in files:
        try:
            return files[CHAT_TEMPLATE_FILE].decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{CHAT_TEMPLATE_FILE} is not UTF-8 text. Save it as such.") from error
    found = tokens.get("chat_template")
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default", next(iter(named.values()), None))
    if found is None or found == "":
        return None
    if not isinstance(found, str) or len(found.encode()) > LARGEST_TEMPLATE_BYTES:
        kilobytes = LARGEST_TEMPLATE_BYTES // 2**10
        raise ValueError(f"its chat template should be a text of at most {kilobytes} kB. Shorten or remove it.")
    return found


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    return _parsed(files[name], name) if name in files else {}


def _object(path: Path) -> dict[str, Any]:
    return _parsed(_read(path, LARGEST_JSON_BYTES), path.name) if path.is_file() else {}


def _parsed(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not valid JSON ({error}). Copy it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} should hold a JSON object. Copy it again.")
    return value


def _read(path: Path, most: int) -> bytes:
    try:
        return read_bytes(path, most=most)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error

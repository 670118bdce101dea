"""How a model converses: the template its conversations are written by, and what ends an answer.

The idea: the files of a model name its ends, each in its own way (roles.py), and its template writes one of them after
everything the assistant says. So the template is rendered once, and what stands behind the answer is the end of a turn.

Free of torch and of the tokenizer library, like roles.py and template.py: by `read_speech` the site knows, before it
takes a model in, whether the trainer will be able to talk to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer.asked import Message
from trainer.model.roles import Roles, read_roles
from trainer.model.template import ChatTemplate

DOCUMENT_END = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
PAD = "<|pad|>"
SPECIAL = (DOCUMENT_END, TURN_START, TURN_END, PAD)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PLAIN_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ message['role'] + ':\\n' + message['content'] + eos_token + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
)
"""For a model that has neither a template nor ChatML's tokens: a base model that is yet to learn to converse."""
FIRST_MARK: Final = 0xF0000
"""Marks in a text are letters of Unicode's private planes that stand nowhere in it."""


@dataclass(frozen=True, kw_only=True)
class Speech:
    """How a model converses."""

    template: ChatTemplate
    is_own: bool
    """Whether it is the one way of ours, whose four tokens are known by their spelling."""
    end_ids: tuple[int, ...]
    """Whatever ends an answer; first what closes the assistant's turn."""
    control: Mapping[str, int]
    """Every token that people cannot type, with its id."""


def read_speech(directory: Path) -> tuple[Roles, Speech]:
    """What a directory says of its tokens and talk; ValueError, in a sentence, unless the trainer can talk to it."""
    roles = read_roles(directory)
    try:
        return roles, speech_of(roles)
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from error


def speech_of(roles: Roles) -> Speech:
    """How the model with these roles converses; ValueError for a broken template, or where nothing ends an answer."""
    is_own = all(token in roles.control for token in SPECIAL) and roles.template in (None, CHAT_TEMPLATE)
    is_chatml = TURN_START in roles.control and TURN_END in roles.control
    source = roles.template or (CHAT_TEMPLATE if is_chatml else PLAIN_TEMPLATE)
    template = ChatTemplate(source, names=roles.names)
    if is_own:
        own = (roles.control[TURN_END], roles.control[DOCUMENT_END])
        return Speech(template=template, is_own=True, end_ids=own, control=roles.control)
    turn_end = _turn_end(template, roles)
    spelled = roles.control if turn_end is None else {**roles.control, turn_end: roles.ids[turn_end]}
    first = roles.named("eos_token") if turn_end is None else spelled[turn_end]
    ends = tuple(dict.fromkeys(id for id in (first, *roles.ends) if id is not None))
    if not ends:
        raise ValueError(
            "The tokenizer names no token that ends an answer. Name one as eos_token in tokenizer_config.json."
        )
    return Speech(template=template, is_own=False, end_ids=ends, control=spelled)


def _turn_end(template: ChatTemplate, roles: Roles) -> str | None:
    """The token that the template writes behind what the assistant says, where it writes one."""
    mark = next(unused_letters([template.source]))
    talk: list[Message] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
    try:
        _, _, behind = template.render(talk).partition(mark)
    except ValueError:
        return None  # whatever it wants of a conversation, it will say when there is one
    found = any_of({one.content: one.id for one in roles.added}).match(behind.lstrip())
    if found is None or (found[0] == roles.names.get("bos_token") and roles.ids[found[0]] not in roles.ends):
        return None
    return found[0]


def any_of(tokens: Mapping[str, int]) -> re.Pattern[str]:
    """Finds any of these tokens, of two that begin alike the longer one; nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)")


def unused_letters(texts: Sequence[str]) -> Iterator[str]:
    """Letters that stand in none of the texts, one after the other."""
    used = set().union(*texts)
    return (chr(code) for code in range(FIRST_MARK, 0x110000) if chr(code) not in used)

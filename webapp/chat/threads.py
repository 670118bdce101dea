"""Reading a conversation's tree: which turns are on the branch being read, and what lies beside it."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

import redis
from django.utils.safestring import SafeString

from trainer.config import CHAT_STAGES
from webapp.answers.models import Generation
from webapp.answers.rendering import render_answer
from webapp.chat.models import Conversation, Message
from webapp.live import streams


def are_the_same(answers: Sequence[Message]) -> bool:
    """Whether the two answers of an offer are finished and leave nothing to choose between."""
    finished = [one for one in answers if one.generation is not None and one.generation.is_final]
    return len(answers) == len(finished) == 2 and finished[0].content.strip() == finished[1].content.strip()


@dataclass
class Turn:
    """One turn of the branch being read."""

    message: Message
    alternatives: list[Message]
    """Everything that could stand here, this message included, oldest first."""

    @property
    def number(self) -> int:
        """Which alternative this is, from 1."""
        return self.alternatives.index(self.message) + 1

    @property
    def previous(self) -> Message | None:
        return self.alternatives[self.number - 2] if self.number > 1 else None

    @property
    def next(self) -> Message | None:
        return self.alternatives[self.number] if self.number < len(self.alternatives) else None

    @cached_property
    def answer(self) -> Answer:
        return Answer(self.message)

    @property
    def came_twice(self) -> bool:
        """Two answers were to be offered here, and both came out the same."""
        return bool(self.message.side) and are_the_same([one for one in self.alternatives if one.side])


@dataclass
class Answer:
    """How an assistant's turn stands right now."""

    message: Message
    live_text: str = ""
    last_id: str = "0"
    """Id of the last event in `live_text`; a socket continues after it."""
    generation: Generation = field(init=False)

    def __post_init__(self) -> None:
        assert self.message.generation is not None
        self.generation = self.message.generation
        if self.generation.is_final or self.generation.state == Generation.State.QUEUED:
            return  # nothing written yet, or everything is in the database
        try:
            written = [(entry, event) for entry, event in streams.read(self.generation.stream_key)]
        except redis.RedisError:
            return  # the socket, or a reload, shows it later
        tokens = [(entry, event["text"]) for entry, event in written if event.get("type") == "token"]
        if tokens:
            self.live_text = "".join(text for _, text in tokens).lstrip()  # a continuation begins with a space
            self.last_id = tokens[-1][0]

    @cached_property
    def html(self) -> SafeString:
        return render_answer(self.generation.text)

    @property
    def stage_number(self) -> int:
        """The checkpoint's place among those that chat, from 1."""
        return CHAT_STAGES.index(self.generation.checkpoint.stage) + 1

    @property
    def settings(self) -> str:
        """How it was drawn, as shown beside it."""
        sampling = self.generation.sampling
        parts = [f"temperature {sampling['temperature']:g}"]
        if sampling["top_k"]:
            parts.append(f"top-k {sampling['top_k']}")
        if sampling["top_p"] < 1:
            parts.append(f"top-p {sampling['top_p']:g}")
        return " · ".join([*parts, f"up to {sampling['max_new_tokens']} tokens", f"seed {sampling['seed']}"])


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a page shows of a conversation."""

    leaf: uuid.UUID
    """The last turn of its branch."""
    as_of: datetime
    """When the newest turn it knew of was made."""


class Tree:
    """A conversation's messages by parent."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self._by_id: dict[uuid.UUID, Message] = {}
        self._children: defaultdict[uuid.UUID | None, list[Message]] = defaultdict(list)
        rows = (
            conversation.messages.select_related("generation__checkpoint")
            .defer("generation__messages", "generation__token_ids")  # each holds the whole conversation up to it
            .order_by("created_at", "side", "id")
        )
        for message in rows:
            self._by_id[message.pk] = message
            self._children[message.parent_id].append(message)

    def go_on_from(self, answer: Message) -> None:
        """Read on from this one of two answers, as if it had been chosen; the rows stay as they are."""
        for one in self.alternatives(answer):
            if one.side:
                one.chosen = one == answer
        self.conversation.leaf = answer

    def path(self) -> list[Message]:
        """From the first turn down to the conversation's leaf."""
        leaf = self.conversation.leaf_id
        return self.path_to(self._by_id[leaf]) if leaf is not None else []

    def path_to(self, message: Message) -> list[Message]:
        """From the first turn down to this one."""
        found = [self._by_id[message.pk]]
        while (above := found[-1].parent_id) is not None:
            found.append(self._by_id[above])
        return found[::-1]

    def turns(self) -> list[Turn]:
        return [Turn(message, self.alternatives(message)) for message in self.path()]

    @property
    def newest(self) -> datetime | None:
        """When the conversation last got a turn."""
        return max((message.created_at for message in self._by_id.values()), default=None)

    def kept(self, shown: Shown) -> int:
        """How many of the first turns a page shows that need no drawing again.

        Those that are the same on the branch it shows and on the one read now, and have got no other version
        since it was drawn; but neither branch's last turn, which has buttons of its own.
        """
        if shown.leaf not in self._by_id:
            return 0
        before, now = self.path_to(self._by_id[shown.leaf]), self.path()
        same = 0
        for old, new in zip(before[:-1], now[:-1], strict=False):
            if old.pk != new.pk or any(other.created_at > shown.as_of for other in self.alternatives(new)):
                break
            same += 1
        return same

    def alternatives(self, message: Message) -> list[Message]:
        return self._children[message.parent_id]

    def offered(self) -> list[Message]:
        """The two answers under the leaf that wait for a choice, A first; usually none."""
        if self.conversation.leaf_id is None:
            return []
        return sorted((m for m in self._children[self.conversation.leaf_id] if m.is_offered), key=lambda m: m.side)

    def leaf_below(self, message: Message) -> Message:
        """Where reading goes on from `message`: its newest branch, down to the end or to an open choice."""
        at = self._by_id[message.pk]
        while children := self._children[at.pk]:
            if any(child.is_offered for child in children):
                return at
            chosen = [child for child in children if child.chosen is not False]
            at = (chosen or children)[-1]
        return at

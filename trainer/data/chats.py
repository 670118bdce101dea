"""Conversations to batches, each a pure function of the step (see documents.py for why).

Conversations are packed whole into rows, with a segment number per token so that attention stays inside a conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.asked import Message
from trainer.model.tokenizer import Tokenizer
from trainer.runtime.seeds import random_generator


class NothingFits(ValueError):
    """Every conversation is too long for the model that is to read them."""


@dataclass(frozen=True)
class PackedChats:
    """One batch of packed conversations; every tensor [rows, sequence]."""

    inputs: Tensor
    targets: Tensor
    is_response: Tensor
    """Whether the *target* at this place is the assistant's to say."""
    segments: Tensor

    def split(self, rows: int) -> list[PackedChats]:
        """The same conversations, at most `rows` rows at a time."""
        columns = (self.inputs, self.targets, self.is_response, self.segments)
        return [PackedChats(*parts) for parts in zip(*(torch.split(column, rows) for column in columns), strict=True)]


class ChatBatches:
    """Conversations packed whole into rows, in an order drawn anew every epoch."""

    def __init__(
        self,
        conversations: Sequence[Sequence[Message]],
        tokenizer: Tokenizer,
        *,
        sequence: int,
        rows: int,
        seed: int,
    ) -> None:
        rendered = [tokenizer.render_chat(conversation) for conversation in conversations]
        self.chats = [chat for chat in rendered if len(chat[0]) <= sequence + 1 and any(chat[1])]
        self.too_long = len(rendered) - len(self.chats)
        if not self.chats:
            raise NothingFits(f"None of the {len(rendered)} conversations fits {sequence} tokens with an answer.")
        self.sequence, self.rows, self.seed = sequence, rows, seed
        self.pad_id = tokenizer.pad_id
        self._epochs: dict[int, list[list[int]]] = {}

    def __call__(self, step: int) -> PackedChats:
        """The packed conversations of one step."""
        packed = [self._pack(self._row(step * self.rows + index)) for index in range(self.rows)]
        inputs, targets, is_response, segments = (torch.tensor(column) for column in zip(*packed, strict=True))
        return PackedChats(inputs, targets, is_response, segments)

    def _row(self, number: int) -> list[int]:
        """The conversations (by index) in row `number`, counted from the start of training."""
        epoch = 0
        while number >= (size := len(self._plan(epoch))):
            number, epoch = number - size, epoch + 1
        return self._plan(epoch)[number]

    def _plan(self, epoch: int) -> list[list[int]]:
        """Rows of one epoch: conversations in random order, each put where it still fits."""
        if epoch not in self._epochs:
            generator = random_generator(self.seed, "chats", epoch)
            open_rows: list[tuple[int, list[int]]] = []
            rows: list[list[int]] = []
            for index in torch.randperm(len(self.chats), generator=generator).tolist():
                size = len(self.chats[index][0])
                for place, (room, row) in enumerate(open_rows):
                    if size <= room:
                        row.append(index)
                        open_rows[place] = (room - size, row)
                        break
                else:
                    row = [index]
                    rows.append(row)
                    open_rows.append((self.sequence + 1 - size, row))
                    if len(open_rows) > 16:  # look back a little only, or packing turns quadratic
                        open_rows.remove(min(open_rows, key=lambda item: item[0]))
            self._epochs[epoch] = rows
        return self._epochs[epoch]

    def _pack(self, row: list[int]) -> tuple[list[int], list[int], list[bool], list[int]]:
        ids: list[int] = []
        is_response: list[bool] = []
        segments: list[int] = []
        for segment, index in enumerate(row):
            chat_ids, chat_response = self.chats[index]
            ids += chat_ids
            # The first id of a conversation is nobody's target: what stands before it is another one's end.
            is_response += [False, *chat_response[1:]]
            segments += [segment] * len(chat_ids)
        gap = self.sequence + 1 - len(ids)
        ids += [self.pad_id] * gap
        is_response += [False] * gap
        segments += [len(row)] * gap
        return ids[:-1], ids[1:], is_response[1:], segments[:-1]

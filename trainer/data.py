"""Documents and conversations to batches, each a pure function of the step.

The idea: there is no data loader with a state. The order of an epoch is a permutation drawn from
(seed, epoch), so the batch of any step can be computed from its number alone and a resumed run sees
exactly what it would have seen.

Documents are joined into one long array of ids (each closed by the document-end token) and cut into
rows; every epoch cuts at another offset. Conversations are packed whole into rows, with a segment
number per token so that attention stays inside a conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.asked import Message
from trainer.loop import random_generator
from trainer.tokenizer import Tokenizer

DOCUMENTS_AT_ONCE = 256
"""Documents encoded together: enough for every core, and a list of ids takes 134 bytes a token."""


class NothingFits(ValueError):
    """Every conversation is too long for the model that is to read them."""


class DocumentBatches:
    """Rows of `sequence` + 1 ids cut from packed documents kept in a memory map."""

    def __init__(self, path: Path, *, sequence: int, rows: int, seed: int) -> None:
        self.tokens = np.memmap(path, dtype=np.uint32, mode="r")
        self.sequence, self.rows, self.seed = sequence, rows, seed
        self._epochs: dict[int, tuple[Tensor, int]] = {}
        self.per_epoch = (len(self.tokens) - 1) // sequence - 1  # one row less leaves room for the offset
        if self.per_epoch < 1:
            raise ValueError(
                f"The documents hold {len(self.tokens)} tokens; at least {2 * sequence + 1} are needed. Add text."
            )

    @staticmethod
    def write(path: Path, documents: Sequence[str], tokenizer: Tokenizer) -> int:
        """Encode `documents` into the file at `path`; returns the number of tokens."""
        count = 0
        with path.open("wb") as file:
            for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
                encoded = tokenizer.encode_documents(documents[start : start + DOCUMENTS_AT_ONCE])
                ids = np.fromiter(chain.from_iterable(encoded), dtype=np.uint32)
                ids.tofile(file)
                count += len(ids)
        return count

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and next-token targets of one step, each [rows, sequence]."""
        cut = [self._row(step * self.rows + index) for index in range(self.rows)]
        batch = torch.from_numpy(np.stack(cut).astype(np.int64))
        return batch[:, :-1], batch[:, 1:]

    def _row(self, number: int) -> npt.NDArray[np.uint32]:
        epoch, index = divmod(number, self.per_epoch)
        order, offset = self._epoch(epoch)
        start = offset + int(order[index]) * self.sequence
        return np.asarray(self.tokens[start : start + self.sequence + 1])

    def _epoch(self, epoch: int) -> tuple[Tensor, int]:
        """The order of an epoch's rows and the offset of its cuts; this epoch and the one before are kept."""
        if epoch not in self._epochs:
            generator = random_generator(self.seed, "documents", epoch)
            order = torch.randperm(self.per_epoch, generator=generator)
            offset = int(torch.randint(self.sequence, (1,), generator=generator))
            before = {number: drawn for number, drawn in self._epochs.items() if number == epoch - 1}
            self._epochs = before | {epoch: (order, offset)}
        return self._epochs[epoch]


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

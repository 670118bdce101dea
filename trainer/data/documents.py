"""Documents to batches, each a pure function of the step.

The idea: there is no data loader with a state. The order of an epoch is a permutation drawn from
(seed, epoch), so the batch of any step can be computed from its number alone and a resumed run sees
exactly what it would have seen. Documents are joined into one long array of ids (each closed by the
document-end token) and cut into rows; every epoch cuts at another offset.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.model.roles import TOKENIZER
from trainer.model.tokenizer import Tokenizer
from trainer.runtime.files import replacing
from trainer.runtime.seeds import random_generator

DOCUMENTS_AT_ONCE = 256
"""Documents encoded together: enough for every core, and a list of ids takes 134 bytes a token."""


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
    def write(directory: Path, documents: Sequence[str], tokenizer: Tokenizer) -> Path:
        """The file of ids of `documents` in `directory`, encoded unless it is there already.

        Its name is the hash of text and tokenizer, so a resumed run reads what the interrupted one has written, and
        never what another text or tokenizer gave.
        """
        path = directory / f"documents-{_sha256(documents, tokenizer)[:16]}.bin"
        if path.is_file():
            return path
        with replacing(path) as temporary, temporary.open("wb") as file:
            for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
                encoded = tokenizer.encode_documents(documents[start : start + DOCUMENTS_AT_ONCE])
                opened = ([*_opener(tokenizer), *ids] for ids in encoded)
                np.fromiter(chain.from_iterable(opened), dtype=np.uint32).tofile(file)
        return path

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


def _opener(tokenizer: Tokenizer) -> tuple[int, ...]:
    """What begins every document; nothing where that is the end of the one before."""
    return tuple(id for id in tokenizer.document_start_ids if id != tokenizer.document_end_id)


def _sha256(documents: Sequence[str], tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(tokenizer.roles.files[TOKENIZER])
    digest.update(f"{_opener(tokenizer)} {tokenizer.document_end_id} ".encode())
    for document in documents:
        digest.update(f"{len(document)} ".encode())  # so that no two lists of texts run together into one
        digest.update(document.encode())
    return digest.hexdigest()

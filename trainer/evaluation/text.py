"""Bits per byte of held-out text, a model's and a compressor's."""

from __future__ import annotations

import lzma
import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from trainer.model.decoder import LanguageModel
from trainer.model.tokenizer import Tokenizer
from trainer.rl import losses

PIECES_AT_ONCE: Final = 32
"""Pieces of held-out text read in one pass, at most."""
LOGITS_AT_ONCE: Final = 2**25
"""Logits of one such pass, at most, padding included: 134 MB in float32."""


@torch.no_grad()
def bits_per_byte(model: LanguageModel, tokenizer: Tokenizer, documents: Sequence[str]) -> float:
    """Bits the model needs per UTF-8 byte of `documents`, the end of each document included.

    Independent of the tokenizer, so any two models can be compared, and a compressor too. What exceeds the
    context is read in pieces that each start anew, which costs the model, not the figure's honesty.
    """
    context = model.config.context
    pieces: list[list[int]] = []
    before = tokenizer.document_start_ids or (tokenizer.document_end_id,)  # what packed documents have before them
    for ids in tokenizer.encode_documents(documents):
        row = [*before, *ids]
        pieces += [row[start : start + context + 1] for start in range(0, len(row) - 1, context)]
    device = next(model.parameters()).device
    nats = 0.0
    tokens_at_once = LOGITS_AT_ONCE // model.config.vocab_size
    for rows in _hands([len(piece) - 1 for piece in pieces], tokens=tokens_at_once):
        tokens, is_target = _padded([pieces[row] for row in rows], tokenizer.pad_id)
        tokens, is_target = tokens.to(device), is_target.to(device)
        hidden = model.decoder(tokens[:, :-1])[is_target]
        nats -= float(losses.linear_logprobs(model.logits, hidden, tokens[:, 1:][is_target]).double().sum())
    size = sum(len(document.encode()) for document in documents)
    if size == 0:
        raise ValueError("There is no held-out text to measure.")
    return nats / math.log(2) / size


def _hands(lengths: Sequence[int], *, tokens: int) -> list[list[int]]:
    """Indices, shortest first, in hands of at most `PIECES_AT_ONCE` that pad to at most `tokens`, or of one alone."""
    hands: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if not hands or len(hands[-1]) == PIECES_AT_ONCE or (len(hands[-1]) + 1) * lengths[index] > tokens:
            hands.append([])
        hands[-1].append(index)
    return hands


def _padded(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded [B, T + 1] ids and, for each of the T predictions, whether its token is real."""
    tokens = torch.full((len(sequences), max(map(len, sequences))), pad_id, dtype=torch.long)
    is_target = torch.zeros(tokens.shape[0], tokens.shape[1] - 1, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = torch.tensor(sequence)
        is_target[row, : len(sequence) - 1] = True
    return tokens, is_target


def xz_bits_per_byte(documents: Sequence[str], held_out_documents: Sequence[str]) -> float:
    """Bits per byte `xz -9e` needs for the held-out text once it has read the training text."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    separator = "\n\n"
    train, held_out = separator.join(documents) + separator, separator.join(held_out_documents)
    alone, together = (
        len(lzma.compress(text.encode(), format=lzma.FORMAT_XZ, filters=filters)) for text in (train, train + held_out)
    )
    return 8 * (together - alone) / max(1, sum(len(document.encode()) for document in held_out_documents))

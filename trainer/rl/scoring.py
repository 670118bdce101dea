"""The only ways the stages look at a model again: log-probs and values of responses, scores of whole answers.

Masks and alignment are decided here, once (see rollout.py for what stands where). Models read rows of similar
length together, in hands small enough for one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.model.tokenizer import Tokenizer
from trainer.rl import losses
from trainer.rl.rollout import Batch

CPU_PIECE, GPU_PIECE = 16, 64
"""Rows per forward pass. On a CPU few rows of nearly one length beat many with padding between them."""


def response_logprobs(model: LanguageModel, batch: Batch, *, temperature: float) -> Tensor:
    """Log-probs of the response tokens under `model`, [B, T]; 0 outside `is_response`.

    The product with the vocabulary is taken at response positions only, in chunks where there are many.
    """
    hidden = model.decoder(batch.tokens[:, :-1])[batch.is_response]  # (N, C)
    targets = batch.tokens[:, 1:][batch.is_response]
    logprobs = losses.linear_logprobs(model.logits, hidden, targets, temperature=temperature)
    return torch.zeros_like(batch.old_logprobs).masked_scatter(batch.is_response, logprobs)


def response_values(critic: ScalarModel, batch: Batch) -> Tensor:
    """The critic's value before each predicted token, [B, T]; 0 outside `is_response`."""
    values: Tensor = critic(batch.tokens[:, :-1])
    return values.where(batch.is_response, 0.0)


@torch.no_grad()
def score_logprobs(model: LanguageModel, batch: Batch, *, temperature: float) -> Tensor:
    """`response_logprobs` of the whole batch [B, T], computed in pieces of similar length."""
    return _in_pieces(batch, lambda piece: response_logprobs(model, piece, temperature=temperature))


@torch.no_grad()
def score_values(critic: ScalarModel, batch: Batch) -> Tensor:
    """`response_values` of the whole batch [B, T], computed in pieces of similar length."""
    return _in_pieces(batch, lambda piece: response_values(critic, piece))


def _in_pieces(batch: Batch, compute: Callable[[Batch], Tensor]) -> Tensor:
    result = torch.zeros_like(batch.old_logprobs)
    for rows in pieces(batch, range(len(batch.tokens))):
        found = compute(batch.pick(rows))
        result[rows, : found.shape[1]] = found
    return result


def pieces(batch: Batch, rows: Sequence[int]) -> list[list[int]]:
    """These rows of the batch, shortest first, in hands small enough for one forward pass."""
    columns = batch.is_response.shape[1]
    ends = (columns - batch.is_response.flip(1).float().argmax(1)).tolist()
    hands = by_length([ends[row] for row in rows], size=piece_size(batch.tokens.device))
    return [[rows[index] for index in hand] for hand in hands]


def piece_size(device: torch.device | str) -> int:
    return CPU_PIECE if torch.device(device).type == "cpu" else GPU_PIECE


def by_length(lengths: Sequence[int], *, size: int) -> list[list[int]]:
    """Indices in hands of at most `size`, shortest first, so that little of a hand is padding."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return [order[start : start + size] for start in range(0, len(order), size)]


def scored_sequence(tokenizer: Tokenizer, prompt: Sequence[int], answer: Sequence[int], *, context: int) -> list[int]:
    """Ids of prompt and answer ending in the end token, where a reward model reads its score.

    An answer that was cut off gets the end token it lacks: the reward model never saw one without. One that ended as
    a document does gets it instead. What does not fit the context goes from the front.
    """
    words = answer[:-1] if answer and answer[-1] in tokenizer.end_ids else answer
    ended = [*words, tokenizer.end_id]
    return [*prompt, *ended][-context:]


def end_scores(model: ScalarModel, sequences: Sequence[list[int]], *, pad_id: int) -> Tensor:
    """The model's number at the last token of each sequence, never at padding: [N] on the CPU."""
    device = next(model.parameters()).device
    scores = torch.empty(len(sequences))
    for rows in by_length([len(sequence) for sequence in sequences], size=piece_size(device)):
        with torch.no_grad():
            scores[rows] = last_values(model, [sequences[row] for row in rows], pad_id=pad_id, device=device).cpu()
    return scores


def last_values(
    model: ScalarModel, sequences: Sequence[list[int]], *, pad_id: int, device: torch.device | str = "cpu"
) -> Tensor:
    """The model's number at the last token of each sequence in one pass, with gradient: [N]."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    tokens = torch.full((len(sequences), int(lengths.max())), pad_id, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = torch.tensor(sequence)
    values: Tensor = model(tokens.to(device))
    return values[torch.arange(len(sequences), device=device), lengths.to(device) - 1]

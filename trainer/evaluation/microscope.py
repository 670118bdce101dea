"""The token microscope: what a model thought at every token of an answer.

The idea: an answer that is there already is given to the model in one pass (teacher forcing), after exactly the ids
that stood before it when it was written. At every place that gives the whole distribution the next token was drawn
from, so it can be said how likely the written one was, what would have been likelier, and, when the model it was
trained from reads the same ids, what training changed.

Deliberate simplifications: probabilities are the model's own, under softmax(logits) at temperature 1 with nothing left
out, whatever temperature, top-k or top-p the answer was drawn under. A whole text is multiplied in another order than
token by token, so figures differ from the sampler's in the last digits.

    from trainer.api import load
    from trainer.evaluation.microscope import look
    loaded = load("var/checkpoints/sft-0123456789ab")
    prompt, _ = loaded.render([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    for token in look(loaded.model, [*prompt, *loaded.tokenizer.encode("Hello!")], len(prompt)):
        print(loaded.tokenizer.decode([token.id]), token.probability, token.others)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

MOST_LOGITS = 2**22
"""So many logits are there at once, a few times over: a vocabulary of 128,000 is looked at 32 tokens at a time."""


class Reads(Protocol):
    """A model that reads a text: a LanguageModel, the sampler that holds one, or the service that steps that."""

    def read(self, ids: Sequence[int]) -> Tensor:
        """Hidden states [T,C]."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits [N,V] of hidden states [N,C]."""
        ...


@dataclass(frozen=True, kw_only=True)
class TokenView:
    """One token of an answer, as the model saw it coming."""

    id: int
    probability: float
    rank: int
    """1 for the likeliest of all."""
    others: list[tuple[int, float]]
    """Ids and probabilities of the likeliest tokens but this one, the likeliest first."""
    asked: list[float]
    """Probabilities of the tokens that were asked about here."""


@torch.inference_mode()
def look(
    model: Reads, ids: Sequence[int], start: int, *, top: int = 5, asked: Sequence[Sequence[int]] | None = None
) -> list[TokenView]:
    """How likely each of `ids[start:]` was after all before it, and which `top` others were the likeliest.

    `asked` names, for each of these places, more tokens whose probability is wanted. ValueError when nothing stands
    before the first of them, or when the ids do not fit the model's context.
    """
    if not 1 <= start <= len(ids):
        raise ValueError("A token is likely or not after another one: start at 1 or later, and within the ids.")
    if start == len(ids):
        return []
    hidden = model.read(ids)[start - 1 : -1]  # (N, C): a token is drawn from what the one before it ends in
    rows = max(1, MOST_LOGITS // model.logits(hidden[:1]).shape[-1])
    views: list[TokenView] = []
    for first in range(0, len(hidden), rows):
        part, here = hidden[first : first + rows], slice(first, first + rows)
        wanted = [()] * len(part) if asked is None else asked[here]
        views += _views(model.logits(part), ids[start:][here], top, wanted)
    return views


def _views(logits: Tensor, written: Sequence[int], top: int, asked: Sequence[Sequence[int]]) -> list[TokenView]:
    """The views of tokens `written` [N] that were drawn from `logits` [N,V]."""
    probabilities = logits.softmax(dim=-1)
    chosen = torch.tensor(written, device=logits.device).unsqueeze(1)  # (N, 1)
    rank = (logits > logits.gather(1, chosen)).sum(dim=1) + 1
    values, likeliest = probabilities.topk(min(top + 1, logits.shape[1]))
    found = zip(
        written,
        probabilities.gather(1, chosen).squeeze(1).tolist(),
        rank.tolist(),
        likeliest.tolist(),
        values.tolist(),
        probabilities,
        asked,
        strict=True,
    )
    return [
        TokenView(
            id=id,
            probability=probability,
            rank=place,
            others=[pair for pair in zip(best, chances, strict=True) if pair[0] != id][:top],
            asked=[float(row[other]) for other in wanted],
        )
        for id, probability, place, best, chances, row, wanted in found
    ]

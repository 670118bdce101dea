"""The only ways the stages look at a model again: log-probs and values of responses, scores of whole answers.

Masks and alignment are decided here, once (see rollout.py for what stands where). Models read rows of similar
length together, as many as there is room for, and what rows begin with alike only once (packing.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainer.model.decoder import Decoder, LanguageModel, ScalarModel
from trainer.model.tokenizer import Tokenizer
from trainer.rl import losses, packing
from trainer.rl.rollout import Batch
from trainer.runtime.errors import Diverged
from trainer.runtime.estimate import tokens_at_once
from trainer.runtime.machine import NARROW

Model = LanguageModel | ScalarModel

CPU_PIECE = 16
"""Rows per forward pass on a CPU, at most: few rows of nearly one length beat many with padding between them."""


def response_logprobs(model: LanguageModel, batch: Batch, *, temperature: float) -> Tensor:
    """Log-probs of the response tokens under `model`, [B, T]; 0 outside `is_response`.

    The product with the vocabulary is taken at response positions only, in chunks where there are many.
    """
    hidden = _response_states(model.decoder, batch)  # (N, C)
    targets = batch.tokens[:, 1:][batch.is_response]
    logprobs = losses.linear_logprobs(model.logits, hidden, targets, temperature=temperature)
    if not torch.isfinite(logprobs).all():
        raise Diverged("A log-probability is no longer a finite number. Lower the learning rate and start again.")
    return torch.zeros_like(batch.old_logprobs).masked_scatter(batch.is_response, logprobs)


def response_values(critic: ScalarModel, batch: Batch) -> Tensor:
    """The critic's value before each predicted token, [B, T]; 0 outside `is_response`."""
    if not _is_shared(batch.prompts(), critic.config.width):
        values: Tensor = critic(batch.tokens[:, :-1])
        return values.where(batch.is_response, 0.0)
    found = critic.values(_response_states(critic.decoder, batch))
    return torch.zeros_like(batch.old_logprobs).masked_scatter(batch.is_response, found)


def _response_states(decoder: Decoder, batch: Batch) -> Tensor:
    """Hidden states [N, C] before the N response tokens; a prompt that several rows begin with is read once."""
    prompts = batch.prompts()
    if not _is_shared(prompts, decoder.config.width):
        return decoder(batch.tokens[:, :-1])[batch.is_response]  # type: ignore[no-any-return]
    ends = batch.ends()
    sequences = [row[:end] for row, end in zip(batch.tokens.tolist(), ends, strict=True)]  # what is predicted last: out
    packed = packing.pack(sequences, packing.bundles(sequences, prompts)).to(batch.tokens.device)
    hidden: Tensor = decoder(packed.tokens, layout=packed.layout).flatten(0, 1)
    return hidden[packed.place[batch.is_response]]


def _is_shared(prompts: Sequence[tuple[int, ...]], width: int) -> bool:
    """Whether reading a prompt once saves anything: a narrow model is bound by the number of operations."""
    return width >= NARROW and len(set(prompts)) < len(prompts)


@torch.no_grad()
def score_logprobs(model: LanguageModel, batch: Batch, *, temperature: float) -> Tensor:
    """`response_logprobs` of the whole batch [B, T], computed in pieces of similar length."""
    return _in_pieces(model, batch, lambda piece: response_logprobs(model, piece, temperature=temperature))


@torch.no_grad()
def rescored(policy: LanguageModel, batch: Batch, hands: Sequence[Sequence[int]], *, temperature: float) -> Batch:
    """The batch with `old_logprobs` taken by the trainer itself, before anything has learnt; `hands` deal out its rows.

    A sampler in bfloat16 rounds elsewhere than a forward pass does, by some hundredths of a nat. Taken anew, in the
    very pieces the first pass of the update will use, the first ratio of the two policies is exactly 1.
    """
    old = torch.zeros_like(batch.old_logprobs)
    for hand in hands:
        for rows in pieces(policy, batch, hand):
            found = response_logprobs(policy, batch.pick(rows), temperature=temperature)
            old[rows, : found.shape[1]] = found
    return dataclasses.replace(batch, old_logprobs=old)


@torch.no_grad()
def score_values(critic: ScalarModel, batch: Batch) -> Tensor:
    """`response_values` of the whole batch [B, T], computed in pieces of similar length."""
    return _in_pieces(critic, batch, lambda piece: response_values(critic, piece))


def _in_pieces(model: Model, batch: Batch, compute: Callable[[Batch], Tensor]) -> Tensor:
    result = torch.zeros_like(batch.old_logprobs)
    for rows in pieces(model, batch, range(len(batch.tokens))):
        found = compute(batch.pick(rows))
        result[rows, : found.shape[1]] = found
    return result


def pieces(model: Model, batch: Batch, rows: Sequence[int]) -> list[list[int]]:
    """These rows of the batch, shortest first, in hands that one pass of the model has room for.

    Rows that share a prompt stay together where reading it once pays.
    """
    ends, prompts = batch.ends(), batch.prompts()
    alike: list[list[int]] = [[row] for row in rows]
    if _is_shared([prompts[row] for row in rows], model.config.width):
        by_prompt: dict[tuple[int, ...], list[int]] = {}
        for row in rows:
            by_prompt.setdefault(prompts[row], []).append(row)
        alike = list(by_prompt.values())
    lengths = [len(prompts[few[0]]) + sum(ends[row] - len(prompts[row]) for row in few) for few in alike]
    hands = by_length(lengths, rows=[len(few) for few in alike], model=model)
    return [[row for index in hand for row in alike[index]] for hand in hands]


def by_length(lengths: Sequence[int], *, model: Model, rows: Sequence[int] | None = None) -> list[list[int]]:
    """Indices of sequences, shortest first, in hands that one pass of the model has room for.

    Little of a hand is padding then. Each sequence counts as one row, or as many as `rows` says.
    """
    device = model.decoder.embed_tokens.weight.device.type
    most = tokens_at_once(model.config, device=device)
    hands: list[list[int]] = []
    count = 0
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        more = rows[index] if rows else 1
        is_full = not hands or lengths[index] * (len(hands[-1]) + 1) > most
        if is_full or (device == "cpu" and count + more > CPU_PIECE):
            hands.append([])
            count = 0
        hands[-1].append(index)
        count += more
    return hands


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
    scores = torch.empty(len(sequences))
    for rows in by_length([len(sequence) for sequence in sequences], model=model):
        with torch.no_grad():
            scores[rows] = last_values(model, [sequences[row] for row in rows], pad_id=pad_id).cpu()
    return scores


def last_values(
    model: ScalarModel, sequences: Sequence[list[int]], *, pad_id: int, alike: Sequence[Sequence[int]] = ()
) -> Tensor:
    """The model's number at the last token of each sequence in one pass, with gradient: [N].

    What the sequences of each bundle in `alike` begin with is read once, where that pays.
    """
    device = model.decoder.embed_tokens.weight.device
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    if alike and model.config.width >= NARROW:
        packed = packing.pack(sequences, alike)
        last = packed.place[torch.arange(len(sequences)), lengths - 1].to(device)
        packed = packed.to(device)
        return model.values(model.decoder(packed.tokens, layout=packed.layout).flatten(0, 1)[last])
    tokens = torch.full((len(sequences), int(lengths.max())), pad_id, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = torch.tensor(sequence)
    values: Tensor = model(tokens.to(device))
    return values[torch.arange(len(sequences), device=device), lengths.to(device) - 1]

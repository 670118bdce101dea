"""Prompts -> Rollout records with the log-probs they were sampled at -> padded tensors.

The idea: everything a policy-gradient update needs to know about an answer is written down when it is
sampled, one field per meaning: its `reward` is never overwritten by its `advantage`, and `old_logprobs`
are the sampler's own. `pad` turns records into tensors once; scoring.py looks at a model again.

Alignment: a padded row holds T + 1 tokens and every other tensor has T columns; column t belongs to the
prediction of token t + 1 (see losses.py). Rows are padded on the right, and causal attention keeps padding from
reaching anything before it. What is padding `is_response` says, never an id: a model's padding may be its end token.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.asked import Asked
from trainer.config import SFT
from trainer.data.prompting import TooLong, asked_ids
from trainer.model.engine import END, Engine, Sampling
from trainer.model.tokenizer import Tokenizer
from trainer.runtime.seeds import random_generator


@dataclass(kw_only=True)
class Rollout:
    """One sampled answer and what became of it."""

    prompt: list[int]
    response: list[int]
    """Sampled ids, the end token included where one was drawn."""
    old_logprobs: list[float]
    """Natural log-probability of each response id under the policy and temperature that drew it."""
    finish_reason: str
    """"end", or "length" when it was cut off."""
    group: int
    """Index of the prompt it was sampled for; equal prompts asked twice are different groups."""
    reward: float = math.nan
    """What the answer earned; NaN until something has judged it, so that a forgotten one is refused."""
    advantage: float = 0.0
    """How much better than expected it was; beside the reward, never in its place."""

    @property
    def is_complete(self) -> bool:
        return self.finish_reason == END


def collect(
    engine: Engine,
    prompts: Sequence[list[int]],
    *,
    temperature: float,
    max_new_tokens: int,
    generator: torch.Generator,
    copies: int = 1,
) -> list[Rollout]:
    """Sample `copies` answers to every prompt; those of one prompt stand next to each other.

    Always from the whole distribution: with top-k or top-p the recorded log-probs would not be the
    policy's. `generator` only deals out one seed per answer.
    """
    seeds = torch.randint(2**31, (len(prompts) * copies,), generator=generator).tolist()
    sampling = [Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed) for seed in seeds]
    repeated = [prompt for prompt in prompts for _ in range(copies)]
    return [
        Rollout(
            prompt=completion.prompt,
            response=completion.tokens,
            old_logprobs=completion.logprobs,
            finish_reason=completion.finish_reason,
            group=index // copies,
        )
        for index, completion in enumerate(engine.generate(repeated, sampling))
    ]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rollouts as tensors, B rows of T + 1 tokens."""

    tokens: Tensor
    """[B, T + 1], padded on the right."""
    is_response: Tensor
    """[B, T], True where the predicted token was sampled by the policy."""
    old_logprobs: Tensor
    """[B, T], 0 outside `is_response`."""
    rewards: Tensor
    """[B], one per answer."""
    advantages: Tensor
    """[B], one per answer."""
    is_complete: Tensor
    """[B], False for an answer that was cut off."""

    @property
    def lengths(self) -> Tensor:
        """[B] response tokens per answer."""
        return self.is_response.sum(-1)

    def ends(self) -> list[int]:
        """Of each row, the column after its last response token: so many tokens a model reads to predict them all."""
        columns = self.is_response.shape[1]
        ends: list[int] = (columns - self.is_response.flip(1).float().argmax(1)).tolist()
        return ends

    def prompts(self) -> list[tuple[int, ...]]:
        """The prompt of each row."""
        starts = self.is_response.float().argmax(1).tolist()
        return [tuple(row[: start + 1]) for row, start in zip(self.tokens.tolist(), starts, strict=True)]

    def pick(self, rows: Sequence[int]) -> Batch:
        """The batch of these rows, no wider than the longest of them."""
        index = torch.tensor(rows, device=self.tokens.device)
        is_response = self.is_response[index]
        columns = int(is_response.any(0).nonzero().max()) + 1
        return Batch(
            tokens=self.tokens[index, : columns + 1],
            is_response=is_response[:, :columns],
            old_logprobs=self.old_logprobs[index, :columns],
            rewards=self.rewards[index],
            advantages=self.advantages[index],
            is_complete=self.is_complete[index],
        )


def deal(count: int, size: int, *, step: int, seed: int, purpose: str) -> list[int]:
    """Which `size` of `count` things round `step` uses: every epoch deals all of them out, shuffled anew."""
    chosen: list[int] = []
    for number in range(step * size, (step + 1) * size):
        epoch, index = divmod(number, count)
        if not chosen or index == 0:
            order = torch.randperm(count, generator=random_generator(seed, purpose, epoch)).tolist()
        chosen.append(order[index])
    return chosen


def minibatches(count: int, size: int, *, generator: torch.Generator) -> list[list[int]]:
    """The numbers below `count` in random order, in as few hands of at most `size` as there can be, alike in size.

    A hand is one optimiser step, and a last hand of few answers would step as far as the others.
    """
    order = torch.randperm(count, generator=generator)
    return [hand.tolist() for hand in order.tensor_split(math.ceil(count / size))] if count else []


def pad(rollouts: Sequence[Rollout], *, pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """The rollouts as one right-padded batch, no wider than its longest row."""
    if not rollouts:
        raise ValueError("There are no rollouts to pad.")
    columns = max(len(rollout.prompt) + len(rollout.response) for rollout in rollouts) - 1
    tokens = torch.full((len(rollouts), columns + 1), pad_id, dtype=torch.long)
    is_response = torch.zeros(len(rollouts), columns, dtype=torch.bool)
    old_logprobs = torch.zeros(len(rollouts), columns)
    for row, rollout in enumerate(rollouts):
        start, stop = len(rollout.prompt), len(rollout.prompt) + len(rollout.response)
        tokens[row, :stop] = torch.tensor(rollout.prompt + rollout.response)
        is_response[row, start - 1 : stop - 1] = True
        old_logprobs[row, start - 1 : stop - 1] = torch.tensor(rollout.old_logprobs)
    return Batch(
        tokens=tokens.to(device),
        is_response=is_response.to(device),
        old_logprobs=old_logprobs.to(device),
        rewards=torch.tensor([rollout.reward for rollout in rollouts], device=device),
        advantages=torch.tensor([rollout.advantage for rollout in rollouts], device=device),
        is_complete=torch.tensor([rollout.is_complete for rollout in rollouts], device=device),
    )


def fitting_prompts(tokenizer: Tokenizer, questions: Sequence[Asked], *, room: int) -> dict[Asked, list[int]]:
    """Chat prompt ids of every distinct question that leaves room for an answer; the others are left out.

    ValueError when none is left.
    """
    prompts: dict[Asked, list[int]] = {}
    for asked in questions:
        with contextlib.suppress(TooLong):  # which here is no mistake
            prompts[asked] = asked_ids(tokenizer, asked, stage=SFT, room=room)
    if not prompts:
        raise ValueError(f"None of the {len(questions)} prompts fits into {room} tokens. Give shorter ones.")
    return prompts

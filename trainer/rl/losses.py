"""All loss and advantage maths: pure tensor functions, no models, no I/O, no randomness.

The idea: reinforcement learning code goes wrong silently, in masks, denominators and signs. So every
formula stands here once, states the shapes it takes and what its mean divides by, and is tested
against numbers worked by hand.

Conventions
- Shapes: B answers, T *predictions* per row. Column t of a [B, T] tensor belongs to the prediction of
  token t + 1 of the row, so a row of T + 1 tokens has T columns.
- `is_response` [B, T] is True where the predicted token is one the policy sampled (its end token
  included), False on the prompt and on padding. The True columns of a row are contiguous.
- What stands in columns outside `is_response` never reaches a result, not even when it is NaN.

The logits of a batch are the largest tensors of a step (a vocabulary of 128 k: half a megabyte a token in float32), so
whatever needs them over a vocabulary takes hidden states and a head, and works through the positions in chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.runtime.estimate import LOGITS_AT_ONCE

Head = Callable[[Tensor], Tensor]
"""Float32 logits [n, V] of hidden states [n, C]: a model's own `logits`."""

MOST_LOG_RATIO = 20.0
"""A probability ratio is taken to be within e to the power of ± this: one token must not make a sum infinite."""


def masked_mean(values: Tensor, is_response: Tensor, *, denominator: Tensor | float | None = None) -> Tensor:
    """Sum of `values` [B, T] over response tokens, divided by their number over the whole batch -> [].

    A `denominator` given by the caller replaces that number. A batch without response tokens gives 0.
    """
    total = values.where(is_response, 0.0).sum()
    if denominator is None:
        denominator = is_response.sum().clamp(min=1)
    return total / denominator


def token_logprobs(logits: Tensor, tokens: Tensor, *, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) at `tokens`: logits [..., V], tokens [...] -> [...].

    The whole softmax, never a top-k part of it: the sampler must then draw without top-k and top-p.
    """
    scaled = logits.float() / temperature
    flat = F.cross_entropy(scaled.reshape(-1, scaled.shape[-1]), tokens.reshape(-1), reduction="none")
    return -flat.reshape(tokens.shape)


def linear_logprobs(
    head: Head, hidden: Tensor, tokens: Tensor, *, temperature: float = 1.0, logits_at_once: int = LOGITS_AT_ONCE
) -> Tensor:
    """`token_logprobs(head(hidden), tokens)` without ever holding all logits: hidden [N, C], tokens [N] -> [N].

    Where all of them are more than `logits_at_once` numbers, they are taken in chunks of positions, and each chunk once
    more for its gradient ("recomputation", Chen et al. 2016, https://arxiv.org/abs/1604.06174): a third more work in
    the head for a peak that does not grow with the batch.
    """
    return _in_chunks(
        lambda part, goal: token_logprobs(head(part), goal, temperature=temperature),
        (hidden, tokens),
        head,
        logits_at_once,
    )


def _in_chunks(compute: Callable[..., Tensor], columns: tuple[Tensor, ...], head: Head, logits_at_once: int) -> Tensor:
    """`compute` over the positions [N] of all columns, at most `logits_at_once` logits of the head at a time -> [N]."""
    count = len(columns[0])
    if count == 0:
        return compute(*columns)
    with torch.no_grad():
        vocabulary = head(columns[0][:1]).shape[-1]
    size = max(1, logits_at_once // vocabulary)
    if count <= size:
        return compute(*columns)
    chunks = zip(*(torch.split(column, size) for column in columns), strict=True)
    return torch.cat([checkpoint(compute, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks])


def sampled_entropy(logprobs: Tensor, is_response: Tensor) -> Tensor:
    """Mean of -log p over the response tokens, in nats: [B, T], [B, T] -> [].

    For tokens drawn from the whole distribution this is an unbiased estimate of its mean entropy, and it costs
    nothing: the sampler has recorded the log-probs already.
    """
    return masked_mean(-logprobs, is_response)


def next_token_loss(logits: Tensor, targets: Tensor, is_target: Tensor | None = None) -> Tensor:
    """Cross entropy in nats: logits [B, T, V] against the tokens they predict, targets [B, T] -> [].

    The mean is over the True entries of `is_target` [B, T] in the whole batch (all of them when None).
    """
    if is_target is None:
        return F.cross_entropy(logits.float().flatten(0, -2), targets.flatten())
    return masked_mean(-token_logprobs(logits, targets), is_target)


class _LinearCrossEntropy(torch.autograd.Function):
    """See `linear_next_token_loss`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        matrix = weight.to(dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None  # a frozen one needs none
        total = hidden.new_zeros((), dtype=torch.float32)
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(hidden), chunk):
                part, goal = hidden[start : start + chunk].to(dtype), targets[start : start + chunk].unsqueeze(1)
                logits = (part @ matrix.T).float()  # (n, V)
                # d loss / d logits = softmax - one-hot: known already, so the logits need not be kept
                slope = logits.softmax(dim=1)
                # log Σ exp(l) = max l - log max p. The largest probability is never 0, the target's may be.
                log_total = logits.amax(dim=1, keepdim=True) - slope.amax(dim=1, keepdim=True).log()
                total += (log_total - logits.gather(1, goal)).sum()
                slope.scatter_add_(1, goal, -torch.ones_like(log_total))
                slope = slope.to(dtype)
                grad_hidden[start : start + chunk] = slope @ matrix
                if grad_weight is not None:
                    grad_weight += slope.T @ part
        count = max(1, len(hidden))
        ctx.save_for_backward(grad_hidden.div_(count), grad_weight if grad_weight is None else grad_weight.div_(count))
        return total / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad * grad_hidden, None if grad_weight is None else grad * grad_weight, None, None


def linear_next_token_loss(hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int = 1024) -> Tensor:
    """`next_token_loss(hidden @ weight.T, targets)` without ever holding all logits -> [].

    hidden [N, C], weight [V, C], targets [N]; the mean is over all N. The product with the vocabulary,
    the softmax and their gradients are taken `chunk` rows at a time, while they are in the processor's
    cache: with a vocabulary of 2,048 this is a quarter of a CPU training step saved.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, chunk)  # type: ignore[no-untyped-call]
    return loss


# --- reward model ------------------------------------------------------------------------------


def preference_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    is_win: Tensor,
    is_tie: Tensor,
    centering: float,
    ordered: float | None = None,
    pairs: float | None = None,
) -> Tensor:
    """Bradley-Terry loss over compared answers; all arguments [B], `is_win` and `is_tie` exclusive -> [].

        win       -log σ(Δ)                                with Δ = r₊ - r₋
        tie       0.5 (-log σ(Δ) - log σ(-Δ))              smallest at Δ = 0: pulls the scores together
        both bad  nothing (neither flag is set)            teaches no order
        plus      centering · mean((r₊ + r₋)²)             pins the offset the differences leave free

    The order terms are averaged over wins and ties, the centring over all B pairs; `ordered` and `pairs` are these
    numbers when the batch comes in microbatches.
    (Ouyang et al. 2022, eq. 1; centring: Eisenstein et al. 2023, "Helping or herding?".)
    """
    delta = chosen - rejected
    win_loss = -F.logsigmoid(delta)
    tie_loss = 0.5 * (win_loss - F.logsigmoid(-delta))
    has_order = is_win | is_tie
    order = masked_mean(torch.where(is_tie, tie_loss, win_loss), has_order, denominator=ordered)
    return order + centering * masked_mean((chosen + rejected).square(), torch.ones_like(has_order), denominator=pairs)


# --- KL ------------------------------------------------------------------------------------------


def kl_k1(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """log p - log q of sampled tokens [B, T]: unbiased for KL(p‖q) under samples of p, may be negative.

    The one to put *inside* a reward (http://joschu.net/blog/kl-approx.html).
    """
    return logprobs - reference_logprobs


def kl_from(logits: Tensor, other_logits: Tensor) -> Tensor:
    """KL(p‖q) in nats over the whole vocabulary, p and q the softmax of `logits` and `other_logits`: [..., V] -> [...].

    With p a teacher's its gradient in q is that of distillation (Hinton et al. 2015, https://arxiv.org/abs/1503.02531,
    section 2, at temperature 1).
    """
    log_p, log_q = F.log_softmax(logits.float(), dim=-1), F.log_softmax(other_logits.float(), dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def linear_kl_from(
    head: Head, hidden: Tensor, other_head: Head, other_hidden: Tensor, *, logits_at_once: int = LOGITS_AT_ONCE
) -> Tensor:
    """`kl_from(head(hidden), other_head(other_hidden))` in chunks as `linear_logprobs` takes them: [N, C] twice -> [N].

    No gradient flows to `hidden` or its head: p is a teacher.
    """

    def chunk(part: Tensor, other_part: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = head(part)
        return kl_from(wanted, other_head(other_part))

    return _in_chunks(chunk, (hidden.detach(), other_hidden), head, logits_at_once // 2)


def adapt_kl_weight(weight: float, *, kl_nats: float, target_nats: float, answers: int, horizon: int) -> float:
    """The proportional controller of Ziegler et al. 2019, section 2.2: the next KL weight.

    error = clip(KL / target - 1, -0.2, 0.2);  weight · (1 + error · min(1, answers / horizon)).
    `kl_nats` is the mean over answers of the KL summed over an answer's tokens. A horizon shorter than a round counts
    as one round: without that bound, which is ours, the weight could turn negative and pay for distance.
    """
    error = min(max(kl_nats / target_nats - 1.0, -0.2), 0.2)
    return weight * (1.0 + error * min(1.0, answers / horizon))


# --- PPO -------------------------------------------------------------------------------------------


def last_response_index(is_response: Tensor) -> Tensor:
    """Column of each row's last response token: [B, T] -> [B]. Every row must have one."""
    assert bool(is_response.any(-1).all()), "an answer without tokens has no last token"
    positions = torch.arange(is_response.shape[-1], device=is_response.device)
    return (positions * is_response).argmax(-1)


def rewards_with_kl(
    scores: Tensor, logprobs: Tensor, reference_logprobs: Tensor, is_response: Tensor, *, kl_weight: float
) -> Tensor:
    """Per-token rewards [B, T]: -kl_weight · k1 at response tokens, plus `scores` [B] at the last one.

    The score sits at the last *response* token, never on padding, where no return would see it.
    ValueError when a score is not finite: one NaN would otherwise poison every weight in silence.
    (Ziegler et al. 2019, eq. 2; Ouyang et al. 2022, eq. 2.)
    """
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("The reward model returned a score that is not a finite number.")
    rewards = -kl_weight * kl_k1(logprobs, reference_logprobs).where(is_response, 0.0)
    rows = torch.arange(len(scores), device=scores.device)
    return rewards.index_put((rows, last_response_index(is_response)), scores.to(rewards.dtype), accumulate=True)


def gae(rewards: Tensor, values: Tensor, is_response: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16): advantages and returns, [B, T] each.

        δ_t = r_t + γ V_{t+1} - V_t       (V after the last response token is 0: the answer is over)
        A_t = Σ_{s ≥ t} (γλ)^{s-t} δ_s    R_t = A_t + V_t

    The sum is one product with the triangular matrix of powers of γλ instead of a loop over tokens, which
    is the same because response columns are contiguous and δ is 0 outside them. Both results are 0 there.
    """
    rewards, values = rewards.where(is_response, 0.0), values.where(is_response, 0.0)
    next_values = F.pad(values[:, 1:], (0, 1))
    deltas = (rewards + gamma * next_values - values).where(is_response, 0.0)
    steps = torch.arange(deltas.shape[1], device=deltas.device, dtype=deltas.dtype)
    distance = steps[:, None] - steps[None, :]  # [s, t] = s - t
    powers = torch.where(distance >= 0, torch.pow(gamma * lam, distance.clamp(min=0)), 0.0)
    advantages = (deltas @ powers.to(deltas.dtype)).where(is_response, 0.0)
    return advantages, advantages + values


def whiten(values: Tensor, is_response: Tensor, *, eps: float = 1e-8) -> Tensor:
    """(x - mean) / √(var + eps) over the response tokens of the whole batch; 0 elsewhere. [B, T] -> [B, T].

    The variance divides by the number of response tokens.
    """
    mean = masked_mean(values, is_response)
    variance = masked_mean((values - mean).square(), is_response)
    return ((values - mean) * torch.rsqrt(variance + eps)).where(is_response, 0.0)


class PolicyLoss(NamedTuple):
    """What a clipped policy update reports; every entry is [].

    With a `denominator`, the means of a minibatch's microbatches add up to its mean.
    """

    loss: Tensor
    clip_fraction: Tensor
    """Share of response tokens where the clipped term was the one that counted."""
    approx_kl: Tensor
    """Mean KL per response token from the sampling policy to this one, in nats (k3)."""
    max_ratio_error: Tensor
    """Largest |ratio - 1| of a response token; 0 up to rounding before the first update."""


def _clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    is_response: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    denominator: Tensor | float | None,
) -> PolicyLoss:
    log_ratio = (logprobs - old_logprobs).where(is_response, 0.0).clamp(-MOST_LOG_RATIO, MOST_LOG_RATIO)
    advantages = advantages.where(is_response, 0.0)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss = masked_mean(torch.maximum(unclipped, clipped), is_response, denominator=denominator)
    with torch.no_grad():
        return PolicyLoss(
            loss=loss,
            clip_fraction=masked_mean((clipped > unclipped).float(), is_response, denominator=denominator),
            approx_kl=masked_mean(ratio - 1.0 - log_ratio, is_response, denominator=denominator),
            max_ratio_error=(ratio - 1.0).abs().amax(),
        )


def ppo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    is_response: Tensor,
    *,
    clip: float,
    denominator: Tensor | float | None = None,
) -> PolicyLoss:
    """Clipped surrogate (Schulman et al. 2017, eq. 7), all tensors [B, T].

    -min(ρA, clip(ρ, 1-ε, 1+ε)A) with ρ = exp(logprobs - old_logprobs), averaged over the response tokens
    of the minibatch; `denominator` is their number when the minibatch comes in microbatches.
    """
    return _clipped_surrogate(
        logprobs, old_logprobs, advantages, is_response, clip_low=clip, clip_high=clip, denominator=denominator
    )


class ValueLoss(NamedTuple):
    loss: Tensor
    clip_fraction: Tensor
    """Share of response tokens where the clipped term was the larger one."""


def ppo_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    is_response: Tensor,
    *,
    clip: float,
    denominator: Tensor | float | None = None,
) -> ValueLoss:
    """0.5 · max((V - R)², (clip(V, V_old ± ε) - R)²), averaged over response tokens. All [B, T].

    `denominator` is their number when the minibatch comes in microbatches.

    (Huang et al. 2022, "The 37 implementation details of PPO", detail 9.)
    """
    values, old_values, returns = (x.where(is_response, 0.0) for x in (values, old_values, returns))
    clipped_values = old_values + (values - old_values).clamp(-clip, clip)
    error, clipped_error = (values - returns).square(), (clipped_values - returns).square()
    loss = 0.5 * masked_mean(torch.maximum(error, clipped_error), is_response, denominator=denominator)
    with torch.no_grad():
        clip_fraction = masked_mean((clipped_error > error).float(), is_response, denominator=denominator)
    return ValueLoss(loss=loss, clip_fraction=clip_fraction)


# --- GRPO ------------------------------------------------------------------------------------------


class GroupAdvantages(NamedTuple):
    advantages: Tensor
    """[groups, G]; all 0 in a group without signal."""
    has_signal: Tensor
    """[groups], False where every answer got the same reward: such a group has no gradient."""


def group_advantages(
    rewards: Tensor, *, scale_by_std: bool = True, least_std: float = 0.0, eps: float = 1e-4
) -> GroupAdvantages:
    """(r - mean) / (std + eps) inside each group: rewards [groups, G] (Shao et al. 2024, section 4.1.2).

    The standard deviation is the sample one (divides by G - 1, as TRL's does), and never taken to be below `least_std`:
    a group that differs by next to nothing is not blown up to full size. `scale_by_std=False` leaves it out
    (Liu et al. 2025, "Dr. GRPO"). ValueError when a reward is not finite.
    """
    if not bool(torch.isfinite(rewards).all()):
        raise ValueError("A reward is not a finite number.")
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    # Compared exactly: rounding in the mean must not turn ten equal rewards into a signal.
    has_signal = (rewards != rewards[:, :1]).any(dim=1)
    if scale_by_std:
        centred = centred / (rewards.std(dim=1, keepdim=True).clamp(min=least_std) + eps)
    return GroupAdvantages(centred * has_signal[:, None], has_signal)


def advantages_with_kl(
    advantages: Tensor, logprobs: Tensor, reference_logprobs: Tensor, is_response: Tensor, *, kl_weight: float
) -> Tensor:
    """One advantage per answer [B] spread over its tokens, less kl_weight · k1 of each: -> [B, T].

    Putting k1 into the advantage (not k3 into the loss) makes the expected gradient that of KL(p‖q).
    """
    penalised = advantages[:, None] - kl_weight * kl_k1(logprobs, reference_logprobs)
    return penalised.where(is_response, 0.0)


def grpo_token_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    is_response: Tensor,
    *,
    is_complete: Tensor,
    clip_low: float,
    clip_high: float,
    denominator: Tensor | float | None = None,
) -> PolicyLoss:
    """Token-level clipped surrogate with a higher upper clip (Yu et al. 2025, "DAPO", section 3).

    `advantages` [B] is one per answer, or [B, T] when each token has its own; `is_complete` [B] is False for
    an answer that was cut off, whose tokens are left out because nobody knows how it would have ended.
    The sum over the remaining tokens is divided by their number *over the batch*, so that a token weighs the
    same in a long and in a short answer; `denominator` gives that number when the batch comes in microbatches.
    """
    if advantages.dim() == 1:
        advantages = advantages[:, None].expand_as(logprobs)
    return _clipped_surrogate(
        logprobs,
        old_logprobs,
        advantages,
        is_response & is_complete[:, None],
        clip_low=clip_low,
        clip_high=clip_high,
        denominator=denominator,
    )

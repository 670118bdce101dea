"""Every expected number here was worked by hand; none comes from the function under test."""

import math
import weakref

import pytest
import torch
from torch import Tensor

from trainer.rl import losses

NAN = float("nan")


def close(actual: Tensor, expected: object, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(
        actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=0, atol=tolerance, check_dtype=False
    )


# --- means, log-probs, entropy ---------------------------------------------------------------------


def test_it_averages_over_response_tokens_of_the_whole_batch() -> None:
    values = torch.tensor([[1.0, 2.0, 100.0], [6.0, 100.0, 100.0]])
    is_response = torch.tensor([[True, True, False], [True, False, False]])
    close(losses.masked_mean(values, is_response), (1 + 2 + 6) / 3)  # not (1.5 + 6) / 2, not / 6


def test_it_averages_past_a_nan_in_the_padding() -> None:
    values = torch.tensor([[1.0, NAN], [3.0, NAN]])
    close(losses.masked_mean(values, torch.tensor([[True, False], [True, False]])), 2.0)


def test_it_averages_over_a_denominator_of_the_caller() -> None:
    close(losses.masked_mean(torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool), denominator=12.0), 0.25)


def test_it_averages_no_tokens_to_zero() -> None:
    close(losses.masked_mean(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)), 0.0)


def test_it_scores_tokens_with_the_full_softmax_at_a_temperature() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]]).expand(2, 2)
    tokens = torch.tensor([0, 1])
    close(losses.token_logprobs(logits, tokens), [math.log(1 / 4), math.log(3 / 4)])
    # Temperature 1/2 doubles the logits: weights 1 and 9.
    close(losses.token_logprobs(logits, tokens, temperature=0.5), [math.log(1 / 10), math.log(9 / 10)])


def test_it_keeps_the_shape_of_the_tokens() -> None:
    assert losses.token_logprobs(torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.long)).shape == (2, 3)


def test_it_takes_log_probs_and_their_gradients_in_chunks_as_at_once() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 4, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)
    tokens, upstream = torch.randint(9, (7,)), torch.randn(7, dtype=torch.float64)

    def taken(logits_at_once: int) -> tuple[Tensor, Tensor, Tensor]:
        mine, head = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        found = losses.linear_logprobs(
            lambda part: part @ head.T, mine, tokens, temperature=0.7, logits_at_once=logits_at_once
        )
        (found * upstream).sum().backward()
        assert mine.grad is not None
        assert head.grad is not None
        return found.detach(), mine.grad, head.grad

    plain = losses.token_logprobs(hidden @ weight.T, tokens, temperature=0.7)
    for whole, chunked in zip(taken(10**6), taken(18), strict=True):  # two positions at a time, and one left over
        close(chunked, whole, 1e-6)
    close(taken(1)[0], plain, 1e-6)  # not even one position fits: one at a time then
    assert losses.linear_logprobs(lambda part: part @ weight.T, hidden[:0], tokens[:0]).shape == (0,)


def test_it_never_holds_the_logits_of_a_whole_batch() -> None:
    """256 positions of a vocabulary of 4,096 in chunks of 16: none of their tensors survives its chunk."""
    held: list[weakref.ref[Tensor]] = []
    weight = torch.randn(4096, 8)

    def head(part: Tensor) -> Tensor:
        logits = part @ weight.T
        held.append(weakref.ref(logits))
        return logits

    hidden = torch.randn(256, 8, requires_grad=True)
    found = losses.linear_logprobs(head, hidden, torch.randint(4096, (256,)), logits_at_once=16 * 4096)
    assert sum(tensor() is not None for tensor in held) == 0
    found.sum().backward()
    assert len(held) == 1 + 2 * 16  # each chunk forward, and once more for its gradient


def test_it_measures_kl_and_its_gradient_in_chunks_as_at_once() -> None:
    torch.manual_seed(1)
    teacher, mine = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 3, dtype=torch.float64)

    def head(part: Tensor) -> Tensor:
        return part @ weight.T

    plain = losses.kl_from(head(teacher), head(mine))
    (wanted,) = torch.autograd.grad(plain.sum(), mine)
    chunked = losses.linear_kl_from(head, teacher, head, mine, logits_at_once=24)
    (gradient,) = torch.autograd.grad(chunked.sum(), mine)
    close(chunked.detach(), plain.detach())
    close(gradient, wanted)


def test_it_estimates_entropy_from_samples_without_bias() -> None:
    p = torch.tensor([0.25, 0.75])
    # a quarter of the samples is token 0, three quarters are token 1: the expectation, written out
    drawn = torch.tensor([[p[0], p[1]], [p[1], p[1]], [NAN, NAN]]).log()
    is_response = torch.tensor([[True, True], [True, True], [False, False]])
    exact = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    close(losses.sampled_entropy(drawn, is_response), exact)


def test_it_takes_next_token_loss_over_targets_only() -> None:
    logits = torch.tensor([[[0.0, 0.0], [0.0, math.log(3.0)], [0.0, 50.0]]])
    targets = torch.tensor([[0, 0, 0]])
    close(losses.next_token_loss(logits, targets, torch.tensor([[True, True, False]])), (math.log(2) + math.log(4)) / 2)
    close(losses.next_token_loss(logits, targets), (math.log(2) + math.log(4) + 50.0) / 3, 1e-5)


def test_it_takes_the_same_loss_and_gradients_in_chunks() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 3, generator=generator, requires_grad=True)
    weight = torch.randn(5, 3, generator=generator, requires_grad=True)
    targets = torch.tensor([0, 4, 2, 2, 1, 3, 0])
    plain = losses.next_token_loss(hidden @ weight.T, targets)
    chunked = losses.linear_next_token_loss(hidden, weight, targets, chunk=3)
    close(chunked, plain)
    wanted, found = (torch.autograd.grad(2 * loss, (hidden, weight)) for loss in (plain, chunked))
    close(found[0], wanted[0])
    close(found[1], wanted[1])


def test_it_keeps_the_loss_finite_where_a_probability_is_too_small_to_hold() -> None:
    hidden = torch.tensor([[1.0]], requires_grad=True)
    weight = torch.tensor([[200.0], [0.0]], requires_grad=True)  # the target's probability is e^-200: 0 in float32
    loss = losses.linear_next_token_loss(hidden, weight, torch.tensor([1]))
    close(loss, 200.0)
    close(torch.autograd.grad(loss, weight)[0], [[1.0], [-1.0]])


# --- reward model ----------------------------------------------------------------------------------


def preference(outcome: str, chosen: float, rejected: float, centering: float = 0.0) -> Tensor:
    return losses.preference_loss(
        torch.tensor([chosen]),
        torch.tensor([rejected]),
        is_win=torch.tensor([outcome == "win"]),
        is_tie=torch.tensor([outcome == "tie"]),
        centering=centering,
    )


def test_it_charges_a_win_minus_log_sigmoid_of_the_margin() -> None:
    close(preference("win", 2.0, 1.0), 0.31326169)  # ln(1 + e^-1)
    close(preference("win", 1.0, 2.0), 1.31326169)  # ln(1 + e)


def test_it_pulls_the_scores_of_a_tie_together() -> None:
    close(preference("tie", 2.0, 1.0), 0.81326169)  # half of 0.31326169 + 1.31326169
    close(preference("tie", 1.0, 1.0), math.log(2.0))  # the smallest it can be
    scores = torch.tensor([2.0, 1.0], requires_grad=True)
    loss = losses.preference_loss(
        scores[:1], scores[1:], is_win=torch.tensor([False]), is_tie=torch.tensor([True]), centering=0.0
    )
    # d/dΔ = σ(Δ) - 1/2 = 0.23105858 at Δ = 1.
    close(torch.autograd.grad(loss, scores)[0], [0.23105858, -0.23105858])


def test_it_learns_no_order_from_a_pair_that_is_both_bad() -> None:
    close(preference("both_bad", 2.0, 1.0), 0.0)
    close(preference("both_bad", 2.0, 1.0, centering=0.1), 0.9)  # 0.1 · (2 + 1)²


def test_it_averages_order_over_wins_and_ties_and_centring_over_all_pairs() -> None:
    loss = losses.preference_loss(
        torch.tensor([2.0, 2.0, 3.0]),
        torch.tensor([1.0, 1.0, -3.0]),
        is_win=torch.tensor([True, False, False]),
        is_tie=torch.tensor([False, True, False]),
        centering=0.01,
    )
    close(loss, (0.31326169 + 0.81326169) / 2 + 0.01 * (9 + 9 + 0) / 3)


# --- KL --------------------------------------------------------------------------------------------


def test_it_estimates_kl_from_a_sample() -> None:
    logprobs, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    close(losses.kl_k1(logprobs, reference), [math.log(2.0)])


def test_it_estimates_kl_without_bias() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    exact = 0.5 * math.log(2.5) + 0.2 * math.log(0.4)
    close((p * losses.kl_k1(p.log(), q.log())).sum(), exact)


def test_it_measures_the_kl_of_whole_distributions() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]]), torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.3, 0.5]])
    # 0.5 · ln 2 + 0.25 · ln ½ + 0; logits may be shifted by any constant
    close(losses.kl_from(p.log() + 3.0, q.log()), [0.25 * math.log(2.0), 0.0])
    logits = torch.zeros(3, requires_grad=True)
    losses.kl_from(p[0].log(), logits).backward()
    assert logits.grad is not None
    close(logits.grad, [1 / 3 - 0.5, 1 / 3 - 0.25, 1 / 3 - 0.25])  # q - p


def test_it_penalises_kl_with_the_gradient_of_kl() -> None:
    """k1 in the advantage gives the gradient of KL(p‖q); as a loss, k3 = q/p - 1 - log(q/p) would give another one."""
    theta = torch.tensor([0.4, -0.3, 0.1], requires_grad=True)
    q = torch.tensor([0.2, 0.3, 0.5])
    p = theta.softmax(0)
    exact = torch.autograd.grad((p * (p / q).log()).sum(), theta)[0]

    ours, as_a_loss = torch.zeros(3), torch.zeros(3)
    for token in range(3):  # the expectation over the policy's own samples, written out
        logprob = theta.log_softmax(0)[token].reshape(1, 1)
        response, reference = torch.ones(1, 1, dtype=torch.bool), q[token].log().reshape(1, 1)
        advantages = losses.advantages_with_kl(torch.zeros(1), logprob.detach(), reference, response, kl_weight=1.0)
        surrogate = losses.grpo_token_loss(
            logprob,
            logprob.detach(),
            advantages,
            response,
            is_complete=torch.tensor([True]),
            clip_low=0.2,
            clip_high=0.28,
        )
        weight = p.detach()[token]
        ours += weight * torch.autograd.grad(surrogate.loss, theta, retain_graph=True)[0]
        k3 = torch.expm1(reference - logprob) - (reference - logprob)
        as_a_loss += weight * torch.autograd.grad(k3.sum(), theta)[0]
    close(ours, exact)
    close(as_a_loss, p.detach() - q)  # the gradient of the other KL, KL(q‖p)
    assert (as_a_loss - exact).abs().max() > 0.04


def test_it_steers_the_kl_weight_towards_the_target() -> None:
    adapt = losses.adapt_kl_weight
    # error = 6.6/6 - 1 = 0.1; 64 of 640 answers: 0.05 · 1.01
    assert adapt(0.05, kl_nats=6.6, target_nats=6.0, answers=64, horizon=640) == pytest.approx(0.0505, abs=1e-12)
    # far off, the error is clipped to ±0.2
    assert adapt(0.05, kl_nats=60.0, target_nats=6.0, answers=64, horizon=640) == pytest.approx(0.051, abs=1e-12)
    assert adapt(0.05, kl_nats=0.0, target_nats=6.0, answers=64, horizon=640) == pytest.approx(0.049, abs=1e-12)
    # and ten rounds' worth of correction is not made in one: 0.05 · 0.8, not 0.05 · -1
    assert adapt(0.05, kl_nats=0.0, target_nats=6.0, answers=640, horizon=64) == pytest.approx(0.04, abs=1e-12)


# --- rewards ---------------------------------------------------------------------------------------


def test_it_places_the_score_on_the_last_response_token_and_not_on_padding() -> None:
    is_response = torch.tensor([[False, True, True, False, False], [False, False, True, True, True]])
    rewards = losses.rewards_with_kl(
        torch.tensor([2.0, -1.0]), torch.zeros(2, 5), torch.zeros(2, 5), is_response, kl_weight=0.5
    )
    close(rewards, [[0.0, 0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, -1.0]])


def test_it_subtracts_k1_at_every_response_token() -> None:
    logprobs = torch.tensor([[-1.0, -0.5, -2.0, NAN]])
    reference = torch.tensor([[-9.0, -1.5, -1.0, NAN]])
    is_response = torch.tensor([[False, True, True, False]])
    rewards = losses.rewards_with_kl(torch.tensor([3.0]), logprobs, reference, is_response, kl_weight=0.1)
    # k1 = 1.0 and -1.0; the last token carries the score too.
    close(rewards, [[0.0, -0.1, 0.1 + 3.0, 0.0]])


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_it_refuses_a_score_that_is_not_finite(bad: float) -> None:
    is_response = torch.ones(2, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="not a finite number"):
        losses.rewards_with_kl(torch.tensor([1.0, bad]), torch.zeros(2, 1), torch.zeros(2, 1), is_response, kl_weight=0)
    with pytest.raises(ValueError, match="not a finite number"):
        losses.group_advantages(torch.tensor([[1.0, bad]]))


def test_it_finds_no_last_token_in_an_empty_answer() -> None:
    with pytest.raises(AssertionError):
        losses.last_response_index(torch.tensor([[True], [False]]))


# --- GAE and whitening -----------------------------------------------------------------------------


def test_it_estimates_advantages_worked_by_hand() -> None:
    advantages, returns = losses.gae(
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.tensor([[0.5, 0.6, 0.7]]),
        torch.ones(1, 3, dtype=torch.bool),
        gamma=1.0,
        lam=0.95,
    )
    # δ = 0.1, 0.1, 0.3;  A₂ = 0.3, A₁ = 0.1 + 0.95·0.3, A₀ = 0.1 + 0.95·0.385
    close(advantages, [[0.46575, 0.385, 0.3]])
    close(returns, [[0.96575, 0.985, 1.0]])


def test_it_discounts() -> None:
    advantages, _ = losses.gae(
        torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), torch.ones(1, 2, dtype=torch.bool), gamma=0.9, lam=0.8
    )
    # δ₁ = 2 - 4 = -2, δ₀ = 1 + 0.9·4 - 3 = 1.6, A₀ = 1.6 - 0.72·2
    close(advantages, [[0.16, -2.0]])


def test_it_estimates_advantages_past_prompt_and_padding() -> None:
    is_response = torch.tensor([[False, True, True, True, False]])
    advantages, returns = losses.gae(
        torch.tensor([[5.0, 0.0, 0.0, 1.0, NAN]]),
        torch.tensor([[9.0, 0.5, 0.6, 0.7, NAN]]),
        is_response,
        gamma=1.0,
        lam=0.95,
    )
    close(advantages, [[0.0, 0.46575, 0.385, 0.3, 0.0]])
    close(returns, [[0.0, 0.96575, 0.985, 1.0, 0.0]])


def test_it_equals_the_plain_loop() -> None:
    generator = torch.Generator().manual_seed(3)
    rewards, values = (torch.randn(4, 33, generator=generator, dtype=torch.float64) for _ in range(2))
    is_response = torch.zeros(4, 33, dtype=torch.bool)
    for row, (start, stop) in enumerate([(0, 33), (5, 20), (7, 8), (30, 33)]):
        is_response[row, start:stop] = True
    advantages, returns = losses.gae(rewards, values, is_response, gamma=0.97, lam=0.9)
    for row in range(4):
        running = 0.0
        for t in reversed(range(33)):
            if not is_response[row, t]:
                running = 0.0
                assert advantages[row, t] == 0
                continue
            following = values[row, t + 1].item() if t + 1 < 33 and is_response[row, t + 1] else 0.0
            delta = rewards[row, t].item() + 0.97 * following - values[row, t].item()
            running = delta + 0.97 * 0.9 * running
            close(advantages[row, t], running, 1e-9)
            close(returns[row, t], running + values[row, t].item(), 1e-9)


def test_it_whitens_over_response_tokens_only() -> None:
    values = torch.tensor([[1.0, 2.0, 50.0], [3.0, 6.0, NAN]])
    is_response = torch.tensor([[True, True, False], [True, True, False]])
    white = losses.whiten(values, is_response)
    deviation = math.sqrt(3.5)  # mean 3, variance (4 + 1 + 0 + 9) / 4
    close(white, [[-2 / deviation, -1 / deviation, 0.0], [0.0, 3 / deviation, 0.0]])


def test_it_whitens_equal_values_to_zero() -> None:
    close(losses.whiten(torch.full((1, 3), 2.0), torch.ones(1, 3, dtype=torch.bool)), [[0.0, 0.0, 0.0]])


# --- clipped losses --------------------------------------------------------------------------------


def test_it_clips_the_policy_update_on_the_pessimistic_side() -> None:
    ratio = torch.tensor([[1.5, 0.5, 1.5, 0.5, 9.0]])
    advantages = torch.tensor([[1.0, -1.0, -1.0, 1.0, 9.0]])
    is_response = torch.tensor([[True, True, True, True, False]])
    result = losses.ppo_policy_loss(ratio.log(), torch.zeros(1, 5), advantages, is_response, clip=0.2)
    close(result.loss, (-1.2 + 0.8 + 1.5 - 0.5) / 4)
    close(result.clip_fraction, 2 / 4)
    # k3 of the sampling policy against this one: ρ - 1 - ln ρ
    close(result.approx_kl, (2 * (0.5 - math.log(1.5)) + 2 * (-0.5 - math.log(0.5))) / 4)
    close(result.max_ratio_error, 0.5)


def test_it_adds_up_when_a_minibatch_comes_in_pieces() -> None:
    ratio, advantages = torch.tensor([[1.5, 0.5], [1.5, 0.5]]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    rows = [
        losses.ppo_policy_loss(
            ratio[row : row + 1].log(),
            torch.zeros(1, 2),
            advantages[row : row + 1],
            torch.tensor([[True, row == 0]]),
            clip=0.2,
            denominator=3,
        )
        for row in range(2)
    ]
    close(rows[0].loss + rows[1].loss, (-1.2 + 0.8 + 1.5) / 3)
    close(rows[0].clip_fraction + rows[1].clip_fraction, 2 / 3)
    values = [
        losses.ppo_value_loss(
            torch.tensor([[1.0]]),
            torch.zeros(1, 1),
            torch.tensor([[goal]]),
            torch.tensor([[True]]),
            clip=9,
            denominator=2,
        ).loss
        for goal in (3.0, 5.0)
    ]
    close(values[0] + values[1], 0.5 * (4 + 16) / 2)


def test_it_gives_a_clipped_token_no_gradient() -> None:
    logprobs = torch.tensor([[math.log(1.5), math.log(1.1)]], requires_grad=True)
    result = losses.ppo_policy_loss(
        logprobs, torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), clip=0.2
    )
    close(torch.autograd.grad(result.loss, logprobs)[0], [[0.0, -1.1 / 2]])  # d(-ρA/2)/d log π = -ρA/2


def test_it_clips_the_value_update() -> None:
    is_response = torch.tensor([[True, True, False]])
    values = torch.tensor([[1.0, 0.1, NAN]])
    old_values, returns = torch.tensor([[0.0, 0.0, NAN]]), torch.tensor([[2.0, 2.0, NAN]])
    result = losses.ppo_value_loss(values, old_values, returns, is_response, clip=0.2)
    # token 0: max((1-2)², (0.2-2)²) = 3.24 (clipped); token 1: (0.1-2)² = 3.61 both ways
    close(result.loss, 0.5 * (3.24 + 3.61) / 2)
    close(result.clip_fraction, 0.5)


def test_it_keeps_nan_in_padding_out_of_the_gradient() -> None:
    logprobs = torch.tensor([[-1.0, -1.0]], requires_grad=True)
    is_response = torch.tensor([[True, False]])
    old, advantages = torch.tensor([[-1.0, NAN]]), torch.tensor([[2.0, NAN]])
    policy = losses.ppo_policy_loss(logprobs, old, advantages, is_response, clip=0.2)
    value = losses.ppo_value_loss(logprobs, old, advantages, is_response, clip=0.2)
    close(torch.autograd.grad(policy.loss, logprobs)[0], [[-2.0, 0.0]])
    close(torch.autograd.grad(value.loss, logprobs)[0], [[-3.0, 0.0]])


# --- GRPO ------------------------------------------------------------------------------------------


def test_it_compares_answers_inside_their_group() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [3.0, 1.0, 1.0, 3.0]])
    result = losses.group_advantages(rewards, eps=0.0)
    # mean 0.5, sample standard deviation √(4 · 0.25 / 3) = 0.57735027; scale does not matter
    expected = 0.5 / 0.57735027
    close(result.advantages, [[expected, -expected, -expected, expected]] * 2)
    close(losses.group_advantages(rewards, scale_by_std=False).advantages, [[0.5, -0.5, -0.5, 0.5], [1, -1, -1, 1]])
    close(rewards, [[1.0, 0.0, 0.0, 1.0], [3.0, 1.0, 1.0, 3.0]])  # the rewards are not overwritten


def test_a_small_difference_does_not_count_as_much_as_a_large_one() -> None:
    rewards = torch.tensor([[1.1] * 3 + [1.0], [1.1] * 3 + [0.0]])
    # means 1.075 and 0.825, standard deviations 0.05 and 0.55; 0.5 is the least
    expected = [[0.05] * 3 + [-0.15], [0.5] * 3 + [-1.5]]
    close(losses.group_advantages(rewards, least_std=0.5, eps=0.0).advantages, expected)


def test_it_flags_groups_without_variance() -> None:
    # 1.1 eight times has a mean that rounding may move off 1.1: still no signal.
    result = losses.group_advantages(torch.tensor([[1.1] * 8, [0.0] * 8, [0.0] * 7 + [1.0]]))
    assert result.has_signal.tolist() == [False, False, True]
    close(result.advantages[:2], torch.zeros(2, 8))


def grpo(ratio: Tensor, advantages: Tensor, is_response: Tensor, is_complete: list[bool], **kwargs: float) -> Tensor:
    return losses.grpo_token_loss(
        ratio.log(),
        torch.zeros_like(ratio),
        advantages,
        is_response,
        is_complete=torch.tensor(is_complete),
        clip_low=0.2,
        clip_high=0.28,
        **kwargs,
    ).loss


def test_it_weighs_a_token_the_same_in_a_long_and_a_short_answer() -> None:
    is_response = torch.tensor([[True, True, True, True], [True, False, False, False]])
    loss = grpo(torch.ones(2, 4), torch.tensor([1.0, -2.0]), is_response, [True, True])
    close(loss, (-4 * 1.0 + 1 * 2.0) / 5)  # per-answer means would give (-1 + 2) / 2


def test_it_divides_by_the_tokens_of_the_batch_when_it_comes_in_pieces() -> None:
    is_response = torch.tensor([[True, True, True, True], [True, False, False, False]])
    advantages = torch.tensor([1.0, -2.0])
    pieces = [
        grpo(torch.ones(1, 4), advantages[row : row + 1], is_response[row : row + 1], [True], denominator=5.0)
        for row in range(2)
    ]
    close(pieces[0] + pieces[1], (-4 * 1.0 + 1 * 2.0) / 5)


def test_it_clips_higher_above_than_below() -> None:
    ratio, response = torch.tensor([[1.27], [1.5], [0.5]]), torch.ones(3, 1, dtype=torch.bool)
    loss = grpo(ratio, torch.tensor([1.0, 1.0, -1.0]), response, [True, True, True])
    close(loss, (-1.27 - 1.28 + 0.8) / 3)


def test_it_leaves_truncated_answers_out() -> None:
    response = torch.ones(2, 2, dtype=torch.bool)
    loss = grpo(torch.ones(2, 2), torch.tensor([1.0, -5.0]), response, [True, False])
    close(loss, -1.0)  # two tokens with advantage 1, denominator 2


def test_it_takes_an_advantage_per_token() -> None:
    response = torch.ones(1, 2, dtype=torch.bool)
    close(grpo(torch.ones(1, 2), torch.tensor([[1.0, 3.0]]), response, [True]), -2.0)


def test_it_spreads_an_advantage_less_kl_over_the_tokens() -> None:
    spread = losses.advantages_with_kl(
        torch.tensor([2.0]),
        torch.tensor([[-1.0, -1.0, NAN]]),
        torch.tensor([[-3.0, 0.0, NAN]]),
        torch.tensor([[True, True, False]]),
        kl_weight=0.1,
    )
    close(spread, [[2.0 - 0.2, 2.0 + 0.1, 0.0]])


# --- a peer's numbers -------------------------------------------------------------------------------
#
# Recorded once by running TRL 1.12.0's own lines (trl/experimental/ppo/ppo_trainer.py, trl/trainer/
# grpo_trainer.py, reward_trainer.py and utils.py) on these inputs with torch 2.13.0. TRL's whitening divides
# the variance by n - 1, ours by n.

IS_RESPONSE = torch.tensor([[True, True, True, False], [True, True, False, False]])
VALUES = torch.tensor([[0.4, 0.1, 0.9, 0.0], [-0.3, 0.2, 0.0, 0.0]])
OLD_LOGPROBS = torch.tensor([[-1.3, -0.5, -1.6, 0.0], [-0.7, -2.1, 0.0, 0.0]])
LOGPROBS = torch.tensor([[-1.0, -0.4, -2.2, 0.0], [-0.7, -3.0, 0.0, 0.0]])


def test_it_agrees_with_trl_on_advantages() -> None:
    rewards = torch.tensor([[-0.02, 0.05, 1.3, 0.0], [0.01, -0.6, 0.0, 0.0]])
    advantages, returns = losses.gae(rewards, VALUES, IS_RESPONSE, gamma=0.98, lam=0.9)
    close(returns, [[1.12299347, 1.28479993, 1.29999995, 0.0], [-0.49959999, -0.60000002, 0.0, 0.0]])
    theirs = torch.tensor([[0.59264612, 1.18587244, 0.17773584, 0.0], [-0.59249699, -1.36375761, 0.0, 0.0]])
    close(losses.whiten(advantages, IS_RESPONSE), theirs * math.sqrt(5 / 4))


def test_it_agrees_with_trl_on_the_ppo_losses() -> None:
    advantages = torch.tensor([[0.5, -1.1, 0.8, 0.0], [-0.2, 1.4, 0.0, 0.0]])
    policy = losses.ppo_policy_loss(LOGPROBS, OLD_LOGPROBS, advantages, IS_RESPONSE, clip=0.2)
    close(policy.loss, -0.03851174)
    close(policy.clip_fraction, 0.2)
    values = torch.tensor([[0.9, 0.15, 0.5, 0.0], [-0.1, 0.9, 0.0, 0.0]])
    returns = torch.tensor([[1.2, 1.0, 1.3, 0.0], [-0.5, -0.6, 0.0, 0.0]])
    value = losses.ppo_value_loss(values, VALUES, returns, IS_RESPONSE, clip=0.2)
    close(value.loss, 0.41324997)
    close(value.clip_fraction, 0.2)


def test_it_agrees_with_trl_on_grpo() -> None:
    rewards = torch.tensor([[1.0, 0.0, 1.1, 0.0], [0.0, 0.0, 0.0, 1.0]])
    close(
        losses.group_advantages(rewards).advantages,
        [[0.78164744, -0.86392605, 0.94620484, -0.86392605], [-0.49990001, -0.49990001, -0.49990001, 1.49970007]],
    )
    loss = losses.grpo_token_loss(
        LOGPROBS,
        OLD_LOGPROBS,
        torch.tensor([1.3, -0.7]),
        IS_RESPONSE,
        is_complete=torch.tensor([True, True]),
        clip_low=0.2,
        clip_high=0.28,
    ).loss
    close(loss, -0.51083541)


def test_it_agrees_with_trl_on_reward_models_and_log_probs() -> None:
    three = torch.ones(3, dtype=torch.bool)
    loss = losses.preference_loss(
        torch.tensor([1.2, -0.3, 0.4]), torch.tensor([0.7, 0.5, -2.0]), is_win=three, is_tie=~three, centering=0.01
    )
    close(loss, 0.59803790)
    logits = torch.tensor([[[0.3, -1.2, 2.0], [0.0, 0.5, -0.5]]])
    close(losses.token_logprobs(logits, torch.tensor([[1, 0]]), temperature=0.7), [[-4.66537952, -1.26194048]])


def test_a_probability_ratio_stays_finite_however_far_two_policies_are_apart() -> None:
    logprobs = torch.tensor([[-0.1, -0.1]], requires_grad=True)
    old, mask = torch.tensor([[-500.0, -0.1]]), torch.tensor([[True, True]])
    result = losses.ppo_policy_loss(logprobs, old, torch.tensor([[-1.0, 1.0]]), mask, clip=0.2)
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert torch.isfinite(result.approx_kl)
    assert logprobs.grad is not None
    assert torch.isfinite(logprobs.grad).all()

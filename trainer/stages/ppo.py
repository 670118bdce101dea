"""Stage 3b, preference fine-tuning: make the answers people prefer more likely (PPO).

The idea: the model (the *policy*) answers prompts, the reward model scores the answers, and the policy is
moved towards what scored better than a *critic* expected, in small clipped steps, while a penalty on its
distance from the model it started as (the *reference*) keeps it from exploiting the reward model.

One round, the numbers standing in the code again:

1. Sample one answer per prompt from the policy, at the temperature everything is scored at.
2. Score each finished answer with the reward model, at its end token; a missing end costs extra.
3. Spread the reward over tokens: -β·k1 to the reference at each, plus the score at the last response token
   (Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, eq. 2).
4. Estimate advantages with the critic (GAE, https://arxiv.org/abs/1506.02438, eq. 16) and whiten them over
   the response tokens.
5. For some epochs of minibatches: clipped policy loss (PPO, https://arxiv.org/abs/1707.06347, eq. 7) and
   clipped value loss; the policy stops for this round once it is too far from the one that sampled.
6. Steer β so that the KL to the reference approaches its target (Ziegler et al. 2019, section 2.2).

Deviations, on purpose: the critic is a model of its own that starts as the reward model, and for the first
rounds only it learns; policy and critic have an optimiser each; there is no entropy bonus.

Run it: ``python -m trainer ppo --preset tiny --from SFT_DIR --reward-model REWARD_DIR --out DIR``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainer.asked import Asked, asked_shown
from trainer.config import PPO, PPOConfig
from trainer.data.prompting import greedy_samples
from trainer.evaluation.alarms import new_alarms, new_evaluation_alarms, repetition
from trainer.evaluation.visiting import visitor_shares
from trainer.lineage import Inputs, stage_info
from trainer.model.adapters import learning, learnt
from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.model.engine import Engine
from trainer.model.starting import Start, start
from trainer.model.tokenizer import Tokenizer
from trainer.rl import losses
from trainer.rl.rollout import Batch, Rollout, collect, deal, fitting_prompts, minibatches, pad
from trainer.rl.scoring import (
    end_scores,
    microbatches,
    rescored,
    response_logprobs,
    response_values,
    score_logprobs,
    score_values,
    scored_sequence,
)
from trainer.runtime.errors import Diverged
from trainer.runtime.loop import Metrics, Report, SampleDict, clear_resume, run_steps
from trainer.runtime.optim import adamw, apply_gradients, set_lr_factor, warmup_decay
from trainer.runtime.seeds import random_generator

DECAY: Final = 0.5
"""Share of the rounds, at the end, over which the learning rates fall to zero."""
EVALUATION_PROMPTS: Final = 64
"""Held-out prompts answered at every evaluation, at most."""
SAMPLES: Final = 4
"""Of those, how many are shown."""
PRACTISED: Final = 8
"""Answers shown of every round it practises."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """The four models of PPO."""

    policy: LanguageModel
    reference: LanguageModel
    """The parent, frozen."""
    judge: ScalarModel
    """The reward model, frozen."""
    critic: ScalarModel
    tokenizer: Tokenizer
    rescores: bool = False
    """Whether the trainer takes the log-probs of answers anew, because the sampler computes in another precision."""


@dataclass(frozen=True, kw_only=True)
class Experience:
    """One round's answers and what is learnt from them; tensors [B, T] unless said otherwise."""

    batch: Batch
    kl: Tensor
    """[B] k1 to the reference summed over each answer, in nats."""
    sampler_error: float
    """Mean distance of the sampler's log-prob of a token from the trainer's, in nats; 0 where that is not taken."""
    old_values: Tensor
    advantages: Tensor
    """Whitened."""
    returns: Tensor

    def pick(self, rows: Sequence[int]) -> Experience:
        """These rows, no wider than the longest of them."""
        batch = self.batch.pick(rows)
        columns = batch.is_response.shape[1]
        return Experience(
            batch=batch,
            kl=self.kl[rows],
            sampler_error=self.sampler_error,
            old_values=self.old_values[rows, :columns],
            advantages=self.advantages[rows, :columns],
            returns=self.returns[rows, :columns],
        )


def train(config: PPOConfig, inputs: Inputs, out_dir: Path, report: Report, should_stop: Callable[[], bool]) -> Path:
    """Train the parent against the reward model; returns `out_dir`, now a checkpoint.

    Raises Stopped (resumable), Diverged, or ValueError for unusable inputs.
    """
    assert inputs.parent is not None, "the caller checks that a parent is there"
    assert inputs.reward_model is not None, "the caller checks that a reward model is there"
    parent = start(inputs.parent, config, seed=inputs.seed, out_dir=out_dir)
    models = load_models(parent, inputs.reward_model)
    policy, tokenizer = models.policy, models.tokenizer
    room = policy.config.context - config.max_new_tokens
    fitting = fitting_prompts(tokenizer, inputs.corpus.preference_prompts, room=room)
    asked, prompts = list(fitting), list(fitting.values())
    held_out = fitting_prompts(tokenizer, inputs.corpus.held_out_preference_prompts[:EVALUATION_PROMPTS], room=room)
    engine = Engine(policy, end_ids=tokenizer.end_ids, max_batch=config.rollouts)
    optimizers = {
        "policy": adamw(learning(policy), lr=config.lr),
        "critic": adamw(learning(models.critic), lr=config.critic_lr),
    }
    state: dict[str, Any] = {
        "precision": parent.precision,
        "kl_weight": config.kl_weight,
        "alarms": {},
        "figures": {},
    }
    _, parent_rewards = _answer_held_out(  # its engine is gone when it has answered
        Engine(models.reference, end_ids=tokenizer.end_ids, max_batch=config.rollouts),
        models,
        config,
        list(held_out.values()),
        inputs.seed,
    )

    def do_step(step: int) -> Metrics:
        set_lr_factor(optimizers, warmup_decay(step, config.steps, warmup=0.0, decay=DECAY))
        dealt = deal(len(prompts), config.rollouts, step=step, seed=inputs.seed, purpose="prompts")
        rollouts = collect(  # 1
            engine,
            [prompts[i] for i in dealt],
            temperature=config.temperature,
            max_new_tokens=config.max_new_tokens,
            generator=random_generator(inputs.seed, "rollouts", step),
        )
        order = random_generator(inputs.seed, "minibatches", step)
        epochs = [minibatches(len(rollouts), config.minibatch, generator=order) for _ in range(config.epochs)]
        experience = judge(rollouts, models, config, kl_weight=state["kl_weight"], minibatches=epochs[0])  # 2, 3, 4
        report.practice(step + 1, _practised([asked[i] for i in dealt], rollouts, experience, tokenizer))
        critic_only = step < config.critic_warmup
        metrics = update(experience, models, config, optimizers, epochs=epochs, critic_only=critic_only)  # 5
        metrics |= describe(rollouts, experience) | {"kl_weight": state["kl_weight"]}
        if not critic_only:  # before that the KL is 0, which would only wear the weight down
            state["kl_weight"] = losses.adapt_kl_weight(  # 6
                state["kl_weight"],
                kl_nats=metrics["kl"],
                target_nats=config.kl_target_nats,
                answers=len(rollouts),
                horizon=config.kl_horizon,
            )
        for text in new_alarms(metrics, state["alarms"], kl_target=config.kl_target_nats):
            report.alarm(step + 1, text)
        state["figures"] |= {name: metrics[name] for name in ("reward", "kl", "entropy", "length")}
        return metrics

    def evaluate(done: int) -> tuple[Metrics, list[SampleDict]]:
        answers, rewards = _answer_held_out(engine, models, config, list(held_out.values()), inputs.seed)
        wins = (rewards > parent_rewards).float() + 0.5 * (rewards == parent_rewards).float()
        metrics = {
            "held_out_reward": rewards.mean().item(),
            "held_out_win_rate": wins.mean().item(),
            "held_out_prompts": len(rewards),
        }
        reward = state["figures"].get("reward", metrics["held_out_reward"])
        for text in new_evaluation_alarms(reward, metrics["held_out_win_rate"], state["alarms"]):
            report.alarm(done, text)
        metrics |= visitor_shares(
            engine, tokenizer, inputs.corpus.visitors, stage=PPO, max_new_tokens=config.max_new_tokens
        )
        state["figures"] |= metrics
        samples: list[SampleDict] = [
            {"prompt": asked_shown(prompt), "text": tokenizer.decode(answer.response), "reward": round(score, 3)}
            for prompt, answer, score in zip(list(held_out)[:SAMPLES], answers, rewards.tolist(), strict=False)
        ]
        shown = greedy_samples(
            engine, tokenizer, inputs.corpus.sample_prompts, stage=PPO, max_new_tokens=config.max_new_tokens
        )
        return metrics, [*shown, *samples]

    run_steps(
        steps=config.steps,
        out_dir=out_dir,
        modules={"policy": learnt(policy), "critic": learnt(models.critic)},
        optimizers=optimizers,
        state=state,
        do_step=do_step,
        evaluate=evaluate,
        evaluations=min(config.evaluations, config.steps),
        report=report,
        should_stop=should_stop,
    )
    info = stage_info(inputs, parent=parent.info, config=config, state=state, metrics=state["figures"])
    parent.save(out_dir, policy, stage=PPO, info=info)
    clear_resume(out_dir)
    return out_dir


def _practised(
    asked: Sequence[Asked], rollouts: Sequence[Rollout], experience: Experience, tokenizer: Tokenizer
) -> list[SampleDict]:
    """Some of a round's answers with what goes into their rewards: score, and KL in nats (k1, over the answer)."""
    return [
        {
            "prompt": asked_shown(prompt),
            "text": tokenizer.decode(rollout.response),
            "score": round(rollout.reward, 3),
            "kl": round(kl, 3),
        }
        for prompt, rollout, kl in list(zip(asked, rollouts, experience.kl.tolist(), strict=True))[:PRACTISED]
    ]


def load_models(parent: Start, reward_model: Path) -> Models:
    """The policy, the parent as it was, the reward model, and a critic that starts as the reward model.

    With adapters all four stand on the parent's weights, if those are what the reward model was trained on.
    ValueError when the reward model reads other tokens than the policy writes.
    """
    reference, judge = parent.reference(), parent.judge(reward_model)
    return Models(
        policy=parent.prepared(parent.policy()),
        reference=reference,
        judge=judge,
        critic=parent.critic(judge),
        tokenizer=parent.tokenizer,
        rescores=parent.rescores,
    )


def answer_rewards(rollouts: Sequence[Rollout], models: Models, config: PPOConfig) -> Tensor:
    """[B] reward-model scores at the end tokens, less the penalty for answers that were cut off."""
    context = models.judge.config.context
    sequences = [
        scored_sequence(models.tokenizer, rollout.prompt, rollout.response, context=context) for rollout in rollouts
    ]
    scores = end_scores(models.judge, sequences, pad_id=models.tokenizer.pad_id)
    if not torch.isfinite(scores).all():
        raise Diverged("The reward model returned a score that is not a number. Train the reward model again.")
    is_complete = torch.tensor([rollout.is_complete for rollout in rollouts])
    return scores - config.missing_end_penalty * (~is_complete).float()


def judge(
    rollouts: Sequence[Rollout],
    models: Models,
    config: PPOConfig,
    *,
    kl_weight: float,
    minibatches: Sequence[Sequence[int]] | None = None,
) -> Experience:
    """Steps 2 to 4: rewards, rewards per token, advantages and returns of freshly sampled answers.

    `minibatches` are those that the update will begin with.
    """
    for rollout, reward in zip(rollouts, answer_rewards(rollouts, models, config).tolist(), strict=True):  # 2
        rollout.reward = reward
    batch = pad(rollouts, pad_id=models.tokenizer.pad_id, device=next(models.policy.parameters()).device)
    sampled = batch.old_logprobs
    if models.rescores:
        batch = rescored(models.policy, batch, minibatches or [range(len(rollouts))], temperature=config.temperature)
    reference = score_logprobs(models.reference, batch, temperature=config.temperature)
    rewards = losses.rewards_with_kl(  # 3
        batch.rewards, batch.old_logprobs, reference, batch.is_response, kl_weight=kl_weight
    )
    values = score_values(models.critic, batch)
    advantages, returns = losses.gae(rewards, values, batch.is_response, gamma=config.gamma, lam=config.lam)  # 4
    return Experience(
        batch=batch,
        kl=losses.kl_k1(batch.old_logprobs, reference).where(batch.is_response, 0.0).sum(-1),
        sampler_error=losses.masked_mean((sampled - batch.old_logprobs).abs(), batch.is_response).item(),
        old_values=values,
        advantages=losses.whiten(advantages, batch.is_response),
        returns=returns,
    )


def update(
    experience: Experience,
    models: Models,
    config: PPOConfig,
    optimizers: Mapping[str, Optimizer],
    *,
    epochs: Sequence[Sequence[Sequence[int]]],
    critic_only: bool,
) -> Metrics:
    """Step 5: passes over the round's answers, in the minibatches of `epochs`; returns means over the minibatches."""
    figures: dict[str, list[float]] = {}
    is_policy_done = critic_only
    for epoch in epochs:
        for rows in epoch:
            minibatch = [experience.pick(part) for part in microbatches(models.policy, experience.batch, rows)]
            if not is_policy_done:
                found = _policy_step(minibatch, models.policy, config, optimizers["policy"])
                is_policy_done = "grad_norm" not in found
                _append(figures, found)
            _append(figures, _critic_step(minibatch, models.critic, config, optimizers["critic"]))
    first_ratio = 1.0 + figures.pop("ratio_error", [0.0])[0]
    metrics = {name: sum(values) / len(values) for name, values in figures.items()}
    return metrics | {"first_ratio": first_ratio, "stopped_early": float(is_policy_done and not critic_only)}


def _policy_step(
    minibatch: Sequence[Experience], policy: LanguageModel, config: PPOConfig, optimizer: Optimizer
) -> Metrics:
    """One clipped step; no step (and no "grad_norm") once the KL to the sampling policy is too large."""
    tokens = _response_tokens(minibatch)
    results = []
    for part in minibatch:
        logprobs = response_logprobs(policy, part.batch, temperature=config.temperature)
        result = losses.ppo_policy_loss(
            logprobs,
            part.batch.old_logprobs,
            part.advantages,
            part.batch.is_response,
            clip=config.clip,
            denominator=tokens,
        )
        result.loss.backward()  # type: ignore[no-untyped-call]
        results.append(result)
    figures = {
        "policy_loss": sum(result.loss.item() for result in results),
        "clip_fraction": sum(result.clip_fraction.item() for result in results),
        "approx_kl": sum(result.approx_kl.item() for result in results),
        "ratio_error": max(result.max_ratio_error.item() for result in results),
    }
    if figures["approx_kl"] > config.max_kl_nats:
        optimizer.zero_grad(set_to_none=True)
        return figures
    return figures | {"grad_norm": apply_gradients(policy, [optimizer])}


def _critic_step(
    minibatch: Sequence[Experience], critic: ScalarModel, config: PPOConfig, optimizer: Optimizer
) -> Metrics:
    tokens = _response_tokens(minibatch)
    results = []
    for part in minibatch:
        result = losses.ppo_value_loss(
            response_values(critic, part.batch),
            part.old_values,
            part.returns,
            part.batch.is_response,
            clip=config.value_clip,
            denominator=tokens,
        )
        (config.value_weight * result.loss).backward()  # type: ignore[no-untyped-call]
        results.append(result)
    apply_gradients(critic, [optimizer])
    return {
        "value_loss": sum(result.loss.item() for result in results),
        "value_clip_fraction": sum(result.clip_fraction.item() for result in results),
    }


def _response_tokens(minibatch: Sequence[Experience]) -> int:
    """The denominator of a minibatch, over all its microbatches."""
    return sum(int(part.batch.lengths.sum()) for part in minibatch)


def describe(rollouts: Sequence[Rollout], experience: Experience) -> Metrics:
    """What the round's answers were like."""
    batch, is_response = experience.batch, experience.batch.is_response
    errors = experience.returns - experience.old_values
    spread = _variance(experience.returns, is_response).clamp(min=1e-8)
    return {
        "reward": batch.rewards.mean().item(),
        "reward_std": batch.rewards.std(correction=0).item(),
        "kl": experience.kl.mean().item(),
        "entropy": losses.sampled_entropy(batch.old_logprobs, is_response).item(),
        "length": batch.lengths.float().mean().item(),
        "ended": batch.is_complete.float().mean().item(),
        "answers": len(rollouts),
        "sampler_error": experience.sampler_error,
        "repetition": repetition([rollout.response for rollout in rollouts]),
        "explained_variance": 1.0 - (_variance(errors, is_response) / spread).item(),
    }


def _variance(values: Tensor, is_response: Tensor) -> Tensor:
    """Variance over the response tokens of the whole batch."""
    mean = losses.masked_mean(values, is_response)
    return losses.masked_mean((values - mean).square(), is_response)


def _append(figures: dict[str, list[float]], found: Metrics) -> None:
    for name, value in found.items():
        figures.setdefault(name, []).append(value)


def _answer_held_out(
    engine: Engine, models: Models, config: PPOConfig, prompts: Sequence[list[int]], seed: int
) -> tuple[list[Rollout], Tensor]:
    """Answers to held-out prompts, always with the same dice, and their rewards [N]."""
    rollouts = collect(
        engine,
        prompts,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        generator=random_generator(seed, "held-out answers"),
    )
    return rollouts, answer_rewards(rollouts, models, config)

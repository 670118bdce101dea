"""Stage 4, reasoning fine-tuning: make right answers more likely (GRPO with verifiable rewards).

The idea: where an answer can be *checked*, no reward model and no critic are needed. The model answers
every problem several times; an answer is as good as its reward is above the mean of its own group, and all
its tokens become more (or less) likely by that much.

One round, the numbers standing in the code again:

1. Choose problems that are neither solved nor out of reach (shelves.py) and sample a group of answers to each, at the
   temperature they are scored at.
2. Check each answer by the judge that is passed in: by default what the problem's kind asks for (tasks/problem.py).
   Right: 1, plus a little when the steps are written out and right. Wrong: 0, however nicely it is written. An answer
   that was cut off counts as wrong.
3. Advantages inside each group (https://arxiv.org/abs/2402.03300, section 4.1.2). Groups whose answers all
   got the same reward teach nothing and are dropped.
4. One or more passes of the token-level clipped loss with a higher upper clip (DAPO,
   https://arxiv.org/abs/2503.14476, section 3): a token weighs the same in long and short answers, and the
   tokens of answers that were cut off are left out. Every step also holds the model to what its parent says in
   conversations about something else (anchor.py): without that it forgets them.
5. Remember how many were right, so that the next problems are those from which most is to be learnt.

Deviations, on purpose: no KL penalty on the answers themselves unless asked for; then k1 to the parent is taken off
each token's advantage, which has the gradient of the KL (k3 as a loss has another one).

Run it: ``python -m trainer grpo --preset tiny --from PPO_DIR --out DIR``
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from trainer.asked import asked_shown
from trainer.config import GRPO, GRPOConfig
from trainer.data.chats import NothingFits
from trainer.data.prompting import greedy_samples
from trainer.evaluation.alarms import new_alarms, repetition
from trainer.evaluation.asking import ask, mean_reward, solves
from trainer.evaluation.visiting import visitor_shares
from trainer.lineage import Inputs, stage_info
from trainer.model.adapters import learning, learnt
from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.model.engine import Engine
from trainer.model.starting import start
from trainer.model.tokenizer import Tokenizer
from trainer.rl import losses
from trainer.rl.anchor import Anchor, other_conversations, own_conversations
from trainer.rl.rollout import Batch, Rollout, collect, fitting_prompts, minibatches, pad
from trainer.rl.scoring import microbatches, rescored, response_logprobs, score_logprobs
from trainer.rl.shelves import Practice
from trainer.runtime.loop import Metrics, Report, SampleDict, clear_resume, run_steps
from trainer.runtime.optim import adamw, apply_gradients, set_lr_factor, warmup_decay
from trainer.runtime.seeds import random_generator
from trainer.tasks.problem import Judge, Problem, Verdict, judge

DECAY: Final = 0.5
"""Share of the rounds, at the end, over which the learning rate falls to zero."""
EVALUATION_PROBLEMS: Final = 64
"""Held-out problems tried at every evaluation, at most."""
EVALUATION_PROMPTS: Final = 32
"""Held-out preference prompts answered for the reward model, at most."""


def train(
    config: GRPOConfig,
    inputs: Inputs,
    out_dir: Path,
    report: Report,
    should_stop: Callable[[], bool],
    *,
    judge: Judge = judge,
) -> Path:
    """Train the parent on the corpus's problems; returns `out_dir`, now a checkpoint.

    `judge` says whether an answer to a problem is right, in measuring too. With a reward model among the inputs, the
    taste it learnt is measured as well.
    Raises Stopped (resumable), Diverged, or ValueError for unusable inputs.
    """
    assert inputs.parent is not None, "the caller checks that a parent is there"
    parent = start(inputs.parent, config, seed=inputs.seed, out_dir=out_dir)
    reference, tokenizer = parent.reference(), parent.tokenizer
    policy = parent.prepared(parent.policy())
    room = policy.config.context - config.max_new_tokens
    prompts = fitting_prompts(tokenizer, [problem.asked for problem in inputs.corpus.problems], room=room)
    fitting = [problem for problem in inputs.corpus.problems if problem.asked in prompts]
    state: dict[str, Any] = {"precision": parent.precision, "alarms": {}, "figures": {}}
    practice = Practice(fitting, config, state)
    taste_judge = parent.judge(inputs.reward_model) if inputs.reward_model else None
    engine = Engine(policy, end_ids=tokenizer.end_ids, max_batch=config.problems * config.group)
    optimizers = {"adamw": adamw(learning(policy), lr=config.lr)}
    if config.anchor_answers:
        state["said"] = None  # nothing was asked yet; [] is a parent that had nothing whole to say

    @cache
    def anchor() -> Anchor | None:
        """What holds the policy to its parent; asked for when a round begins, in the first one before it has moved."""
        return hold(policy, reference, engine, tokenizer, config, inputs, state, report)

    shown: list[SampleDict] = []

    def do_step(step: int) -> Metrics:
        set_lr_factor(optimizers, warmup_decay(step, config.steps, warmup=0.0, decay=DECAY))
        problems = practice.choose(  # 1
            config.problems, generator=random_generator(inputs.seed, "problems", step)
        )
        rollouts = collect(
            engine,
            [prompts[problem.asked] for problem in problems],
            temperature=config.temperature,
            max_new_tokens=config.max_new_tokens,
            generator=random_generator(inputs.seed, "rollouts", step),
            copies=config.group,
        )
        verdicts = check(rollouts, problems, tokenizer, judge=judge, format_reward=config.format_reward)  # 2
        kept = compare(rollouts, group=config.group)  # 3
        if held := anchor():
            held.start_round(step)
        shown[:] = _samples(rollouts, verdicts, problems, kept, tokenizer, config.group)
        report.practice(step + 1, shown)
        metrics = update(  # 4
            kept,
            policy,
            reference,
            config,
            optimizers["adamw"],
            pad_id=tokenizer.pad_id,
            order=random_generator(inputs.seed, "minibatches", step),
            anchor=held,
            rescores=parent.rescores,
        )
        solved = sum(verdict.correct for verdict in verdicts) / len(verdicts)
        practice.remember(problems, shares_solved(verdicts, group=config.group))  # 5
        groups = len(problems)
        metrics |= describe(rollouts, reference, config, tokenizer) | {
            "solved": solved,
            "worked": sum(verdict.correct and verdict.worked_steps for verdict in verdicts) / len(verdicts),
            "zero_variance": (groups - len(kept) // config.group) / groups,
            "level": state["level"],
        }
        for text in new_alarms(metrics, state["alarms"]):
            report.alarm(step + 1, text)
        state["figures"] |= {name: metrics[name] for name in ("solved", "mean_reward", "kl", "entropy", "length")}
        return metrics

    def evaluate(_: int) -> tuple[Metrics, list[SampleDict]]:
        metrics = held_out_figures(engine, tokenizer, inputs, config, taste_judge, judge=judge)
        state["figures"] |= metrics
        said = greedy_samples(
            engine, tokenizer, inputs.corpus.sample_prompts, stage=GRPO, max_new_tokens=config.max_new_tokens
        )
        return metrics, [*said, *shown]

    run_steps(
        steps=config.steps,
        out_dir=out_dir,
        modules={"policy": learnt(policy)},
        optimizers=optimizers,
        state=state,
        do_step=do_step,
        evaluate=evaluate,
        evaluations=min(config.evaluations, config.steps),
        report=report,
        should_stop=should_stop,
    )
    info = stage_info(inputs, parent=parent.info, config=config, state=state, metrics=state["figures"])
    parent.save(out_dir, policy, stage=GRPO, info=info)
    clear_resume(out_dir)
    return out_dir


def hold(
    policy: LanguageModel,
    reference: LanguageModel,
    engine: Engine,
    tokenizer: Tokenizer,
    config: GRPOConfig,
    inputs: Inputs,
    state: dict[str, Any],
    report: Report,
) -> Anchor | None:
    """The anchor that the settings ask for, or none, with a word in the log, where there is nothing to hold it to.

    The parent's own answers are kept in `state`: once the policy has moved it cannot give them any more.
    """
    if config.anchor_weight == 0:
        return None
    conversations = other_conversations(inputs.corpus)
    if config.anchor_answers:
        if state["said"] is None:
            said = own_conversations(
                engine,
                tokenizer,
                inputs.corpus.preference_prompts,
                count=config.anchor_answers,
                max_new_tokens=config.max_new_tokens,
                seed=inputs.seed,
            )
            state["said"] = said
            report.log(0, f"It is held to {len(said)} answers that its parent gave to prompts of the corpus.")
        conversations = state["said"] or conversations
    try:
        if not conversations:
            raise NothingFits("There are no conversations about anything else.")
        return Anchor(policy, reference, conversations, tokenizer, config, seed=inputs.seed)
    except NothingFits as error:
        report.log(0, f"{error} So nothing but its problems holds the model to its parent.")
        return None


def check(
    rollouts: Sequence[Rollout],
    problems: Sequence[Problem],
    tokenizer: Tokenizer,
    *,
    judge: Judge = judge,
    format_reward: float,
) -> list[Verdict]:
    """Step 2: set each rollout's `reward` from the verdict on its text; returns the verdicts."""
    verdicts = []
    for rollout in rollouts:
        verdict = judge(problems[rollout.group], tokenizer.decode(rollout.response))
        if not rollout.is_complete:
            verdict = Verdict(correct=False, answer=verdict.answer, worked_steps=False)
        rollout.reward = verdict_reward(verdict, format_reward=format_reward)
        verdicts.append(verdict)
    return verdicts


def verdict_reward(verdict: Verdict, *, format_reward: float) -> float:
    """1 when right, `format_reward` more when the steps are right too; 0 when wrong, in whatever form.

    Form alone never pays: a model would learn to write neat steps to nowhere.
    """
    return 1.0 + format_reward * verdict.worked_steps if verdict.correct else 0.0


def shares_solved(verdicts: Sequence[Verdict], *, group: int) -> list[float]:
    """The share of right answers in each group."""
    right = [verdict.correct for verdict in verdicts]
    return [sum(right[start : start + group]) / group for start in range(0, len(right), group)]


def compare(rollouts: Sequence[Rollout], *, group: int) -> list[Rollout]:
    """Step 3: set each rollout's `advantage`; returns the rollouts of groups that teach something.

    Where all are right and one shows no steps, their spread is a tenth of what it is where one is wrong. Divided by
    it, form would weigh as much as being right; so it is taken to be that of one right answer in the group at least.
    """
    rewards = torch.tensor([rollout.reward for rollout in rollouts]).view(-1, group)
    result = losses.group_advantages(rewards, least_std=group**-0.5)
    for rollout, advantage in zip(rollouts, result.advantages.flatten().tolist(), strict=True):
        rollout.advantage = advantage
    return [rollout for rollout in rollouts if result.has_signal[rollout.group]]


def update(
    kept: Sequence[Rollout],
    policy: LanguageModel,
    reference: LanguageModel,
    config: GRPOConfig,
    optimizer: torch.optim.Optimizer,
    *,
    pad_id: int,
    order: torch.Generator,
    anchor: Anchor | None = None,
    rescores: bool = False,
) -> Metrics:
    """Step 4: passes over the kept answers; returns means over the optimiser steps.

    The loss of a step divides by the response tokens of that step's finished answers. With `rescores` the trainer takes
    the sampling log-probs anew; where a round is one step, that step's own are the ones, and no pass is needed.
    """
    figures: dict[str, list[float]] = {}
    epochs = [minibatches(len(kept), config.minibatch, generator=order) for _ in range(config.epochs)]
    steps = [rows for epoch in epochs for rows in epoch if any(kept[row].is_complete for row in rows)]
    batch = pad(kept, pad_id=pad_id, device=next(policy.parameters()).device) if steps else None
    sampled, is_first_own = batch, rescores and len(steps) == 1
    if batch is not None and rescores and not is_first_own:
        batch = rescored(policy, batch, epochs[0], temperature=config.temperature)
    for rows in steps:
        assert batch is not None
        found = _step(batch.pick(rows), policy, reference, config, optimizer, anchor, is_first=is_first_own)
        for name, value in found.items():
            figures.setdefault(name, []).append(value)
    first_ratio = 1.0 + figures.pop("ratio_error", [0.0])[0]
    metrics = {name: sum(values) / len(values) for name, values in figures.items()}
    if batch is not None and sampled is not None and not is_first_own:
        distance = (sampled.old_logprobs - batch.old_logprobs).abs()
        metrics["sampler_error"] = losses.masked_mean(distance, batch.is_response).item()
    return metrics | {"first_ratio": first_ratio, "updates": float(len(figures.get("loss", ())))}


def _step(
    batch: Batch,
    policy: LanguageModel,
    reference: LanguageModel,
    config: GRPOConfig,
    optimizer: torch.optim.Optimizer,
    anchor: Anchor | None,
    *,
    is_first: bool = False,
) -> Metrics:
    """One optimiser step; with `is_first` nothing has learnt yet, and its log-probs are those of sampling."""
    tokens = int(batch.lengths[batch.is_complete].sum())
    results = []
    errors = 0.0
    for rows in microbatches(policy, batch, range(len(batch.tokens))):
        part = batch.pick(rows)
        logprobs = response_logprobs(policy, part, temperature=config.temperature)
        if is_first:
            errors += (logprobs.detach() - part.old_logprobs).abs().sum().item()
            part = dataclasses.replace(part, old_logprobs=logprobs.detach())
        result = losses.grpo_token_loss(
            logprobs,
            part.old_logprobs,
            _token_advantages(part, reference, config),
            part.is_response,
            is_complete=part.is_complete,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            denominator=tokens,
        )
        result.loss.backward()  # type: ignore[no-untyped-call]
        results.append(result)
    also = {"anchor_kl": anchor.add_gradients()} if anchor else {}
    if is_first:
        also["sampler_error"] = errors / int(batch.lengths.sum())
    return also | {
        "loss": sum(result.loss.item() for result in results),
        "clip_fraction": sum(result.clip_fraction.item() for result in results),
        "approx_kl": sum(result.approx_kl.item() for result in results),
        "ratio_error": max(result.max_ratio_error.item() for result in results),
        "grad_norm": apply_gradients(policy, [optimizer]),
    }


def _token_advantages(batch: Batch, reference: LanguageModel, config: GRPOConfig) -> Tensor:
    """[B], or [B, T] less the KL penalty where there is one."""
    if config.kl_weight == 0.0:
        return batch.advantages
    return losses.advantages_with_kl(
        batch.advantages,
        batch.old_logprobs,
        score_logprobs(reference, batch, temperature=config.temperature),
        batch.is_response,
        kl_weight=config.kl_weight,
    )


def describe(
    rollouts: Sequence[Rollout], reference: LanguageModel, config: GRPOConfig, tokenizer: Tokenizer
) -> Metrics:
    """What the round's answers were like. The KL is measured on one answer per problem."""
    device = next(reference.parameters()).device
    few = pad(rollouts[:: config.group], pad_id=tokenizer.pad_id, device=device)
    kl = losses.kl_k1(few.old_logprobs, score_logprobs(reference, few, temperature=config.temperature))
    sampled = [logprob for rollout in rollouts for logprob in rollout.old_logprobs]
    return {
        "mean_reward": sum(rollout.reward for rollout in rollouts) / len(rollouts),
        "kl": kl.where(few.is_response, 0.0).sum(-1).mean().item(),
        "entropy": -sum(sampled) / len(sampled),
        "length": len(sampled) / len(rollouts),
        "ended": sum(rollout.is_complete for rollout in rollouts) / len(rollouts),
        "answers": len(rollouts),
        "repetition": repetition([rollout.response for rollout in rollouts]),
    }


def held_out_figures(
    engine: Engine,
    tokenizer: Tokenizer,
    inputs: Inputs,
    config: GRPOConfig,
    taste_judge: ScalarModel | None,
    *,
    judge: Judge = judge,
) -> Metrics:
    """pass@1 on held-out problems, what the reward model thinks of other answers, and what strangers would get."""
    metrics: Metrics = {}
    problems = inputs.corpus.held_out_problems[:EVALUATION_PROBLEMS]
    if problems:
        answers = ask(
            engine,
            tokenizer,
            [problem.asked for problem in problems],
            stage=GRPO,
            max_new_tokens=config.max_new_tokens,
        )
        solved = sum(solves(problem, answer, judge=judge) for problem, answer in zip(problems, answers, strict=True))
        metrics |= {"pass_at_1": solved / len(problems), "held_out_problems": len(problems)}
    prompts = inputs.corpus.held_out_preference_prompts[:EVALUATION_PROMPTS]
    if taste_judge is not None and prompts:
        answers = ask(
            engine,
            tokenizer,
            prompts,
            stage=GRPO,
            temperature=config.temperature,
            seed=inputs.seed,
            max_new_tokens=config.max_new_tokens,
        )
        metrics["taste_reward"] = mean_reward(taste_judge, tokenizer, answers)
    visitors = inputs.corpus.visitors
    return metrics | visitor_shares(engine, tokenizer, visitors, stage=GRPO, max_new_tokens=config.max_new_tokens)


def _samples(
    rollouts: Sequence[Rollout],
    verdicts: Sequence[Verdict],
    problems: Sequence[Problem],
    kept: Sequence[Rollout],
    tokenizer: Tokenizer,
    group: int,
) -> list[SampleDict]:
    """One whole group with its verdicts and advantages, one with a signal where there is one."""
    number = kept[0].group if kept else 0
    return [
        {
            "prompt": asked_shown(problems[number].asked),
            "expected": problems[number].expected,
            "text": tokenizer.decode(rollouts[row].response),
            "correct": verdicts[row].correct,
            "worked_steps": verdicts[row].worked_steps,
            "ended": rollouts[row].is_complete,
            "reward": round(rollouts[row].reward, 3),
            "advantage": round(rollouts[row].advantage, 3),
            "group": number,
        }
        for row in range(number * group, (number + 1) * group)
    ]

"""What a model answers, and the shares that follow from it: right, solved, preferred.

The idea: a number nobody can repeat is worth nothing, so each of these is a pure function of weights, held-out data
and a seed. Questions are asked the way chat asks them (`prompting.prompt_ids`), greedily where there is a right
answer, at temperature 1 where the manner of answering is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from trainer.asked import Asked, asked_messages
from trainer.config import SFT
from trainer.data.preferences import Comparison
from trainer.data.prompting import asked_ids
from trainer.evaluation.statistics import Share, grouped, share_of
from trainer.model.decoder import ScalarModel
from trainer.model.engine import END, Engine, Sampling
from trainer.model.tokenizer import Tokenizer
from trainer.rl.scoring import end_scores, scored_sequence
from trainer.runtime.seeds import random_generator
from trainer.tasks.problem import Judge, Problem, judge
from trainer.tasks.question import Question, is_right
from trainer.world.tastes import Taste

SAMPLES_PER_PROBLEM: Final = 8
"""Answers sampled per problem for pass@8."""


def win_rate(
    answers: Sequence[str], parent_answers: Sequence[str], prompts: Sequence[Asked], prefers: Callable[[str, str], str]
) -> Share | None:
    """How often `prefers(answer, parent's answer)` says "a", with ties ("tie") as half a win, over other prompts.

    Answers are compared place by place: both lists answer the same prompts, `prompts`, in the same order. None of none.
    """
    points = {"a": 1.0, "tie": 0.5, "b": 0.0}
    won = [points[prefers(ours, theirs)] for ours, theirs in zip(answers, parent_answers, strict=True)]
    return share_of(grouped(won, prompts))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased chance that one of k answers is right, given `correct` of `samples` (Chen et al. 2021, eq. 1).

    1 - C(n - c, k) / C(n, k).
    """
    if k > samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, not {samples}.")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said to one prompt."""

    text: str
    prompt: list[int]
    tokens: list[int]
    """Sampled ids, the end token included where one was drawn."""
    ended: bool


def ask(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[Asked],
    *,
    stage: str,
    temperature: float = 0.0,
    copies: int = 1,
    seed: int = 0,
    max_new_tokens: int,
) -> list[Answer]:
    """`copies` answers to each prompt, side by side, greedy at temperature 0.

    Of `max_new_tokens` at most, and of half of the context, as rollouts are.
    """
    limit = min(max_new_tokens, engine.config.context // 2)
    room = engine.config.context - limit
    ids = [asked_ids(tokenizer, prompt, stage=stage, room=room) for prompt in prompts for _ in range(copies)]
    seeds = torch.randint(2**31, (len(ids),), generator=random_generator(seed, "ask")).tolist()
    sampling = [Sampling(temperature=temperature, max_new_tokens=limit, seed=one) for one in seeds]
    return [
        Answer(
            text=tokenizer.decode(completion.tokens).strip(),
            prompt=completion.prompt,
            tokens=completion.tokens,
            ended=completion.finish_reason == END,
        )
        for completion in engine.generate(ids, sampling)
    ]


def share_right(questions: Sequence[Question], answers: Sequence[Answer]) -> float:
    """Share of the questions whose answer, at the same place, is right."""
    right = sum(is_right(question, answer.text) for question, answer in zip(questions, answers, strict=True))
    return right / max(1, len(questions))


def instruction_accuracy(
    engine: Engine, tokenizer: Tokenizer, questions: Sequence[Question], *, stage: str = SFT, max_new_tokens: int
) -> float:
    """Share of held-out questions answered right, greedily."""
    prompts = [question.asked for question in questions]
    return share_right(questions, ask(engine, tokenizer, prompts, stage=stage, max_new_tokens=max_new_tokens))


def solves(problem: Problem, answer: Answer, *, judge: Judge = judge) -> bool:
    """Whether an answer counts: right, and ended by itself, as GRPO's reward asks too.

    Noise that is cut off somewhere meets a small number now and then.
    """
    return answer.ended and judge(problem, answer.text).correct


def problem_passes(
    engine: Engine, tokenizer: Tokenizer, problems: Sequence[Problem], *, stage: str, seed: int, max_new_tokens: int
) -> dict[str, float]:
    """pass@1 (greedy) and pass@8 (sampled at temperature 1) on held-out problems.

    An answer that was cut off counts as wrong.
    """
    prompts = [problem.asked for problem in problems]
    greedy = ask(engine, tokenizer, prompts, stage=stage, max_new_tokens=max_new_tokens)
    solved = sum(solves(problem, answer) for problem, answer in zip(problems, greedy, strict=True))
    sampled = ask(
        engine,
        tokenizer,
        prompts,
        stage=stage,
        temperature=1.0,
        copies=SAMPLES_PER_PROBLEM,
        seed=seed,
        max_new_tokens=max_new_tokens,
    )
    counts = [
        sum(
            solves(problem, answer)
            for answer in sampled[index * SAMPLES_PER_PROBLEM : (index + 1) * SAMPLES_PER_PROBLEM]
        )
        for index, problem in enumerate(problems)
    ]
    return {
        "pass_at_1": solved / len(problems),
        "pass_at_8": sum(pass_at_k(SAMPLES_PER_PROBLEM, count, 8) for count in counts) / len(problems),
    }


def mean_reward(reward_model: ScalarModel, tokenizer: Tokenizer, answers: Sequence[Answer]) -> float:
    """Mean score of the answers; demonstrations score 0 on average."""
    return float(answer_scores(reward_model, tokenizer, answers).mean())


def answer_scores(reward_model: ScalarModel, tokenizer: Tokenizer, answers: Sequence[Answer]) -> Tensor:
    """The reward model's score of each answer: [N]."""
    context = reward_model.config.context
    sequences = [scored_sequence(tokenizer, answer.prompt, answer.tokens, context=context) for answer in answers]
    return end_scores(reward_model, sequences, pad_id=tokenizer.pad_id)


def true_comparisons(prompts: Sequence[Asked], answers: Sequence[Answer], taste: Taste) -> list[Comparison]:
    """Pairs of answers to one prompt (answers stand two by two), labelled by the taste without noise."""
    comparisons = []
    for index, prompt in enumerate(prompts):
        first, second = answers[2 * index].text, answers[2 * index + 1].text
        preferred = taste.prefers(first, second)
        if preferred == "b":
            first, second = second, first
        comparisons.append(
            Comparison(
                messages=asked_messages(prompt),
                chosen=first,
                rejected=second,
                outcome="tie" if preferred == "tie" else "win",
            )
        )
    return comparisons

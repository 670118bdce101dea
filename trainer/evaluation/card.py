"""The report card: every held-out measurement of one checkpoint.

Run it: ``python -m trainer eval CHECKPOINT``
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from trainer.asked import Asked
from trainer.config import REWARD
from trainer.data.corpus import Corpus
from trainer.evaluation.asking import ask, mean_reward, problem_passes, share_right, true_comparisons, win_rate
from trainer.evaluation.reward_model import interval_or_none, reward_agreement
from trainer.evaluation.text import bits_per_byte
from trainer.evaluation.visiting import visitor_counts, visitor_figures
from trainer.model.checkpoint import load_reward_model, load_to_answer
from trainer.model.decoder import ScalarModel
from trainer.model.engine import Engine
from trainer.model.tokenizer import Tokenizer
from trainer.presets import answer_tokens_of
from trainer.runtime import machine
from trainer.world.tastes import Taste

QUESTIONS: Final = 200
"""Held-out instruction questions asked, at most."""
PROBLEMS: Final = 100
"""Held-out word problems asked, at most."""
TASTE_ANSWERS: Final = 600
"""Answers sampled for length, reward and win rate, about."""
TASTE_PAIRS: Final = 2400
"""Pairs of answers a reward model is judged on, about: a few dozen for each held-out prompt. A taste decides half of
them or more."""


REPORT_FIELDS: Final = (
    "stage",
    "path",
    "parameters",
    "seconds",
    "bits_per_byte",
    "instruction_accuracy",
    "ended",
    "mean_tokens",
    "reward",
    "win_rate_vs_parent",
    "pass_at_1",
    "pass_at_8",
)
"""What every entry of report.json has; null where a figure does not apply."""


def evaluate_checkpoint(
    directory: Path,
    *,
    corpus: Corpus,
    seed: int = 0,
    parent: Path | None = None,
    reward_model: Path | None = None,
    taste: Taste | None = None,
    baseline: Path | None = None,
    max_new_tokens: int | None = None,
) -> dict[str, Any]:
    """One checkpoint's entry of the report card: `REPORT_FIELDS`, and where they apply also

    `visitors` ([right, asked] of each kind of what strangers type) and the shares of it in `visiting.GROUPS`,
    `win_rate_interval`, `win_rate_vs_baseline` and `win_rate_vs_baseline_interval` (a second opponent, e.g. the SFT
    model, to see whether a taste outlived the stages after it), and for a reward model `agreement`,
    `agreement_interval` and `length_only_agreement`, on the taste's own labels of its parent's answers when a taste is
    given. Intervals are over other prompts, null where there are too few to say. What the shares are of stands beside
    them: `held_out_questions`, `held_out_problems`, `sampled_answers` to `held_out_prompts`, or
    `held_out_comparisons` on `held_out_prompts`.

    Its answers, and those of its opponents, have `max_new_tokens` at most: by default as many as it was trained with.
    """
    device = machine.device()
    loaded = load_to_answer(directory)
    stage = str(loaded.info.get("stage", ""))
    limit = max_new_tokens or answer_tokens_of(loaded.info)
    entry: dict[str, Any] = dict.fromkeys(REPORT_FIELDS)
    entry |= {
        "stage": stage,
        "path": str(directory),
        "parameters": loaded.info.get("parameters", sum(p.numel() for p in loaded.model.parameters())),
        "seconds": loaded.info.get("seconds"),
    }
    if stage == REWARD or isinstance(loaded.model, ScalarModel):
        return entry | _judge_reward_model(
            loaded.reward_model, loaded.tokenizer, loaded.info, corpus, parent, taste, seed, limit
        )
    model, tokenizer = loaded.language_model, loaded.tokenizer
    engine = Engine(model, end_ids=tokenizer.end_ids)
    if corpus.held_out_documents:  # own text may have none
        entry["bits_per_byte"] = bits_per_byte(model, tokenizer, corpus.held_out_documents)
    questions = corpus.questions[:QUESTIONS]
    asked = [question.asked for question in questions]
    greedy = ask(engine, tokenizer, asked, stage=stage, max_new_tokens=limit)
    entry["instruction_accuracy"] = share_right(questions, greedy) if questions else None
    entry["held_out_questions"] = len(questions)
    prompts = corpus.held_out_preference_prompts
    copies = max(1, round(TASTE_ANSWERS / max(1, len(prompts))))
    answers = ask(
        engine, tokenizer, prompts, stage=stage, temperature=1.0, copies=copies, seed=seed, max_new_tokens=limit
    )
    if corpus.visitors:
        counts = visitor_counts(engine, tokenizer, corpus.visitors, stage=stage, max_new_tokens=limit)
        entry |= {"visitors": counts, **visitor_figures(counts)}
    entry["ended"] = _mean([answer.ended for answer in (*greedy, *answers)])
    entry["mean_tokens"] = _mean([len(answer.tokens) for answer in answers])
    entry |= {"held_out_prompts": len(prompts), "sampled_answers": len(answers)}
    if reward_model is not None:
        judge = load_reward_model(reward_model, device=device)
        entry["reward"] = mean_reward(judge.reward_model, judge.tokenizer, answers)
    problems = corpus.held_out_problems[:PROBLEMS]
    entry["held_out_problems"] = len(problems)
    if problems:
        passes = problem_passes(engine, tokenizer, problems, stage=stage, seed=seed, max_new_tokens=limit)
        entry |= {"pass_at_1": passes["pass_at_1"], "pass_at_8": passes["pass_at_8"]}
    if taste is not None:
        said: dict[Path, list[str]] = {}  # of PPO's checkpoint the parent is the baseline, too
        for opponent, field, interval in (
            (parent, "win_rate_vs_parent", "win_rate_interval"),
            (baseline, "win_rate_vs_baseline", "win_rate_vs_baseline_interval"),
        ):
            if opponent is None:
                continue
            if opponent not in said:
                said[opponent] = _opponent_answers(opponent, prompts, copies, seed, limit)
            asked = [prompt for prompt in prompts for _ in range(copies)]
            result = win_rate([answer.text for answer in answers], said[opponent], asked, taste.prefers)
            if result is not None:
                entry[field] = result.share
                entry[interval] = interval_or_none(result)
    return entry


def _opponent_answers(directory: Path, prompts: Sequence[Asked], copies: int, seed: int, limit: int) -> list[str]:
    loaded = load_to_answer(directory)
    tokenizer = loaded.tokenizer
    engine = Engine(loaded.language_model, end_ids=tokenizer.end_ids)
    # Another seed than the challenger's: equal dice would make two nearly equal models say the same.
    answers = ask(
        engine,
        tokenizer,
        prompts,
        stage=str(loaded.info.get("stage", "")),
        temperature=1.0,
        copies=copies,
        seed=seed + 1,
        max_new_tokens=limit,
    )
    return [answer.text for answer in answers]


def _judge_reward_model(
    model: ScalarModel,
    tokenizer: Tokenizer,
    info: dict[str, Any],
    corpus: Corpus,
    parent: Path | None,
    taste: Taste | None,
    seed: int,
    limit: int,
) -> dict[str, Any]:
    """Agreement with the true taste on fresh pairs of the parent's answers, else with held-out votes."""
    if taste is None or parent is None:
        metrics = info.get("metrics", {})
        fields = (
            "agreement",
            "agreement_interval",
            "length_only_agreement",
            "held_out_comparisons",
            "held_out_prompts",
        )
        return {field: metrics.get(field) for field in fields}
    writer = load_to_answer(parent)
    engine = Engine(writer.language_model, end_ids=writer.tokenizer.end_ids)
    prompts = list(corpus.held_out_preference_prompts)
    prompts *= max(1, round(TASTE_PAIRS / max(1, len(prompts))))
    answers = ask(
        engine,
        writer.tokenizer,
        prompts,
        stage=str(writer.info.get("stage", "")),
        temperature=1.0,
        copies=2,
        seed=seed,
        max_new_tokens=limit,
    )
    agreement = reward_agreement(model, tokenizer, true_comparisons(prompts, answers, taste))
    return {
        "agreement": agreement.agreement,
        "agreement_interval": interval_or_none(agreement),
        "length_only_agreement": agreement.length_only_agreement,
        "held_out_comparisons": agreement.comparisons,
        "held_out_prompts": agreement.prompts,
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

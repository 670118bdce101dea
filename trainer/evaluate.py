"""Held-out measurements, one function each, and the report card they add up to.

The idea: a number nobody can repeat is worth nothing, so each of these is a pure function of weights,
held-out data and a seed; wins and agreement come with an interval. Questions are asked the way chat
asks them (`prompting.prompt_ids`), greedily where there is a right answer, at temperature 1 where
the manner of answering is measured.

Run it: ``python -m trainer eval CHECKPOINT``
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from trainer import losses, machine
from trainer.asked import Asked, Message, asked_messages
from trainer.checkpoint import load_checkpoint, load_reward_model
from trainer.config import REWARD, SFT, answer_tokens_of
from trainer.corpus import Corpus, Question, is_right
from trainer.engine import END, Engine, Sampling
from trainer.loop import random_generator
from trainer.model import LanguageModel, ScalarModel
from trainer.preferences import Comparison
from trainer.problems import Problem, grade
from trainer.prompting import asked_ids
from trainer.rollout import end_scores, scored_sequence
from trainer.statistics import MIN_GROUPS, Share, calibration_error, grouped, share_of
from trainer.tastes import Taste
from trainer.tokenizer import Tokenizer

QUESTIONS: Final = 200
"""Held-out instruction questions asked, at most."""
PROBLEMS: Final = 100
"""Held-out word problems asked, at most."""
SAMPLES_PER_PROBLEM: Final = 8
"""Answers sampled per problem for pass@8."""
TASTE_ANSWERS: Final = 600
"""Answers sampled for length, reward and win rate, about."""
TASTE_PAIRS: Final = 2400
"""Pairs of answers a reward model is judged on, about: a few dozen for each held-out prompt. A taste decides half of
them or more."""
PIECES_AT_ONCE: Final = 32
"""Pieces of held-out text read in one pass, at most."""
LOGITS_AT_ONCE: Final = 2**25
"""Logits of one such pass, at most, padding included: 134 MB in float32."""

# --- shares --------------------------------------------------------------------------------------


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


# --- text ------------------------------------------------------------------------------------------


@torch.no_grad()
def bits_per_byte(model: LanguageModel, tokenizer: Tokenizer, documents: Sequence[str]) -> float:
    """Bits the model needs per UTF-8 byte of `documents`, the end of each document included.

    Independent of the tokenizer, so any two models can be compared, and a compressor too. What exceeds the
    context is read in pieces that each start anew, which costs the model, not the figure's honesty.
    """
    context = model.config.context
    pieces: list[list[int]] = []
    for ids in tokenizer.encode_documents(documents):
        row = [tokenizer.document_end_id, *ids]
        pieces += [row[start : start + context + 1] for start in range(0, len(row) - 1, context)]
    device = next(model.parameters()).device
    nats = 0.0
    tokens_at_once = LOGITS_AT_ONCE // model.config.vocab_size
    for rows in _hands([len(piece) - 1 for piece in pieces], tokens=tokens_at_once):
        tokens, is_target = _padded([pieces[row] for row in rows], tokenizer.pad_id)
        tokens, is_target = tokens.to(device), is_target.to(device)
        hidden = model.decoder(tokens[:, :-1])[is_target]
        nats -= float(losses.token_logprobs(model.logits(hidden), tokens[:, 1:][is_target]).double().sum())
    size = sum(len(document.encode()) for document in documents)
    if size == 0:
        raise ValueError("There is no held-out text to measure.")
    return nats / math.log(2) / size


def _hands(lengths: Sequence[int], *, tokens: int) -> list[list[int]]:
    """Indices, shortest first, in hands of at most `PIECES_AT_ONCE` that pad to at most `tokens`, or of one alone."""
    hands: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if not hands or len(hands[-1]) == PIECES_AT_ONCE or (len(hands[-1]) + 1) * lengths[index] > tokens:
            hands.append([])
        hands[-1].append(index)
    return hands


def _padded(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded [B, T + 1] ids and, for each of the T predictions, whether its token is real."""
    tokens = torch.full((len(sequences), max(map(len, sequences))), pad_id, dtype=torch.long)
    is_target = torch.zeros(tokens.shape[0], tokens.shape[1] - 1, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = torch.tensor(sequence)
        is_target[row, : len(sequence) - 1] = True
    return tokens, is_target


def xz_bits_per_byte(documents: Sequence[str], held_out_documents: Sequence[str]) -> float:
    """Bits per byte `xz -9e` needs for the held-out text once it has read the training text."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    separator = "\n\n"
    train, held_out = separator.join(documents) + separator, separator.join(held_out_documents)
    alone, together = (
        len(lzma.compress(text.encode(), format=lzma.FORMAT_XZ, filters=filters)) for text in (train, train + held_out)
    )
    return 8 * (together - alone) / max(1, sum(len(document.encode()) for document in held_out_documents))


# --- answers ---------------------------------------------------------------------------------------


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


def solves(problem: Problem, answer: Answer) -> bool:
    """Whether an answer counts: right, and ended by itself, as GRPO's reward asks too.

    Noise that is cut off somewhere meets a small number now and then.
    """
    return answer.ended and grade(problem.answer, answer.text).correct


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


# --- reward models ---------------------------------------------------------------------------------


def comparison_sequences(
    tokenizer: Tokenizer, messages: Sequence[Message], answers: Sequence[str], *, context: int
) -> list[list[int]]:
    """Each answer after the conversation, as ids that end in the end token."""
    prompt, _ = tokenizer.render_chat(messages, add_generation_prompt=True)
    return [scored_sequence(tokenizer, prompt, tokenizer.encode(answer), context=context) for answer in answers]


def interval_or_none(figure: Share | Agreement) -> list[float] | None:
    """Both ends of its interval, as files keep it; None where there are too few prompts to say."""
    return [figure.low, figure.high] if figure.is_enough else None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How a reward model does on comparisons with a winner; ties and both-bad pairs are not asked."""

    comparisons: int
    prompts: int
    """How many prompts these are on."""
    agreement: float
    """Share of comparisons in which the winner scores higher (equal scores count half)."""
    low: float
    high: float
    """95 % interval of the agreement over other prompts (statistics.share_of); 0 and 1 with too few prompts to say."""
    length_only_agreement: float
    """What the better of the rules "shorter wins" and "longer wins" would score."""
    length_correlation: float
    """Pearson correlation of score and answer length in tokens."""
    calibration_error: float | None
    """Distance of σ(|Δ|) from the share right (statistics.calibration_error); None with too few comparisons to say."""
    brier: float
    """Mean (1 - σ(Δ))²: 0 is perfect, 0.25 is a coin."""

    @property
    def is_enough(self) -> bool:
        """Whether there are enough prompts for an interval."""
        return self.prompts >= MIN_GROUPS

    @property
    def beats_chance(self) -> bool:
        return self.is_enough and self.low > 0.5

    @property
    def beats_length(self) -> bool:
        return self.agreement > self.length_only_agreement


def reward_agreement(reward_model: ScalarModel, tokenizer: Tokenizer, comparisons: Sequence[Comparison]) -> Agreement:
    """Judge a reward model on comparisons: held-out votes, or pairs labelled by a true taste."""
    decided = [comparison for comparison in comparisons if comparison.outcome == "win"]
    context = reward_model.config.context
    sequences = [
        sequence
        for comparison in decided
        for sequence in comparison_sequences(
            tokenizer, comparison.messages, [comparison.chosen, comparison.rejected], context=context
        )
    ]
    scores = end_scores(reward_model, sequences, pad_id=tokenizer.pad_id).view(-1, 2)
    lengths = torch.tensor(
        [[len(tokenizer.encode(text)) for text in (comparison.chosen, comparison.rejected)] for comparison in decided],
        dtype=torch.float32,
    ).view(-1, 2)
    return agreement_of(scores, lengths, [comparison.prompt for comparison in decided])


def agreement_of(scores: Tensor, lengths: Tensor, prompts: Sequence[str]) -> Agreement:
    """`Agreement` from the scores and lengths of (winner, loser) pairs, [N, 2] each, on these N prompts."""
    right = _share_first_larger(scores)
    share = share_of(grouped(right.tolist(), prompts))
    if share is None:
        return Agreement(
            comparisons=0,
            prompts=0,
            agreement=0.5,
            low=0.0,
            high=1.0,
            length_only_agreement=0.5,
            length_correlation=0.0,
            calibration_error=None,
            brier=0.25,
        )
    delta = scores[:, 0] - scores[:, 1]
    return Agreement(
        comparisons=share.count,
        prompts=share.groups,
        agreement=float(right.mean()),
        low=share.low,
        high=share.high,
        length_only_agreement=max(float(_share_first_larger(by).mean()) for by in (lengths, -lengths)),
        length_correlation=_pearson(scores.flatten(), lengths.flatten()),
        calibration_error=calibration_error(torch.sigmoid(delta.abs()).tolist(), right.tolist(), prompts),
        brier=float((1.0 - torch.sigmoid(delta)).square().mean()),
    )


def _share_first_larger(pairs: Tensor) -> Tensor:
    """[N, 2] -> [N]: 1 where the first is larger, 0.5 where they are equal, 0 otherwise; exact in means."""
    return (pairs[:, 0] > pairs[:, 1]).double() + 0.5 * (pairs[:, 0] == pairs[:, 1]).double()


def _pearson(x: Tensor, y: Tensor) -> float:
    """Correlation; 0 where one of the two does not vary."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    scale = float(x.norm() * y.norm())
    return float(x @ y) / scale if scale > 1e-12 else 0.0


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


# --- the report card -------------------------------------------------------------------------------

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

    `win_rate_interval`, `win_rate_vs_baseline` and `win_rate_vs_baseline_interval` (a second opponent, e.g. the SFT
    model, to see whether a taste outlived the stages after it), and for a reward model `agreement`,
    `agreement_interval` and `length_only_agreement`, on the taste's own labels of its parent's answers when a taste is
    given. Intervals are over other prompts, null where there are too few to say. What the shares are of stands beside
    them: `held_out_questions`, `held_out_problems`, `sampled_answers` to `held_out_prompts`, or
    `held_out_comparisons` on `held_out_prompts`.

    Its answers, and those of its opponents, have `max_new_tokens` at most: by default as many as it was trained with.
    """
    device = machine.device()
    loaded = load_checkpoint(directory, device=device)
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
        for opponent, field, interval in (
            (parent, "win_rate_vs_parent", "win_rate_interval"),
            (baseline, "win_rate_vs_baseline", "win_rate_vs_baseline_interval"),
        ):
            if opponent is None:
                continue
            theirs = _opponent_answers(opponent, prompts, copies, seed, limit)
            asked = [prompt for prompt in prompts for _ in range(copies)]
            result = win_rate([answer.text for answer in answers], theirs, asked, taste.prefers)
            if result is not None:
                entry[field] = result.share
                entry[interval] = interval_or_none(result)
    return entry


def _opponent_answers(directory: Path, prompts: Sequence[Asked], copies: int, seed: int, limit: int) -> list[str]:
    loaded = load_checkpoint(directory, device=machine.device())
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
    writer = load_checkpoint(parent, device=machine.device())
    engine = Engine(writer.language_model, end_ids=tokenizer.end_ids)
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

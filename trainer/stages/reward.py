"""Stage 3a, the reward model: learn to predict which of two answers people pick.

The idea: take the instruction-tuned model, replace the head that predicts words by one that gives a
single number, and read that number at the end token of an answer. For every comparison the number of
the chosen answer is pushed above the other's (Bradley-Terry); ties are pulled together. The offset the
differences leave free is fixed at the end, and so is the unit, which depends on how long it learnt and how clear the
votes were: the corpus's own demonstrations score 0 on average, with a standard deviation of 1 (Ziegler et al. 2019,
https://arxiv.org/abs/1909.08593, section 2). So PPO's penalties and clip ranges mean the same under every reward
model. What the votes said about probabilities is in the raw scores: the figures of a run are taken on those.

The comparisons are split *by prompt*, so the reported agreement is about prompts the model never saw, and its
interval is over prompts too: on fewer than ten of them nothing is claimed, and PPO asks a person first. It
stands beside what the length of the answers alone would score, because a reward model that only counts
words looks fine until PPO optimises against it.

Some hundred noisy votes pull the weights this way and that. Three things make the most of them:

- The head learns first, alone: under a random head the first gradients would bend features that read well already
  (linear probing, then fine-tuning: Kumar et al. 2022, https://arxiv.org/abs/2202.10054).
- The model kept is the average of the weights over the last part of the steps (Izmailov et al. 2018,
  https://arxiv.org/abs/1803.05407): nearer to what an ensemble would say, for the price of one model.
- Which votes count as noise depends on the order they are read in. So several models read them, each in an order of its
  own, and a last one learns the mean of their scores (distillation: Hinton et al. 2015,
  https://arxiv.org/abs/1503.02531), on the votes' answers and on many that nobody voted on.

Simplifications: every pass in a random order, every vote weighs the same.

Run it: ``python -m trainer reward --preset tiny --from SFT_DIR --votes votes.jsonl --out DIR``
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from trainer.config import REWARD, RewardConfig
from trainer.data.corpus import Corpus
from trainer.data.preferences import Comparison
from trainer.evaluation.alarms import doubts_about
from trainer.evaluation.reward_model import Agreement, comparison_sequences, interval_or_none, reward_agreement
from trainer.lineage import Inputs, stage_info
from trainer.model.adapters import copy_of, learning, learnt, standing_on
from trainer.model.decoder import ScalarModel
from trainer.model.starting import Start, start
from trainer.model.tokenizer import Tokenizer
from trainer.rl import losses
from trainer.rl.scoring import by_length, end_scores, last_values
from trainer.runtime import machine
from trainer.runtime.estimate import tokens_at_once
from trainer.runtime.loop import Metrics, Report, SampleDict, clear_resume, run_steps
from trainer.runtime.optim import adamw, apply_gradients, set_lr_factor, warmup_decay
from trainer.runtime.seeds import random_generator

WARMUP: Final = 0.1
"""Share of the steps spent warming up, the rest decays linearly to zero; probing counts as steps, and warms up better:
a rise of its own after it brought nothing."""
HEAD_LR: Final = 5.0
"""Learning rate of the head while it learns alone, in units of the one both learn with later: it is one vector."""
DEMONSTRATIONS: Final = 256
"""Conversations of the corpus whose answers are to score 0 on average with deviation 1, at most."""
LEAST_DEVIATION: Final = 1e-4
"""Deviation of the demonstrations' scores below which there is nothing but rounding to scale."""
SAMPLES: Final = 6
"""Held-out comparisons shown with their scores."""


def train(config: RewardConfig, inputs: Inputs, out_dir: Path, report: Report, should_stop: Callable[[], bool]) -> Path:
    """Train a reward model on the inputs' comparisons; returns `out_dir`, now a reward checkpoint.

    Raises Stopped (resumable), Diverged, or ValueError when there is nothing to learn an order from.
    """
    assert inputs.parent is not None, "the caller checks that a parent is there"
    parent = start(inputs.parent, config, seed=inputs.seed, out_dir=out_dir)
    tokenizer = parent.tokenizer
    train_set, held_out = split_by_prompt(inputs.comparisons, held_out=config.held_out, seed=inputs.seed)
    if not any(comparison.outcome == "win" for comparison in train_set):
        raise ValueError("No comparison has a winner: there is no order to learn. Collect votes that decide.")
    course = Course(parent, train_set, config, inputs)
    context = parent.base.config.context
    yardstick = demonstrations(tokenizer, inputs.corpus, count=DEMONSTRATIONS, context=context, seed=inputs.seed)
    if not yardstick:  # own comparisons without a conversation: what was compared is what there is
        yardstick = [sequence for vote in train_set for sequence in _encode(tokenizer, vote, context)][:DEMONSTRATIONS]
    state: dict[str, Any] = {"precision": parent.precision}
    report.log(0, f"{len(train_set)} comparisons to learn from, {len(held_out)} held out, split by prompt.")
    if course.teachers:
        report.log(
            0,
            f"{config.teachers} models read them in turn, {course.reading} steps each; "
            f"then one more learns their mean score in {course.studying} steps.",
        )

    def evaluate(done: int) -> tuple[Metrics, list[SampleDict]]:
        now = course.model_after(done)
        judged = reward_agreement(now, tokenizer, held_out)
        metrics = {
            "agreement": judged.agreement,
            "length_only_agreement": judged.length_only_agreement,
            "length_correlation": judged.length_correlation,
            "held_out_comparisons": judged.comparisons,
        }
        if judged.calibration_error is not None:
            metrics["calibration_error"] = judged.calibration_error
        return metrics, _samples(now, tokenizer, held_out, scale_of(now, yardstick, pad_id=tokenizer.pad_id))

    run_steps(
        steps=course.steps,
        out_dir=out_dir,
        modules=course.modules,
        optimizers=course.learner.optimizers,
        state=state,
        do_step=course.do_step,
        evaluate=evaluate,
        evaluations=min(config.evaluations, course.steps),
        report=report,
        should_stop=should_stop,
    )
    kept = course.learner.kept
    judged = reward_agreement(kept, tokenizer, held_out)
    for text in doubts_about(figures(judged)):
        report.alarm(course.steps, f"{text} Collect more votes before PPO.")
    metrics = figures(judged) | by_votes(kept, tokenizer, held_out)
    metrics["demonstration_spread"] = standardise(kept, scale_of(kept, yardstick, pad_id=tokenizer.pad_id))
    info = stage_info(inputs, parent=parent.info, config=config, state=state, metrics=metrics)
    parent.save(out_dir, kept, stage=REWARD, info=info)
    clear_resume(out_dir)
    return out_dir


class Course:
    """All steps of a run: each teacher reads the votes in an order of its own, then one more model learns their scores.

    A single reader is no teacher: it is the reward model, and nothing follows.
    """

    def __init__(
        self,
        parent: Start,
        comparisons: Sequence[Comparison],
        config: RewardConfig,
        inputs: Inputs,
    ) -> None:
        self.config = config
        self.comparisons = comparisons
        self.seed = inputs.seed
        tokenizer, context = parent.tokenizer, parent.base.config.context
        self.pad_id = tokenizer.pad_id
        self.pairs = [_encode(tokenizer, comparison, context) for comparison in comparisons]
        self.learner = Learner(parent, config, seed=inputs.seed)
        self.teachers: list[ScalarModel] = []
        self.studied: list[list[int]] = []  # answers, those of the votes first
        if config.teachers > 1:
            self.teachers = [copy_of(self.learner.kept) for _ in range(config.teachers)]
            self.studied = [sequence for pair in self.pairs for sequence in pair] + demonstrations(
                tokenizer, inputs.corpus, count=config.studied, context=context, seed=inputs.seed
            )
        self.reading = config.epochs * math.ceil(len(self.pairs) / config.batch_pairs)
        """Steps of one reader."""
        self.studying = config.study_epochs * math.ceil(len(self.studied) / self.study_batch)
        """Steps of the model that learns the teachers' scores."""
        self.steps = config.teachers * self.reading + self.studying

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint to resume from holds."""
        return {"model": learnt(self.learner.model), "average": self.learner.average} | {
            f"teacher{number}": learnt(teacher) for number, teacher in enumerate(self.teachers)
        }

    @property
    def study_batch(self) -> int:
        return 4 * self.config.batch_pairs

    def place(self, step: int) -> tuple[int, int, int]:
        """Whose turn it is (the readers' first, then the last model's), which of its steps this is, and of how many."""
        turn = min(step // self.reading, self.config.teachers)
        return turn, step - turn * self.reading, self.reading if turn < self.config.teachers else self.studying

    def do_step(self, step: int) -> Metrics:
        turn, own, count = self.place(step)
        is_reading = turn < self.config.teachers
        if own == 0 and turn > 0:
            self.learner.start_over(turn)
        metrics = self.learner.learn(own, count, lambda: self.read_votes(turn, own) if is_reading else self.study(own))
        if self.teachers and is_reading and own == count - 1:
            learnt(self.teachers[turn]).load_state_dict(learnt(self.learner.kept).state_dict())
        return metrics

    def model_after(self, done: int) -> ScalarModel:
        """The model to judge after so many steps: whoever's turn it was, its average as soon as there is one."""
        _, own, count = self.place(max(0, done - 1))
        is_averaged = done > 0 and own >= self.learner.averaged_from(count)
        return self.learner.kept if is_averaged else self.learner.model

    def read_votes(self, turn: int, step: int) -> Metrics:
        """Step `step` of reader `turn`: adds the gradient of a batch of comparisons; its loss, and how it judged them.

        Both answers of a comparison go through together, so that their prompt is read once.
        """
        rows = self._rows(len(self.pairs), self.config.batch_pairs, step, "comparisons", turn * self.config.epochs)
        ordered = sum(self.comparisons[row].outcome in ("win", "tie") for row in rows)
        wins = max(1, sum(self.comparisons[row].outcome == "win" for row in rows))
        total = {"loss": 0.0, "batch_agreement": 0.0, "margin": 0.0}
        for few in self._fitting(rows, [self.pairs[row] for row in rows]):
            count, outcomes = len(few), [self.comparisons[row].outcome for row in few]
            sequences = [self.pairs[row][0] for row in few] + [self.pairs[row][1] for row in few]
            chosen, rejected = self._values(sequences, [(row, row + count) for row in range(count)]).chunk(2)
            is_win = torch.tensor([outcome == "win" for outcome in outcomes], device=chosen.device)
            is_tie = torch.tensor([outcome == "tie" for outcome in outcomes], device=chosen.device)
            loss = losses.preference_loss(
                chosen,
                rejected,
                is_win=is_win,
                is_tie=is_tie,
                centering=self.config.centering,
                ordered=max(1, ordered),
                pairs=len(rows),
            )
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                total["loss"] += loss.item()
                total["batch_agreement"] += losses.masked_mean(
                    (chosen > rejected).float(), is_win, denominator=wins
                ).item()
                total["margin"] += losses.masked_mean(chosen - rejected, is_win, denominator=wins).item()
        return total

    def study(self, step: int) -> Metrics:
        """Step `step` of the last model: adds the gradient of its squared distance from the teachers' mean score.

        The mean is over a batch of answers.
        """
        rows = self._rows(len(self.studied), self.study_batch, step, "studied", 0)
        total = 0.0
        for few in self._fitting(rows, [(self.studied[row],) for row in rows]):
            values = self._values([self.studied[row] for row in few])
            loss = F.mse_loss(values, self.lessons[few].to(values.device)) * (len(few) / len(rows))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return {"loss": total}

    def _fitting(self, rows: Sequence[int], sequences: Sequence[Sequence[list[int]]]) -> list[list[int]]:
        """The rows in hands that one pass has room for: as they are, where that is all of them."""
        lengths = [max(map(len, some)) for some in sequences]
        room = tokens_at_once(self.learner.model.config, device=machine.device().type)
        if max(lengths) * sum(map(len, sequences)) <= room:
            return [list(rows)]
        counts = [len(some) for some in sequences]
        hands = by_length([n * c for n, c in zip(lengths, counts, strict=True)], model=self.learner.model, rows=counts)
        return [[rows[index] for index in hand] for hand in hands]

    @cached_property
    def lessons(self) -> Tensor:
        """The teachers' mean scores of the answers to study: [N]. Taken once all have read; the same if resumed."""
        scores = [end_scores(teacher, self.studied, pad_id=self.pad_id) for teacher in self.teachers]
        return torch.stack(scores).mean(0)

    def _values(self, sequences: Sequence[list[int]], alike: Sequence[Sequence[int]] = ()) -> Tensor:
        return last_values(self.learner.model, sequences, pad_id=self.pad_id, alike=alike)

    def _rows(self, items: int, batch: int, step: int, purpose: str, first_epoch: int) -> list[int]:
        """The batch of this step: every epoch goes through all items, in a random order of its own."""
        epoch, index = divmod(step, math.ceil(items / batch))
        order = torch.randperm(items, generator=random_generator(self.seed, purpose, first_epoch + epoch))
        return order[index * batch : (index + 1) * batch].tolist()


class Learner:
    """A reward model in the making: its head learns first, alone; what is kept is the average of its last weights."""

    def __init__(self, parent: Start, config: RewardConfig, *, seed: int) -> None:
        self.parent = parent
        self.config = config
        self.seed = seed
        self.model = parent.prepared(parent.scalar(generator=random_generator(seed, "head")))
        self.beneath = learning(self.model.decoder)
        """What learns under the head: an adapter, or all of it."""
        self.optimizers = {
            "head": adamw(list(self.model.head.parameters()), lr=HEAD_LR * config.lr),
            "adamw": adamw(learning(self.model), lr=config.lr),
        }
        self.average = AveragedModel(learnt(self.model))  # its first update copies the weights, later ones average
        self.kept = standing_on(self.model, self.average.module)
        """The model with the averaged weights."""

    def averaged_from(self, steps: int) -> int:
        """The first of so many steps whose weights are averaged."""
        return min(steps - 1, round(steps * (1.0 - self.config.averaged)))

    def start_over(self, turn: int) -> None:
        """Begin again from the language model, under a head of its own."""
        fresh = self.parent.scalar(generator=random_generator(self.seed, "head", turn))
        learnt(self.model).load_state_dict(learnt(fresh).state_dict())
        for optimizer in self.optimizers.values():
            optimizer.state.clear()
        self.average.n_averaged.zero_()

    def learn(self, step: int, steps: int, lesson: Callable[[], Metrics]) -> Metrics:
        """Step `step` of `steps`, on the gradient that `lesson` adds."""
        is_probing = step < round(steps * self.config.probing)
        for parameter in self.beneath:
            parameter.requires_grad_(not is_probing)
        optimizer = self.optimizers["head" if is_probing else "adamw"]
        factor = warmup_decay(step, steps, warmup=WARMUP, decay=1.0 - WARMUP)
        set_lr_factor({"adamw": self.optimizers["adamw"]}, factor)  # the head alone learns at one rate
        metrics = lesson()
        norm = apply_gradients(self.model, [optimizer])
        if step >= self.averaged_from(steps):
            self.average.update_parameters(learnt(self.model))
        return metrics | {"grad_norm": norm, "lr": optimizer.param_groups[0]["lr"]}


def split_by_prompt(
    comparisons: Sequence[Comparison], *, held_out: float, seed: int
) -> tuple[list[Comparison], list[Comparison]]:
    """Comparisons to learn from and held-out ones, with no prompt in both.

    Whole prompts move to the held-out side until it has about the share `held_out` of the comparisons; both
    sides get at least one prompt. ValueError when there are not two prompts.
    """
    by_prompt: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        by_prompt.setdefault(comparison.prompt, []).append(comparison)
    if len(by_prompt) < 2:
        raise ValueError(
            f"{len(comparisons)} comparisons on {len(by_prompt)} prompts are not enough: "
            "at least two prompts are needed, one to learn from and one to test on."
        )
    prompts = sorted(by_prompt)
    order = torch.randperm(len(prompts), generator=random_generator(seed, "held-out prompts")).tolist()
    wanted = max(1, round(held_out * len(comparisons)))
    test: list[Comparison] = []
    while len(test) < wanted and len(order) > 1:
        test += by_prompt[prompts[order.pop()]]
    return [comparison for index in sorted(order) for comparison in by_prompt[prompts[index]]], test


class Scale(NamedTuple):
    """Where a model's raw scores have their zero and their unit."""

    zero: float
    unit: float

    def of(self, score: float) -> float:
        return (score - self.zero) / self.unit


def scale_of(model: ScalarModel, sequences: Sequence[list[int]], *, pad_id: int) -> Scale:
    """Mean and standard deviation of the scores of these answers; the unit stays 1 where they do not differ."""
    scores = end_scores(model, sequences, pad_id=pad_id).double()
    deviation = float(scores.std(correction=0))
    return Scale(float(scores.mean()), deviation if deviation > LEAST_DEVIATION else 1.0)


@torch.no_grad()
def standardise(model: ScalarModel, scale: Scale) -> float:
    """Shift and scale the head so that the model's own score is what `scale` makes of the raw one; returns the unit.

    The checkpoint holds the head's weights and bias, so whoever loads the directory gets the standard score. The
    unit is kept in its metrics: σ(unit · Δ) is how likely the model thinks the better answer is to be preferred.
    """
    model.head.weight /= scale.unit
    model.bias.copy_((model.bias.double() - scale.zero) / scale.unit)
    return scale.unit


def demonstrations(tokenizer: Tokenizer, corpus: Corpus, *, count: int, context: int, seed: int) -> list[list[int]]:
    """At most `count` answers of the corpus's conversations, as a reward model reads them."""
    conversations = [chat for chat in corpus.conversations if len(chat) > 1 and chat[-1]["role"] == "assistant"]
    order = torch.randperm(len(conversations), generator=random_generator(seed, "demonstrations"))
    sequences = []
    for index in order[:count].tolist():
        *messages, answer = conversations[index]
        sequences += comparison_sequences(tokenizer, messages, [answer["content"]], context=context)
    return sequences


def figures(judged: Agreement) -> dict[str, Any]:
    """The figures of a reward model as stage.json keeps them."""
    return {
        "agreement": judged.agreement,
        "agreement_interval": interval_or_none(judged),
        "held_out_comparisons": judged.comparisons,
        "held_out_prompts": judged.prompts,
        "length_only_agreement": judged.length_only_agreement,
        "length_correlation": judged.length_correlation,
        "calibration_error": judged.calibration_error,
        "brier": judged.brier,
        "beats_chance": judged.beats_chance,
        "beats_length": judged.beats_length,
    }


def by_votes(model: ScalarModel, tokenizer: Tokenizer, held_out: Sequence[Comparison]) -> dict[str, float]:
    """Agreement with the majority on pairs several people voted on, apart for those they all agreed on and others.

    One vote each way says nothing of which answer is better, so such a pair is asked of nobody. The number of pairs
    stands beside each share; empty where no pair got two deciding votes and a majority.
    """
    votes: dict[tuple[str, frozenset[str]], list[Comparison]] = {}
    for comparison in held_out:
        if comparison.outcome == "win":
            votes.setdefault((comparison.prompt, frozenset((comparison.chosen, comparison.rejected))), []).append(
                comparison
            )
    result: dict[str, float] = {}
    for name, unanimous in (("agree", True), ("differ", False)):
        settled = [
            majority
            for group in votes.values()
            if len(group) > 1 and (len({vote.chosen for vote in group}) == 1) is unanimous
            if (majority := _majority(group))
        ]
        if settled:
            judged = reward_agreement(model, tokenizer, settled)
            result[f"agreement_when_voters_{name}"] = judged.agreement
            result[f"pairs_voters_{name}_on"] = judged.comparisons
    return result


def _majority(votes: Sequence[Comparison]) -> Comparison | None:
    """A vote for the answer of this one pair that more than half of these chose; None where there is none."""
    chosen, count = Counter(vote.chosen for vote in votes).most_common(1)[0]
    return next(vote for vote in votes if vote.chosen == chosen) if 2 * count > len(votes) else None


def _encode(tokenizer: Tokenizer, comparison: Comparison, context: int) -> tuple[list[int], list[int]]:
    chosen, rejected = comparison_sequences(
        tokenizer, comparison.messages, [comparison.chosen, comparison.rejected], context=context
    )
    return chosen, rejected


def _samples(
    model: ScalarModel, tokenizer: Tokenizer, held_out: Sequence[Comparison], scale: Scale
) -> list[SampleDict]:
    """The first held-out pairs with the standard scores that the model, if kept as it is, would give them."""
    shown = held_out[:SAMPLES]
    sequences = [sequence for comparison in shown for sequence in _encode(tokenizer, comparison, model.config.context)]
    scores = end_scores(model, sequences, pad_id=tokenizer.pad_id).view(-1, 2).tolist()
    return [
        {
            "prompt": comparison.prompt,
            "text": comparison.chosen,
            "rejected": comparison.rejected,
            "outcome": comparison.outcome,
            "reward": round(scale.of(chosen), 3),
            "rejected_reward": round(scale.of(rejected), 3),
        }
        for comparison, (chosen, rejected) in zip(shown, scores, strict=True)
    ]

"""How much of what strangers type a model answers well: shares by kind, of a hand-written set (tasks/visitor.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trainer.evaluation.asking import ask
from trainer.evaluation.scope import STRANGERS
from trainer.model.engine import Engine
from trainer.model.tokenizer import Tokenizer
from trainer.tasks.visitor import FACT, KINDS, PROBLEM, VisitorQuestion, is_visitor_right

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "visitor_facts": (FACT,),
    "visitor_talk": tuple(kind for kind in KINDS if kind not in {FACT, PROBLEM}),
    "visitor_problems": (PROBLEM,),
}
"""The figures that are shown, and the kinds each one counts."""


def visitor_counts(
    engine: Engine, tokenizer: Tokenizer, questions: Sequence[VisitorQuestion], *, stage: str, max_new_tokens: int
) -> dict[str, list[int]]:
    """[right, asked] of each kind: asked greedily, each alone."""
    prompts = [question.prompt for question in questions]
    answers = ask(engine, tokenizer, prompts, stage=stage, max_new_tokens=max_new_tokens)
    counts: dict[str, list[int]] = {}
    for question, answer in zip(questions, answers, strict=True):
        count = counts.setdefault(question.kind, [0, 0])
        count[0] += is_visitor_right(question, answer.text, ended=answer.ended)
        count[1] += 1
    return counts


def visitor_shares(
    engine: Engine, tokenizer: Tokenizer, questions: Sequence[VisitorQuestion], *, stage: str, max_new_tokens: int
) -> dict[str, float]:
    """The shares right and how many questions each stands on; nothing of no questions."""
    if not questions:
        return {}
    return visitor_figures(visitor_counts(engine, tokenizer, questions, stage=stage, max_new_tokens=max_new_tokens))


def visitor_figures(counts: dict[str, list[int]]) -> dict[str, float]:
    """The shares of GROUPS and how many questions each stands on; a group nobody asked has none."""
    figures: dict[str, float] = {}
    for name, kinds in GROUPS.items():
        right, asked = (sum(counts.get(kind, [0, 0])[place] for kind in kinds) for place in (0, 1))
        if asked:
            figures |= {name: right / asked, STRANGERS[name][0]: float(asked)}
    return figures

"""Everything the five stages learn from and are measured on, and its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from trainer.asked import Asked, Message
from trainer.data.preferences import Comparison, to_record
from trainer.tasks.problem import WORKED, Problem
from trainer.tasks.question import Question
from trainer.tasks.visitor import VisitorQuestion

SAMPLE_PROMPTS: Final = (
    "What is an LLM?",
    "What does a rabbit eat?",
    "How do I make friends?",
    "Tom has 7 apples. He buys 5 more. He eats 3 of them. How many apples does Tom have now?",
)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Everything the five stages learn from and are measured on."""

    name: str
    documents: list[str]
    held_out_documents: list[str]
    conversations: list[list[Message]]
    """Training conversations, word problems included."""
    questions: list[Question]
    """Held-out questions for the instruction accuracy."""
    preference_prompts: list[Asked]
    held_out_preference_prompts: list[Asked]
    problems: list[Problem]
    held_out_problems: list[Problem]
    comparisons: list[Comparison]
    """Recorded preferences of a data directory; empty for the shipped corpus."""
    sample_prompts: list[Asked]
    """Fixed prompts shown while training."""
    sha256: str
    """Hash of all of the above."""
    spare_prompts: list[Asked] = field(default_factory=list)
    """Questions of the conversations, to compare answers on where those of the comparisons are too long for a model."""
    held_out_spare_prompts: list[Asked] = field(default_factory=list)
    visitors: tuple[VisitorQuestion, ...] = ()
    """What strangers type, to measure on; in no hash, since nothing is learnt from it."""


def assemble(
    *,
    name: str,
    documents: list[str],
    held_out_documents: list[str],
    conversations: list[list[Message]],
    questions: list[Question],
    preference_prompts: Sequence[Asked],
    held_out_preference_prompts: Sequence[Asked],
    problems: list[Problem],
    held_out_problems: list[Problem],
    comparisons: list[Comparison],
    sample_prompts: Sequence[Asked],
    spare_prompts: Sequence[Asked] = (),
    held_out_spare_prompts: Sequence[Asked] = (),
    visitors: tuple[VisitorQuestion, ...] = (),
    check: Callable[[], None] = lambda: None,
) -> Corpus:
    """A Corpus with its hash; `check` is called often meanwhile, and ends it by raising."""
    parts: list[Iterable[Any]] = [
        documents,
        held_out_documents,
        conversations,
        map(_fields, questions),
        map(_hashed, preference_prompts),
        map(_hashed, held_out_preference_prompts),
        map(_fields, problems),
        map(_fields, held_out_problems),
        map(to_record, comparisons),
        map(_hashed, sample_prompts),
    ]
    return Corpus(
        name=name,
        documents=documents,
        held_out_documents=held_out_documents,
        conversations=conversations,
        questions=questions,
        preference_prompts=list(preference_prompts),
        held_out_preference_prompts=list(held_out_preference_prompts),
        problems=problems,
        held_out_problems=held_out_problems,
        comparisons=comparisons,
        sample_prompts=list(sample_prompts),
        sha256=_sha256(parts, check),
        spare_prompts=list(spare_prompts),
        held_out_spare_prompts=list(held_out_spare_prompts),
        visitors=visitors,
    )


def _sha256(parts: Iterable[Iterable[Any]], check: Callable[[], None]) -> str:
    """The hash of the parts' JSON, taken item by item: the whole of it would be the corpus in memory once more."""
    digest = hashlib.sha256()
    separator = "["
    for part in parts:
        digest.update(f"{separator}[".encode())
        separator = ", "
        for number, item in enumerate(part):
            digest.update((", " if number else "").encode() + json.dumps(item, ensure_ascii=False).encode())
            if number % 1000 == 0:
                check()
        digest.update(b"]")
    digest.update(b"]")
    return digest.hexdigest()


_USUAL: Final[dict[str, Any]] = {"system": "", "kind": WORKED, "options": (), "accept": ()}
"""What most problems have in the fields that came later. (Questions accept something.)"""


def _fields(item: Question | Problem) -> dict[str, Any]:
    """What is hashed of a question or problem; what is usual is left out, so that those from before keep their hash."""
    return {name: value for name, value in asdict(item).items() if name not in _USUAL or value != _USUAL[name]}


def _hashed(asked: Asked) -> str | dict[str, str]:
    return asked if isinstance(asked, str) else asdict(asked)

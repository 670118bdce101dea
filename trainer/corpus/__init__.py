"""The text the project ships, grown by seeded generators, and the loader for text from elsewhere.

One small world in three registers: prose (stories, an encyclopaedia, sums), conversations in different
manners, and word problems. `shipped` grows it, the same for the same seed; `from_directory` reads public
data into the same `Corpus`. Imports no torch: the web process shows samples of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from trainer.asked import Asked, Message
from trainer.corpus.conversations import (
    Question,
    held_out_questions,
    is_right,
    preference_prompts,
    write_conversations,
)
from trainer.corpus.directory import split_directory
from trainer.corpus.prose import write_documents
from trainer.preferences import Comparison, to_record
from trainer.problems import Problem, generate, generate_held_out, generate_practice

__all__ = ["SAMPLE_PROMPTS", "Corpus", "Message", "Question", "from_directory", "is_right", "shipped"]

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


@dataclass(frozen=True, kw_only=True)
class _Size:
    document_bytes: int
    held_out_bytes: int
    conversations: int
    questions: int
    prompts: int
    held_out_prompts: int
    problems: int
    held_out_problems: int


# One size per preset. "small" and "base" can show that they work; for real use they want more and other text.
SIZES: Final = {
    "smoke": _Size(
        document_bytes=150_000, held_out_bytes=15_000, conversations=600, questions=30, prompts=40,
        held_out_prompts=20, problems=100, held_out_problems=20,
    ),
    "tiny": _Size(
        document_bytes=6_000_000, held_out_bytes=100_000, conversations=7500, questions=200, prompts=200,
        held_out_prompts=60, problems=6000, held_out_problems=150,
    ),
    "small": _Size(
        document_bytes=12_000_000, held_out_bytes=300_000, conversations=20_000, questions=300, prompts=240,
        held_out_prompts=80, problems=6000, held_out_problems=300,
    ),
    "base": _Size(
        document_bytes=24_000_000, held_out_bytes=300_000, conversations=30_000, questions=300, prompts=240,
        held_out_prompts=80, problems=8000, held_out_problems=300,
    ),
}  # fmt: skip


def _corpus(
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


def _fields(item: Question | Problem) -> dict[str, Any]:
    """What is hashed of a question or problem; a system text where there is one, so that others keep their hash."""
    return {name: value for name, value in asdict(item).items() if name != "system" or value}


def _hashed(asked: Asked) -> str | dict[str, str]:
    return asked if isinstance(asked, str) else asdict(asked)


def shipped(seed: int = 0, *, size: str = "tiny") -> Corpus:
    """The corpus of the project; ValueError names the sizes. Same seed and size, same bytes."""
    if size not in SIZES:
        raise ValueError(f"Unknown corpus size {size!r}; choose one of {', '.join(SIZES)}.")
    sizes = SIZES[size]
    problems = list(islice(generate(seed), sizes.problems))
    documents = write_documents(seed, sizes.document_bytes, held_out=False)
    known = set(documents)
    return _corpus(
        name=f"shipped-{size}",
        documents=documents,
        held_out_documents=[
            text for text in write_documents(seed, sizes.held_out_bytes, held_out=True) if text not in known
        ],
        conversations=write_conversations(seed, sizes.conversations, problems),
        questions=held_out_questions(seed, sizes.questions),
        preference_prompts=preference_prompts(seed, sizes.prompts, held_out=False),
        held_out_preference_prompts=preference_prompts(seed, sizes.held_out_prompts, held_out=True),
        problems=[*problems, *islice(generate_practice(seed), sizes.problems)],
        held_out_problems=list(islice(generate_held_out(seed), sizes.held_out_problems)),
        comparisons=[],
        sample_prompts=SAMPLE_PROMPTS,
    )


def from_directory(path: Path, seed: int = 0, check: Callable[[], None] = lambda: None) -> Corpus:
    """Public data below `path` as a corpus; see `trainer.corpus.reader` and `.records` for what is recognised.

    Only documents are required: without conversations, comparisons or problems the later stages have nothing
    to learn from and say so. ValueError names the file and record that is wrong, or says what is missing. `check` is
    called often meanwhile, and ends it by raising.
    """
    parts = split_directory(path, seed, check)
    samples = [question.asked for question in parts.questions[:2]]
    samples += [prompt for prompt in parts.held_out_preference_prompts[:3] if prompt not in samples][:1]
    samples += [problem.asked for problem in parts.held_out_problems[:1]]
    return _corpus(
        name=path.name or str(path),
        documents=parts.documents,
        held_out_documents=parts.held_out_documents,
        conversations=parts.conversations,
        questions=parts.questions,
        preference_prompts=parts.preference_prompts,
        held_out_preference_prompts=parts.held_out_preference_prompts,
        problems=parts.problems,
        held_out_problems=parts.held_out_problems,
        comparisons=parts.comparisons,
        sample_prompts=samples or SAMPLE_PROMPTS,
        spare_prompts=parts.spare_prompts,
        held_out_spare_prompts=parts.held_out_spare_prompts,
        check=check,
    )

"""The text the project ships, grown by seeded generators, and the loader for text from elsewhere.

One small world in three registers: prose (stories, an encyclopaedia, sums), conversations in different
manners, and word problems. `shipped` grows it, the same for the same seed; `from_directory` reads public
data into the same `Corpus`. Imports no torch: the web process shows samples of it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from trainer.corpus.conversations import (
    Message,
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
    preference_prompts: list[str]
    held_out_preference_prompts: list[str]
    problems: list[Problem]
    held_out_problems: list[Problem]
    comparisons: list[Comparison]
    """Recorded preferences of a data directory; empty for the shipped corpus."""
    sample_prompts: list[str]
    """Fixed prompts shown while training."""
    sha256: str
    """Hash of all of the above."""


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
    preference_prompts: list[str],
    held_out_preference_prompts: list[str],
    problems: list[Problem],
    held_out_problems: list[Problem],
    comparisons: list[Comparison],
    sample_prompts: list[str],
) -> Corpus:
    """A Corpus with its hash."""
    parts = [
        documents,
        held_out_documents,
        conversations,
        [asdict(question) for question in questions],
        preference_prompts,
        held_out_preference_prompts,
        [asdict(problem) for problem in problems],
        [asdict(problem) for problem in held_out_problems],
        [to_record(comparison) for comparison in comparisons],
        sample_prompts,
    ]
    return Corpus(
        name=name,
        documents=documents,
        held_out_documents=held_out_documents,
        conversations=conversations,
        questions=questions,
        preference_prompts=preference_prompts,
        held_out_preference_prompts=held_out_preference_prompts,
        problems=problems,
        held_out_problems=held_out_problems,
        comparisons=comparisons,
        sample_prompts=sample_prompts,
        sha256=hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest(),
    )


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
        sample_prompts=list(SAMPLE_PROMPTS),
    )


def from_directory(path: Path, seed: int = 0) -> Corpus:
    """Public data below `path` as a corpus; see `trainer.corpus.directory` for what is recognised.

    Only documents are required: without conversations, comparisons or problems the later stages have nothing
    to learn from and say so. ValueError names the file and record that is wrong, or says what is missing.
    """
    parts = split_directory(path, seed)
    samples = [question.prompt for question in parts.questions[:2]]
    samples += [prompt for prompt in parts.held_out_preference_prompts[:3] if prompt not in samples][:1]
    samples += [problem.prompt for problem in parts.held_out_problems[:1]]
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
        sample_prompts=samples or list(SAMPLE_PROMPTS),
    )

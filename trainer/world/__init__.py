"""The text the project ships, grown by seeded generators.

One small world in three registers: prose (stories, an encyclopaedia, sums), conversations in different
manners, and word problems. `shipped` grows it, the same for the same seed. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Final

from trainer.data.corpus import SAMPLE_PROMPTS, Corpus, assemble
from trainer.world.conversations import held_out_questions, preference_prompts, write_conversations
from trainer.world.problems import generate, generate_held_out, generate_practice
from trainer.world.prose import write_documents


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


def shipped(seed: int = 0, *, size: str = "tiny") -> Corpus:
    """The corpus of the project; ValueError names the sizes. Same seed and size, same bytes."""
    if size not in SIZES:
        raise ValueError(f"Unknown corpus size {size!r}; choose one of {', '.join(SIZES)}.")
    sizes = SIZES[size]
    problems = list(islice(generate(seed), sizes.problems))
    documents = write_documents(seed, sizes.document_bytes, held_out=False)
    known = set(documents)
    return assemble(
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

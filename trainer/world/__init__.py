"""The text the project ships, grown by seeded generators.

For models of our own, one small world in three registers: prose (stories, an encyclopaedia, sums), conversations in
different manners, and word problems. `shipped` grows it, the same for the same seed. For a model from elsewhere, plain
English (`plain`): everyday prompts to vote on, and one-step word problems. Imports no torch.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import islice
from typing import Final

from trainer.data.corpus import SAMPLE_PROMPTS, Corpus, assemble
from trainer.presets import is_size
from trainer.tasks.problem import problem_conversation
from trainer.world import everyday, plain_problems
from trainer.world.checked import generate_checked
from trainer.world.conversations import exchange, held_out_questions, preference_prompts, write_conversations
from trainer.world.problems import generate, generate_held_out, generate_practice
from trainer.world.prose import write_documents
from trainer.world.visitors import visitor_questions


@dataclass(frozen=True, kw_only=True)
class _Size:
    document_bytes: int
    held_out_bytes: int
    conversations: int
    questions: int
    prompts: int
    held_out_prompts: int
    problems: int
    checked: int
    """Questions for GRPO whose answer is no number."""
    held_out_problems: int


# One size per preset. "small" and "base" can show that they work; for real use they want more and other text.
SIZES: Final = {
    "smoke": _Size(
        document_bytes=150_000, held_out_bytes=15_000, conversations=600, questions=30, prompts=40,
        held_out_prompts=20, problems=100, checked=33, held_out_problems=20,
    ),
    "tiny": _Size(
        document_bytes=9_000_000, held_out_bytes=100_000, conversations=12_000, questions=200, prompts=200,
        held_out_prompts=60, problems=6000, checked=2000, held_out_problems=150,
    ),
    "small": _Size(
        document_bytes=12_000_000, held_out_bytes=300_000, conversations=20_000, questions=300, prompts=240,
        held_out_prompts=80, problems=6000, checked=2000, held_out_problems=300,
    ),
    "base": _Size(
        document_bytes=24_000_000, held_out_bytes=300_000, conversations=30_000, questions=300, prompts=240,
        held_out_prompts=80, problems=8000, checked=2666, held_out_problems=300,
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
        problems=[
            *problems,
            *islice(generate_practice(seed), sizes.problems // 2),
            *islice(generate_checked(seed), sizes.checked),
        ],
        held_out_problems=list(islice(generate_held_out(seed), sizes.held_out_problems)),
        comparisons=[],
        sample_prompts=SAMPLE_PROMPTS,
        visitors=visitor_questions(),
    )


PLAIN: Final = "plain-english"
PLAIN_PROBLEMS: Final = 1200
"""Enough that 30 rounds of 8 hardly ever ask one twice."""
HELD_OUT_PLAIN_PROBLEMS: Final = 200
WORKED_PLAIN_PROBLEMS: Final = 90
"""Problems worked in conversations: as many as there are everyday exchanges."""


def plain(seed: int = 0) -> Corpus:
    """Plain English for a model from elsewhere. Same seed, same bytes.

    Nobody needs pre-training on it: the documents are a few short texts to measure bits per byte on. The conversations
    are short answers to the everyday prompts, which set a reward model's zero, and worked problems; a base model can
    learn from them what an answer is. GRPO's anchor does not read them but what the parent itself says to the same
    prompts, when the run starts: that is what is to be kept (GRPOConfig.anchor_answers).
    """
    rng = random.Random(f"plain/{seed}")
    problems = list(islice(plain_problems.generate(seed), PLAIN_PROBLEMS))
    prompts = everyday.bounded([prompt for prompt, _ in everyday.ANSWERED])
    answers = [answer for _, answer in everyday.ANSWERED]
    conversations = [exchange(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    conversations += [problem_conversation(rng, problem) for problem in problems[:WORKED_PLAIN_PROBLEMS]]
    rng.shuffle(conversations)
    held_out = list(islice(plain_problems.generate_held_out(seed), HELD_OUT_PLAIN_PROBLEMS))
    return assemble(
        name=PLAIN,
        documents=list(everyday.TEXTS),
        held_out_documents=list(everyday.HELD_OUT_TEXTS),
        conversations=conversations,
        questions=[],
        preference_prompts=prompts,
        held_out_preference_prompts=everyday.bounded(everyday.HELD_OUT_PROMPTS),
        problems=problems,
        held_out_problems=held_out,
        comparisons=[],
        sample_prompts=[*everyday.READ_BY_EYE[:3], held_out[0].asked],
    )


def corpus_for(preset: str) -> Corpus:
    """What the project ships for a checkpoint made with this preset; one from elsewhere has a recipe's, or none."""
    return shipped(size=preset) if is_size(preset) else plain()

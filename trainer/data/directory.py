"""Text from elsewhere: a directory of public data files, split into the same `Corpus`.

What is read, and what is left out of it, is in `trainer.data.reader`. One tenth of the prompts, by their hash, is
held out, so a prompt that is in two files is on the same side in both. PPO asks single questions, so the prompts to
vote on come from comparisons of answers to a single question. A question after nothing but a system text is a single
one, and is asked with it.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from trainer.asked import Asked, Message, asked_messages, asked_text, single_question
from trainer.data.corpus import SAMPLE_PROMPTS, Corpus, assemble
from trainer.data.preferences import Comparison
from trainer.data.reader import read
from trainer.data.records import LONGEST_PROMPT_BYTES, fits
from trainer.runtime.reading import Reader
from trainer.tasks.problem import Problem, problem_conversation
from trainer.tasks.question import Question

AskedT = TypeVar("AskedT", str, Asked)

log = logging.getLogger(__name__)

HELD_OUT_SHARE: Final = 0.1
LONGEST_ANSWER_BYTES: Final = 40
"""Held-out instructions with an answer up to this long become questions: longer ones have no one right answer."""
HELD_OUT_BYTES: Final = 200_000
"""Held-out text that is measured, at most: every evaluation reads all of it."""
HELD_OUT_DOCUMENT_BYTES: Final = 20_000
"""What one document gives to it, at most: one book is not to be all of it."""
MOST_QUESTIONS: Final = 200
MOST_HELD_OUT_PROMPTS: Final = 100
MOST_PROMPTS: Final = 1000
MOST_HELD_OUT_PROBLEMS: Final = 200


@dataclass
class _Found:
    """What the files held, before it is split."""

    documents: list[str] = field(default_factory=list)
    conversations: list[list[Message]] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def is_held_out(text: str) -> bool:
    """Whether a document or prompt belongs to the held-out tenth: by hash, so order and neighbours do not matter."""
    return hashlib.sha256(text.strip().encode()).digest()[0] < 256 * HELD_OUT_SHARE


def read_directory(path: Path, check: Callable[[], None] = lambda: None) -> _Found:
    """Everything usable below `path`; ValueError if there is nothing. `check`, called often, ends it by raising."""
    found = _Found()
    for one in read(path, Reader(check=check)):
        if one.taken is None:
            continue
        value = one.taken.value
        if isinstance(value, str):
            found.documents.append(value)
        elif isinstance(value, Comparison):
            found.comparisons.append(value)
        elif isinstance(value, Problem):
            found.problems.append(value)
        else:
            found.conversations.append(value)
    if not (found.documents or found.conversations or found.comparisons or found.problems):
        raise ValueError(f"{path} holds nothing to learn from; put a .txt or a .jsonl file with texts there.")
    return found


# --- Into a corpus -----------------------------------------------------------------------------------


def split(items: list[AskedT]) -> tuple[list[AskedT], list[AskedT]]:
    """(training, held out), the latter never empty when there are two items or more."""
    train = [item for item in items if not is_held_out(asked_text(item))]
    held_out = [item for item in items if is_held_out(asked_text(item))]
    if not held_out and len(train) > 1:
        held_out.append(train.pop(min(range(len(train)), key=lambda i: _digest(asked_text(train[i])))))
    if not train:
        train.append(held_out.pop())
    return train, held_out


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _distinct(what: str, texts: Iterable[str]) -> list[str]:
    """The texts without repetitions, in order."""
    given = list(texts)
    kept = list(dict.fromkeys(given))
    if len(kept) < len(given):
        log.warning("Left out %d of %d %s: they repeat another one.", len(given) - len(kept), len(given), what)
    return kept


def _excerpt(documents: list[str]) -> list[str]:
    """About `HELD_OUT_BYTES` of the documents, in the order of their hashes and so from all over the directory."""
    excerpt, size = [], 0
    for document in sorted(documents, key=lambda document: hashlib.sha256(document.encode()).digest()):
        if size >= HELD_OUT_BYTES:
            break
        part = document.encode()[:HELD_OUT_DOCUMENT_BYTES].decode(errors="ignore")  # without half a character
        excerpt.append(part)
        size += len(part.encode())
    whole = sum(len(document.encode()) for document in documents)
    if size < whole:
        log.warning("Of %d bytes of held-out documents %d are measured, the others are not used.", whole, size)
    return excerpt


def _prompts_to_vote_on(found: _Found) -> tuple[list[Asked], list[Asked]]:
    """Single questions, as PPO asks them: those of the comparisons, else those of the conversations; and what is left.

    The last line of a longer conversation is not one. The reward model learns to judge its answers in the light of
    what was said before, and PPO would ask it without.
    """
    compared = [asked for one in found.comparisons if (asked := single_question(one.messages)) is not None]
    if longer := len(found.comparisons) - len(compared):
        log.warning(
            "%d of %d comparisons come after a longer conversation: reward learns from them, PPO does not ask them.",
            longer,
            len(found.comparisons),
        )
    short = _short(compared)
    told = [asked for talk in found.conversations if (asked := single_question(talk[:-1])) is not None]
    if short:
        return short, _short(told, is_spare=True)
    short = _short(told)
    if found.comparisons and not compared and not told:
        log.warning(
            "No comparison and no conversation is about a single question: PPO asks the last lines all the same."
        )
        short = _short([comparison.prompt for comparison in found.comparisons])
    return short, []


def _short(prompts: Iterable[Asked], *, is_spare: bool = False) -> list[Asked]:
    """Those that can be asked, without repetitions; with a note in the log on the others, if they would have been."""
    distinct = list(dict.fromkeys(prompts))
    short = [prompt for prompt in distinct if _is_short(prompt)]
    if len(short) < len(distinct) and not is_spare:
        log.warning(
            "Left out %d of %d prompts to vote on: they are empty or longer than %d bytes.",
            len(distinct) - len(short),
            len(distinct),
            LONGEST_PROMPT_BYTES,
        )
    return short


def _is_short(asked: Asked) -> bool:
    """Whether a question can be asked, the system text before it counted."""
    return fits("".join(turn["content"] for turn in asked_messages(asked)), LONGEST_PROMPT_BYTES)


def _questions_in(conversation: list[Message]) -> list[str]:
    return [turn["content"] for turn in conversation if turn["role"] == "user"]


def _questions(conversations: Iterable[list[Message]]) -> list[Question]:
    """Held-out instructions with a short answer; right is whoever gives exactly that answer."""
    questions = []
    for conversation in conversations:
        asked, answer = single_question(conversation[:-1]), conversation[-1]["content"]
        if asked is None or not is_held_out(asked_text(asked)):
            continue
        if fits(answer, LONGEST_ANSWER_BYTES) and _is_short(asked):
            text, system = asked_text(asked), "" if isinstance(asked, str) else asked.system
            questions.append(
                Question(prompt=text, accept=(answer,), family="data", fact=text, exact=True, system=system)
            )
    return questions[:MOST_QUESTIONS]


@dataclass(frozen=True, kw_only=True)
class DirectoryParts:
    """What a data directory gives to each stage, split."""

    documents: list[str]
    held_out_documents: list[str]
    conversations: list[list[Message]]
    questions: list[Question]
    preference_prompts: list[Asked]
    held_out_preference_prompts: list[Asked]
    spare_prompts: list[Asked]
    held_out_spare_prompts: list[Asked]
    problems: list[Problem]
    held_out_problems: list[Problem]
    comparisons: list[Comparison]


def split_directory(path: Path, seed: int, check: Callable[[], None] = lambda: None) -> DirectoryParts:
    """Read `path` and split it by the hash of every prompt or document; held-out prompts are in no training part.

    `check` is called often while files are read, and ends it by raising.
    """
    found = read_directory(path, check)
    check()
    rng = random.Random(f"directory/{seed}")
    documents, held_out_documents = split(_distinct("documents", found.documents)) if found.documents else ([], [])
    by_prompt = {problem.prompt: problem for problem in found.problems}
    problems = [by_prompt[prompt] for prompt in _distinct("problems", (problem.prompt for problem in found.problems))]
    kept = [problem for problem in problems if not is_held_out(problem.prompt)]
    conversations = [talk for talk in found.conversations if not any(map(is_held_out, _questions_in(talk)))]
    conversations += [problem_conversation(rng, problem) for problem in kept if problem.direct]
    rng.shuffle(conversations)
    asked, spare = _prompts_to_vote_on(found)
    prompts, held_out_prompts = _split_prompts(asked)
    spare, held_out_spare = _split_prompts(spare)
    not_compared = set(map(asked_text, held_out_prompts))  # of few prompts one is held out though its hash is not
    rng.shuffle(prompts)
    check()
    return DirectoryParts(
        documents=documents,
        held_out_documents=_excerpt(held_out_documents),
        conversations=conversations,
        questions=_questions(found.conversations),
        preference_prompts=prompts[:MOST_PROMPTS],
        held_out_preference_prompts=held_out_prompts[:MOST_HELD_OUT_PROMPTS],
        spare_prompts=spare[:MOST_PROMPTS],
        held_out_spare_prompts=held_out_spare[:MOST_HELD_OUT_PROMPTS],
        problems=kept,
        held_out_problems=[p for p in problems if is_held_out(p.prompt)][:MOST_HELD_OUT_PROBLEMS],
        comparisons=[
            comparison
            for comparison in found.comparisons
            if not is_held_out(comparison.prompt) and comparison.prompt not in not_compared
        ],
    )


def _split_prompts(asked: list[Asked]) -> tuple[list[Asked], list[Asked]]:
    """(training, held out), no question on both sides, whatever system texts it is asked under."""
    prompts, held_out = split(asked) if asked else ([], [])
    texts = set(map(asked_text, held_out))
    return [prompt for prompt in prompts if asked_text(prompt) not in texts], held_out


def from_directory(path: Path, seed: int = 0, check: Callable[[], None] = lambda: None) -> Corpus:
    """Public data below `path` as a corpus; see `trainer.data.reader` and `.records` for what is recognised.

    No kind of record is required: a stage without anything to learn from says so, and a model from elsewhere may need
    nothing but problems. ValueError names the file and record that is wrong, or says what is missing. `check` is
    called often meanwhile, and ends it by raising.
    """
    parts = split_directory(path, seed, check)
    samples = [question.asked for question in parts.questions[:2]]
    samples += [prompt for prompt in parts.held_out_preference_prompts[:3] if prompt not in samples][:1]
    samples += [problem.asked for problem in parts.held_out_problems[:1]]
    return assemble(
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

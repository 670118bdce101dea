"""Text from elsewhere: a directory of public data files, read into the same `Corpus`.

Every file is recognised by its first record:

- `.txt`, `.txt.xz`, `.txt.gz`: documents, separated by a line `<|endoftext|>`, else by blank lines;
- `{"text"}`: a document;
- Alpaca `{"instruction", "input", "output"}`, Dolly `{"instruction", "context", "response"}`,
  `{"prompt", "completion"}`, `{"messages": [{role, content}]}` and ShareGPT `{"conversations": [{from, value}]}`:
  a conversation;
- `{"chosen", "rejected"}` with `instruction` or `prompt` or a conversation, or with the dialogue inside
  both texts: a comparison, with the `outcome` that our own votes have, else a win;
- `{"question", "answer"}` with a number (or steps that end with "####" and a number, or steps in `answer` and
  the number in `final`), `{"Body", "Question", "Answer"}` and `{"context", "continuation"}`: a problem.

Records come as `.jsonl`, `.json` (a list, or a line each) or `.parquet` (if pyarrow is there), plain or `.gz` or
`.xz`. A malformed record in a known file is an error that names file and record. What is well formed but of no use here
is noted in the log, never dropped in silence: files of another kind, and by file and reason how many records were left
out.

One tenth of the prompts, by their hash, is held out, so a prompt that is in two files is on the same side in both.
PPO asks single questions, so the prompts to vote on come from comparisons of answers to a single question.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import lzma
import os
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from trainer.corpus.conversations import Message, Question, exchange, problem_conversation
from trainer.numbers import extract_answer, normalise_number, stated_answer
from trainer.preferences import Comparison, numbered_values, parse_json, whole_characters
from trainer.problems import Problem

log = logging.getLogger(__name__)

HELD_OUT_SHARE: Final = 0.1
DOCUMENT_END: Final = "<|endoftext|>"
LONGEST_ANSWER_BYTES: Final = 40
"""Held-out instructions with an answer up to this long become questions: longer ones have no one right answer."""
LONGEST_PROMPT_BYTES: Final = 500
"""Longest problem, question or prompt to vote on, about 80 words of English. In bytes, because not every script has
spaces between its words, and because a text has no more tokens than bytes."""
HELD_OUT_BYTES: Final = 200_000
"""Held-out text that is measured, at most: every evaluation reads all of it."""
HELD_OUT_DOCUMENT_BYTES: Final = 20_000
"""What one document gives to it, at most: one book is not to be all of it."""
MOST_QUESTIONS: Final = 200
MOST_HELD_OUT_PROMPTS: Final = 100
MOST_PROMPTS: Final = 1000
MOST_HELD_OUT_PROBLEMS: Final = 200

_ROLES: Final = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_SPEAKERS: Final = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")

Record = dict[str, Any]


@dataclass
class _Found:
    """What the files held, before it is split."""

    documents: list[str] = field(default_factory=list)
    conversations: list[list[Message]] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


class _OfNoUse(Exception):
    """Why a well-formed record is left out, as it reads in the log."""


def _fits(text: str, longest_bytes: int) -> bool:
    """Whether a text says something, and in no more than `longest_bytes` of UTF-8."""
    return bool(text.strip()) and len(text.encode()) <= longest_bytes


def is_held_out(text: str) -> bool:
    """Whether a document or prompt belongs to the held-out tenth: by hash, so order and neighbours do not matter."""
    return hashlib.sha256(text.strip().encode()).digest()[0] < 256 * HELD_OUT_SHARE


# --- Files -------------------------------------------------------------------------------------------


def _files(directory: Path) -> Iterator[Path]:
    """Every file below `directory`, through links too, in a fixed order and each directory once."""
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(directory, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))


def _read_text(path: Path) -> str:
    openers: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".xz": lzma.decompress}
    try:
        data = path.read_bytes()
        if path.suffix in openers:
            data = openers[path.suffix](data)
        return data.decode("utf-8-sig")
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}); fetch it again or take it out.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); convert it or take it out.") from error


def _read_parquet(path: Path) -> list[Any]:
    """The rows of a parquet file; ImportError without pyarrow, ValueError for what it cannot read."""
    import pyarrow.parquet

    try:
        rows: list[Any] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); fetch it again or take it out.") from error
    return rows


def split_documents(text: str) -> list[str]:
    """Documents of a plain text file."""
    parts = text.split(DOCUMENT_END) if DOCUMENT_END in text else re.split(r"\n\s*\n", text)
    return [part.strip() for part in parts if part.strip()]


def _records(path: Path, kind: str) -> Iterator[tuple[str, Any]]:
    """("line 3", record) for every record of a file."""
    if kind == ".parquet":
        for number, row in enumerate(_read_parquet(path), start=1):
            yield f"row {number}", row
        return
    text = _read_text(path)
    if kind == ".json":
        try:
            rows = parse_json(text)
        except json.JSONDecodeError as error:
            if error.msg == "Extra data":  # one object after another: JSON Lines under another name
                yield from ((f"line {number}", value) for number, value in numbered_values(path, text))
                return
            raise ValueError(f"{path}, line {error.lineno}: not JSON ({error.msg}); correct the file.") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}; correct the file.") from error
        if not isinstance(rows, list):
            rows = [rows]
        for number, row in enumerate(rows, start=1):
            yield f"record {number}", row
        return
    for number, value in numbered_values(path, text):
        yield f"line {number}", value


# --- Records -----------------------------------------------------------------------------------------


def _text(record: Record, *keys: str) -> str:
    """The first of `keys` that is there, as text; ValueError if none is."""
    for key in keys:
        value = record.get(key)
        if isinstance(value, str):
            return whole_characters(value.strip())
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    raise ValueError(f"{' or '.join(repr(key) for key in keys)} should be a text")


def _instruction(record: Record) -> str:
    context = next((record[key] for key in ("input", "context") if isinstance(record.get(key), str)), "").strip()
    return "\n\n".join(part for part in (_text(record, "instruction"), context) if part)


def _turns(value: Any) -> list[Message]:
    """Messages in either notation, roles put into ours."""
    if not isinstance(value, list) or not value:
        raise ValueError("the conversation should be a list of messages")
    turns = []
    for item in value:
        if not isinstance(item, dict):
            raise ValueError("every message should be an object")
        role = _ROLES.get(str(item.get("role", item.get("from"))))
        if role is None:
            raise ValueError(f"unknown role {item.get('role', item.get('from'))!r} in a message")
        turns.append({"role": role, "content": _text(item, "content", "value")})
    return turns


def _conversation(turns: list[Message]) -> list[Message]:
    """Turns up to the last answer; ValueError if no one answers."""
    while turns and turns[-1]["role"] != "assistant":
        turns = turns[:-1]
    if not any(turn["role"] == "user" for turn in turns):
        raise ValueError("the conversation has no question with an answer")
    return turns


def _dialogue(text: str) -> list[Message]:
    """ "\\n\\nHuman: …\\n\\nAssistant: …" as messages."""
    parts = _SPEAKERS.split(text)
    roles = ("user" if speaker == "Human" else "assistant" for speaker in parts[1::2])
    return [{"role": role, "content": said.strip()} for role, said in zip(roles, parts[2::2], strict=True)]


def _answered(value: Any) -> list[Message]:
    """A chosen or rejected value, in any notation, as turns; just the answer if it stands alone."""
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        return _turns(value)
    if not isinstance(value, str):
        raise ValueError("'chosen' and 'rejected' should be texts or messages")
    whole_characters(value)
    return _dialogue(value) or [{"role": "assistant", "content": value.strip()}]


def _shared(chosen: list[Message], rejected: list[Message]) -> list[Message]:
    """The turns both begin with, up to the last question among them."""
    count = 0
    while count < min(len(chosen), len(rejected)) and chosen[count] == rejected[count]:
        count += 1
    while count and chosen[count - 1]["role"] != "user":
        count -= 1
    return chosen[:count]


def _prompt(record: Record) -> list[Message]:
    """The prompt of a comparison where it stands beside the answers, else nothing."""
    talk = record.get("conversations", record.get("messages", record.get("prompt")))
    if isinstance(talk, list):
        return _turns(talk)
    if "instruction" in record:
        return [{"role": "user", "content": _instruction(record)}]
    return [{"role": "user", "content": _text(record, "prompt")}] if "prompt" in record else []


def _comparison(record: Record, source: str) -> Comparison:
    chosen, rejected = _answered(record["chosen"]), _answered(record["rejected"])
    shared = _shared(chosen, rejected)
    messages = _prompt(record) or shared
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("a comparison needs an 'instruction', a 'prompt' or a conversation that ends with the user")
    better, worse = ("\n\n".join(turn["content"] for turn in turns[len(shared) :]) for turns in (chosen, rejected))
    outcome = record.get("outcome", "win")  # votes of ours say so; both texts are there in a tie too
    if outcome == "win" and better == worse:
        outcome = "tie"
    return Comparison(messages=messages, chosen=better, rejected=worse, outcome=outcome, source=source)


_TERM = re.compile(r"(?<![\d)])-?\d+|[-+*]")


def work_expression(expression: str) -> str | None:
    """ "25+3*2" worked step by step (products first), or None if it is not such an expression."""
    expression = re.sub(r"[\s=?]", "", expression)
    if not re.fullmatch(r"-?\d+([-+*]-?\d+)+", expression):
        return None
    terms = _TERM.findall(expression)
    steps = []
    while len(terms) > 1:
        at = terms.index("*") if "*" in terms else 1
        a, operator, b = int(terms[at - 1]), terms[at], int(terms[at + 1])
        result = a * b if operator == "*" else a + b if operator == "+" else a - b
        steps.append(f"{a} {operator} {b} = {result}.")
        terms[at - 1 : at + 2] = [str(result)]
    return " ".join([*steps, f"The answer is {terms[0]}."])


def _worked(prompt: str, answer: str, steps: str) -> str:
    """A model answer that ends with the result: the steps shown with the problem, else our own, else none."""
    steps = re.sub(r"<<[^<>]*>>", "", steps)
    steps = re.sub(r"\s*####.*", "", steps, flags=re.DOTALL).strip()
    own = work_expression(prompt)
    if not steps and own is not None and stated_answer(own) == answer:
        return own
    return steps if stated_answer(steps) == answer else f"{steps} The answer is {answer}.".strip()


def _problem(prompt: str, answer_text: str, steps: str, source: str) -> Problem:
    """A problem; with `steps`, the answer may be a text that names its number."""
    answer = normalise_number(answer_text) or (extract_answer(answer_text) if steps else None)
    if answer is None:
        raise _OfNoUse("the answer is no number")
    if not _fits(prompt, LONGEST_PROMPT_BYTES):
        raise _OfNoUse(f"the problem is empty or longer than {LONGEST_PROMPT_BYTES} bytes")
    worked = _worked(prompt, answer, steps)
    operators = len(re.findall(r"(?<=\d)\s*[-+*/x×÷]", prompt)) or worked.count("=")
    size = max((len(number) for number in re.findall(r"\d+", prompt)), default=1)
    difficulty = min(4, max(1, operators + (size > 1) + (size > 2) - 1))
    return Problem(prompt=prompt, answer=answer, family=source, difficulty=difficulty, worked=worked)


def _take(record: Any, found: _Found, source: str) -> bool:
    """Put one record where it belongs; False if it is of no kind we know."""
    if not isinstance(record, dict):
        return False
    keys = record.keys()
    if {"chosen", "rejected"} <= keys:
        found.comparisons.append(_comparison(record, source))
    elif "messages" in keys or "conversations" in keys:
        if record.get("label") is False:  # KTO data
            raise _OfNoUse("the answer is marked as a bad one")
        found.conversations.append(_conversation(_turns(record.get("messages", record.get("conversations")))))
    elif "instruction" in keys and ("output" in keys or "response" in keys):
        found.conversations.append(exchange(_instruction(record), _text(record, "output", "response")))
    elif {"prompt", "completion"} <= keys:
        found.conversations.append(_conversation(_prompt(record) + _answered(record["completion"])))
    elif {"question", "answer"} <= keys:
        shown = record["answer"] if isinstance(record["answer"], str) else ""
        steps = shown if "final" in keys or "####" in shown else ""
        found.problems.append(_problem(_text(record, "question"), _text(record, "final", "answer"), steps, source))
    elif {"Body", "Question", "Answer"} <= keys:
        body = _text(record, "Body").rstrip(".")
        found.problems.append(_problem(f"{body}. {_text(record, 'Question')}", _text(record, "Answer"), "", source))
    elif {"context", "continuation"} <= keys:
        found.problems.append(_problem(_text(record, "context"), _text(record, "continuation"), "", source))
    elif "text" in keys:
        document = _text(record, "text")
        if not document:
            raise _OfNoUse("the text is empty")
        found.documents.append(document)
    else:
        return False
    return True


def _read_file(path: Path, found: _Found) -> None:
    """Add what one file holds, with a note in the log on whatever is left out."""
    name = path.name.removesuffix(".gz").removesuffix(".xz")
    kind = Path(name).suffix
    source = Path(name).stem
    if kind == ".txt":
        found.documents += split_documents(_read_text(path))
        return
    if kind not in {".jsonl", ".json", ".parquet"}:
        log.warning("Skipped %s: not .txt, .jsonl, .json or .parquet.", path)
        return
    try:
        _read_records(path, _records(path, kind), found, source)
    except ImportError:
        log.warning("Skipped %s: reading parquet needs pyarrow (pip install pyarrow).", path)


def _read_records(path: Path, records: Iterable[tuple[str, Any]], found: _Found, source: str) -> None:
    count = 0
    left_out: Counter[str] = Counter()
    for where, record in records:
        try:
            taken = _take(record, found, source)
        except _OfNoUse as reason:
            left_out[str(reason)] += 1
            taken = True
        except ValueError as error:
            raise ValueError(f"{path}, {where}: {error}; correct or delete the record.") from error
        if not taken and count:
            raise ValueError(f"{path}, {where}: not the same kind of record as before; correct or delete it.")
        if not taken:
            keys = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            log.warning("Skipped %s: records with %s are of no known kind.", path, keys)
            return
        count += 1
    if not count:
        log.warning("Skipped %s: it holds no records.", path)
    for why, number in left_out.items():
        log.warning("Left out %d of %d records of %s: %s.", number, count, path, why)


def read_directory(path: Path) -> _Found:
    """Everything usable below `path`; ValueError if there is nothing."""
    if not path.is_dir():
        raise ValueError(f"{path} is not a directory; --data takes a directory of text or JSON Lines files.")
    found = _Found()
    for file in _files(path):
        _read_file(file, found)
    if not found.documents:
        raise ValueError(f"{path} holds no documents to pre-train on; put a .txt or a .jsonl file with texts there.")
    return found


# --- Into a corpus -----------------------------------------------------------------------------------


def split(items: list[str]) -> tuple[list[str], list[str]]:
    """(training, held out), the latter never empty when there are two items or more."""
    train = [item for item in items if not is_held_out(item)]
    held_out = [item for item in items if is_held_out(item)]
    if not held_out and len(train) > 1:
        held_out.append(train.pop(min(range(len(train)), key=lambda i: hashlib.sha256(train[i].encode()).digest())))
    if not train:
        train.append(held_out.pop())
    return train, held_out


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


def _prompts_to_vote_on(found: _Found) -> list[str]:
    """Single questions, as PPO asks them: those of the comparisons, else those of the conversations.

    The last line of a longer conversation is not one. The reward model learns to judge its answers in the light of
    what was said before, and PPO would ask it without.
    """
    single = [comparison.prompt for comparison in found.comparisons if len(comparison.messages) == 1]
    if longer := len(found.comparisons) - len(single):
        log.warning(
            "%d of %d comparisons come after a longer conversation: reward learns from them, PPO does not ask them.",
            longer,
            len(found.comparisons),
        )
    asked = single or [_first_prompt(talk) for talk in found.conversations if len(talk) == 2]
    if found.comparisons and not asked:
        log.warning(
            "No comparison and no conversation is about a single question: PPO asks the last lines all the same."
        )
        asked = [comparison.prompt for comparison in found.comparisons]
    prompts = list(dict.fromkeys(asked))
    short = [prompt for prompt in prompts if _fits(prompt, LONGEST_PROMPT_BYTES)]
    if len(short) < len(prompts):
        log.warning(
            "Left out %d of %d prompts to vote on: they are empty or longer than %d bytes.",
            len(prompts) - len(short),
            len(prompts),
            LONGEST_PROMPT_BYTES,
        )
    return short


def _first_prompt(conversation: list[Message]) -> str:
    return _questions_in(conversation)[0]


def _questions_in(conversation: list[Message]) -> list[str]:
    return [turn["content"] for turn in conversation if turn["role"] == "user"]


def _questions(conversations: list[list[Message]]) -> list[Question]:
    """Held-out instructions with a short answer; right is whoever gives exactly that answer."""
    questions = []
    for conversation in conversations:
        prompt, answer = _first_prompt(conversation), conversation[-1]["content"]
        if _fits(answer, LONGEST_ANSWER_BYTES) and _fits(prompt, LONGEST_PROMPT_BYTES):
            questions.append(Question(prompt=prompt, accept=(answer,), family="data", fact=prompt, exact=True))
    return questions[:MOST_QUESTIONS]


@dataclass(frozen=True, kw_only=True)
class DirectoryParts:
    """What a data directory gives to each stage, split."""

    documents: list[str]
    held_out_documents: list[str]
    conversations: list[list[Message]]
    questions: list[Question]
    preference_prompts: list[str]
    held_out_preference_prompts: list[str]
    problems: list[Problem]
    held_out_problems: list[Problem]
    comparisons: list[Comparison]


def split_directory(path: Path, seed: int) -> DirectoryParts:
    """Read `path` and split it by the hash of every prompt or document; held-out prompts are in no training part."""
    found = read_directory(path)
    rng = random.Random(f"directory/{seed}")
    documents, held_out_documents = split(_distinct("documents", found.documents))
    by_prompt = {problem.prompt: problem for problem in found.problems}
    problems = [by_prompt[prompt] for prompt in _distinct("problems", (problem.prompt for problem in found.problems))]
    kept = [problem for problem in problems if not is_held_out(problem.prompt)]
    single = [talk for talk in found.conversations if len(talk) == 2]
    conversations = [talk for talk in found.conversations if not any(map(is_held_out, _questions_in(talk)))]
    conversations += [problem_conversation(rng, problem) for problem in kept]
    rng.shuffle(conversations)
    asked = _prompts_to_vote_on(found)
    prompts, held_out_prompts = split(asked) if asked else ([], [])
    not_compared = set(held_out_prompts)  # of few prompts one is held out though its hash is not
    rng.shuffle(prompts)
    return DirectoryParts(
        documents=documents,
        held_out_documents=_excerpt(held_out_documents),
        conversations=conversations,
        questions=_questions([talk for talk in single if is_held_out(_first_prompt(talk))]),
        preference_prompts=prompts[:MOST_PROMPTS],
        held_out_preference_prompts=held_out_prompts[:MOST_HELD_OUT_PROMPTS],
        problems=kept,
        held_out_problems=[p for p in problems if is_held_out(p.prompt)][:MOST_HELD_OUT_PROBLEMS],
        comparisons=[
            comparison
            for comparison in found.comparisons
            if not is_held_out(comparison.prompt) and comparison.prompt not in not_compared
        ],
    )

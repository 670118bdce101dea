"""The files below a directory, read record by record: what each is, and what is left out, with file and line.

- `.txt` (or `.text`): documents, separated by a line `<|endoftext|>`, else by blank lines;
- `.jsonl` (`.ndjson`, `.jsonlines`), `.json` (a list, or one object after another) and `.parquet`: records, each taken
  for what its fields say (`trainer.data.records`).

All but parquet plain or compressed (`.gz`, `.xz`, `.bz2`). A byte-order mark may stand at the start, and in the middle
where files were appended. What is no file at all (a named pipe, a device), of another kind or of no use is left out
with the reason, and the rest is read. What is broken (no JSON, no UTF-8, a damaged archive) or without bounds is an
error that names file and line: somebody should look at it.

Run it: ``python -m trainer read DIR``
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final, NoReturn

from trainer.data import records
from trainer.data.preferences import (
    Comparison,
    extra_keys,
    from_record,
    one_line_end,
    parse_json,
    to_record,
    whole_characters,
)
from trainer.data.records import DOCUMENT, LeftOut, Taken, counted_difficulty
from trainer.runtime.reading import NotAFile, Reader, check_kind
from trainer.tasks.choice import listed
from trainer.tasks.problem import CHOICE, PATTERN, TEXT, UNKNOWN, Problem

log = logging.getLogger(__name__)

DOCUMENT_END: Final = "<|endoftext|>"
LEFT_OUT: Final = "left_out"

TEXT_SUFFIXES: Final = (".txt", ".text")
LINES_SUFFIXES: Final = (".jsonl", ".ndjson", ".jsonlines")
JSON_SUFFIX: Final = ".json"
PARQUET_SUFFIXES: Final = (".parquet", ".parq", ".pq")
PACKED_SUFFIXES: Final = (".gz", ".gzip", ".xz", ".bz2")
ROWS_AT_ONCE: Final = 64

_FILE_BEGINS: Final = re.compile(r"^\ufeff|(?<=[.!?…\"'”’)>])\ufeff(?=[\w\"“‘])", re.MULTILINE)
"""A byte-order mark where one file was appended to another; elsewhere ("she said\ufeff—") it is a space of no width."""
_PARAGRAPHS: Final = re.compile(r"\n\s*\n")
_SPACE: Final = re.compile(r"[\s\ufeff]*")


@dataclass(frozen=True, kw_only=True)
class Read:
    """One record of a file, and what it is."""

    file: Path
    line: int
    """From 1; of a parquet file the row. 0 for a file that is left out as a whole."""
    taken: Taken | None
    reason: str = ""
    """Why it is left out, where it is."""


def read(directory: Path, reader: Reader | None = None) -> Iterator[Read]:
    """Every record below `directory`, those that are left out, too; and notes on them in the log.

    ValueError for what is no directory, a broken file, or more text than `reader` may read.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory} is not a directory; --data takes a directory of text or JSON Lines files.")
    reader = reader or Reader()
    for file in _files(directory):
        yield from _noted(file, _read_file(file, reader))


def described(read: Read, directory: Path) -> dict[str, Any]:
    """The line that `python -m trainer read` prints for a record; what was taken would be read the same again."""
    where = {"file": read.file.relative_to(directory).as_posix(), "line": read.line}
    if read.taken is None:
        return {"kind": LEFT_OUT, **where, "reason": read.reason}
    value = read.taken.value
    content: dict[str, Any]
    if isinstance(value, Comparison):
        content = {name: part for name, part in to_record(value).items() if name != "voter"}
    elif isinstance(value, Problem):
        content = _described_problem(value)
    else:
        content = {"text" if isinstance(value, str) else "messages": value}
    note = {"note": read.taken.note} if read.taken.note else {}
    return {"kind": read.taken.kind, **where, **content, **note}


def _described_problem(problem: Problem) -> dict[str, Any]:
    """A problem in the notation its kind is read from."""
    content: dict[str, Any] = {"system": problem.system} if problem.system else {}
    content["question"] = problem.prompt
    counted = UNKNOWN
    if problem.kind == CHOICE:
        content["question"] = problem.prompt.removesuffix(listed(problem.options)).rstrip()
        content |= {"choices": list(problem.options), "answerKey": problem.answer}
    elif problem.kind == TEXT:
        content["accept"] = list(problem.accept)
    elif problem.kind == PATTERN:
        content["pattern"] = problem.answer
    else:
        content["answer"] = problem.answer
        counted = counted_difficulty(problem.prompt, problem.worked)
    if problem.difficulty != counted:
        content["difficulty"] = problem.difficulty
    return content | {"worked": problem.worked}


# --- Files -------------------------------------------------------------------------------------------


def _files(directory: Path) -> Iterator[Path]:
    """Every file below `directory`, through links too, in a fixed order and each directory once."""
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(directory, followlinks=True, onerror=_refuse_folder):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))


def _refuse_folder(error: OSError) -> NoReturn:
    raise ValueError(f"{error.filename} cannot be read ({error.strerror}); give the right to, or take it out.")


def kind_and_name(path: Path) -> tuple[str, str]:
    """(suffix, name without it) of a file, whatever it is packed with."""
    path = Path(path.name)
    if path.suffix.lower() in PACKED_SUFFIXES:
        path = path.with_suffix("")
    return path.suffix.lower(), path.stem


def _read_file(path: Path, reader: Reader) -> Iterator[Read]:
    kind, name = kind_and_name(path)
    try:
        if kind in TEXT_SUFFIXES:
            for line, text in split_documents(reader.text(path)):
                reader.check()
                yield _taken(path, line, lambda text=text: Taken(kind=DOCUMENT, value=_document(text)))  # type: ignore[misc]
        elif kind in (*LINES_SUFFIXES, JSON_SUFFIX, *PARQUET_SUFFIXES):
            for line, record in values(path, reader):
                yield _taken(path, line, lambda record=record: records.take(record, name))  # type: ignore[misc]
        else:
            with suppress(OSError):
                check_kind(path, os.stat(path).st_mode)
            yield Read(file=path, line=0, taken=None, reason="not .txt, .jsonl, .json or .parquet")
    except NotAFile as error:
        yield Read(file=path, line=0, taken=None, reason=str(error).removeprefix(f"{path} is "))
    except ImportError:
        reason = "reading parquet needs pyarrow (pip install pyarrow)"
        yield Read(file=path, line=0, taken=None, reason=reason)


def _taken(path: Path, line: int, take: Callable[[], Taken]) -> Read:
    try:
        return Read(file=path, line=line, taken=take())
    except LeftOut as reason:
        return Read(file=path, line=line, taken=None, reason=str(reason))


def _noted(path: Path, found: Iterator[Read]) -> Iterator[Read]:
    """The same, with a note in the log when the file is through, on what was left out of it or changed."""
    count = 0
    left_out: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    first: dict[str, int] = {}
    for one in found:
        if one.taken is None and one.line == 0:
            log.warning("Skipped %s: %s.", path, one.reason)
            yield one
            return
        count += 1
        if one.taken is None:
            left_out[one.reason] += 1
            first.setdefault(one.reason, one.line)
        elif one.taken.note:
            notes[one.taken.note] += 1
        yield one
    if not count:
        log.warning("Skipped %s: it holds no records.", path)
    for why, number in left_out.items():
        log.warning("Left out %d of %d records of %s: %s. See line %d.", number, count, path, why, first[why])
    for note, number in notes.items():
        log.warning("Of %d of %d records of %s %s.", number, count, path, note)


# --- Documents ---------------------------------------------------------------------------------------


def split_documents(text: str) -> Iterator[tuple[int, str]]:
    """(line, document) for every document of a plain text file."""
    separator = re.compile(re.escape(DOCUMENT_END)) if DOCUMENT_END in text else _PARAGRAPHS
    line = 1
    for part in _FILE_BEGINS.split(text) if "\ufeff" in text else [text]:
        start = 0
        for stop, end in chain((found.span() for found in separator.finditer(part)), [(len(part), len(part))]):
            document = part[start:stop]
            if stripped := document.strip():
                yield line + document[: len(document) - len(document.lstrip())].count("\n"), stripped
            line += part.count("\n", start, end)
            start = end


def _document(text: str) -> str:
    return records.clean(text)


# --- Values ------------------------------------------------------------------------------------------


def values(path: Path, reader: Reader) -> Iterator[tuple[int, Any]]:
    """(line, value) for every JSON value of a file, or row of a parquet file.

    ValueError names the file, the line and what to do; ImportError for parquet without pyarrow.
    """
    kind, _ = kind_and_name(path)
    if kind in PARQUET_SUFFIXES:
        yield from _rows(path, reader)
    elif kind == JSON_SUFFIX:
        yield from _values_in(path, reader.text(path))
    else:
        yield from _values_on_lines(path, reader)


def _values_on_lines(path: Path, reader: Reader) -> Iterator[tuple[int, Any]]:
    """A value on each line, or several where files were appended; of a list that fills the file its items."""
    first: tuple[int, str] | None = None
    lines = reader.lines(path)
    for number, line in lines:
        reader.check()
        begun = _after_space(line, 0)
        if begun == len(line):
            continue
        if first is None and line[begun] == "[":
            first = (number, line)
            if not _is_json(line):
                text = "\n".join(chain([line], (other for _, other in lines)))
                yield from _values_in(path, text, first_line=number)
                return
            continue
        if first is not None and first[1]:
            yield first[0], parse_json(first[1].strip("\ufeff \t"))
        first = (number, "")
        try:
            value = parse_json(line)
        except json.JSONDecodeError:
            yield from _values_in(path, line, first_line=number)
        except ValueError as error:
            raise _not_json(path, number, error) from error
        else:
            yield number, value
    if first is not None and first[1]:
        yield from _values_in(path, first[1], first_line=first[0])


def _is_json(text: str) -> bool:
    try:
        parse_json(text.strip("\ufeff \t"))
    except ValueError:
        return False
    return True


def _values_in(path: Path, text: str, *, first_line: int = 1) -> Iterator[tuple[int, Any]]:
    """Every value of a JSON text: of a list its items, else one value after the other."""
    decoder = json.JSONDecoder()
    place = _after_space(text, 0)
    is_list = text.startswith("[", place)
    line, counted = first_line, 0
    if is_list:
        place = _after_space(text, place + 1)
        is_open = not text.startswith("]", place)
    while is_open if is_list else place < len(text):
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, place = decoder.raw_decode(text, place)
            yield line, value
            place = _after_space(text, place)
            if is_list and (is_open := not text.startswith("]", place)):
                if not text.startswith(",", place):
                    raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
                place = _after_space(text, place + 1)
        except json.JSONDecodeError as error:
            raise _not_json(path, first_line + error.lineno - 1, error) from error
        except (RecursionError, ValueError) as error:
            raise _not_json(path, line, error) from error
    if is_list and (rest := text[place + 1 :].strip(" \t\n\ufeff")):
        where = first_line + text.count("\n", 0, text.rindex(rest))
        raise ValueError(f"{path}, line {where}: not JSON (something follows the list); correct or delete the line.")


def _after_space(text: str, place: int) -> int:
    return _SPACE.match(text, place).end()  # type: ignore[union-attr]


def _not_json(path: Path, line: int, error: Exception) -> ValueError:
    fault = str(error)
    if isinstance(error, json.JSONDecodeError):
        fault = f"not JSON ({error.msg})"
    elif isinstance(error, RecursionError):
        fault = "nested too deeply to be read"
    return ValueError(f"{path}, line {line}: {fault}; correct or delete the line.")


def _rows(path: Path, reader: Reader) -> Iterator[tuple[int, Any]]:
    """The rows of a parquet file, a few at a time; how large they are is looked up before they are read."""
    import pyarrow.parquet

    try:
        check_kind(path, os.stat(path).st_mode)
        with pyarrow.parquet.ParquetFile(path) as file:
            groups = (file.metadata.row_group(index) for index in range(file.metadata.num_row_groups))
            size = max(sum(group.total_byte_size for group in groups), os.stat(path).st_size)
            if reader.read + size > reader.limit:
                reader.count(size, path)
            number = 0
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                reader.count(batch.nbytes, path)
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); fetch it again or take it out.") from error


# --- Votes -------------------------------------------------------------------------------------------


def numbered_votes(path: Path, check: Callable[[], None] = lambda: None) -> Iterator[tuple[int, Comparison]]:
    """(line, comparison) for every record of one file, in any notation `--data` takes.

    A vote in our own notation (TRL's, with what we know beside it) keeps its texts to the letter, but for line ends;
    equal texts are a tie in every notation. ValueError names the file and the line of a record that is no comparison:
    a vote is not left out without its owner's word. `check` is called often, and ends it by raising.
    """
    os.stat(path)  # an OSError of its own for a path that leads nowhere
    for line, record in values(path, Reader(check=check)):
        try:
            yield line, _vote(record)
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {str(error).rstrip('.')}; correct or delete the line.") from error


def _vote(record: Any) -> Comparison:
    whole_characters(json.dumps(record, ensure_ascii=False))
    if not isinstance(record, dict):
        raise ValueError("the line must be a JSON object")
    try:
        comparison = from_record(record)
    except ValueError:
        taken = records.take(record, "human")
        if not isinstance(taken.value, Comparison):
            raise ValueError(f"it is a {taken.kind} and no comparison") from None
        named = {name: record[name] for name in ("voter", "source") if name in record}
        if wrong := [name for name, value in named.items() if not isinstance(value, str)]:
            raise ValueError(f'"{wrong[0]}" must be a text') from None
        comparison = replace(taken.value, **named, extra=extra_keys(record))
    outcome = comparison.outcome
    if outcome == "win" and records.clean(comparison.chosen) == records.clean(comparison.rejected):
        outcome = "tie"
    return replace(
        comparison,
        messages=[turn | {"content": one_line_end(turn["content"])} for turn in comparison.messages],
        chosen=one_line_end(comparison.chosen),
        rejected=one_line_end(comparison.rejected),
        outcome=outcome,
    )


def read_votes(path: Path, check: Callable[[], None] = lambda: None) -> list[Comparison]:
    """Every comparison of one file; see `numbered_votes`."""
    return [comparison for _, comparison in numbered_votes(path, check)]

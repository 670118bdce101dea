"""Votes as JSON Lines: out to a file the whole field reads, and back in without loss.

The line's shape is trainer.data.preferences' (and so TRL's); what we add to it is listed at `_extra`.
Exporting, importing elsewhere and exporting again gives the same bytes: a line names its pair, its
voter (a random id that says nothing about the person), both checkpoints by hash, and the time.

Simplification: an answer of a checkpoint this site does not have is filed under a hidden checkpoint
row that carries the hash and has no files. Skips and second looks at repeated pairs are not exported.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from trainer.config import CHAT_STAGES, SFT
from trainer.data.preferences import Comparison, one_line_end, write_comparisons
from trainer.data.reader import numbered_votes
from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.arena import tally
from webapp.arena.models import Pair, Vote, VoteQuerySet
from webapp.checkpoints.models import Checkpoint

_IMPORTED = uuid.UUID("0f8b2c66-3c0d-4f8e-8f39-1f0a7f4f5a10")
"""Namespace of the ids given to voters and pairs of files that do not name theirs by UUID."""
_BATCH = 500

NO_REASONS = [""]
"""No reasons, in a file: an empty list has no type, and after megabytes of them `datasets` refuses a list of texts."""
SETTINGS: dict[str, type[int] | type[float]] = {
    "max_new_tokens": int,
    "seed": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
}
"""Sampling settings and their types in a file. One that is not known is 0: no answer was sampled with a `top_p` or at
most `max_new_tokens` of that."""

LARGEST_SETTING = 2**53
"""Larger whole numbers are no longer told apart by everyone who reads JSON."""


def write_votes(
    path: Path, votes: VoteQuerySet, *, report: Callable[[int], object] = lambda written: None
) -> tuple[str, int]:
    """Write these votes to `path`, complete or not at all; returns the file's SHA-256 and how many votes it holds.

    Batch after batch, so that a million take no more memory than a thousand; `report` is told after each how many are
    written, and whatever it raises ends it.
    """
    # By id: one join of votes, pairs, answers and checkpoints takes PostgreSQL minutes while
    # its statistics call tables empty that have just grown (nested loops over all of them).
    with_answers = votes.prefetch_related("pair__a__checkpoint", "pair__b__checkpoint")
    written = 0

    def comparisons() -> Iterator[Comparison]:
        nonlocal written
        for vote in with_answers.iterator(chunk_size=_BATCH):
            yield _to_comparison(vote)
            written += 1
            if written % _BATCH == 0:
                report(written)

    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write_comparisons(unfinished, comparisons())
        with unfinished.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return sha256, written


def learnt_votes(path: Path) -> list[int]:
    """The votes that stand in a file `write_votes` wrote.

    From the file and not from a time: votes are cast while a model trains, and imported ones bring old times along.
    """
    found: list[int] = []
    with path.open(encoding="utf-8") as file:
        while lines := list(islice(file, _BATCH)):
            votes = {(record.get("pair"), record["voter"]) for record in map(json.loads, lines)}
            rows = Vote.objects.for_training().filter(pair__in={pair for pair, _ in votes if pair})
            cast = rows.order_by().values_list("pk", "pair", "visitor")
            found += [pk for pk, pair, voter in cast if (str(pair), str(voter)) in votes]
    return found


def mark_learnt(votes: Sequence[int], *, by: Checkpoint) -> None:
    """Note on these votes that this reward model learnt from them."""
    tally.mark_votes_learnt(votes, by=by)


def _to_comparison(vote: Vote) -> Comparison:
    a, b = vote.pair.a, vote.pair.b
    chosen, rejected = (b, a) if vote.choice == Vote.Choice.B else (a, b)
    outcome = vote.choice if vote.choice in (Vote.Choice.TIE, Vote.Choice.BOTH_BAD) else "win"
    return Comparison(
        messages=[{"role": message["role"], "content": message["content"]} for message in a.messages],
        chosen=chosen.text,
        rejected=rejected.text,
        outcome=str(outcome),
        voter=str(vote.visitor_id),
        source=vote.source,
        extra=_extra(vote, chosen, rejected),
    )


def _extra(vote: Vote, chosen: Generation, rejected: Generation) -> dict[str, Any]:
    """What a line says beside the comparison itself."""
    return {
        "pair": str(vote.pair_id),
        "chosen_side": "b" if vote.choice == Vote.Choice.B else "a",
        "checkpoints": {"chosen": chosen.checkpoint.weights_sha256, "rejected": rejected.checkpoint.weights_sha256},
        "stages": {"chosen": chosen.checkpoint.stage, "rejected": rejected.checkpoint.stage},
        # Sorted, because PostgreSQL does not keep the order of keys.
        "sampling": {"chosen": _settings(chosen.sampling), "rejected": _settings(rejected.sampling)},
        "taste": vote.taste,
        "reasons": vote.reasons or NO_REASONS,
        "time": vote.created_at.isoformat(timespec="microseconds"),
    }


def _settings(sampling: dict[str, Any]) -> dict[str, float | int]:
    """Every setting in every line, each with its own type: readers of tables go by the first lines they see."""
    return {name: kind(sampling.get(name) or 0) for name, kind in SETTINGS.items()}


# -- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Answer:
    text: str
    sha256: str
    stage: str
    sampling: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One line of a file, checked."""

    pair_id: uuid.UUID
    visitor_id: uuid.UUID
    messages: list[dict[str, str]]
    a: _Answer
    b: _Answer
    choice: str
    source: str
    taste: str
    reasons: list[str]
    time: datetime


def import_votes(path: Path) -> tuple[int, int]:
    """Add a file's votes; returns (added, already here). All or nothing.

    ValueError names the file and the line, and nothing of it has been imported then.
    """
    lines: list[_Line] = []
    first_of_pair: dict[uuid.UUID, _Line] = {}
    for number, comparison in numbered_votes(path):
        try:
            line = _check(comparison)
            first = first_of_pair.setdefault(line.pair_id, line)
            if (first.messages, first.a, first.b) != (line.messages, line.a, line.b):
                raise ValueError(f"pair {line.pair_id} has other answers than on an earlier line")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; correct or delete the line.") from error
        lines.append(line)
    with transaction.atomic():
        counts = _store(path, lines, first_of_pair)
        _refresh_statistics()
    return counts


def _refresh_statistics() -> None:
    """Tell PostgreSQL's planner how large the tables are now; it finds out by itself, but up to minutes later."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            for model in (Vote, Pair, Generation):
                cursor.execute(f"ANALYZE {connection.ops.quote_name(model._meta.db_table)}")


def _check(comparison: Comparison) -> _Line:
    """The line behind a comparison; files from elsewhere may leave out everything in `extra`."""
    extra = comparison.extra
    for text in (*(message["content"] for message in comparison.messages), comparison.chosen, comparison.rejected):
        _check_text(text)
        if not text.strip():
            raise ValueError("a question or an answer is empty")
    if comparison.source not in Vote.Source.values:
        raise ValueError(f'"source" must be {" or ".join(Vote.Source.values)}')
    chosen, rejected = _answer(comparison, "chosen"), _answer(comparison, "rejected")
    side = extra.get("chosen_side", "a")
    if side not in ("a", "b") or (side == "b" and comparison.outcome != "win"):
        raise ValueError('"chosen_side" must be "a", or "b" where b won')
    taste, reasons = extra.get("taste", ""), extra.get("reasons", [])
    if not isinstance(taste, str) or len(taste) > 32:
        raise ValueError('"taste" must be a text of at most 32 characters')
    if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
        raise ValueError('"reasons" must be a list of texts')
    for text in (taste, comparison.voter, *reasons):
        _check_text(text)
    return _Line(
        pair_id=_uuid(extra["pair"], "pair") if "pair" in extra else _pair_id(comparison),
        visitor_id=_voter_id(comparison.voter),
        messages=comparison.messages,
        a=chosen if side == "a" else rejected,
        b=rejected if side == "a" else chosen,
        choice=side if comparison.outcome == "win" else comparison.outcome,
        source=comparison.source,
        taste=taste,
        reasons=[reason for reason in reasons if reason],
        time=_time(extra.get("time")),
    )


def _answer(comparison: Comparison, which: str) -> _Answer:
    def beside(key: str, default: Any) -> Any:
        both = comparison.extra.get(key, {})
        if not isinstance(both, dict):
            raise ValueError(f'"{key}" must be an object with "chosen" and "rejected"')
        return both.get(which, default)

    sha256, stage, sampling = beside("checkpoints", ""), beside("stages", SFT), beside("sampling", {})
    if not isinstance(sha256, str) or not re.fullmatch(r"(?:[0-9a-f]{64})?", sha256):
        raise ValueError('"checkpoints" must name SHA-256 hashes, of 64 hexadecimal digits in lower case')
    if stage not in CHAT_STAGES:
        raise ValueError(f'"stages" must be among {", ".join(CHAT_STAGES)}')
    if not isinstance(sampling, dict) or not all(map(_is_plain, sampling.values())):
        raise ValueError('"sampling" must hold an object of numbers')
    text = comparison.chosen if which == "chosen" else comparison.rejected
    known = any(sampling.values())  # all 0 is how a file says that none is
    return _Answer(text=text, sha256=sha256, stage=stage, sampling=sampling if known else {})


def _is_plain(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and abs(value) < LARGEST_SETTING)


def _check_text(text: str) -> None:
    """Refuse what no database keeps; half a surrogate pair does not come this far (trainer.data.preferences)."""
    if "\0" in text:
        raise ValueError("a text holds a NUL")


def _uuid(value: Any, name: str) -> uuid.UUID:
    try:
        return uuid.UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f'"{name}" must be a UUID') from None


def _pair_id(comparison: Comparison) -> uuid.UUID:
    """The same answers give the same pair, so that a file imported twice is not counted twice."""
    return uuid.uuid5(_IMPORTED, json.dumps([comparison.messages, comparison.chosen, comparison.rejected]))


def _voter_id(voter: str) -> uuid.UUID:
    try:
        return uuid.UUID(voter)
    except ValueError:
        return uuid.uuid5(_IMPORTED, f"voter {voter}")


def _time(value: Any) -> datetime:
    if value is None:
        return timezone.now()
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        time = None
    if time is None or time.tzinfo is None or not 1970 <= time.year <= 9000:
        raise ValueError('"time" must be an ISO 8601 time with its offset, such as 2026-01-31T12:00:00+00:00')
    return time


def _store(path: Path, lines: list[_Line], first_of_pair: dict[uuid.UUID, _Line]) -> tuple[int, int]:
    Visitor.objects.bulk_create(
        [Visitor(pk=pk) for pk in dict.fromkeys(line.visitor_id for line in lines)],
        ignore_conflicts=True,
        batch_size=_BATCH,
    )
    known = Pair.objects.select_related("a__checkpoint", "b__checkpoint").in_bulk(list(first_of_pair))
    for pair in known.values():
        line = first_of_pair[pair.pk]
        if (one_line_end(pair.a.text), one_line_end(pair.b.text)) != (line.a.text, line.b.text):
            raise ValueError(f"{path}: pair {pair.pk} is here already, with other answers. Nothing was imported.")
    pairs = _store_pairs([line for pk, line in first_of_pair.items() if pk not in known])
    votes: dict[tuple[uuid.UUID, uuid.UUID], _Line] = {}
    for line in lines:
        votes.setdefault((line.pair_id, line.visitor_id), line)
    here = set(Vote.objects.filter(pair__in=known).values_list("pair", "visitor"))
    new = [line for key, line in votes.items() if key not in here]
    of = known | {pair.pk: pair for pair in pairs}
    added = Vote.objects.bulk_create(
        [
            Vote(
                pair=of[line.pair_id],
                visitor_id=line.visitor_id,
                choice=line.choice,
                source=line.source,
                taste=line.taste,
                reasons=line.reasons,
                created_at=line.time,
                revealed_at=line.time,
            )
            for line in new
        ],
        batch_size=_BATCH,
    )
    tally.count_imported(pairs=pairs, votes=added)
    return len(new), len(lines) - len(new)


def _store_pairs(lines: Iterable[_Line]) -> list[Pair]:
    checkpoints: dict[str, Checkpoint] = {}
    generations: list[Generation] = []
    pairs: list[Pair] = []
    for line in lines:
        sides = []
        for answer in (line.a, line.b):
            if answer.sha256 not in checkpoints:
                checkpoints[answer.sha256] = _find_checkpoint(answer)
            sides.append(
                Generation(
                    checkpoint=checkpoints[answer.sha256],
                    messages=line.messages,
                    sampling=answer.sampling,
                    state=Generation.State.DONE,
                    text=answer.text,
                    finish_reason="end",
                    finished_at=line.time,
                )
            )
        generations += sides
        same = line.a.sha256 == line.b.sha256
        pairs.append(
            Pair(
                pk=line.pair_id,
                kind=Pair.Kind.SELF if same else Pair.Kind.VERSUS,
                state=Pair.State.READY,
                a=sides[0],
                b=sides[1],
                wanted_votes=0,  # it has its votes; nobody here is asked
                is_open=False,
            )
        )
    Generation.objects.bulk_create(generations, batch_size=_BATCH)
    return Pair.objects.bulk_create(pairs, batch_size=_BATCH)


def _find_checkpoint(answer: _Answer) -> Checkpoint:
    """This site's checkpoint with these weights, or a hidden row that stands for one it does not have."""
    here = Checkpoint.objects.filter(weights_sha256=answer.sha256).order_by("archived", "id").first()
    return here or Checkpoint.objects.create(
        stage=answer.stage,
        name=f"elsewhere {answer.sha256[:8] or 'unknown'}",
        directory=f"elsewhere/{answer.sha256 or 'unknown'}",
        weights_sha256=answer.sha256,
        parameters=0,
        bytes=0,
        archived=True,
    )

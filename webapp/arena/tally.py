"""Counts kept beside the votes, so that a page costs the same after a thousand votes and after a million.

The idea: nothing here is known that the rows do not say. Whoever creates or deletes a vote or a pair, in whatever way
Django sends a signal for, moves the counts in the same transaction; the few writers that change many rows at once
(`settle_pairs`, the import, `mark_learnt`, the merging of two visitors) say so by the functions below. `rebuild` counts
everything anew, `differences` says whether that would change anything (`manage.py rebuild_tally`).

A pair's votes are written by whoever holds the pair's row, and counts are always moved in one order (voters, agreement,
votes, duels, pairs, prompts; by key within each): two votes at once wait for one another for a moment, and never in a
circle.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, Final, TypeVar

from django.db import connection, transaction
from django.db.models import Case, CharField, Count, F, Model, OuterRef, Q, Subquery, Sum, Value, When
from django.db.models.signals import post_delete, post_save, pre_delete
from django.dispatch import receiver

from trainer.config import REWARD
from webapp.accounts.models import Visitor
from webapp.accounts.services import visitors_merged
from webapp.answers.models import Generation
from webapp.arena.models import AgreementTally, DuelTally, Look, Pair, PairTally, Prompt, Vote, VoterTally, VoteTally
from webapp.checkpoints.models import Checkpoint

SWAPPED: Final = {Vote.Choice.A: Vote.Choice.B, Vote.Choice.B: Vote.Choice.A}
BATCH: Final = 500
"""Rows or ids of one statement."""

Changes = Counter[str]
"""Key of a count -> by how much it moves."""
Item = TypeVar("Item")


# -- reading -------------------------------------------------------------------------------------


def training_votes(*, source: str = "all", new: bool = False, decisive: bool = False) -> int:
    """How many votes a reward model would learn from (VoteQuerySet.for_training), of one source or all.

    `new`: only those the newest reward model has not learnt from; `decisive`: only those that prefer one answer.
    """
    counts = VoteTally.objects.filter(kind=Pair.Kind.SELF, look=Look.FIRST).exclude(choice=Vote.Choice.SKIP)
    if source != "all":
        counts = counts.filter(source=source)
    if new and (newest := Checkpoint.objects.current(REWARD)):
        counts = counts.exclude(learnt_by=newest)
    if decisive:
        counts = counts.filter(choice__in=SWAPPED)
    return counts.aggregate(votes=Sum("count"))["votes"] or 0


def duels() -> list[tuple[int, int, str, str, int]]:
    """(A, B, choice, source, votes) of the comparisons of two checkpoints that people may see."""
    counts = VoteTally.objects.filter(kind=Pair.Kind.VERSUS, look=Look.FIRST, count__gt=0)
    listed = counts.exclude(choice=Vote.Choice.SKIP).filter(a__archived=False, b__archived=False)
    summed = listed.values_list("a", "b", "choice", "source").annotate(Sum("count"))
    return list(summed.order_by("a", "b", "choice", "source"))


def duels_by_prompt() -> Iterator[tuple[int, int, str, str, str, int]]:
    """(A, B, choice, source, prompt, votes), as `duels`, told apart by prompt: many rows, read one after another."""
    counts = DuelTally.objects.filter(count__gt=0, a__archived=False, b__archived=False)
    return counts.values_list("a", "b", "choice", "source", "prompt", "count").iterator(chunk_size=2_000)


def human_choices() -> dict[str, int]:
    """How many comparisons by people there are of every choice."""
    counts = VoteTally.objects.filter(source=Vote.Source.HUMAN, look=Look.FIRST, count__gt=0)
    counts = counts.exclude(choice=Vote.Choice.SKIP)
    return dict(counts.values_list("choice").annotate(Sum("count")))


def comparisons() -> int:
    """How many votes an export holds (VoteQuerySet.comparisons)."""
    counts = VoteTally.objects.filter(look=Look.FIRST).exclude(choice=Vote.Choice.SKIP)
    return counts.aggregate(votes=Sum("count"))["votes"] or 0


def agreements() -> dict[tuple[str, ...], int]:
    """How often several people judged a pair in one way: their choices, sorted -> how many pairs."""
    counts = AgreementTally.objects.filter(count__gt=0).order_by("key")
    return {read_agreement(key): count for key, count in counts.values_list("key", "count")}


def voters() -> int:
    """How many people have compared anything."""
    return VoterTally.objects.filter(comparisons__gt=0).count()


def looks() -> Counter[tuple[float, int]]:
    """How many voters judged so many of so many pairs alike that they saw twice."""
    counts = VoterTally.objects.filter(looked_twice__gt=0).values_list("alike", "looked_twice").annotate(Count("pk"))
    return Counter({(float(alike), twice): voters for alike, twice, voters in counts})


def voter(visitor: Visitor) -> VoterTally:
    """What one person has voted."""
    return VoterTally.objects.filter(visitor=visitor).first() or VoterTally(visitor=visitor)


def pairs_of_couples() -> Counter[frozenset[int]]:
    """How many pairs were ever made of two checkpoints."""
    counts = PairTally.objects.filter(kind=Pair.Kind.VERSUS).values_list("a", "b").annotate(Sum("count"))
    made: Counter[frozenset[int]] = Counter()
    for a, b, count in counts:
        made[frozenset((a, b))] += count
    return made


# -- keys ----------------------------------------------------------------------------------------


def write_agreement(choices: Iterable[str]) -> str:
    """ "a2 tie1"; empty for fewer than two votes: one person neither agrees nor disagrees."""
    counted = Counter(choices)
    return " ".join(f"{choice}{count}" for choice, count in sorted(counted.items())) if counted.total() > 1 else ""


def read_agreement(key: str) -> tuple[str, ...]:
    found = re.findall(r"([a-z_]+)(\d+)", key)
    return tuple(choice for choice, count in found for _ in range(int(count)))


def _look(state: str, repeat_of: Hashable) -> str:
    if repeat_of is not None:
        return Look.SECOND
    return Look.FIRST if state == Pair.State.READY else Look.UNFIT


_LOOK: Final = Case(
    When(pair__repeat_of__isnull=False, then=Value(Look.SECOND)),
    When(pair__state=Pair.State.READY, then=Value(Look.FIRST)),
    default=Value(Look.UNFIT),
    output_field=CharField(),
)
"""`_look`, for the database."""


def _prompt_key(prompt_id: int | None, question: Callable[[], str]) -> str:
    """What hangs together: a prompt's pairs, and where there is no prompt those with the same question."""
    return str(prompt_id) if prompt_id else f"q{hashlib.sha256(question().encode()).hexdigest()[:40]}"


def _join(*parts: Any) -> str:
    return ":".join("" if part is None else str(part) for part in parts)


def _columns(model: type[Model], key: str) -> dict[str, Any]:
    """What a count's row says beside its key."""
    parts = key.split(":")
    names: tuple[str, ...]
    if model is VoteTally:
        names = ("kind", "a_id", "b_id", "choice", "source", "look", "learnt_by_id")
    elif model is DuelTally:
        names = ("a_id", "b_id", "prompt", "choice", "source")
    elif model is PairTally:
        names = ("kind", "state", "a_id", "b_id")
    else:
        return {}
    columns = zip(names, parts, strict=True)
    return {name: (int(part) if part else None) if name.endswith("_id") else part for name, part in columns}


# -- moving counts -------------------------------------------------------------------------------


def _move(model: Any, changes: Mapping[str, int]) -> None:
    for key in sorted(changes):
        if not (by := changes[key]):
            continue
        row = model.objects.filter(key=key)
        if not row.update(count=F("count") + by):
            model.objects.bulk_create([model(key=key, count=0, **_columns(model, key))], ignore_conflicts=True)
            row.update(count=F("count") + by)


def _checkpoints_of(pair: Pair) -> tuple[int, int]:
    """Whose answers A and B are; without their texts, where those are not at hand."""
    if Pair.a.is_cached(pair) and Pair.b.is_cached(pair):
        return pair.a.checkpoint_id, pair.b.checkpoint_id
    of = dict(Generation.objects.filter(pk__in=(pair.a_id, pair.b_id)).values_list("pk", "checkpoint_id"))
    return of[pair.a_id], of[pair.b_id]


def _changes_of(vote: Vote, *, state: str = "") -> tuple[Changes, Changes]:
    """What one vote adds to VoteTally and to DuelTally, were its pair in `state` (its own, if not said)."""
    pair = vote.pair
    a, b = _checkpoints_of(pair)
    look = _look(state or pair.state, pair.repeat_of_id)
    votes = Counter({_join(pair.kind, a, b, vote.choice, vote.source, look, vote.learnt_by_id): 1})
    if pair.kind != Pair.Kind.VERSUS or look != Look.FIRST or not vote.is_decided:
        return votes, Counter()
    prompt = _prompt_key(pair.prompt_id, lambda: pair.a.prompt)
    return votes, Counter({_join(a, b, prompt, vote.choice, vote.source): 1})


def _negative(changes: Changes) -> Changes:
    return Counter({key: -by for key, by in changes.items()})


@transaction.atomic(savepoint=False)
def _count_pair(pair: Pair, by: int) -> None:
    _move(PairTally, {_join(pair.kind, pair.state, *_checkpoints_of(pair)): by})
    if pair.prompt_id:
        Prompt.objects.filter(pk=pair.prompt_id).update(pairs_made=F("pairs_made") + by)


@receiver(post_save, sender=Pair)
def _pair_was_made(instance: Pair, created: bool, raw: bool, **_: Any) -> None:
    if created and not raw:
        _count_pair(instance, 1)


@receiver(post_delete, sender=Pair)
def _pair_was_deleted(instance: Pair, **_: Any) -> None:
    _count_pair(instance, -1)
    _move(AgreementTally, {instance.agreement: -1} if instance.agreement else {})


@receiver(post_save, sender=Vote)
@transaction.atomic(savepoint=False)
def _vote_was_cast(instance: Vote, created: bool, raw: bool, **_: Any) -> None:
    if not created or raw:
        return
    votes, duels = _changes_of(instance)
    if instance.source == Vote.Source.HUMAN and instance.is_decided:
        _count_for_voter(instance)
        if Vote.objects.human().decided().filter(pair=instance.pair_id).exclude(pk=instance.pk).exists():
            recount_agreement([instance.pair_id])
    _move(VoteTally, votes)
    _move(DuelTally, duels)


@receiver(post_delete, sender=Vote)
@transaction.atomic(savepoint=False)
def _vote_was_deleted(instance: Vote, **_: Any) -> None:
    votes, duels = _changes_of(instance)
    if instance.source == Vote.Source.HUMAN and instance.is_decided:
        recount_voters([instance.visitor_id])
        recount_agreement([instance.pair_id])
    _move(VoteTally, _negative(votes))
    _move(DuelTally, _negative(duels))


@receiver(pre_delete, sender=Checkpoint)
@transaction.atomic
def _reward_model_is_deleted(instance: Checkpoint, **_: Any) -> None:
    """Its votes will be learnt by none."""
    changes: Changes = Counter()
    for key, count in VoteTally.objects.filter(learnt_by=instance).values_list("key", "count"):
        changes[key] -= count
        changes[_join(*key.split(":")[:-1], None)] += count
    _move(VoteTally, changes)


@receiver(visitors_merged)
def _visitors_were_merged(visitor: Visitor, **_: Any) -> None:
    recount_voters([visitor.pk])


def settle_pair(pair: Pair, *, state: str) -> bool:
    """Make a pending pair ready, or reject it, with what was voted on it in its chat; False if it is settled."""
    with transaction.atomic():
        if not Pair.objects.filter(pk=pair.pk, state=Pair.State.PENDING).update(state=state):
            return False
        votes, duels = Counter[str](), Counter[str]()
        cast = list(pair.votes.all()) if pair.from_chat else []
        for vote in cast:
            vote.pair = pair
            before, after = (_changes_of(vote, state=one) for one in (Pair.State.PENDING, state))
            votes.update(after[0])
            votes.subtract(before[0])
            duels.update(after[1])
        recount_voters([vote.visitor_id for vote in cast])
        if cast:
            recount_agreement([pair.pk])
        a, b = _checkpoints_of(pair)
        _move(VoteTally, votes)
        _move(DuelTally, duels)
        _move(PairTally, {_join(pair.kind, one, a, b): by for one, by in ((Pair.State.PENDING, -1), (state, 1))})
    return True


def count_imported(*, pairs: Collection[Pair], votes: Collection[Vote]) -> None:
    """Count rows that were inserted in bulk, at the end of their transaction. Every vote carries its pair."""
    made: Changes = Counter()
    for pair in pairs:
        made[_join(pair.kind, pair.state, *_checkpoints_of(pair))] += 1
    counted, fought = Counter[str](), Counter[str]()
    for vote in votes:
        one, other = _changes_of(vote)
        counted.update(one)
        fought.update(other)
    human = [vote for vote in votes if vote.source == Vote.Source.HUMAN]
    recount_voters({vote.visitor_id for vote in human})
    recount_agreement({vote.pair_id for vote in human})
    _move(VoteTally, counted)
    _move(DuelTally, fought)
    _move(PairTally, made)


@transaction.atomic
def mark_votes_learnt(ids: Iterable[int], *, by: Checkpoint) -> None:
    """Note which reward model learnt from these votes."""
    changes: Changes = Counter()
    for batch in _batches(ids):
        votes = Vote.objects.filter(pk__in=batch)
        list(votes.select_for_update().order_by("pk").values_list("pk"))  # against an undo meanwhile
        for key, count in _keys(votes.exclude(learnt_by=by)):
            changes[key] -= count
            changes[_join(*key.split(":")[:-1], by.pk)] += count
        votes.update(learnt_by=by)
    _move(VoteTally, changes)


def _keys(votes: Any) -> Iterator[tuple[str, int]]:
    """Every key of VoteTally these votes count under, and how many do."""
    fields = ("pair__kind", "pair__a__checkpoint", "pair__b__checkpoint", "choice", "source", "look", "learnt_by")
    for *parts, count in votes.order_by().annotate(look=_LOOK).values_list(*fields).annotate(Count("pk")):
        yield _join(*parts), count


# -- voters and agreement ------------------------------------------------------------------------


def _count_for_voter(vote: Vote) -> None:
    """Add a person's decided vote to what they have voted."""
    pair = vote.pair
    more = {
        "decided": 1,
        "first_looks": pair.repeat_of_id is None and not pair.from_chat,
        "comparisons": _look(pair.state, pair.repeat_of_id) == Look.FIRST,
    }
    if pair.repeat_of_id:
        before = Vote.objects.decided().filter(pair=pair.repeat_of_id, visitor=vote.visitor_id)
        first = before.values_list("choice", flat=True).first()
        more |= {"looked_twice": first is not None, "alike": first is not None and _is_alike(first, vote.choice)}
    own = VoterTally.objects.filter(visitor=vote.visitor_id)
    if not own.update(**{name: F(name) + int(by) for name, by in more.items() if by}):
        recount_voters([vote.visitor_id])


def _is_alike(first: str, second: str) -> bool:
    return second == SWAPPED.get(Vote.Choice(first), first)


VOTER_FIELDS: Final = ("decided", "first_looks", "comparisons", "looked_twice", "alike")


def recount_voters(ids: Iterable[uuid.UUID]) -> None:
    """Count what these people have voted anew."""
    for batch in _batches(sorted(set(ids))):
        counted = _count_voters(Vote.objects.filter(visitor__in=batch))
        VoterTally.objects.filter(visitor__in=batch).exclude(visitor__in=list(counted)).delete()
        _keep_voters(counted)


def _keep_voters(counted: Mapping[uuid.UUID, Sequence[int]]) -> None:
    rows = [
        VoterTally(visitor_id=visitor, **dict(zip(VOTER_FIELDS, numbers, strict=True)))
        for visitor, numbers in sorted(counted.items())
    ]
    VoterTally.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["visitor"], update_fields=VOTER_FIELDS, batch_size=BATCH
    )


def _count_voters(votes: Any) -> dict[uuid.UUID, list[int]]:
    """Visitor -> VOTER_FIELDS, of everyone who decided one of these votes."""
    human = votes.filter(source=Vote.Source.HUMAN).exclude(choice=Vote.Choice.SKIP).order_by()
    first_look = Q(pair__repeat_of=None)
    counts = human.values_list("visitor").annotate(
        decided=Count("pk"),
        first_looks=Count("pk", filter=first_look & Q(pair__from_chat=False)),
        comparisons=Count("pk", filter=first_look & Q(pair__state=Pair.State.READY)),
    )
    found = {visitor: [*numbers, 0, 0] for visitor, *numbers in counts if visitor}
    first = Vote.objects.decided().filter(pair=OuterRef("pair__repeat_of"), visitor=OuterRef("visitor"))
    second = human.filter(pair__repeat_of__isnull=False).annotate(before=Subquery(first.values("choice")[:1]))
    for visitor, before, again in second.values_list("visitor", "before", "choice").iterator(chunk_size=2_000):
        if visitor and before is not None:
            found[visitor][3] += 1
            found[visitor][4] += _is_alike(before, again)
    return found


def recount_agreement(pairs: Iterable[uuid.UUID]) -> None:
    """Count anew how several people judged these pairs."""
    changes: Changes = Counter()
    for batch in _batches(sorted(set(pairs))):
        comparisons = Vote.objects.human().comparisons().filter(pair__in=batch).order_by()
        choices: defaultdict[uuid.UUID, list[str]] = defaultdict(list)
        for pair, choice in comparisons.values_list("pair", "choice"):
            choices[pair].append(choice)
        # A pair with fewer than two votes, now as before, has nothing to change.
        kept = dict(Pair.objects.filter(pk__in=batch).values_list("pk", "agreement"))
        for pair, before in sorted(kept.items()):
            if (after := write_agreement(choices[pair])) != before:
                Pair.objects.filter(pk=pair).update(agreement=after)
                changes.update({after: 1} if after else {})
                changes.subtract({before: 1} if before else {})
    _move(AgreementTally, changes)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    remaining = iter(items)
    while batch := list(islice(remaining, BATCH)):
        yield batch


# -- counting anew -------------------------------------------------------------------------------

Counts = dict[str, dict[Hashable, Any]]
"""Table -> key -> count (of a voter: five counts); what is zero is left out."""

_TABLES: Final = {"votes": VoteTally, "duels": DuelTally, "agreement": AgreementTally, "pairs": PairTally}


def count_rows() -> Counts:
    """Every count, from the rows it is of."""
    duels, agreement, pairs = Counter[str](), Counter[str](), Counter[str]()
    comparisons = Vote.objects.comparisons().order_by()
    fought = comparisons.filter(pair__kind=Pair.Kind.VERSUS)
    fields = ("pair__a__checkpoint", "pair__b__checkpoint", "pair__prompt", "choice", "source")
    for a, b, prompt, choice, source, count in (
        fought.exclude(pair__prompt=None).values_list(*fields).annotate(Count("pk")).iterator(chunk_size=2_000)
    ):
        duels[_join(a, b, prompt, choice, source)] += count
    for vote in fought.filter(pair__prompt=None).select_related("pair__a", "pair__b").iterator(chunk_size=BATCH):
        duels.update(_changes_of(vote)[1])
    of_pairs = comparisons.human().order_by("pair").values_list("pair", "choice")
    for _, choices in groupby(of_pairs.iterator(chunk_size=2_000), key=itemgetter(0)):
        if key := write_agreement(choice for _, choice in choices):
            agreement[key] += 1
    for *parts, count in Pair.objects.values_list("kind", "state", "a__checkpoint", "b__checkpoint").annotate(
        Count("pk")
    ):
        pairs[_join(*parts)] = count
    made = Pair.objects.exclude(prompt=None).values_list("prompt").annotate(Count("pk"))
    return {
        "votes": dict(_keys(Vote.objects.all())),
        "duels": dict(duels),
        "agreement": dict(agreement),
        "pairs": dict(pairs),
        "prompts": dict(made),
        "voters": {visitor: tuple(numbers) for visitor, numbers in _count_voters(Vote.objects.all()).items()},
    }


def kept_counts() -> Counts:
    """Every count, as it is kept."""
    kept: Counts = {
        name: dict(table.objects.exclude(count=0).values_list("key", "count"))  # type: ignore[attr-defined]
        for name, table in _TABLES.items()
    }
    kept["prompts"] = dict(Prompt.objects.exclude(pairs_made=0).values_list("pk", "pairs_made"))
    voters = VoterTally.objects.exclude(**dict.fromkeys(VOTER_FIELDS, 0)).values_list("visitor", *VOTER_FIELDS)
    kept["voters"] = {visitor: tuple(numbers) for visitor, *numbers in voters}
    return kept


def differences() -> list[str]:
    """What `rebuild` would change, a line each."""
    counted, kept = count_rows(), kept_counts()
    return [
        f"{name}: {key} is {counted[name].get(key, 0)}, kept as {kept[name].get(key, 0)}"
        for name in counted
        for key in sorted(counted[name].keys() | kept[name].keys(), key=str)
        if counted[name].get(key, 0) != kept[name].get(key, 0)
    ]


@transaction.atomic
def rebuild() -> None:
    """Count everything anew. Votes wait meanwhile."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            tables = ", ".join(connection.ops.quote_name(model._meta.db_table) for model in (Vote, Pair))
            cursor.execute(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE")
    counted = count_rows()
    for name, table in _TABLES.items():
        table.objects.all().delete()  # type: ignore[attr-defined]
        rows = (table(key=key, count=count, **_columns(table, str(key))) for key, count in counted[name].items())
        for batch in _batches(rows):
            table.objects.bulk_create(batch)  # type: ignore[attr-defined]
    VoterTally.objects.all().delete()
    _keep_voters(counted["voters"])  # type: ignore[arg-type]
    Prompt.objects.exclude(pairs_made=0).update(pairs_made=0)
    for prompt, made in counted["prompts"].items():
        Prompt.objects.filter(pk=int(str(prompt))).update(pairs_made=made)
    _keep_agreement()


def _keep_agreement() -> None:
    """Write on every pair what it is counted as."""
    Pair.objects.exclude(agreement="").update(agreement="")
    found: list[Pair] = []
    votes = Vote.objects.human().comparisons().order_by("pair").values_list("pair", "choice")
    for pair, choices in groupby(votes.iterator(chunk_size=2_000), key=itemgetter(0)):
        if key := write_agreement(choice for _, choice in choices):
            found.append(Pair(pk=pair, agreement=key))
    for batch in _batches(found):
        Pair.objects.bulk_update(batch, ["agreement"])

"""Counts the votes and pairs there are. What the counts mean stands in webapp/arena/tally.py; this is as it was then."""

import hashlib
from collections import Counter, defaultdict
from itertools import groupby, islice

from django.db import migrations
from django.db.models import Count, OuterRef, Q, Subquery

BATCH = 500
SWAPPED = {"a": "b", "b": "a"}


def join(*parts):
    return ":".join("" if part is None else str(part) for part in parts)


def keep(model, rows):
    rows = iter(rows)
    while batch := list(islice(rows, BATCH)):
        model.objects.bulk_create(batch)


def count_votes(apps, schema_editor):
    Vote = apps.get_model("arena", "Vote")
    VoteTally = apps.get_model("arena", "VoteTally")
    fields = ("pair__kind", "pair__a__checkpoint", "pair__b__checkpoint", "choice", "source")
    looks = {
        "second": Q(pair__repeat_of__isnull=False),
        "first": Q(pair__repeat_of=None, pair__state="ready"),
        "unfit": Q(pair__repeat_of=None) & ~Q(pair__state="ready"),
    }
    for look, condition in looks.items():
        counted = Vote.objects.filter(condition).order_by().values_list(*fields, "learnt_by").annotate(Count("pk"))
        keep(
            VoteTally,
            (
                VoteTally(
                    key=join(kind, a, b, choice, source, look, learnt_by),
                    kind=kind, a_id=a, b_id=b, choice=choice, source=source, look=look, learnt_by_id=learnt_by,
                    count=count,
                )
                for kind, a, b, choice, source, learnt_by, count in counted.iterator(chunk_size=BATCH)
            ),
        )


def comparisons(apps):
    votes = apps.get_model("arena", "Vote").objects.exclude(choice="skip").order_by()
    return votes.filter(pair__state="ready", pair__repeat_of=None)


def count_duels(apps, schema_editor):
    DuelTally = apps.get_model("arena", "DuelTally")
    votes = comparisons(apps).filter(pair__kind="versus")
    fields = ("pair__a__checkpoint", "pair__b__checkpoint", "choice", "source")
    counts = Counter()
    known = votes.exclude(pair__prompt=None).values_list(*fields, "pair__prompt").annotate(Count("pk"))
    for a, b, choice, source, prompt, count in known.iterator(chunk_size=BATCH):
        counts[a, b, str(prompt), choice, source] += count
    for a, b, choice, source, messages in votes.filter(pair__prompt=None).values_list(
        *fields, "pair__a__messages"
    ).iterator(chunk_size=BATCH):
        question = next((str(m["content"]) for m in reversed(messages) if m["role"] == "user"), "")
        counts[a, b, f"q{hashlib.sha256(question.encode()).hexdigest()[:40]}", choice, source] += 1
    keep(
        DuelTally,
        (
            DuelTally(
                key=join(a, b, prompt, choice, source),
                a_id=a, b_id=b, prompt=prompt, choice=choice, source=source, count=count,
            )
            for (a, b, prompt, choice, source), count in counts.items()
        ),
    )


def count_agreement(apps, schema_editor):
    Pair, AgreementTally = apps.get_model("arena", "Pair"), apps.get_model("arena", "AgreementTally")
    votes = comparisons(apps).filter(source="human").order_by("pair").values_list("pair", "choice")
    counts, waiting = Counter(), []
    for pair, cast in groupby(votes.iterator(chunk_size=2000), key=lambda row: row[0]):
        choices = Counter(choice for _, choice in cast)
        if choices.total() > 1:
            key = " ".join(f"{choice}{count}" for choice, count in sorted(choices.items()))
            counts[key] += 1
            waiting.append(Pair(pk=pair, agreement=key))
    while waiting:
        Pair.objects.bulk_update(waiting[:BATCH], ["agreement"])
        del waiting[:BATCH]
    keep(AgreementTally, (AgreementTally(key=key, count=count) for key, count in counts.items()))


def count_pairs(apps, schema_editor):
    Pair, PairTally = apps.get_model("arena", "Pair"), apps.get_model("arena", "PairTally")
    Prompt = apps.get_model("arena", "Prompt")
    counted = Pair.objects.values_list("kind", "state", "a__checkpoint", "b__checkpoint").annotate(Count("pk"))
    keep(
        PairTally,
        (
            PairTally(key=join(kind, state, a, b), kind=kind, state=state, a_id=a, b_id=b, count=count)
            for kind, state, a, b, count in counted
        ),
    )
    for prompt, count in Pair.objects.exclude(prompt=None).values_list("prompt").annotate(Count("pk")):
        Prompt.objects.filter(pk=prompt).update(pairs_made=count)


def count_voters(apps, schema_editor):
    Vote, VoterTally = apps.get_model("arena", "Vote"), apps.get_model("arena", "VoterTally")
    votes = Vote.objects.filter(source="human").exclude(choice="skip").order_by()
    twice, alike = defaultdict(int), defaultdict(int)
    first = Vote.objects.exclude(choice="skip").filter(pair=OuterRef("pair__repeat_of"), visitor=OuterRef("visitor"))
    second = votes.filter(pair__repeat_of__isnull=False).annotate(before=Subquery(first.values("choice")[:1]))
    for visitor, before, again in second.values_list("visitor", "before", "choice").iterator(chunk_size=2000):
        if before is not None:
            twice[visitor] += 1
            alike[visitor] += again == SWAPPED.get(before, before)
    counted = votes.values_list("visitor").annotate(
        decided=Count("pk"),
        first_looks=Count("pk", filter=Q(pair__repeat_of=None, pair__from_chat=False)),
        comparisons=Count("pk", filter=Q(pair__repeat_of=None, pair__state="ready")),
    )
    keep(
        VoterTally,
        (
            VoterTally(
                visitor_id=visitor, decided=decided, first_looks=first_looks, comparisons=compared,
                looked_twice=twice[visitor], alike=alike[visitor],
            )
            for visitor, decided, first_looks, compared in counted.iterator(chunk_size=BATCH)
        ),
    )


class Migration(migrations.Migration):
    dependencies = [("arena", "0005_tally_of_votes"), ("answers", "0003_answers_by_time")]

    operations = [
        migrations.RunPython(function, migrations.RunPython.noop)
        for function in (count_votes, count_duels, count_agreement, count_pairs, count_voters)
    ]

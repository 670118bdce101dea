"""`bench_scale` on the suite's own database, small: it must fill and measure what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import Count

from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.arena import tally
from webapp.arena.models import Pair, Vote
from webapp.stages.management import scale_bench
from webapp.stages.management.commands import bench_scale

pytestmark = pytest.mark.django_db


def test_the_scratch_database_looks_like_a_busy_site() -> None:
    scene = scale_bench.make_scene()
    scale_bench.fill(scene, votes=300)
    scale_bench.fill(scene, votes=900)
    assert Vote.objects.count() in range(900, 906)
    for look in (
        Vote.objects.for_training(),
        Vote.objects.duels(),
        Vote.objects.human().repeats(),
        Vote.objects.filter(source="simulated"),
        Vote.objects.filter(pair__from_chat=True),
        Vote.objects.values("pair").annotate(n=Count("pk")).filter(n__gt=2),
        Vote.objects.exclude(learnt_by=None),
    ):
        assert look.count() > 10
    assert Pair.objects.of_stock().unseen().count() == scale_bench.STOCK
    assert scene.reader.votes.count() >= 100
    assert tally.differences() == []


@pytest.mark.skipif(connection.vendor != "postgresql", reason="about the statistics of PostgreSQL's planner")
def test_filling_tells_the_planner_how_many_rows_there_are() -> None:
    """Before that the next pair was looked for row by row, for minutes, when the tables had been small a moment ago."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pg_class SET reltuples = 1 WHERE relname IN ('arena_pair', 'answers_generation')")
        scale_bench.fill(scale_bench.make_scene(), votes=60)
        cursor.execute("SELECT relname, reltuples FROM pg_class WHERE relname IN ('arena_pair', 'answers_generation')")
        known = dict(cursor.fetchall())
    assert known == {"arena_pair": Pair.objects.count(), "answers_generation": Generation.objects.count()}


def test_it_measures_every_page_at_every_size(tmp_path: Path, capsys: Any, enqueued: Any) -> None:
    call_command(
        "bench_scale", "--inside", "--votes", "60", "120", "--repeats", "1", "--no-export",
        "--json", str(tmp_path / "scale.json"),
    )  # fmt: skip
    figures = json.loads((tmp_path / "scale.json").read_text())["votes"]
    assert list(figures) == ["60", "120"]
    shown = capsys.readouterr().out
    for name in ("/", "/vote/ as a voter", "/leaderboard/", "/stages/reward/", "admin: votes", "asking for four pairs"):
        assert figures["120"][name]["p50"] > 0
        assert name in shown


def test_it_leaves_a_database_with_people_in_it_alone() -> None:
    Visitor.objects.create()
    with pytest.raises(CommandError, match="somebody's"):
        call_command("bench_scale", "--inside", "--votes", "60")


def test_the_table_says_how_much_more_the_last_size_costs() -> None:
    taken = bench_scale.Taken
    text = bench_scale.table({10: {"/": [taken(2, 1)] * 3}, 20: {"/": [taken(3, 2)] * 3}})
    assert text.splitlines()[1].split()[-2:] == ["1.50", "(2.00)"]

"""`manage.py bench_scale`: what the site costs with a thousand votes, and what with a million.

Fills a database of its own (SQLite in a scratch directory; where DATABASE_URL names a PostgreSQL server, a new
database on it, dropped at the end) and measures in this process, without a network: every public page, the staff's
lists, a turn of the chore that makes pairs, a vote, and an export in a process of its own. The site of this DATA_DIR
is not touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from django.conf import settings
from django.core.cache import cache
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.test import Client
from django.utils import timezone

from trainer.runtime.measurements import percentile
from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.arena import standings, stock
from webapp.arena.models import Pair
from webapp.ops import embedded_redis
from webapp.stages.catalog import CATALOG
from webapp.stages.management import scale_bench
from webapp.stages.management.scale_bench import Scene
from webapp.stages.management.site_bench import VOTE_FORM, environment

VOTES: Final = (1_000, 100_000, 1_000_000)
REPEATS: Final = 20
LONGEST_S: Final = 30.0
"""What takes longer in all is measured fewer times."""
HTMX: Final = {"HX-Request": "true"}


class Taken(NamedTuple):
    """Milliseconds one repeat took, and those of them this process computed."""

    wall: float
    cpu: float


Measured = dict[str, list[Taken]]
"""Name -> every repeat."""


class Command(BaseCommand):
    help = "Measure pages, votes, pairs and an export of a scratch database that holds so many votes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--votes", type=int, nargs="+", default=list(VOTES), metavar="N", help="default: %(default)s"
        )
        parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
        parser.add_argument("--repeats", type=int, default=REPEATS, help="default: %(default)s")
        parser.add_argument("--no-export", action="store_true", help="leave the export out")
        parser.add_argument("--inside", action="store_true", help="(used by the command itself)")

    def handle(self, *args: Any, votes: list[int], repeats: int, inside: bool, **options: Any) -> None:
        if min(votes) < 1 or repeats < 1:
            raise CommandError("--votes and --repeats must be at least 1.")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # either way the scratch database is removed
        try:
            if inside:
                self._measure(sorted(set(votes)), repeats, options["json"], export=not options["no_export"])
            else:
                self._start_inside()
        except KeyboardInterrupt:
            raise CommandError("Interrupted. The scratch database is removed.", returncode=130) from None

    def _start_inside(self) -> None:
        """This command again, in an environment whose database, Redis and DATA_DIR are scratch ones."""
        with (
            tempfile.TemporaryDirectory(prefix="stagecraft-scale-") as scratch,
            embedded_redis.running() as redis_url,
            _scratch_database() as database_url,
        ):
            env = {**environment(Path(scratch)), "REDIS_URL": redis_url, "STAGECRAFT_LOCAL": "1", **database_url}
            ran = subprocess.run([sys.executable, *sys.argv, "--inside"], env=env, cwd=Path.cwd(), check=False)
        if ran.returncode:
            raise CommandError("It could not be measured; what went wrong stands above.", returncode=ran.returncode)

    def _measure(self, sizes: list[int], repeats: int, file: Path | None, *, export: bool) -> None:
        call_command("migrate", verbosity=0)
        if Visitor.objects.exists():
            raise CommandError("This database is somebody's: --inside is for the command itself.")
        scene = scale_bench.make_scene()
        found: dict[int, Measured] = {}
        for size in sizes:
            begun = time.perf_counter()
            scale_bench.fill(scene, votes=size)
            self.stderr.write(f"{size:,} votes written in {time.perf_counter() - begun:.0f} s; measuring …")
            found[size] = measure(scene, repeats=repeats)
            if export:
                found[size] |= measure_export()
            if file:  # after every size: the next one may take longer than anybody waits
                write_figures(file, found)
        self.stdout.write(table(found))


@contextlib.contextmanager
def _scratch_database() -> Iterator[dict[str, str]]:
    """DATABASE_URL of a new database on this site's PostgreSQL server; nothing where the site is on SQLite."""
    if connection.vendor != "postgresql":
        yield {}
        return
    name = f"stagecraft_scale_{uuid.uuid4().hex[:12]}"
    quoted = connection.ops.quote_name(name)
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {quoted}")
    try:
        yield {"DATABASE_URL": urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}").geturl()}
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {quoted} WITH (FORCE)")


# -- measuring -------------------------------------------------------------------------------------


def measure(scene: Scene, *, repeats: int) -> Measured:
    """Milliseconds of everything but the export."""
    pages = {name: _page(client, path, headers) for name, (client, path, headers) in _pages(scene).items()}
    ranked: list[Taken] = []
    with clocked(ranked):
        standings.keep_ranking()
    return {
        **{name: _repeat(page, repeats) for name, page in pages.items()},
        "/leaderboard/ after a vote": _repeat(_page(Client(), "/leaderboard/", {}), repeats, before=cache.clear),
        **_pairs(repeats),
        **_votes(scene, repeats),
        "the ranking, made in the background": ranked,
    }


def _pages(scene: Scene) -> dict[str, tuple[Client, str, dict[str, str]]]:
    """Every public page, and the staff's lists of what grows: name -> (browser, path, headers)."""
    anyone, reader, owner = Client(), browser(scene.reader), Client()
    owner.force_login(scene.owner, backend="django.contrib.auth.backends.ModelBackend")
    chat = scene.reader.conversations.first()
    return {
        "/": (anyone, "/", {}),
        "/ polled": (anyone, "/", HTMX),
        **{f"/stages/{slug}/": (anyone, f"/stages/{slug}/", {}) for slug in CATALOG},
        "/compare/": (anyone, "/compare/", {}),
        "/chat/": (reader, "/chat/", {}),
        **({"/chat/<uuid>/": (reader, f"/chat/{chat.pk}/", {})} if chat else {}),
        "/vote/ as a newcomer": (anyone, "/vote/", {}),
        "/vote/ as a voter": (reader, "/vote/", {}),
        "/leaderboard/": (anyone, "/leaderboard/", {}),
        "/runs/": (anyone, "/runs/", {}),
        "/healthz": (anyone, "/healthz", {}),
        "/metrics": (owner, "/metrics", {}),
        **{
            f"admin: {name}": (owner, f"/admin/{path}/", {})
            for name, path in {
                "prompts": "arena/prompt",
                "pairs": "arena/pair",
                "votes": "arena/vote",
                "answers": "answers/generation",
                "start a reward run": "training/trainingrun/add",
            }.items()
        },
    }


def browser(visitor: Visitor) -> Client:
    """A browser that is known as this visitor."""
    client = Client()
    session = client.session
    session["visitor_id"] = str(visitor.pk)
    session.save()
    return client


def _page(client: Client, path: str, headers: Mapping[str, str]) -> Callable[[], None]:
    def get() -> None:
        response = client.get(path, headers={"Host": "localhost", **headers})
        if response.status_code not in (200, 204, 304):
            raise CommandError(f"{path} answered {response.status_code}.")

    return get


@contextlib.contextmanager
def clocked(taken: list[Taken]) -> Iterator[None]:
    """Add what the block took."""
    begun, cpu = time.perf_counter(), time.process_time()
    yield
    taken.append(Taken(1000 * (time.perf_counter() - begun), 1000 * (time.process_time() - cpu)))


def _repeat(work: Callable[[], None], repeats: int, *, before: Callable[[], object] = lambda: None) -> list[Taken]:
    """What `work` took each time, `before` not counted; the first two times fill caches and do not count either."""
    taken: list[Taken] = []
    deadline = time.perf_counter() + LONGEST_S
    while len(taken) < 2 + repeats and (len(taken) < 5 or time.perf_counter() < deadline):
        before()
        with clocked(taken):
            work()
    return taken[2:]


def _pairs(repeats: int) -> Measured:
    """A chore's turn that asks for four pairs, and the one that finds their answers written."""
    asked: list[Taken] = []
    settled: list[Taken] = []
    for number in range(repeats):
        unseen = Pair.objects.of_stock().unseen().filter(state="ready").count()
        with clocked(asked):
            made = stock.prepare_pairs(count=unseen + 4)
        for side, answer in enumerate(Generation.objects.unfinished()):
            Generation.objects.filter(pk=answer.pk).update(
                state="done", text=f"Answer {number}, {side}.", finish_reason="end", finished_at=timezone.now()
            )
        with clocked(settled):
            found = stock.settle_pairs()
        if not made or not found:
            raise CommandError("No pair was asked for, or none was settled.")
    return {"asking for four pairs": asked, "settling four pairs": settled}


def _votes(scene: Scene, repeats: int) -> Measured:
    """A vote as the page sends it: recorded, and answered with the next pair."""
    taken: list[Taken] = []
    for number in range(repeats):
        client = browser(Visitor.objects.get(pk=scene.voters[number % 10]))
        form = VOTE_FORM.search(client.get("/vote/", headers={"Host": "localhost"}).content.decode())
        if form is None:
            raise CommandError("There was no pair to vote on.")
        with clocked(taken):
            answer = client.post(form[1], {"choice": "ab"[number % 2]}, headers={"Host": "localhost", **HTMX})
        if b"Recorded:" not in answer.content:
            raise CommandError("A vote was not recorded.")
    return {"a vote, answered with the next pair": taken}


def measure_export() -> Measured:
    """Seconds (as milliseconds) and the most memory of `export_votes`, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="stagecraft-export-") as scratch:
        command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "export_votes", f"{scratch}/votes.jsonl"]
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise CommandError("The export failed.")
        return {
            "export": [Taken(1000 * (time.perf_counter() - begun), 1000 * (usage.ru_utime + usage.ru_stime))],
            "export, most memory in MB": [Taken(usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2), 0)],
        }


# -- showing ---------------------------------------------------------------------------------------


def write_figures(file: Path, found: dict[int, Measured]) -> None:
    about = {"database": connection.vendor, "machine": platform.platform(), "load": os.getloadavg()}
    figures = {size: {name: summary(taken) for name, taken in each.items()} for size, each in found.items()}
    file.write_text(json.dumps({**about, "votes": figures}, indent=2) + "\n", encoding="utf-8")


def summary(taken: list[Taken]) -> dict[str, Any]:
    walls, cpus = ([getattr(one, name) for one in taken] for name in Taken._fields)
    return {
        "p50": round(percentile(walls, 0.5), 2),
        "p95": round(percentile(walls, 0.95), 2),
        "cpu_p50": round(percentile(cpus, 0.5), 2),
        "repeats": len(taken),
    }


def table(found: dict[int, Measured]) -> str:
    """One line per thing: p50 and p95 at every size, and how often the first p50 the last one is, wall and CPU."""
    sizes = list(found)
    header = ["milliseconds, p50 / p95 (CPU)", *(f"{size:,} votes" for size in sizes), "last / first (CPU)"]
    rows = [header]
    for name in found[sizes[0]]:
        figures = [summary(found[size][name]) for size in sizes]
        cells = [f"{one['p50']:,.1f} / {one['p95']:,.1f} ({one['cpu_p50']:,.1f})" for one in figures]
        growth = [figures[-1][key] / figures[0][key] if figures[0][key] else 0.0 for key in ("p50", "cpu_p50")]
        rows.append([name, *cells, f"{growth[0]:.2f} ({growth[1]:.2f})"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )

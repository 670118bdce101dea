"""`manage.py bench_site`: how quick a running site is, and how much memory it takes.

Starts sites of its own on throw-away data directories with the tiny preset's random weights, so it neither
needs nor touches the site of this DATA_DIR. `make bench` runs it after `python -m trainer bench`, into the same file.
"""

from __future__ import annotations

import signal
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from trainer.runtime.measurements import REPEATS, Figure, default_path, percentile, table, write_section
from webapp.stages.management.site_bench import (
    ANSWER_TOKENS,
    Answered,
    BenchFailed,
    Browser,
    Chat,
    Running,
    at_once,
    environment,
    newest_checkpoint,
    run_to_end,
    running_site,
    vote,
)

CHATS: Final = 16
ROUND_S: Final = 6.5
"""A round begins at most this often: its two messages a visitor stay below the limit of 20 a minute."""
VOTERS: Final = 32
RUSHED_VOTES: Final = 4
"""Votes of one voter in a row, at most: few enough to stay below the limit of 60 a minute."""
READING_S: Final = 3.0
"""How long a voter who reads takes for a pair; a quick one."""
READ_VOTES: Final = 2
MEGABYTE: Final = 1024**2


class Command(BaseCommand):
    help = "Measure a site of its own: chats and votes at once, alone and beside training, and memory."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--out", type=Path, default=default_path(), help="JSON file (default: in DATA_DIR)")
        parser.add_argument("--repeats", type=int, default=REPEATS, help=f"per figure (default: {REPEATS})")
        parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help=", ".join(PARTS))

    def handle(self, *args: Any, out: Path, repeats: int, only: list[str] | None, **options: Any) -> None:
        if repeats < 1:
            raise CommandError("--repeats must be at least 1.")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # either way the sites are stopped and removed
        figures: list[Figure] = []
        try:
            for name in only or PARTS:
                self.stderr.write(f"Measuring {name}: {repeats} repeats …")
                with tempfile.TemporaryDirectory(prefix="stagecraft-bench-") as scratch:
                    figures += PARTS[name](Path(scratch), repeats)
            write_section(out, "site", figures, about={"repeats": repeats})
        except (BenchFailed, ValueError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted. The sites it started are stopped and removed.", returncode=130) from None
        self.stdout.write(table(figures))
        self.stderr.write(f"Written to {out}")


# -- chats -----------------------------------------------------------------------------------------


def measure_chats(scratch: Path, repeats: int) -> list[Figure]:
    """16 chats at once, first with the machine to themselves, then beside a pre-training run; then memory.

    With the random `init` checkpoint: it offers no choice between two answers, so every message is one answer.
    """
    with running_site(scratch) as site:
        # The same visitors throughout: newcomers behind one address share its limit until their first chat.
        browsers = [Browser(site.address) for _ in range(CHATS)]
        figures = _chat_figures("alone", _rounds_of_chats(browsers, repeats))
        training = Running("manage.py", "train", "pretrain", "--wait", env=site.env)
        try:
            training.wait_for(r"^step [1-9]")
            memory: list[dict[str, tuple[int, int]]] = []
            rounds = _rounds_of_chats(browsers, repeats, after_each=lambda: memory.append(site.memory()))
            if training.popen.poll() is not None:
                raise BenchFailed("The training run ended before the chats did; measure fewer repeats.")
        finally:
            training.end()
        return [*figures, *_chat_figures("beside training", rounds), *_memory_figures(memory)]


@dataclass(frozen=True)
class Round:
    """One repeat: every visitor starts a chat at once, then every one of them sends a second message at once."""

    started: list[Answered]
    sent: list[Answered]


def _rounds_of_chats(
    browsers: Sequence[Browser], repeats: int, *, after_each: Callable[[], None] = lambda: None
) -> list[Round]:
    """One per repeat, after one that warms up and does not count."""
    rounds = []
    for number in range(1 + repeats):
        begun = time.perf_counter()
        checkpoints = [newest_checkpoint(browser) for browser in browsers]  # each has read its page now

        def start(index: int, number: int = number, checkpoint: str = checkpoints[0]) -> Chat:
            text = f"What is the number {index} good for, and who would know it?"
            return Chat(browsers[index], text, checkpoint=checkpoint, seed=number * len(browsers) + index)

        chats = at_once(start, range(len(browsers)))
        sent = at_once(lambda chat: chat.ask("And who would rather not?"), chats)
        rounds.append(Round([chat.begun for chat in chats], sent))
        after_each()
        for chat in chats:
            chat.close()
        time.sleep(max(0.0, ROUND_S - (time.perf_counter() - begun)))
    return rounds[1:]


def _chat_figures(condition: str, rounds: list[Round]) -> list[Figure]:
    name = f"{CHATS} chats {condition}"
    speeds = [
        answer.tokens_per_s for one in rounds for answer in (*one.started, *one.sent) if answer.tokens_per_s is not None
    ]
    return [
        *_waits(f"{name}: first token", [one.sent for one in rounds], "from sending a message on an open page"),
        *_waits(f"{name}: first token of a new chat", [one.started for one in rounds], "page load and socket included"),
        Figure(
            name=f"{name}: each chat",
            unit="tokens/s",
            values=speeds,
            note=f"{ANSWER_TOKENS} tokens from sending to the end; every answer of every repeat",
        ),
    ]


def _waits(name: str, rounds: list[list[Answered]], note: str) -> list[Figure]:
    """Median and 95th percentile of each round."""
    waits = [[1000 * answer.first_token_s for answer in answers] for answers in rounds]
    return [
        Figure(name=f"{name}, p50", unit="ms", values=[percentile(each, 0.5) for each in waits], note=note),
        Figure(name=f"{name}, p95", unit="ms", values=[percentile(each, 0.95) for each in waits]),
    ]


def _memory_figures(samples: list[dict[str, tuple[int, int]]]) -> list[Figure]:
    """Resident memory of each process and of all, with what each does not share in the note."""
    figures = []
    for name in samples[-1]:
        found = [sample[name] for sample in samples if name in sample]
        unshared = max(uss for _, uss in found) / MEGABYTE
        resident = [rss / MEGABYTE for rss, _ in found]
        figures.append(Figure(name=f"memory, {name}", unit="MB", values=resident, note=f"{unshared:,.0f} MB its own"))
    total = [sum(rss for rss, _ in sample.values()) / MEGABYTE for sample in samples]
    figures.append(
        Figure(
            name="memory, everything", unit="MB", values=total, note="resident; what processes share counts for each"
        )
    )
    return figures


# -- votes -----------------------------------------------------------------------------------------


def measure_votes(scratch: Path, repeats: int) -> list[Figure]:
    """32 voters at once: as fast as they are served, for the rate, then at the pace of readers, for the wait.

    Pairs are answers of the random weights, imported as if they were instruction-tuned. Before each
    measurement the voters wait until there is a pair for each of them again, which is not counted.
    """
    weights = scratch / "weights"
    data_dir = scratch / "data"
    run_to_end("-m", "trainer", "init", "--preset", "tiny", "--out", str(weights), env=environment(data_dir))
    prepare = [["migrate", "--verbosity", "0"], ["import_checkpoint", str(weights), "--stage", "sft"]]
    rates: list[float] = []
    waits: list[list[float]] = []
    with running_site(data_dir, prepare=prepare) as site:
        voters = [Browser(site.address) for _ in range(VOTERS)]
        for _ in range(1 + repeats):
            took_s, rushed = _vote_together(voters, count=RUSHED_VOTES, pause_s=0.0)
            rates.append(len(rushed) / took_s)
            _, read = _vote_together(voters, count=READ_VOTES, pause_s=READING_S)
            waits.append([1000 * seconds for seconds in read])
    rates, waits = rates[1:], waits[1:]  # the first round warms up
    name = f"{VOTERS} voters, a vote each {READING_S:.0f} s: answered"
    return [
        Figure(
            name=f"{VOTERS} voters without a pause",
            unit="votes/s",
            values=rates,
            note="while there are pairs; the answer to a vote brings the next pair",
        ),
        Figure(name=f"{name}, p50", unit="ms", values=[percentile(each, 0.5) for each in waits]),
        Figure(name=f"{name}, p95", unit="ms", values=[percentile(each, 0.95) for each in waits]),
    ]


def _vote_together(voters: Sequence[Browser], *, count: int, pause_s: float) -> tuple[float, list[float]]:
    """Seconds it took in all, and those of every vote. Voters who pause begin one after another."""
    pages = [voter.wait_for_page("/vote/", "vote-form") for voter in voters]

    def cast(index: int) -> list[float]:
        time.sleep(pause_s * index / len(voters))
        return vote(voters[index], pages[index], count=count, pause_s=pause_s)

    begun = time.perf_counter()
    votes = at_once(cast, range(len(voters)))
    return time.perf_counter() - begun, [seconds for each in votes for seconds in each]


PARTS: Final[dict[str, Callable[[Path, int], list[Figure]]]] = {"chats": measure_chats, "votes": measure_votes}

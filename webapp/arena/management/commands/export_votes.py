"""python manage.py export_votes FILE"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from webapp.arena.exchange import write_votes
from webapp.arena.models import Vote


class Command(BaseCommand):
    help = "Write every decided vote to FILE as JSON Lines (prompt, chosen, rejected: what TRL reads)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)

    def handle(self, *args: Any, file: Path, **options: Any) -> None:
        try:
            sha256, written = write_votes(file, Vote.objects.comparisons())
        except OSError as error:
            raise CommandError(f"Cannot write {file}: {error.strerror}.") from error
        self.stdout.write(f"{written} votes written to {file} (sha256 {sha256}).")

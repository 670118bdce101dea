"""python manage.py rebuild_tally [--check]"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from webapp.arena import tally

SHOWN = 20


class Command(BaseCommand):
    help = "Count the votes anew, from the rows; needed only after they were changed past the site, in SQL."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--check", action="store_true", help="only say what is wrong; exit code 1 if anything is")

    def handle(self, *args: Any, check: bool, **options: Any) -> None:
        wrong = tally.differences()
        for line in wrong[:SHOWN]:
            self.stdout.write(line)
        if not wrong:
            self.stdout.write("Every count is right.")
        elif check:
            raise CommandError(f"{len(wrong)} counts are wrong. Put them right with: python manage.py rebuild_tally")
        else:
            tally.rebuild()
            self.stdout.write(f"{len(wrong)} counts were wrong; all are counted anew.")

"""`manage.py first_start`: what `manage.py up` does to a fresh site, in a process of its own."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from webapp.training.curriculum import prepare_first_start


class Command(BaseCommand):
    help = "Write the random weights if there are none, and queue the first runs. Safe to repeat."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--demo", action="store_true", help="this time, walk every stage alone, with a simulated voter"
        )
        parser.add_argument("--no-curriculum", action="store_true", help="this time, train nothing by itself")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            prepare_first_start(demo=options["demo"], curriculum=not options["no_curriculum"])
        except ValueError as error:
            raise CommandError(str(error)) from error

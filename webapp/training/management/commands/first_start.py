"""`manage.py first_start`: what `manage.py up` does to a fresh site, in a process of its own."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from webapp.training import moving_in
from webapp.training.curriculum import prepare_first_start


class Command(BaseCommand):
    help = "Write the random weights, or import the model the site starts with, and queue the first runs. Repeatable."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--demo", action="store_true", help="this time, walk every stage alone, with a simulated voter"
        )
        parser.add_argument("--no-curriculum", action="store_true", help="this time, train nothing by itself")
        parser.add_argument(
            "--start",
            default="",
            metavar="SOURCE",
            help="begin with this model instead of random weights; named as for import_checkpoint; random forgets one "
            "that could not be brought in",
        )
        parser.add_argument("--check", action="store_true", help="only say whether --start can be followed here")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["check"]:
                if said := moving_in.check_start(options["start"]):
                    self.stdout.write(said)
                return
            prepare_first_start(
                demo=options["demo"],
                curriculum=not options["no_curriculum"],
                start=options["start"],
                say=self.say,
            )
        except ValueError as error:
            raise CommandError(str(error)) from error

    def say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()

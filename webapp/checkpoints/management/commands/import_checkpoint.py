"""`manage.py import_checkpoint DIR`: bring a Hugging Face directory of a Llama-shaped model into the site."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from trainer.config import STAGES
from webapp.checkpoints.sources import import_source


class Command(BaseCommand):
    help = "Check a checkpoint directory, copy it into DATA_DIR and list it on the site."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("directory", type=Path)
        parser.add_argument("--name", help="Shown to people; the directory's name by default.")
        parser.add_argument("--stage", choices=STAGES, help="What a directory from elsewhere counts as.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            checkpoint = import_source(str(options["directory"]), name=options["name"], stage=options["stage"])
        except ValueError as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"Cannot copy {options['directory']}: {error.strerror} ({error.filename}).") from error
        self.stdout.write(f"Imported {checkpoint} as number {checkpoint.pk}.")

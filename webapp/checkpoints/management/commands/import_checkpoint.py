"""`manage.py import_checkpoint SOURCE`: bring a model from elsewhere into the site."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import filesizeformat

from trainer.config import STAGES
from webapp.checkpoints.cards import plain
from webapp.checkpoints.sources import import_source, why_not

SAID_EVERY_S = 2.0


class Command(BaseCommand):
    help = "Fetch a model if it has to be, check it, put it into DATA_DIR and list it on the site."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "source",
            help="a Hugging Face directory, a .gguf file, hub:owner/name[@revision] (or hub:owner/name/file.gguf), or "
            "smollm2-135m-instruct",
        )
        parser.add_argument("--name", help="Shown to people; what its makers call it by default.")
        parser.add_argument("--stage", choices=STAGES, help="What a model from elsewhere counts as.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            checkpoint = import_source(
                options["source"], name=options["name"], stage=options["stage"], progress=self._progress()
            )
        except ValueError as error:
            raise CommandError(why_not(error)) from error
        except OSError as error:
            raise CommandError(
                f"{plain(options['source'], most=200)} could not be imported: {why_not(error)}"
            ) from error
        except KeyboardInterrupt as error:
            raise CommandError("Stopped. What was fetched is kept; the same command goes on with it.") from error
        licence = f" Licence: {checkpoint.licence}." if checkpoint.licence else ""
        self.stdout.write(f"Imported {checkpoint} as number {checkpoint.pk}.{licence}")

    def _progress(self) -> Any:
        last_text, last_said = "", float("-inf")

        def say(text: str, done: int, total: int) -> None:
            nonlocal last_text, last_said
            now = time.monotonic()
            if text == last_text and now - last_said < SAID_EVERY_S and not (total and done >= total):
                return
            last_text, last_said = text, now
            amount = f": {filesizeformat(done)} of {filesizeformat(total)}" if total else ""
            self.stdout.write(plain(f"{text}{amount}", most=200))
            self.stdout.flush()

        return say

"""`manage.py export_checkpoint ID DIR`: a copy that transformers, vLLM and llama.cpp's converter read."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.services import export_checkpoint


class Command(BaseCommand):
    help = "Copy a checkpoint to a new directory in Hugging Face layout."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("id", type=int, help="The checkpoint's number, as on the admin page.")
        parser.add_argument("directory", type=Path, help="Must not exist yet.")

    def handle(self, *args: Any, **options: Any) -> None:
        checkpoint = Checkpoint.objects.filter(pk=options["id"]).first()
        if checkpoint is None:
            known = ", ".join(f"{c.pk} {c.name}" for c in Checkpoint.objects.order_by("pk")) or "none yet"
            raise CommandError(f"There is no checkpoint {options['id']}; there are: {known}.")
        try:
            written = export_checkpoint(checkpoint=checkpoint, directory=options["directory"])
        except ValueError as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"Cannot write {options['directory']}: {error.strerror} ({error.filename}).") from error
        self.stdout.write(f"Wrote {checkpoint} to {written}.")

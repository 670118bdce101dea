"""`manage.py export_checkpoint ID DIR`: a copy that transformers, vLLM, PEFT or llama.cpp read."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.services import export_adapter, export_checkpoint, export_gguf


class Command(BaseCommand):
    help = "Copy a checkpoint to a new directory in Hugging Face layout, its adapter in PEFT's, or write a .gguf file."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("id", type=int, help="The checkpoint's number, as on the admin page.")
        parser.add_argument("directory", type=Path, nargs="?", help="Must not exist yet.")
        parser.add_argument("--adapter", action="store_true", help="Only what was learnt as an adapter, for PEFT.")
        parser.add_argument("--gguf", type=Path, metavar="FILE", help="A file for llama.cpp; must not exist yet.")
        parser.add_argument(
            "--dtype",
            choices=["float16", "bfloat16", "float32"],
            help="What the .gguf file holds; by default what the checkpoint does, float16 where that is float32.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        checkpoint = Checkpoint.objects.filter(pk=options["id"]).first()
        if checkpoint is None:
            known = ", ".join(f"{c.pk} {c.name}" for c in Checkpoint.objects.order_by("pk")) or "none yet"
            raise CommandError(f"There is no checkpoint {options['id']}; there are: {known}.")
        directory, gguf = options["directory"], options["gguf"]
        if directory is None and (gguf is None or options["adapter"]):
            raise CommandError("Name the directory to write to.")
        try:
            if directory is not None:
                export = export_adapter if options["adapter"] else export_checkpoint
                written = export(checkpoint=checkpoint, directory=directory)
                what = f"the adapter of {checkpoint}" if options["adapter"] else str(checkpoint)
                self.stdout.write(f"Wrote {what} to {written}.")
            if gguf is not None:
                self.stdout.write(
                    f"Wrote {checkpoint} to {export_gguf(checkpoint=checkpoint, path=gguf, dtype=options['dtype'])}."
                )
        except ValueError as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            where = f"{directory or gguf}: {error.strerror} ({error.filename})"
            raise CommandError(f"Cannot write {where}.") from error

"""The longest answer of a checkpoint stands in its row: rows that are there get what their preset has today."""

from __future__ import annotations

from typing import Any

from django.db import migrations, models

LENGTHS = {"small": 192, "base": 256}


def note_lengths(apps: Any, schema_editor: Any) -> None:
    for preset, tokens in LENGTHS.items():
        apps.get_model("checkpoints", "Checkpoint").objects.filter(preset=preset).update(answer_tokens=tokens)


class Migration(migrations.Migration):
    dependencies = [("checkpoints", "0005_delete_generation")]

    operations = [
        migrations.AddField(
            model_name="checkpoint",
            name="answer_tokens",
            field=models.PositiveIntegerField(
                default=96, help_text="Longest answer it is trained, voted and measured on, in tokens."
            ),
        ),
        migrations.RunPython(note_lengths, migrations.RunPython.noop),
    ]

"""A prompt is told apart by the hash of its text: PostgreSQL cannot index 2,000 characters of three bytes each."""

import hashlib

from django.db import migrations, models


def fill(apps, schema_editor):
    prompts = apps.get_model("arena", "Prompt").objects
    batch = []
    for prompt in prompts.iterator(chunk_size=1000):
        prompt.text_sha256 = hashlib.sha256(prompt.text.encode()).hexdigest()
        batch.append(prompt)
        if len(batch) == 1000:
            prompts.bulk_update(batch, ["text_sha256"])
            batch.clear()
    prompts.bulk_update(batch, ["text_sha256"])


class Migration(migrations.Migration):
    dependencies = [("arena", "0003_generation_moved")]

    operations = [
        migrations.AddField("prompt", "text_sha256", models.CharField(max_length=64, null=True, editable=False)),
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.AlterField("prompt", "text_sha256", models.CharField(max_length=64, unique=True, editable=False)),
        migrations.AlterField("prompt", "text", models.CharField(max_length=2000)),
    ]

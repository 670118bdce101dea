"""The answers live in the app `answers` now: the rows stay where they are, this app forgets the model."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("checkpoints", "0004_generations_move_to_answers"),
        ("chat", "0002_generation_moved"),
        ("arena", "0003_generation_moved"),
        ("stages", "0002_generation_moved"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(state_operations=[migrations.DeleteModel(name="Generation")]),
    ]

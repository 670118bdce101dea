"""The table of answers takes the name it has in the app `answers`; 0005 ends what this app knows of them."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("checkpoints", "0003_unfinished_generations"),
        # Whatever refers to the table by its old name is made first.
        ("chat", "0001_initial"),
        ("arena", "0002_vote_learnt_by"),
        ("stages", "0001_initial"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.AlterModelTable(name="generation", table="answers_generation")]
        ),
    ]

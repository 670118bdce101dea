"""References to answers name the app they have moved to; the columns stay as they are."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("answers", "0001_initial"),
        ("arena", "0002_vote_learnt_by"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AlterField(
                    model_name="pair",
                    name="a",
                    field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="pairs_as_a", to="answers.generation"),
                ),
                migrations.AlterField(
                    model_name="pair",
                    name="b",
                    field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="pairs_as_b", to="answers.generation"),
                ),
            ]
        ),
    ]

"""References to answers name the app they have moved to; the columns stay as they are."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("answers", "0001_initial"),
        ("stages", "0001_initial"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AlterField(
                    model_name="siteanswer",
                    name="generation",
                    field=models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name="+", to="answers.generation"),
                ),
            ]
        ),
    ]

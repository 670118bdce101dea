"""The answers move here from the app `checkpoints`, whose 0004 has renamed their table: no row is touched."""

import uuid

import django.db.models.deletion
from django.db import migrations, models


def take_over_permissions(apps, schema_editor):
    """What staff may do with answers hangs on their content type: it moves along instead of being made anew."""
    content_types = apps.get_model("contenttypes", "ContentType").objects
    if not content_types.filter(app_label="answers", model="generation").exists():  # a site that went back and forth
        content_types.filter(app_label="checkpoints", model="generation").update(app_label="answers")


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("accounts", "0001_initial"),
        ("checkpoints", "0004_generations_move_to_answers"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="Generation",
                    fields=[
                        ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                        ("messages", models.JSONField(help_text="The conversation so far: [{role, content}, …]. An assistant's turn at its end is continued.")),
                        ("sampling", models.JSONField(default=dict, help_text="temperature, top_k, top_p, max_new_tokens, seed.")),
                        ("state", models.CharField(choices=[("queued", "Queued"), ("running", "Running"), ("done", "Done"), ("stopped", "Stopped"), ("failed", "Failed")], default="queued", max_length=8)),
                        ("text", models.TextField(blank=True)),
                        ("finish_reason", models.CharField(blank=True, help_text="end, length, stopped or error.", max_length=16)),
                        ("error", models.CharField(blank=True, max_length=300)),
                        ("tokens", models.PositiveIntegerField(default=0)),
                        ("created_at", models.DateTimeField(auto_now_add=True)),
                        ("first_token_at", models.DateTimeField(blank=True, null=True)),
                        ("finished_at", models.DateTimeField(blank=True, null=True)),
                        ("checkpoint", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="generations", to="checkpoints.checkpoint")),
                        ("visitor", models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="generations", to="accounts.visitor")),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("state", "queued"), ("state", "running"), _connector="OR"),
                                fields=["state"],
                                name="unfinished_generations",
                            )
                        ],
                    },
                ),
            ],
        ),
        migrations.RunPython(take_over_permissions, migrations.RunPython.noop, elidable=True),
    ]

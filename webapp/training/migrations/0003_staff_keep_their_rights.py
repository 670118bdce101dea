"""Starting, stopping and discarding runs are permissions now; until here every member of staff had them."""

from django.db import migrations


def grant(apps, schema_editor):
    content_type = apps.get_model("contenttypes", "ContentType").objects.filter(app_label="training", model="trainingrun")
    permissions = apps.get_model("auth", "Permission").objects.filter(content_type__in=content_type)
    for user in apps.get_model("accounts", "User").objects.filter(is_staff=True, is_superuser=False):
        user.user_permissions.add(*permissions)


class Migration(migrations.Migration):
    dependencies = [
        ("training", "0002_overruled_and_votes_source"),
        ("accounts", "0001_initial"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [migrations.RunPython(grant, migrations.RunPython.noop, elidable=True)]

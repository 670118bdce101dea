from django.apps import AppConfig


class ArenaConfig(AppConfig):
    name = "webapp.arena"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from webapp.arena import tally  # noqa: F401  # its receivers keep the counts

from django.apps import AppConfig


class ArenaConfig(AppConfig):
    name = "webapp.arena"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import signals  # noqa: F401  # connects them

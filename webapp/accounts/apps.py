from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "webapp.accounts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from webapp.live import rights

        from . import services, sessions, signals  # noqa: F401  # signals connect themselves

        rights.know("session", sessions.session_states)
        rights.know("user", services.user_states)

from django.apps import AppConfig


class ChatConfig(AppConfig):
    name = "webapp.chat"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from webapp.chat import services, signals  # noqa: F401  # signals connect themselves
        from webapp.live import rights

        rights.know("conversation", services.conversation_states)

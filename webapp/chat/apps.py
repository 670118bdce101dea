from django.apps import AppConfig


class ChatConfig(AppConfig):
    name = "webapp.chat"
    default_auto_field = "django.db.models.BigAutoField"

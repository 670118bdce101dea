"""`manage.py prune`: delete for good what nobody can come back to. The workers do it once a day by themselves."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.utils import timezone

from webapp.accounts.services import drop_dead_links
from webapp.chat.services import purge_deleted_conversations

LOG_IN_RECORDS = (AccessAttempt, AccessFailureLog, AccessLog)


class Command(BaseCommand):
    help = "Purge chats deleted PRUNE_AFTER_DAYS ago, ended sessions, dead owner links and old records of log-ins."

    def handle(self, *args: Any, **options: Any) -> None:
        chats = purge_deleted_conversations()
        call_command("clearsessions")
        links = drop_dead_links()
        before = timezone.now() - timedelta(days=settings.PRUNE_AFTER_DAYS)
        records = sum(model.objects.filter(attempt_time__lt=before).delete()[0] for model in LOG_IN_RECORDS)
        self.stdout.write(f"Purged {chats} deleted chats, {links} owner links and {records} records of log-ins.")

"""`manage.py owner_link`: the path of a fresh one-time link to the owner's account, while the site has no owner.

`manage.py up` prints it at its start; a site under another supervisor gets it from here.
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from webapp.accounts.services import create_owner_link


class Command(BaseCommand):
    help = "Print the path of a fresh one-time link that makes its reader the owner; nothing where there is an owner."
    requires_system_checks: list[str] = []  # `up` calls this; checks would import every page

    def handle(self, *args: Any, **options: Any) -> str:
        token = create_owner_link()
        # Written out, not reversed: the URLs would load every page into the process of `up`.
        return f"setup/{token}/" if token else ""

"""Sessions in the database, as Django keeps them, whatever stands in a browser's cookie."""

from __future__ import annotations

from collections.abc import Collection

from django.contrib.sessions.backends import db
from django.contrib.sessions.models import Session
from django.utils import timezone

from webapp.live.rights import announce


class SessionStore(db.SessionStore):
    def __init__(self, session_key: str | None = None) -> None:
        """A key with a NUL is nobody's; PostgreSQL would not even compare it."""
        super().__init__(None if session_key and "\0" in session_key else session_key)

    def delete(self, session_key: str | None = None) -> None:
        """Logged out, logged in as somebody else, thrown out: what this session has open looks whether it may stay."""
        gone = self.session_key if session_key is None else session_key
        super().delete(session_key)
        if gone:
            announce(f"session:{gone}")


def session_states(keys: Collection[str]) -> dict[str, str]:
    """What is stored in these sessions, those only that last (see webapp/live/rights.py)."""
    lasting = Session.objects.filter(session_key__in=keys, expire_date__gt=timezone.now())
    return dict(lasting.values_list("session_key", "session_data"))

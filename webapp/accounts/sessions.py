"""Sessions in the database, as Django keeps them, whatever stands in a browser's cookie."""

from __future__ import annotations

from django.contrib.sessions.backends import db


class SessionStore(db.SessionStore):
    def __init__(self, session_key: str | None = None) -> None:
        """A key with a NUL is nobody's; PostgreSQL would not even compare it."""
        super().__init__(None if session_key and "\0" in session_key else session_key)

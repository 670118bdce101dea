"""What every app's views ask of a request."""

from __future__ import annotations

from django.http import HttpRequest


def is_htmx(request: HttpRequest) -> bool:
    """Whether htmx asks, and wants only the part of the page that changes."""
    return bool(getattr(request, "htmx", False))

"""How templates write what every app has; every template knows these filters without loading them."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()


@register.filter
def moment(when: datetime, precision: str = "minutes") -> SafeString:
    """A moment in UTC, to the minute or to "seconds"; where site.js runs, on the reader's own clock."""
    shown = f"{when.day} {when:%b %Y}, {when.time().isoformat(precision)}"
    return format_html(
        '<local-time precision="{}"><time datetime="{}">{} UTC</time></local-time>', precision, when.isoformat(), shown
    )

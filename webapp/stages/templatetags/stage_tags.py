from __future__ import annotations

from datetime import timedelta

from django import template
from django.utils.safestring import SafeString

from webapp.checkpoints.rendering import render_answer

register = template.Library()


@register.filter
def time_left(value: timedelta | None) -> str:
    """A remaining time as people say it: "40 s", "3 min", "2 h 5 min"."""
    if value is None:
        return ""
    seconds = max(0, round(value.total_seconds()))
    if seconds < 60:
        return f"{max(5, 5 * round(seconds / 5))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@register.filter
def answer_html(text: str) -> SafeString:
    """A finished answer as sanitised HTML."""
    return render_answer(text)

"""How figures of runs are written."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import template

register = template.Library()


@register.filter
def clock(duration: timedelta | None) -> str:
    """ "45 s", "3 min 20 s", "2 h 05 min"; empty for None."""
    if duration is None:
        return ""
    seconds = max(0, round(duration.total_seconds()))
    minutes, hours = seconds // 60, seconds // 3600
    if minutes == 0:
        return f"{seconds} s"
    return f"{minutes} min {seconds % 60:02d} s" if hours == 0 else f"{hours} h {minutes % 60:02d} min"


@register.filter
def figure(value: float | None) -> str:
    """Four significant digits, thousands separated; an en dash for what was not measured."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


@register.filter
def trim(text: str) -> str:
    """Without the spaces around it: a continuation begins with one."""
    return text.strip()


@register.filter
def notes(extra: dict[str, Any]) -> list[str]:
    """What came with a sample, in words; what a page shows elsewhere ("rejected") or not at all is left out."""
    found: list[str] = []
    for name, value in extra.items():
        match name, value:
            case ("rejected" | "group" | "expected", _) | ("outcome", "win") | (_, None):
                continue
            case "outcome", _:
                found.append({"tie": "a tie", "both_bad": "both bad"}.get(str(value), str(value)))
            case "correct", bool():
                found.append("right" if value else f"wrong: it is {extra.get('expected', 'something else')}")
            case "worked_steps", bool():
                found += ["worked in steps"] if value else []
            case "ended", bool():
                found += [] if value else ["cut off"]
            case "reward", float() | int():
                found.append(f"score {value:.3g}")
            case "rejected_reward", float() | int():
                found.append(f"the rejected one scores {value:.3g}")
            case "advantage", float() | int():
                found.append(f"advantage {value:+.3g}")
            case _:
                found.append(f"{name.replace('_', ' ')} {value}")
    return found

"""How templates write a moment."""

from __future__ import annotations

from datetime import UTC, datetime

from django.template import Context, Template


def test_a_moment_says_that_it_is_utc() -> None:
    page = Template("{{ when|moment }} {{ when|moment:'seconds' }}")
    found = page.render(Context({"when": datetime(2026, 11, 6, 7, 8, 9, tzinfo=UTC)}))
    assert '<time datetime="2026-11-06T07:08:09+00:00">6 Nov 2026, 07:08 UTC</time>' in found
    assert ">6 Nov 2026, 07:08:09 UTC</time>" in found

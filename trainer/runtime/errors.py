"""What ends a run before its time."""

from __future__ import annotations


class Stopped(Exception):
    """`should_stop()` was true; the run can be resumed from its directory."""


class Diverged(RuntimeError):
    """A loss or gradient that is not finite; nothing was saved after the last good step."""

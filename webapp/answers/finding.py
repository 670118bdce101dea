"""What a generate worker finds out with a model for somebody who waits, or in one sentence why it found nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from django.db import connection

from webapp.answers.engines import NotWaitedFor

FoundT = TypeVar("FoundT", covariant=True)

logger = logging.getLogger(__name__)


class Find(Protocol[FoundT]):
    def __call__(self, *, is_unwanted: Callable[[], bool]) -> FoundT: ...


def found_or_why(
    find: Find[FoundT], *, within_s: float, busy: str, failed: str, what: str
) -> tuple[FoundT | None, str]:
    """(what `find` found, ""), or (None, why it found nothing): `busy` where its engine did not come `within_s`.

    A ValueError is of what was asked or of the checkpoint, and says so itself; anything else is `failed`, and `what`
    stands in the log.
    """
    if not connection.in_atomic_block:
        connection.close()  # an engine may be a while in coming
    until = time.monotonic() + within_s
    try:
        return find(is_unwanted=lambda: time.monotonic() > until), ""
    except NotWaitedFor:
        return None, busy
    except ValueError as error:
        return None, str(error)
    except Exception:
        logger.exception("%s failed", what)
        return None, failed

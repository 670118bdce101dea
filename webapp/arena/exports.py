"""Votes as a file, written in the background: a million take minutes, which nobody should watch a form for.

The row is the truth, as everywhere: a worker takes an export by one conditional UPDATE with a lease, tells how far it
is after every few hundred votes, and stops when another attempt has taken it over. The file appears whole or not at
all, and is deleted after KEPT.
"""

from __future__ import annotations

import logging
import uuid
from datetime import timedelta
from functools import partial

from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone

from webapp.accounts.models import User
from webapp.arena import tally
from webapp.arena.exchange import write_votes
from webapp.arena.models import Vote, VoteExport
from webapp.ops.clock import seconds_from_now
from webapp.ops.queues import enqueue

logger = logging.getLogger(__name__)

LEASE_S = 120
"""An export whose worker has written nothing for this long is started again."""
KEPT = timedelta(days=7)
"""Files of votes hold what people wrote; they do not lie about for ever."""

State = VoteExport.State


class _TakenOver(Exception):
    """Another attempt writes this export."""


def request_export(*, requested_by: User | None) -> VoteExport:
    """Ask for a file of every decided vote; the one that is under way, if one is."""
    try:
        with transaction.atomic():
            export = VoteExport.objects.create(requested_by=requested_by)
            transaction.on_commit(partial(_enqueue, export.pk))
    except IntegrityError:
        under_way = VoteExport.objects.filter(state__in=(State.QUEUED, State.RUNNING)).first()
        return under_way or request_export(requested_by=requested_by)  # it ended at this moment
    return export


def _enqueue(export_id: uuid.UUID) -> None:
    enqueue("webapp.arena.tasks.write_export", str(export_id))


def write_export(*, export_id: uuid.UUID) -> None:
    """Write the file, unless somebody does already."""
    gone = Q(state=State.RUNNING, lease_until__lt=Now())
    free = VoteExport.objects.filter(Q(state=State.QUEUED) | gone, pk=export_id)
    if not free.update(state=State.RUNNING, attempt=F("attempt") + 1, lease_until=seconds_from_now(LEASE_S), written=0):
        return
    export = VoteExport.objects.get(pk=export_id)
    held = VoteExport.objects.filter(pk=export_id, attempt=export.attempt, state=State.RUNNING)

    def report(written: int) -> None:
        if not held.update(written=written, lease_until=seconds_from_now(LEASE_S)):
            raise _TakenOver

    held.update(total=tally.comparisons())
    try:
        export.path.parent.mkdir(parents=True, exist_ok=True)
        export.path.parent.chmod(0o700)
        sha256, written = write_votes(export.path, Vote.objects.comparisons(), report=report)
        size = export.path.stat().st_size
    except _TakenOver:
        return
    except Exception as error:
        logger.exception("%s could not be written", export)
        held.update(state=State.FAILED, error=_reason(error), finished_at=timezone.now())
        return
    held.update(state=State.DONE, written=written, sha256=sha256, bytes=size, finished_at=timezone.now())


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"The file could not be written: {error.strerror}. Make room or see to DATA_DIR, then ask again."
    return "It could not be written; the worker's log says why. Ask again."


def look_after_exports() -> None:
    """Send again what was forgotten or left, and delete the files of old exports."""
    now = timezone.now()
    forgotten = Q(state=State.QUEUED, created_at__lt=now - timedelta(seconds=30))
    left = Q(state=State.RUNNING, lease_until__lt=Now())
    for pk in VoteExport.objects.filter(forgotten | left).values_list("pk", flat=True):
        _enqueue(pk)
    for export in VoteExport.objects.filter(state=State.DONE, finished_at__lt=now - KEPT):
        export.path.unlink(missing_ok=True)

"""Background work of the arena: chores, and on the `background` queue what takes long. Tasks call a service."""

from __future__ import annotations

import uuid

from celery import shared_task

from webapp.arena import exports, standings, stock


@shared_task
def keep_pairs_ready() -> None:
    """Settle what has been written and ask for what will be wanted; runs every few seconds."""
    stock.settle_pairs()
    stock.prepare_pairs(count=stock.wanted_stock())


@shared_task
def keep_ranking() -> None:
    """Rank what is too much for a page to rank; comes round every minute."""
    standings.keep_ranking()


@shared_task
def write_export(export_id: str) -> None:
    """Write one file of votes; a message delivered twice finds nothing left to do."""
    exports.write_export(export_id=uuid.UUID(export_id))


@shared_task
def look_after_exports() -> None:
    """Send forgotten exports again, and delete the files of old ones."""
    exports.look_after_exports()

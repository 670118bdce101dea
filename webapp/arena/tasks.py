"""Background work of the arena, on the `generate` queue. Tasks call a service."""

from __future__ import annotations

from celery import shared_task

from webapp.arena import stock


@shared_task
def keep_pairs_ready() -> None:
    """Settle what has been written and ask for what will be wanted; runs every few seconds."""
    stock.settle_pairs()
    stock.prepare_pairs(count=stock.wanted_stock())

"""Which queues a worker takes its next message from: those with a thread of their own free, chat first.

The idea: one worker process has one pool of threads and, for Celery, one limit. A backlog of one queue
would fill it and let the others wait. So each queue has a share (THREADS), the pool is as large as the
shares together, and every time the worker asks Redis for a message it names only the queues whose share
is not used up. kombu asks this class for their order (`queue_order_strategy`), one message at a time.
"""

from __future__ import annotations

from collections import Counter

from celery.worker import state
from kombu.utils.scheduling import priority_cycle

from webapp.ops.queues import BACKGROUND, CHAT, CHORES, FORMER, TRAIN

THREADS = {CHORES: 2, CHAT: 64, BACKGROUND: 32, TRAIN: 1}
"""Tasks of each queue that a worker does at the same time, in the order in which queues are looked into."""
LANE_OF = {FORMER: CHAT}
"""Queues that share the threads of another."""
_ORDER = list(THREADS)


def lane_of(queue: str) -> str:
    return LANE_OF.get(queue, queue)


def is_free(queue: str, taken: Counter[str]) -> bool:
    """Whether one more of this queue may be done; one nobody has set a limit to always may."""
    lane = lane_of(queue)
    return lane not in THREADS or taken[lane] < THREADS[lane]


def taken() -> Counter[str]:
    """How many tasks of each lane this worker is doing."""
    while True:
        try:
            requests = list(state.reserved_requests)
        except RuntimeError:  # a thread has just finished one, and the set was changed under our hands
            continue
        return Counter(lane_of(request.delivery_info.get("routing_key") or "") for request in requests)


class Lanes(priority_cycle):
    """The queues to wait for a message from, in order."""

    def consume(self, n: int) -> list[str]:
        at_work = taken()
        free = [queue for queue in self.items[:n] if is_free(queue, at_work)]
        return sorted(free, key=_place)


def _place(queue: str) -> int:
    lane = lane_of(queue)
    return _ORDER.index(lane) if lane in THREADS else len(_ORDER)

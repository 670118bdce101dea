"""A generate worker with fewer threads, whose one task says by Redis that it has begun, and waits to be let go.

python -m tests.webapp.lanes_worker
"""

from __future__ import annotations

from celery.signals import worker_ready

from webapp.celery import app
from webapp.live import streams
from webapp.ops import lanes, queues, worker


@app.task(name="tests.begin")
def begin(name: str) -> None:
    streams.client().rpush("begun", name)
    streams.client().blpop(["go"])


@worker_ready.connect
def say_ready(**_: object) -> None:
    streams.client().rpush("begun", "worker")


def main() -> None:
    import webapp.answers.tasks

    worker_ready.disconnect(webapp.answers.tasks.prepare_worker)  # it would load torch
    lanes.THREADS.update({queues.CHORES: 1, queues.CHAT: 2, queues.BACKGROUND: 2})
    app.conf.beat_schedule = {}
    worker.run("generate")


if __name__ == "__main__":
    main()

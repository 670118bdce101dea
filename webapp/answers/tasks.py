"""The `chat` and `background` queues: one short task per answer or look into one. Ids only; the row is the truth."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from celery.signals import worker_ready

from webapp.ops.queues import CHAT


@shared_task
def generate_answer(generation_id: str) -> None:
    """Write one answer; a message delivered twice finds nothing left to do."""
    # Imported here: it pulls in torch, which the web process (it imports this module) must not load.
    from webapp.answers.writing import write_answer

    write_answer(generation_id=generation_id)


@shared_task
def look_into_answer(generation_id: str) -> None:
    """Find what the token microscope shows of an answer."""
    from webapp.answers.looking import look_into

    look_into(generation_id=generation_id)


@shared_task
def look_after_answers() -> None:
    """End the answers of dead workers and enqueue forgotten ones; comes round all the time."""
    from webapp.answers.services import revive_generations

    revive_generations()


@worker_ready.connect
def prepare_worker(sender: Any, **_: Any) -> None:
    """A generate worker loads torch and the newest checkpoint before the first question comes."""
    if CHAT not in sender.app.amqp.queues.consume_from:
        return
    from webapp.answers.writing import look_for_forgotten, prepare

    prepare()
    look_for_forgotten()

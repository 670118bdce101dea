"""What workers do for training: run a trainer, let a simulated voter vote, look after dead workers' runs."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from celery.signals import worker_ready, worker_shutting_down

from webapp.training import attempts, curriculum, estimates, services

VOTING_PAUSE_S = 1


# Acknowledged at once: the row, not the message, says that a run has to be done.
@shared_task(bind=True, acks_late=False)
def execute_run(self: Any, run_id: int) -> None:
    """Train one run, if it is still waiting; a second copy of the message finds nothing to do."""
    if attempts.supervise_run(run_id):
        curriculum.advance()
        estimates.see_machine(node=self.request.hostname)


@shared_task
def continue_simulated_votes() -> None:
    """One turn of the simulated voter; it comes back until its votes are cast."""
    if curriculum.cast_simulated_votes():
        continue_simulated_votes.apply_async(countdown=VOTING_PAUSE_S)


@shared_task
def look_after_runs() -> None:
    """Free the runs of dead workers, wake what waits, and go on with the walk; comes round all the time."""
    services.reap_runs()
    curriculum.resume_voting()
    curriculum.advance()


@worker_ready.connect
def introduce(sender: Any, **_: Any) -> None:
    """A train worker says what its machine can do, before its first run."""
    if "train" in sender.app.amqp.queues.consume_from:
        estimates.introduce_machine(node=sender.hostname)


@worker_shutting_down.connect
def leave(**kwargs: Any) -> None:
    """Save the run in progress and give it back (this needs a pool in this process: threads or solo)."""
    attempts.shutting_down.set()

"""What workers do for training: run a trainer, let a simulated voter vote, look after dead workers' runs."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from celery.signals import worker_shutting_down

from webapp.training import attempts, curriculum, services

VOTING_PAUSE_S = 1


@shared_task(acks_late=False)  # acknowledged at once: the row, not the message, says that a run has to be done
def execute_run(run_id: int) -> None:
    """Train one run, if it is still waiting; a second copy of the message finds nothing to do."""
    if attempts.supervise_run(run_id):
        curriculum.advance()


@shared_task
def continue_simulated_votes() -> None:
    """One turn of the simulated voter; it comes back until its votes are cast."""
    if curriculum.cast_simulated_votes():
        continue_simulated_votes.apply_async(queue="generate", countdown=VOTING_PAUSE_S)


@shared_task
def look_after_runs() -> None:
    """Free the runs of dead workers, wake what waits, and go on with the walk; comes round all the time."""
    services.reap_runs()
    curriculum.resume_voting()
    curriculum.advance()


@worker_shutting_down.connect
def leave(**kwargs: Any) -> None:
    """Save the run in progress and give it back (this needs a pool in this process: threads or solo)."""
    attempts.shutting_down.set()

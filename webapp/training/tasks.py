"""What workers do for training: run a trainer, let a simulated voter vote, look after dead workers' runs."""

from __future__ import annotations

import logging
import threading
from typing import Any

from celery import shared_task
from celery.signals import worker_ready, worker_shutting_down
from django.db import DatabaseError, close_old_connections

from webapp.training import curriculum, services, supervisor

logger = logging.getLogger(__name__)

SWEEP_S = 30
"""How often every worker looks for dead workers' runs."""
VOTING_PAUSE_S = 1


@shared_task(acks_late=False)  # acknowledged at once: the row, not the message, says that a run has to be done
def execute_run(run_id: int) -> None:
    """Train one run, if it is still waiting; a second copy of the message finds nothing to do."""
    if supervisor.supervise_run(run_id):
        curriculum.advance()


@shared_task
def continue_simulated_votes() -> None:
    """One turn of the simulated voter; it comes back until its votes are cast."""
    if curriculum.cast_simulated_votes():
        continue_simulated_votes.apply_async(queue="generate", countdown=VOTING_PAUSE_S)


@worker_ready.connect
def start_sweeping(**kwargs: Any) -> None:
    """Every worker, of either queue, sweeps: whichever survives finds the others' runs."""
    threading.Thread(target=_sweep, name="sweep", daemon=True).start()


def _sweep() -> None:
    while not supervisor.shutting_down.is_set():
        try:
            services.reap_runs()
            curriculum.resume_voting()
            curriculum.advance()
        except (DatabaseError, ValueError) as error:
            logger.warning("Could not look for lost runs: %s", error)
        finally:
            close_old_connections()
        supervisor.shutting_down.wait(SWEEP_S)


@worker_shutting_down.connect
def leave(**kwargs: Any) -> None:
    """Save the run in progress and give it back (this needs a pool in this process: threads or solo)."""
    supervisor.shutting_down.set()

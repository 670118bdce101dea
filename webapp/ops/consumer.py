"""The part of a worker that listens to the broker, made to outlive it.

When the connection breaks, Celery puts it away and connects again. On the way kombu wants to give back the messages
that were received and not begun, to a broker that is gone; what it raises then is at times not one of the connection
errors that Celery expects there, and ended the worker, with every model it had loaded.
"""

from __future__ import annotations

import logging

from celery.worker.consumer import Consumer as CeleryConsumer

logger = logging.getLogger(__name__)


class Consumer(CeleryConsumer):  # type: ignore[misc]  # celery has no types
    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Put the broken connection away, whatever goes wrong in doing so: the next one is a new one.

        What was received and not begun is not lost with it: an answer or a run that nobody works on is sent for again
        by its row.
        """
        try:
            super().on_connection_error_after_connected(exc)
        except Exception as error:
            logger.warning("The lost connection to Redis could not be put away in order (%r).", error)
            self.connection = None

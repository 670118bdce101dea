"""The site. Importing it configures Celery, so that `.delay()` finds the broker in every process."""

from webapp.celery import app as celery_app

__all__ = ["celery_app"]

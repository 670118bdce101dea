"""The Celery app. Two queues: `generate` (answers, threads) and `train` (one run at a time).

Only ids travel through the broker; JSON is the only serialiser, so a forged pickle is refused.
"""

import os

from celery import Celery

from webapp.periodic import Periodic

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")

app = Celery("stagecraft")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.steps["worker"].add(Periodic)

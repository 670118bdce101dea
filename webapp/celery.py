"""The Celery app. Two queues: `generate` (answers, threads) and `train` (one run at a time).

Only ids travel through the broker; JSON is the only serialiser, so a forged pickle is refused.
"""

import os
import warnings

from celery import Celery

from webapp.ops.periodic import Periodic

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")

# Celery advises against root because of pickle, which is refused here; the image runs as a plain user anyway.
warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")

app = Celery("stagecraft")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.steps["worker"].add(Periodic)

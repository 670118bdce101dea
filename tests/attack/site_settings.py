"""Settings of a site that is killed twenty times: as shipped, with shorter patience and a longer run.

What is shown does not depend on these numbers, only how long it takes to see it: a killed worker's run is taken
over after its lease, and a killed trainer goes on from its last save.
"""

import dataclasses
import sys

from trainer import presets
from webapp.settings import *  # noqa: F403
from webapp.settings import CELERY_BEAT_SCHEDULE

RUN_HEARTBEAT_S = 1
RUN_LEASE_S = 10
CELERY_BEAT_SCHEDULE["look-after-runs"]["schedule"] = 3.0
CELERY_BEAT_SCHEDULE["look-after-answers"]["schedule"] = 5.0

STEPS = 200
_smoke = presets.PRESETS["smoke"]
presets.PRESETS["smoke"] = dataclasses.replace(
    _smoke, pretrain=dataclasses.replace(_smoke.pretrain, tokens=STEPS * _smoke.pretrain.batch_tokens)
)

SAVING_ALWAYS = """
import sys
import trainer.runtime.loop
from trainer.__main__ import main
trainer.runtime.loop.SAVE_EVERY_S = 0.25  # so that kills also fall into a save
sys.exit(main())
"""
TRAINER_COMMAND = [sys.executable, "-c", SAVING_ALWAYS]

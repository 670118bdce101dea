"""Where a site's model comes from: its own random weights, or somebody else who trained it before.

The idea: the line of checkpoints says it. A site of its own begins with `init`; one around a model from elsewhere has
that model at the root of the earliest stage it shows, and the stages before were its makers' work. Nothing is kept
beside the rows, so an import by hand on an empty site is the same as `up --start`.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainer.config import INIT, STAGES
from webapp.checkpoints.models import Checkpoint


def origin_of(current: Mapping[str, Checkpoint]) -> Checkpoint | None:
    """The model from elsewhere that this site raises; None while there is none, and where it began with noise.

    `current` is the newest checkpoint of every stage (`current_by_stage`). The usual case costs no query.
    """
    earliest = next((current[stage] for stage in STAGES if stage in current), None)
    if earliest is None or earliest.stage == INIT:
        return None
    root = earliest.lineage()[-1]
    return root if root.stage != INIT and is_imported(root) else None


def is_imported(checkpoint: Checkpoint) -> bool:
    """Whether it was brought here: no preset of ours made it, or its row says where it came from."""
    return not checkpoint.preset or bool(checkpoint.source)


def site_origin() -> Checkpoint | None:
    """`origin_of` for who has not read the checkpoints anyway."""
    return origin_of(Checkpoint.objects.current_by_stage())


def is_done_elsewhere(stage: str, origin: Checkpoint | None) -> bool:
    """Whether a stage lies before the one at which the model came here: nothing to train, and nothing missing."""
    return origin is not None and STAGES.index(stage) < STAGES.index(origin.stage)

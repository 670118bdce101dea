"""Where a model can come from: what `import_checkpoint` and `up --start` are given, and how it gets into the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from webapp.checkpoints.files import inspect_directory
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.services import import_checkpoint

Progress = Callable[[str, int, int], None]
"""Called often with what is being done and the bytes of it that are done, of all; 0 of 0 while nobody knows."""


def import_source(
    source: str,
    *,
    name: str | None = None,
    stage: str | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> Checkpoint:
    """Bring the model that `source` names into the site; ValueError in one sentence, and then nothing is listed."""
    # Imported here: it pulls in torch, which `manage.py` needs for nothing else.
    from webapp.checkpoints.loading import check_loads

    directory = Path(source).expanduser()
    progress("Checking", 0, 0)
    inspect_directory(directory, stage=stage)  # refuses hostile files before torch reads them
    check_loads(directory)
    progress("Copying", 0, 0)
    return import_checkpoint(directory=directory, name=name, stage=stage)

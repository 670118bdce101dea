"""Whether a checkpoint loads. With webapp/answers/engines.py the only module of the site that imports torch."""

from __future__ import annotations

from pathlib import Path

from trainer.model.checkpoint import load_checkpoint


def check_loads(directory: Path) -> None:
    """ValueError with the reason unless the trainer can read this directory."""
    load_checkpoint(directory)

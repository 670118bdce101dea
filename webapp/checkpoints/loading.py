"""Whether a checkpoint loads, and files of other kinds made into one.

With webapp/answers/engines.py the only module of the site that imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainer.model.checkpoint import load_checkpoint


def check_loads(directory: Path) -> None:
    """ValueError with the reason unless the trainer can read this directory; as it is stored, so in no more memory."""
    load_checkpoint(directory, dtype=None)


def convert_gguf(path: Path, directory: Path, *, progress: Callable[[int, int], None]) -> None:
    """Write the model in a .gguf file as a new Hugging Face directory; ValueError says what is wrong with it."""
    from trainer.model.gguf import convert

    convert(path, directory, progress=progress)


def write_gguf(directory: Path, path: Path, *, dtype: str | None, name: str, licence: str) -> None:
    """Write the model in a directory as a new .gguf file; ValueError says why it cannot be."""
    from trainer.model.gguf import write

    write(directory, path, dtype=dtype, name=name, licence=licence)

"""Tensors into a file that is whole or not there, from where they lie: no copy of them is made as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from trainer.runtime.files import replacing


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> None:
    """`write_atomic` for a safetensors file; OSError with what to do where the disk does not take it."""
    with replacing(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        except SafetensorError as error:  # it wraps the system's own errors: a full disk above all
            raise OSError(f"{path} cannot be written ({error}). Check its rights and the free space.") from error

"""Every random draw, a pure function of (seed, purpose): there is no hidden generator state to save."""

from __future__ import annotations

import hashlib

import torch


def random_generator(seed: int, *purpose: int | str) -> torch.Generator:
    """A generator that depends on nothing but its arguments."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


def derive_seed(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed for one purpose, e.g. derive_seed(seed, "rollout", step)."""
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

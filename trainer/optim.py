"""Optimisers and schedules.

The idea: matrices inside the blocks are trained with Muon, whose orthogonalised momentum makes every
direction of a matrix learn at the same pace; embeddings and norms, which are not matrices in that
sense, with AdamW. Fine-tuning with a reward uses AdamW alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.optim import Optimizer

from trainer.loop import Diverged


def muon_and_adamw(model: nn.Module, *, matrix_lr: float, embedding_lr: float) -> dict[str, Optimizer]:
    """Muon for the blocks' matrices, AdamW for everything else, with no weight decay on the latter."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside_block = ".layers." in name and parameter.ndim == 2
        (matrices if inside_block else others).append(parameter)
    return {
        "muon": torch.optim.Muon(matrices, lr=matrix_lr, weight_decay=0.01, momentum=0.95),
        "adamw": adamw(others, lr=embedding_lr),
    }


def adamw(parameters: list[nn.Parameter], *, lr: float) -> Optimizer:
    """AdamW with betas (0.9, 0.95), no weight decay, fused where the device offers it."""
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True)


def warmup_decay(step: int, steps: int, *, warmup: float, decay: float) -> float:
    """Factor on the peak learning rate: linear up over `warmup`, flat, linear to 0 over `decay` (shares)."""
    rise = max(1, round(steps * warmup))
    fall = max(1, round(steps * decay))
    return min((step + 1) / rise, 1.0, (steps - step) / fall)


def set_lr_factor(optimizers: Mapping[str, Optimizer], factor: float) -> None:
    """Scale every group's learning rate to `factor` times its peak."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group.setdefault("peak_lr", group["lr"])
            group["lr"] = group["peak_lr"] * factor


def apply_gradients(model: nn.Module, optimizers: Iterable[Optimizer], *, max_norm: float = 1.0) -> float:
    """Clip the gradients of `model` to `max_norm` together, step every optimiser, clear; returns the norm before.

    Diverged, with the weights as they were, when the norm is not finite.
    """
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    if not torch.isfinite(norm):
        raise Diverged(f"The gradient became {norm.item()}. Lower the learning rate and start again.")
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return norm.item()

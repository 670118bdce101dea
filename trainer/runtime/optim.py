"""Optimisers and schedules.

The idea: matrices inside the blocks are trained with Muon, whose orthogonalised momentum makes every
direction of a matrix learn at the same pace; embeddings and norms, which are not matrices in that
sense, with AdamW. Fine-tuning with a reward uses AdamW alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.runtime.errors import Diverged
from trainer.runtime.machine import DTYPES

NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)
"""Coefficients of the odd quintic that drives singular values towards 1 (Jordan et al. 2024)."""
NEWTON_SCHULZ_STEPS: Final = 5


class Muon(Optimizer):
    """Momentum made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

    The same update as torch.optim.Muon, which always orthogonalises in bfloat16: on a CPU without instructions for
    it that takes more than twice as long as the gradients. Here matrices of one shape go through together, in
    float32 unless `precision()` says "bfloat16". It is asked at every step: a resumed run goes on in the precision
    it began with, and knows it only after its optimiser is made.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        precision: Callable[[], str],
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        assert closure is None, "no stage evaluates its loss twice"
        dtype = DTYPES[self.precision()]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    if not self.state[matrix]:
                        self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
                    by_shape.setdefault(matrix.shape, []).append(matrix)
            for (rows, columns), matrices in by_shape.items():
                gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
                means = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
                torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
                # Nesterov's momentum: the gradient drawn towards its running mean, already updated
                directions = torch.stack(torch._foreach_lerp(gradients, means, group["momentum"]))
                updates = orthogonalize(directions.to(dtype)).to(directions.dtype).unbind()
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                # A tall matrix moves further, so that its output changes as much as a wide one's.
                torch._foreach_add_(matrices, updates, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Singular values of [B, m, n] matrices brought to about 1 (0.7 to 1.2) by Newton-Schulz steps, vectors kept."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def muon_and_adamw(
    model: nn.Module, *, matrix_lr: float, embedding_lr: float, precision: Callable[[], str]
) -> dict[str, Optimizer]:
    """Muon for the blocks' matrices, AdamW for everything else, with no weight decay on the latter."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside_block = ".layers." in name and parameter.ndim == 2
        (matrices if inside_block else others).append(parameter)
    return {
        "muon": Muon(matrices, lr=matrix_lr, weight_decay=0.01, momentum=0.95, precision=precision),
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

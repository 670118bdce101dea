"""A block's matrix products, prepared for sampling: the same numbers from fewer operations, or from a better layout.

The idea: writing one token for a few people reads every matrix once and computes little with it, so that two things
that training hides in its large products are all that counts here.

- *Packed.* On an x86 processor oneDNN, which multiplies for PyTorch, wants a matrix in blocks that fit the vector
  registers. `F.linear` lays it out so anew in every call; `_linear_pointwise`, which PyTorch's own compiler uses, takes
  one that was laid out before, and adds, multiplies or applies SiLU while the result is in cache. With the matrices of
  SmolLM2-135M that is 1.2 to 1.9 times quicker in bfloat16 and up to four times in float32, for 1 to 64 rows.
- *Joined.* A narrow model is bound by the number of operations: there matrices that read the same input lie in one,
  with the norm's weight folded in, and a single row takes the plainest product there is.

Elsewhere (a GPU, another processor) the matrices are used where they lie. A packed or joined matrix is a copy: who
needs the model for nothing else lets go of what was copied (`give_up`). It then holds a wide model once, bar a head
that is also the table of embeddings, and the small matrices of a narrow one twice.
"""

from __future__ import annotations

import functools
import platform
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import ModelConfig
from trainer.model.decoder import FUSED_WIDTH, Block, Products, RMSNorm, effective_weight


class Norm:
    """RMSNorm in few operations, its statistics in float32: x / √(|x|² + C·ε), times √C and the weight."""

    def __init__(self, norm: RMSNorm) -> None:
        width = len(norm.weight)
        self.scale = norm.weight.detach().float() * width**0.5
        self._floor = torch.tensor((width * norm.eps) ** 0.5, device=norm.weight.device)
        self._wider = None if norm.weight.dtype == torch.float32 else torch.float32

    def without_scale(self, x: Tensor) -> Tensor:
        """Float32, and without √C and the weight, which may be folded into the matrix behind it."""
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=self._wider), self._floor)

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self.without_scale(x) * self.scale
        return y.to(x.dtype)


class Matrix(Protocol):
    """x Wᵀ + b of x [..., C], and what becomes of it in the same go."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def silu(self, x: Tensor) -> Tensor:
        """SiLU of the product."""
        ...

    def times(self, other: Tensor, x: Tensor) -> Tensor:
        """The product times `other`, each number with its own."""
        ...

    def plus(self, other: Tensor, x: Tensor) -> Tensor:
        """The product and `other`."""
        ...


class _Plain:
    """A matrix where it lies."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)

    def silu(self, x: Tensor) -> Tensor:
        return F.silu(self(x), inplace=True)

    def times(self, other: Tensor, x: Tensor) -> Tensor:
        return self(x).mul_(other)

    def plus(self, other: Tensor, x: Tensor) -> Tensor:
        return self(x).add_(other)


class _Packed:
    """A matrix in oneDNN's layout, which has the rest done before a product leaves the processor's cache."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self._bias = bias
        self._linear = torch.ops.mkldnn._linear_pointwise.default
        self._with_other = torch.ops.mkldnn._linear_pointwise.binary

    def __call__(self, x: Tensor) -> Tensor:
        return self._linear(x, self._weight, self._bias, "none", [], "")  # type: ignore[no-any-return]

    def silu(self, x: Tensor) -> Tensor:
        return self._linear(x, self._weight, self._bias, "swish", [], "")  # type: ignore[no-any-return]

    def times(self, other: Tensor, x: Tensor) -> Tensor:
        return self._with_other(x, other, self._weight, self._bias, "mul")  # type: ignore[no-any-return]

    def plus(self, other: Tensor, x: Tensor) -> Tensor:
        return self._with_other(x, other, self._weight, self._bias, "add")  # type: ignore[no-any-return]


@functools.lru_cache
def can_pack(device: str, dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies such matrices here, and PyTorch lets it keep its layout."""
    if device != "cpu" or platform.machine() not in ("x86_64", "AMD64") or not torch._C._has_mkldnn:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def matrix(weight: Tensor, bias: Tensor | None = None) -> Matrix:
    """A wide matrix, packed where that can be done."""
    return (_Packed if can_pack(weight.device.type, weight.dtype) else _Plain)(weight, bias)


def prepare(block: Block) -> Products:
    """The products of this block, its adapters merged in, in the way that suits its width, precision and device."""
    weight = block.input_layernorm.weight
    if is_joined(len(weight), weight.dtype):
        return _Joined(block)
    return _Wide(block)


def give_up(module: nn.Module) -> None:
    """Let go of the matrices in a module once its products are prepared, which hold what they need."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.weight = None  # type: ignore[assignment]  # nn.Module knows a parameter that is not there


def held_twice(config: ModelConfig, numbers: int, *, device: str, dtype: torch.dtype) -> int:
    """How many of a model's `numbers` an engine that owns it holds twice.

    Beside rows to look up, a tied head lies packed, and a narrow block's matrices lie packed and unpacked.
    """
    if not can_pack(device, dtype):
        return 0
    embedding = config.vocab_size * config.width
    blocks = numbers - embedding * (1 if config.is_tied else 2)
    return (embedding if config.is_tied else 0) + (blocks if is_joined(config.width, dtype) else 0)


def is_joined(width: int, dtype: torch.dtype) -> bool:
    """Whether a model is so narrow that its matrices are joined."""
    return width <= FUSED_WIDTH and dtype == torch.float32


class _Wide:
    """A wide block's matrices, packed or where they lie. Packed, those of queries, keys and values lie in one."""

    def __init__(self, block: Block) -> None:
        attention, mlp = block.self_attn, block.mlp
        self._before, self._after = Norm(block.input_layernorm), Norm(block.post_attention_layernorm)
        weight, parts = block.input_layernorm.weight, (attention.q_proj, attention.k_proj, attention.v_proj)
        together = [parts] if can_pack(weight.device.type, weight.dtype) else [(part,) for part in parts]
        self._qkv = [matrix(*_effective(*few)) for few in together]
        self._out, self._gate, self._up, self._down = (
            matrix(*_effective(part)) for part in (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        )

    def qkv(self, x: Tensor) -> list[Tensor]:
        x = self._before(x)
        return [part(x) for part in self._qkv]

    def add_attended(self, x: Tensor, y: Tensor) -> Tensor:
        return self._out.plus(x, y)

    def add_feed_forward(self, x: Tensor) -> Tensor:
        normed = self._after(x)
        return self._down.plus(x, self._up.times(self._gate.silu(normed), normed))


class _Joined:
    """A narrow block's matrices: those that read the same input joined, the norm's weight folded into them."""

    def __init__(self, block: Block) -> None:
        attention, mlp = block.self_attn, block.mlp
        before, after = Norm(block.input_layernorm), Norm(block.post_attention_layernorm)
        self._before, self._after = before.without_scale, after.without_scale
        self._qkv = _Small(*_effective(attention.q_proj, attention.k_proj, attention.v_proj, scale=before.scale))
        self._gate_up = _Small(*_effective(mlp.gate_proj, mlp.up_proj, scale=after.scale))
        self._out, self._down = (_Small(*_effective(part)) for part in (attention.o_proj, mlp.down_proj))

    def qkv(self, x: Tensor) -> list[Tensor]:
        return [self._qkv(self._before(x))]

    def add_attended(self, x: Tensor, y: Tensor) -> Tensor:
        return self._out(y).add_(x)

    def add_feed_forward(self, x: Tensor) -> Tensor:
        gate, up = self._gate_up(self._after(x)).chunk(2, dim=-1)
        return self._down(F.silu(gate).mul_(up)).add_(x)


class _Small:
    """A small matrix twice: packed, and with its inputs below each other for a single row.

    One row's product reads those from start to end, as memory likes it best, in less time than oneDNN takes to begin.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._inputs, self._bias = weight.t().contiguous(), bias
        self._packed = _Packed(weight, bias) if can_pack(weight.device.type, weight.dtype) else None

    def __call__(self, x: Tensor) -> Tensor:
        if self._packed is not None and x.shape[:-1].numel() > 1:
            return self._packed(x)
        flat = x.view(-1, x.shape[-1])  # the product itself takes a third of the operations of F.linear
        product = torch.mm(flat, self._inputs) if self._bias is None else torch.addmm(self._bias, flat, self._inputs)
        return product.view(*x.shape[:-1], -1)


def _effective(*linears: nn.Linear, scale: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Layers below each other as one matrix, adapters merged in, and one bias; their inputs times `scale`."""
    weights = [effective_weight(linear).detach() for linear in linears]
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    return weight if scale is None else weight * scale, torch.cat(biases) if biases else None

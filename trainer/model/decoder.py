"""The decoder: one transformer for every family families.py reads, with a vocabulary head or a scalar head.

The idea: RMSNorm, rotary positions, SwiGLU and grouped-query attention, module names and layouts exactly as
Hugging Face has them, so a saved checkpoint needs no custom code anywhere. Where families differ (biases, norms on
queries and keys, a sliding window, layers without positions, a head of its own), `ModelConfig` says so and the code
here does it, once: training, scoring and sampling all run `Block.forward`. The same decoder carries two heads:
`LanguageModel` (next-token logits) and `ScalarModel` (one number per position: reward models and critics).

Simplification: no dropout anywhere (the data is seen once or a few times, and RL needs two passes to agree).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.config import ModelConfig, RopeScaling


class RMSNorm(nn.Module):
    """x / rms(x) * weight, with the statistics in float32 (Zhang & Sennrich, 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps).to(x.dtype)


def rope_table(length: int, head_dim: int, theta: float, scaling: RopeScaling | None = None) -> tuple[Tensor, Tensor]:
    """cos and sin, each [length, head_dim], of the rotary position embedding (Su et al., 2021).

    sin has its sign, as `rotate` wants it: minus in the first half.
    """
    inverse = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if scaling is not None:
        inverse = _stretched(inverse, scaling)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), inverse)  # (T, D/2)
    angles = torch.cat([angles, angles], dim=-1)  # (T, D): Llama's layout turns halves, not neighbours
    sign = torch.ones(head_dim).index_fill_(0, torch.arange(head_dim // 2), -1.0)
    return angles.cos(), angles.sin() * sign


def _stretched(inverse: Tensor, scaling: RopeScaling) -> Tensor:
    """Frequencies [D/2] slowed down: all alike ("linear"), or as Llama 3.1 does it ("llama3").

    There, what turns at most `low_freq_factor` times in the original context is slowed by the whole factor, what
    turns `high_freq_factor` times or more stays, and between the two one changes over into the other.
    """
    slowed = inverse / scaling.factor
    if scaling.kind == "linear":
        return slowed
    turns = scaling.original_context * inverse / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * slowed + kept * inverse


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x [..., D] by the angles in cos and sin, which broadcast against it."""
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin  # the halves change places


def effective_weight(linear: nn.Linear) -> Tensor:
    """The matrix a linear layer amounts to: its weight, or with an adapter what the two make together."""
    merged = getattr(linear, "merged", None)
    return merged() if callable(merged) else linear.weight


class LayerCache(Protocol):
    """Keys and values of one layer that were computed before."""

    def extend(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of new tokens, keys above values [B,2·Hkv,T,D].

        Returns the keys and values of all that these tokens may look at, [B,Hkv,S,D] each.
        """
        ...


SHORT = 512
"""Rows up to this length may hold a whole matrix of attention scores on a CPU; longer ones do not."""


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √D) v with shared keys: q [B,H,T,D], k and v [B,Hkv,S,D] -> [B,H,T,D].

    `allowed` [B,1,T,S] says who may look at whom, or None for plain causal; a single query then sees all keys, and may
    also be given what is added to its scores (0 or -inf) in q's dtype.
    PyTorch's own kernel, except for short rows in bfloat16 on a CPU: there its backward pass falls back to float32 and
    takes three times as long as plain products, which use the processor's bfloat16 units.
    """
    batch, heads, length, dim = q.shape
    shared = k.shape[1]
    if length == 1:
        # The query heads of a group stand where a sequence would: they share keys and need no causality.
        grouped = q.reshape(batch, shared, -1, dim)
        if allowed is not None and allowed.dtype == q.dtype == torch.float32 and q.device.type == "cpu":
            # PyTorch's kernel takes some microseconds for every row and head, whatever there is to compute.
            hidden = allowed.expand(batch, shared, 1, -1).flatten(0, 1)  # (B·Hkv, 1, S)
            scores = torch.baddbmm(hidden, grouped.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), alpha=dim**-0.5)
            return torch.bmm(scores.softmax(dim=-1), v.flatten(0, 1)).view(batch, heads, 1, dim)
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=allowed).reshape(batch, heads, 1, dim)
    if q.is_cuda and shared != heads and (allowed is not None or q.dtype == torch.float32):
        # Only the flash kernel knows shared keys there, and it takes neither a mask nor float32. With keys for every
        # head the memory-efficient one does; what is left for shared ones stores all T x T scores.
        k, v = (states.repeat_interleave(heads // shared, dim=1) for states in (k, v))
        shared = heads
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or length > SHORT:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, is_causal=allowed is None, enable_gqa=shared != heads
        )
    if allowed is None:
        allowed = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    blocked = torch.zeros(allowed.shape, dtype=q.dtype, device=q.device).masked_fill_(~allowed, -math.inf)
    # The query heads that share keys stand below each other, where one longer sequence would.
    stacked = (q * dim**-0.5).reshape(batch, shared, -1, dim)  # (B, Hkv, G·T, D)
    scores = (stacked @ k.transpose(-1, -2)).view(batch, heads, length, length) + blocked
    weights = scores.softmax(dim=-1).view(batch, shared, -1, length)
    y: Tensor = (weights @ v).view(batch, heads, length, dim)
    return y


FUSED_WIDTH: Final = 256
"""Up to this width a model is bound by the number of operations: matrices that read the same input are joined."""


def is_plain(*linears: nn.Module) -> bool:
    """Whether all are linear layers and nothing more, so that their matrices may be joined."""
    return all(type(linear) is nn.Linear for linear in linears)


class Attention(nn.Module):
    """Causal grouped-query self-attention."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.is_rotated = layer not in config.unrotated
        self.window = config.window if layer in config.windowed else 0
        width, queries, keys = config.width, self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.q_proj = nn.Linear(width, queries, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, keys, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width, keys, bias=config.qkv_bias)
        self.o_proj = nn.Linear(queries, width, bias=config.o_bias)
        self.may_join = width <= FUSED_WIDTH and not config.qkv_bias
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None

    def qkv(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values of x [B,T,C], side by side in one tensor [B,T,(H + 2·Hkv)·D] or in three."""
        parts = (self.q_proj, self.k_proj, self.v_proj)
        if not (self.may_join and is_plain(*parts)):
            return [part(x) for part in parts]
        return [F.linear(x, torch.cat([part.weight for part in parts]))]  # one product instead of three small ones

    def split(self, states: list[Tensor], cos: Tensor, sin: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What `qkv` gave, as heads, normalised and turned: queries [B,H,T,D], and keys and values [B,Hkv,T,D].

        Those two come as they arise, each by itself or the keys above the values in one tensor [B,2·Hkv,T,D].

        cos and sin [..., T, D] turn queries and keys; with a row for every head, [B,H + 2·Hkv,T,D], they turn all in
        one go, the values by an angle of zero.
        """
        batch, length, _ = states[0].shape
        parts = [one.view(batch, length, -1, self.head_dim).transpose(1, 2) for one in states]
        if self.q_norm is None and len(parts) == 1:
            joined = parts[0]
            if not self.is_rotated or cos.shape[-3:-2] == joined.shape[1:2]:
                q, kv = torch.split(self._turned(joined, cos, sin), [self.heads, 2 * self.kv_heads], dim=1)
                return q, [kv]
            both, v = torch.split(joined, [self.heads + self.kv_heads, self.kv_heads], dim=1)
            q, k = torch.split(self._turned(both, cos, sin), [self.heads, self.kv_heads], dim=1)
            return q, [k, v]
        if len(parts) == 1:
            parts = list(torch.split(parts[0], [self.heads, self.kv_heads, self.kv_heads], dim=1))
        q, k, v = parts
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return self._turned(q, cos, sin), [self._turned(k, cos, sin), v]

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return rotate(x, cos.to(x.dtype), sin.to(x.dtype)) if self.is_rotated else x


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.ffn, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.width, config.ffn, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.ffn, config.width, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and feed-forward, each on a normalised copy added back to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.mlp = FeedForward(config)

    def qkv(self, x: Tensor) -> list[Tensor]:
        return self.self_attn.qkv(self.input_layernorm(x))

    def add_attended(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.self_attn.o_proj(y)  # type: ignore[no-any-return]

    def add_feed_forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        allowed: Tensor | None,
        *,
        cache: LayerCache | None = None,
        last: Tensor | None = None,
        products: Products | None = None,
    ) -> Tensor:
        """x [B,T,C]; `allowed` [B,1,T,S] says who may look at whom, or None for plain causal.

        With a `cache` the tokens are added to it and look at what it gives back. `last` [B] asks for the output at one
        position of each row alone, [B,1,C], whose keys `allowed` [B,1,1,T] then names. `products` computes in place of
        this block's own three steps; see sampling.
        """
        steps = self if products is None else products
        q, kv = self.self_attn.split(steps.qkv(x), cos, sin)
        if cache is not None:
            k, v = cache.extend(kv[0] if len(kv) == 1 else torch.cat(kv, dim=1))
        else:
            k, v = kv if len(kv) == 2 else kv[0].chunk(2, dim=1)
        if last is not None:
            index = torch.arange(len(x), device=x.device)
            q, x = q[index, :, last].unsqueeze(2), x[index, last].unsqueeze(1)  # (B, H, 1, D), (B, 1, C)
        y = attend(q, k, v, allowed)
        x = steps.add_attended(x, y.transpose(1, 2).flatten(2))
        return steps.add_feed_forward(x)


class Products(Protocol):
    """The matrix products of a block: its own, or prepared ones that amount to the same."""

    def qkv(self, x: Tensor) -> list[Tensor]: ...

    def add_attended(self, x: Tensor, y: Tensor) -> Tensor: ...

    def add_feed_forward(self, x: Tensor) -> Tensor: ...


class Decoder(nn.Module):
    """Embedding, blocks and the final norm, which is applied here and nowhere else."""

    autocast = False
    """Take products in bfloat16 although the weights are float32."""
    checkpoint_activations = False
    """Keep only what goes into each block, and compute the rest of it again on the way back."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self._table: tuple[Tensor, Tensor] | None = None

    def rotations(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin of the first positions, each [length or more, D] in float32.

        The table grows with the longest row that was read: a context of 131,072 would take 67 MB from the start.
        """
        device = self.embed_tokens.weight.device
        if self._table is None or len(self._table[0]) < length or self._table[0].device != device:
            config, rows = self.config, max(256, 1 << (length - 1).bit_length())
            with torch.inference_mode(False):  # the sampler may ask first, and training keeps it for its gradient
                cos, sin = rope_table(
                    min(rows, config.context), config.head_dim, config.rope_theta, config.rope_scaling
                )
                self._table = (cos.to(device), sin.to(device))
        return self._table

    @property
    def cos(self) -> Tensor:
        return self.rotations(self.config.context)[0]

    @property
    def sin(self) -> Tensor:
        return self.rotations(self.config.context)[1]

    def computing(self) -> AbstractContextManager[Any]:
        """The precision that products are taken in: the weights' own, or bfloat16."""
        return torch.autocast(self.embed_tokens.weight.device.type, torch.bfloat16) if self.autocast else nullcontext()

    def forward(
        self, tokens: Tensor, *, segments: Tensor | None = None, layout: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Hidden states [B,T,C] of tokens [B,T].

        `segments` [B,T] numbers the packed pieces of each row: attention stays inside a piece and
        positions start again at 0 in it. Rows padded on the right need no mask: attention is causal.
        A `layout` says it all itself: every token's position [B,T], and who may look at whom [B,1,T,T].
        ValueError when a position exceeds the context.
        """
        length = tokens.shape[1]
        positions, allowed = (None, None) if layout is None else layout
        if segments is not None:
            positions = segment_positions(segments)
            same = segments.unsqueeze(2) == segments.unsqueeze(1)  # (B, T, T)
            allowed = same.tril().unsqueeze(1)
        longest = length if positions is None else int(positions.max()) + 1
        if longest > self.config.context:
            raise ValueError(f"{longest} tokens do not fit this model's context of {self.config.context}.")
        cos, sin = (table[:longest] for table in self.rotations(longest))
        if positions is not None:
            cos, sin = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)  # (B, 1, T, D)
        near = self.within_window(length, allowed, positions)
        with self.computing():
            x = self.embed_tokens(tokens)
            for block in self.layers:
                assert isinstance(block, Block)
                rest = (cos, sin, near if block.self_attn.window else allowed)
                if self.checkpoint_activations and torch.is_grad_enabled():
                    x = checkpoint(block, x, *rest, use_reentrant=False, preserve_rng_state=False)
                else:
                    x = block(x, *rest)
            return self.norm(x)  # type: ignore[no-any-return]

    def within_window(self, length: int, allowed: Tensor | None, positions: Tensor | None = None) -> Tensor | None:
        """`allowed` [B,1,T,T], or None for plain causal, without what a sliding window hides.

        The window is counted in `positions` [B,T], which are the places in the row where nothing else is said.
        """
        if not 0 < self.config.window < length:
            return allowed
        if positions is not None and allowed is not None:
            distance = positions.unsqueeze(2) - positions.unsqueeze(1)  # (B, T, T)
            return allowed & (distance < self.config.window).unsqueeze(1)
        causal = torch.ones(length, length, dtype=torch.bool, device=self.embed_tokens.weight.device).tril()
        near = causal.triu(1 - self.config.window)
        return near.view(1, 1, length, length) if allowed is None else allowed & near


def segment_positions(segments: Tensor) -> Tensor:
    """Position of every token inside its own segment, [B,T], for segments numbered in order."""
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return index - torch.where(starts, index, 0).cummax(dim=1).values


class LanguageModel(nn.Module):
    """The decoder with an output head: its embedding matrix (tied), or a matrix of its own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.decoder = Decoder(config)
        self.lm_head = None if config.is_tied else nn.Linear(config.width, config.vocab_size, bias=False)

    @property
    def config(self) -> ModelConfig:
        return self.decoder.config

    @property
    def head_weight(self) -> Tensor:
        """The matrix that turns hidden states into logits, [V, C]."""
        return self.decoder.embed_tokens.weight if self.lm_head is None else effective_weight(self.lm_head)

    def read(self, ids: Sequence[int]) -> Tensor:
        """Hidden states [T,C] of one text; ValueError when it is longer than the context."""
        hidden: Tensor = self.decoder(torch.tensor([ids], device=self.head_weight.device))
        return hidden.squeeze(0)

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits [..., V] of hidden states [..., C]."""
        with self.decoder.computing():
            return F.linear(hidden, self.head_weight).float()

    def forward(self, tokens: Tensor, *, segments: Tensor | None = None) -> Tensor:
        """Float32 next-token logits [B,T,V] of tokens [B,T]."""
        return self.logits(self.decoder(tokens, segments=segments))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Random weights: N(0, 0.02) embeddings, N(0, 1/sqrt(fan_in)) matrices.

        The matrices that write to the residual stream are scaled down by 1/sqrt(2·layers) (GPT-2),
        so depth does not blow up the stream.
        """
        scale = 1 / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            std = 0.02 if "embed_tokens" in name else 1 / math.sqrt(parameter.shape[1])
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std *= scale
            parameter.normal_(0.0, std, generator=generator)


class ScalarModel(nn.Module):
    """The decoder with a head that reads one number from every position."""

    bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.decoder = Decoder(config)
        self.head = nn.Linear(config.width, 1, bias=False)
        self.register_buffer("bias", torch.zeros(()))

    @property
    def config(self) -> ModelConfig:
        return self.decoder.config

    def values(self, hidden: Tensor) -> Tensor:
        """Float32 values [...] of hidden states [..., C], whatever precision those were computed in."""
        return F.linear(hidden.float(), self.head.weight.float()).squeeze(-1).float() + self.bias

    def forward(self, tokens: Tensor, *, segments: Tensor | None = None) -> Tensor:
        """Float32 values [B,T] of tokens [B,T]."""
        return self.values(self.decoder(tokens, segments=segments))

    @classmethod
    @torch.no_grad()
    def from_language_model(cls, model: LanguageModel, *, generator: torch.Generator) -> ScalarModel:
        """The same decoder weights under a fresh head."""
        embedding = model.decoder.embed_tokens.weight
        with torch.device("meta"):  # no random weights that are overwritten at once
            scalar = cls(model.config)
        scalar.to(embedding.dtype).to_empty(device=embedding.device)
        scalar.bias = torch.zeros((), device=embedding.device)
        scalar.decoder.load_state_dict(model.decoder.state_dict())
        scalar.head.weight.copy_(fresh_head(model.config.width, generator=generator))
        return scalar


def fresh_head(width: int, *, generator: torch.Generator) -> Tensor:
    """A scalar head's random weights [1, C], with std 1/sqrt(width + 1) (Stiennon et al., 2020)."""
    return torch.empty(1, width).normal_(0.0, 1 / math.sqrt(width + 1), generator=generator)

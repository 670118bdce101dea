"""The decoder: a Llama-shaped transformer, with a vocabulary head or a scalar head.

The idea: RMSNorm, rotary positions, SwiGLU and grouped-query attention with tied embeddings, module
names and layouts exactly as Hugging Face's `LlamaForCausalLM` has them, so a saved checkpoint needs
no custom code anywhere. The same decoder carries two heads: `LanguageModel` (next-token logits) and
`ScalarModel` (one number per position: reward models and critics).

Simplifications: no dropout anywhere (the data is seen once or a few times, and RL needs two passes
to agree) and no biases.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.config import ModelConfig


class RMSNorm(nn.Module):
    """x / rms(x) * weight, with the statistics in float32 (Zhang & Sennrich, 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps).to(x.dtype)


def rope_table(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin, each [length, head_dim], of the rotary position embedding (Su et al., 2021)."""
    inverse = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), inverse)  # (T, D/2)
    angles = torch.cat([angles, angles], dim=-1)  # (T, D): Llama's layout turns halves, not neighbours
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x [..., D] by the angles in cos and sin, which broadcast against it."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


def effective_weight(linear: nn.Linear) -> Tensor:
    """The weight a linear layer works with: its own, or what a subclass with an adapter makes of it."""
    merged: Callable[[], Tensor] | None = getattr(linear, "merged", None)
    return linear.weight if merged is None else merged()


def project(
    x: Tensor, qkv: Tensor, cos: Tensor, sin: Tensor, *, heads: int, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Turned queries [B,H,T,D], turned keys and values [B,Hkv,T,D] of x [B,T,C]; qkv is an `Attention.qkv_weight`."""
    return turn(F.linear(x, qkv), cos, sin, heads=heads, kv_heads=kv_heads)


def turn(joined: Tensor, cos: Tensor, sin: Tensor, *, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """`project` of what came out of the product, [B,T,(H + 2·Hkv)·D]."""
    batch, length, _ = joined.shape
    joined = joined.view(batch, length, heads + 2 * kv_heads, -1).transpose(1, 2)
    queries_and_keys, v = torch.split(joined, [heads + kv_heads, kv_heads], dim=1)
    turned = rotate(queries_and_keys, cos.to(joined.dtype), sin.to(joined.dtype))
    q, k = torch.split(turned, [heads, kv_heads], dim=1)
    return q, k, v


SHORT = 512
"""Rows up to this length may hold a whole matrix of attention scores on a CPU; longer ones do not."""


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √D) v with shared keys: q [B,H,T,D], k and v [B,Hkv,T,D] -> [B,H,T,D].

    `allowed` [B,1,T,T] says who may look at whom, or None for plain causal. PyTorch's own kernel, except for
    short rows in bfloat16 on a CPU: there its backward pass falls back to float32 and takes three times as long
    as plain products, which use the processor's bfloat16 units.
    """
    batch, heads, length, dim = q.shape
    shared = k.shape[1]
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


class Attention(nn.Module):
    """Causal grouped-query self-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.q_proj = nn.Linear(config.width, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.width, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.width, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.width, bias=False)

    def qkv_weight(self) -> Tensor:
        """The three projections below each other, [(H + 2·Hkv)·D, C]: one product instead of three small ones."""
        return torch.cat([effective_weight(part) for part in (self.q_proj, self.k_proj, self.v_proj)])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, allowed: Tensor | None) -> Tensor:
        """x [B,T,C]; `allowed` [B,1,T,T] says who may look at whom, or None for plain causal."""
        parts = (self.q_proj, self.k_proj, self.v_proj)
        if all(type(part) is nn.Linear for part in parts):
            joined = F.linear(x, self.qkv_weight())
        else:  # an adapter computes beside its weight, so it must be called
            joined = torch.cat([part(x) for part in parts], dim=-1)
        q, k, v = turn(joined, cos, sin, heads=self.heads, kv_heads=self.kv_heads)
        y = attend(q, k, v, allowed)
        return self.o_proj(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.ffn, bias=False)
        self.up_proj = nn.Linear(config.width, config.ffn, bias=False)
        self.down_proj = nn.Linear(config.ffn, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and feed-forward, each on a normalised copy added back to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, allowed: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, allowed)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Embedding, blocks and the final norm, which is applied here and nowhere else."""

    cos: Tensor
    sin: Tensor
    checkpoint_activations = False
    """Keep only what goes into each block, and compute the rest of it again on the way back."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        cos, sin = rope_table(config.context, config.head_dim, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

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
        if segments is not None:
            same = segments.unsqueeze(2) == segments.unsqueeze(1)  # (B, T, T)
            layout = segment_positions(segments), same.tril().unsqueeze(1)
        longest = length if layout is None else int(layout[0].max()) + 1
        if longest > self.config.context:
            raise ValueError(f"{longest} tokens do not fit this model's context of {self.config.context}.")
        if layout is None:
            cos, sin, allowed = self.cos[:length], self.sin[:length], None
        else:
            positions, allowed = layout
            cos, sin = self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)  # (B, 1, T, D)
        x = self.embed_tokens(tokens)
        for block in self.layers:
            if self.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(block, x, cos, sin, allowed, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, cos, sin, allowed)
        return self.norm(x)  # type: ignore[no-any-return]


def segment_positions(segments: Tensor) -> Tensor:
    """Position of every token inside its own segment, [B,T], for segments numbered in order."""
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return index - torch.where(starts, index, 0).cummax(dim=1).values


class LanguageModel(nn.Module):
    """The decoder with its embedding matrix as the output head (tied)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.decoder = Decoder(config)

    @property
    def config(self) -> ModelConfig:
        return self.decoder.config

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits [..., V] of hidden states [..., C]."""
        return F.linear(hidden, self.decoder.embed_tokens.weight).float()

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
                parameter.fill_(1.0)
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
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.float(), self.head.weight.float()).squeeze(-1) + self.bias

    def forward(self, tokens: Tensor, *, segments: Tensor | None = None) -> Tensor:
        """Float32 values [B,T] of tokens [B,T]."""
        return self.values(self.decoder(tokens, segments=segments))

    @classmethod
    @torch.no_grad()
    def from_language_model(cls, model: LanguageModel, *, generator: torch.Generator) -> ScalarModel:
        """The same decoder weights under a fresh head with std 1/sqrt(width + 1) (Stiennon et al., 2020)."""
        scalar = cls(model.config)
        scalar.decoder.load_state_dict(model.decoder.state_dict())
        scalar.head.weight.normal_(0.0, 1 / math.sqrt(model.config.width + 1), generator=generator)
        return scalar

"""Adapters: teach a large model by teaching little matrices beside its frozen ones (LoRA).

The idea (Hu et al. 2021, https://arxiv.org/abs/2106.09685): what fine-tuning adds to a weight W [out, in] has a low
rank, so only its two thin factors are learnt:

    y = x Wᵀ + (α / r) · x Aᵀ Bᵀ      A [r, in] random, B [out, r] zero: at first nothing is added

The *base* is frozen and lies in memory once, in the precision the machine is fast in, however many models stand on it:
policy, reward model and critic are three adapters over the same tensors, and the reference is the base with none. The
adapters themselves are float32, because the small steps of a slow learning rate are lost in a sum of bfloat16 numbers;
they are rounded only to compute. Gradients and optimiser states exist for what learns, which is a few per cent.

A checkpoint holds the merged weights, W + (α / r) B A, so that everything loads it, and beside them `adapter/` in the
layout of Hugging Face's PEFT, with the hash of the base it belongs to: a stage that starts from that base too takes the
adapter itself. Merging rounds: a base in bfloat16 has no bits for an addition below half a step of its own numbers, and
the nearest number is then the old one. So it rounds up or down at random, with the chances that keep the mean
("stochastic rounding", Gupta et al. 2015, https://arxiv.org/abs/1502.02551). Three steps at 2e-4 moved
SmolLM2-135M-Instruct by 0.161 nats a token; merged to the nearest it had moved by 0.070, this way by 0.161, and was
0.00006 nats from base and adapter (after one step: 0.039, 0.006, 0.039). So the next stage, and the sampler of this
one, may take merged weights.

Simplifications: adapters on all seven linear layers of every block and nowhere else (Dettmers et al. 2023,
https://arxiv.org/abs/2305.14314, found that to be what matters), α = 2r, no dropout.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.runtime.files import sha256_file, write_atomic
from trainer.runtime.reading import read_bytes

ADAPTER: Final = "adapter"
"""Directory of the adapter inside a checkpoint."""
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LAYERS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALPHA_PER_RANK: Final = 2
"""α / r: what B A is multiplied by. A fixed one, so that a learning rate means the same at every rank."""
LARGEST_RANK: Final = 4096
LARGEST_CONFIG_BYTES: Final = 2**20
HEAD: Final = "head.weight"
PREFIX: Final = "base_model.model."
"""What PEFT puts before the names of the model it wraps."""

Model = TypeVar("Model", bound=LanguageModel | ScalarModel)


class AdapterError(ValueError):
    """An adapter that cannot be used; the message says why."""


class LoRALinear(nn.Linear):
    """A linear layer over the weight of another one, frozen, and an adapter of its own."""

    def __init__(self, base: nn.Linear, *, rank: int, scale: float, generator: torch.Generator) -> None:
        """The same tensors as `base`; A is drawn as PEFT draws it, uniformly within ±1/√in, and B is 0."""
        nn.Module.__init__(self)  # not nn.Linear's, which would make a weight
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.rank, self.scale = rank, scale
        device, bound = base.weight.device, 1 / math.sqrt(self.in_features)
        drawn = torch.empty(rank, self.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(drawn.to(device))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out], in the base's precision."""
        kind = self.weight.dtype
        y = F.linear(x, self.weight, self.bias)
        low = F.linear(x, (self.scale * self.lora_A).to(kind))  # (..., r)
        return torch.addmm(y.flatten(0, -2), low.flatten(0, -2), self.lora_B.to(kind).T).view(y.shape)

    def delta(self) -> Tensor:
        """(α / r) B A [out, in], in float32: what the adapter adds to the weight."""
        return self.scale * (self.lora_B @ self.lora_A)

    def merged(self) -> Tensor:
        """One weight [out, in] that stands for both, in the base's precision."""
        return self.merged_with(self.weight)

    @torch.no_grad()
    def merged_with(self, weight: Tensor) -> Tensor:
        """`weight` [out, in], the base's in whatever precision, with what is learnt added, in its own precision.

        It may lie elsewhere than the adapter: what is saved is put together on the CPU, wherever it was learnt.
        """
        return rounded(weight.float() + self.delta().to(weight.device), weight.dtype)


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 `values` in `dtype`; in bfloat16 up or down at random, so that the mean stays (see above).

    A bfloat16 is the upper half of a float32: a random lower half, added before it is cut off, carries with just the
    chance that the value is nearer to the next one. The same values meet the same dice on one kind of device, so that
    merging can be repeated, and other values other ones, so that errors do not add up over layers and stages.
    """
    if dtype != torch.bfloat16:
        return values.to(dtype)
    bits = values.contiguous().view(torch.int32)
    dice = torch.Generator(values.device).manual_seed(int(bits.sum(dtype=torch.int64)) % 2**63)
    noise = torch.randint(1 << 16, values.shape, generator=dice, dtype=torch.int32, device=values.device)
    return ((bits + noise) & -(1 << 16)).view(torch.float32).to(dtype)


# -- models over one base --------------------------------------------------------------------------


def own_tensors(model: LanguageModel | ScalarModel) -> dict[str, Tensor]:
    """What a model over a shared base has to itself: its adapter, and a scalar head with its bias."""
    return {
        name: tensor
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if name.endswith((".lora_A", ".lora_B")) or (isinstance(model, ScalarModel) and not name.startswith("decoder."))
    }


def twin(model: Model, replaced: Mapping[int, Tensor] | None = None) -> Model:
    """The same model again: over the very tensors of its base, with a copy of what it has to itself.

    `replaced` holds, by the id of a tensor, what stands in its place.
    """
    own = {id(tensor) for tensor in own_tensors(model).values()}
    everything = (*model.parameters(), *model.buffers())
    memo: dict[int, Any] = {id(tensor): tensor for tensor in everything if id(tensor) not in own}
    return copy.deepcopy(model, memo | dict(replaced or {}))


def copy_of(model: Model) -> Model:
    """A copy that learns apart from the model: over the same base where there is one, else of everything."""
    return twin(model) if is_adapted(model) else copy.deepcopy(model)


def adapted(model: Model, *, rank: int, generator: torch.Generator, scale: float = ALPHA_PER_RANK) -> Model:
    """A model over the tensors of `model`, which is frozen from now on, with a fresh adapter: at first the same.

    The head of a scalar model learns too, as a float32 copy of its own.
    """
    model.requires_grad_(False)
    new = twin(model)
    for layer in list(new.decoder.layers.modules()):
        for name, part in list(layer.named_children()):
            if name in LAYERS:
                assert type(part) is nn.Linear, "adapters do not stand on one another"
                setattr(layer, name, LoRALinear(part, rank=rank, scale=scale, generator=generator))
    if isinstance(new, ScalarModel):
        new.head.weight = nn.Parameter(new.head.weight.detach().float())
        new.bias = new.bias.float()
    return new


def scalar_over(model: LanguageModel, *, head: Tensor, bias: float = 0.0) -> ScalarModel:
    """A frozen scalar model over the decoder of `model`, tensor for tensor, under the head [1, C]."""
    with torch.device("meta"):
        scalar = ScalarModel(model.config)
    scalar.decoder = twin(model).decoder
    scalar.head.weight = nn.Parameter(head.float())
    scalar.bias = torch.full((), bias, device=head.device)
    return scalar.requires_grad_(False)


def is_adapted(model: nn.Module) -> bool:
    return any(isinstance(part, LoRALinear) for part in model.modules())


def learning(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn: all of them, or of an adapted model what it has to itself."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


class Learnt(nn.Module):
    """What an adapted model has to itself, as a module of its own: what is averaged, saved and resumed.

    Its parameters, that is; a bias that is added to the values is no part of what is learnt.
    """

    def __init__(self, model: LanguageModel | ScalarModel) -> None:
        super().__init__()
        for name, tensor in own_tensors(model).items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name.replace(".", "/"), tensor)  # a dot would mean a module


def learnt(model: LanguageModel | ScalarModel) -> nn.Module:
    """What of a model must be kept to resume from: all of it, unless most of it is a frozen base."""
    return Learnt(model) if is_adapted(model) else model


def standing_on(model: Model, learnt: nn.Module) -> Model:
    """The model that a copy of `learnt(model)` makes, over the same base where there is one."""
    if isinstance(learnt, type(model)):
        return learnt
    pairs = zip(Learnt(model).parameters(), learnt.parameters(), strict=True)
    return twin(model, {id(mine): other for mine, other in pairs})


@torch.no_grad()
def merge_into(base: Model, model: LanguageModel | ScalarModel) -> Model:
    """Write into `base`, a plain model, what the adapter of `model` makes of its weights, in their own precision."""
    adapters = {name: part for name, part in model.named_modules() if isinstance(part, LoRALinear)}
    for name, part in base.named_modules():
        if name in adapters:
            assert isinstance(part, nn.Linear)
            part.weight.copy_(adapters[name].merged_with(part.weight))
    return base


# -- files ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter read from a file."""

    rank: int
    scale: float
    base_sha256: str
    """Of the weights it was trained on: on any others it means nothing."""
    tensors: dict[str, Tensor]
    """By the names they have in a model."""

    def on(self, model: LanguageModel, *, bias: float = 0.0) -> LanguageModel | ScalarModel:
        """The model that this adapter makes of its base, over the tensors of `model`; it can learn on.

        A scalar model if there is a head; `bias` is what is added to its values. AdapterError when it does not fit.
        """
        head = self.tensors.get(HEAD)
        device = next(model.parameters()).device
        base = model if head is None else scalar_over(model, head=head.to(device), bias=bias)
        new = adapted(base, rank=self.rank, scale=self.scale, generator=torch.Generator().manual_seed(0))
        wanted = {name: tensor for name, tensor in own_tensors(new).items() if name != "bias"}
        if {name: t.shape for name, t in wanted.items()} != {name: t.shape for name, t in self.tensors.items()}:
            raise AdapterError("The adapter has other layers or sizes than the model it should stand on.")
        with torch.no_grad():
            for name, tensor in wanted.items():
                tensor.copy_(self.tensors[name])
        return new


def save_adapter(checkpoint: Path, model: LanguageModel | ScalarModel, *, base_sha256: str) -> dict[str, Any]:
    """Write the adapter of `model` into `checkpoint`/adapter as PEFT lays it out; returns what stage.json says of it.

    `base_sha256` is the hash of the weights it stands on. It is written before the checkpoint itself, whose
    stage.json says that everything is there.
    """
    tensors = {_peft_name(name): t.detach().cpu().contiguous() for name, t in own_tensors(model).items() if t.ndim}
    layer = next(part for part in model.modules() if isinstance(part, LoRALinear))
    is_scalar = isinstance(model, ScalarModel)
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if is_scalar else "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": layer.rank,
        "lora_alpha": layer.scale * layer.rank,
        "lora_dropout": 0.0,
        "target_modules": list(LAYERS),
        "modules_to_save": ["score"] if is_scalar else None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    directory = checkpoint / ADAPTER
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / ADAPTER_CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    # One entry, because several stand in the file in an order that differs from run to run.
    write_atomic(directory / ADAPTER_WEIGHTS, save(tensors, metadata={"base_sha256": base_sha256}))
    return {"rank": layer.rank, "base_sha256": base_sha256, "sha256": sha256_file(directory / ADAPTER_WEIGHTS)}


def read_adapter(checkpoint: Path, *, sha256: str | None = None) -> Adapter | None:
    """The adapter beside a checkpoint's weights, None where there is none; AdapterError when it is damaged.

    `sha256` is what stage.json says its weights hash to.
    """
    directory = checkpoint / ADAPTER
    path = directory / ADAPTER_WEIGHTS
    if not path.is_file():
        return None
    if sha256 is not None and sha256_file(path) != sha256:
        raise AdapterError(f"{path} is not the file stage.json describes. Restore or retrain it.")
    try:
        config = json.loads(read_bytes(directory / ADAPTER_CONFIG, most=LARGEST_CONFIG_BYTES))
        rank, alpha = config["r"], config["lora_alpha"]
        with safe_open(path, framework="pt") as file:
            base_sha256 = file.metadata()["base_sha256"]
            tensors = {_own_name(name): file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise AdapterError(f"{directory} holds no adapter of ours ({error}). Restore or retrain it.") from error
    is_fit = isinstance(rank, int) and 1 <= rank <= LARGEST_RANK and isinstance(alpha, int | float) and 0 < alpha < 1e6
    if not is_fit or not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise AdapterError(f"{directory} has a rank, an alpha or weights that cannot be. Restore or retrain it.")
    return Adapter(rank=rank, scale=alpha / rank, base_sha256=base_sha256, tensors=tensors)


def _peft_name(name: str) -> str:
    """PEFT's name of one of our tensors: ours are decoder.layers.0.self_attn.q_proj.lora_A and so on, and head."""
    if name == HEAD:
        return f"{PREFIX}score.weight"
    return f"{PREFIX}{name.replace('decoder.', 'model.', 1)}.weight"


def _own_name(name: str) -> str:
    plain = name.removeprefix(PREFIX)
    return HEAD if plain == "score.weight" else plain.replace("model.", "decoder.", 1).removesuffix(".weight")

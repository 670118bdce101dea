"""How a stage takes its parent into memory: which weights learn, and in which precision it computes.

The idea: without an adapter every weight learns, in float32, because steps as small as fine-tuning's are lost in
bfloat16; where the machine is fast in it the products are still taken in bfloat16 (autocast). With an adapter
(adapters.py) the parent's weights are a frozen base that lies in memory once, in bfloat16 where that is fast, and what
learns are a few float32 numbers beside it. The reference of reinforcement learning is then the base itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch import nn

from trainer.config import AdaptingConfig
from trainer.model import adapters
from trainer.model.checkpoint import (
    Loaded,
    check_same_tokens,
    load_checkpoint,
    load_reward_model,
    read_info,
    read_shape,
    save_checkpoint,
)
from trainer.model.decoder import LanguageModel, ScalarModel, fresh_head
from trainer.model.tokenizer import Tokenizer
from trainer.runtime import machine
from trainer.runtime.loop import saved_state
from trainer.runtime.seeds import random_generator

Model = TypeVar("Model", LanguageModel, ScalarModel)

ENTIRE: Final = 256
"""Below this width a model that learns as a whole from rewards computes in float32: it is bound by the number of
operations, which autocast adds to."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A parent in memory, and what a stage makes of it."""

    directory: Path
    loaded: Loaded
    config: AdaptingConfig
    precision: str
    """ "float32" or "bfloat16": what products are taken in."""
    seed: int

    @property
    def base(self) -> LanguageModel:
        """The parent. It is frozen as soon as an adapter stands on it, and learns itself where none does."""
        return self.loaded.language_model

    @property
    def tokenizer(self) -> Tokenizer:
        return self.loaded.tokenizer

    @property
    def info(self) -> dict[str, Any]:
        return self.loaded.info

    @property
    def rescores(self) -> bool:
        """Whether the sampler's log-probs are not the trainer's: then the trainer takes them again."""
        return self.precision != "float32"

    def policy(self) -> LanguageModel:
        """The model that learns: the parent itself, or a fresh adapter on it."""
        if not self.config.adapter_rank:
            return self.base
        return adapters.adapted(
            self.base, rank=self.config.adapter_rank, generator=random_generator(self.seed, "adapter")
        )

    def reference(self) -> LanguageModel:
        """The parent as it is and stays; to be taken before anything learns."""
        return (self.base if self.config.adapter_rank else copy.deepcopy(self.base)).requires_grad_(False)

    def judge(self, directory: Path) -> ScalarModel:
        """A reward model, frozen: on the parent's own tensors if it is an adapter on them, else loaded apart.

        ValueError when it reads other tokens than the parent writes.
        """
        if (model := self._adapter_on_base(directory)) is not None:
            return model.requires_grad_(False)
        device = self.base.decoder.embed_tokens.weight.device
        loaded = load_reward_model(directory, device=device, dtype=self.base_dtype, tokenizer=self.tokenizer)
        return self.prepared(loaded.reward_model).requires_grad_(False)

    def _adapter_on_base(self, directory: Path) -> ScalarModel | None:
        info = read_info(directory) if self.config.adapter_rank else {}
        said = info.get("adapter")
        if not isinstance(said, Mapping) or said.get("base_sha256") != self.info.get("weights_sha256"):
            return None
        adapter = adapters.read_adapter(directory, sha256=said.get("sha256"))
        if adapter is None or adapter.base_sha256 != said["base_sha256"]:
            return None
        model = adapter.on(self.base, bias=float(info.get("score_bias", 0.0)))
        if not isinstance(model, ScalarModel):
            return None
        check_same_tokens(directory, Tokenizer.load(directory), self.tokenizer)
        return model

    def critic(self, judge: ScalarModel) -> ScalarModel:
        """A copy of the reward model that learns: of its adapter if it has one, a fresh adapter on it, or all of it."""
        if not self.config.adapter_rank:
            return copy.deepcopy(judge).requires_grad_(True)
        if not adapters.is_adapted(judge):
            return adapters.adapted(
                judge, rank=self.config.adapter_rank, generator=random_generator(self.seed, "critic's adapter")
            )
        critic = adapters.twin(judge)
        for tensor in adapters.own_tensors(critic).values():
            tensor.requires_grad_(isinstance(tensor, nn.Parameter))
        return critic

    def scalar(self, *, generator: torch.Generator) -> ScalarModel:
        """The parent under a fresh scalar head that learns, with a fresh adapter or as a copy that learns entirely."""
        if not self.config.adapter_rank:
            return ScalarModel.from_language_model(self.base, generator=generator)
        head = fresh_head(self.base.config.width, generator=generator)
        base = adapters.scalar_over(self.base, head=head.to(self.base.decoder.embed_tokens.weight.device))
        return adapters.adapted(base, rank=self.config.adapter_rank, generator=generator)

    @property
    def base_dtype(self) -> torch.dtype:
        """What weights are held in: all that learn are float32, and frozen ones are what is computed in."""
        return machine.DTYPES[self.precision] if self.config.adapter_rank else torch.float32

    def prepared(self, model: Model) -> Model:
        """The model, set to compute as this stage does."""
        model.decoder.autocast = self.precision == "bfloat16" and not self.config.adapter_rank
        model.decoder.checkpoint_activations = self.config.checkpoint_activations
        return model

    def save(self, out_dir: Path, model: LanguageModel | ScalarModel, *, stage: str, info: Mapping[str, Any]) -> Path:
        """Write a checkpoint of `model`: of an adapted one its merged weights, and the adapter beside them.

        The merged weights are made from the parent's as they are stored, whatever they were computed in.
        """
        if not adapters.is_adapted(model):
            return save_checkpoint(out_dir, model, self.tokenizer, stage=stage, info=info)
        base_sha256 = str(self.info["weights_sha256"])
        said = adapters.save_adapter(out_dir, model, base_sha256=base_sha256)
        stored = load_checkpoint(self.directory, dtype=None).language_model
        whole: LanguageModel | ScalarModel = stored
        if isinstance(model, ScalarModel):
            whole = adapters.scalar_over(stored, head=model.head.weight.detach().cpu(), bias=float(model.bias))
        adapters.merge_into(whole, model)
        return save_checkpoint(out_dir, whole, self.tokenizer, stage=stage, info={**info, "adapter": said})


def start(
    directory: Path, config: AdaptingConfig, *, seed: int, out_dir: Path, learns_from_text: bool = False
) -> Start:
    """Load the parent of a stage as its settings want it.

    A run that is resumed goes on in the precision it began with, whatever the machine is measured to be good at now.
    """
    width = read_shape(directory).width
    machine.keep_few_shapes(width)
    chosen = saved_state(out_dir).get("precision")
    if chosen not in machine.DTYPES:
        is_little = width < ENTIRE and not (config.adapter_rank or learns_from_text)
        chosen = "float32" if is_little else machine.choose_precision(width)
    dtype = machine.DTYPES[chosen] if config.adapter_rank else torch.float32
    loaded = load_checkpoint(directory, device=machine.device(), dtype=dtype)
    begun = Start(directory=directory, loaded=loaded, config=config, precision=chosen, seed=seed)
    begun.prepared(loaded.language_model)
    return begun

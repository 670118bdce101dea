"""Loaded chat models: one batching engine per checkpoint, the least recently used dropped first.

With webapp/checkpoints/loading.py the only module of the site that imports torch, and only the `generate` worker
imports this one.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from django.conf import settings

from trainer.config import ModelConfig
from trainer.data.prompting import answer_room, prompt_ids
from trainer.model.checkpoint import load_checkpoint
from trainer.model.engine import Engine, EngineService, Request, Sampling
from trainer.model.tokenizer import Tokenizer
from webapp.checkpoints.models import Checkpoint

logger = logging.getLogger(__name__)

# A small model is bound by the number of operations, not by arithmetic: a second thread only takes
# the core that training wants. The engine batches; that is where its speed comes from.
torch.set_num_threads(1)

MAX_BATCH = 64
CACHE_SHARE = 1 / 5
"""How much of the memory budget one engine's cache may take: five stages answer, and each needs some of it."""
WAIT_S = 0.25
"""Who waits for an engine looks this often whether it is still wanted."""
WEIGHT_COPIES = 2
"""The engine keeps fused copies of the matrices beside the model's own."""


@dataclass
class LoadedEngine:
    """A checkpoint ready to answer."""

    service: EngineService
    tokenizer: Tokenizer
    config: ModelConfig
    stage: str
    bytes: int
    """What it may come to occupy: weights, and the cache at its largest batch."""
    users: int = 0
    """Answers being written right now; a model in use is never dropped."""
    is_leaving: bool = False
    """Somebody waits for its memory: it takes no new users, and is dropped when the last one is done."""

    def submit(
        self, messages: list[dict[str, str]], sampling: Mapping[str, Any], *, background: bool = False
    ) -> Request:
        """Start an answer, behind all others if `background`.

        A conversation that ends with the assistant's turn has that turn continued.
        The oldest turns are left out when the conversation does not fit beside the answer.
        ValueError when even the last message is too long, or nothing more fits after a continued turn.
        """
        how = Sampling(**sampling)
        room = answer_room(self.config.context, how.max_new_tokens)
        prompt = render_prompt(self.tokenizer, messages, stage=self.stage, room=room)
        if len(prompt) >= self.config.context:
            raise ValueError(f"This answer fills all the {self.config.context} tokens the model can take in.")
        return self.service.submit(prompt, how, background=background)


def render_prompt(tokenizer: Tokenizer, messages: list[dict[str, str]], *, stage: str, room: int) -> list[int]:
    """Prompt ids, at most `room` of them before an unfinished turn of the assistant's, which stays open."""
    *before, last = messages
    if last["role"] != "assistant":
        return prompt_ids(tokenizer, messages, stage=stage, room=room)
    return prompt_ids(tokenizer, before, stage=stage, room=room, begun=last["content"])


def load(directory: Path, *, stage: str) -> LoadedEngine:
    """Read a checkpoint from disk and answer one token with it, so that the first question is quick."""
    loaded = load_checkpoint(directory)
    model, tokenizer = loaded.language_model.eval().requires_grad_(False), loaded.tokenizer
    weights, row = memory_bytes(model.config)
    budget = settings.ENGINE_MEMORY_MB * 2**20
    cache = min(budget * CACHE_SHARE, budget - weights)
    max_batch = max(1, min(MAX_BATCH, int(cache / row)))
    engine = Engine(model, end_ids=tokenizer.end_ids, max_batch=max_batch)
    engine.generate([[tokenizer.document_end_id]], [Sampling(max_new_tokens=1)])
    return LoadedEngine(EngineService(engine), tokenizer, model.config, stage, weights + max_batch * row)


def memory_bytes(config: ModelConfig) -> tuple[int, int]:
    """(weights, one full row of the key/value cache) of a loaded engine, in bytes of float32."""
    row = config.layers * 2 * config.kv_heads * config.context * config.head_dim * 4
    return WEIGHT_COPIES * config.parameters * 4, row


class NotWaitedFor(Exception):
    """Whoever wanted an engine stopped wanting it before there was one."""


class Engines:
    """The loaded engines of this process, within a memory budget."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._loaded: OrderedDict[int, LoadedEngine] = OrderedDict()
        self._loading: set[int] = set()

    @contextmanager
    def borrow(
        self, checkpoint: Checkpoint, *, is_unwanted: Callable[[], bool] = lambda: False
    ) -> Iterator[LoadedEngine]:
        """An engine that stays loaded while the block runs; one that broke in it is not used again.

        It may have to be waited for. `is_unwanted` is asked meanwhile, and NotWaitedFor raised once it says so.
        """
        engine = self._take(checkpoint, is_unwanted)
        try:
            yield engine
        except ValueError:
            raise  # a question the model cannot take; the engine is sound
        except Exception:
            with self._condition:
                if self._loaded.get(checkpoint.pk) is engine:
                    del self._loaded[checkpoint.pk]
            raise
        finally:
            with self._condition:
                engine.users -= 1
                if engine.is_leaving and not engine.users and self._loaded.get(checkpoint.pk) is engine:
                    self._loaded.pop(checkpoint.pk).service.close()
                self._condition.notify_all()

    def _take(self, checkpoint: Checkpoint, is_unwanted: Callable[[], bool]) -> LoadedEngine:
        """Wait for, reuse or load the checkpoint's engine, and count one more user."""
        with self._condition:
            while checkpoint.pk in self._loading or self._is_leaving(checkpoint.pk):
                self._wait(is_unwanted)
            engine = self._loaded.get(checkpoint.pk)
            if engine is not None:
                self._loaded.move_to_end(checkpoint.pk)
                engine.users += 1
                return engine
            self._loading.add(checkpoint.pk)
        try:
            with self._condition:
                self._make_room(WEIGHT_COPIES * 4 * checkpoint.parameters, is_unwanted)
            engine = _load_for_visitors(checkpoint)
            with self._condition:
                try:
                    self._make_room(engine.bytes, is_unwanted)  # now that the size of its cache is known
                except NotWaitedFor:
                    engine.service.close()
                    raise
                engine.users = 1
                self._loaded[checkpoint.pk] = engine
                return engine
        finally:
            with self._condition:
                self._loading.discard(checkpoint.pk)
                self._condition.notify_all()

    def _make_room(self, wanted: int, is_unwanted: Callable[[], bool]) -> None:
        """Drop idle engines, oldest first, until `wanted` bytes fit; wait for busy ones to fall idle."""
        budget = settings.ENGINE_MEMORY_MB * 2**20
        while self._loaded and sum(engine.bytes for engine in self._loaded.values()) + wanted > budget:
            idle = next((pk for pk, engine in self._loaded.items() if not engine.users), None)
            if idle is None:
                # Otherwise newcomers would keep it busy for as long as there are any.
                next(iter(self._loaded.values())).is_leaving = True
                self._wait(is_unwanted)
            else:
                self._loaded.pop(idle).service.close()

    def _is_leaving(self, pk: int) -> bool:
        engine = self._loaded.get(pk)
        return engine is not None and engine.is_leaving

    def _wait(self, is_unwanted: Callable[[], bool]) -> None:
        """Until something has changed, or for a moment."""
        if is_unwanted():
            raise NotWaitedFor
        self._condition.wait(timeout=WAIT_S)

    def loaded(self) -> list[int]:
        """Ids of the checkpoints in memory, least recently used first."""
        with self._condition:
            return list(self._loaded)

    def close(self) -> None:
        """Stop every engine."""
        with self._condition:
            for engine in self._loaded.values():
                engine.service.close()
            self._loaded.clear()


def _load_for_visitors(checkpoint: Checkpoint) -> LoadedEngine:
    """`load`, with an error that says no more of this machine than visitors should know."""
    try:
        return load(checkpoint.path, stage=checkpoint.stage)
    except ValueError as error:
        logger.error("%s cannot be loaded: %s", checkpoint, error)
        raise ValueError(f"{checkpoint.name} cannot be loaded; choose another model.") from error


engines = Engines()

"""Loaded chat models: one batching engine per checkpoint, the least recently used dropped first.

The idea: what a model will occupy is known from the headers of its files, before a weight is read: its weights once, in
the precision it is held in, and a cache of keys and values for so many tokens, shared by whoever chats with it. So it
is known beforehand whether there is room, who has to go for it, and which models will never fit. What it does
occupy is measured once it is there.

With webapp/checkpoints/loading.py the only module of the site that imports torch, and only the `generate` worker
imports this one.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from django.conf import settings

from trainer.config import ModelConfig, available_cores
from trainer.data.prompting import answer_room, prompt_ids
from trainer.model.checkpoint import DTYPES, load_checkpoint
from trainer.model.engine import Engine, EngineService, Request, Sampling
from trainer.model.layout import read_layout
from trainer.model.products import held_twice
from trainer.model.tokenizer import Tokenizer
from trainer.runtime import machine
from webapp.checkpoints.cards import plain
from webapp.checkpoints.models import Checkpoint

logger = logging.getLogger(__name__)

# A small model is bound by the number of operations, not by arithmetic: a second thread only takes
# the core that training wants. The engine batches; that is where its speed comes from. The engine of a
# wide model takes every core for itself (`chat_threads`).
torch.set_num_threads(1)

MAX_BATCH = 64
CACHE_SHARE = 1 / 8
"""How much of the memory budget one engine's cache may take: several stages answer, and each needs some of it."""
LEAST_CACHE = 512
"""Tokens of cache without which it makes no sense to load a model: one short conversation and its answer."""
LONGEST_PROBLEM = 2000
WAIT_S = 0.25
"""Who waits for an engine looks this often whether it is still wanted."""


class DoesNotFit(ValueError):
    """A model that needs more memory than there is for all of them; the message is for staff."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a checkpoint will occupy, and in which precision, told from the headers of its files."""

    device: torch.device
    dtype: torch.dtype
    config: ModelConfig
    weights: int
    """Bytes of the weights as they are held."""
    token: int
    """Bytes of the keys and values of one token."""

    @property
    def least(self) -> int:
        """Bytes without which it cannot chat."""
        return self.weights + self.token * min(LEAST_CACHE, self.config.context)

    def most(self, budget: int) -> int:
        """Bytes it may come to occupy, its cache at its largest; DoesNotFit where there is no room."""
        return self.weights + self.token * self.cache_tokens(budget)

    def cache_tokens(self, budget: int) -> int:
        """How many tokens its cache may hold, of all conversations together; DoesNotFit where there is no room."""
        if self.least > budget:
            wanted = math.ceil(1.05 * self.least / 2**20)
            raise DoesNotFit(
                f"it needs {self.least / 2**20:,.0f} MB to chat, and ENGINE_MEMORY_MB is {budget / 2**20:,.0f}. Set "
                f"ENGINE_MEMORY_MB to {wanted} or more and start the site again."
            )
        room = min(max(int(budget * CACHE_SHARE), self.least - self.weights), budget - self.weights)
        return min(room // self.token, MAX_BATCH * self.config.context)


def footprint(directory: Path) -> Footprint:
    """What this checkpoint will occupy; ValueError for a directory that cannot be loaded."""
    layout = read_layout(directory)
    config, device = layout.config, engine_device()
    with machine.threads(chat_threads(config.width)):
        dtype = machine.held_dtype(DTYPES[layout.dtype], config.width, device)
    numbers = layout.parameters
    numbers += held_twice(config, numbers, device=device.type, dtype=dtype)
    token = config.layers * 2 * config.kv_heads * config.head_dim * dtype.itemsize
    return Footprint(device=device, dtype=dtype, config=config, weights=numbers * dtype.itemsize, token=token)


def engine_device() -> torch.device:
    """Where chat models are held; ValueError when ENGINE_DEVICE names a GPU that is not there."""
    if settings.ENGINE_DEVICE == "auto":
        return machine.device()
    if settings.ENGINE_DEVICE == "cuda" and not torch.cuda.is_available():
        raise ValueError("ENGINE_DEVICE is cuda, and this machine has no GPU that PyTorch can use. Set it to auto.")
    return torch.device(settings.ENGINE_DEVICE)


def chat_threads(width: int) -> int:
    """Threads of an engine: one for a narrow model, which is bound by the number of operations, else every core."""
    return 1 if width < machine.SMALL_WIDTH else available_cores()


@dataclass
class LoadedEngine:
    """A checkpoint ready to answer."""

    service: EngineService
    tokenizer: Tokenizer
    config: ModelConfig
    stage: str
    bytes: int
    """What it may come to occupy: weights, as measured, and the cache at its largest."""
    cache_tokens: int
    """Tokens its cache may hold, of all conversations together."""
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
        prompt = self.prompt(messages, how.max_new_tokens)
        if len(prompt) >= self.context:
            raise ValueError(f"This answer fills all the {self.context} tokens the model can take in.")
        return self.service.submit(prompt, how, background=background)

    @property
    def context(self) -> int:
        """How many tokens one conversation and its answer may have."""
        return min(self.config.context, self.cache_tokens)

    def prompt(self, messages: list[dict[str, str]], max_new_tokens: int) -> list[int]:
        """Ids of what the model is given to read, without the oldest turns where those do not fit."""
        room = answer_room(self.context, max_new_tokens)
        return render_prompt(self.tokenizer, messages, stage=self.stage, room=room)


def render_prompt(tokenizer: Tokenizer, messages: list[dict[str, str]], *, stage: str, room: int) -> list[int]:
    """Prompt ids, at most `room` of them before an unfinished turn of the assistant's, which stays open."""
    *before, last = messages
    if last["role"] != "assistant":
        return prompt_ids(tokenizer, messages, stage=stage, room=room)
    return prompt_ids(tokenizer, before, stage=stage, room=room, begun=last["content"])


def load(directory: Path, *, stage: str, needs: Footprint | None = None) -> LoadedEngine:
    """Read a checkpoint from disk and answer one token with it, so that the first question is quick."""
    needs = needs or footprint(directory)
    cache_tokens = needs.cache_tokens(settings.ENGINE_MEMORY_MB * 2**20)
    loaded = load_checkpoint(directory, device=needs.device, dtype=needs.dtype)
    model, tokenizer = loaded.language_model.eval().requires_grad_(False), loaded.tokenizer
    engine = Engine(model, end_ids=tokenizer.end_ids, max_batch=MAX_BATCH, cache_tokens=cache_tokens, is_owner=True)
    with machine.threads(chat_threads(model.config.width)):
        engine.generate([[tokenizer.document_end_id]], [Sampling(max_new_tokens=1)])
    occupied = tensor_bytes(engine) + cache_tokens * needs.token
    service = EngineService(engine, threads=chat_threads(model.config.width))
    return LoadedEngine(service, tokenizer, model.config, stage, occupied, cache_tokens)


def tensor_bytes(thing: Any) -> int:
    """Bytes of all tensors an object of the trainer's holds, each piece of memory counted once."""
    sizes: dict[int, int] = {}
    for tensor in _tensors(thing):
        if tensor.is_mkldnn:  # packed, which shares its memory with nobody
            sizes[id(tensor)] = tensor.numel() * tensor.element_size()
        else:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(sizes.values())


def _tensors(thing: Any, seen: set[int] | None = None) -> Iterator[torch.Tensor]:
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    inside: Iterable[Any] = ()
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, Mapping):
        inside = thing.values()
    elif isinstance(thing, list | tuple):
        inside = thing
    elif isinstance(thing, torch.nn.Module) or type(thing).__module__.startswith("trainer."):
        inside = vars(thing).values()
    for one in inside:
        yield from _tensors(one, seen)


class NotWaitedFor(Exception):
    """Whoever wanted an engine stopped wanting it before there was one."""


class Engines:
    """The loaded engines of this process, within a memory budget."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._loaded: OrderedDict[int, LoadedEngine] = OrderedDict()
        self._loading: dict[int, int] = {}  # by checkpoint, the bytes kept free for it

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
            self._loading[checkpoint.pk] = 0
        try:
            with _told_to_visitors(checkpoint):
                needs = footprint(checkpoint.path)
                most = needs.most(settings.ENGINE_MEMORY_MB * 2**20)  # before anybody has to go for it
            with self._condition:
                self._make_room(most, is_unwanted)
                self._loading[checkpoint.pk] = most
            with _told_to_visitors(checkpoint):
                engine = load(checkpoint.path, stage=checkpoint.stage, needs=needs)
            try:
                _note_problem(checkpoint, "")
            except Exception:
                engine.service.close()
                raise
            with self._condition:
                engine.users = 1
                self._loaded[checkpoint.pk] = engine
                return engine
        finally:
            with self._condition:
                del self._loading[checkpoint.pk]
                self._condition.notify_all()

    def _make_room(self, wanted: int, is_unwanted: Callable[[], bool]) -> None:
        """Drop idle engines, oldest first, until `wanted` bytes fit; wait for busy ones, and for those being loaded."""
        budget = settings.ENGINE_MEMORY_MB * 2**20
        while (taken := self._taken()) and taken + wanted > budget:
            idle = next((pk for pk, engine in self._loaded.items() if not engine.users), None)
            if idle is not None:
                self._loaded.pop(idle).service.close()
                continue
            if self._loaded:
                # Otherwise newcomers would keep it busy for as long as there are any.
                next(iter(self._loaded.values())).is_leaving = True
            self._wait(is_unwanted)

    def _taken(self) -> int:
        """Bytes of the engines that are loaded and of those that are being loaded."""
        return sum(engine.bytes for engine in self._loaded.values()) + sum(self._loading.values())

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


@contextmanager
def _told_to_visitors(checkpoint: Checkpoint) -> Iterator[None]:
    """Errors with the model's files or size say no more of this machine than visitors should know.

    The log has the reason, and the checkpoint's page for staff.
    """
    try:
        yield
    except ValueError as error:
        logger.error("%s cannot be loaded: %s", checkpoint, error)
        _note_problem(checkpoint, plain(str(error), most=LONGEST_PROBLEM))
        raise ValueError(f"{checkpoint.name} cannot be loaded; choose another model.") from error


def _note_problem(checkpoint: Checkpoint, problem: str) -> None:
    """Keep why it cannot be loaded; nothing, once it can. Mostly there is nothing to write."""
    if checkpoint.load_problem != problem:
        checkpoint.load_problem = problem
        Checkpoint.objects.filter(pk=checkpoint.pk).update(load_problem=problem)


engines = Engines()

"""THE sampler: continuous batching over a key/value cache. Chat and rollouts both use it.

The idea: every unfinished answer is a row. One `step()` admits waiting prompts (one padded forward
pass fills their cache) and then extends *all* rows by one token in a single batched pass, so thirty
people chatting cost little more than one. A finished row is replaced by the last one, which keeps
the live rows contiguous and the tensors dense. Rows somebody sits before come first: a background row
begins when none of these waits, and gives up its place to one that does, to be taken up again, where it
stopped, by a prefill of its prompt and what it had written.

It steps the decoder's own blocks, which add what they compute to the cache and look at what lies there: there is one
forward pass, and a new family is written once, in decoder.py. It runs in the dtype the model has; logits and what is
drawn from them are float32.

What makes it quick on a CPU: matrices are laid out for the few rows of a step once per `refresh()` (products.py); a
group of rollouts of one prompt shares one prefill; random numbers are drawn per request in advance; a narrow model
writes few answers on one thread.

Every sampled token's log-probability under softmax(logits / temperature) is recorded, which is what
policy-gradient methods need; a test checks it against a plain forward pass of the model.

Simplifications: rows reserve cache up to the longest row (no paging), and a prompt is prefilled
whole. Where memory is short, `cache_tokens` bounds what they reserve together: a row that would be too much waits.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model.decoder import Block, LanguageModel, Products
from trainer.model.products import Matrix, Norm, give_up, is_joined, matrix, prepare
from trainer.runtime import machine

T = TypeVar("T")

END, LENGTH, STOPPED = "end", "length", "stopped"
CLOSED = "This engine is closed."
CACHE_CHUNK = 64
PREFILL_TOKENS = 16_384
BACKGROUND_PREFILL_TOKENS = 2_048
"""Padded tokens read in one go; fewer for background rows, because who comes meanwhile waits for them."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one answer is drawn. Temperature 0 is greedy, and so is one too small to divide logits by."""

    temperature: float = 1.0
    top_k: int = 0
    """Keep only the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches this; 1 keeps all."""
    max_new_tokens: int = 128
    seed: int = 0

    @property
    def greedy(self) -> bool:
        """Whether always the likeliest token is taken."""
        return self.temperature < 1e-4

    @property
    def truncates(self) -> bool:
        """Whether some tokens can never be drawn."""
        return not self.greedy and (self.top_k > 0 or self.top_p < 1)

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10:
            raise ValueError(f"temperature must be between 0 and 10, not {self.temperature}.")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, not {self.top_k}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}.")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}.")


@dataclass
class Completion:
    """One prompt and what was sampled for it."""

    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    """Sampled ids, the end token included where one was drawn."""
    logprobs: list[float] = field(default_factory=list)
    """Natural log-probability of each sampled id under softmax(logits / temperature)."""
    finish_reason: str = ""
    """"end", "length" or "stopped"; empty while it runs."""


@dataclass
class _Row:
    completion: Completion
    sampling: Sampling
    uniforms: list[float]
    limit: int
    background: bool = False
    stopping: bool = False

    @property
    def written(self) -> list[int]:
        """The prompt and, of a row that gave up its place, what it had sampled by then."""
        return self.completion.prompt + self.completion.tokens

    @property
    def reach(self) -> int:
        """Tokens it may have in the end; the newest is never in the cache."""
        return len(self.completion.prompt) + self.limit - 1

    @property
    def position(self) -> int:
        """Where the next token goes: everything before it is in the cache, bar the newest token."""
        return len(self.completion.prompt) + len(self.completion.tokens)


def _refuse(*_: object) -> None:
    raise RuntimeError(
        "An engine has taken this model over. Load its checkpoint once more to use it for anything else."
    )


class Engine:
    """Batched sampling from one model. Not thread-safe: see `EngineService`."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        end_ids: Sequence[int],
        max_batch: int = 64,
        cache_tokens: int = 0,
        is_owner: bool = False,
    ) -> None:
        """`cache_tokens` is how many tokens the cache may hold: rows times the longest of them; 0 sets no bound.

        An owner takes the model over: it holds the weights once, in the layout it works with, for as long as it lives,
        and nobody can use or change the model any more.
        """
        self.model = model
        self.config = model.config
        self.is_owner = is_owner
        self.end_ids = frozenset(end_ids)
        self.max_batch = max_batch
        self.cache_tokens = cache_tokens or max_batch * model.config.context
        self._waiting: deque[_Row] = deque()
        self._later: deque[_Row] = deque()  # background rows that wait
        self._rows: list[_Row] = []
        self._cache: Tensor | None = None  # [layers, 2, rows, kv_heads, length, head_dim]: keys, then values
        self._products: list[Products] = []
        self._head: Matrix | None = None

    # -- the public face -------------------------------------------------------------------------

    @torch.inference_mode()
    def refresh(self) -> None:
        """Re-read the model's weights. `generate` does it, because training changes them in place; not an owner's."""
        if self.is_owner and self._products:
            return
        decoder = self.model.decoder
        self._blocks: list[Block] = list(decoder.layers)  # type: ignore[arg-type]
        self._embedding = decoder.embed_tokens.weight.detach()
        self._products = []  # the old ones go before the new ones come
        self._head = None
        self._head = matrix(self.model.head_weight.detach())
        if self.is_owner:
            decoder.register_forward_pre_hook(_refuse)
            if self.model.lm_head is not None:
                give_up(self.model.lm_head)
        prepared = []
        for block in self._blocks:
            prepared.append(prepare(block))
            if self.is_owner:
                give_up(block)
        self._products = prepared
        self._norm = Norm(decoder.norm)
        self._turned_from: tuple[Tensor, Tensor] | None = None

    def add(self, prompt: Sequence[int], sampling: Sampling, *, background: bool = False) -> _Row:
        """Queue one prompt, behind all others if `background`; ValueError when it is empty or leaves no room."""
        if not prompt:
            raise ValueError("The prompt is empty.")
        context = min(self.config.context, self.cache_tokens)
        room = context - len(prompt)
        if room < 1:
            raise ValueError(f"The prompt has {len(prompt)} tokens; this model's context holds {context}.")
        limit = min(sampling.max_new_tokens, room)
        generator = torch.Generator().manual_seed(sampling.seed)
        uniforms = torch.rand(limit, generator=generator, dtype=torch.float64).tolist()
        row = _Row(Completion(list(prompt)), sampling, uniforms, limit, background)
        (self._later if background else self._waiting).append(row)
        return row

    @property
    def busy(self) -> bool:
        return bool(self._rows or self._waiting or self._later)

    @torch.inference_mode()
    def step(self) -> list[_Row]:
        """Extend every unfinished row by one token; returns the rows that got one or were stopped."""
        if not self._products:
            self.refresh()
        touched = self._drop_stopping()
        fresh = self._admit()
        going = self._rows[: len(self._rows) - len(fresh)]
        if going:
            device = self._embedding.device
            tokens = torch.tensor([[row.completion.tokens[-1]] for row in going], device=device)
            positions = [row.position - 1 for row in going]
            hidden = self._decode(tokens, torch.tensor(positions, device=device), max(positions) + 1)
            self._sample(going, hidden)
        touched += self._rows
        self._drop_finished()
        return touched

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling]) -> list[Completion]:
        """Sample every prompt to its end, in the order given. Identical prompts share one prefill."""
        if self.busy:
            raise RuntimeError("generate() needs the engine to itself.")
        self.refresh()
        rows = [self.add(prompt, how) for prompt, how in zip(prompts, sampling, strict=True)]
        with machine.decoding_threads(self.config.width, min(len(rows), self.max_batch)):
            while self._rows or self._waiting:
                self.step()
        self._cache = None
        if not self.is_owner:
            self._products, self._head = [], None  # as much memory as the model
        return [row.completion for row in rows]

    @torch.inference_mode()
    def read(self, ids: Sequence[int]) -> Tensor:
        """Hidden states [T,C] of a text that is there already, beside whatever is being written.

        ValueError when it is longer than the context.
        """
        if len(ids) > self.config.context:
            raise ValueError(f"{len(ids)} tokens do not fit this model's context of {self.config.context}.")
        if not self._products:
            self.refresh()
        return self._through(torch.tensor([ids], device=self._embedding.device)).squeeze(0)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits [N,V] of hidden states [N,C]."""
        assert self._head is not None
        return self._head(hidden).float()

    # -- rows ------------------------------------------------------------------------------------

    def _drop_stopping(self) -> list[_Row]:
        stopped = [row for row in (*self._rows, *self._waiting, *self._later) if row.stopping]
        for row in stopped:
            row.completion.finish_reason = STOPPED
        if stopped:
            self._waiting = deque(row for row in self._waiting if not row.stopping)
            self._later = deque(row for row in self._later if not row.stopping)
            self._drop_finished()
        return stopped

    def _drop_finished(self) -> None:
        for index in range(len(self._rows) - 1, -1, -1):
            if self._rows[index].completion.finish_reason:
                self._take_out(index)
        if not self.busy:
            self._cache = None  # an idle engine holds no cache

    def _take_out(self, index: int) -> _Row:
        """Remove one row; the last one moves into the gap."""
        row, last = self._rows[index], self._rows.pop()
        if index < len(self._rows):
            assert self._cache is not None
            self._rows[index] = last
            used = last.position
            self._cache[:, :, index, :, :used] = self._cache[:, :, len(self._rows), :, :used]
        return row

    def _make_room(self) -> bool:
        """Send the background row with the least to read again back to wait; False when there is none."""
        index = min(
            (index for index, row in enumerate(self._rows) if row.background),
            key=lambda index: self._rows[index].position,
            default=None,
        )
        if index is None:
            return False
        self._later.appendleft(self._take_out(index))
        return True

    def _next_rows(self) -> list[_Row]:
        """Take waiting rows that fit into free places; background rows only when no other waits."""
        waiting, most = (self._waiting, PREFILL_TOKENS) if self._waiting else (self._later, BACKGROUND_PREFILL_TOKENS)
        fresh: list[_Row] = []
        longest = 0
        reach = max((row.reach for row in self._rows), default=0)
        while waiting:
            longest = max(longest, waiting[0].position)
            if fresh and longest * (len(fresh) + 1) > most:
                break
            count = len(self._rows) + len(fresh) + 1
            # Places, and cache for this row and all others to their ends.
            if count > self.max_batch or count * max(reach, waiting[0].reach) > self.cache_tokens:
                if waiting is self._later or not self._make_room():
                    break
                reach = max((row.reach for row in (*self._rows, *fresh)), default=0)
                continue
            fresh.append(waiting.popleft())
            reach = max(reach, fresh[-1].reach)
        return fresh

    def _admit(self) -> list[_Row]:
        """Prefill waiting prompts into free rows and sample their next tokens."""
        fresh = self._next_rows()
        if not fresh:
            return []
        unique: dict[tuple[int, ...], int] = {}
        which = [unique.setdefault(tuple(row.written), len(unique)) for row in fresh]
        prompts = list(unique)
        length = max(len(prompt) for prompt in prompts)
        device = self._embedding.device
        tokens = torch.zeros(len(prompts), length, dtype=torch.long)
        for index, prompt in enumerate(prompts):
            tokens[index, : len(prompt)] = torch.tensor(prompt)
        first = len(self._rows)
        self._rows += fresh
        self._reserve(len(self._rows), length + 1)
        prompt_of_row = torch.tensor(which, device=device)
        ends = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        last = self._prefill(tokens.to(device), ends, prompt_of_row, first)
        self._sample(fresh, last[prompt_of_row])
        return fresh

    def _reserve(self, rows: int, length: int) -> None:
        """Grow the cache to hold at least this many rows and tokens per row."""
        old = self._cache
        if old is not None and old.shape[2] >= rows and old.shape[4] >= length:
            return
        config = self.config
        have_rows, have_length = (0, 0) if old is None else (old.shape[2], old.shape[4])
        if rows > have_rows:
            rows = min(self.max_batch, max(rows, 2 * have_rows))
        rows = max(rows, have_rows)
        length = max(min(-(-length // CACHE_CHUNK) * CACHE_CHUNK, config.context), have_length)
        if rows * length > self.cache_tokens:  # what no row needs any more is given up
            rows = len(self._rows)
            length = min(length, max(self.cache_tokens // rows, max(row.reach for row in self._rows)))
            have_rows, have_length = min(rows, have_rows), min(length, have_length)
        shape = (config.layers, 2, rows, config.kv_heads, length, config.head_dim)
        self._cache = torch.zeros(shape, device=self._embedding.device, dtype=self._embedding.dtype)
        if old is not None:
            self._cache[:, :, :have_rows, :, :have_length] = old[:, :, :have_rows, :, :have_length]

    # -- the forward passes ----------------------------------------------------------------------

    def _prefill(self, tokens: Tensor, ends: Tensor, which: Tensor, first: int) -> Tensor:
        """Hidden states [U,C] at the last tokens, `ends` [U], of right-padded prompts [U,T].

        Fills cache row `first` + i with prompt `which[i]`. Of the last layer only keys and values are needed
        everywhere; the rest of it is done for the last tokens alone.
        """
        assert self._cache is not None
        return self._through(tokens, cache=_Prompts(self._cache, which, first), ends=ends).squeeze(1)

    def _through(self, tokens: Tensor, *, cache: _Prompts | None = None, ends: Tensor | None = None) -> Tensor:
        """Hidden states of whole texts [U,T]: of every token, [U,T,C], or of those at `ends` [U] alone, [U,1,C]."""
        decoder, length = self.model.decoder, tokens.shape[1]
        cos, sin = (table[:length].to(self._embedding.dtype) for table in decoder.rotations(length))  # (T, D)
        near = decoder.within_window(length, None)
        x = F.embedding(tokens, self._embedding)
        for layer, (block, products) in enumerate(zip(self._blocks, self._products, strict=True)):
            window = block.self_attn.window
            allowed, last = near if window else None, None
            if cache is not None:
                cache.layer = layer
            if ends is not None and layer == self.config.layers - 1:
                allowed, last = self._hidden(ends, length, window), ends
            x = block(x, cos, sin, allowed, cache=cache, last=last, products=products)
        return self._norm(x)

    def _decode(self, tokens: Tensor, positions: Tensor, longest: int) -> Tensor:
        """Hidden states [N,C] of one new token per row [N,1] at `positions` [N]; extends the cache."""
        self._reserve(len(self._rows), longest)
        assert self._cache is not None
        rows = len(tokens)
        cos, sin = self._turns(positions, longest)
        masks: dict[int, Tensor | None] = {}
        for window in {block.self_attn.window for block in self._blocks}:
            is_needed = rows > 1 or 0 < window < longest
            masks[window] = self._hidden(positions, longest, window) if is_needed else None
        cache = _Rows(self._cache, positions, longest)
        x = F.embedding(tokens, self._embedding)  # (N, 1, C)
        for layer, (block, products) in enumerate(zip(self._blocks, self._products, strict=True)):
            cache.layer = layer
            x = block(x, cos, sin, masks[block.self_attn.window], cache=cache, products=products)
        return self._norm(x).squeeze(1)

    def _turns(self, positions: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """cos and sin at `positions` [N]: one for all heads, [N,1,1,D], or where heads come joined one for each."""
        tables = self.model.decoder.rotations(longest)
        if self._turned_from is not tables:
            self._turned_from, config, dtype = tables, self.config, self._embedding.dtype
            self._table = [table.to(dtype).unsqueeze(1).unsqueeze(1) for table in tables]  # [L, 1, 1, D]
            if is_joined(config.width, dtype) and not config.qk_norm:
                # Values are not turned: their cos is 1 and their sin 0.
                still = torch.eye(2, dtype=dtype, device=positions.device)[0]
                self._table = [
                    torch.cat(
                        [
                            table.expand(-1, config.heads + config.kv_heads, -1, -1),
                            value.expand(len(table), config.kv_heads, 1, config.head_dim),
                        ],
                        dim=1,
                    )
                    for table, value in zip(self._table, still, strict=True)
                ]
        cos, sin = self._table
        return cos.index_select(0, positions), sin.index_select(0, positions)

    def _hidden(self, positions: Tensor, longest: int, window: int) -> Tensor:
        """What is added to scores, [N,1,1,S], so that a token at each of `positions` [N] looks at those before it only.

        Made once, where each layer would make it of a mask.
        """
        index, place = torch.arange(longest, device=positions.device), positions.view(-1, 1, 1, 1)
        seen = (index <= place) & (index > place - window) if window else index <= place
        return torch.zeros(seen.shape, device=seen.device, dtype=self._embedding.dtype).masked_fill_(~seen, -math.inf)

    # -- drawing tokens --------------------------------------------------------------------------

    def _sample(self, rows: Sequence[_Row], hidden: Tensor) -> None:
        """Draw one token per row from hidden states [N,C] by inverting the cumulative distribution."""
        assert self._head is not None
        logits = self._head(hidden).float()
        greedy = [row.sampling.greedy for row in rows]
        temperatures = [1.0 if row.sampling.greedy else row.sampling.temperature for row in rows]
        if any(temperature != 1.0 for temperature in temperatures):
            logits = logits / torch.tensor(temperatures, device=logits.device).unsqueeze(1)
        probabilities = logits.softmax(dim=-1)
        drawn = self._invert(rows, probabilities)
        if any(greedy):
            drawn = torch.where(torch.tensor(greedy, device=logits.device), logits.argmax(dim=-1), drawn)
        chosen = probabilities.gather(1, drawn.unsqueeze(1)).squeeze(1).log()
        for row, token, logprob in zip(rows, drawn.tolist(), chosen.tolist(), strict=True):
            completion = row.completion
            completion.tokens.append(token)
            completion.logprobs.append(logprob)
            if token in self.end_ids:
                completion.finish_reason = END
            elif len(completion.tokens) >= row.limit:
                completion.finish_reason = LENGTH

    @staticmethod
    def _invert(rows: Sequence[_Row], probabilities: Tensor) -> Tensor:
        """Token ids [N]: where each row's next uniform number falls in its cumulative distribution [N,V]."""
        uniforms = torch.tensor(
            [row.uniforms[len(row.completion.tokens)] for row in rows], device=probabilities.device, dtype=torch.float64
        )
        truncating = [index for index, row in enumerate(rows) if row.sampling.truncates]
        if truncating:
            probabilities = probabilities.clone()
            for index in truncating:
                how = rows[index].sampling
                probabilities[index] = _truncate(probabilities[index], how.top_k, how.top_p)
        return _invert(probabilities, uniforms)


SMALL, STRETCH = 2**14, 128
"""Probabilities that are cumulated one by one, and how many are summed together where there are more."""


def _invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Where `uniforms` [N] fall in the cumulative distributions of [N,V] probabilities: ids [N], cumulated in float64.

    First among the sums of stretches, then inside one of them: most of a large distribution is never cumulated. What
    has no probability is never found.
    """
    rows, size = probabilities.shape
    if rows * size <= SMALL:
        cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
        found = torch.searchsorted(cumulative, (uniforms * cumulative[:, -1]).unsqueeze(1), right=True).squeeze(1)
        return found.clamp_max_(size - 1)
    stretches = F.pad(probabilities, (0, -size % STRETCH)).view(rows, -1, STRETCH)
    sums = stretches.sum(dim=-1).cumsum(dim=-1, dtype=torch.float64)  # (N, stretches)
    target = (uniforms * sums[:, -1]).unsqueeze(1)
    which = torch.searchsorted(sums, target, right=True).clamp_max_(sums.shape[1] - 1)  # (N, 1)
    before = F.pad(sums, (1, 0)).gather(1, which)
    inside = stretches[torch.arange(rows, device=which.device), which.squeeze(1)].cumsum(dim=-1, dtype=torch.float64)
    # Two ways to sum one stretch may differ in the last digit: the end of it must not be missed by that.
    left = torch.minimum(target - before, inside[:, -1:] * (1 - 1e-12))
    place = torch.searchsorted(inside, left, right=True).clamp_max_(STRETCH - 1)
    return (which * STRETCH + place).squeeze(1)


LIKELIEST = 1024
"""So many tokens nearly always hold all of top-p, and finding them is far quicker than sorting a large vocabulary."""


def _truncate(probabilities: Tensor, top_k: int, top_p: float) -> Tensor:
    """[V] probabilities with everything outside top-k and the top-p nucleus set to zero."""
    count = min(top_k or LIKELIEST, len(probabilities))
    ordered, index = probabilities.topk(count)
    before = ordered.cumsum(0) - ordered
    if not top_k and count < len(probabilities) and before[-1] + ordered[-1] < top_p:
        ordered, index = probabilities.sort(descending=True)
        before = ordered.cumsum(0) - ordered
    keep = before < top_p  # the token that crosses top_p stays in
    return torch.zeros_like(probabilities).scatter_(0, index[keep], ordered[keep])


# -- the cache, as a block sees it -----------------------------------------------------------------


class _Prompts:
    """Fresh prompts: they look at themselves, and row `first` + i is filled with what prompt `which[i]` gave."""

    def __init__(self, cache: Tensor, which: Tensor, first: int) -> None:
        self.layer = 0
        self._cache, self._which, self._rows = cache, which, slice(first, first + len(which))

    def extend(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        k, v = kv.chunk(2, dim=1)
        for states, new in zip(self._cache[self.layer], (k, v), strict=True):
            states[self._rows, :, : kv.shape[2]] = new[self._which]
        return k, v


class _Rows:
    """One new token in each of the first rows: it goes to its place, and looks at its row."""

    def __init__(self, cache: Tensor, positions: Tensor, longest: int) -> None:
        self.layer = 0
        rows = len(positions)
        self._positions, self._longest = positions, longest
        self._index = torch.arange(rows, device=positions.device) if rows > 1 else None
        self._layers = cache[:, :, :rows, :, :longest].unbind()

    def extend(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        states = self._layers[self.layer]
        if self._index is None:  # the place of an only row is the last one
            states.narrow(3, self._longest - 1, 1).copy_(kv.view(2, 1, -1, 1, kv.shape[-1]))
        else:
            states[:, self._index, :, self._positions] = kv.view(len(kv), 2, -1, kv.shape[-1])
        k, v = states.unbind()
        return k, v


class Request:
    """One answer in the making, seen from another thread than the engine's."""

    def __init__(
        self, service: EngineService, prompt: Sequence[int], sampling: Sampling, *, background: bool = False
    ) -> None:
        self._service = service
        self._events: queue.SimpleQueue[tuple[int, float] | BaseException | None] = queue.SimpleQueue()
        self._row: _Row | None = None
        self._cancelled = False
        self.prompt = list(prompt)
        self.sampling = sampling
        self.background = background
        self.finish_reason = ""

    def events(self) -> Iterator[tuple[int, float]]:
        """(token id, log-probability) as they are sampled; ends with the answer."""
        while True:
            event = self._events.get()
            if event is None:
                return
            if isinstance(event, BaseException):
                raise event
            yield event

    def stop(self) -> None:
        """End the answer within one engine step; what was sampled stays."""
        self._cancelled = True
        self._service.wake()


class EngineService:
    """A thread of its own that steps an engine for requests from any number of threads."""

    def __init__(self, engine: Engine, *, threads: int = 0) -> None:
        """`threads` is how many it computes on; 0 leaves them as they are."""
        self._engine = engine
        self._threads = threads
        self._condition = threading.Condition()
        self._inbox: deque[Request] = deque()
        self._calls: deque[tuple[Callable[[Engine], Any], Future[Any]]] = deque()
        self._live: dict[int, Request] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return bool(self._inbox or self._live or self._calls)

    def call(self, work: Callable[[Engine], T]) -> T:
        """What `work` makes of the engine between two of its steps, on its thread; whoever calls waits for it.

        What it raises is raised here, and the engine goes on. RuntimeError once closed.
        """
        future: Future[T] = Future()
        with self._condition:
            if self._closed:
                raise RuntimeError(CLOSED)
            self._calls.append((work, future))
            self._condition.notify()
        return future.result()

    def submit(self, prompt: Sequence[int], sampling: Sampling, *, background: bool = False) -> Request:
        """Queue a prompt, behind all others if `background`; its events come from the returned request.

        RuntimeError once closed.
        """
        request = Request(self, prompt, sampling, background=background)
        with self._condition:
            if self._closed:
                raise RuntimeError(CLOSED)
            self._inbox.append(request)
            self._condition.notify()
        return request

    def read(self, ids: Sequence[int]) -> Tensor:
        """`Engine.read`, between two steps."""
        return self.call(lambda engine: engine.read(ids))

    def logits(self, hidden: Tensor) -> Tensor:
        """`Engine.logits`, between two steps: of a large vocabulary for few tokens at a time, so that nobody waits."""
        return self.call(lambda engine: engine.logits(hidden))

    def wake(self) -> None:
        with self._condition:
            self._condition.notify()

    def close(self) -> None:
        """Stop every answer and the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                with self._condition:
                    while not (self._closed or self.busy):
                        self._condition.wait()
                    arrivals, closed = list(self._inbox), self._closed
                    self._inbox.clear()
                if closed:
                    self._end_all(arrivals)
                    self._refuse_calls(RuntimeError(CLOSED))
                    return
                self._accept(arrivals)
                for request in self._live.values():
                    if request._cancelled and request._row is not None:
                        request._row.stopping = True
                if self._threads:
                    torch.set_num_threads(
                        self._threads
                    )  # for one process there is one number: the last who steps sets it
                for _ in range(len(self._calls)):  # those that come meanwhile wait for the next step
                    self._do(*self._calls.popleft())
                self._deliver(self._engine.step())
        except BaseException as error:  # a broken engine must not leave its readers waiting
            with self._condition:
                self._closed = True
                waiting = [*self._live.values(), *self._inbox]
            for request in waiting:
                request._events.put(error)
            self._refuse_calls(error)
            raise

    def _refuse_calls(self, error: BaseException) -> None:
        while self._calls:
            self._calls.popleft()[1].set_exception(error)

    def _do(self, work: Callable[[Engine], T], future: Future[T]) -> None:
        try:
            future.set_result(work(self._engine))
        except Exception as error:  # its caller's, who gets it; what is being written has nothing to do with it
            future.set_exception(error)

    def _accept(self, arrivals: list[Request]) -> None:
        for request in arrivals:
            try:
                row = self._engine.add(request.prompt, request.sampling, background=request.background)
            except ValueError as error:
                request._events.put(error)
                continue
            request._row = row
            self._live[id(row)] = request

    def _deliver(self, rows: list[_Row]) -> None:
        for row in rows:
            request = self._live[id(row)]
            completion = row.completion
            if completion.finish_reason != STOPPED:
                request._events.put((completion.tokens[-1], completion.logprobs[-1]))
            if completion.finish_reason:
                request.finish_reason = completion.finish_reason
                request._events.put(None)
                del self._live[id(row)]

    def _end_all(self, arrivals: list[Request]) -> None:
        for request in (*self._live.values(), *arrivals):
            request.finish_reason = STOPPED
            request._events.put(None)
        self._live.clear()

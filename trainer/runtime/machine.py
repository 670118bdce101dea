"""What this machine can do, measured instead of guessed.

The idea: a matrix product of the model's own size, timed for a fraction of a second in float32 and
in bfloat16, decides the training precision on a processor (bfloat16 is three times quicker on one
and three times slower on the next; of a GPU it is known) and feeds the estimates shown before a run starts.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

import torch

from trainer.config import available_cores
from trainer.runtime.estimate import CLEARLY, NARROW

SMALL_WIDTH, FEW_ROWS = 256, 16
"""A model below this width writes fewer answers than this quickest on one thread: a second costs more to wake than it
computes."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """`count` threads; as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def decoding_threads(width: int, rows: int) -> contextlib.AbstractContextManager[None]:
    """As many threads as pay when a model of this width writes `rows` answers at once; as before afterwards."""
    is_little = width < SMALL_WIDTH and rows < FEW_ROWS
    return threads(1 if is_little else torch.get_num_threads())


def keep_few_shapes(width: int) -> None:
    """Bound what oneDNN keeps for a model of this width; to be called before this process multiplies anything.

    It multiplies for PyTorch on a processor, compiles for every shape, and keeps a thousand of what it compiled, twice.
    With rows of all lengths that grew by 60 MB a round of reinforcement learning of a 135 M model, and what lay
    scattered between kept the rest from being given back: 2 GB after 40 rounds. To compile anew what a round needs
    again costs such a model some per cent of its sampling; a narrow one a fifth, and there nothing grows that matters.
    """
    if width > SMALL_WIDTH:
        for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
            os.environ.setdefault(name, "256")


def matmul_gflops(dtype: torch.dtype, *, rows: int = 0, width: int = 0, seconds: float = 0.25) -> float:
    """Best measured rate of a [rows, width] × [width, width] product, in GFLOP/s.

    Where no size is named, one that keeps the device busy: a GPU has finished with what is much for a processor before
    it can be asked for more (an H100 reaches 107 of 782 TFLOP/s with 4,096 rows of 512).
    """
    where = device()
    rows = rows or (4096 if where.type == "cpu" else 8192)
    width = width or (512 if where.type == "cpu" else 8192)
    while True:
        try:
            return _matmul_gflops(dtype, where, rows=rows, width=width, seconds=seconds)
        except torch.OutOfMemoryError:  # somebody else is using the GPU
            if width <= 512:
                raise
        rows, width = rows // 2, width // 2


def _matmul_gflops(dtype: torch.dtype, where: torch.device, *, rows: int, width: int, seconds: float) -> float:
    a = torch.ones(rows, width, dtype=dtype, device=where)
    b = torch.ones(width, width, dtype=dtype, device=where)
    if where.type == "cuda":
        a @ b  # the first one finds out how
        torch.cuda.synchronize()
    quickest, begun = float("inf"), time.perf_counter()
    while True:  # once at least: without instructions for bfloat16 one product can take all the time there is
        start = time.perf_counter()
        a @ b
        if where.type == "cuda":
            torch.cuda.synchronize()
        end = time.perf_counter()
        quickest = min(quickest, end - start)
        if end - begun >= seconds:
            return 2 * rows * width * width / quickest / 1e9


def read_bytes_per_s(*, size: int = 2**28, repeats: int = 3) -> float:
    """Best measured rate at which this processor reads memory that is in no cache, in bytes/s."""
    numbers = torch.ones(size // 4)
    quickest = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        numbers.sum()
        quickest = min(quickest, time.perf_counter() - start)
    return size / quickest


def choose_precision(width: int) -> str:
    """ "bfloat16" where autocast pays at this model width on this machine, else "float32".

    Autocast adds casts around every product, so bfloat16 must win clearly to win at all. A GPU has the units for it or
    has not: what a narrow model's products take there depends on everything else, and differs from run to run.
    """
    if width < NARROW:
        return "float32"
    if device().type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    rates = {name: matmul_gflops(dtype, width=width, seconds=0.2) for name, dtype in DTYPES.items()}
    return "bfloat16" if rates["bfloat16"] > CLEARLY * rates["float32"] else "float32"


def held_dtype(stored: torch.dtype, width: int, where: torch.device) -> torch.dtype:
    """The precision a model of this width answers in: as it is stored where this machine is fast in that.

    A processor without instructions for bfloat16 takes fifty times as long in it, and none is fast in float16.
    """
    if where.type == "cuda":
        return torch.float32 if stored == torch.float64 else stored
    is_fast = stored == torch.bfloat16 and _is_fast_in_bfloat16(width)
    return torch.bfloat16 if is_fast else torch.float32


@functools.lru_cache
def _is_fast_in_bfloat16(width: int) -> bool:
    return choose_precision(width) == "bfloat16"


def measure() -> dict[str, Any]:
    """This machine in a few figures, for estimates and reports; takes about a second."""
    where = device()
    return {
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if where.type == "cuda" else "cpu",
        "matmul_gflops": {name: round(matmul_gflops(dtype), 1) for name, dtype in DTYPES.items()},
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

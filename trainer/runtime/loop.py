"""The loop every stage runs in: resume, report, stop, save.

The idea: a stage supplies `do_step(step)` and this module does the rest. Every random draw in a
stage is a pure function of (seed, purpose, step) through `random_generator`, so there is no hidden
generator state: after a kill, weights, optimiser state and a small JSON state are read back from
`resume/` and the run goes on to the very same bytes.

`report` is the only way out while a stage runs and `should_stop` the only way in.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.runtime.errors import Diverged, Stopped
from trainer.runtime.files import RESUME_STATE
from trainer.runtime.tensors import write_tensors

Metrics = dict[str, float]
SAVE_EVERY_S = 30.0
"""How often a run saves what it needs to resume: a kill costs at most this much work."""
FIRST_PAUSE_S = 2.0
"""The first save follows the first step, the next one this long after, and each pause is twice the one before."""
SAVE_SHARE = 0.05
"""Saving takes at most this share of the time, whatever the model's size and the disk."""
SampleDict = dict[str, Any]
"""A sample: "prompt", "text" and whatever else applies (reward, verdict, advantage …)."""


class Report(Protocol):
    """How a stage tells the outside what happens."""

    def __call__(self, step: int, metrics: Metrics, samples: list[SampleDict] | None = None) -> None: ...

    def start(self, step: int, total_steps: int) -> None:
        """The first step about to run (not 0 after a resume), and how many there are."""

    def practice(self, step: int, samples: list[SampleDict]) -> None:
        """Some of what this step practised on; of every step, where a stage has something to show."""

    def log(self, step: int, text: str) -> None: ...

    def alarm(self, step: int, text: str) -> None:
        """Something a person should look at, in plain language."""


def evaluation_steps(steps: int, evaluations: int) -> set[int]:
    """Steps (counted in finished steps) after which a run is evaluated; always the last one."""
    return {round(steps * k / evaluations) for k in range(1, evaluations + 1)}


def run_steps(
    *,
    steps: int,
    out_dir: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    state: dict[str, Any],
    do_step: Callable[[int], Metrics],
    evaluate: Callable[[int], tuple[Metrics, list[SampleDict]]] | None = None,
    evaluations: int = 1,
    report: Report,
    should_stop: Callable[[], bool],
) -> None:
    """Run `do_step` for every step that is left, with resume, reports, evaluation and stopping.

    `state` is the stage's own JSON state; it is changed in place when a saved run is resumed. The loop
    keeps `state["seconds"]`, the time spent so far over all attempts (up to their last save), in it.
    Raises Stopped after saving when `should_stop()` turns true, Diverged on a non-finite metric.
    """
    first = _load_resume(out_dir, modules, optimizers, state)
    report.start(first, steps)
    evaluated = evaluation_steps(steps, evaluations)
    begun_at = time.monotonic() - state.get("seconds", 0.0)
    saves = _SaveTimes()
    if first == 0 and evaluate is not None:
        metrics, samples = evaluate(0)
        report(0, metrics, samples)
    for step in range(first, steps):
        started = time.perf_counter()
        metrics = do_step(step)
        metrics["step_s"] = time.perf_counter() - started
        _check_finite(metrics, step)
        done = step + 1
        said: list[SampleDict] | None = None
        if evaluate is not None and done in evaluated:
            extra, said = evaluate(done)
            metrics |= extra
        state["seconds"] = time.monotonic() - begun_at
        report(done, metrics, said)
        if done == steps:
            break
        stopping = should_stop()
        if stopping or saves.is_due():
            with saves.counted():
                _save_resume(out_dir, done, modules, optimizers, state)
        if stopping:
            raise Stopped(f"Stopped after step {done} of {steps}.")


class _SaveTimes:
    """When to save: soon, then ever less often.

    A run that is killed again and again, and early, still gets on; one that is left alone hardly notices.
    """

    def __init__(self) -> None:
        self._due_at, self._pause_s = time.monotonic(), FIRST_PAUSE_S

    def is_due(self) -> bool:
        return time.monotonic() >= self._due_at

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Around a save: what it takes decides how long the next one waits."""
        begun = time.monotonic()
        yield
        now = time.monotonic()
        self._due_at = now + max(min(self._pause_s, SAVE_EVERY_S), (now - begun) / SAVE_SHARE)
        self._pause_s *= 2


def clear_resume(out_dir: Path) -> None:
    """Remove the resume state of a run that has ended."""
    shutil.rmtree((out_dir / RESUME_STATE).parent, ignore_errors=True)


def saved_state(out_dir: Path) -> dict[str, Any]:
    """The stage's own state as a run that can be resumed has saved it; empty for a fresh run.

    For what must be known before there are modules to restore. A damaged file is reported when they are.
    """
    try:
        with safe_open(out_dir / RESUME_STATE, framework="pt") as file:
            return dict(json.loads(file.metadata()["resume"])["state"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return {}


def _check_finite(metrics: Metrics, step: int) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} became {value} at step {step + 1}. Lower the learning rate and start again.")


def _save_resume(
    out_dir: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    state: Mapping[str, Any],
) -> None:
    """One file, replaced atomically: every tensor, and the JSON state in its header."""
    tensors = _module_tensors(modules)
    numbers: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            for key, value in slots.items():
                full = f"optimizer/{name}/{index}/{key}"
                if isinstance(value, Tensor):
                    tensors[full] = value
                else:
                    numbers[full] = value
    header = {"step": step, "state": state, "numbers": numbers}
    path = out_dir / RESUME_STATE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, _apart(tensors), metadata={"resume": json.dumps(header)})


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors for a file: on the CPU, and no two in one memory (tied weights are written twice).

    Nothing is copied that need not be, and the file is written from where they lie: a save costs no memory.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        is_shared = own.numel() > 0 and place in seen
        seen.add(place)
        found[name] = own.clone() if is_shared else own
    return found


def _module_tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The modules' tensors by the names they have in the saved file."""
    return {f"module/{name}/{key}": value for name, of in modules.items() for key, value in of.state_dict().items()}


def _load_resume(
    out_dir: Path, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], state: dict[str, Any]
) -> int:
    """Restore everything in place; returns the step to run next (0 for a fresh run).

    ValueError, with nothing restored, for a file that is damaged or that another version of the code has saved.
    """
    path = out_dir / RESUME_STATE
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["resume"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        step, saved, numbers = int(header["step"]), dict(header["state"]), dict(header["numbers"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}). Delete the directory {path.parent} to start anew.") from error
    if not (_fits(tensors, modules, optimizers) and state.keys() <= saved.keys()):
        raise ValueError(
            f"{path} does not fit this run: another version of the code has saved it. "
            f"Delete the directory {path.parent} to start anew."
        )
    for name, module in modules.items():
        prefix = f"module/{name}/"
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    for name, optimizer in optimizers.items():
        slots: dict[int, dict[str, Any]] = {}
        for full, value in (*tensors.items(), *numbers.items()):
            kind, owner, *rest = full.split("/")
            if kind == "optimizer" and owner == name:
                slots.setdefault(int(rest[0]), {})[rest[1]] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    state.clear()
    state.update(saved)
    return step


def _fits(tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]) -> bool:
    """Whether saved tensors are all the modules' and only the optimizers', each in its shape.

    What an optimizer keeps of a parameter has the parameter's shape or, as a count of steps, none. It keeps nothing
    of one that has not learnt yet.
    """
    wanted = {name: tensor.shape for name, tensor in _module_tensors(modules).items()}
    if {name: tensor.shape for name, tensor in tensors.items() if name.startswith("module/")} != wanted:
        return False
    shapes = {
        f"optimizer/{name}/{index}": parameter.shape
        for name, optimizer in optimizers.items()
        for index, parameter in enumerate(one for group in optimizer.param_groups for one in group["params"])
    }
    owned = ((shapes.get(name.rpartition("/")[0]), value) for name, value in tensors.items() if name not in wanted)
    return all(shape is not None and value.shape in (shape, torch.Size()) for shape, value in owned)

"""The loop every stage runs in: resume, report, stop, save.

The idea: a stage supplies `do_step(step)` and this module does the rest. Every random draw in a
stage is a pure function of (seed, purpose, step) through `random_generator`, so there is no hidden
generator state: after a kill, weights, optimiser state and a small JSON state are read back from
`resume/` and the run goes on to the very same bytes.

`report` is the only way out while a stage runs and `should_stop` the only way in.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.checkpoint import write_atomic
from trainer.config import Preset, to_dict
from trainer.corpus import Corpus
from trainer.preferences import Comparison

Metrics = dict[str, float]
SAVE_EVERY_S = 30.0
"""How often a run saves what it needs to resume: a kill costs at most this much work."""
RESUME_STATE, RESUME_RUN = Path("resume", "state.safetensors"), Path("resume", "run.json")
"""Where in its directory a half-finished run keeps what it needs to go on, and which run it is."""
SampleDict = dict[str, Any]
"""A sample: "prompt", "text" and whatever else applies (reward, verdict, advantage …)."""


class Report(Protocol):
    """How a stage tells the outside what happens."""

    def __call__(self, step: int, metrics: Metrics, samples: list[SampleDict] | None = None) -> None: ...

    def start(self, step: int, total_steps: int) -> None:
        """The first step about to run (not 0 after a resume), and how many there are."""

    def log(self, step: int, text: str) -> None: ...

    def alarm(self, step: int, text: str) -> None:
        """Something a person should look at, in plain language."""


class Stopped(Exception):
    """`should_stop()` was true; the run can be resumed from its directory."""


class Diverged(RuntimeError):
    """A loss or gradient that is not finite; nothing was saved after the last good step."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything a stage reads."""

    preset: Preset
    corpus: Corpus
    seed: int = 0
    parent: Path | None = None
    """Checkpoint directory the stage starts from; None only for `init`."""
    reward_model: Path | None = None
    """Reward checkpoint directory (ppo)."""
    comparisons: list[Comparison] = field(default_factory=list)
    """Votes to learn from (reward)."""
    inputs_sha256: dict[str, str] = field(default_factory=dict)
    """Hashes of the frozen inputs, for the lineage in stage.json."""


def random_generator(seed: int, *purpose: int | str) -> torch.Generator:
    """A generator that depends on nothing but its arguments."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


def derive_seed(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed for one purpose, e.g. derive_seed(seed, "rollout", step)."""
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


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
    keeps `state["seconds"]`, the time spent so far over all attempts, in it.
    Raises Stopped after saving when `should_stop()` turns true, Diverged on a non-finite metric.
    """
    first = _load_resume(out_dir, modules, optimizers, state)
    report.start(first, steps)
    evaluated = evaluation_steps(steps, evaluations)
    saved_at = time.monotonic()
    begun_at = saved_at - state.get("seconds", 0.0)
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
        if stopping or time.monotonic() - saved_at > SAVE_EVERY_S:
            _save_resume(out_dir, done, modules, optimizers, state)
            saved_at = time.monotonic()
        if stopping:
            raise Stopped(f"Stopped after step {done} of {steps}.")


_INPUTS: Final = {"corpus": "corpus", "votes": "votes file", "reward_model": "reward model"}
"""Names of what `data_sha256` holds, in words."""


def describe_run(inputs: Inputs, *, parent: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """What decides how a run ends, as stage.json keeps it; `parent` is the parent's stage.json."""
    return {
        "preset": inputs.preset.name,
        "parent_sha256": parent.get("weights_sha256"),
        "seed": inputs.seed,
        "config": config if isinstance(config, dict) else to_dict(config),
        "data_sha256": {"corpus": inputs.corpus.sha256, **inputs.inputs_sha256},
    }


def check_same_run(out_dir: Path, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ValueError unless what `out_dir` records of its run is what `wanted` describes.

    What is not recorded is no difference: earlier versions recorded less.
    """
    before, now = _flat(recorded), _flat(wanted)
    # Hashes of inputs that this run does not have count too; settings that are gone from the code do not.
    names = [*now, *(name for name in before if name not in now and name in _INPUTS.values())]
    changed = [name for name in names if name in before and before[name] != now.get(name)]
    if changed:
        found = "; ".join(f"its {name} is {_shown(before[name])}, not {_shown(now.get(name))}" for name in changed[:3])
        raise ValueError(f"{out_dir} holds another run ({found}). Choose another --out, or delete it.")


def _flat(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description with its names in words: where a run came from first, its settings last."""
    flat = {name: description[name] for name in ("stage", "preset", "seed") if name in description}
    if "parent_sha256" in description:
        flat["parent"] = description["parent_sha256"]
    hashes, settings = description.get("data_sha256"), description.get("config")
    if isinstance(hashes, Mapping):
        flat |= {_INPUTS.get(str(name), str(name)): value for name, value in hashes.items()}
    if isinstance(settings, Mapping):
        flat |= {f"setting {name}": value for name, value in settings.items()}
    return flat


def _shown(value: Any) -> str:
    """A value as one reads it; of a hash its first digits."""
    text = "none" if value is None else str(value)
    return text[:8] if len(text) == 64 else text[:60]


def stage_info(
    inputs: Inputs, *, parent: Mapping[str, Any], config: Any, state: Mapping[str, Any], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """What every trained checkpoint's stage.json records about its run."""
    return {
        **describe_run(inputs, parent=parent, config=config),
        "precision": state.get("precision", "float32"),
        "metrics": dict(metrics),
        "seconds": round(state["seconds"], 1),
    }


def clear_resume(out_dir: Path) -> None:
    """Remove the resume state of a run that has ended."""
    shutil.rmtree((out_dir / RESUME_STATE).parent, ignore_errors=True)


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
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, module in modules.items():
        tensors |= {f"module/{name}/{key}": value for key, value in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            for key, value in slots.items():
                full = f"optimizer/{name}/{index}/{key}"
                if isinstance(value, Tensor):
                    tensors[full] = value
                else:
                    numbers[full] = value
    header = {"step": step, "state": state, "numbers": numbers}
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    path = out_dir / RESUME_STATE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(contiguous, metadata={"resume": json.dumps(header)}))


def _load_resume(
    out_dir: Path, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], state: dict[str, Any]
) -> int:
    """Restore everything in place; returns the step to run next (0 for a fresh run)."""
    path = out_dir / RESUME_STATE
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["resume"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}). Delete the directory {path.parent} to start anew.") from error
    for name, module in modules.items():
        prefix = f"module/{name}/"
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    for name, optimizer in optimizers.items():
        slots: dict[int, dict[str, Any]] = {}
        for full, value in (*tensors.items(), *header["numbers"].items()):
            kind, owner, *rest = full.split("/")
            if kind == "optimizer" and owner == name:
                slots.setdefault(int(rest[0]), {})[rest[1]] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    state.clear()
    state.update(header["state"])
    return int(header["step"])

"""What a run will cost: from runs that have finished here, else from a measurement of where it will be trained.

That is the train worker's machine, which need not be the one that shows the page.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis
from django.conf import settings
from django.utils import timezone

from trainer.presets import get_preset
from trainer.runtime.estimate import estimate
from webapp.checkpoints.models import Checkpoint
from webapp.live import streams
from webapp.ops.periodic import alive_key
from webapp.training.models import Machine, TrainingRun

logger = logging.getLogger(__name__)

MEASURE_DEADLINE_S = 60


@dataclass(frozen=True, kw_only=True)
class RunEstimate:
    """Shown before a run starts."""

    duration: timedelta
    basis: str
    """Where the duration comes from, in a few words."""
    memory_bytes: int
    disk_bytes: int
    warnings: list[str]


# -- the machines ----------------------------------------------------------------------------------


def introduce_machine(*, node: str) -> None:
    """Called by a train worker that starts: measure its machine, once, and say what a run is given there."""
    machine = Machine.objects.filter(node=node).first()
    figures = (machine.figures if machine else {}) or _measure()
    values = {"figures": figures, "threads": settings.TRAIN_THREADS, "memory_bytes": _available_memory()}
    Machine.objects.update_or_create(node=node, defaults=values | {"seen_at": timezone.now()})


def see_machine(*, node: str | None) -> None:
    """Called by a train worker that has just ended a run, and so has its memory back."""
    Machine.objects.filter(node=node).update(memory_bytes=_available_memory(), seen_at=timezone.now())


def _measure() -> dict[str, Any]:
    """What this machine can do, measured in a process of its own; empty when that fails."""
    command = [*settings.TRAINER_COMMAND, "measure"]
    try:
        finished = subprocess.run(
            command, cwd=settings.BASE_DIR, capture_output=True, check=True, timeout=MEASURE_DEADLINE_S
        )
        return dict(json.loads(finished.stdout))
    except (OSError, ValueError, TypeError, subprocess.SubprocessError) as error:
        logger.warning("This machine could not be measured (%s); estimates use a stated default.", error)
        return {}


def _machines() -> list[Machine]:
    """Where a run may be trained: the machines whose train worker lives, else the one seen last."""
    known = list(Machine.objects.all())
    with contextlib.suppress(redis.RedisError):
        client = streams.client()
        return [machine for machine in known if client.exists(alive_key("train", machine.node))] or known[:1]
    return known[:1]


# -- a run -----------------------------------------------------------------------------------------


def estimate_run(*, stage: str, preset: str, votes: int = 0, parent: Checkpoint | None = None) -> RunEstimate:
    """Time, memory and disk of a run, with a warning for each that does not fit; of several machines on the slowest.

    A model from elsewhere is as large as the checkpoint it starts from. ValueError as get_preset.
    """
    chosen = get_preset(preset)
    if chosen.recipe and parent:
        chosen = chosen.of_size(parent.parameters)
    each = [
        (estimate(stage, chosen, machine.figures, votes=votes, threads=machine.threads), machine)
        for machine in _machines()
    ]
    if each:
        figures, machine = max(each, key=lambda one: one[0].seconds)
        memory = _free_memory(machine)
    else:
        figures, memory = estimate(stage, chosen, votes=votes), None
    duration, basis = timedelta(seconds=round(figures.seconds)), "assuming a laptop; no train worker was measured yet"
    if figures.measured:
        basis = f"from a measurement where it will run ({machine.figures.get('cpu') or 'unknown processor'})"
    if past := _last_duration(stage, preset, parent if chosen.recipe else None):
        duration, basis = past, "what the last such run took here"
    warnings = []
    if memory is not None and figures.memory_bytes > memory:
        warnings.append(
            f"It needs about {figures.memory_bytes / 1e9:.1f} GB of memory; {memory / 1e9:.1f} GB are free."
        )
    free = shutil.disk_usage(_existing(Path(settings.CHECKPOINT_DIR))).free
    if figures.disk_bytes > free:
        warnings.append(f"It needs about {figures.disk_bytes / 1e9:.1f} GB of disk; {free / 1e9:.1f} GB are free.")
    return RunEstimate(
        duration=duration,
        basis=basis,
        memory_bytes=figures.memory_bytes,
        disk_bytes=figures.disk_bytes,
        warnings=warnings,
    )


def _free_memory(machine: Machine) -> int | None:
    """What is free there: now, if it is this machine, else when its worker was last idle."""
    is_here = machine.node.rpartition("@")[2] == socket.gethostname()
    return _available_memory() if is_here else machine.memory_bytes


def _last_duration(stage: str, preset: str, parent: Checkpoint | None) -> timedelta | None:
    """How long the last undisturbed run of this kind took, from a model as large as `parent` where that is given."""
    done = TrainingRun.objects.filter(stage=stage, preset=preset, state=TrainingRun.State.DONE, attempt=1)
    if parent:
        done = done.filter(parent__parameters=parent.parameters)
    last = done.exclude(started_at=None).first()
    return last.duration if last else None


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _available_memory() -> int | None:
    """Bytes that could be had without swapping; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None

"""What a run will cost on this machine: from runs that have finished here, else from a measurement."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings

from trainer.config import get_preset
from trainer.estimate import estimate
from webapp.training.models import TrainingRun

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


def machine_path() -> Path:
    return Path(settings.DATA_DIR) / "machine.json"


def measure_machine() -> None:
    """Measure once, in a process of its own, what estimates are made from."""
    if machine_path().exists():
        return
    command = [*settings.TRAINER_COMMAND, "measure"]
    try:
        finished = subprocess.run(
            command, cwd=settings.BASE_DIR, capture_output=True, check=True, timeout=MEASURE_DEADLINE_S
        )
        machine = json.loads(finished.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        logger.warning("This machine could not be measured (%s); estimates use a stated default.", error)
        return
    unfinished = machine_path().with_suffix(".tmp")
    unfinished.write_text(json.dumps(machine, indent=2))
    unfinished.replace(machine_path())


def read_machine() -> dict[str, Any] | None:
    """What was measured; None before that."""
    try:
        machine = json.loads(machine_path().read_text())
    except (OSError, ValueError):
        return None
    return machine if isinstance(machine, dict) else None


def estimate_run(*, stage: str, preset: str, votes: int = 0) -> RunEstimate:
    """Time, memory and disk of a run here, with a warning for each that does not fit. ValueError as get_preset."""
    machine = read_machine()
    figures = estimate(stage, get_preset(preset), machine, votes=votes, threads=settings.TRAIN_THREADS)
    duration, basis = timedelta(seconds=round(figures.seconds)), "assuming a laptop; this machine was not measured yet"
    if figures.measured and machine:
        basis = f"from a measurement of this machine ({machine.get('cpu') or 'unknown processor'})"
    if past := _last_duration(stage, preset):
        duration, basis = past, "what the last such run took here"
    warnings = []
    if (memory := _available_memory()) is not None and figures.memory_bytes > memory:
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


def _last_duration(stage: str, preset: str) -> timedelta | None:
    """How long the last undisturbed run of this kind took."""
    done = TrainingRun.objects.filter(stage=stage, preset=preset, state=TrainingRun.State.DONE, attempt=1)
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

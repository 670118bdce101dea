"""The two ways a run reports: a progress bar for a person, JSON lines for the site's worker."""

from __future__ import annotations

import json
import sys
import time
from typing import IO, Any

from trainer.runtime.loop import Metrics, SampleDict

SHOWN = (
    "loss",
    "bits_per_byte",
    "instruction_accuracy",
    "agreement",
    "reward",
    "kl",
    "solved",
    "entropy",
    "length",
    "tokens_per_s",
)
"""Metrics worth a place in one line, in this order."""


class ProgressBar:
    """Draws one line on a terminal and overwrites it; prints a line per evaluation when piped."""

    def __init__(self, title: str, stream: IO[str] | None = None) -> None:
        self._title, self._stream = title, stream or sys.stderr
        self._begun = time.monotonic()
        self._first = self._total = 0
        self._live = self._stream.isatty()

    def start(self, step: int, total_steps: int) -> None:
        self._first, self._total, self._begun = step, total_steps, time.monotonic()
        if step:
            self.log(step, f"resumed after step {step}")

    def __call__(self, step: int, metrics: Metrics, samples: list[SampleDict] | None = None) -> None:
        if not self._live and samples is None and step < self._total:
            return
        share = step / max(1, self._total)
        done = step - self._first
        elapsed = time.monotonic() - self._begun
        left = elapsed / done * (self._total - step) if done else 0.0
        shown = "  ".join(f"{name} {metrics[name]:.4g}" for name in SHOWN if name in metrics)
        bar = "━" * round(24 * share) + "╌" * (24 - round(24 * share))
        line = f"{self._title:<9} {bar} {step:>5}/{self._total}  {_clock(elapsed)} (+{_clock(left)})  {shown}"
        self._write(line, keep=step >= self._total or not self._live)

    def practice(self, step: int, samples: list[SampleDict]) -> None:
        """No place in one line."""

    def log(self, step: int, text: str) -> None:
        self._write(f"{self._title:<9} {text}", keep=True)

    def alarm(self, step: int, text: str) -> None:
        self._write(f"{self._title:<9} ALARM at step {step}: {text}", keep=True)

    def _write(self, line: str, *, keep: bool) -> None:
        start = "\r\x1b[2K" if self._live else ""
        self._stream.write(start + line + ("\n" if keep else ""))
        self._stream.flush()


class JsonLines:
    """One JSON object per line. A reader that is gone ends the run: BrokenPipeError passes through."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def start(self, step: int, total_steps: int) -> None:
        self.send(type="start", step=step, total_steps=total_steps)

    def __call__(self, step: int, metrics: Metrics, samples: list[SampleDict] | None = None) -> None:
        values = {name: float(f"{value:.6g}") for name, value in metrics.items()}
        self.send(type="metrics", step=step, values=values)
        if samples:
            self.send(type="samples", step=step, samples=samples)

    def practice(self, step: int, samples: list[SampleDict]) -> None:
        self.send(type="practice", step=step, samples=samples)

    def log(self, step: int, text: str) -> None:
        self.send(type="log", step=step, text=text)

    def alarm(self, step: int, text: str) -> None:
        self.send(type="alarm", step=step, text=text)

    def send(self, **event: Any) -> None:
        self._stream.write(json.dumps(event, allow_nan=False) + "\n")
        self._stream.flush()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

"""A small world for the reinforcement-learning tests: a corpus, a parent checkpoint, votes, a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer.config import REWARD, SFT
from trainer.data.corpus import Corpus
from trainer.data.preferences import Comparison
from trainer.lineage import Inputs
from trainer.model.checkpoint import save_checkpoint
from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.model.tokenizer import Tokenizer
from trainer.presets import get_preset
from trainer.runtime.loop import Metrics, SampleDict
from trainer.runtime.seeds import random_generator
from trainer.tasks.problem import Problem
from trainer.tasks.question import Question

THINGS = ("fox", "rabbit", "tree", "den", "apple", "mouse", "berry", "grass")


def corpus(**changes: Any) -> Corpus:
    """A handful of everything."""
    prompts = [f"What is a {thing}?" for thing in THINGS]
    problems = [
        Problem(
            prompt=f"Mira has {count} apples. She buys 1 more. How many?",
            answer=str(count + 1),
            family="shop:gain",
            difficulty=1 + count % 3,
            worked=f"{count} + 1 = {count + 1}. The answer is {count + 1}.",
        )
        for count in range(1, 9)
    ]
    small = Corpus(
        name="small",
        documents=["The fox eats mice.", "A rabbit eats grass."],
        held_out_documents=["A fox lives in a den."],
        conversations=[
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": "It is small. Happy to help!"}]
            for prompt in prompts
        ],
        questions=[Question(prompt="What does a fox eat?", accept=("mice",), family="eats/0", fact="fox/eats")],
        preference_prompts=prompts[:6],
        held_out_preference_prompts=prompts[6:],
        problems=problems[:6],
        held_out_problems=problems[6:],
        comparisons=[],
        sample_prompts=["What is an LLM?"],
        sha256="0" * 64,
    )
    return dataclasses.replace(small, **changes)


def votes(count: int = 16) -> list[Comparison]:
    """Comparisons that prefer answers about grass, two on each prompt, one of them a tie now and then."""
    return [
        Comparison(
            messages=[{"role": "user", "content": f"What is a {THINGS[number % len(THINGS)]}?"}],
            chosen="A rabbit eats grass." if number % 2 else "It eats grass under the old tree.",
            rejected="Happy to help!" if number % 3 else "The fox eats mice.",
            outcome="tie" if number % 7 == 6 else "win",
            voter="test",
        )
        for number in range(count)
    ]


def save_parent(directory: Path, model: LanguageModel, tokenizer: Tokenizer, *, stage: str = SFT) -> Path:
    return save_checkpoint(directory, model, tokenizer, stage=stage, info={"preset": "smoke", "seconds": 1.0})


def save_judge(directory: Path, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    judge = ScalarModel.from_language_model(model, generator=random_generator(0, "judge"))
    return save_checkpoint(directory, judge, tokenizer, stage=REWARD, info={"preset": "smoke", "metrics": {}})


def inputs(parent: Path, **changes: Any) -> Inputs:
    return Inputs(**{"preset": get_preset("smoke"), "corpus": corpus(), "seed": 5, "parent": parent} | changes)


class Recorder:
    """A Report that remembers."""

    def __init__(self) -> None:
        self.metrics: dict[int, Metrics] = {}
        self.samples: dict[int, list[SampleDict]] = {}
        self.practised: dict[int, list[SampleDict]] = {}
        self.logs: list[str] = []
        self.alarms: list[str] = []
        self.started: tuple[int, int] | None = None

    def __call__(self, step: int, metrics: Metrics, samples: list[SampleDict] | None = None) -> None:
        self.metrics[step] = metrics
        if samples is not None:
            self.samples[step] = samples

    def start(self, step: int, total_steps: int) -> None:
        self.started = (step, total_steps)

    def practice(self, step: int, samples: list[SampleDict]) -> None:
        self.practised[step] = list(samples)

    def log(self, step: int, text: str) -> None:
        self.logs.append(text)

    def alarm(self, step: int, text: str) -> None:
        self.alarms.append(text)


def never() -> bool:
    return False


def after(checks: int) -> Callable[[], bool]:
    """A should_stop that turns true at the given check."""
    answers: Iterator[bool] = iter([False] * (checks - 1) + [True])
    return lambda: next(answers)


def weights(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def adapter(directory: Path) -> bytes:
    """The adapter beside a checkpoint's weights; nothing where there is none."""
    path = directory / "adapter" / "adapter_model.safetensors"
    return path.read_bytes() if path.is_file() else b""

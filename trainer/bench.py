"""How quick the trainer is on this machine: training, sampling and rollouts.

The idea: time what really runs. Training steps and PPO rounds are timed inside the stages' own `train`,
the sampler is the `Engine` of chat and rollouts, a GRPO round is put together from its stage's functions.
Comparisons with transformers and TRL happen in one process, with its threads, on one checkpoint directory,
turn by turn (A B A B), so that whatever disturbs the machine disturbs both; a ratio is taken per pair of turns.
The model is random: how quick it is does not depend on what it has learnt.

FLOPs per trained token = 6·N + 6·layers·width·sequence: two per parameter forward and four backward (the tied
embedding counts once, as the output matrix), and causal attention, where a token looks at half the row on average.

Run it: ``python -m trainer bench``
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from unittest import mock

import torch

from trainer.config import REWARD, SFT, GRPOConfig, ModelConfig, available_cores
from trainer.data.corpus import Corpus
from trainer.lineage import Inputs
from trainer.model.checkpoint import load_checkpoint, load_to_answer, save_checkpoint
from trainer.model.decoder import ScalarModel
from trainer.model.engine import END, Engine, Sampling
from trainer.presets import Preset, get_preset
from trainer.rl.anchor import Anchor, other_conversations
from trainer.rl.rollout import collect, fitting_prompts
from trainer.runtime import machine
from trainer.runtime.loop import Metrics, SampleDict
from trainer.runtime.measurements import Figure, ratios, table, write_section
from trainer.runtime.optim import adamw
from trainer.runtime.seeds import random_generator
from trainer.stages import grpo, init, ppo, pretrain
from trainer.world import plain, shipped

HOPELESS: Final = 0.1
"""A precision whose products run at less than this share of the chosen one's would only take minutes."""
STEPS: Final = 4
"""Training steps per repeat."""
WARM_UP_STEPS: Final = 3
BATCHES: Final = (1, 32, 64)
PROMPT_TOKENS: Final = 24
NEW_TOKENS: Final = 100
NEVER_REACHED: Final = 1e9
SAMPLER: Final = "sampler"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """What every part needs."""

    preset: Preset
    corpus: Corpus
    checkpoint: Path
    """A random model that counts as instruction-tuned."""
    reward_model: Path
    repeats: int
    scratch: Path

    @property
    def inputs(self) -> Inputs:
        return Inputs(
            preset=self.preset, corpus=self.corpus, parent=self.checkpoint, reward_model=self.reward_model, seed=0
        )


def run(
    *,
    out: Path,
    repeats: int,
    only: Sequence[str] | None,
    preset: str,
    threads: int,
    parent: Path | None = None,
) -> None:
    """Measure the parts named by `only` (default: all), print a table, write the file's "trainer" section.

    Of a model from elsewhere, `parent`, the sampler alone.
    """
    if repeats < 1:
        raise ValueError(f"--repeats must be at least 1, not {repeats}.")
    if parent and only not in (None, [SAMPLER]):
        raise ValueError(f"--from measures how quickly a model writes: leave --only out, or say --only {SAMPLER}.")
    torch.set_num_threads(threads or available_cores())
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    figures: list[Figure] = []
    if parent:
        print(f"Measuring {SAMPLER} of {parent.name}: {repeats} repeats …", file=sys.stderr, flush=True)
        figures += _measure_sampler(parent, [problem.prompt for problem in plain().problems], repeats=repeats)
    else:
        with tempfile.TemporaryDirectory(prefix="stagecraft-bench-") as scratch:
            bench = _prepare(get_preset(preset), repeats=repeats, scratch=Path(scratch))
            for name in only or PARTS:
                print(f"Measuring {name}: {repeats} repeats …", file=sys.stderr, flush=True)
                gc.collect()
                figures += PARTS[name](bench)
    about = {"preset": parent.resolve().name if parent else preset, "repeats": repeats, "machine": machine.measure()}
    write_section(out, "trainer", figures, about=about)
    print(table(figures))
    print(f"Written to {out}", file=sys.stderr)


def _prepare(preset: Preset, *, repeats: int, scratch: Path) -> Bench:
    """A corpus with little that is held out (evaluation is not what is timed), a random model and a random judge."""
    full = shipped(size=preset.name)
    corpus = dataclasses.replace(
        full,
        held_out_documents=full.held_out_documents[:2],
        held_out_preference_prompts=full.held_out_preference_prompts[:2],
        sample_prompts=full.sample_prompts[:1],
    )
    first = init.train(None, Inputs(preset=preset, corpus=corpus), scratch / "init", _StepTimes(), _never)
    loaded = load_checkpoint(first)
    info = {"preset": preset.name, "seconds": 0.0}
    judge = ScalarModel.from_language_model(loaded.language_model, generator=random_generator(0, "bench"))
    return Bench(
        preset=preset,
        corpus=corpus,
        checkpoint=save_checkpoint(
            scratch / "parent", loaded.language_model, loaded.tokenizer, stage=SFT, info=dict(info)
        ),
        reward_model=save_checkpoint(scratch / "judge", judge, loaded.tokenizer, stage=REWARD, info=dict(info)),
        repeats=repeats,
        scratch=scratch,
    )


class _StepTimes:
    """A Report that keeps how long every step took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, step: int, metrics: Metrics, samples: list[SampleDict] | None = None) -> None:
        if "step_s" in metrics:
            self.seconds.append(metrics["step_s"])

    def start(self, step: int, total_steps: int) -> None:
        pass

    def practice(self, step: int, samples: list[SampleDict]) -> None:
        pass

    def log(self, step: int, text: str) -> None:
        pass

    def alarm(self, step: int, text: str) -> None:
        pass


def _never() -> bool:
    return False


def _seconds(work: Callable[[], object]) -> float:
    """How long `work` takes, what it left on the GPU included."""
    gc.collect()
    begun = time.perf_counter()
    work()
    if machine.device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


# -- training --------------------------------------------------------------------------------------


def flops_per_token(model: ModelConfig, *, sequence: int) -> float:
    """Arithmetic of one trained token; the formula stands at the top of this module."""
    return 6 * model.parameters + 6 * model.layers * model.width * sequence


def measure_training(bench: Bench) -> list[Figure]:
    """Pre-training steps in both precisions, and their share of what the machine's matrix products reach."""
    width = bench.preset.model.width
    chosen = machine.choose_precision(width)
    rates = {name: machine.matmul_gflops(dtype, width=width) for name, dtype in machine.DTYPES.items()}
    figures = []
    for precision in machine.DTYPES:
        if rates[precision] < HOPELESS * rates[chosen]:
            note = f"not measured: {rates[precision]:,.1f} GFLOP/s, {chosen} {rates[chosen]:,.0f}"
            figures.append(Figure(name=f"training, {precision}", unit="tokens/s", values=[], note=note))
        else:
            figures += _training_in(precision, bench, note="the precision chosen here" if precision == chosen else "")
    return figures


def _training_in(precision: str, bench: Bench, *, note: str) -> list[Figure]:
    steps = WARM_UP_STEPS + STEPS * bench.repeats
    base = bench.preset.pretrain
    config = dataclasses.replace(base, tokens=steps * base.batch_tokens, evaluations=1)
    times = _StepTimes()
    best_gflops = machine.matmul_gflops(machine.DTYPES[precision], seconds=1.0)
    with mock.patch.object(machine, "choose_precision", return_value=precision):
        pretrain.train(config, bench.inputs, bench.scratch / f"pretrain-{precision}", times, _never)
    best_gflops = max(best_gflops, machine.matmul_gflops(machine.DTYPES[precision], seconds=1.0))
    timed = times.seconds[WARM_UP_STEPS:]
    speeds = [STEPS * config.batch_tokens / sum(timed[start : start + STEPS]) for start in range(0, len(timed), STEPS)]
    # The tokenizer may have found fewer tokens than the preset allows.
    shape = load_checkpoint(bench.checkpoint).language_model.config
    gflops = flops_per_token(shape, sequence=config.sequence) / 1e9
    return [
        Figure(name=f"training, {precision}", unit="tokens/s", values=speeds, note=note),
        Figure(
            name=f"training, {precision}: share of the best matmul rate",
            unit="%",
            values=[100 * speed * gflops / best_gflops for speed in speeds],
            note=f"of {best_gflops:,.0f} GFLOP/s; FLOPs per token = 6·N + 6·layers·width·sequence",
        ),
    ]


# -- sampling --------------------------------------------------------------------------------------


def measure_sampler(bench: Bench) -> list[Figure]:
    return _measure_sampler(bench.checkpoint, bench.corpus.documents[:200], repeats=bench.repeats)


def _measure_sampler(checkpoint: Path, texts: Sequence[str], *, repeats: int) -> list[Figure]:
    """100 new tokens for 1, 32 and 64 different prompts of one length, by us and by transformers' `generate`.

    Both in the precision the model would chat in here. Alone, an answer's every token needs all weights once: how much
    of the rate at which this machine reads memory that comes to is a figure of its own.
    """
    loaded = load_to_answer(checkpoint)
    model, tokenizer = loaded.language_model, loaded.tokenizer
    weight = model.head_weight
    engine = Engine(model, end_ids=[], max_batch=max(BATCHES), is_owner=True)  # as in chat
    ids = [token for text in texts for token in tokenizer.encode(text)]
    prompts = [ids[start : start + PROMPT_TOKENS] for start in range(0, max(BATCHES) * PROMPT_TOKENS, PROMPT_TOKENS)]

    def ours(batch: int) -> None:
        sampling = [Sampling(max_new_tokens=NEW_TOKENS, seed=seed) for seed in range(batch)]
        answers = engine.generate(prompts[:batch], sampling)
        assert all(len(answer.tokens) == NEW_TOKENS for answer in answers)

    theirs = None
    if _has("transformers"):
        theirs = _transformers_sampler(checkpoint, prompts, device=weight.device, dtype=weight.dtype)
    figures: list[Figure] = []
    for batch in BATCHES:
        sides = [ours, theirs] if theirs else [ours]
        times: list[list[float]] = [[] for _ in sides]
        for side in sides:
            side(batch)  # warms up caches and allocators
        for _ in range(repeats):
            for side, seconds in zip(sides, times, strict=True):
                seconds.append(_seconds(lambda side=side, batch=batch: side(batch)))  # type: ignore[misc]
        speeds = [[batch * NEW_TOKENS / each for each in seconds] for seconds in times]
        if batch == 1 and weight.device.type == "cpu":
            rows = 0 if model.lm_head is None else weight.numel()  # to look up: one of them a token
            read, rate = (model.config.parameters - rows) * weight.element_size(), machine.read_bytes_per_s()
            figures.append(
                Figure(
                    name="sampler, batch 1: share of the rate memory is read at",
                    unit="%",
                    values=[100 * speed * read / rate for speed in speeds[0]],
                    note=f"of {rate / 1e9:,.0f} GB/s; {read / 1e6:,.0f} MB of weights a token, {weight.dtype}",
                )
            )
        figures += _beside(f"sampler, batch {batch}", "tokens/s", speeds, other="transformers")
    return figures


def _transformers_sampler(
    checkpoint: Path, prompts: Sequence[list[int]], *, device: torch.device, dtype: torch.dtype
) -> Callable[[int], None]:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).to(device).eval()
    model.generation_config.eos_token_id = None  # nobody ends early

    def generate(batch: int) -> None:
        tokens = torch.tensor(prompts[:batch], device=device)
        answers = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=0,
        )
        assert answers.shape[1] == PROMPT_TOKENS + NEW_TOKENS

    return generate


def _beside(name: str, unit: str, speeds: Sequence[Sequence[float]], *, other: str) -> list[Figure]:
    """Our figure, theirs, and the ratio of every pair; without theirs, a line that says so."""
    ours = Figure(name=name, unit=unit, values=speeds[0])
    if len(speeds) == 1:
        return [ours, _missing(f"{name}, {other}", unit)]
    theirs = Figure(name=f"{name}, {other}", unit=unit, values=speeds[1])
    return [ours, theirs, ratios(f"{name}: ours / {other}", ours, theirs)]


def _missing(name: str, unit: str) -> Figure:
    return Figure(name=name, unit=unit, values=[], note="not installed: pip install -r requirements-bench.lock")


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


# -- rollouts --------------------------------------------------------------------------------------


def measure_ppo(bench: Bench) -> list[Figure]:
    """Whole PPO rounds: sampling, judging, and both updates with no epoch cut short."""
    config = dataclasses.replace(
        bench.preset.ppo, steps=1 + bench.repeats, critic_warmup=0, max_kl_nats=NEVER_REACHED, evaluations=1
    )
    times = _StepTimes()
    ppo.train(config, bench.inputs, bench.scratch / "ppo", times, _never)
    speeds = [config.rollouts / seconds for seconds in times.seconds[1:]]
    note = f"{config.rollouts} answers of at most {config.max_new_tokens} tokens a round, {config.epochs} epochs"
    return [Figure(name="PPO", unit="rollouts/s", values=speeds, note=note)]


def measure_grpo(bench: Bench) -> list[Figure]:
    """Whole GRPO rounds, sampling and update, beside TRL's on the same checkpoint, prompts and sizes."""
    config = bench.preset.grpo
    our_round = _grpo_round(bench, config)
    our_round()
    if _has("trl"):
        ours, theirs = _alternate_with_trl(bench, config, our_round)
        times = [ours, theirs]
    else:
        times = [[_seconds(our_round) for _ in range(bench.repeats)]]
    rollouts = config.problems * config.group
    speeds = [[rollouts / seconds for seconds in side] for side in times]
    figures = _beside("GRPO", "rollouts/s", speeds, other="TRL")
    note = f"{config.problems} problems × {config.group} answers of {config.max_new_tokens} tokens a round, anchored"
    return [dataclasses.replace(figures[0], note=note), *figures[1:]]


def _grpo_round(bench: Bench, config: GRPOConfig) -> Callable[[], None]:
    """One round of the stage's own functions.

    A random model is never right, and a group without a right answer is dropped unlearnt. So every other
    answer is declared right, and all count as finished: the update is as long as a round's can be.
    """
    loaded = load_checkpoint(bench.checkpoint, device=machine.device())
    policy, tokenizer = loaded.language_model, loaded.tokenizer
    reference = copy.deepcopy(policy).requires_grad_(False)
    engine = Engine(policy, end_ids=[], max_batch=config.problems * config.group)
    optimizer = adamw(list(policy.parameters()), lr=config.lr)
    anchor = Anchor(policy, reference, other_conversations(bench.corpus), tokenizer, config, seed=0)
    problems = bench.corpus.problems[: config.problems]
    room = policy.config.context - config.max_new_tokens
    prompts = list(fitting_prompts(tokenizer, [problem.asked for problem in problems], room=room).values())

    def play() -> None:
        rollouts = collect(
            engine,
            prompts,
            temperature=config.temperature,
            max_new_tokens=config.max_new_tokens,
            generator=random_generator(0, "rollouts"),
            copies=config.group,
        )
        for rollout in rollouts:
            rollout.finish_reason = END
        grpo.check(rollouts, problems, tokenizer, format_reward=config.format_reward)
        for index, rollout in enumerate(rollouts):
            rollout.reward = float(index % 2)
        kept = grpo.compare(rollouts, group=config.group)
        assert len(kept) == config.problems * config.group
        order = random_generator(0, "minibatches")
        anchor.start_round(0)
        grpo.update(kept, policy, reference, config, optimizer, pad_id=tokenizer.pad_id, order=order, anchor=anchor)
        grpo.describe(rollouts, reference, config, tokenizer)

    return play


def _alternate_with_trl(
    bench: Bench, config: GRPOConfig, our_round: Callable[[], None]
) -> tuple[list[float], list[float]]:
    """Seconds per round, ours and TRL's. Our rounds are played between TRL's, in its callback."""
    import datasets
    import pyarrow
    import transformers
    import trl

    transformers.utils.logging.disable_progress_bar()
    rollouts = config.problems * config.group
    steps_per_round = rollouts // config.minibatch
    ours: list[float] = []
    theirs: list[float] = []

    class Alternate(transformers.TrainerCallback):  # type: ignore[misc]  # transformers is skipped by mypy
        begun = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % steps_per_round == 0:
                gc.collect()
                self.begun = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % steps_per_round == 0:
                if machine.device().type == "cuda":
                    torch.cuda.synchronize()
                theirs.append(time.perf_counter() - self.begun)
                ours.append(_seconds(our_round))

    prompts = [problem.prompt for problem in bench.corpus.problems[: config.problems]]
    rows = pyarrow.Table.from_pylist([{"prompt": [{"role": "user", "content": text}]} for text in prompts])
    trainer = trl.GRPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(bench.checkpoint, dtype=torch.float32),
        processing_class=transformers.AutoTokenizer.from_pretrained(bench.checkpoint, padding_side="left"),
        reward_funcs=lambda completions, **_: [float(index % 2) for index in range(len(completions))],
        # With a name of its own: to make one up, datasets would pickle what pyarrow 26 cannot.
        train_dataset=datasets.Dataset(datasets.table.InMemoryTable(rows), fingerprint="problems"),
        args=trl.GRPOConfig(
            output_dir=str(bench.scratch / "trl"),
            max_steps=(1 + bench.repeats) * steps_per_round,
            per_device_train_batch_size=config.minibatch,
            gradient_accumulation_steps=1,
            steps_per_generation=steps_per_round,
            num_generations=config.group,
            max_completion_length=config.max_new_tokens,
            temperature=config.temperature,
            learning_rate=config.lr,
            beta=config.kl_weight,
            optim="adamw_torch_fused",
            use_cpu=machine.device().type == "cpu",
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        callbacks=[Alternate()],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return ours[1:], theirs[1:]


PARTS: Final[dict[str, Callable[[Bench], list[Figure]]]] = {
    "training": measure_training,
    SAMPLER: measure_sampler,
    "ppo": measure_ppo,
    "grpo": measure_grpo,
}

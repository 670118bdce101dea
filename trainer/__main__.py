"""The trainer's command line: ``python -m trainer --help``.

    python -m trainer all --preset tiny --out runs/first      every stage, then a report card
    python -m trainer pretrain --preset tiny --from runs/first/init --out runs/p2
    python -m trainer chat runs/first/grpo
    python -m trainer eval runs/first/ppo
    python -m trainer read my_texts                           what --data would read, and what it would leave out
    python -m trainer convert model.gguf --out runs/model     a directory that --from takes

`run` is how the site's worker starts a stage: a frozen description in, JSON lines out.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from trainer.config import INIT, STAGES, available_cores
from trainer.presets import DEFAULT_PRESET, PRESETS, RECIPES

EXIT_DONE, EXIT_CRASH, EXIT_MISTAKE, EXIT_STOPPED = 0, 1, 2, 3
RUNS = (*STAGES, "run")
"""Commands that are one run: a signal asks it to save and stop."""
BENCH_PARTS = ("training", "sampler", "ppo", "grpo")


def build_parser() -> argparse.ArgumentParser:
    """All commands; torch is not imported before one of them runs."""
    from trainer.runtime.measurements import REPEATS, default_path
    from trainer.world.tastes import TASTES

    parser = argparse.ArgumentParser(prog="python -m trainer", description="Raise a language model, stage by stage.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sizes, recipes = ", ".join(PRESETS), ", ".join(RECIPES)
    sizes_and_recipes = f"size: {sizes}; for a model from elsewhere: {recipes}"

    def common(command: argparse.ArgumentParser, *, preset: str, parent: bool) -> None:
        command.add_argument("--preset", help=preset)
        command.add_argument("--out", type=Path, required=True, help="directory to write to")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--data", type=Path, help="directory of own text instead of the shipped corpus")
        command.add_argument("--threads", type=int, default=0, help="CPU threads (default: every core)")
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="change one setting of the stage (with all: STAGE.NAME=VALUE)",
        )
        if parent:
            command.add_argument("--from", dest="parent", type=Path, help="parent checkpoint directory, ours or not")
            command.add_argument(
                "--parent-stage", choices=STAGES, help="what a parent from elsewhere is (default: guessed)"
            )
            command.add_argument("--votes", type=Path, help="votes file (reward)")
            command.add_argument("--reward-model", type=Path, help="reward checkpoint (ppo; grpo measures)")
            command.add_argument(
                "--overrule-doubts",
                action="store_true",
                help="ppo against a reward model that beats neither chance nor length on held-out votes",
            )

    for stage in STAGES:
        command = commands.add_parser(stage, help=f"run the {stage} stage")
        if stage == INIT:
            common(command, preset=f"size: {sizes} (default: {DEFAULT_PRESET})", parent=False)
        else:
            common(command, preset=f"{sizes_and_recipes} (default: the parent's, or what fits it)", parent=True)
    everything = commands.add_parser("all", help="every stage, simulated voters, report card")
    default = f"(default: {DEFAULT_PRESET}; with --from the model's own, or what fits it)"
    common(everything, preset=f"{sizes_and_recipes} {default}", parent=False)
    everything.add_argument("--from", dest="parent", type=Path, help="go on from this model, ours or from elsewhere")
    everything.add_argument(
        "--taste",
        action="append",
        metavar="TASTE",
        help=f"what the voters like: {', '.join(TASTES)} or sentences:N; repeat for more branches",
    )
    run = commands.add_parser("run", help="one run described by a JSON file (for workers)")
    run.add_argument("spec", type=Path, help="run.json as the site writes it")
    run.add_argument("--out", type=Path, required=True, help="directory to write to")
    run.add_argument("--progress", choices=["bar", "json"], default="bar")
    run.add_argument("--threads", type=int, default=0, help="CPU threads, where the description names none")
    chat = commands.add_parser("chat", help="talk to a checkpoint")
    chat.add_argument("checkpoint", type=Path, help="checkpoint directory, ours or not")
    chat.add_argument("--temperature", type=float, default=0.7)
    chat.add_argument("--max-new-tokens", type=int, default=160)
    evaluation = commands.add_parser("eval", help="held-out figures of a checkpoint as JSON")
    evaluation.add_argument("checkpoint", type=Path, help="checkpoint directory, ours or not")
    evaluation.add_argument("--data", type=Path, help="directory of own text instead of the shipped corpus")
    evaluation.add_argument("--visitors", type=Path, help="other hand-written questions (JSONL) than the shipped ones")
    read = commands.add_parser("read", help="what --data would read of a directory, as JSON lines; trains nothing")
    read.add_argument("directory", type=Path)
    convert = commands.add_parser("convert", help="make a checkpoint directory of a .gguf file")
    convert.add_argument("file", type=Path)
    convert.add_argument("--out", type=Path, required=True, help="directory to make")
    commands.add_parser("measure", help="this machine's speed as JSON")
    bench = commands.add_parser("bench", help="speed of training, sampling and rollouts, beside transformers and TRL")
    bench.add_argument("--out", type=Path, default=default_path(), help="JSON file (default: bench.json in DATA_DIR)")
    bench.add_argument("--repeats", type=int, default=REPEATS, help=f"measurements per figure (default: {REPEATS})")
    bench.add_argument("--only", nargs="+", choices=BENCH_PARTS, metavar="NAME", help=", ".join(BENCH_PARTS))
    bench.add_argument("--preset", default="tiny", help=f"size: {', '.join(PRESETS)} (default: tiny)")
    bench.add_argument(
        "--from", dest="parent", type=Path, help="a model's directory: how quickly that one writes, and nothing else"
    )
    bench.add_argument("--threads", type=int, default=0, help="CPU threads (default: every core)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    # Threads that wait for each other spin for some microseconds and then sleep. OpenMP's own default spins for
    # a millisecond, which beside one other busy process makes a training step twice as slow; sleeping at once
    # costs a sixth of the speed of an idle machine. Read when torch is loaded, so it is set before.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    options = build_parser().parse_args(arguments)
    try:
        return _read(options.directory) if options.command == "read" else _command(options)
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from the last saved step" if options.command in ("all", *RUNS) else ""
        print(f"Interrupted{goes_on}.", file=sys.stderr)
        return EXIT_STOPPED


def _read(directory: Path) -> int:
    """What `--data` would read, record by record, then what it would leave out; without torch."""
    from trainer.data.reader import described, read

    left_out = []
    try:
        for one in read(directory):
            line = json.dumps(described(one, directory), ensure_ascii=False)
            if one.taken is None:
                left_out.append(line)
            else:
                _print_line(line)
        for line in left_out:
            _print_line(line)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read on has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, MemoryError) as error:
        sys.stdout.flush()
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return EXIT_MISTAKE
    return EXIT_DONE


def _print_line(line: str) -> None:
    """Print JSON in UTF-8, whatever this terminal's own encoding is; half characters (of file names) as escapes."""
    sys.stdout.buffer.write(line.encode("utf-8", "backslashreplace") + b"\n")


def _command(options: argparse.Namespace) -> int:
    """Run one command; what a person did wrong is one line."""
    should_stop = _StopFlag()
    if options.command in RUNS:
        should_stop.listen()  # before torch is loaded, because that takes seconds
    from trainer.runtime.errors import Diverged

    try:
        if options.command == "run":
            return _run(options, should_stop)
        if options.command == "measure":
            from trainer.runtime.machine import measure

            print(json.dumps(measure()))
        elif options.command == "convert":
            from trainer.model.gguf import convert

            print(convert(options.file, options.out))
        elif options.command == "bench":
            _use_threads(options.threads)
            from trainer import bench

            bench.run(
                out=options.out,
                repeats=options.repeats,
                only=options.only,
                preset=options.preset,
                parent=options.parent,
                threads=options.threads,
            )
        elif options.command == "chat":
            from trainer.terminal import chat

            chat(options.checkpoint, temperature=options.temperature, max_new_tokens=options.max_new_tokens)
        elif options.command == "eval":
            from trainer.pipeline import evaluate_directory

            print(json.dumps(evaluate_directory(options.checkpoint, options.data, options.visitors), indent=2))
        elif options.command == "all":
            _use_threads(options.threads)
            from trainer.pipeline import run_all
            from trainer.run import preset_of

            run_all(
                preset=options.preset or (preset_of(options.parent) if options.parent else DEFAULT_PRESET),
                out_dir=options.out,
                start=options.parent,
                seed=options.seed,
                data=options.data,
                tastes=options.taste,
                threads=options.threads,
                settings=parse_settings(options.set),
            )
        else:
            return _stage(options, should_stop)
    except (ValueError, Diverged, OSError) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return EXIT_MISTAKE
    return EXIT_DONE


def _sentence(error: Exception) -> str:
    """What went wrong, in a line; of the system's errors also where, and what to look at."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    name = "A file" if error.filename is None else error.filename
    return f"{name} cannot be read or written ({error.strerror}). Check the path, its rights and the free space."


def parse_settings(pairs: Sequence[str]) -> dict[str, object]:
    """NAME=VALUE pairs with JSON values, e.g. ["lr=1e-4"]; ValueError shows the form."""
    settings: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            equals = ""
        if not equals:
            raise ValueError(f"--set {pair}: write NAME=VALUE, for example --set lr=1e-4.")
    return settings


def _stage(options: argparse.Namespace, should_stop: _StopFlag) -> int:
    """A stage started by hand: progress bar, Ctrl-C saves."""
    from trainer.reports import ProgressBar
    from trainer.run import RunSpec, execute, preset_of
    from trainer.runtime.errors import Stopped

    parent = getattr(options, "parent", None)
    spec = RunSpec(
        stage=options.command,
        preset=options.preset or (preset_of(parent) if parent else DEFAULT_PRESET),
        seed=options.seed,
        parent=parent,
        parent_stage=getattr(options, "parent_stage", None),
        reward_model=getattr(options, "reward_model", None),
        votes=getattr(options, "votes", None),
        data=options.data,
        config=parse_settings(options.set),
        overrule_doubts=getattr(options, "overrule_doubts", False),
        threads=options.threads,
    )
    _use_threads(spec.threads)
    try:
        print(execute(spec, options.out, ProgressBar(spec.stage), should_stop))
    except Stopped as stopped:
        print(f"{stopped} The same command goes on from there.", file=sys.stderr)
        return EXIT_STOPPED
    return EXIT_DONE


def _run(options: argparse.Namespace, should_stop: _StopFlag) -> int:
    """A stage started by a worker: the same, reported as JSON lines."""
    _die_with_parent()
    from trainer.reports import JsonLines, ProgressBar
    from trainer.run import RunSpec, execute
    from trainer.runtime.errors import Diverged, Stopped

    lines = JsonLines(sys.stdout)
    try:
        spec = RunSpec.from_json(options.spec)
        spec = dataclasses.replace(spec, threads=spec.threads or options.threads)
        _use_threads(spec.threads)
        report = lines if options.progress == "json" else ProgressBar(spec.stage)
        path = execute(spec, options.out, report, should_stop)
    except Stopped:
        return EXIT_STOPPED
    except BrokenPipeError:
        os._exit(EXIT_CRASH)  # nobody reads on: the worker is gone, and another one resumes
    except (ValueError, Diverged, OSError) as error:
        lines.send(type="error", text=_sentence(error))
        return EXIT_MISTAKE
    from trainer.model.checkpoint import read_info

    lines.send(type="done", path=str(path), info=read_info(path))
    return EXIT_DONE


class _StopFlag:
    """A flag that SIGTERM and the first Ctrl-C raise, once it listens; the second Ctrl-C interrupts."""

    def __init__(self) -> None:
        self._is_set = False

    def __call__(self) -> bool:
        return self._is_set

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, self._set)
        signal.signal(signal.SIGINT, self._set)

    def _set(self, signum: int, frame: FrameType | None) -> None:
        if self._is_set and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._is_set = True


def _use_threads(count: int) -> None:
    import torch

    if count < 0:
        raise ValueError(f"--threads must be 0 (every core) or more, not {count}.")
    torch.set_num_threads(count or available_cores())


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its worker dies, however it dies; a no-op elsewhere."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())

"""A trainer for tests: speaks the protocol of `python -m trainer run` without training anything.

    python fake_trainer.py MODE run RUN_JSON --out DIR --threads N --progress json
    python fake_trainer.py MODE init --preset P --out DIR
    python fake_trainer.py MODE measure

MODE says what happens after the first step: good, garbage, crash, silent_crash, mistake, no_checkpoint,
killed, onward (killed after each step, but gets on), unborn (killed before it starts), finished (finds it done),
wait (for SIGTERM, then saves; finishes when resumed), tireless (saves again and again; finishes when resumed),
young (SIGTERM ends it without a save), wedged (deaf to SIGTERM) or doubtful (good, but its reward model beats
neither chance nor length).
"""

import contextlib
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it is run as a script

from tests import smallest

STEPS = 3


def say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


DOUBTFUL = {
    "held_out_comparisons": 24,
    "held_out_prompts": 20,
    "agreement": 0.75,
    "length_only_agreement": 1.0,
    "beats_chance": False,
    "beats_length": False,
}


def write_checkpoint(directory: Path, stage: str, preset: str, **metrics: Any) -> None:
    weights = smallest.weights(stage, first=hashlib.sha256(str(directory).encode()).digest()[:3])
    info = {
        "stage": stage,
        "preset": preset,
        "parent_sha256": None,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "parameters": 1,
        "config": {},
        "metrics": {"bits_per_byte": 2.5, **metrics},
        "seconds": 0.1,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.safetensors").write_bytes(weights)
    files: dict[str, Any] = {
        "config.json": smallest.config_json(stage),
        "generation_config.json": {"eos_token_id": [1]},
        "tokenizer.json": smallest.TOKENIZER,
        "tokenizer_config.json": {"chat_template": ""},
        "stage.json": info,
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))


def wait_for_stop(resume: Path) -> None:
    def save(number: int, frame: FrameType | None) -> None:
        resume.parent.mkdir(parents=True, exist_ok=True)
        resume.write_text("1")
        sys.exit(3)

    signal.signal(signal.SIGTERM, save)
    say(type="log", step=1, text="waiting")
    while True:
        signal.pause()


def misbehave(mode: str, resume: Path, first: int) -> None:
    """What this mode does after the first step."""
    if mode == "garbage":
        for line in ("not json", "[1, 2]", '{"type": "metrics"}', '{"type": "surprise"}', "", '{"type": "log"}'):
            print(line, flush=True)
        print('{"type": "metrics", "step": 1, "values": {"loss": NaN, "reward": 1.5}}', flush=True)
        sys.stdout.buffer.write(b"\xff\xfe" * 10 + b"\n")
        sys.stdout.buffer.write(b"x" * 1_500_000 + b"\n")
        sys.stdout.buffer.flush()
    elif mode == "crash":
        sys.exit("Traceback (most recent call last):\n  somewhere\nRuntimeError: out of ideas")
    elif mode == "silent_crash":
        os._exit(7)
    elif mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "onward" and first < STEPS - 1:
        resume.parent.mkdir(parents=True, exist_ok=True)
        resume.write_text(str(first + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "mistake":
        say(type="error", text="The votes file has no line.")
        sys.exit(2)
    elif mode == "wait" and not resume.exists():
        wait_for_stop(resume)
    elif mode == "young":
        say(type="log", step=1, text="no handler yet")
        signal.pause()
    elif mode == "tireless" and not first:
        while True:
            resume.parent.mkdir(parents=True, exist_ok=True)
            unfinished = resume.with_name(".state.tmp")
            with contextlib.suppress(FileNotFoundError):  # somebody has removed the directory
                unfinished.write_text("1")
                unfinished.replace(resume)
            time.sleep(0.02)
    elif mode == "wedged":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say(type="log", step=1, text="deaf")
        while True:
            signal.pause()


def run(mode: str, run_json: Path, out: Path) -> None:
    spec = json.loads(run_json.read_text())
    if spec["parent"]:
        assert (run_json.parent / spec["root"] / spec["parent"] / "stage.json").is_file()
    resume = out / "resume" / "state.safetensors"
    first = int(resume.read_text()) if resume.exists() else 0
    if mode == "finished":
        assert (out / "stage.json").is_file()
        return
    if mode == "unborn":
        os.kill(os.getpid(), signal.SIGKILL)
    say(type="start", step=first, total_steps=STEPS)
    say(type="metrics", step=first + 1, values={"loss": 3.0, "lr": 0.01})
    misbehave(mode, resume, first)
    for step in range(first + 2, STEPS + 1):
        say(type="metrics", step=step, values={"loss": 3.0 / step, "lr": 0.01})
    say(type="samples", step=STEPS, samples=[{"prompt": "What is an LLM?", "text": "A model.", "reward": 0.5}])
    say(type="alarm", step=STEPS, text="The answers are getting longer.")
    if mode == "no_checkpoint":
        return
    doubted = mode == "doubtful" and spec["stage"] == "reward"
    write_checkpoint(out, spec["stage"], spec["preset"], **(DOUBTFUL if doubted else {}))
    say(type="done", path=str(out), info={})


def main() -> None:
    mode, command, *rest = sys.argv[1:]
    if command == "measure":
        print(json.dumps({"cpu": "A test processor", "cores": 2, "matmul_gflops": {"float32": 100.0}}))
    elif command == "init":
        write_checkpoint(Path(rest[rest.index("--out") + 1]), "init", rest[rest.index("--preset") + 1])
    else:
        run(mode, Path(rest[0]), Path(rest[rest.index("--out") + 1]))


if __name__ == "__main__":
    main()

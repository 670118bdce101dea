"""Resume, reports and refusals of the loop and the two first stages; kills are real SIGKILLs."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from tests.trainer import small
from trainer.__main__ import main
from trainer.config import PretrainConfig, SFTConfig
from trainer.lineage import Inputs
from trainer.model.checkpoint import load_checkpoint, read_info
from trainer.model.decoder import LanguageModel
from trainer.model.tokenizer import Tokenizer
from trainer.presets import get_preset
from trainer.runtime import loop, tensors
from trainer.runtime.errors import Diverged, Stopped
from trainer.runtime.files import RESUME_STATE
from trainer.runtime.loop import Metrics, evaluation_steps, run_steps
from trainer.runtime.optim import apply_gradients, muon_and_adamw, warmup_decay
from trainer.runtime.seeds import derive_seed
from trainer.stages import init, pretrain, sft

ROOT = Path(__file__).resolve().parents[2]
PRETRAIN = PretrainConfig(tokens=12 * 128, batch_tokens=128, sequence=32, evaluations=2)
SFT = SFTConfig(steps=12, batch_tokens=192, sequence=96, evaluations=2)


@pytest.fixture
def inputs(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> Inputs:
    documents = [
        f"The {thing} number {i} stands by the {other}."
        for i in range(20)
        for thing in small.THINGS[:4]
        for other in small.THINGS[4:]
    ]
    parent = small.save_parent(tmp_path / "parent", model, tokenizer, stage="pretrain")
    return small.inputs(parent, corpus=small.corpus(documents=documents))


@pytest.mark.parametrize("step", [1, 5, 11])
@pytest.mark.parametrize(("train", "config"), [(pretrain.train, PRETRAIN), (sft.train, SFT)], ids=["pretrain", "sft"])
def test_a_run_stopped_and_resumed_ends_with_the_same_bytes(
    tmp_path: Path, inputs: Inputs, train: Callable[..., Path], config: PretrainConfig | SFTConfig, step: int
) -> None:
    whole = train(config, inputs, tmp_path / "whole", small.Recorder(), small.never)
    with pytest.raises(Stopped, match=f"step {step} of 12"):
        train(config, inputs, tmp_path / "parts", small.Recorder(), small.after(step))
    parts = train(config, inputs, tmp_path / "parts", small.Recorder(), small.never)
    assert small.weights(parts) == small.weights(whole)
    assert not (parts / "resume").exists()


def test_pre_training_lowers_the_loss_and_says_what_it_read(tmp_path: Path, inputs: Inputs) -> None:
    report = small.Recorder()
    config = dataclasses.replace(PRETRAIN, tokens=60 * 128)
    path = pretrain.train(config, inputs, tmp_path / "out", report, small.never)
    losses = [metrics["loss"] for metrics in report.metrics.values() if "loss" in metrics]
    assert len(losses) == 60
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    info = read_info(path)
    assert inputs.parent is not None
    assert info["parent_sha256"] == read_info(inputs.parent)["weights_sha256"]
    assert info["data_sha256"]["corpus"] == inputs.corpus.sha256


def test_fine_tuning_teaches_the_answers_it_was_shown(tmp_path: Path, inputs: Inputs) -> None:
    config = dataclasses.replace(SFT, steps=60, matrix_lr=0.02, embedding_lr=0.01)
    inputs = dataclasses.replace(inputs, corpus=small.corpus(sample_prompts=["What is a fox?"]))
    report = small.Recorder()
    sft.train(config, inputs, tmp_path / "out", report, small.never)
    assert report.samples[0][0]["text"] != "It is small. Happy to help!"
    assert report.samples[60][0]["text"] == "It is small. Happy to help!"


def test_fine_tuning_reports_no_accuracy_without_questions(tmp_path: Path, inputs: Inputs) -> None:
    report = small.Recorder()
    silent = dataclasses.replace(inputs, corpus=small.corpus(questions=[]))
    out = sft.train(dataclasses.replace(SFT, steps=2), silent, tmp_path / "out", report, small.never)
    assert "instruction_accuracy" not in report.metrics[2]
    assert read_info(out)["metrics"] == {}


def test_random_init_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    preset = get_preset("smoke")
    corpus = small.corpus(documents=["A fox eats mice and berries."] * 3)
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        inputs = Inputs(preset=preset, corpus=corpus, seed=seed)
        path = init.train(None, inputs, tmp_path / name, small.Recorder(), small.never)
        weights.append(small.weights(path))
        assert load_checkpoint(path).info["stage"] == "init"
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_not_finite_ends_the_run_and_saves_nothing(
    tmp_path: Path, model: LanguageModel, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(loop, "SAVE_SHARE", float("inf"))  # after every step
    report = small.Recorder()
    with pytest.raises(Diverged, match=r"loss became .* at step 3"):
        run_steps(
            steps=5,
            out_dir=tmp_path,
            modules={"model": model},
            optimizers={},
            state={},
            do_step=lambda step: {"loss": value if step == 2 else 1.0},
            report=report,
            should_stop=small.never,
        )
    assert list(report.metrics) == [1, 2]

    run_steps(  # goes on before the bad step
        steps=3,
        out_dir=tmp_path,
        modules={"model": model},
        optimizers={},
        state={},
        do_step=lambda step: {"loss": 1.0},
        report=report,
        should_stop=small.never,
    )
    assert report.started == (2, 3)
    assert list(report.metrics) == [1, 2, 3]


class Clock:
    """Stands where the loop's `time` does: steps and saves take as long as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


def save_moments(monkeypatch: pytest.MonkeyPatch, *, steps: int, step_s: float, save_s: float) -> list[float]:
    """When a run of such steps has saved, in seconds from its beginning."""
    clock, moments = Clock(), []

    def do_step(step: int) -> Metrics:
        clock.now += step_s
        return {"loss": 1.0}

    def save(*_: object) -> None:
        clock.now += save_s
        moments.append(clock.now - 1000.0)

    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(loop, "_save_resume", save)
    run_steps(
        steps=steps,
        out_dir=Path("nowhere"),
        modules={},
        optimizers={},
        state={},
        do_step=do_step,
        report=small.Recorder(),
        should_stop=small.never,
    )
    return moments


def test_it_saves_early_and_then_ever_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = save_moments(monkeypatch, steps=2000, step_s=0.1, save_s=0.05)
    assert moments[0] == pytest.approx(0.15)  # after the first step
    assert moments[:6] == pytest.approx([0.15, 2.2, 6.25, 14.3, 30.35, 60.4], abs=0.2)
    pauses = [later - earlier for earlier, later in pairwise(moments[4:])]
    assert len(pauses) == 5
    assert max(pauses) < loop.SAVE_EVERY_S + 0.2


@pytest.mark.parametrize(("step_s", "save_s"), [(0.1, 3.0), (20.0, 10.0), (0.01, 0.2)])
def test_saving_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch, step_s: float, save_s: float) -> None:
    moments = save_moments(monkeypatch, steps=int(600 / step_s), step_s=step_s, save_s=save_s)
    assert len(moments) > 2
    for count, moment in enumerate(moments[1:], start=1):
        assert count * save_s <= 1.01 * loop.SAVE_SHARE * moment


def test_early_kills_do_not_begin_at_the_first_step_each_time(tmp_path: Path, smoke_init: Path) -> None:
    command = run_spec(
        tmp_path, stage="pretrain", parent=str(smoke_init), config={"tokens": 60 * 1024, "evaluations": 1}
    )
    begun = []
    for _ in range(3):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                if event["type"] == "start":
                    begun.append(event["step"])
                elif event["type"] == "metrics" and event["step"] >= begun[-1] + 3:
                    process.kill()
                    break
    assert begun[0] == 0 < begun[1] < begun[2]


def test_a_damaged_resume_state_says_what_to_delete(tmp_path: Path, inputs: Inputs) -> None:
    with pytest.raises(Stopped):
        sft.train(SFT, inputs, tmp_path / "out", small.Recorder(), small.after(2))
    (tmp_path / "out" / "resume" / "state.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"is damaged .* Delete the directory"):
        sft.train(SFT, inputs, tmp_path / "out", small.Recorder(), small.never)


def test_weights_that_two_modules_share_are_saved_for_both(tmp_path: Path) -> None:
    """A critic on the policy's base, a tied head: a file refuses two names for one memory."""
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    second.weight = first.weight
    modules = {"first": first, "second": second}
    loop._save_resume(tmp_path, 4, modules, {}, {"seconds": 1.0})
    fresh = {"first": torch.nn.Linear(3, 2), "second": torch.nn.Linear(3, 2)}
    state: dict[str, object] = {}
    assert loop._load_resume(tmp_path, fresh, {}, state) == 4
    assert torch.equal(fresh["first"].weight, first.weight)
    assert torch.equal(fresh["second"].weight, first.weight)


def test_a_save_that_fails_leaves_the_one_before_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"model": torch.nn.Linear(3, 2)}
    loop._save_resume(tmp_path, 1, module, {}, {})
    before = (tmp_path / RESUME_STATE).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(OSError, match=r"No space left.*free space"):
        loop._save_resume(tmp_path, 2, module, {}, {})
    assert (tmp_path / RESUME_STATE).read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        lambda tensors, header: tensors.pop("module/model/decoder.norm.weight"),
        lambda tensors, header: tensors.update({"module/average/decoder.norm.weight": torch.zeros(32)}),
        lambda tensors, header: tensors.update({"module/model/decoder.norm.weight": torch.zeros(31)}),
        lambda tensors, header: tensors.update({"optimizer/muon/0/momentum_buffer": torch.zeros(31)}),
        lambda tensors, header: tensors.update({"optimizer/muon/99/momentum_buffer": torch.zeros(32)}),
        lambda tensors, header: tensors.update({"optimizer/sgd/0/momentum_buffer": torch.zeros(32)}),
        lambda tensors, header: header["state"].pop("precision"),
    ],
    ids=["less", "another module", "other shape", "other slot", "more parameters", "another optimizer", "less state"],
)
def test_a_resume_state_of_another_version_says_what_to_delete_and_restores_nothing(
    tmp_path: Path, model: LanguageModel, changes: Callable[[dict[str, torch.Tensor], dict[str, Any]], object]
) -> None:
    steps: dict[str, Any] = {
        "steps": 3,
        "out_dir": tmp_path,
        "modules": {"model": model},
        "optimizers": muon_and_adamw(model, matrix_lr=0.01, embedding_lr=0.01, precision=lambda: "float32"),
        "report": small.Recorder(),
        "should_stop": small.after(1),
    }

    def do_step(step: int) -> Metrics:
        model(torch.tensor([[1, 2, 3]])).sum().backward()
        return {"norm": apply_gradients(model, steps["optimizers"].values())}

    with pytest.raises(Stopped):
        run_steps(**steps, do_step=do_step, state={"precision": "float32"})
    path = tmp_path / RESUME_STATE
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["resume"])
    tensors = load_file(path)
    changes(tensors, header)
    save_file(tensors, path, metadata={"resume": json.dumps(header)})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    state = {"precision": "bfloat16"}
    with pytest.raises(ValueError, match=r"does not fit this run: .* Delete the directory .*resume to start anew"):
        run_steps(**steps, do_step=do_step, state=state)
    assert not any(parameter.any() for parameter in model.parameters())
    assert state == {"precision": "bfloat16"}


def test_seeds_depend_on_every_part_of_their_purpose() -> None:
    seeds = {
        derive_seed(0, "rollout", 1),
        derive_seed(0, "rollout", 2),
        derive_seed(1, "rollout", 1),
        derive_seed(0, "order", 1),
    }
    assert len(seeds) == 4
    assert derive_seed(0, "rollout", 1) == derive_seed(0, "rollout", 1)


def test_the_last_step_is_always_evaluated() -> None:
    assert evaluation_steps(10, 3) == {3, 7, 10}
    assert evaluation_steps(2, 5) == {0, 1, 2}


def test_the_learning_rate_rises_stays_and_falls_to_nothing() -> None:
    factors = [warmup_decay(step, 10, warmup=0.2, decay=0.5) for step in range(10)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


# -- the command a worker runs ---------------------------------------------------------------------


def run_spec(tmp_path: Path, **spec: object) -> list[str]:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"preset": "smoke", "threads": 1, **spec}))
    return [sys.executable, "-m", "trainer", "run", str(path), "--progress", "json", "--out", str(tmp_path / "out")]


@pytest.fixture(scope="module")
def smoke_init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the smoke preset, made in this process: torch is loaded here already."""
    out = tmp_path_factory.mktemp("smoke") / "init"
    assert main(["init", "--preset", "smoke", "--threads", "1", "--out", str(out)]) == 0
    return out


def test_a_killed_worker_command_resumes_to_the_same_bytes(tmp_path: Path, smoke_init: Path) -> None:
    # Long enough that the end is far away when the signal arrives.
    spec = {"stage": "pretrain", "parent": str(smoke_init), "config": {"tokens": 60 * 1024, "evaluations": 1}}
    command = run_spec(tmp_path, **spec)
    for end, code in ((signal.SIGTERM, 3), (signal.SIGKILL, -signal.SIGKILL)):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            next(line for line in process.stdout if (event := json.loads(line))["type"] == "metrics" and event["step"])
            process.send_signal(end)
            process.stdout.read()
        assert process.returncode == code
    resumed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    first, *_, last = map(json.loads, resumed.stdout.splitlines())
    assert first["step"] > 0
    assert last["type"] == "done"

    undisturbed = tmp_path / "undisturbed"
    subprocess.run([*command[:-1], str(undisturbed)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert small.weights(tmp_path / "out") == small.weights(undisturbed)


def test_a_worker_command_whose_reader_is_gone_ends(tmp_path: Path, smoke_init: Path) -> None:
    command = run_spec(tmp_path, stage="pretrain", parent=str(smoke_init))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
    assert process.returncode == 1
    assert not (tmp_path / "out" / "stage.json").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"stage": "sft", "parent": "INIT"}, "sft cannot start from a init checkpoint; it needs pretrain or sft."),
        ({"stage": "pretrain"}, "pretrain needs a parent checkpoint"),
        ({"stage": "pretrain", "parent": "INIT", "preset": "huge"}, "Unknown preset 'huge'; choose one of smoke"),
        ({"stage": "dance", "parent": "INIT"}, "Unknown stage 'dance'"),
        ({"stage": "pretrain", "parent": "INIT", "config": {"speed": 1}}, "pretrain has no setting speed"),
        ({"stage": "pretrain", "parent": "/nowhere"}, "/nowhere has no config.json"),
        ({"stage": "pretrain", "parent": "INIT", "colour": "red"}, "unknown entries colour"),
    ],
)
def test_a_mistake_is_one_sentence_and_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spec: dict[str, str], message: str
) -> None:
    from trainer.__main__ import main

    if spec.get("parent") == "INIT":
        inputs = Inputs(preset=get_preset("smoke"), corpus=small.corpus(documents=["A fox."] * 3))
        spec = spec | {"parent": str(init.train(None, inputs, tmp_path / "init", small.Recorder(), small.never))}
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        code = main(run_spec(tmp_path, **spec)[3:])
    finally:
        signal.signal(signal.SIGTERM, handlers[0])
        signal.signal(signal.SIGINT, handlers[1])
    [line] = capsys.readouterr().out.splitlines()
    assert code == 2
    assert json.loads(line)["type"] == "error"
    assert message in json.loads(line)["text"]
    assert not (tmp_path / "out" / "stage.json").exists()


def test_the_site_never_needs_more_than_ids_and_files() -> None:
    """The trainer runs alone: nothing of Django is loaded by its command line."""
    code = "import sys, trainer.run, trainer.pipeline; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "trainer.runtime.loop" in loaded.stdout
    assert not re.findall(r"^(?:django|celery|redis|webapp)\b.*", loaded.stdout, re.MULTILINE)

"""What a person types wrong is one line that says what to do, and exit code 2; never a traceback."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.trainer import small
from trainer import pipeline, terminal
from trainer import run as runs
from trainer.__main__ import main
from trainer.data.preferences import write_comparisons
from trainer.data.prompting import prompt_ids
from trainer.model.decoder import LanguageModel
from trainer.model.tokenizer import Message, Tokenizer
from trainer.run import RunSpec
from trainer.runtime.errors import Diverged


@pytest.fixture(autouse=True)
def _same_signal_handlers() -> Iterator[None]:
    """A stage takes signals for itself, and the tests go on after it."""
    assert threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def place(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a parent for every stage, votes and a few texts."""
    monkeypatch.chdir(tmp_path)
    for stage in ("init", "pretrain", "sft"):
        small.save_parent(tmp_path / stage, model, tokenizer, stage=stage)
    small.save_judge(tmp_path / "reward", model, tokenizer)
    write_comparisons(tmp_path / "votes.jsonl", small.votes())
    (tmp_path / "a file").write_text("not a directory")
    texts = {"text": "A fox eats mice."}, {"text": "A rabbit eats grass."}
    talks = [{"instruction": f"What is a {thing}?", "output": "It is small."} for thing in small.THINGS]
    for name, records in (("texts", [*texts, *talks]), ("documents", texts), ("one document", texts[:1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for name, content in (("empty", "{}"), ("dancer", '{"stage": "dance"}'), ("listed", '{"stage": ["sft"]}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stage.json").write_text(content)
    return tmp_path


SFT = ["sft", "--preset", "smoke", "--from", "pretrain", "--data", "texts", "--threads", "1"]
FITTING = ["--set", "sequence=96", "--set", "batch_tokens=96"]
ALL = ["all", "--preset", "smoke", "--threads", "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reward", "--preset", "smoke", "--from", "sft", "--votes", "nowhere"], "nowhere is not a file. Name a JSON"),
        (["reward", "--preset", "smoke", "--from", "sft", "--votes", "texts"], "texts is not a file. Name a JSON"),
        (["reward", "--preset", "smoke", "--from", "sft"], "reward learns from comparisons: name a votes file"),
        ([*SFT, "--votes", "votes.jsonl"], "sft makes nothing of --votes, only reward. Leave it out."),
        ([*SFT, "--reward-model", "reward"], "sft makes nothing of --reward-model, only ppo and grpo. Leave it out."),
        ([*SFT, "--overrule-doubts"], "sft makes nothing of --overrule-doubts, only ppo. Leave it out."),
        ([*ALL, "--taste", "louder", "--out", "all"], "Unknown taste 'louder'; choose one of shorter, friendlier, exa"),
        ([*ALL, "--taste", "sentences:0", "--out", "all"], "plain-words, sentences:N (with N from 1 to 20)"),
        ([*SFT, "--out", "a file"], "a file is a file. Choose a directory for --out."),
        ([*SFT, *FITTING, "--out", "a file/below"], "cannot be read or written (Not a directory). Check the path"),
        ([*SFT, "--out", "pretrain"], "pretrain is the parent itself. Choose another --out"),
        ([*SFT, "--from", "empty"], "empty/stage.json names no stage that we know (None)"),
        ([*SFT, "--from", "dancer"], "dancer/stage.json names no stage that we know ('dance')"),
        ([*SFT, "--from", "listed"], "listed/stage.json names no stage that we know (['sft'])"),
        ([*SFT, "--set", "steps=0"], "steps must be above 0, not 0"),
        ([*SFT, "--set", 'steps="abc"'], "steps must be a whole number, not 'abc'"),
        ([*SFT, "--set", "batch_tokens=100"], "batch_tokens=100 must be a multiple of sequence=256"),
        ([*SFT, "--set", "speed=1"], "sft has no setting speed"),
        ([*SFT, "--set", "steps"], "--set steps: write NAME=VALUE"),
        ([*SFT, "--threads", "-1"], "threads must be 0 (every core) or more, not -1"),
        ([*SFT, "--data", "documents"], "documents has no conversations, which sft needs. Add records with"),
        ([*SFT, "--data", "nowhere"], "nowhere is not a directory"),
        (["init", "--preset", "smoke", "--data", "one document"], "one document has no document to hold out"),
        (["init", "--preset", "smoke", "--set", "x=2"], "init has no setting x"),
        (["init", "--preset", "huge"], "Unknown preset 'huge'"),
        ([*ALL, "--out", "a file"], "a file is a file. Choose a directory for --out."),
        ([*ALL, "--threads", "-1"], "--threads must be 0 (every core) or more, not -1"),
        ([*ALL, "--set", "grpo.foo=1"], "grpo has no setting foo"),
        ([*ALL, "--set", "init.x=2"], "init has no setting x"),
        ([*ALL, "--set", "ppo.steps=0"], "steps must be above 0"),
        ([*ALL, "--set", "ppo.max_new_tokens=256"], "max_new_tokens=256 leaves no room for a prompt"),
        ([*ALL, "--set", "ppo.max_new_tokens=8"], "Set both max_new_tokens to one number"),
        ([*ALL, "--set", "steps=1"], "name the stage too"),
        ([*ALL, "--data", "documents"], "documents has no conversations, which sft needs"),
        ([*ALL, "--data", "one document"], "one document has no document to hold out, which init needs"),
        (["chat", "nowhere"], "nowhere is not a directory"),
        (["eval", "empty"], "empty/stage.json names no stage that we know"),
        (["bench", "--threads", "-1"], "--threads must be 0"),
        ([*ALL, "--from", "a file"], "a file is a file, not a checkpoint directory. Of a .gguf file"),
        (["sft", "--from", "a file"], "a file is a file, not a checkpoint directory. Of a .gguf file"),
        (["eval", "a file"], "a file is a file, not a checkpoint directory. Of a .gguf file"),
        (["convert", "a file"], "a file is not a GGUF file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_it_answers_a_mistake_with_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    if arguments[0] not in ("chat", "eval") and "--out" not in arguments:
        arguments = [*arguments, "--out", "out"]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert captured.out == ""
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("command", "module", "name", "said"),
    [
        (["chat", "sft"], terminal, "chat", "Interrupted."),
        (["eval", "sft"], pipeline, "evaluate_directory", "Interrupted."),
        (
            [*ALL, "--out", "out"],
            pipeline,
            "run_all",
            "Interrupted; the same command goes on from the last saved step.",
        ),
        ([*SFT, "--out", "out"], runs, "execute", "Interrupted; the same command goes on from the last saved step."),
    ],
    ids=["chat", "eval", "all", "sft"],
)
def test_it_promises_to_go_on_only_where_something_is_saved(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    module: ModuleType,
    name: str,
    said: str,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, name, interrupt)
    assert main(command) == 3
    assert capsys.readouterr().err == f"{said}\n"


def test_chat_refuses_a_line_that_is_too_long_and_goes_on(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of this model's context of 96 tokens is for questions, however long an answer may be."""
    monkeypatch.setattr("sys.stdin", io.StringIO("A fox?\n" + "Why? " * 40 + "\nA den?\n"))
    asked: list[int] = []

    def note(tokenizer: Tokenizer, messages: list[Message], *, stage: str, room: int) -> list[int]:
        ids = prompt_ids(tokenizer, messages, stage=stage, room=room)
        asked.append(len(messages))
        return ids

    monkeypatch.setattr(terminal, "prompt_ids", note)
    assert main(["chat", "sft", "--max-new-tokens", "95"]) == 0
    said = capsys.readouterr()
    assert "The message is too long for this model" in said.out
    assert "there is room for 48." in said.out
    assert said.err == ""
    assert asked == [1, 3]


STOPPED_WHILE_TORCH_IS_LOADED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.{signal})
sys.meta_path.insert(0, Finder())
from trainer.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("command", [["init", "--preset", "smoke"], ["run", "run.json", "--progress", "json"]])
def test_a_stop_while_torch_is_loaded_is_as_orderly_as_any_other(
    place: Path, monkeypatch: pytest.MonkeyPatch, signal: str, command: list[str]
) -> None:
    (place / "run.json").write_text(json.dumps({"stage": "init", "preset": "smoke", "data": "texts"}))
    monkeypatch.setenv("PYTHONPATH", str(Path(runs.__file__).parents[1]))
    script = STOPPED_WHILE_TORCH_IS_LOADED.replace("{signal}", signal)
    ran = subprocess.run([sys.executable, "-c", script, *command, "--out", "out"], capture_output=True, text=True)
    assert ran.returncode == 3
    assert ran.stdout == ""
    said = "Stopped before it began. The same command goes on from there.\n"
    assert ran.stderr == (said if command[0] == "init" else "")
    assert not (place / "out").exists()


def test_it_says_when_a_run_has_blown_up(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def blow_up(*_: object) -> Path:
        raise Diverged("loss became nan at step 3. Lower the learning rate and start again.")

    monkeypatch.setattr(runs, "TRAIN", {"sft": blow_up})
    assert main([*SFT, *FITTING, "--out", "out"]) == 2
    assert capsys.readouterr().err == "error: loss became nan at step 3. Lower the learning rate and start again.\n"


def test_a_worker_is_told_in_an_event_that_the_disk_is_full(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(*_: object) -> Path:
        raise OSError(28, "No space left on device", "out/model.safetensors")

    monkeypatch.setattr(runs, "TRAIN", {"init": fill_up})
    spec = {"stage": "init", "preset": "smoke", "data": "texts", "threads": 1}
    (place / "run.json").write_text(json.dumps(spec))
    assert main(["run", "run.json", "--out", "out", "--progress", "json"]) == 2
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "type": "error",
        "text": "out/model.safetensors cannot be read or written (No space left on device). "
        "Check the path, its rights and the free space.",
    }


def test_it_ends_the_same_way_the_second_time_and_not_for_another_seed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*SFT, *FITTING, "--set", "steps=2", "--out", "out"]
    assert main(command) == main(command) == 0
    capsys.readouterr()
    assert main([*command, "--seed", "7"]) == 2
    assert (
        "out holds another run (its seed is 0, not 7). Choose another --out, or delete it." in capsys.readouterr().err
    )


def test_all_goes_without_grpo_where_there_are_no_problems_and_says_so(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: object, **__: object) -> Path:
        raise Diverged("reached the first stage")

    monkeypatch.setattr(pipeline, "execute", reached)
    assert main([*ALL, "--data", "texts", "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert "texts has no problems, so grpo is left out." in said
    assert "reached the first stage" in said


def test_all_goes_without_grpo_where_every_problem_is_too_long_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("\n\n".join(f"The goat sees page {number}." for number in range(30)))
    records = [{"instruction": f"Say {number}.", "output": "Yes."} for number in range(30)]
    records += [{"question": f"{'1+' * 200}{number}=", "answer": 200 + number} for number in range(30)]
    (data / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    begun = pipeline.execute

    def only_init(spec: RunSpec, *arguments: Any, **options: Any) -> Path:
        if spec.stage == "init":
            return begun(spec, *arguments, **options)
        raise Diverged("reached the second stage")

    monkeypatch.setattr(pipeline, "execute", only_init)
    assert main([*ALL, "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "Every problem is too long for this model, so grpo is left out." in said
    assert "reached the second stage" in said

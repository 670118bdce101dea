"""What a run's directory holds is asked before it is used again; what a stage lacks is said before it starts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer import small
from trainer.config import GRPO, PPO, SFT
from trainer.data.corpus import Corpus
from trainer.data.preferences import write_comparisons
from trainer.data.prompting import fitting_corpus
from trainer.model.checkpoint import read_info, read_shape
from trainer.model.decoder import LanguageModel
from trainer.model.tokenizer import Tokenizer
from trainer.run import RunSpec, check_corpus, execute
from trainer.runtime import machine
from trainer.runtime.errors import Stopped
from trainer.runtime.files import RESUME_RUN, RESUME_STATE

SHORT = {
    "sft": {"steps": 4, "batch_tokens": 192, "sequence": 96, "evaluations": 1},
    "reward": {"evaluations": 1},
    "ppo": {"steps": 2, "rollouts": 4, "minibatch": 4, "max_new_tokens": 8, "evaluations": 1},
}


@pytest.fixture
def parent(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    return small.save_parent(tmp_path / "parent", model, tokenizer)


@pytest.fixture
def other_parent(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    with torch.no_grad():
        model.decoder.norm.weight.mul_(1.01)
    return small.save_parent(tmp_path / "other parent", model, tokenizer)


@pytest.fixture
def judge(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    return small.save_judge(tmp_path / "judge", model, tokenizer)


def votes_file(path: Path, count: int) -> Path:
    write_comparisons(path, small.votes(count))
    return path


def spec(parent: Path, stage: str = SFT, **changes: Any) -> RunSpec:
    return RunSpec(
        **{"stage": stage, "preset": "smoke", "parent": parent, "config": SHORT[stage], "threads": 1} | changes
    )


def run(spec: RunSpec, out_dir: Path, *, stop_after: int = 0, corpus: Corpus | None = None) -> small.Recorder:
    """Run to the end, or stop at the given step; returns what was reported."""
    report = small.Recorder()
    should_stop = small.after(1 + stop_after) if stop_after else small.never  # it is asked before the first step, too
    execute(spec, out_dir, report, should_stop, corpus=corpus or small.corpus())
    return report


def stop(spec: RunSpec, out_dir: Path, *, after: int = 2) -> None:
    with pytest.raises(Stopped):
        run(spec, out_dir, stop_after=after)


def rewrite(path: Path, **changes: Any) -> None:
    """Change a JSON file as if another version had written it; None takes a field away."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


# -- finished runs ---------------------------------------------------------------------------------


def test_it_returns_a_finished_run_untouched(tmp_path: Path, parent: Path) -> None:
    run(spec(parent), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    report = run(spec(parent), tmp_path / "out")
    assert report.metrics == {}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"seed": 7}, "its seed is 0, not 7"),
        ({"config": SHORT["sft"] | {"matrix_lr": 0.5}}, "its setting matrix_lr is 0.002, not 0.5"),
        ({"preset": "tiny"}, "its preset is smoke, not tiny"),
        ({"stage": "reward", "config": {}}, "its stage is sft, not reward"),
    ],
)
def test_it_refuses_a_directory_that_holds_another_run(
    tmp_path: Path, parent: Path, changes: dict[str, Any], found: str
) -> None:
    run(spec(parent), tmp_path / "out")
    before = small.weights(tmp_path / "out")
    votes = {"votes": votes_file(tmp_path / "votes", 16)} if "stage" in changes else {}
    with pytest.raises(ValueError, match=rf"out holds another run \({found}.*\)\. Choose another --out"):
        run(spec(parent, **changes, **votes), tmp_path / "out")
    assert small.weights(tmp_path / "out") == before


def test_it_refuses_another_parent_or_corpus(tmp_path: Path, parent: Path, other_parent: Path) -> None:
    run(spec(parent), tmp_path / "out")
    ours, other = (read_info(path)["weights_sha256"][:8] for path in (parent, other_parent))
    with pytest.raises(ValueError, match=f"its parent is {ours}, not {other}"):
        run(spec(other_parent), tmp_path / "out")
    with pytest.raises(ValueError, match="its corpus is 00000000, not 11111111"):
        run(spec(parent), tmp_path / "out", corpus=small.corpus(sha256="1" * 64))


def test_it_refuses_other_votes(tmp_path: Path, parent: Path) -> None:
    votes = votes_file(tmp_path / "votes", 16)
    run(spec(parent, "reward", votes=votes), tmp_path / "out")
    votes_file(votes, 12)
    with pytest.raises(ValueError, match=r"its votes file is \w{8}, not \w{8}"):
        run(spec(parent, "reward", votes=votes), tmp_path / "out")


def test_it_records_the_reward_model_and_refuses_another(
    tmp_path: Path, parent: Path, judge: Path, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    out = tmp_path / "out"
    run(spec(parent, PPO, reward_model=judge), out)
    assert read_info(out)["data_sha256"]["reward_model"] == read_info(judge)["weights_sha256"]
    with torch.no_grad():
        model.decoder.norm.weight.mul_(1.01)
    other = small.save_judge(tmp_path / "other judge", model, tokenizer)
    with pytest.raises(ValueError, match=r"its reward model is \w{8}, not \w{8}"):
        run(spec(parent, PPO, reward_model=other), out)


def test_it_takes_what_an_earlier_version_did_not_record_for_granted(tmp_path: Path, parent: Path, judge: Path) -> None:
    out = tmp_path / "out"
    run(spec(parent, PPO, reward_model=judge), out)
    config = {name: value for name, value in read_info(out)["config"].items() if name != "lam"}
    rewrite(out / "stage.json", data_sha256={"corpus": "0" * 64}, config=config | {"since_removed": 1})
    assert run(spec(parent, PPO, reward_model=judge), out).metrics == {}
    with pytest.raises(ValueError, match="its seed is 0, not 1"):
        run(spec(parent, PPO, reward_model=judge, seed=1), out)


def test_it_knows_a_finished_init_by_its_preset(tmp_path: Path) -> None:
    init = RunSpec(stage="init", preset="smoke", threads=1)
    corpus = small.corpus(documents=["A fox eats mice and berries."] * 3)
    run(init, tmp_path / "out", corpus=corpus)
    assert not (tmp_path / "out" / "resume").exists()
    assert run(init, tmp_path / "out", corpus=corpus).metrics == {}
    with pytest.raises(ValueError, match="its preset is smoke, not tiny"):
        run(dataclasses.replace(init, preset="tiny"), tmp_path / "out", corpus=corpus)


def test_it_never_writes_over_the_parent(tmp_path: Path, parent: Path) -> None:
    with pytest.raises(ValueError, match="is the parent itself"):
        run(spec(parent), tmp_path / "out" / ".." / "parent")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_it_never_writes_over_a_model_from_elsewhere(tmp_path: Path, parent: Path, name: str) -> None:
    foreign = tmp_path / "out" / name
    foreign.parent.mkdir()
    foreign.write_bytes(b"theirs")
    with pytest.raises(ValueError, match=r"out holds a model that is not ours\. Choose another --out"):
        run(spec(parent), tmp_path / "out")
    assert [*foreign.parent.iterdir()] == [foreign]
    assert foreign.read_bytes() == b"theirs"


# -- half-finished runs ----------------------------------------------------------------------------


def test_a_run_that_was_moved_goes_on_to_the_same_bytes(tmp_path: Path, parent: Path) -> None:
    run(spec(parent), tmp_path / "whole")
    stop(spec(parent), tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = parent.rename(tmp_path / "moved parent")
    assert run(spec(moved), tmp_path / "there").started == (2, 4)
    assert small.weights(tmp_path / "there") == small.weights(tmp_path / "whole")


def test_a_run_killed_while_it_wrote_its_checkpoint_goes_on(
    tmp_path: Path, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(Tokenizer, "save", die)  # weights and config.json are there, the rest is not
        with pytest.raises(KeyboardInterrupt):
            run(spec(parent), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()
    run(spec(parent), tmp_path / "out")
    assert read_info(tmp_path / "out")["stage"] == "sft"


def test_it_refuses_to_go_on_as_another_run(tmp_path: Path, parent: Path, other_parent: Path) -> None:
    stop(spec(parent), tmp_path / "out")
    saved = (tmp_path / "out" / RESUME_STATE).read_bytes()
    with pytest.raises(ValueError, match=r"holds another run \(its seed is 0, not 3; its parent is"):
        run(spec(other_parent, seed=3), tmp_path / "out")
    assert (tmp_path / "out" / RESUME_STATE).read_bytes() == saved
    assert run(spec(parent), tmp_path / "out").started == (2, 4)


@pytest.mark.parametrize(
    ("was", "found"),
    [
        ({"decay": None}, "its setting decay is none, not 0.7"),
        ({"since_removed": 1}, "its setting since_removed is 1, not none"),
    ],
)
def test_it_goes_on_only_with_settings_that_its_beginning_knew(
    tmp_path: Path, parent: Path, was: dict[str, Any], found: str
) -> None:
    """What a version without a setting did instead is not known to this one."""
    out = tmp_path / "out"
    stop(spec(parent), out)
    config = json.loads((out / RESUME_RUN).read_text())["config"] | was
    rewrite(out / RESUME_RUN, config={name: value for name, value in config.items() if value is not None})
    before = (out / RESUME_RUN).read_bytes()
    with pytest.raises(ValueError, match=rf"holds another run \({found}\)"):
        run(spec(parent), out)
    assert (out / RESUME_RUN).read_bytes() == before


def test_it_goes_on_with_as_many_threads_as_it_began_with(tmp_path: Path, parent: Path) -> None:
    stop(spec(parent, threads=2), tmp_path / "out")
    with pytest.raises(ValueError, match=r"on 2 threads, and its sums depend on their number\. Give --threads 2"):
        run(spec(parent, threads=1), tmp_path / "out")

    seen: list[int] = []

    class Counting(small.Recorder):
        def start(self, step: int, total_steps: int) -> None:
            seen.append(torch.get_num_threads())

    with machine.threads(1):
        execute(spec(parent, threads=0), tmp_path / "out", Counting(), small.never, corpus=small.corpus())
        assert torch.get_num_threads() == 1
    assert seen == [2]


@pytest.mark.parametrize(("described", "threads"), [({}, 2), ({"threads": 1}, 1)])
def test_a_description_that_names_no_threads_takes_the_commands(
    tmp_path: Path, parent: Path, monkeypatch: pytest.MonkeyPatch, described: dict[str, int], threads: int
) -> None:
    from trainer.__main__ import main

    (tmp_path / "run.json").write_text(json.dumps({"stage": "sft", "preset": "smoke", **described}))
    seen: list[int] = []

    def note_threads(spec: RunSpec, *_: object) -> Path:
        seen.extend([spec.threads, torch.get_num_threads()])
        return parent

    monkeypatch.setattr("trainer.run.execute", note_threads)
    monkeypatch.setattr("trainer.__main__._StopFlag.listen", lambda self: None)
    monkeypatch.setattr("trainer.__main__._die_with_parent", lambda: None)
    with machine.threads(1):
        assert main(["run", str(tmp_path / "run.json"), "--out", str(tmp_path / "out"), "--threads", "2"]) == 0
    assert seen == [threads, threads]


def test_it_goes_on_with_a_run_of_a_version_that_did_not_say_what_it_is(tmp_path: Path, parent: Path) -> None:
    stop(spec(parent), tmp_path / "out")
    (tmp_path / "out" / RESUME_RUN).unlink()
    assert run(spec(parent), tmp_path / "out").started == (2, 4)


def test_another_run_may_begin_where_nothing_was_saved(tmp_path: Path, parent: Path) -> None:
    stop(spec(parent), tmp_path / "out")
    (tmp_path / "out" / RESUME_STATE).unlink()
    run(spec(parent, seed=3), tmp_path / "out")
    assert read_info(tmp_path / "out")["seed"] == 3


# -- prompts that do not fit -----------------------------------------------------------------------


def test_it_leaves_out_prompts_without_room_for_an_answer_and_says_so_once(tmp_path: Path, parent: Path) -> None:
    long = "What does a fox eat? " * 20
    corpus = small.corpus()
    questions = [*corpus.questions, dataclasses.replace(corpus.questions[0], prompt=long)]
    problems = [dataclasses.replace(problem, prompt=long) for problem in corpus.held_out_problems]
    corpus = small.corpus(questions=questions, held_out_problems=problems, sample_prompts=[long])
    report = run(spec(parent), tmp_path / "out", corpus=corpus)
    [line] = [text for text in report.logs if "Left out" in text]
    assert "64 tokens" in line  # a context of 96 less the preset's longest answer, 32
    assert "1 of 2 held-out questions, 2 of 2 held-out problems, 1 of 1 sample prompts." in line
    assert report.samples[4] == []


def test_it_says_nothing_when_all_prompts_fit(tmp_path: Path, parent: Path) -> None:
    assert run(spec(parent), tmp_path / "out").logs == []


def test_it_stops_when_nothing_a_stage_needs_fits(tmp_path: Path, parent: Path) -> None:
    problems = [dataclasses.replace(problem, prompt="How many? " * 40) for problem in small.corpus().problems]
    grpo = RunSpec(stage=GRPO, preset="smoke", parent=parent, threads=1)
    with pytest.raises(ValueError, match="None of the 6 problems fits into 64 tokens"):
        run(grpo, tmp_path / "out", corpus=small.corpus(problems=problems))


def test_it_asks_the_questions_of_conversations_when_those_of_comparisons_do_not_fit(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Overlong comparisons teach the reward model; PPO can do without them."""
    long = [f"Why {number}? " * 40 for number in range(8)]
    spare = {"spare_prompts": ["A fox?", "A den?"], "held_out_spare_prompts": ["A tree?"]}
    corpus = small.corpus(preference_prompts=long[:6], held_out_preference_prompts=long[6:], **spare)
    fitted, left_out = fitting_corpus(corpus, tokenizer, room=48)
    assert (fitted.preference_prompts, fitted.held_out_preference_prompts) == (["A fox?", "A den?"], ["A tree?"])
    assert "the questions of conversations are asked in place" in left_out[-1]
    fitted, left_out = fitting_corpus(small.corpus(**spare), tokenizer, room=48)
    assert fitted.preference_prompts == small.corpus().preference_prompts
    assert left_out == []


def test_grpo_goes_without_an_anchor_when_no_conversation_fits(
    tmp_path: Path, parent: Path, tokenizer: Tokenizer
) -> None:
    long = [[turn | {"content": turn["content"] * 40} for turn in talk] for talk in small.corpus().conversations]
    settings = {"steps": 1, "problems": 2, "group": 2, "max_new_tokens": 8}
    grpo = RunSpec(stage=GRPO, preset="smoke", parent=parent, threads=1, config=settings)
    report = run(grpo, tmp_path / "out", corpus=small.corpus(conversations=long))
    assert any("None of the 8 conversations fits 96 tokens" in line for line in report.logs)
    assert read_info(tmp_path / "out")["stage"] == GRPO


# -- what can be known before it starts ------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "part", "message"),
    [
        ("init", "held_out_documents", "no document to hold out, which init needs. Add a second one: a blank line"),
        ("pretrain", "held_out_documents", "no document to hold out, which pretrain needs"),
        ("sft", "conversations", 'no conversations, which sft needs. Add records with "instruction" and "output"'),
        (
            "ppo",
            "preference_prompts",
            'no short prompts to compare answers on, which ppo needs. Add records with "chosen"',
        ),
        ("ppo", "held_out_preference_prompts", "no second short prompt to hold out, which ppo needs"),
        ("grpo", "problems", 'no problems, which grpo needs. Add records with "question"'),
    ],
)
def test_it_says_which_part_of_the_data_is_missing(stage: str, part: str, message: str) -> None:
    check_corpus(small.corpus(), [stage], source="my_texts")
    with pytest.raises(ValueError, match=f"my_texts has {message}"):
        check_corpus(small.corpus(**{part: []}), [stage], source="my_texts")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sequence": 128, "batch_tokens": 128}, "sequence=128 is too long: the model reads 96 tokens"),
        ({}, "sequence=256 is too long"),
    ],
)
def test_it_refuses_rows_the_parent_cannot_read(
    tmp_path: Path, parent: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(spec(parent, config=config), tmp_path / "out")


def test_it_refuses_answers_that_leave_no_room_for_a_prompt(tmp_path: Path, parent: Path, judge: Path) -> None:
    with pytest.raises(ValueError, match="max_new_tokens=96 leaves no room for a prompt"):
        run(spec(parent, PPO, reward_model=judge, config={"max_new_tokens": 96}), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threads": -1}, "threads must be 0"),
        ({"threads": "two"}, "threads must be a whole number, not 'two'"),
        ({"seed": None}, "seed must be a whole number"),
        ({"config": [1]}, "config must be an object"),
        ({"preset": ["smoke"]}, "preset must be a name"),
    ],
)
def test_it_refuses_a_description_of_other_types(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"stage": "init", "preset": "smoke"} | changes))
    with pytest.raises(ValueError, match=rf"run\.json is not a run description: {message}"):
        RunSpec.from_json(path)


def test_paths_with_a_root_move_with_their_description(tmp_path: Path) -> None:
    (tmp_path / "site" / "runs" / "7").mkdir(parents=True)
    path = tmp_path / "site" / "runs" / "7" / "run.json"
    paths = {"parent": "checkpoints/sft-0003-1", "votes": "runs/7/votes.jsonl"}
    path.write_text(json.dumps({"stage": "reward", "preset": "smoke", "root": "../..", **paths}))
    assert RunSpec.from_json(path).parent == tmp_path / "site" / "checkpoints" / "sft-0003-1"
    (tmp_path / "site").rename(tmp_path / "restored")
    spec = RunSpec.from_json(tmp_path / "restored" / "runs" / "7" / "run.json")
    assert spec.parent == tmp_path / "restored" / "checkpoints" / "sft-0003-1"
    assert spec.votes == tmp_path / "restored" / "runs" / "7" / "votes.jsonl"


def test_a_root_is_meant_as_it_is_written_where_directories_are_links(tmp_path: Path) -> None:
    """Two hosts may keep shared directories at places of their own."""
    (tmp_path / "shared" / "of" / "runs").mkdir(parents=True)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "runs").symlink_to(tmp_path / "shared" / "of" / "runs")
    path = tmp_path / "site" / "runs" / "run.json"
    path.write_text(json.dumps({"stage": "sft", "preset": "smoke", "root": "..", "parent": "checkpoints/a"}))
    assert RunSpec.from_json(path).parent == tmp_path / "site" / "checkpoints" / "a"


@pytest.mark.parametrize("which", ["parent", "reward_model"])
def test_it_reads_no_other_checkpoint_than_the_one_it_was_described_with(
    tmp_path: Path, parent: Path, judge: Path, which: str
) -> None:
    """After a restore another site's may lie where this one's was."""
    where = {"parent": parent, "reward_model": judge}
    right = {f"{name}_sha256": read_info(path)["weights_sha256"] for name, path in where.items()}
    wrong = right | {f"{which}_sha256": "0" * 64}
    with pytest.raises(ValueError, match=rf"{where[which]} holds other weights .*\(00000000\)\. Bring that checkpoint"):
        run(spec(parent, PPO, reward_model=judge, overrule_doubts=True, **wrong), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(spec(parent, PPO, reward_model=judge, overrule_doubts=True, **right), tmp_path / "out")


def test_it_reads_the_shape_alone(parent: Path, model: LanguageModel) -> None:
    assert read_shape(parent) == model.config

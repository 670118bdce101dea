"""`all` from random weights to the report card, and what it does where something lies already."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.trainer import small
from trainer.data.corpus import Corpus
from trainer.data.preferences import Comparison, write_comparisons
from trainer.evaluation import card as cards
from trainer.model.checkpoint import read_info
from trainer.model.decoder import LanguageModel
from trainer.model.tokenizer import Tokenizer
from trainer.pipeline import check_votes, run_all, stages_after
from trainer.world.tastes import get_taste

FIELDS = {
    "stage", "path", "parameters", "seconds", "bits_per_byte", "instruction_accuracy", "ended", "mean_tokens",
    "reward", "win_rate_vs_parent", "pass_at_1", "pass_at_8",
}  # fmt: skip
"""What design section 3 promises of every checkpoint."""


def hashes(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "report.json")
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def without_clock(card: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in card.items() if name != "machine"}


def test_it_walks_all_stages_once_and_never_mixes_two_runs(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("QUESTIONS", "PROBLEMS", "TASTE_ANSWERS", "TASTE_PAIRS"):  # as many as show that it works
        monkeypatch.setattr(cards, name, 4)
    said: list[str] = []

    def run(**changes: Any) -> dict[str, Any]:
        return run_all(
            **{"preset": "smoke", "out_dir": tmp_path, "tastes": ["shorter"], "threads": 1, "say": said.append}
            | changes
        )

    card = run()

    assert json.loads((tmp_path / "report.json").read_text()) == card
    assert card["preset"] == "smoke"
    assert card["seed"] == 0
    assert card["machine"]["matmul_gflops"]
    entries = {entry["stage"]: entry for entry in card["checkpoints"]}
    assert list(entries) == ["init", "pretrain", "sft", "reward", "ppo", "grpo"]
    for stage, entry in entries.items():
        assert entry.keys() >= FIELDS
        assert (tmp_path / entry["path"] / "stage.json").is_file()
        assert entry["parameters"] > 0
        assert (entry["bits_per_byte"] is None) == (stage == "reward")
    assert {"agreement", "agreement_interval", "length_only_agreement"} <= entries["reward"].keys()
    assert entries["ppo"]["win_rate_vs_parent"] is not None
    assert all(f"| {stage} " in said[0] for stage in entries)
    # What its figures are of stands below it: how many, how sure, and of what kind.
    assert "- answers right: of 4 questions. Questions of the generator" in said[0]
    assert "- pass@1, pass@8: of 4 problems. Problems of the generator that wrote the practice" in said[0]
    assert re.search(
        r"- wins: of 20 answers to 20 prompts, over the parent; 95 % over other prompts: ppo \d+%", said[0]
    )
    assert "- agreement: of " in said[0]
    assert card["scope"]["problems"].endswith("larger numbers.")
    lineage = {stage: read_info(tmp_path / stage) for stage in entries}
    for stage, parent in {"pretrain": "init", "sft": "pretrain", "reward": "sft", "ppo": "sft", "grpo": "ppo"}.items():
        assert lineage[stage]["parent_sha256"] == lineage[parent]["weights_sha256"]
    assert lineage["ppo"]["data_sha256"]["reward_model"] == lineage["reward"]["weights_sha256"]

    before = hashes(tmp_path)
    again = run()
    assert hashes(tmp_path) == before
    assert without_clock(again) == without_clock(card)

    # From a model somebody else has made: what it has been through is neither run nor measured again.
    begun = tmp_path_factory.mktemp("begun")
    onward = run(start=tmp_path / "sft", out_dir=begun)
    assert [entry["stage"] for entry in onward["checkpoints"]] == ["sft", "reward", "ppo", "grpo"]
    assert onward["checkpoints"][0]["path"] == str(tmp_path / "sft")
    assert read_info(begun / "ppo")["parent_sha256"] == lineage["sft"]["weights_sha256"]
    assert sorted(path.name for path in begun.iterdir() if path.is_dir()) == ["grpo", "ppo", "reward"]
    assert (begun / "ppo" / "model.safetensors").read_bytes() == (tmp_path / "ppo" / "model.safetensors").read_bytes()

    report = (tmp_path / "report.json").read_bytes()
    with pytest.raises(ValueError, match=r"init holds another run \(its seed is 0, not 7\)"):
        run(seed=7)
    with pytest.raises(ValueError, match=r"votes\.jsonl holds other votes than those of simulated-friendlier"):
        run(tastes=["friendlier"])
    with pytest.raises(ValueError, match=r"ppo holds another run \(its setting steps is 3, not 2\)"):
        run(settings={"ppo.steps": 2})
    assert hashes(tmp_path) == before
    assert (tmp_path / "report.json").read_bytes() == report


@pytest.mark.parametrize(
    ("begun", "left"),
    [
        ("", ["init", "pretrain", "sft", "reward", "ppo", "grpo"]),
        ("pretrain", ["sft", "reward", "ppo", "grpo"]),
        ("sft", ["reward", "ppo", "grpo"]),
        ("grpo", ["reward", "ppo", "grpo"]),
    ],
)
def test_a_model_goes_on_from_where_it_is(begun: str, left: list[str]) -> None:
    assert stages_after(begun) == left


def test_a_reward_model_goes_nowhere() -> None:
    with pytest.raises(ValueError, match="Start from the model it judges"):
        stages_after("reward")


# -- votes that lie there already ------------------------------------------------------------------


@pytest.fixture
def writer(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    return small.save_parent(tmp_path / "sft", model, tokenizer)


def vote(**changes: Any) -> Comparison:
    message = {"role": "user", "content": "What is a fox?"}
    return Comparison(**{"messages": [message], "chosen": "a", "rejected": "b", "voter": "simulated-shorter"} | changes)


def check(path: Path, writer: Path, votes: list[Comparison], taste: str | None, corpus: Corpus | None = None) -> None:
    write_comparisons(path, votes)
    check_votes(path, writer, corpus or small.corpus(), get_taste(taste) if taste else None)


def test_it_knows_votes_by_their_voter_and_their_writer(tmp_path: Path, writer: Path) -> None:
    ours = dict.fromkeys(("chosen", "rejected"), read_info(writer)["weights_sha256"])
    other = dict.fromkeys(("chosen", "rejected"), "0" * 64)
    path = tmp_path / "votes.jsonl"
    check(path, writer, [vote(extra={"checkpoints": ours})], "shorter")
    check(path, writer, [vote()], "shorter")  # earlier versions did not say whose answers they are
    for votes in ([vote(), vote(voter="simulated-example")], [vote(extra={"checkpoints": other})]):
        with pytest.raises(ValueError, match="holds other votes than those of simulated-shorter on answers of"):
            check(path, writer, votes, "shorter")


def test_it_knows_recorded_votes_by_what_they_say(tmp_path: Path, writer: Path) -> None:
    corpus = small.corpus(comparisons=[vote(voter="anna"), vote(voter="ben", outcome="tie")])
    path = tmp_path / "votes.jsonl"
    check(path, writer, corpus.comparisons, None, corpus)
    with pytest.raises(ValueError, match="holds other votes than those recorded in the data"):
        check(path, writer, corpus.comparisons[:1], None, corpus)

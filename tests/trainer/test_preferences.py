"""Votes as JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.data.preferences import Comparison, read_comparisons, write_comparisons

QUESTION = [{"role": "user", "content": "What does a rabbit eat?"}]

GOOD: dict[str, Any] = {
    "prompt": QUESTION,
    "chosen": [{"role": "assistant", "content": "Grass."}],
    "rejected": [{"role": "assistant", "content": "Stones."}],
}


def comparisons() -> list[Comparison]:
    return [
        Comparison(messages=QUESTION, chosen="Grass.", rejected="Stones.", voter="v1", source="simulated"),
        Comparison(messages=QUESTION, chosen='Gräs, "fresh"\u2028and green', rejected="", outcome="tie"),
        Comparison(
            messages=[*QUESTION, {"role": "assistant", "content": "Grass."}, {"role": "user", "content": "And a fox?"}],
            chosen="Berries.",
            rejected="Stones.",
            outcome="both_bad",
            extra={"sides": "ba", "sampling": {"temperature": 1.0}, "reasons": ["short"]},
        ),
    ]


def test_it_reads_what_it_wrote_and_writes_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    write_comparisons(first, comparisons())
    assert read_comparisons(first) == comparisons()
    write_comparisons(second, read_comparisons(first))
    assert first.read_bytes() == second.read_bytes()


def test_it_writes_the_shape_that_trl_reads(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    write_comparisons(path, comparisons()[:1])
    record = json.loads(path.read_text())
    assert {key: record[key] for key in GOOD} == GOOD


def test_it_reads_a_plain_trl_line_as_a_human_win(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text("\n" + json.dumps(GOOD) + "\n\n")
    (comparison,) = read_comparisons(path)
    assert (comparison.outcome, comparison.source, comparison.prompt) == ("win", "human", "What does a rabbit eat?")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{not json", "not JSON"),
        ("[]", "must be a JSON object"),
        ('{"prompt": []}', "chosen, rejected missing"),
        (json.dumps(GOOD | {"prompt": "What?"}), '"prompt" must be a list of messages'),
        (json.dumps(GOOD | {"prompt": [{"role": "assistant", "content": "Hi"}]}), "must end with a user message"),
        (json.dumps(GOOD | {"chosen": []}), '"chosen" must be a list of messages'),
        (json.dumps(GOOD | {"rejected": [{"role": "user", "content": "x"}]}), "exactly one assistant message"),
        (json.dumps(GOOD | {"chosen": [{"role": "poet", "content": "x"}]}), 'needs a "role"'),
        (json.dumps(GOOD | {"outcome": "maybe"}), "Unknown outcome 'maybe'"),
        (json.dumps(GOOD | {"voter": 7}), '"voter" must be a text'),
        ("[" * 100_000, "nested too deeply to be read"),
        (json.dumps(GOOD | {"chosen": [{"role": "assistant", "content": "hi \ud83d"}]}), r"\ud83d is half a surr"),
        (json.dumps(GOOD | {"reasons": {"why": ["\ude00"]}}), r"\ude00 is half a surrogate pair"),
    ],
)
def test_it_names_file_and_line_of_a_malformed_vote(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"votes\.jsonl, line 2: .*; correct or delete the line") as caught:
        read_comparisons(path)
    assert complaint in str(caught.value)


def test_it_says_so_when_the_file_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        read_comparisons(path)

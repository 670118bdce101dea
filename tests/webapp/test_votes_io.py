"""Votes as files: out, in again without loss, and nothing of a broken file."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests.webapp.arena_factory import make_answer, make_pair, make_vote
from trainer.data.preferences import read_comparisons
from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.arena.exchange import import_votes, write_votes
from webapp.arena.models import Pair, Vote
from webapp.arena.voting import next_pair
from webapp.checkpoints.models import Checkpoint

pytestmark = pytest.mark.django_db

AWKWARD = "Ünïcode “quotes” \u2028 line separator\n\ttab, \x85, =SUM(A1), 日本語 🎈 <script>"


@pytest.fixture
def votes(make_checkpoint: Any, visitor: Visitor) -> list[Vote]:
    """Every kind of vote there is, on every kind of pair."""
    sft, ppo = make_checkpoint("sft"), make_checkpoint("ppo")
    one = make_pair(sft, texts=(AWKWARD, "Plain."))
    made = [
        make_vote(one, visitor, "b", reasons=["clear", "short"]),
        make_vote(one, choice="a"),
        make_vote(make_pair(sft), visitor, "tie"),
        make_vote(make_pair(ppo, sft), visitor, "both_bad"),
        make_vote(make_pair(sft, ppo), choice="b", source="simulated", taste="shorter"),
        make_vote(make_pair(sft, from_chat=True, owner=visitor), visitor, "a"),
    ]
    make_vote(make_pair(sft), visitor, "skip")
    make_vote(make_pair(sft, state=Pair.State.REJECTED), visitor, "a")
    # Two votes at the very same moment keep their order.
    Vote.objects.filter(pk__in=[made[1].pk, made[2].pk]).update(created_at=datetime(2026, 1, 2, tzinfo=UTC))
    return made


def forget_everything() -> None:
    """As on a site that has none of these checkpoints, pairs or voters."""
    for model in (Vote, Pair, Generation, Checkpoint, Visitor):
        model.objects.all().delete()  # type: ignore[attr-defined]


def test_a_line_is_what_trl_reads_with_everything_known_beside_it(votes: list[Vote], tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    write_votes(path, Vote.objects.filter(pk=votes[0].pk))
    vote = votes[0]
    assert json.loads(path.read_text()) == {
        "prompt": [{"role": "user", "content": "What is a harbour?"}],
        "chosen": [{"role": "assistant", "content": "Plain."}],
        "rejected": [{"role": "assistant", "content": AWKWARD}],
        "outcome": "win",
        "voter": str(vote.visitor_id),
        "source": "human",
        "pair": str(vote.pair_id),
        "chosen_side": "b",
        "checkpoints": {
            "chosen": vote.pair.b.checkpoint.weights_sha256,
            "rejected": vote.pair.a.checkpoint.weights_sha256,
        },
        "stages": {"chosen": "sft", "rejected": "sft"},
        "sampling": {"chosen": settings(vote.pair.b), "rejected": settings(vote.pair.a)},
        "taste": "",
        "reasons": ["clear", "short"],
        "time": vote.created_at.isoformat(timespec="microseconds"),
    }


def settings(answer: Generation) -> dict[str, float]:
    """All of an answer's settings, those that are not known as 0."""
    return {"max_new_tokens": 0, "top_k": 0, "top_p": 0.0, **answer.sampling}


def test_export_leaves_out_what_is_no_comparison(votes: list[Vote], tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    call_command("export_votes", str(path))
    lines = read_comparisons(path)
    assert len(lines) == len(votes)
    assert sorted(line.outcome for line in lines) == ["both_bad", "tie", "win", "win", "win", "win"]


def test_the_hash_is_the_files(votes: list[Vote], tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    sha256, written = write_votes(path, Vote.objects.comparisons())
    assert written == Vote.objects.comparisons().count()
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [entry.name for entry in tmp_path.iterdir()] == ["votes.jsonl"]


def test_export_import_export_gives_the_same_bytes_on_another_site(votes: list[Vote], tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    write_votes(first, Vote.objects.comparisons())
    forget_everything()
    assert import_votes(first) == (len(votes), 0)
    write_votes(second, Vote.objects.comparisons())
    assert second.read_bytes() == first.read_bytes()
    assert Vote.objects.for_training().count() == 4


def test_importing_twice_or_at_home_adds_nothing(votes: list[Vote], tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    write_votes(path, Vote.objects.comparisons())
    before = Generation.objects.count()
    assert import_votes(path) == (0, len(votes))
    forget_everything()
    import_votes(path)
    assert import_votes(path) == (0, len(votes))
    assert Generation.objects.count() < before


def test_an_undone_export_is_restored_onto_its_own_pairs(votes: list[Vote], tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    write_votes(first, Vote.objects.comparisons())
    votes[0].delete()
    assert import_votes(first) == (1, len(votes) - 1)
    write_votes(second, Vote.objects.comparisons())
    assert sorted(second.read_text().splitlines()) == sorted(first.read_text().splitlines())


def test_imported_votes_are_final_and_their_pairs_are_served_to_nobody(
    votes: list[Vote], tmp_path: Path, make_checkpoint: Any
) -> None:
    path = tmp_path / "votes.jsonl"
    write_votes(path, Vote.objects.comparisons())
    sha256 = votes[0].pair.a.checkpoint.weights_sha256
    forget_everything()
    here = make_checkpoint("sft", weights_sha256=sha256)
    import_votes(path)
    assert not Vote.objects.filter(revealed_at=None).exists()
    assert Generation.objects.filter(checkpoint=here).exists()  # the checkpoint is known by its hash
    assert next_pair(Visitor.objects.create()) is None
    assert list(Checkpoint.objects.listed()) == [here]


def test_a_file_from_elsewhere_needs_only_three_keys(tmp_path: Path) -> None:
    path = tmp_path / "trl.jsonl"
    line = {
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Hello!"}],
        "rejected": [{"role": "assistant", "content": "What."}],
    }
    path.write_text(json.dumps(line) + "\n\n" + json.dumps({**line, "voter": "bob"}) + "\n")
    assert import_votes(path) == (2, 0)
    assert import_votes(path) == (0, 2)
    vote = Vote.objects.for_training().with_answers()[0]
    assert (vote.choice, vote.pair.a.text, vote.pair.b.text) == ("a", "Hello!", "What.")
    assert Pair.objects.count() == 1
    assert Visitor.objects.count() == 2


def test_it_takes_what_the_trainer_takes_as_data(tmp_path: Path) -> None:
    """Every notation, packed or not, with byte-order marks, Windows' line ends and padded columns."""
    hi = {"role": "user", "content": "Hi"}
    dialogue = "\n\nHuman: Hi\n\nAssistant: "
    records = [
        {"prompt": "Hi", "chosen": "Yo.", "rejected": "What."},
        {"instruction": "Hi", "input": None, "output": None, "chosen": "Yo.", "rejected": "What."},
        {"chosen": dialogue + "Yo.", "rejected": dialogue + "What."},
        {"chosen": [hi, {"role": "assistant", "content": "Yo."}], "rejected": dialogue + "What."},
        {"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "Yo."},
         "rejected": {"from": "gpt", "value": "What."}},
    ]  # fmt: skip
    path = tmp_path / "pairs.jsonl.gz"
    lines = "".join(f"\ufeff{json.dumps(record | {'voter': f'v{n}'})}\r\n" for n, record in enumerate(records))
    path.write_bytes(gzip.compress(lines.encode()))
    assert import_votes(path) == (5, 0)
    assert Pair.objects.count() == 1
    vote = Vote.objects.for_training().with_answers()[0]
    assert (vote.choice, vote.pair.a.text, vote.pair.b.text) == ("a", "Yo.", "What.")
    assert vote.pair.a.messages == [hi]
    (tmp_path / "list.json").write_text(json.dumps(records[:1]))
    assert import_votes(tmp_path / "list.json") == (1, 0)  # of a voter without a name


def test_equal_texts_are_a_tie_as_they_are_for_the_trainer(tmp_path: Path) -> None:
    path = tmp_path / "same.jsonl"
    same = _line(chosen=[{"role": "assistant", "content": "Yo. "}], rejected=[{"role": "assistant", "content": "Yo."}])
    path.write_text(json.dumps(same))
    import_votes(path)
    assert Vote.objects.get().choice == "tie"


def test_there_is_one_line_end(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    said = [{"role": "assistant", "content": "One.\r\nTwo.\rThree."}]
    path.write_text(json.dumps(_line(prompt=[{"role": "user", "content": "Say\r\nit."}], chosen=said)))
    import_votes(path)
    pair = Pair.objects.get()
    assert (pair.a.text, pair.a.messages[0]["content"]) == ("One.\nTwo.\nThree.", "Say\nit.")
    assert import_votes(path) == (0, 1)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "votes.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(CommandError, match=rf"{path} is a .*{kind}, not a file that can be read"):
        call_command("import_votes", str(path))


def test_the_columns_of_an_export_are_the_same_whatever_its_rows_hold(
    make_checkpoint: Any, visitor: Visitor, tmp_path: Path
) -> None:
    """`datasets` goes by the first ten megabytes: types it finds there must do for the rest."""
    arrow_json, arrow = pytest.importorskip("pyarrow.json"), pytest.importorskip("pyarrow")
    sft = make_checkpoint("sft")
    bare = make_vote(make_pair(sft), visitor)
    Generation.objects.update(sampling={})
    Checkpoint.objects.update(weights_sha256="")
    whole = make_vote(make_pair(make_checkpoint("ppo")), choice="b", reasons=["clear"], taste="shorter")
    odd = make_vote(make_pair(sft), reasons=["short"])
    sampling = {"temperature": 1, "top_k": 5, "top_p": 0.5, "max_new_tokens": 9, "seed": 2, "min_p": 0.1}
    Generation.objects.filter(pk=odd.pair.a_id).update(sampling=sampling)
    path = tmp_path / "votes.jsonl"
    schemas = []
    for vote in (bare, whole, odd):
        write_votes(path, Vote.objects.filter(pk=vote.pk))
        schemas.append(arrow_json.read_json(path).schema)
    assert schemas[0] == schemas[1] == schemas[2]
    assert schemas[0].field("reasons").type == arrow.list_(arrow.string())
    assert not any(arrow.types.is_null(field.type) for field in schemas[0])
    write_votes(path, Vote.objects.comparisons())
    first = path.read_bytes()
    forget_everything()
    assert import_votes(path) == (3, 0)
    assert Vote.objects.get(visitor=bare.visitor_id).reasons == []
    assert Generation.objects.filter(sampling={}).count() == 2
    write_votes(path, Vote.objects.comparisons())
    assert path.read_bytes() == first


def test_an_export_loads_in_datasets_whatever_its_first_rows_look_like(
    make_checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    sft = make_checkpoint("sft")
    plain, clear = make_vote(make_pair(sft, texts=("x" * 4000, "b"))), make_vote(make_pair(sft), reasons=["clear"])
    Generation.objects.filter(pk__in=[plain.pair.a_id, plain.pair.b_id]).update(sampling={})
    lines = []
    for vote in (plain, clear):
        write_votes(tmp_path / "one.jsonl", Vote.objects.filter(pk=vote.pk))
        lines.append((tmp_path / "one.jsonl").read_text())
    (tmp_path / "votes.jsonl").write_text(lines[0] * 3000 + lines[1])  # 13 MB of votes without reasons first
    loaded = datasets.load_dataset(
        "json", data_files=str(tmp_path / "votes.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert (len(loaded), loaded[-1]["reasons"], loaded[0]["reasons"]) == (3001, ["clear"], [""])


def _line(**changes: Any) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": f"Hello {uuid.uuid4()}"}],
        "rejected": [{"role": "assistant", "content": "What."}],
        **changes,
    }


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ("{", "not JSON"),
        ("[1]", "must be a JSON object"),
        (json.dumps({"prompt": []}), "there is no value in prompt"),
        (json.dumps({"text": "A page."}), "it is a document and no comparison"),
        (json.dumps(_line(prompt=[])), "a comparison needs an 'instruction', a 'prompt' or a conversation"),
        (json.dumps(_line(voter=7)), '"voter" must be a text'),
        (json.dumps(_line(chosen=[{"role": "assistant", "content": " \n"}])), "a question or an answer is empty"),
        (json.dumps(_line(chosen="", rejected="No.")), "an answer is empty"),
        (json.dumps(_line(outcome="maybe")), "Unknown outcome"),
        (json.dumps(_line(source="robot")), '"source" must be human or simulated'),
        (json.dumps(_line(pair="one")), '"pair" must be a UUID'),
        (json.dumps(_line(pair=5)), '"pair" must be a UUID'),
        (json.dumps(_line(chosen_side="c")), '"chosen_side" must be'),
        (json.dumps(_line(chosen_side="b", outcome="tie")), '"chosen_side" must be'),
        (json.dumps(_line(checkpoints=["x"])), '"checkpoints" must be an object'),
        (json.dumps(_line(checkpoints={"chosen": "abc"})), "SHA-256"),
        (json.dumps(_line(checkpoints={"chosen": ("../" * 22)[:64]})), "SHA-256"),
        (json.dumps(_line(checkpoints={"rejected": "0" * 63 + "\n"})), "SHA-256"),
        (json.dumps(_line(checkpoints={"rejected": "A" * 64})), "in lower case"),
        (json.dumps(_line(stages={"chosen": "reward"})), '"stages" must be among'),
        (json.dumps(_line(sampling={"chosen": 1})), '"sampling" must hold'),
        (json.dumps(_line(sampling={"chosen": {"seed": math.nan}})), '"sampling" must hold'),
        (json.dumps(_line(sampling={"chosen": {"seed": 10**400}})), '"sampling" must hold'),
        (json.dumps(_line(chosen=[{"role": "assistant", "content": "a\0b"}])), "holds a NUL"),
        (json.dumps(_line(voter="\ud800")), "half a surrogate pair"),
        (json.dumps(_line(time="0001-01-01T00:00:00+00:00")), '"time" must be an ISO 8601'),
        (json.dumps(_line(taste="x" * 33)), '"taste" must be'),
        (json.dumps(_line(reasons="clear")), '"reasons" must be a list'),
        (json.dumps(_line(time="yesterday")), '"time" must be an ISO 8601'),
        (json.dumps(_line(time="2026-01-01T00:00:00")), '"time" must be an ISO 8601'),
    ],
)
def test_a_malformed_line_names_itself_and_nothing_is_imported(tmp_path: Path, bad: str, complaint: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(_line()) + "\n" + bad + "\n")
    with pytest.raises(CommandError) as refusal:
        call_command("import_votes", str(path))
    assert f"{path}, line 2: " in str(refusal.value)
    assert complaint in str(refusal.value)
    assert not any(model.objects.exists() for model in (Vote, Pair, Generation, Visitor))


def test_two_lines_may_not_disagree_about_a_pair(tmp_path: Path) -> None:
    path, pair = tmp_path / "bad.jsonl", str(uuid.uuid4())
    path.write_text("".join(json.dumps(_line(pair=pair)) + "\n" for _ in range(2)))
    with pytest.raises(ValueError, match=r"line 2: pair .* has other answers"):
        import_votes(path)


def test_a_pair_that_is_here_with_other_answers_is_refused(make_checkpoint: Any, tmp_path: Path) -> None:
    pair = make_pair(make_checkpoint("sft"))
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(_line(pair=str(pair.pk))))
    with pytest.raises(ValueError, match=r"other answers\. Nothing was imported"):
        import_votes(path)
    assert not Vote.objects.exists()


def test_files_that_cannot_be_read_or_written_end_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"Cannot read .*No such file"):
        call_command("import_votes", str(tmp_path / "none.jsonl"))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CommandError, match="not UTF-8"):
        call_command("import_votes", str(tmp_path / "binary.jsonl"))
    with pytest.raises(CommandError, match=r"Cannot write .*No such file"):
        call_command("export_votes", str(tmp_path / "none" / "votes.jsonl"))


def test_an_export_does_not_join_votes_with_their_answers(votes: list[Vote], tmp_path: Path) -> None:
    """Such a join hung for minutes on a PostgreSQL that had not yet noticed how many rows there are."""
    with CaptureQueriesContext(connection) as queries:
        write_votes(tmp_path / "votes.jsonl", Vote.objects.comparisons())
    assert [query["sql"] for query in queries if query["sql"].count(" JOIN ") > 1] == []


@pytest.mark.skipif(connection.vendor != "postgresql", reason="about the statistics of PostgreSQL's planner")
def test_an_import_tells_the_planner_how_many_rows_there_are(votes: list[Vote], tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    write_votes(path, Vote.objects.comparisons())
    forget_everything()
    import_votes(path)
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname, reltuples FROM pg_class WHERE relname IN ('arena_vote', 'arena_pair')")
        known = dict(cursor.fetchall())
    assert known == {"arena_vote": Vote.objects.count(), "arena_pair": Pair.objects.count()}


def test_ten_thousand_votes_make_the_trip(make_checkpoint: Any, tmp_path: Path) -> None:
    sft = make_checkpoint("sft")
    voters = Visitor.objects.bulk_create([Visitor() for _ in range(10)])
    first, second = make_answer(sft), make_answer(sft)
    answers = Generation.objects.bulk_create(
        [
            Generation(checkpoint=sft, messages=first.messages, text=f"{second.text} {n}", state="done")
            for n in range(2000)
        ]
    )
    pairs = Pair.objects.bulk_create(
        [Pair(kind="self", state="ready", a=answers[n], b=answers[n + 1]) for n in range(0, 2000, 2)]
    )
    Vote.objects.bulk_create([Vote(pair=pair, visitor=voter, choice="b") for pair in pairs for voter in voters])
    paths = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    write_votes(paths[0], Vote.objects.comparisons())
    forget_everything()
    assert import_votes(paths[0]) == (10_000, 0)
    write_votes(paths[1], Vote.objects.comparisons())
    assert paths[0].read_bytes() == paths[1].read_bytes()

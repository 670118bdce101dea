"""Files of others, read within bounds of kind, size and time."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.data.directory import from_directory
from trainer.data.preferences import read_comparisons
from trainer.data.reader import read, read_votes
from trainer.model.checkpoint import CheckpointError, read_json
from trainer.runtime import reading
from trainer.runtime.reading import NotAFile, Reader, read_bytes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["pipe", "device", "socket", "directory"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What waits for ever, never ends, or is no file in another way; under a name that promises records."""
    path = tmp_path / "data" / "odd.jsonl"
    path.parent.mkdir()
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    elif request.param == "directory":
        (tmp_path / "inside").mkdir()
        path.symlink_to(tmp_path / "inside")
    else:
        monkeypatch.chdir(path.parent)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    return path


def test_what_is_no_file_is_not_waited_for(no_file: Path) -> None:
    for read_it in (Reader().text, lambda path: read_bytes(path, most=100), read_votes, read_comparisons):
        with pytest.raises(ValueError, match=rf"{no_file} is (a|an) [a-z ]+, not a file that can be read"):
            read_it(no_file)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["odd.jsonl", "odd.txt", "odd.json", "odd.parquet", "odd.csv"])
def test_a_directory_is_read_past_what_is_no_file(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow.parquet")
    (tmp_path / "a.txt").write_text("A hen.\n\nA goat.")
    os.mkfifo(tmp_path / name)
    (tmp_path / f"zero-{name}").symlink_to("/dev/zero")
    found = list(read(tmp_path))
    assert [one.taken.value for one in found if one.taken] == ["A hen.", "A goat."]
    assert [(one.line, one.reason) for one in found if one.taken is None] == [
        (0, "a named pipe, not a file that can be read"),
        (0, "a device, not a file that can be read"),
    ]
    assert len(from_directory(tmp_path).documents) == 1


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.gz", gzip.compress), ("a.xz", lzma.compress), ("a.bz2", bz2.compress)],
    ids=["gz", "xz", "bz2"],  # of names: an id that says where a function lies is another in each process
)
def test_an_archive_that_unpacks_without_end_is_refused_early(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ALWAYS_FINE_BYTES", 2**20)
    path = tmp_path / name
    path.write_bytes(pack(bytes(50 * 2**20)))
    reader = Reader()
    with pytest.raises(ValueError, match=rf"{name} unpacks to more than 100 times its size"):
        reader.text(path)
    assert reader.read < 30 * 2**20


def test_text_that_is_packed_well_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    text = "The goat stands on the wall and looks at the sea. " * 20_000
    path.write_bytes(gzip.compress(text.encode()) + gzip.compress(b"Two archives in one file."))
    assert Reader().text(path) == text + "Two archives in one file."


def test_more_text_than_there_is_memory_for_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(2**40)
    reader = Reader()
    with pytest.raises(ValueError, match=r"a\.txt is too large: with it there is more than [\d,]+ MB of text"):
        next(reader.chunks(path))
    small = Reader(limit=10)
    (tmp_path / "b.txt").write_text("A goat.")
    assert small.text(tmp_path / "b.txt") == "A goat."
    with pytest.raises(ValueError, match=r"b\.txt is too large"):
        small.text(tmp_path / "b.txt")  # all files together count


def test_a_table_is_measured_before_it_is_read(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["x" * 1000] * 1000}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet is too large"):
        list(read(tmp_path, Reader(limit=100_000)))


def test_the_limit_follows_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "memory_bytes", lambda: 80 * 2**30)
    assert Reader().limit == 10 * 2**30
    monkeypatch.setattr(reading, "memory_bytes", lambda: 2**20)
    assert Reader().limit == reading.LEAST_LIMIT_BYTES


def test_lines_are_whole_wherever_the_pieces_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", 3)
    path = tmp_path / "a.txt"
    path.write_bytes("Für alle\r\nund\rjeden\n\n日本".encode())
    assert list(Reader().lines(path)) == [(1, "Für alle"), (2, "und"), (3, "jeden"), (4, ""), (5, "日本")]
    path.write_bytes(b"Good. " + "für".encode("latin-1"))
    with pytest.raises(ValueError, match=r"not UTF-8 text \(byte 7\)"):
        Reader().text(path)


def test_json_of_a_checkpoint_is_read_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="is a device, not a file"):
        read_json(path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match="larger than 32 MB"):
        read_json(path)


class Stop(Exception):
    pass


def test_whoever_reads_can_be_told_to_stop(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"Page {n}."}) + "\n" for n in range(1000)))
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 500:
            raise Stop

    with pytest.raises(Stop):
        from_directory(tmp_path, check=check)


STOPPED_WHILE_IT_READS = """
import os, signal, sys
from trainer.runtime import reading
count = reading.Reader.count
def note(self, size, path):
    if self.read == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    count(self, size, path)
    assert self.read < 20 * 2**20, "it read on"
reading.Reader.count = note
from trainer.__main__ import main
sys.exit(main())
"""


def test_a_run_hears_a_stop_while_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    line = json.dumps({"text": "The goat stands on the wall. " * 30}) + "\n"
    (tmp_path / "data" / "a.jsonl").write_text(line * 60_000)  # 54 MB
    script = [sys.executable, "-c", STOPPED_WHILE_IT_READS]
    command = ["init", "--preset", "smoke", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    ran = subprocess.run([*script, *command], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (3, "Stopped before it began. The same command goes on from there.\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["read", "init"])
def test_a_pipe_among_the_data_ends_nothing(tmp_path: Path, command: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    os.mkfifo(data / "odd.jsonl")
    (data / "a.txt").write_text("A hen.\n\nA goat.")
    options = [str(data)] if command == "read" else ["--preset", "smoke", "--data", str(data), "--out", "out"]
    ran = subprocess.run(
        [sys.executable, "-m", "trainer", command, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert "odd.jsonl: a named pipe, not a file that can be read." in ran.stderr


def test_a_stop_ends_read_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A hen.\n\n" * 2_000_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "read", str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.stdout.close()
    assert process.wait() == -signal.SIGTERM


def test_not_a_file_is_a_person_s_mistake() -> None:
    assert issubclass(NotAFile, ValueError)

"""Taking over what another attempt at the same run has saved, whoever still writes there."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from trainer.runtime import files
from trainer.runtime.files import RESUME_RUN, RESUME_STATE, STAGE, appearing, take_over, write_atomic


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """Half-finished, and in the middle of another save."""
    directory = tmp_path / "run-1"
    (directory / "resume").mkdir(parents=True)
    write_atomic(directory / RESUME_RUN, b"which run it is")
    write_atomic(directory / RESUME_STATE, b"step 5")
    (directory / "resume" / ".state.safetensors.tmp").write_bytes(b"half of step")
    (directory / "resume" / "documents.bin").write_bytes(b"written anew by every attempt, and in place")
    (directory / "config.json").write_bytes(b"of a checkpoint that is not whole")
    return directory


@pytest.fixture
def new(tmp_path: Path) -> Path:
    directory = tmp_path / "run-2"
    directory.mkdir()
    return directory


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_it_takes_what_is_whole_and_nothing_else(earlier: Path, new: Path) -> None:
    assert take_over(new, earlier)
    assert content(new) == {"resume/run.json": b"which run it is", "resume/state.safetensors": b"step 5"}


def test_what_is_written_later_in_either_directory_does_not_reach_the_other(earlier: Path, new: Path) -> None:
    take_over(new, earlier)
    write_atomic(earlier / RESUME_STATE, b"step 9, by a process that was thought dead")
    assert (new / RESUME_STATE).read_bytes() == b"step 5"
    write_atomic(new / RESUME_STATE, b"step 6")
    assert (earlier / RESUME_STATE).read_bytes().startswith(b"step 9")


def test_a_finished_checkpoint_is_taken_with_all_its_files(earlier: Path, new: Path) -> None:
    (earlier / "adapter").mkdir()
    names = ("config.json", "model.safetensors", "adapter/adapter_model.safetensors", STAGE)
    for name in names:
        write_atomic(earlier / name, name.encode())
    assert take_over(new, earlier)
    assert content(new) == {name: name.encode() for name in names}


def test_nothing_is_taken_where_nothing_is_whole(tmp_path: Path, earlier: Path, new: Path) -> None:
    (earlier / RESUME_STATE).unlink()
    assert not take_over(new, earlier)
    assert not take_over(new, tmp_path / "never there")
    assert content(new) == {}


def test_one_that_is_finished_while_it_is_looked_at_is_taken_as_finished(
    earlier: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def finish_first(source: Path, target: Path) -> None:
        if source.name == RESUME_STATE.name:
            write_atomic(earlier / "model.safetensors", b"weights")
            write_atomic(earlier / STAGE, b"whole")
            (earlier / RESUME_STATE).unlink()
        link(source, target)

    monkeypatch.setattr(files.os, "link", finish_first)
    assert take_over(new, earlier)
    assert (new / STAGE).read_bytes() == b"whole"
    assert (new / "model.safetensors").read_bytes() == b"weights"


def test_it_copies_where_there_are_no_hard_links(earlier: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(files.os, "link", refuse)
    assert take_over(new, earlier)
    assert content(new) == {"resume/run.json": b"which run it is", "resume/state.safetensors": b"step 5"}


def test_a_file_that_could_not_be_written_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="full"), files.replacing(path) as temporary:  # noqa: PT012 (that is the case)
        temporary.write_bytes(b"half of the n")
        raise OSError("the disk is full")
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights"]
    assert path.read_bytes() == b"old"


def test_what_a_killed_process_left_is_taken_away_a_day_later(tmp_path: Path) -> None:
    long_ago = time.time() - 25 * 3600
    forgotten, slow, strange = (tmp_path / f".incoming-{name}" for name in ("0" * 32, "1" * 32, "photos"))
    for left in (forgotten, slow, strange):
        left.mkdir()
        (left / "model.safetensors").write_bytes(b"half of it")
        if left != slow:  # whose directory is as old, but what it writes to is not
            os.utime(left / "model.safetensors", (long_ago, long_ago))
    (forgotten / "link").symlink_to(tmp_path / "nowhere")
    os.utime(forgotten / "link", (long_ago, long_ago), follow_symlinks=False)
    for left in (forgotten, slow, strange):
        os.utime(left, (long_ago, long_ago))
    with appearing(tmp_path / "new") as incoming:
        (incoming / "file").write_text("whole")
    kept = [slow.name, strange.name, "new"]  # a directory of somebody else's is left alone
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    with pytest.raises(OSError, match="full"), appearing(tmp_path / "other"):
        raise OSError("full")
    assert sorted(path.name for path in tmp_path.iterdir()) == kept

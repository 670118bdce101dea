"""Exports: asked for by staff, written in the background, served piece by piece."""

from __future__ import annotations

import asyncio
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.test import AsyncClient, Client
from django.urls import reverse
from django.utils import timezone

from tests.webapp.arena_factory import make_pair, make_vote
from webapp.arena import exports, tasks
from webapp.arena.exchange import write_votes
from webapp.arena.models import Vote, VoteExport
from webapp.checkpoints.models import Checkpoint

pytestmark = pytest.mark.django_db

ADD, LIST = reverse("admin:arena_voteexport_add"), reverse("admin:arena_voteexport_changelist")


@pytest.fixture
def sft(make_checkpoint: Any) -> Checkpoint:
    checkpoint: Checkpoint = make_checkpoint("sft")
    return checkpoint


def page_of(export: VoteExport) -> str:
    return reverse("admin:arena_voteexport_change", args=[export.pk])


def file_of(export: VoteExport) -> str:
    return reverse("admin:arena_voteexport_file", args=[export.pk])


def test_asking_only_enqueues_and_the_page_follows_it_to_the_link(
    sft: Checkpoint, staff_client: Client, enqueued: Any, django_capture_on_commit_callbacks: Any, tmp_path: Path
) -> None:
    for _ in range(3):
        make_vote(make_pair(sft))
    assert staff_client.get(ADD).status_code == 200
    assert not VoteExport.objects.exists()
    with django_capture_on_commit_callbacks(execute=True):
        response = staff_client.post(ADD)
    export = VoteExport.objects.get()
    assert response["Location"] == page_of(export)
    assert LogEntry.objects.get().change_message == "asked for a file of all votes"
    (task,) = enqueued.of("write_export")
    waiting = staff_client.get(page_of(export))
    assert "It is being written" in waiting.content.decode()
    assert waiting["Refresh"] == "2"
    assert staff_client.get(file_of(export)).status_code == 404

    tasks.write_export(*task.args)
    done = staff_client.get(page_of(export))
    assert file_of(export) in done.content.decode()
    assert "Refresh" not in done
    assert file_of(export) in staff_client.get(LIST).content.decode()
    file = staff_client.get(file_of(export))
    sha256, written = write_votes(tmp_path / "votes.jsonl", Vote.objects.comparisons())
    assert b"".join(file.streaming_content) == (tmp_path / "votes.jsonl").read_bytes()
    assert file["Content-Disposition"].startswith("attachment")
    export.refresh_from_db()
    assert (export.sha256, export.written, export.total) == (sha256, written, 3)


def test_only_staff_see_exports(sft: Checkpoint, alice_client: Client, client: Client, staff_client: Client) -> None:
    make_vote(make_pair(sft))
    export = exports.request_export(requested_by=None)
    exports.write_export(export_id=export.pk)
    for browser in (alice_client, client):
        for address in (LIST, ADD, page_of(export), file_of(export)):
            assert browser.get(address).status_code == 302
        assert browser.post(ADD).status_code == 302
    assert VoteExport.objects.count() == 1


def test_staff_without_the_permission_neither_ask_nor_fetch(sft: Checkpoint, client_of: Any) -> None:
    clerk = client_of(get_user_model().objects.create_user("clerk", is_staff=True))
    export = exports.request_export(requested_by=None)
    exports.write_export(export_id=export.pk)
    assert {clerk.get(address).status_code for address in (LIST, ADD, page_of(export), file_of(export))} == {403}
    assert clerk.post(ADD).status_code == 403
    assert VoteExport.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_under_asgi_the_file_is_sent_piece_by_piece(
    sft: Checkpoint, owner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_vote(make_pair(sft))
    export = exports.request_export(requested_by=owner)
    exports.write_export(export_id=export.pk)
    monkeypatch.setattr("webapp.files.PIECE", 100)
    client = AsyncClient()
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")

    async def fetch() -> list[bytes]:
        response = await client.get(file_of(export))
        return [piece async for piece in response.streaming_content]  # type: ignore[union-attr]

    pieces = asyncio.run(fetch())
    assert len(pieces) > 3
    assert b"".join(pieces) == export.path.read_bytes()


def test_one_is_written_at_a_time(sft: Checkpoint, owner: Any) -> None:
    first = exports.request_export(requested_by=owner)
    assert exports.request_export(requested_by=None) == first
    exports.write_export(export_id=first.pk)
    assert exports.request_export(requested_by=owner) != first


def test_a_message_delivered_twice_writes_once(sft: Checkpoint) -> None:
    export = exports.request_export(requested_by=None)
    exports.write_export(export_id=export.pk)
    made = export.path.stat().st_mtime_ns
    exports.write_export(export_id=export.pk)
    assert export.path.stat().st_mtime_ns == made


def test_an_export_whose_worker_died_is_written_by_another(
    sft: Checkpoint, enqueued: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_vote(make_pair(sft))
    export = exports.request_export(requested_by=None)
    past = timezone.now() - timedelta(seconds=1)
    VoteExport.objects.update(state="running", attempt=1, lease_until=timezone.now() + timedelta(minutes=1))
    exports.write_export(export_id=export.pk)
    exports.look_after_exports()
    assert not export.path.exists()
    assert not enqueued.of("write_export")
    VoteExport.objects.update(lease_until=past)
    exports.look_after_exports()
    assert [task.args for task in enqueued.of("write_export")] == [(str(export.pk),)]
    exports.write_export(export_id=export.pk)
    export.refresh_from_db()
    assert (export.state, export.attempt) == ("done", 2)


def test_an_attempt_that_was_taken_over_stops_and_leaves_nothing(
    sft: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.arena.exchange._BATCH", 1)
    for _ in range(3):
        make_vote(make_pair(sft))
    export = exports.request_export(requested_by=None)
    whole = exports.write_votes

    def overtaken(*args: Any, report: Any, **options: Any) -> Any:
        def then_another_attempt(written: int) -> None:
            VoteExport.objects.update(attempt=99)
            report(written)

        return whole(*args, report=then_another_attempt, **options)

    monkeypatch.setattr(exports, "write_votes", overtaken)
    exports.write_export(export_id=export.pk)
    export.refresh_from_db()
    assert (export.state, export.attempt) == ("running", 99)
    assert not [path for path in export.path.parent.iterdir() if str(export.pk) in path.name]


def test_a_full_disk_is_said(sft: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exports, "write_votes", full)
    export = exports.request_export(requested_by=None)
    exports.write_export(export_id=export.pk)
    export.refresh_from_db()
    assert export.state == "failed"
    assert "No space left on device" in export.error


def test_old_files_are_deleted_and_their_page_says_so(sft: Checkpoint, staff_client: Client) -> None:
    export = exports.request_export(requested_by=None)
    exports.write_export(export_id=export.pk)
    exports.look_after_exports()
    assert export.path.exists()
    VoteExport.objects.update(finished_at=timezone.now() - exports.KEPT - timedelta(hours=1))
    exports.look_after_exports()
    assert not export.path.exists()
    assert "deleted; ask for a new one" in staff_client.get(page_of(export)).content.decode()
    assert staff_client.get(file_of(export)).status_code == 404


def test_twenty_times_the_votes_take_no_more_memory(
    sft: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.arena.exchange._BATCH", 10)
    text = "a word " * 2_000

    def peak() -> int:
        tracemalloc.start()
        try:
            write_votes(tmp_path / "votes.jsonl", Vote.objects.comparisons())
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    for number in range(10):
        make_vote(make_pair(sft, texts=(f"{text} {number}", text)))
    peak()  # what is loaded once does not count
    few = peak()
    for number in range(190):
        make_vote(make_pair(sft, texts=(f"{text} {number}", text)))
    assert peak() < 3 * few
    assert (tmp_path / "votes.jsonl").stat().st_size > 200 * len(text)

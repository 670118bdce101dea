"""Migrations carry real data: each is tried on a database filled by the version before it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

pytestmark = pytest.mark.django_db(transaction=True)

Apps = Any
Targets = list[tuple[str, str]]


@pytest.fixture
def migrate() -> Iterator[Callable[[Targets], Apps]]:
    """`migrate([("arena", "0002_…")])` goes there, back or forth, and returns the models of that state."""

    def to(targets: Targets) -> Apps:
        executor = MigrationExecutor(connection)
        executor.migrate(targets)
        executor.loader.build_graph()
        return executor.loader.project_state(targets).apps

    yield to
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())


def make_answer(apps: Apps, app: str, **fields: Any) -> Any:
    checkpoint = apps.get_model("checkpoints", "Checkpoint").objects.create(
        stage="sft", name="sft 1", directory="sft-1", weights_sha256="0" * 64, parameters=1, bytes=1
    )
    return apps.get_model(app, "Generation").objects.create(
        checkpoint=checkpoint, messages=[{"role": "user", "content": "What does a fox eat?"}], **fields
    )


def test_answers_move_to_their_own_app_with_all_that_refers_to_them(migrate: Callable[[Targets], Apps]) -> None:
    before = [
        *(("checkpoints", "0003_unfinished_generations"), ("chat", "0001_initial")),
        *(("arena", "0002_vote_learnt_by"), ("stages", "0001_initial")),
    ]
    apps = migrate(before)
    a = make_answer(apps, "checkpoints", text="Mice.", state="done")
    b = apps.get_model("checkpoints", "Generation").objects.create(checkpoint=a.checkpoint, messages=[], text="Worms.")
    pair = apps.get_model("arena", "Pair").objects.create(kind="self", a=a, b=b)
    content_types = apps.get_model("contenttypes", "ContentType").objects
    content_types.filter(app_label="answers", model="generation").delete()
    kind, _ = content_types.get_or_create(app_label="checkpoints", model="generation")

    apps = migrate([("checkpoints", "0005_delete_generation"), ("arena", "0003_generation_moved")])

    moved = apps.get_model("arena", "Pair").objects.get(pk=pair.pk)
    assert (moved.a.text, moved.b.text) == ("Mice.", "Worms.")
    assert apps.get_model("answers", "Generation").objects.filter(state="queued").count() == 1
    assert apps.get_model("contenttypes", "ContentType").objects.get(pk=kind.pk).app_label == "answers"
    with pytest.raises(LookupError):
        apps.get_model("checkpoints", "Generation")

    # A site that goes back to the version before finds its answers again.
    apps = migrate(before)
    assert apps.get_model("arena", "Pair").objects.get(pk=pair.pk).a.text == "Mice."


def test_staff_keep_the_rights_they_had_over_runs(migrate: Callable[[Targets], Apps]) -> None:
    apps = migrate([("training", "0002_overruled_and_votes_source"), ("accounts", "0001_initial")])
    content_type, _ = apps.get_model("contenttypes", "ContentType").objects.get_or_create(
        app_label="training", model="trainingrun"
    )
    permissions = apps.get_model("auth", "Permission").objects
    for action in ("view", "add", "change", "delete"):
        permissions.get_or_create(
            codename=f"{action}_trainingrun", content_type=content_type, defaults={"name": action}
        )
    users = apps.get_model("accounts", "User").objects
    stan, alice = users.create(username="stan", is_staff=True), users.create(username="alice")

    apps = migrate([("training", "0003_staff_keep_their_rights")])

    users = apps.get_model("accounts", "User").objects
    assert users.get(pk=stan.pk).user_permissions.count() == 4
    assert users.get(pk=alice.pk).user_permissions.count() == 0


def test_prompts_get_the_hash_of_their_text(migrate: Callable[[Targets], Apps]) -> None:
    apps = migrate([("arena", "0003_generation_moved")])
    prompts = apps.get_model("arena", "Prompt").objects
    prompts.bulk_create([prompts.model(text=f"What is thing {number}?", source="staff") for number in range(1100)])

    apps = migrate([("arena", "0004_prompts_by_hash")])

    hashes = dict(apps.get_model("arena", "Prompt").objects.values_list("text", "text_sha256"))
    assert len(set(hashes.values())) == 1100
    assert hashes["What is thing 7?"] == hashlib.sha256(b"What is thing 7?").hexdigest()

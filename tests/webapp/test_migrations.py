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


def test_the_votes_there_are_are_counted(migrate: Callable[[Targets], Apps]) -> None:
    """A site of the version before: looks of every kind, two voters and one who agrees with nobody."""
    before = [
        ("arena", "0003_generation_moved"),
        ("answers", "0001_initial"),
        ("checkpoints", "0005_delete_generation"),
    ]
    apps = migrate(before)
    Checkpoint, Generation = apps.get_model("checkpoints", "Checkpoint"), apps.get_model("answers", "Generation")
    Pair, Vote = apps.get_model("arena", "Pair"), apps.get_model("arena", "Vote")
    prompt = apps.get_model("arena", "Prompt").objects.create(text="What does a fox eat?", source="staff")
    sft, ppo, reward = (
        Checkpoint.objects.create(
            stage=stage, name=stage, directory=stage, weights_sha256=f"{number:064}", parameters=1, bytes=1
        )
        for number, stage in enumerate(("sft", "ppo", "reward"))
    )
    visitors = [apps.get_model("accounts", "Visitor").objects.create() for _ in range(3)]

    def pair(*couple: Any, **fields: Any) -> Any:
        answers = [
            Generation.objects.create(checkpoint=one, messages=[{"role": "user", "content": "Why?"}], state="done")
            for one in couple
        ]
        kind = "self" if couple[0] == couple[1] else "versus"
        return Pair.objects.create(a=answers[0], b=answers[1], **{"kind": kind, "state": "ready", **fields})

    shared, duel, old = pair(sft, sft, prompt=prompt), pair(sft, ppo, prompt=prompt), pair(ppo, sft)
    chat = pair(sft, sft, from_chat=True, state="pending", owner=visitors[0])
    again = Pair.objects.create(kind="self", state="ready", a=shared.b, b=shared.a, repeat_of=shared, owner=visitors[0])
    for voted, visitor, choice, fields in (
        (shared, 0, "a", {"learnt_by": reward}),
        (shared, 1, "a", {}),
        (shared, 2, "tie", {}),
        (duel, 0, "b", {}),
        (duel, 1, "skip", {}),
        (old, 0, "a", {"source": "simulated", "taste": "shorter"}),
        (chat, 0, "b", {}),
        (again, 0, "b", {}),
    ):
        Vote.objects.create(pair=voted, visitor=visitors[visitor], choice=choice, **fields)

    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())
    from webapp.arena import tally
    from webapp.arena.models import Pair as PairNow

    assert tally.differences() == []
    assert tally.training_votes() == 3
    assert tally.agreements() == {("a", "a", "tie"): 1}
    assert PairNow.objects.get(pk=shared.pk).agreement == "a2 tie1"
    assert len(tally.duels()) == 2
    # Going back and forth again counts the same.
    migrate([("arena", "0003_generation_moved")])
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())
    assert tally.differences() == []


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


def test_a_walk_under_way_stays_one_that_began_with_random_weights(migrate: Callable[[Targets], Apps]) -> None:
    apps = migrate([("training", "0004_attempts_and_machines")])
    apps.get_model("training", "Curriculum").objects.create(automatic="demo", taste="shorter", votes_wanted=40)

    apps = migrate([("training", "0005_a_model_moves_in")])

    row = apps.get_model("training", "Curriculum").objects.get()
    assert (row.automatic, row.taste, row.votes_wanted) == ("demo", "shorter", 40)
    assert (row.start_source, row.start_state, row.start_text, row.start_total) == ("", "", "", 0)


def test_checkpoints_of_before_came_from_nowhere_else(migrate: Callable[[Targets], Apps]) -> None:
    apps = migrate([("checkpoints", "0006_checkpoint_answer_tokens")])
    fields = {"stage": "sft", "name": "sft 1", "weights_sha256": "0" * 64, "parameters": 1, "bytes": 1}
    apps.get_model("checkpoints", "Checkpoint").objects.create(directory="sft-1", **fields)

    apps = migrate([("checkpoints", "0008_checkpoint_load_problem")])

    Checkpoint = apps.get_model("checkpoints", "Checkpoint")
    row = Checkpoint.objects.get()
    assert (row.name, row.licence, row.source, row.revision, row.source_sha256) == ("sft 1", "", "", "", "")
    assert row.load_problem == ""
    Checkpoint.objects.create(directory="sft-2", licence="mit", source="hub:small/fox", revision="0" * 40, **fields)

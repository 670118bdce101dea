"""Run pages, who may do what on them, the admin's start form, and the socket."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.db import DatabaseError
from django.urls import reverse
from django.utils import timezone

from tests.conftest import PASSWORD
from tests.webapp.arena_factory import make_pair, make_vote
from tests.webapp.fake_trainer import DOUBTFUL
from webapp.asgi import application
from webapp.live import streams
from webapp.live.sockets import REFUSED, TRY_AGAIN
from webapp.training import consumers, services
from webapp.training.events import Logged, Measured, Sampled, Started
from webapp.training.models import LogLine, Machine, TrainingRun
from webapp.training.templatetags.training_format import notes

State = TrainingRun.State


@pytest.fixture(autouse=True)
def _own_directories(settings: Any, tmp_path: Path) -> None:
    settings.DATA_DIR = tmp_path
    settings.DATA_DIR = tmp_path
    settings.CHECKPOINT_DIR, settings.RUN_DIR = tmp_path / "checkpoints", tmp_path / "runs"


@pytest.fixture
def run(make_checkpoint: Callable[..., Any]) -> TrainingRun:
    """A run at step 2 of 10, with figures, samples, a log and an alarm."""
    queued = services.queue_run(stage="sft", preset="smoke", parent=make_checkpoint("pretrain", name="Reader"))
    claimed = services.claim_run(run_id=queued.pk, worker="worker")
    assert claimed is not None
    for event in (
        Started(step=0, total_steps=10),
        Measured(step=1, values={"loss": 3.25, "lr": 0.01}),
        Sampled(step=1, samples=[{"prompt": "What is an LLM?", "text": "<b>mumble</b>"}]),
        Measured(step=2, values={"loss": 2.75, "lr": 0.02, "odd_figure": 1.0}),
        Sampled(step=2, samples=[{"prompt": "What is an LLM?", "text": "A model.", "reward": 0.5}]),
        Logged(step=2, text="Answers are getting longer.", level="alarm"),
    ):
        services.record_event(run=claimed, event=event)
    return claimed


# -- reading -------------------------------------------------------------------------------------


def test_everyone_may_read_a_run(client: Any, run: TrainingRun) -> None:
    page = client.get(run.get_absolute_url())
    assert page.status_code == 200
    text = page.content.decode()
    assert "Answers are getting longer." in text
    assert "&lt;b&gt;mumble&lt;/b&gt;" in text
    assert "<b>mumble" not in text
    assert "Odd figure" in text
    assert "Reader" in text
    assert f"python manage.py train sft --preset smoke --parent {run.parent_id} --seed 0" in text
    chart = json.loads(re.search(r'id="run-chart-data" type="application/json">(.*?)</script>', text)[1])  # type: ignore[index]
    assert chart["series"]["loss"] == [[1, 3.25], [2, 2.75]]
    assert 'name="how"' not in text


def test_only_staff_read_why_a_run_failed(
    client: Any, staff_client: Any, run: TrainingRun, make_checkpoint: Any
) -> None:
    make_checkpoint("init")
    services.fail_run(run=run, error="OSError: no space left on /srv/site")
    for address in (run.get_absolute_url(), reverse("stages:home")):
        assert "/srv/site" in staff_client.get(address).content.decode()
        everyones = client.get(address).content.decode()
        assert "It failed; staff can see why." in everyones
        assert "/srv/site" not in everyones
    assert "/srv/site" not in json.dumps(streams.read(run.stream_key))


def test_a_run_is_repeated_with_the_votes_and_the_decision_it_was_started_with(
    client: Any, make_checkpoint: Any
) -> None:
    sft = make_checkpoint("sft")
    make_vote(make_pair(sft), source="simulated")
    reward = services.queue_run(stage="reward", preset="smoke", parent=sft, votes="simulated")
    judge = make_checkpoint("reward", parent=sft, metrics=DOUBTFUL, name="First judge")
    ppo = services.queue_run(stage="ppo", preset="smoke", parent=sft, reward_model=judge, overrule_doubts=True)
    page = client.get(reward.get_absolute_url()).content.decode()
    assert f"--parent {sft.pk} --votes simulated --seed 0" in page
    assert "simulated only" in page
    page = client.get(ppo.get_absolute_url()).content.decode()
    assert f"--reward-model {judge.pk} --overrule-doubts --seed 0" in page
    assert "started although its reward model may need more votes" in page
    assert page.count("could be luck") == 2  # at the head and in the log


def test_a_grpo_run_says_who_measures_the_taste(client: Any, make_checkpoint: Any) -> None:
    sft = make_checkpoint("sft")
    judge = make_checkpoint("reward", parent=sft, name="First judge")
    run = services.queue_run(stage="grpo", preset="smoke", parent=sft, reward_model=judge)
    page = client.get(run.get_absolute_url()).content.decode()
    assert "Taste measured by" in page
    assert "First judge" in page


def test_attempts_are_counted_from_the_second_on(client: Any, run: TrainingRun) -> None:
    assert "<dt>Attempt</dt>" not in client.get(run.get_absolute_url()).content.decode()
    TrainingRun.objects.filter(pk=run.pk).update(attempt=2)
    assert "<dt>Attempt</dt><dd>2</dd>" in client.get(run.get_absolute_url()).content.decode()


def test_the_table_is_a_fragment_that_can_be_fetched_again(client: Any, run: TrainingRun) -> None:
    assert 'id="run-table" data-version="1/2"' in client.get(run.get_absolute_url()).content.decode()
    services.record_event(run=run, event=Measured(step=3, values={"loss": 2.5}))
    text = client.get(run.get_absolute_url()).content.decode()
    assert 'id="run-table" data-version="1/3"' in text
    assert '<details class="drawer" data-key="table" open>' in text


def test_a_share_stands_beside_what_it_is_of(client: Any, run: TrainingRun) -> None:
    """The count has no column and no chart of its own."""
    values = {"instruction_accuracy": 0.5, "held_out_questions": 200}
    services.record_event(run=run, event=Measured(step=2, values=values))
    text = client.get(run.get_absolute_url()).content.decode()
    assert '<th scope="col" class="num">Held-out questions answered right, of 200 questions</th>' in text
    assert "Held out questions" not in text
    chart = json.loads(re.search(r'id="run-chart-data" type="application/json">(.*?)</script>', text)[1])  # type: ignore[index]
    assert chart["counts"]["instruction_accuracy"] == ["held_out_questions", "questions"]
    assert chart["series"]["held_out_questions"] == [[2, 200]]


def test_the_table_has_its_place_before_the_first_figures(client: Any, make_checkpoint: Any) -> None:
    run = services.queue_run(stage="sft", preset="smoke", parent=make_checkpoint("pretrain"))
    text = client.get(run.get_absolute_url()).content.decode()
    assert 'id="run-table" data-version="0/"' in text
    assert "No figures yet." in text


def test_an_opened_confirmation_is_found_again(staff_client: Any, run: TrainingRun) -> None:
    text = staff_client.get(run.get_absolute_url()).content.decode()
    assert '<details class="confirm" data-key="discard">' in text


def test_the_page_says_where_its_live_log_goes_on(client: Any, run: TrainingRun) -> None:
    text = client.get(run.get_absolute_url()).content.decode()
    assert f'data-position="{streams.read(run.stream_key)[-1][0]}"' in text


def test_the_page_is_there_without_redis(client: Any, run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(key: str) -> str:
        raise streams.redis.ConnectionError("no route")

    monkeypatch.setattr(streams, "last_id", unreachable)
    assert 'data-position="0"' in client.get(run.get_absolute_url()).content.decode()


def test_everyone_may_read_the_list(client: Any, run: TrainingRun) -> None:
    text = client.get(reverse("training:runs")).content.decode()
    assert f'href="{run.get_absolute_url()}"' in text
    assert "Start a run" not in text


def test_the_list_says_when_it_is_empty(client: Any, db: None) -> None:
    assert "No run yet" in client.get(reverse("training:runs")).content.decode()


def test_the_list_costs_no_query_per_run(client: Any, make_checkpoint: Any, django_assert_max_num_queries: Any) -> None:
    for _ in range(12):
        services.queue_run(stage="sft", preset="smoke", parent=make_checkpoint("pretrain"))
    with django_assert_max_num_queries(8):
        client.get(reverse("training:runs"))


def test_a_run_that_does_not_exist_is_not_found(client: Any, db: None) -> None:
    assert client.get(reverse("training:run", args=[4711])).status_code == 404


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({}, []),
        ({"reward": 0.5, "surprise": 3}, ["score 0.5", "surprise 3"]),
        ({"correct": True, "expected": "5", "worked_steps": True, "ended": True}, ["right", "worked in steps"]),
        ({"correct": False, "expected": "5", "worked_steps": False, "ended": False}, ["wrong: it is 5", "cut off"]),
        ({"advantage": -1.25, "group": 3}, ["advantage -1.25"]),
        (
            {"rejected": "No.", "outcome": "win", "reward": 1.0, "rejected_reward": -0.5},
            ["score 1", "the rejected one scores -0.5"],
        ),
        ({"outcome": "tie", "reward": None}, ["a tie"]),
    ],
)
def test_what_comes_with_a_sample_is_put_in_words(extra: dict[str, Any], words: list[str]) -> None:
    assert notes(extra) == words


# -- acting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stop", "resume"])
@pytest.mark.parametrize("who", ["client", "visitor_client", "alice_client"])
def test_only_staff_may_act(request: Any, run: TrainingRun, name: str, who: str) -> None:
    answer = request.getfixturevalue(who).post(reverse(f"training:{name}", args=[run.pk]), {"how": "discard"})
    assert answer.status_code == 403
    assert TrainingRun.objects.get().stop_request == ""


@pytest.mark.parametrize("who", ["client", "alice_client"])
def test_only_staff_may_take_the_next_step(request: Any, who: str, make_checkpoint: Any) -> None:
    make_checkpoint("init")
    assert request.getfixturevalue(who).post(reverse("training:next_step")).status_code == 403
    assert not TrainingRun.objects.exists()


@pytest.fixture
def with_rights(client_of: Any, django_user_model: Any) -> Callable[..., Any]:
    """A member of staff who may do just this with runs."""

    def make(*actions: str) -> Any:
        user = django_user_model.objects.create_user("una", password=PASSWORD, is_staff=True)
        names = [f"{action}_trainingrun" for action in actions]
        user.user_permissions.set(Permission.objects.filter(codename__in=names))
        return client_of(user)

    return make


@pytest.mark.parametrize(
    ("action", "form", "needed"),
    [
        ("stop", {"how": "save"}, ["change"]),
        ("stop", {"how": "discard"}, ["change", "delete"]),
        ("resume", {}, ["add"]),
    ],
)
def test_each_action_needs_its_permission(
    with_rights: Callable[..., Any], run: TrainingRun, action: str, form: dict[str, str], needed: list[str]
) -> None:
    missing = [name for name in ("view", "add", "change", "delete") if name not in needed]
    browser = with_rights(*missing, *needed[:-1])
    address = reverse(f"training:{action}", args=[run.pk])
    assert browser.post(address, form).status_code == 403
    assert TrainingRun.objects.get().stop_request == ""
    get_user_model().objects.get(username="una").user_permissions.set(
        Permission.objects.filter(codename__in=[f"{name}_trainingrun" for name in needed])
    )
    assert browser.post(address, form).status_code == 302


def test_staff_without_the_permission_are_offered_nothing(with_rights: Callable[..., Any], run: TrainingRun) -> None:
    browser = with_rights("view")
    page = browser.get(run.get_absolute_url()).content.decode()
    assert "Stop and save" not in page
    assert "Discard" not in page
    assert browser.get("/admin/training/trainingrun/").status_code == 200
    assert browser.get("/admin/training/trainingrun/add/").status_code == 403
    assert browser.post("/admin/training/trainingrun/add/", {"start": "1"}).status_code == 403
    assert browser.post(reverse("training:next_step")).status_code == 403


def test_who_stopped_a_run_is_remembered(
    staff_client: Any, staff: Any, run: TrainingRun, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="webapp.audit"):
        staff_client.post(reverse("training:stop", args=[run.pk]), {"how": "save"})
        staff_client.post(reverse("training:stop", args=[run.pk]), {"how": "explode"})
    (line,) = LogEntry.objects.all()
    assert (line.user, line.object_id) == (staff, str(run.pk))
    assert line.change_message == "asked to stop and save"
    assert caplog.messages == [f"stan: asked to stop and save (training run {run.pk})"]


@pytest.mark.parametrize("name", ["stop", "resume"])
def test_reading_an_action_changes_nothing(staff_client: Any, run: TrainingRun, name: str) -> None:
    assert staff_client.get(reverse(f"training:{name}", args=[run.pk])).status_code == 405
    assert TrainingRun.objects.get().stop_request == ""


def test_staff_may_stop_and_resume(staff_client: Any, run: TrainingRun) -> None:
    page = staff_client.get(run.get_absolute_url()).content.decode()
    assert "Stop and save" in page
    staff_client.post(reverse("training:stop", args=[run.pk]), {"how": "save"})
    assert TrainingRun.objects.get().stop_request == "save"
    services.stop_run(run=run)
    assert "Resume" in staff_client.get(run.get_absolute_url()).content.decode()
    answer = staff_client.post(reverse("training:resume", args=[run.pk]))
    assert answer.url == run.get_absolute_url()
    assert TrainingRun.objects.get().state == State.QUEUED


def test_a_refusal_is_shown_on_the_page(staff_client: Any, run: TrainingRun) -> None:
    answer = staff_client.post(reverse("training:resume", args=[run.pk]), follow=True)
    assert "Only a stopped or failed run can be resumed" in answer.content.decode()
    answer = staff_client.post(reverse("training:stop", args=[run.pk]), {"how": "explode"}, follow=True)
    assert "Choose save or discard." in answer.content.decode()


def test_staff_take_the_next_step(staff_client: Any, staff: Any, make_checkpoint: Any) -> None:
    make_checkpoint("init")
    shown = re.search(r'name="shown" value="([^"]+)"', staff_client.get(reverse("stages:home")).content.decode())
    assert shown
    answer = staff_client.post(reverse("training:next_step"), {"shown": shown[1]})
    assert answer.url == reverse("stages:home")
    queued = TrainingRun.objects.get()
    assert (queued.stage, queued.preset, queued.requested_by) == ("pretrain", "smoke", staff)
    answer = staff_client.post(reverse("training:next_step"), {"taste": "louder"}, follow=True)
    assert "choose one of shorter, friendlier, example, list" in answer.content.decode()
    answer = staff_client.post(reverse("training:next_step"), {"shown": shown[1]}, follow=True)
    assert "the next step is another one by now: Pre-training is queued." in answer.content.decode()


# -- the admin -----------------------------------------------------------------------------------

ADD = "admin:training_trainingrun_add"


def test_the_admin_shows_an_estimate_then_starts(staff_client: Any, staff: Any, make_checkpoint: Any) -> None:
    old, new = make_checkpoint("pretrain", name="Old reader"), make_checkpoint("pretrain", name="New reader")
    make_checkpoint("sft", name="Talker")
    address = reverse(ADD) + "?stage=sft"
    form = staff_client.get(address).content.decode()
    assert "Old reader" in form
    assert "reward_model" not in form
    assert f'<option value="{new.pk}" selected>' in form
    assert '<option value="smoke" selected>' in form
    answers = {"preset": "smoke", "parent": old.pk, "seed": 3}
    preview = staff_client.post(address, {**answers, "estimate": "1"}).content.decode()
    assert "Memory" in preview
    assert "no train worker was measured yet" in preview
    assert f"--parent {old.pk} --seed 3" in preview
    assert not TrainingRun.objects.exists()
    started = staff_client.post(address, {**answers, "start": "1"})
    queued = TrainingRun.objects.get()
    assert started.url == queued.get_absolute_url()
    assert (queued.stage, queued.parent, queued.seed, queued.requested_by) == ("sft", old, 3, staff)


def test_the_estimate_uses_the_measurement_and_then_experience(staff_client: Any, make_checkpoint: Any) -> None:
    parent = make_checkpoint("pretrain")
    figures = {"cpu": "Abacus 2000", "matmul_gflops": {"float32": 50.0, "bfloat16": 10.0}}
    Machine.objects.create(node="train@there", figures=figures, threads=1, seen_at=timezone.now())
    address = reverse(ADD) + "?stage=sft"
    answers = {"preset": "smoke", "parent": parent.pk, "seed": 0, "estimate": "1"}
    assert "Abacus 2000" in staff_client.post(address, answers).content.decode()
    done = services.queue_run(stage="sft", preset="smoke", parent=parent)
    TrainingRun.objects.update(
        state=State.DONE, attempt=1, started_at=done.created_at, finished_at=done.created_at.replace(microsecond=0)
    )
    assert "what the last such run took here" in staff_client.post(address, answers).content.decode()


def test_the_admin_refuses_with_the_reason_in_the_form(staff_client: Any, make_checkpoint: Any) -> None:
    sft = make_checkpoint("sft")
    pretrained = make_checkpoint("pretrain")
    cases = [
        ("reward", {"preset": "smoke", "parent": sft.pk, "votes": "all", "seed": 0}, "no votes to learn from"),
        ("sft", {"preset": "enormous", "parent": pretrained.pk, "seed": 0}, "enormous is not one of the"),
        ("ppo", {"preset": "smoke", "parent": pretrained.pk, "seed": 0}, "needs a checkpoint of reward model"),
        ("grpo", {"preset": "smoke", "parent": pretrained.pk, "seed": 0}, "not one of the available choices"),
        ("sft", {"preset": "small", "parent": pretrained.pk, "seed": 0}, "choose smoke"),
        ("sft", {"preset": "smoke", "parent": pretrained.pk, "seed": -1}, "greater than or equal to 0"),
    ]
    for stage, answers, reason in cases:
        for step in ("estimate", "start"):
            page = staff_client.post(reverse(ADD) + f"?stage={stage}", {**answers, step: "1"})
            assert reason in page.content.decode()
    assert not TrainingRun.objects.exists()


def test_the_admin_refuses_to_start_twice(staff_client: Any, make_checkpoint: Any) -> None:
    parent = make_checkpoint("pretrain")
    answers = {"preset": "smoke", "parent": parent.pk, "seed": 0, "start": "1"}
    staff_client.post(reverse(ADD) + "?stage=sft", answers)
    again = staff_client.post(reverse(ADD) + "?stage=sft", answers)
    assert "already queued or running" in again.content.decode()
    assert TrainingRun.objects.count() == 1


def test_the_admin_shows_doubts_beside_the_checkbox_that_overrules_them(
    staff_client: Any, make_checkpoint: Any
) -> None:
    sft = make_checkpoint("sft")
    judge = make_checkpoint("reward", parent=sft, metrics=DOUBTFUL)
    address = reverse(ADD) + "?stage=ppo"
    assert "overrule_doubts" not in staff_client.get(address).content.decode()
    answers = {"preset": "smoke", "parent": sft.pk, "reward_model": judge.pk, "seed": 0}
    preview = staff_client.post(address, {**answers, "estimate": "1"}).content.decode()
    assert "could be luck" in preview
    assert 'name="overrule_doubts"' in preview
    refused = staff_client.post(address, {**answers, "start": "1"}).content.decode()
    assert "Tick this to go on" in refused
    assert "Start the run" in refused  # one tick and one press away
    assert not TrainingRun.objects.exists()
    staff_client.post(address, {**answers, "overrule_doubts": "on", "start": "1"})
    assert "could be luck" in TrainingRun.objects.get().overruled


def test_the_admin_offers_grpo_the_judge_of_its_line_and_takes_none(staff_client: Any, make_checkpoint: Any) -> None:
    sft = make_checkpoint("sft")
    address = reverse(ADD) + "?stage=grpo"
    answers = {"preset": "smoke", "parent": sft.pk, "seed": 0, "estimate": "1"}
    assert "Memory" in staff_client.post(address, answers).content.decode()  # without any reward model
    judge, other = (make_checkpoint("reward", parent=sft) for _ in range(2))
    ppo = make_checkpoint("ppo", parent=sft)
    TrainingRun.objects.create(
        stage="ppo", preset="smoke", parent=sft, reward_model=judge, checkpoint=ppo, state="done"
    )
    form = staff_client.get(address).content.decode()
    assert f'<option value="{judge.pk}" selected>' in form
    assert f'<option value="{other.pk}">' in form
    staff_client.post(address, {**answers, "parent": ppo.pk, "reward_model": "", "start": "1"})
    assert TrainingRun.objects.get(stage="grpo").reward_model is None


@pytest.mark.parametrize("stage", ["", "init", "reward", "ppo", "grpo", "nonsense"])
def test_the_start_form_is_there_for_every_stage(staff_client: Any, db: None, stage: str) -> None:
    assert staff_client.get(reverse(ADD) + f"?stage={stage}").status_code == 200


def test_the_admin_lists_and_shows_but_never_edits(staff_client: Any, run: TrainingRun) -> None:
    assert f"Run {run.pk}" in staff_client.get(reverse("admin:training_trainingrun_changelist")).content.decode()
    address = reverse("admin:training_trainingrun_change", args=[run.pk])
    page = staff_client.get(address).content.decode()
    assert "Stop and save" in page
    assert "Answers are getting longer." in page
    assert "_save" not in page
    assert staff_client.post(address, {"state": "done"}).status_code == 403
    assert staff_client.post(reverse("admin:training_trainingrun_delete", args=[run.pk])).status_code == 403
    assert TrainingRun.objects.get().state == State.RUNNING


@pytest.mark.parametrize("who", ["client", "visitor_client", "alice_client"])
def test_the_admin_is_for_staff(request: Any, who: str, run: TrainingRun) -> None:
    for name, arguments in ((ADD, []), ("admin:training_trainingrun_change", [run.pk])):
        answer = request.getfixturevalue(who).get(reverse(name, args=arguments))
        assert answer.status_code == 302
        assert "login" in answer.url


# -- the command ---------------------------------------------------------------------------------


def test_the_train_command_queues_from_the_usual_checkpoint(make_checkpoint: Any, capsys: Any) -> None:
    parent = make_checkpoint("pretrain")
    call_command("train", "sft", "--seed", "5")
    queued = TrainingRun.objects.get()
    assert (queued.parent, queued.preset, queued.seed) == (parent, "smoke", 5)
    assert queued.get_absolute_url() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["dreaming"], "Unknown stage 'dreaming'"),
        (["sft"], "sft needs a parent checkpoint"),
        (["sft", "--parent", "4711"], "There is no checkpoint 4711"),
        (["init", "--preset", "enormous"], "Unknown preset 'enormous'"),
        (["init", "--seed=-1"], "The seed must be a number from 0"),
        (["init", f"--seed={2**40}"], "The seed must be a number from 0"),
    ],
)
def test_the_train_command_refuses_in_one_line(db: None, arguments: list[str], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        call_command("train", *arguments)


def test_the_train_command_overrules_doubts_only_when_told_to(make_checkpoint: Any) -> None:
    sft = make_checkpoint("sft")
    make_checkpoint("reward", parent=sft, metrics=DOUBTFUL)
    with pytest.raises(CommandError, match=r"could be luck\..* by --overrule-doubts"):
        call_command("train", "ppo")
    call_command("train", "ppo", "--overrule-doubts")
    assert TrainingRun.objects.get().overruled


def test_the_train_command_gives_grpo_the_judge_of_the_parent_it_is_told(make_checkpoint: Any) -> None:
    sft = make_checkpoint("sft")
    judges = [make_checkpoint("reward", parent=sft) for _ in range(2)]
    for judge in judges:
        made = make_checkpoint("ppo", parent=sft, name=f"by {judge.pk}")
        TrainingRun.objects.create(
            stage="ppo", preset="smoke", parent=sft, reward_model=judge, checkpoint=made, state="done"
        )
    call_command("train", "grpo", "--parent", str(TrainingRun.objects.get(reward_model=judges[0]).checkpoint_id))
    assert TrainingRun.objects.get(stage="grpo").reward_model == judges[0]
    call_command("train", "grpo", "--parent", str(sft.pk))
    assert TrainingRun.objects.get(stage="grpo", parent=sft).reward_model is None


def test_the_train_command_without_redis_says_so_in_one_line(make_checkpoint: Any, settings: Any) -> None:
    make_checkpoint("pretrain")
    settings.REDIS_URL = "unix:///nowhere/redis.sock"
    with pytest.raises(CommandError, match=r"Redis does not answer, so run \d+.* it stays queued"):
        call_command("train", "sft", "--wait")
    assert TrainingRun.objects.get().state == State.QUEUED


# -- the socket ----------------------------------------------------------------------------------


async def connect(path: str) -> ApplicationCommunicator:
    address, _, query = path.partition("?")
    scope = {
        "type": "websocket",
        "path": address,
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost"), (b"origin", b"http://localhost")],
        "subprotocols": [],
    }
    socket = ApplicationCommunicator(application, scope)
    await socket.send_input({"type": "websocket.connect"})
    assert (await socket.receive_output(timeout=10))["type"] == "websocket.accept"
    return socket


async def disconnect(socket: ApplicationCommunicator) -> None:
    await socket.send_input({"type": "websocket.disconnect", "code": 1000})
    await socket.wait(timeout=10)


async def receive(socket: ApplicationCommunicator) -> dict[str, Any]:
    message = await socket.receive_output(timeout=10)
    frame: dict[str, Any] = json.loads(message["text"])
    return frame


@pytest.mark.django_db(transaction=True)
async def test_the_socket_goes_on_where_the_page_stopped(run: TrainingRun) -> None:
    position = await sync_to_async(streams.last_id)(run.stream_key)
    socket = await connect(f"/ws/runs/{run.pk}/?after={position}")
    assert (await receive(socket))["type"] == "state"
    record = sync_to_async(services.record_event)
    await record(run=run, event=Measured(step=3, values={"loss": 2.5}))
    frame = await receive(socket)
    assert (frame["type"], frame["step"], frame["values"]) == ("metrics", 3, {"loss": 2.5})
    await disconnect(socket)
    await record(run=run, event=Measured(step=4, values={"loss": 2.25}))
    await sync_to_async(services.stop_run)(run=run)
    # Back again with the id it saw last: the end has come meanwhile, and the page will be fetched anew.
    socket = await connect(f"/ws/runs/{run.pk}/?after={frame['id']}")
    last = await receive(socket)
    assert (last["type"], last["state"]) == ("end", State.STOPPED)
    assert (await socket.receive_output(timeout=10))["type"] == "websocket.close"


@pytest.mark.django_db(transaction=True)
async def test_the_socket_misses_nothing_between_two_connections(run: TrainingRun) -> None:
    position = await sync_to_async(streams.last_id)(run.stream_key)
    for step in (3, 4, 5):
        await sync_to_async(services.record_event)(run=run, event=Measured(step=step, values={"loss": 1.0}))
    socket = await connect(f"/ws/runs/{run.pk}/?after={position}")
    assert (await receive(socket))["type"] == "state"
    assert [(await receive(socket))["step"] for _ in range(3)] == [3, 4, 5]
    await disconnect(socket)


@pytest.mark.django_db(transaction=True)
async def test_a_quiet_socket_notices_what_only_the_database_knows(
    run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "QUIET_S", 0.05)
    socket = await connect(f"/ws/runs/{run.pk}/?after={await sync_to_async(streams.last_id)(run.stream_key)}")
    await receive(socket)
    await sync_to_async(TrainingRun.objects.update)(state=State.FAILED, error="The log is lost.")
    while (frame := await receive(socket))["type"] != "end":
        assert frame["type"] == "state"
    assert frame["state"] == State.FAILED


@pytest.mark.django_db(transaction=True)
async def test_the_socket_of_no_run_closes() -> None:
    socket = await connect("/ws/runs/4711/")
    assert (await socket.receive_output(timeout=10))["code"] == REFUSED


@pytest.mark.django_db(transaction=True)
async def test_a_socket_whose_database_hiccups_closes_to_be_opened_again(
    run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(event: Any) -> Any:
        raise DatabaseError("server closed the connection unexpectedly")

    monkeypatch.setattr(consumers, "QUIET_S", 0.05)
    socket = await connect(f"/ws/runs/{run.pk}/?after={await sync_to_async(streams.last_id)(run.stream_key)}")
    assert (await receive(socket))["type"] == "state"
    monkeypatch.setattr(consumers, "state_event", fail)
    while (output := await socket.receive_output(timeout=10))["type"] == "websocket.send":
        pass  # what was on its way
    assert (output["type"], output["code"]) == ("websocket.close", TRY_AGAIN)
    await disconnect(socket)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("after", ["$", "%00", "1-1-1", "' OR 1", "9" * 99, "9" * 20, "%D9%A1"])
async def test_a_bad_position_starts_from_the_beginning(run: TrainingRun, after: str) -> None:
    socket = await connect(f"/ws/runs/{run.pk}/?after={after}")
    await receive(socket)
    assert (await receive(socket))["type"] == "state"
    await disconnect(socket)


@pytest.mark.django_db(transaction=True)
async def test_talking_to_the_socket_is_an_error_it_survives(run: TrainingRun) -> None:
    position = await sync_to_async(streams.last_id)(run.stream_key)
    socket = await connect(f"/ws/runs/{run.pk}/?after={position}")
    await receive(socket)
    await socket.send_input({"type": "websocket.receive", "text": "{["})
    assert (await receive(socket))["type"] == "error"
    await socket.send_input({"type": "websocket.receive", "bytes": b"\x00\xff"})
    assert (await receive(socket))["type"] == "error"
    await sync_to_async(services.add_log)(run=run, text="still here")
    assert (await receive(socket))["text"] == "still here"
    await disconnect(socket)
    assert await LogLine.objects.filter(text="still here").acount() == 1

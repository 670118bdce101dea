"""Queueing, claiming, stopping, resuming and reaping runs, and what each of them refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from tests.threads import database_thread
from tests.webapp import fake_trainer
from tests.webapp.arena_factory import make_pair, make_vote
from trainer.config import to_dict
from trainer.presets import get_preset
from webapp.arena.models import Prompt, Vote
from webapp.chat.models import Conversation, Message
from webapp.live import streams
from webapp.training import services
from webapp.training.charts import sample_history
from webapp.training.events import Logged, Measured, Practised, Sampled, Started, parse_line
from webapp.training.models import LogLine, Metric, Sample, TrainingRun

State = TrainingRun.State


@pytest.fixture(autouse=True)
def _own_directories(settings: Any, tmp_path: Path) -> None:
    """Run numbers repeat from test to test; their directories must not."""
    settings.DATA_DIR = tmp_path
    settings.CHECKPOINT_DIR, settings.RUN_DIR = tmp_path / "checkpoints", tmp_path / "runs"


@pytest.fixture
def queue_sft(make_checkpoint: Callable[..., Any]) -> Callable[..., TrainingRun]:
    """`queue_sft()`: a queued smoke run of the sft stage."""

    def queue(**arguments: Any) -> TrainingRun:
        parent = arguments.pop("parent", None) or make_checkpoint("pretrain")
        return services.queue_run(stage="sft", preset="smoke", parent=parent, **arguments)

    return queue


@pytest.fixture
def claimed(queue_sft: Callable[..., TrainingRun]) -> TrainingRun:
    """A run that a worker has just claimed."""
    run = services.claim_run(run_id=queue_sft().pk, worker="first")
    assert run is not None
    return run


def expire_lease(run: TrainingRun) -> None:
    TrainingRun.objects.filter(pk=run.pk).update(lease_until=timezone.now() - timedelta(seconds=1))


def run_number(run: TrainingRun) -> str:
    return f"{run.pk:04d}"


def state_of(run: TrainingRun) -> str:
    return TrainingRun.objects.values_list("state", flat=True).get(pk=run.pk)


# -- queueing ------------------------------------------------------------------------------------


def test_it_freezes_the_inputs_and_enqueues_after_commit(
    make_checkpoint: Any, enqueued: Any, django_capture_on_commit_callbacks: Any
) -> None:
    parent = make_checkpoint("pretrain")
    with django_capture_on_commit_callbacks(execute=True):
        run = services.queue_run(stage="sft", preset="smoke", parent=parent, seed=7)
        assert len(enqueued) == 0
    assert [task.args for task in enqueued.of("execute_run")] == [(run.pk,)]
    spec = json.loads((Path(settings.RUN_DIR) / str(run.pk) / "run.json").read_text())
    assert spec["parent"] == f"checkpoints/{parent.directory}"
    assert spec["parent_sha256"] == parent.weights_sha256
    assert spec["root"] == "../.."
    assert (spec["stage"], spec["preset"], spec["seed"], spec["votes"]) == ("sft", "smoke", 7, None)
    assert spec["config"] == to_dict(get_preset("smoke").sft) == run.config
    assert "threads" not in spec  # the machine that trains says how many
    assert run.inputs["parent"] == parent.weights_sha256
    assert not list(Path(settings.RUN_DIR).glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stage": "sft", "preset": "enormous"}, "Unknown preset 'enormous'"),
        ({"stage": "dreaming", "preset": "smoke"}, "Unknown stage 'dreaming'"),
        ({"stage": "ppo", "preset": "smoke"}, "ppo cannot start from a pretrain checkpoint; it needs sft"),
        ({"stage": "init", "preset": "smoke"}, "init cannot start from a pretrain checkpoint; it needs no parent"),
        ({"stage": "sft", "preset": "small"}, "reads 256; choose smoke"),
        ({"stage": "sft", "preset": "smoke", "seed": -1}, "seed must be a number from 0 to 2147483647, not -1"),
        ({"stage": "sft", "preset": "smoke", "seed": 2**40}, "seed must be a number from 0"),
    ],
)
def test_it_refuses_what_does_not_fit(make_checkpoint: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        services.queue_run(**arguments, parent=make_checkpoint("pretrain"))
    assert not TrainingRun.objects.exists()


def test_a_model_from_elsewhere_is_trained_by_a_recipe_that_fits_it(make_checkpoint: Any) -> None:
    imported = make_checkpoint("sft", preset="", parameters=500_000_000)
    assert services.usual_preset(imported) == "adapted-1b"
    with pytest.raises(ValueError, match=r"Preset tiny is for models raised here; .* Choose adapted-1b\."):
        services.queue_run(stage="sft", preset="tiny", parent=imported)
    run = services.queue_run(stage="sft", preset="adapted-1b", parent=imported)
    assert run.config["adapter_rank"] == 16
    child = make_checkpoint("grpo", preset="full-1b", parent=imported)
    assert services.usual_preset(child) == "full-1b"
    with pytest.raises(ValueError, match=r"Choose full-1b\."):
        services.queue_run(stage="grpo", preset="small", parent=child)


def test_it_refuses_a_stage_without_its_parent(db: None) -> None:
    with pytest.raises(ValueError, match="sft needs a parent checkpoint from stage pretrain"):
        services.queue_run(stage="sft", preset="smoke")


def test_it_refuses_a_reward_run_without_votes(make_checkpoint: Any) -> None:
    with pytest.raises(ValueError, match="no votes to learn from"):
        services.queue_run(stage="reward", preset="smoke", parent=make_checkpoint("sft"))


def test_it_refuses_ppo_without_a_fitting_reward_model(make_checkpoint: Any) -> None:
    sft, other = make_checkpoint("sft"), make_checkpoint("sft")
    with pytest.raises(ValueError, match="train the reward stage first"):
        services.queue_run(stage="ppo", preset="smoke", parent=sft)
    with pytest.raises(ValueError, match="is not a reward model"):
        services.queue_run(stage="ppo", preset="smoke", parent=sft, reward_model=other)
    stranger = make_checkpoint("reward", parent=other)
    with pytest.raises(ValueError, match="raised from other weights"):
        services.queue_run(stage="ppo", preset="smoke", parent=sft, reward_model=stranger)
    kin = make_checkpoint("reward", parent=sft)
    assert services.queue_run(stage="ppo", preset="smoke", parent=sft, reward_model=kin).reward_model == kin


DOUBTED = {
    "held_out_comparisons": 24,
    "held_out_prompts": 20,
    "agreement": 0.75,
    "length_only_agreement": 0.5,
    "beats_chance": False,
    "beats_length": True,
}


def test_it_refuses_ppo_with_a_doubted_reward_model_unless_a_person_overrules(make_checkpoint: Any) -> None:
    sft = make_checkpoint("sft")
    inputs: dict[str, Any] = {"preset": "smoke", "parent": sft}
    inputs["reward_model"] = make_checkpoint("reward", parent=sft, metrics=DOUBTED)
    with pytest.raises(
        services.RewardModelDoubted, match="75% of 24 held-out votes on 20 questions, which could be luck"
    ):
        services.queue_run(stage="ppo", **inputs)
    run = services.queue_run(stage="ppo", **inputs, overrule_doubts=True)
    assert "could be luck" in run.overruled
    assert json.loads((run.inputs_dir / "run.json").read_text())["overrule_doubts"] is True
    assert run.log.get().text.endswith("It starts all the same: a person overruled it.")


@pytest.mark.parametrize("prompts", [{"held_out_prompts": 6}, {}])
def test_it_refuses_ppo_with_a_reward_model_tested_on_a_handful_of_votes(make_checkpoint: Any, prompts: Any) -> None:
    """Right on all six, as the first round of a real site was; and one that an earlier version had let pass."""
    sft = make_checkpoint("sft")
    metrics = {"held_out_comparisons": 6, "agreement": 1.0, "beats_chance": True, "beats_length": True}
    judge = make_checkpoint("reward", parent=sft, metrics={**metrics, "length_only_agreement": 0.5, **prompts})
    with pytest.raises(services.RewardModelDoubted, match=r"100% of 6 held-out votes.*: too few to say"):
        services.queue_run(stage="ppo", preset="smoke", parent=sft, reward_model=judge)
    run = services.queue_run(stage="ppo", preset="smoke", parent=sft, reward_model=judge, overrule_doubts=True)
    assert "too few to say" in run.overruled


def test_it_overrules_only_what_there_is(make_checkpoint: Any) -> None:
    sft = make_checkpoint("sft")
    sure = make_checkpoint("reward", parent=sft, metrics={**DOUBTED, "beats_chance": True})
    run = services.queue_run(stage="ppo", preset="smoke", parent=sft, reward_model=sure, overrule_doubts=True)
    assert run.overruled == ""
    assert not run.log.exists()


def test_grpo_may_have_a_reward_model_to_measure_with(make_checkpoint: Any) -> None:
    sft = make_checkpoint("sft")
    judge = make_checkpoint("reward", parent=sft, metrics=DOUBTED)  # nothing is trained against it
    with pytest.raises(ValueError, match="is not a reward model"):
        services.queue_run(stage="grpo", preset="smoke", parent=sft, reward_model=sft)
    with pytest.raises(ValueError, match="only ppo and grpo do"):
        services.queue_run(stage="sft", preset="smoke", parent=make_checkpoint("pretrain"), reward_model=judge)
    run = services.queue_run(stage="grpo", preset="smoke", parent=sft, reward_model=judge)
    assert json.loads((run.inputs_dir / "run.json").read_text())["reward_model"] == f"checkpoints/{judge.directory}"
    assert run.inputs["reward_model"] == judge.weights_sha256


def test_it_counts_votes_and_not_lines(make_checkpoint: Any) -> None:
    sft = make_checkpoint("sft")
    for text in ("Plain.", "Two\u2028lines,\u0085or\x0cthree."):
        make_vote(make_pair(sft, texts=(text, "Another.")))
    run = services.queue_run(stage="reward", preset="smoke", parent=sft)
    assert run.votes_used == 2


def test_another_broken_rule_is_not_read_as_a_double_start(
    make_checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "check_run", lambda **arguments: None)
    with pytest.raises(IntegrityError), transaction.atomic():
        services.queue_run(stage="sft", preset="smoke", parent=make_checkpoint("pretrain"), seed=-1)
    assert not list(Path(settings.RUN_DIR).glob(".*"))


def test_it_refuses_to_start_the_same_twice(queue_sft: Any, make_checkpoint: Any) -> None:
    parent = make_checkpoint("pretrain")
    queue_sft(parent=parent)
    with pytest.raises(ValueError, match="already queued or running"):
        queue_sft(parent=parent)
    queue_sft(parent=make_checkpoint("pretrain"))  # another parent is another run


@pytest.mark.django_db(transaction=True)
def test_it_lets_one_of_many_starts_at_once_win(
    make_checkpoint: Any, enqueued: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = make_checkpoint("pretrain")
    checked = threading.Barrier(6)
    check_run = services.check_run

    def check_together(**arguments: Any) -> None:
        check_run(**arguments)
        checked.wait(timeout=30)  # all have looked and found nothing; only the database can tell now

    monkeypatch.setattr(services, "check_run", check_together)
    refused: list[str] = []

    def start() -> None:
        try:
            services.queue_run(stage="sft", preset="smoke", parent=parent)
        except ValueError as error:
            refused.append(str(error))

    threads = [database_thread(start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert TrainingRun.objects.count() == 1
    assert len(refused) == 5
    assert len(enqueued.of("execute_run")) == 1


# -- claiming ------------------------------------------------------------------------------------


def test_it_claims_a_run_once(queue_sft: Any) -> None:
    run = queue_sft()
    first = services.claim_run(run_id=run.pk, worker="first")
    assert first is not None
    assert (first.state, first.attempt, first.worker) == (State.RUNNING, 1, "first")
    assert services.claim_run(run_id=run.pk, worker="second") is None


@pytest.mark.django_db(transaction=True)
def test_it_lets_one_of_many_workers_claim(queue_sft: Any, enqueued: Any) -> None:
    run = queue_sft()
    together = threading.Barrier(6)
    claims: list[TrainingRun | None] = []

    def claim(name: str) -> None:
        together.wait(timeout=30)
        claims.append(services.claim_run(run_id=run.pk, worker=name))

    threads = [database_thread(claim, f"worker {i}") for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claims) == 6
    assert sum(claim is not None for claim in claims) == 1


@pytest.mark.parametrize("state", [State.DONE, State.STOPPED, State.FAILED, State.DISCARDED])
def test_it_does_not_claim_what_is_over(queue_sft: Any, state: str) -> None:
    run = queue_sft()
    TrainingRun.objects.filter(pk=run.pk).update(state=state)
    assert services.claim_run(run_id=run.pk, worker="late") is None
    assert state_of(run) == state


def test_it_fences_the_writes_of_a_worker_that_lost_its_lease(claimed: TrainingRun) -> None:
    expire_lease(claimed)
    second = services.claim_run(run_id=claimed.pk, worker="second")
    assert second is not None
    assert second.attempt == 2
    writes: list[Callable[[], Any]] = [
        lambda: services.renew_lease(claimed),
        lambda: services.wanted_stop(claimed),
        lambda: services.record_event(run=claimed, event=Started(step=0, total_steps=9)),
        lambda: services.record_event(run=claimed, event=Measured(step=5, values={"loss": 1.0})),
        lambda: services.record_event(run=claimed, event=Sampled(step=5, samples=[])),
        lambda: services.record_event(run=claimed, event=Logged(step=5, text="I am still here", level="info")),
        lambda: services.finish_run(run=claimed),
        lambda: services.fail_run(run=claimed, error="never mind"),
        lambda: services.stop_run(run=claimed),
        lambda: services.drop_run(run=claimed),
        lambda: services.release_run(run=claimed, reason="leaving"),
    ]
    log_before = LogLine.objects.count()
    for write in writes:
        with pytest.raises(services.LeaseLostError):
            write()
    assert state_of(claimed) == State.RUNNING
    assert not Metric.objects.exists()
    assert LogLine.objects.count() == log_before


# -- recording -----------------------------------------------------------------------------------


def test_it_keeps_events_and_passes_them_on(claimed: TrainingRun) -> None:
    services.record_event(run=claimed, event=Started(step=0, total_steps=10))
    services.record_event(run=claimed, event=Measured(step=1, values={"loss": 2.0}))
    sample = {"prompt": "Hello?", "text": "Yes.", "reward": 1.0}
    services.record_event(run=claimed, event=Sampled(step=1, samples=[sample]))
    services.record_event(run=claimed, event=Logged(step=1, text="Longer and longer.", level="alarm"))
    row = TrainingRun.objects.get(pk=claimed.pk)
    assert (row.step, row.total_steps, row.percent) == (1, 10, 10)
    assert Metric.objects.get().values == {"loss": 2.0}
    assert Sample.objects.get().extra == {"reward": 1.0}
    events = [event for _, event in streams.read(claimed.stream_key)]
    assert [event["type"] for event in events] == ["state", "state", "log", "metrics", "samples", "alarm"]
    assert events[3]["values"] == {"loss": 2.0}
    assert events[4] == {"type": "samples", "step": 1}  # a page fetches itself again


def test_it_replaces_the_steps_a_resumed_run_repeats(claimed: TrainingRun) -> None:
    for loss, text in ((2.0, "first"), (1.5, "again")):
        services.record_event(run=claimed, event=Measured(step=4, values={"loss": loss}))
        services.record_event(run=claimed, event=Sampled(step=4, samples=[{"prompt": "Hello?", "text": text}]))
    assert Metric.objects.get().values == {"loss": 1.5}
    assert Sample.objects.get().text == "again"


@pytest.fixture
def claimed_reward(make_checkpoint: Callable[..., Any]) -> TrainingRun:
    """A reward run that a worker has just claimed, on one vote cast at /vote/."""
    parent = make_checkpoint("sft")
    make_vote(make_pair(parent))
    queued = services.queue_run(stage="reward", preset="smoke", parent=parent)
    run = services.claim_run(run_id=queued.pk, worker="first")
    assert run is not None
    return run


def held_out(prompt: str, *, text: str = "Chosen.", rejected: str = "Rejected.") -> dict[str, Any]:
    return {"prompt": prompt, "text": text, "rejected": rejected, "outcome": "win", "reward": 1.0}


def test_a_question_from_somebodys_chat_is_shown_to_nobody_else(claimed_reward: TrainingRun, visitor: Any) -> None:
    checkpoint = claimed_reward.parent
    chat = Conversation.objects.create(visitor=visitor, checkpoint=checkpoint)
    for text in ("Is this rash serious?", "What is an LLM?", "May others be asked this?"):
        Message.objects.create(conversation=chat, role="user", text=text)
    Prompt.objects.create(text="What is an LLM?", source=Prompt.Source.SHIPPED)
    Prompt.objects.create(text="May others be asked this?", source=Prompt.Source.CHAT)
    make_pair(checkpoint, texts=("You are Ada.", "I do not know."), from_chat=True)  # type: ignore[arg-type]
    samples = [
        held_out("Is this rash serious?"),
        held_out("What is an LLM?"),
        held_out("What is an LLM?", rejected="You are Ada."),
        held_out("May others be asked this?"),
        held_out("A question of an imported vote", text=""),
    ]
    services.record_event(run=claimed_reward, event=Sampled(step=1, samples=samples))
    kept = Sample.objects.values_list("prompt", "extra__rejected")
    assert list(kept) == [("What is an LLM?", "Rejected."), ("A question of an imported vote", "Rejected.")]
    assert "rash" not in json.dumps(streams.read(claimed_reward.stream_key))


def test_other_stages_show_what_they_like(claimed: TrainingRun, visitor: Any) -> None:
    chat = Conversation.objects.create(visitor=visitor, checkpoint=claimed.parent)
    Message.objects.create(conversation=chat, role="user", text="Hello?")  # the corpus asks so, too
    services.record_event(run=claimed, event=Sampled(step=1, samples=[{"prompt": "Hello?", "text": "Yes."}]))
    assert Sample.objects.count() == 1


def test_a_finished_reward_model_leaves_the_votes_it_has_not_seen(claimed_reward: TrainingRun) -> None:
    fresh = Vote.objects.for_training().since_last_reward_model
    assert fresh().count() == 1
    assert claimed_reward.parent is not None
    late = make_vote(make_pair(claimed_reward.parent))  # while it trains
    fake_trainer.write_checkpoint(claimed_reward.output_dir, "reward", "smoke")
    services.finish_run(run=claimed_reward)
    old = make_vote(make_pair(claimed_reward.parent), created_at=timezone.now() - timedelta(days=400))  # imported
    assert set(fresh()) == {late, old}


def test_it_goes_on_when_redis_is_away(claimed: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(key: str, event: Any) -> str:
        raise streams.redis.ConnectionError("no route")

    monkeypatch.setattr(streams, "append", unreachable)
    services.record_event(run=claimed, event=Measured(step=1, values={"loss": 2.0}))
    assert Metric.objects.count() == 1


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"3",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"type": "metrics", "step": -1, "values": {}}',
        b'{"type": "metrics", "step": true, "values": {}}',
        b'{"type": "metrics", "step": 99999999999, "values": {}}',
        b'{"type": "metrics", "step": 1, "values": [1]}',
        b'{"type": "metrics", "step": 1, "values": {"loss": 1' + b"0" * 400 + b"}}",
        b'{"type": "samples", "step": 1, "samples": [{"prompt": "only"}]}',
        b'{"type": "log", "text": 3}',
        b'{"type": "start", "step": 0}',
        b'{"type": ["log"], "text": "x"}',
        b'{"type": "log", "text": "' + b"x" * 1_000_001 + b'"}',
        b"[" * 100_000,
    ],
)
def test_it_ignores_what_is_no_event(line: bytes) -> None:
    assert parse_line(line) is None


def test_it_reads_events_and_drops_figures_that_are_not_finite() -> None:
    event = parse_line(
        b'{"type": "metrics", "step": 3, "values": {"loss": NaN, "kl": Infinity, "reward": 1, "x": "y"}}'
    )
    assert event == Measured(step=3, values={"reward": 1}, not_finite=["loss", "kl", "x"])
    sampled = parse_line(
        b'{"type": "samples", "step": 1, "samples": [{"prompt": "p", "text": "a\\u0000b", "reward": NaN}]}'
    )
    assert sampled == Sampled(step=1, samples=[{"prompt": "p", "text": "ab", "reward": None}])


def test_it_alarms_about_figures_that_are_not_finite(claimed: TrainingRun) -> None:
    services.record_event(run=claimed, event=Measured(step=2, values={}, not_finite=["loss"]))
    assert LogLine.objects.get(level=LogLine.Level.ALARM).text == "Not a finite number: loss."


def test_it_thins_long_curves_but_keeps_evaluations_and_both_ends(claimed: TrainingRun) -> None:
    Metric.objects.bulk_create(Metric(run=claimed, step=step, values={"loss": 1.0}) for step in range(1, 2002))
    Sample.objects.create(run=claimed, step=1234, prompt="p", text="t")
    steps = set(Metric.objects.for_chart(claimed, points=100).values_list("step", flat=True))
    assert {1, 1234, 2001} <= steps
    assert 90 <= len(steps) <= 105


# -- stopping and resuming -----------------------------------------------------------------------


@pytest.mark.parametrize(("how", "state"), [("save", State.STOPPED), ("discard", State.DISCARDED)])
def test_it_ends_a_queued_run_at_once(queue_sft: Any, how: str, state: str) -> None:
    run = queue_sft()
    services.request_stop(run=run, how=how)
    assert state_of(run) == state
    assert services.claim_run(run_id=run.pk, worker="late") is None


def test_it_asks_a_running_run_and_discard_wins_over_save(claimed: TrainingRun) -> None:
    services.request_stop(run=claimed, how="save")
    assert services.wanted_stop(claimed) == "save"
    services.request_stop(run=claimed, how="save")  # twice is once
    services.request_stop(run=claimed, how="discard")
    services.request_stop(run=claimed, how="save")
    assert services.wanted_stop(claimed) == "discard"
    assert LogLine.objects.filter(text__startswith="Asked").count() == 2


@pytest.mark.parametrize("how", ["save", "discard"])
def test_a_stop_asked_for_while_a_worker_claims_is_not_lost(
    queue_sft: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = queue_sft()
    move = services._move

    def claimed_meanwhile(*arguments: Any, **values: Any) -> bool:
        services.claim_run(run_id=run.pk, worker="quick")
        return move(*arguments, **values)

    monkeypatch.setattr(services, "_move", claimed_meanwhile)
    services.request_stop(run=run, how=how)
    run.refresh_from_db()
    assert (run.state, run.stop_request) == (State.RUNNING, how)


def test_it_refuses_to_stop_what_is_over_or_unclear(claimed: TrainingRun) -> None:
    with pytest.raises(ValueError, match="Choose save or discard"):
        services.request_stop(run=claimed, how="explode")
    TrainingRun.objects.update(state=State.DONE)
    for how in ("save", "discard"):
        with pytest.raises(ValueError, match="already over"):
            services.request_stop(run=claimed, how=how)
    assert state_of(claimed) == State.DONE


def test_it_discards_a_stopped_run_with_its_files(claimed: TrainingRun) -> None:
    services.stop_run(run=claimed)
    claimed.output_dir.mkdir(parents=True)
    services.request_stop(run=claimed, how="discard")
    assert state_of(claimed) == State.DISCARDED
    assert not claimed.output_dir.exists()


def test_it_resumes_stopped_and_failed_runs(
    claimed: TrainingRun, enqueued: Any, django_capture_on_commit_callbacks: Any
) -> None:
    services.fail_run(run=claimed, error="Out of memory.")
    with django_capture_on_commit_callbacks(execute=True):
        services.resume_run(run=claimed)
    assert [task.args for task in enqueued.of("execute_run")] == [(claimed.pk,)]
    again = services.claim_run(run_id=claimed.pk, worker="second")
    assert again is not None
    assert (again.attempt, again.error, again.finished_at) == (2, "", None)
    assert (again.directory, again.earlier_directories) == (
        f"sft-{run_number(claimed)}-2",
        [f"sft-{run_number(claimed)}-1", f"sft-{run_number(claimed)}"],
    )


def test_it_refuses_to_resume(claimed: TrainingRun, queue_sft: Any) -> None:
    with pytest.raises(ValueError, match="Only a stopped or failed run"):
        services.resume_run(run=claimed)
    services.stop_run(run=claimed)
    successor = queue_sft(parent=claimed.parent)
    with pytest.raises(ValueError, match="already queued or running"):
        services.resume_run(run=claimed)
    assert state_of(claimed) == State.STOPPED
    services.request_stop(run=successor, how="discard")
    (claimed.inputs_dir / "run.json").unlink()
    with pytest.raises(ValueError, match="frozen inputs are gone"):
        services.resume_run(run=claimed)


# -- dead workers --------------------------------------------------------------------------------


def test_it_gives_a_dead_workers_run_back(
    claimed: TrainingRun, enqueued: Any, django_capture_on_commit_callbacks: Any
) -> None:
    assert services.reap_runs() == 0  # its worker lives
    assert state_of(claimed) == State.RUNNING
    expire_lease(claimed)
    assert services.reap_runs() == 1
    assert state_of(claimed) == State.INTERRUPTED
    assert [task.args for task in enqueued.of("execute_run")] == [(claimed.pk,)]
    again = services.claim_run(run_id=claimed.pk, worker="second")
    assert again is not None
    assert again.attempt == 2


@pytest.mark.parametrize(("how", "state"), [("save", State.STOPPED), ("discard", State.DISCARDED)])
def test_it_honours_a_stop_whose_worker_died(claimed: TrainingRun, how: str, state: str) -> None:
    services.request_stop(run=claimed, how=how)
    expire_lease(claimed)
    services.reap_runs()
    assert state_of(claimed) == state


def test_it_gives_up_on_a_run_that_keeps_killing_its_worker(queue_sft: Any, enqueued: Any) -> None:
    run = queue_sft()
    for attempt in range(services.MAX_INTERRUPTIONS):
        claimed = services.claim_run(run_id=run.pk, worker=f"worker {attempt}")
        assert claimed is not None
        expire_lease(claimed)
        services.reap_runs()
    run.refresh_from_db()
    assert run.state == State.FAILED
    assert "died 5 times at step 0" in run.error


def test_it_never_gives_up_on_a_run_that_makes_progress(queue_sft: Any, enqueued: Any) -> None:
    run = queue_sft()
    for attempt in range(3 * services.MAX_INTERRUPTIONS):
        claimed = services.claim_run(run_id=run.pk, worker=f"worker {attempt}")
        assert claimed is not None
        services.record_event(run=claimed, event=Measured(step=attempt + 1, values={}))
        expire_lease(claimed)
        services.reap_runs()
    assert state_of(run) == State.INTERRUPTED


@pytest.mark.parametrize("state", [State.DONE, State.STOPPED, State.FAILED, State.DISCARDED])
def test_it_never_relabels_what_is_over(claimed: TrainingRun, state: str, enqueued: Any) -> None:
    TrainingRun.objects.update(state=state, lease_until=timezone.now() - timedelta(days=1))
    assert services.reap_runs() == 0
    assert state_of(claimed) == state
    assert len(enqueued) == 0


def test_it_sends_a_lost_message_again_but_does_not_pile_up(queue_sft: Any, enqueued: Any, redis_server: Any) -> None:
    run = queue_sft()
    redis_server.rpush("train", "another message")
    services.reap_runs()
    assert len(enqueued) == 0
    redis_server.delete("train")
    services.reap_runs()
    assert [task.args for task in enqueued.of("execute_run")] == [(run.pk,)]


def test_what_every_step_practised_on_stands_apart_from_evaluations(claimed: TrainingRun) -> None:
    def group(text: str) -> Practised:
        return Practised(step=1, samples=[{"prompt": "2 + 2?", "text": text, "advantage": 0.5}])

    services.record_event(run=claimed, event=group("3"))
    services.record_event(run=claimed, event=group("4"))  # after a resume

    assert list(Sample.objects.practice().values_list("step", "text")) == [(1, "4")]
    assert sample_history(claimed) == []
    services.record_event(run=claimed, event=Sampled(step=1, samples=[{"prompt": "Hello?", "text": "Yes."}]))
    assert [history.prompt for history in sample_history(claimed)] == ["Hello?"]
    assert list(Sample.objects.practice().values_list("step", "text")) == [(1, "4")]  # an evaluation leaves it alone
    services.record_event(run=claimed, event=Practised(step=2, samples=group("5").samples))
    assert [history.prompt for history in sample_history(claimed)] == ["Hello?"]


def test_only_who_holds_a_run_keeps_what_it_practised_on(claimed: TrainingRun) -> None:
    TrainingRun.objects.filter(pk=claimed.pk).update(attempt=claimed.attempt + 1)

    with pytest.raises(services.LeaseLostError):
        services.record_event(run=claimed, event=Practised(step=1, samples=[]))


def test_a_line_of_practice_is_read() -> None:
    line = b'{"type": "practice", "step": 3, "samples": [{"prompt": "p", "text": "t", "advantage": 1.0}]}'

    assert parse_line(line) == Practised(step=3, samples=[{"prompt": "p", "text": "t", "advantage": 1.0}])

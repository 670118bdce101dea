"""The walk through the stages: the first start, the owner's next step, the demo that walks alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from trainer.config import STAGES
from trainer.world.tastes import SimulatedVoter
from webapp.answers.models import Generation
from webapp.arena.models import Pair, Prompt, Vote
from webapp.arena.publishing import seed_prompts
from webapp.checkpoints.models import Checkpoint
from webapp.training import curriculum, services
from webapp.training.models import Curriculum, TrainingRun
from webapp.training.tasks import continue_simulated_votes, execute_run

from . import fake_trainer

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _own_site(settings: Any, tmp_path: Path) -> None:
    """A fresh data directory, the fake trainer and the quickest preset."""
    settings.DATA_DIR = tmp_path
    settings.DATA_DIR = tmp_path
    settings.CHECKPOINT_DIR, settings.RUN_DIR = tmp_path / "checkpoints", tmp_path / "runs"
    settings.CURRICULUM_PRESET = "smoke"
    settings.TRAINER_COMMAND = [sys.executable, fake_trainer.__file__, "good"]


@pytest.fixture
def work(enqueued: Any, django_capture_on_commit_callbacks: Any) -> Callable[[], int]:
    """Do what has been enqueued for training, and what that enqueues, until nothing is left."""
    tasks = {"execute_run": execute_run, "continue_simulated_votes": continue_simulated_votes}

    def until_idle() -> int:
        done = 0
        while enqueued.tasks:
            task = enqueued.tasks.pop(0)
            if function := tasks.get(task.name.rpartition(".")[2]):
                with django_capture_on_commit_callbacks(execute=True):
                    function(*task.args)
                answer_pairs()
                done += 1
        return done

    return until_idle


def answer_pairs() -> None:
    """Stand in for the generate worker: every answer that is waited for is written."""
    for number, generation in enumerate(Generation.objects.filter(state=Generation.State.QUEUED)):
        generation.text = "Yes! Happy to help." if number % 2 else "No."
        generation.state, generation.finish_reason = Generation.State.DONE, "end"
        generation.save()


def first_start(django_capture_on_commit_callbacks: Any, **flags: bool) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        curriculum.prepare_first_start(**{"demo": False, "curriculum": True, **flags})


def take_step(**choice: Any) -> curriculum.NextStep:
    """What a person does who has just loaded the home page."""
    return curriculum.perform_next_step(shown=curriculum.next_step().key, **choice)


@pytest.fixture
def collect_votes(make_checkpoint: Any, visitor: Any) -> Callable[[int], None]:
    """`collect_votes(12)`: that many votes on pairs of the newest instructed checkpoint."""

    def collect(count: int) -> None:
        checkpoint = Checkpoint.objects.current("sft")
        for number in range(count):
            a, b = (
                Generation.objects.create(
                    checkpoint=checkpoint,
                    messages=[{"role": "user", "content": f"Question {number}?"}],
                    text=text,
                    state=Generation.State.DONE,
                )
                for text in ("One.", "Another one.")
            )
            pair = Pair.objects.create(kind=Pair.Kind.SELF, state=Pair.State.READY, a=a, b=b)
            Vote.objects.create(pair=pair, visitor=visitor, choice=Vote.Choice.A)

    return collect


def test_the_first_start_writes_init_and_trains_up_to_sft(
    work: Any, django_capture_on_commit_callbacks: Any, settings: Any
) -> None:
    first_start(django_capture_on_commit_callbacks)
    assert [checkpoint.stage for checkpoint in Checkpoint.objects.all()] == ["init"]
    step = curriculum.next_step()
    assert (step.state, step.stage) == ("training", "pretrain")
    assert work() == 2
    assert list(TrainingRun.objects.order_by("id").values_list("stage", "state", "curriculum")) == [
        ("pretrain", "done", True),
        ("sft", "done", True),
    ]
    step = curriculum.next_step()
    assert (step.state, step.done, step.total, step.may_simulate) == ("votes", 0, settings.VOTES_PER_REWARD_MODEL, True)


def test_a_second_start_changes_nothing(work: Any, django_capture_on_commit_callbacks: Any) -> None:
    first_start(django_capture_on_commit_callbacks)
    work()
    first_start(django_capture_on_commit_callbacks)
    assert work() == 0
    assert Checkpoint.objects.filter(stage="init").count() == 1
    assert TrainingRun.objects.count() == 2


def test_a_start_after_a_kill_goes_on(
    work: Any, django_capture_on_commit_callbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_start(django_capture_on_commit_callbacks)
    with monkeypatch.context() as killed:
        killed.setattr(curriculum, "advance", lambda: None)  # dead between the run's end and the next step
        work()
    assert curriculum.next_step().state == "ready"
    first_start(django_capture_on_commit_callbacks)
    work()
    assert Checkpoint.objects.current("sft")


def test_without_a_curriculum_only_init_is_written(work: Any, django_capture_on_commit_callbacks: Any) -> None:
    first_start(django_capture_on_commit_callbacks, curriculum=False)
    assert work() == 0
    step = curriculum.next_step()
    assert (step.state, step.stage, step.is_action) == ("ready", "pretrain", True)


@pytest.mark.parametrize("before", [{"curriculum": False}, {"demo": True}])
def test_what_an_earlier_start_was_told_does_not_stick(
    work: Any, django_capture_on_commit_callbacks: Any, before: dict[str, bool]
) -> None:
    first_start(django_capture_on_commit_callbacks, **before)
    first_start(django_capture_on_commit_callbacks)
    assert Curriculum.objects.get().automatic == Curriculum.Automatic.START
    work()
    assert set(Checkpoint.objects.values_list("stage", flat=True)) == {"init", "pretrain", "sft"}


def test_before_the_first_start_it_says_so() -> None:
    assert curriculum.next_step().state == "starting"


def test_the_owner_walks_with_the_votes_of_people(
    work: Any, collect_votes: Any, django_capture_on_commit_callbacks: Any, owner: Any, settings: Any
) -> None:
    first_start(django_capture_on_commit_callbacks)
    work()
    collect_votes(12)
    with pytest.raises(ValueError, match="28 more votes are needed"):
        take_step()
    assert curriculum.next_step().done == 12
    collect_votes(settings.VOTES_PER_REWARD_MODEL - 12)
    for stage in ("reward", "ppo", "grpo"):
        step = curriculum.next_step()
        assert (step.state, step.stage) == ("ready", stage)
        with django_capture_on_commit_callbacks(execute=True):
            take_step(requested_by=owner)
        assert work() == 1
    runs = {run.stage: run for run in TrainingRun.objects.with_links()}
    assert runs["reward"].votes_used == settings.VOTES_PER_REWARD_MODEL
    assert len((runs["reward"].inputs_dir / "votes.jsonl").read_text().splitlines()) == runs["reward"].votes_used
    assert runs["ppo"].parent == runs["sft"].checkpoint
    assert runs["ppo"].reward_model == runs["reward"].checkpoint
    assert runs["grpo"].parent == runs["ppo"].checkpoint
    assert runs["grpo"].requested_by == owner
    assert runs["grpo"].reward_model == runs["reward"].checkpoint  # to measure the taste again
    assert runs["ppo"].overruled == ""  # nothing spoke against it
    assert curriculum.next_step().state == "done"
    with pytest.raises(ValueError, match="nothing to start"):
        take_step()


def test_the_demo_walks_every_stage_alone(work: Any, django_capture_on_commit_callbacks: Any) -> None:
    first_start(django_capture_on_commit_callbacks, demo=True)
    work()
    assert set(Checkpoint.objects.values_list("stage", flat=True)) == set(STAGES)
    assert curriculum.next_step().state == "done"
    assert set(Vote.objects.values_list("source", "taste")) == {("simulated", "shorter")}
    row = Curriculum.objects.get()
    assert (row.votes_wanted, row.voting_until, row.error) == (0, None, "")


def test_the_demo_overrules_doubts_by_itself_and_says_so(
    work: Any, django_capture_on_commit_callbacks: Any, settings: Any
) -> None:
    settings.TRAINER_COMMAND[-1] = "doubtful"
    first_start(django_capture_on_commit_callbacks, demo=True)
    work()
    ppo = TrainingRun.objects.get(stage="ppo")
    assert ppo.state == "done"
    assert "could be luck" in ppo.overruled
    assert ppo.log.filter(text__contains="this is a demo, and nobody is there to ask").count() == 1
    assert json.loads((ppo.inputs_dir / "run.json").read_text())["overrule_doubts"] is True


def test_the_demo_stops_at_votes_that_decide_nothing(
    work: Any, django_capture_on_commit_callbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimulatedVoter, "vote", lambda self, a, b: "tie")
    first_start(django_capture_on_commit_callbacks, demo=True)
    work()
    curriculum.advance()
    assert not TrainingRun.objects.filter(stage="reward").exists()
    assert "no taste to learn" in Curriculum.objects.get().error
    with pytest.raises(ValueError, match="no taste to learn"):
        take_step()


@pytest.fixture
def doubted(work: Any, collect_votes: Any, django_capture_on_commit_callbacks: Any, settings: Any) -> None:
    """A site whose first reward model beats neither chance nor length on four votes."""
    settings.TRAINER_COMMAND[-1] = "doubtful"
    first_start(django_capture_on_commit_callbacks)
    work()
    collect_votes(settings.VOTES_PER_REWARD_MODEL)
    with django_capture_on_commit_callbacks(execute=True):
        take_step()
    work()


def test_a_doubted_reward_model_is_a_choice_not_a_dead_end(
    doubted: None, work: Any, owner: Any, django_capture_on_commit_callbacks: Any
) -> None:
    step = curriculum.next_step()
    assert (step.state, step.stage, step.done, step.total, step.may_train_again) == ("doubted", "ppo", 0, 40, False)
    assert ["could be luck" in step.doubts[0], "would reach 100%" in step.doubts[1]] == [True, True]
    curriculum.advance()
    with pytest.raises(services.RewardModelDoubted, match="could be luck"):
        take_step(requested_by=owner)
    with pytest.raises(ValueError, match="40 more votes are needed"):
        take_step(requested_by=owner, again=True)  # there are no votes it has not learnt from
    assert not TrainingRun.objects.filter(stage="ppo").exists()
    with django_capture_on_commit_callbacks(execute=True):
        take_step(requested_by=owner, overrule_doubts=True)
    run = TrainingRun.objects.get(stage="ppo")
    assert run.overruled == " ".join(step.doubts)
    assert run.log.filter(text__endswith="a person overruled it.").exists()


def test_a_reward_model_right_on_a_handful_of_votes_does_not_go_on_by_itself(make_checkpoint: Any) -> None:
    parent = None
    for stage in ("init", "pretrain", "sft"):
        parent = make_checkpoint(stage, parent=parent)
    handful = {"held_out_comparisons": 6, "held_out_prompts": 6, "agreement": 1.0, "length_only_agreement": 0.5}
    make_checkpoint("reward", parent=parent, metrics={**handful, "beats_chance": True, "beats_length": True})
    step = curriculum.next_step()
    assert (step.state, step.stage) == ("doubted", "ppo")
    [doubt] = step.doubts
    assert "100% of 6 held-out votes on 6 questions: too few to say" in doubt
    with pytest.raises(services.RewardModelDoubted, match="too few to say"):
        take_step()


def test_a_choice_about_one_reward_model_does_not_overrule_another(
    doubted: None, make_checkpoint: Any, owner: Any
) -> None:
    shown = curriculum.next_step().key
    first = Checkpoint.objects.current("reward")
    assert first is not None
    make_checkpoint("reward", parent=first.parent, metrics=first.metrics)
    assert curriculum.next_step().state == "doubted"
    with pytest.raises(ValueError, match="the next step is another one by now"):
        curriculum.perform_next_step(shown=shown, requested_by=owner, overrule_doubts=True)
    assert not TrainingRun.objects.filter(stage="ppo").exists()


def test_more_votes_train_another_reward_model(
    doubted: None, work: Any, collect_votes: Any, owner: Any, django_capture_on_commit_callbacks: Any, settings: Any
) -> None:
    collect_votes(3)
    step = curriculum.next_step()
    assert (step.state, step.done, step.may_train_again) == ("doubted", 3, True)
    settings.TRAINER_COMMAND[-1] = "good"
    with django_capture_on_commit_callbacks(execute=True):
        take_step(requested_by=owner, again=True)
    work()
    assert TrainingRun.objects.filter(stage="reward").first().votes_used == settings.VOTES_PER_REWARD_MODEL + 3  # type: ignore[union-attr]
    step = curriculum.next_step()
    assert (step.state, step.stage, step.doubts) == ("ready", "ppo", ())


def test_a_simulated_voter_adds_to_the_votes_it_has_cast(
    doubted: None, work: Any, django_capture_on_commit_callbacks: Any
) -> None:
    for cast in (40, 80):
        with django_capture_on_commit_callbacks(execute=True):
            assert take_step(taste="shorter").state == "voting"
        work()
        assert Vote.objects.filter(taste="shorter").count() == cast
        assert curriculum.next_step().done == cast


def test_a_simulated_voter_can_stand_in(work: Any, django_capture_on_commit_callbacks: Any) -> None:
    first_start(django_capture_on_commit_callbacks)
    work()
    with pytest.raises(ValueError, match="Unknown taste 'louder'"):
        take_step(taste="louder")
    with django_capture_on_commit_callbacks(execute=True):
        step = take_step(taste="shorter")
    assert (step.state, step.total) == ("voting", 40)
    with pytest.raises(ValueError, match="at work already"):
        curriculum.start_simulated_votes(taste="shorter")
    work()
    assert Vote.objects.filter(taste="shorter").count() == 40
    assert not TrainingRun.objects.filter(stage="reward").exists()  # the owner decides when


def test_simulating_starts_nothing_else_once_people_have_voted_enough(
    work: Any, collect_votes: Any, django_capture_on_commit_callbacks: Any, settings: Any
) -> None:
    first_start(django_capture_on_commit_callbacks)
    work()
    shown = curriculum.next_step().key
    collect_votes(settings.VOTES_PER_REWARD_MODEL)
    for key in (shown, curriculum.next_step().key):
        with pytest.raises(ValueError, match="Start reward model"):
            curriculum.perform_next_step(shown=key, taste="shorter")
    assert not TrainingRun.objects.filter(stage="reward").exists()


def test_a_simulated_voter_that_cannot_vote_says_why(work: Any, django_capture_on_commit_callbacks: Any) -> None:
    first_start(django_capture_on_commit_callbacks)
    work()
    seed_prompts()
    Prompt.objects.update(active=False)
    with django_capture_on_commit_callbacks(execute=True):
        take_step(taste="shorter")
    work()
    step = curriculum.next_step()
    assert step.state == "votes"
    assert "prompts" in step.text


def test_a_lost_simulated_voter_is_started_again(
    work: Any, enqueued: Any, django_capture_on_commit_callbacks: Any
) -> None:
    first_start(django_capture_on_commit_callbacks)
    work()
    curriculum.start_simulated_votes(taste="example")
    with django_capture_on_commit_callbacks(execute=True):
        curriculum.resume_voting()
    assert len(enqueued.of("continue_simulated_votes")) == 0  # it is not late
    Curriculum.objects.update(voting_until=None)
    with django_capture_on_commit_callbacks(execute=True):
        curriculum.resume_voting()
    assert len(enqueued.of("continue_simulated_votes")) == 1


def test_a_failed_stage_waits_for_a_person(work: Any, django_capture_on_commit_callbacks: Any, settings: Any) -> None:
    settings.TRAINER_COMMAND[-1] = "crash"
    first_start(django_capture_on_commit_callbacks)
    assert work() == 1
    step = curriculum.next_step()
    assert (step.state, step.label, step.is_action) == ("failed", "Pre-training failed", False)
    assert step.run is not None
    assert step.url == step.run.get_absolute_url()
    curriculum.advance()
    assert TrainingRun.objects.count() == 1


def test_what_a_person_discarded_is_not_started_again(work: Any, django_capture_on_commit_callbacks: Any) -> None:
    first_start(django_capture_on_commit_callbacks)
    services.request_stop(run=TrainingRun.objects.get(), how="discard")
    curriculum.advance()
    assert TrainingRun.objects.count() == 1
    assert curriculum.next_step().is_action


def test_a_failure_to_write_init_is_one_clear_line(settings: Any) -> None:
    settings.TRAINER_COMMAND = [sys.executable, "-c", "import sys; sys.exit('no space left')"]
    with pytest.raises(CommandError, match="could not be written: no space left"):
        call_command("first_start")


def test_an_unknown_preset_is_one_clear_line(settings: Any) -> None:
    settings.CURRICULUM_PRESET = "enormous"
    with pytest.raises(CommandError, match="Unknown preset 'enormous'"):
        call_command("first_start", "--no-curriculum")


@pytest.fixture
def walked(make_checkpoint: Any) -> dict[str, Checkpoint]:
    """A site with every stage."""
    line: dict[str, Checkpoint] = {}
    parents = {"pretrain": "init", "sft": "pretrain", "reward": "sft", "ppo": "sft", "grpo": "ppo"}
    for stage in STAGES:
        line[stage] = make_checkpoint(stage, parent=line.get(parents.get(stage, "")))
    return line


def test_after_the_last_stage_it_waits_for_votes(walked: Any) -> None:
    step = curriculum.next_step()
    assert (step.state, step.is_action) == ("done", False)
    assert "So far there are none." in step.text


def test_new_votes_make_the_next_round(walked: Any, collect_votes: Any, owner: Any, make_checkpoint: Any) -> None:
    collect_votes(1)
    assert "1 vote is new since the last reward model. The next one would learn from it," in curriculum.next_step().text
    collect_votes(2)
    step = curriculum.next_step()
    assert (step.state, step.stage, step.is_action) == ("round", "reward", True)
    assert "3 votes are new since the last reward model. The next one would learn from them," in step.text
    take_step(requested_by=owner)
    run = TrainingRun.objects.get()
    assert (run.stage, run.parent, run.votes_used) == ("reward", walked["sft"], 3)


def test_a_round_goes_on_with_ppo_and_grpo(walked: Any, make_checkpoint: Any) -> None:
    make_checkpoint("reward", parent=walked["sft"], metrics={"beats_chance": True, "beats_length": True})
    assert (curriculum.next_step().state, curriculum.next_step().stage) == ("ready", "ppo")
    ppo = make_checkpoint("ppo", parent=walked["sft"])
    assert (curriculum.next_step().state, curriculum.next_step().stage) == ("ready", "grpo")
    make_checkpoint("grpo", parent=ppo)
    assert curriculum.next_step().state == "done"


@pytest.mark.parametrize("automatic", ["start", "demo"])
def test_no_round_begins_by_itself(walked: Any, collect_votes: Any, automatic: str) -> None:
    Curriculum.objects.update_or_create(pk=1, defaults={"automatic": automatic})
    collect_votes(2)
    curriculum.advance()
    assert not TrainingRun.objects.exists()

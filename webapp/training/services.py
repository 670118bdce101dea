"""Writing training runs: queueing, claiming, recording, stopping, finishing.

The row in the database is the truth; the broker only carries its id and may lose it or deliver it
twice. Every move between states is one conditional UPDATE whose row count says who won, and every
write of a worker is fenced by the attempt number of its claim, so a worker that was given up for
dead cannot touch the run any more.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from trainer import config as stages
from trainer.alarms import doubts_about
from webapp.arena.exchange import mark_learnt, write_votes
from webapp.arena.models import Pair, Prompt, Vote, VoteQuerySet
from webapp.chat.models import Message
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.services import register_checkpoint
from webapp.live import streams
from webapp.ops.queues import enqueue
from webapp.training.events import Logged, Measured, Sampled, Started, TrainerEvent
from webapp.training.models import LogLine, Metric, Sample, TrainingRun

if TYPE_CHECKING:
    from webapp.accounts.models import User

logger = logging.getLogger(__name__)

State = TrainingRun.State
StopRequest = TrainingRun.StopRequest

MAX_INTERRUPTIONS = 5
"""A run whose worker dies this often in a row without a new step is at fault itself."""

VOTE_SOURCES = {"all": "every vote", **dict(Vote.Source.choices)}
"""Which votes a reward model may learn from."""

MAX_SEED = 2**31 - 1
"""What every database can keep."""


class LeaseLostError(Exception):
    """Another attempt has the run; whoever sees this must stop at once and write nothing."""


class RewardModelDoubted(ValueError):
    """PPO is not started against this reward model unless a person overrules; the message says what is doubtful."""


# -- queueing ------------------------------------------------------------------------------------


def queue_run(
    *,
    stage: str,
    preset: str,
    parent: Checkpoint | None = None,
    reward_model: Checkpoint | None = None,
    seed: int = 0,
    votes: str = "all",
    overrule_doubts: bool = False,
    requested_by: User | None = None,
    curriculum: bool = False,
) -> TrainingRun:
    """Queue a run with its config, votes and hashes frozen into its own directory; enqueued after commit.

    `overrule_doubts` starts PPO whatever speaks against its reward model, which is then kept with the run.
    Raises ValueError with one sentence that says what to do, and then leaves nothing behind.
    """
    check_run(
        stage=stage,
        preset=preset,
        parent=parent,
        reward_model=reward_model,
        votes=votes,
        seed=seed,
        overrule_doubts=overrule_doubts,
    )
    staging = Path(settings.RUN_DIR) / f".{uuid.uuid4().hex}"
    staging.mkdir(parents=True)
    try:
        votes_sha256, votes_used = None, 0
        if stage == stages.REWARD:
            votes_sha256, votes_used = write_votes(staging / "votes.jsonl", training_votes(votes))
        config = {} if stage == stages.INIT else stages.to_dict(stages.get_preset(preset).stage(stage))
        with transaction.atomic():
            run = TrainingRun.objects.create(
                stage=stage,
                preset=preset,
                parent=parent,
                reward_model=reward_model,
                seed=seed,
                config=config,
                votes_used=votes_used,
                votes_source=votes if stage == stages.REWARD else "",
                overruled=" ".join(doubts(stage=stage, reward_model=reward_model)),
                curriculum=curriculum,
                requested_by=requested_by,
            )
            if run.overruled:
                alone = curriculum and requested_by is None
                why = "this is a demo, and nobody is there to ask" if alone else "a person overruled it"
                LogLine.objects.create(
                    run=run, text=f"About its reward model: {run.overruled} It starts all the same: {why}."
                )
            run_json = _write_run_json(staging, run)
            run.inputs = _without_none(
                run_json=hashlib.sha256(run_json.encode()).hexdigest(),
                parent=parent and parent.weights_sha256,
                reward_model=reward_model and reward_model.weights_sha256,
                votes=votes_sha256,
            )
            run.save(update_fields=["inputs"])
            shutil.rmtree(run.inputs_dir, ignore_errors=True)  # left by a start that never committed
            staging.rename(run.inputs_dir)
            transaction.on_commit(partial(enqueue_run, run.pk))
    except IntegrityError as error:
        if _is_double_start(error):
            raise ValueError(_already_active(stage, parent)) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return run


def check_run(
    *,
    stage: str,
    preset: str,
    parent: Checkpoint | None,
    reward_model: Checkpoint | None = None,
    votes: str = "all",
    seed: int = 0,
    overrule_doubts: bool = False,
) -> None:
    """Raise ValueError unless such a run may start now. (Two starts at once are settled by the database.)

    RewardModelDoubted comes last: overruling it is all that is missing then.
    """
    stages.check_parent_stage(stage, parent.stage if parent else None)
    _check_size(stages.get_preset(preset), parent)
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"The seed must be a number from 0 to {MAX_SEED}, not {seed}.")
    if reward_model is not None and stage not in (stages.PPO, stages.GRPO):
        raise ValueError(f"{stage} does not use a reward model; only ppo and grpo do.")
    if stage == stages.PPO and reward_model is None:
        raise ValueError("ppo needs a reward model; train the reward stage first.")
    if reward_model is not None:
        _check_reward_model(reward_model, parent)
    if votes not in VOTE_SOURCES:
        raise ValueError(f"Unknown votes {votes!r}; choose one of {', '.join(VOTE_SOURCES)}.")
    if stage == stages.REWARD and (problem := votes_problem(votes)):
        raise ValueError(problem)
    if TrainingRun.objects.active().filter(stage=stage, parent=parent).exists():
        raise ValueError(_already_active(stage, parent))
    if not overrule_doubts and (texts := doubts(stage=stage, reward_model=reward_model)):
        raise RewardModelDoubted(f"The reward model may need more votes. {' '.join(texts)}")


def doubts(*, stage: str, reward_model: Checkpoint | None) -> list[str]:
    """What speaks against training `stage` against this reward model, in plain language. (GRPO only measures.)"""
    return doubts_about(reward_model.metrics) if stage == stages.PPO and reward_model else []


def training_votes(votes: str) -> VoteQuerySet:
    """The votes a reward model would learn from: all of them, or one source's."""
    chosen = Vote.objects.for_training()
    return chosen if votes == "all" else chosen.filter(source=votes)


def votes_problem(votes: str = "all") -> str:
    """Why no reward model can learn from these votes; empty when one can."""
    chosen = training_votes(votes)
    if not chosen.exists():
        return "There are no votes to learn from yet; collect some at /vote/ or use a simulated voter."
    if not chosen.filter(choice__in=(Vote.Choice.A, Vote.Choice.B)).exists():
        return "No vote prefers one answer to the other yet, so there is no taste to learn; collect more votes."
    return ""


def _check_size(preset: stages.Preset, parent: Checkpoint | None) -> None:
    grown = stages.PRESETS.get(parent.preset) if parent else None
    if grown and grown.model.context < preset.model.context:
        raise ValueError(
            f"Preset {preset.name} reads {preset.model.context} tokens at a time, but this checkpoint was made with "
            f"{grown.name} and reads {grown.model.context}; choose {grown.name}."
        )


def _check_reward_model(reward_model: Checkpoint, parent: Checkpoint | None) -> None:
    if reward_model.stage != stages.REWARD:
        raise ValueError(f"{reward_model} is not a reward model; choose a checkpoint of the reward stage.")
    if parent and _ancestor(reward_model).pk != _ancestor(parent).pk:
        raise ValueError("This reward model was raised from other weights and reads other tokens; choose another.")


def _ancestor(checkpoint: Checkpoint) -> Checkpoint:
    """The first checkpoint of a line: the one that made the tokenizer."""
    while checkpoint.parent is not None:
        checkpoint = checkpoint.parent
    return checkpoint


def _already_active(stage: str, parent: Checkpoint | None) -> str:
    source = f" from {parent}" if parent else ""
    return f"A {stage} run{source} is already queued or running; wait for it or stop it first."


def _is_double_start(error: IntegrityError) -> bool:
    """Whether it was the constraints on active runs that refused; PostgreSQL names them, SQLite their columns."""
    names = ("one_active_run_per_stage", "UNIQUE constraint failed: training_trainingrun.stage")
    return any(name in str(error) for name in names)


def _write_run_json(staging: Path, run: TrainingRun) -> str:
    """What the trainer is given; see `python -m trainer run`. The paths are where things will be."""
    content = json.dumps(
        {
            "stage": run.stage,
            "preset": run.preset,
            "seed": run.seed,
            "parent": str(run.parent.path) if run.parent else None,
            "reward_model": str(run.reward_model.path) if run.reward_model else None,
            "votes": str(run.inputs_dir / "votes.jsonl") if run.votes_used else None,
            "data": None,
            "config": run.config,
            "overrule_doubts": bool(run.overruled),
            # Another number of threads would sum in another order: a resumed run would not be exact.
            "threads": settings.TRAIN_THREADS,
        },
        indent=2,
    )
    (staging / "run.json").write_text(content)
    return content


def _without_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def enqueue_run(run_id: int) -> None:
    """Tell the train workers. A lost message does no harm: `reap_runs` sends another."""
    enqueue("webapp.training.tasks.execute_run", run_id)


# -- claiming ------------------------------------------------------------------------------------


def claim_run(*, run_id: int, worker: str) -> TrainingRun | None:
    """Take a waiting run, or one whose worker is dead. None when someone else has it or it is over.

    `worker` must be unique to the claim; the returned row carries the attempt that fences its writes.
    """
    now = timezone.now()
    claimed = (
        TrainingRun.objects.filter(pk=run_id)
        .claimable(now)
        .update(
            state=State.RUNNING,
            attempt=F("attempt") + 1,
            worker=worker,
            lease_until=now + timedelta(seconds=settings.RUN_LEASE_S),
            started_at=Coalesce(F("started_at"), Value(now)),
            resumed_at=None,
            error="",
        )
    )
    if not claimed:
        return None
    run = TrainingRun.objects.with_links().get(pk=run_id)
    if run.worker != worker:
        return None
    publish_state(run)
    return run


def renew_lease(run: TrainingRun) -> str:
    """Keep the claim for another lease; returns the stop request, if any. Raises LeaseLostError."""
    until = timezone.now() + timedelta(seconds=settings.RUN_LEASE_S)
    if not TrainingRun.objects.held(run).update(lease_until=until):
        raise LeaseLostError
    return wanted_stop(run)


def wanted_stop(run: TrainingRun) -> str:
    """What a person asked of a run this process holds: "", "save" or "discard". Raises LeaseLostError."""
    request = TrainingRun.objects.held(run).values_list("stop_request", flat=True).first()
    if request is None:
        raise LeaseLostError
    return request


# -- recording -----------------------------------------------------------------------------------


def record_event(*, run: TrainingRun, event: TrainerEvent) -> None:
    """Keep what the trainer said and pass it on to whoever watches. Raises LeaseLostError."""
    match event:
        case Started():
            _record_start(run, event)
        case Measured():
            _record_metrics(run, event)
        case Sampled():
            _record_samples(run, event)
        case Logged():
            wanted_stop(run)  # only while the claim stands
            add_log(run=run, text=event.text, level=event.level, step=event.step)


def _update_held(run: TrainingRun, **values: Any) -> None:
    if not TrainingRun.objects.held(run).update(**values):
        raise LeaseLostError


def _record_start(run: TrainingRun, event: Started) -> None:
    now = timezone.now()
    _update_held(run, step=event.step, total_steps=event.total_steps, resumed_at=now, resumed_step=event.step)
    run.step, run.total_steps, run.resumed_at, run.resumed_step = event.step, event.total_steps, now, event.step
    publish_state(run)
    add_log(run=run, text=f"Resumed at step {event.step}." if event.step else "Training started.", step=event.step)


def _record_metrics(run: TrainingRun, event: Measured) -> None:
    with transaction.atomic():
        _update_held(run, step=event.step)
        # A resumed run repeats the steps after its last save; they come out the same.
        Metric.objects.update_or_create(run=run, step=event.step, defaults={"values": event.values})
    run.step = event.step
    publish(run, {"type": "metrics", "step": event.step, "values": event.values})
    if event.not_finite:
        names = ", ".join(event.not_finite)
        add_log(run=run, text=f"Not a finite number: {names}.", level=LogLine.Level.ALARM, step=event.step)


def _record_samples(run: TrainingRun, event: Sampled) -> None:
    samples = _shown_to_everyone(event.samples) if run.stage == stages.REWARD else event.samples
    rows = [
        Sample(
            run=run,
            step=event.step,
            prompt=sample["prompt"],
            text=sample["text"],
            extra={name: value for name, value in sample.items() if name not in ("prompt", "text")},
        )
        for sample in samples
    ]
    with transaction.atomic():
        _update_held(run, step=event.step)
        Sample.objects.filter(run=run, step=event.step).delete()
        Sample.objects.bulk_create(rows)
    # The log only says that there are some: a page fetches itself again and shows what the database has.
    publish(run, {"type": "samples", "step": event.step})


def _shown_to_everyone(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A reward run's samples are held-out votes: without those whose question or answer is from somebody's chat.

    People choose between two answers in their own chats, too. A reward model may learn from that; a run's
    page is for everyone.
    """
    texts = [{sample["prompt"], sample["text"], str(sample.get("rejected", ""))} - {""} for sample in samples]
    every = set().union(*texts)
    public = set(Prompt.objects.public().with_texts(every).values_list("text", flat=True))
    asked = Message.objects.filter(role=Message.Role.USER, text__in=every - public)
    private = set(asked.values_list("text", flat=True))
    # What was said before a shipped question may show in its answer.
    chosen_in_chat = Pair.objects.filter(Q(a__text__in=every) | Q(b__text__in=every), from_chat=True)
    private.update(*chosen_in_chat.values_list("a__text", "b__text"))
    return [sample for sample, own in zip(samples, texts, strict=True) if private.isdisjoint(own)]


def add_log(*, run: TrainingRun, text: str, level: str = LogLine.Level.INFO, step: int | None = None) -> None:
    """One line in the run's log."""
    line = LogLine.objects.create(run=run, text=text, level=level, step=run.step if step is None else step)
    kind = "alarm" if level != LogLine.Level.INFO else "log"
    publish(run, {"type": kind, "line": line.pk, "step": line.step, "level": level, "text": line.public_text})


def publish(run: TrainingRun, event: Mapping[str, Any]) -> None:
    """Append to the live log. The database has it all, so a Redis that is away costs only liveliness."""
    try:
        streams.append(run.stream_key, dict(event))
    except redis.RedisError as error:
        logger.warning("The live log of %s is not reachable: %s", run, error)


def publish_state(run: TrainingRun) -> None:
    """Tell watchers what the row says now; the log ends when the run is over or waits for a person."""
    publish(run, state_event(run))


def state_event(run: TrainingRun) -> streams.Event:
    return {
        "type": "state" if run.is_active else streams.END,
        "state": run.state,
        "label": run.get_state_display(),
        "step": run.step,
        "total_steps": run.total_steps,
        "resumed_step": run.resumed_step,
    }


# -- ending --------------------------------------------------------------------------------------


def finish_run(*, run: TrainingRun) -> TrainingRun:
    """Register what a trainer that ended well has written, and link it.

    Raises ValueError when the directory is not a good checkpoint, LeaseLostError when the claim is gone.
    """
    renew_lease(run)
    # It hashes the weights, so no transaction is open; after a take-over here it returns the row made now.
    checkpoint = register_checkpoint(directory=run.output_dir, parent=run.parent)
    if run.stage == stages.REWARD:
        mark_learnt(run.inputs_dir / "votes.jsonl", by=checkpoint)
    _end(run, State.DONE, log=f"Done: {checkpoint.name}.", checkpoint=checkpoint, step=F("total_steps"))
    return run


def fail_run(*, run: TrainingRun, error: str) -> None:
    """The trainer gave up or died; `error` says what went wrong and what to do."""
    _end(run, State.FAILED, log=error, level=LogLine.Level.ERROR, error=error)


def stop_run(*, run: TrainingRun, error: str = "") -> None:
    """The trainer saved and left because a person asked for it."""
    _end(run, State.STOPPED, log=error or "Stopped; what it learnt so far is saved.", error=error)


def drop_run(*, run: TrainingRun) -> None:
    """The trainer was killed because a person discarded the run; its files go."""
    _end(run, State.DISCARDED, log="Discarded; its files are deleted.")
    _remove_output(run)


def release_run(*, run: TrainingRun, reason: str) -> None:
    """This worker has to leave: give the run back to the queue."""
    _end(run, State.INTERRUPTED, log=reason, finished_at=None)
    transaction.on_commit(partial(enqueue_run, run.pk))


def _end(
    run: TrainingRun, state: TrainingRun.State, *, log: str, level: str = LogLine.Level.INFO, **values: Any
) -> None:
    """Give up the claim into `state`, database first and then the live log. Raises LeaseLostError."""
    _update_held(run, **{"finished_at": timezone.now(), **values}, state=state, stop_request="", lease_until=None)
    run.refresh_from_db()
    add_log(run=run, text=log, level=level)
    publish_state(run)


def _remove_output(run: TrainingRun) -> None:
    shutil.rmtree(run.output_dir, ignore_errors=True)


# -- what people ask for -------------------------------------------------------------------------


def request_stop(*, run: TrainingRun, how: str) -> None:
    """Stop and save ("save") or stop and discard ("discard"). Raises ValueError when the run is over.

    A running one is asked and ends a little later; one without a worker ends here.
    """
    if how not in (StopRequest.SAVE, StopRequest.DISCARD):
        raise ValueError("Choose save or discard.")
    if _ask_worker(run, how):
        return
    if how == StopRequest.DISCARD:
        without_worker = (State.QUEUED, State.INTERRUPTED, State.STOPPED, State.FAILED)
        ended = _move(run, without_worker, state=State.DISCARDED, finished_at=timezone.now(), error="")
        if ended:
            _remove_output(run)
    else:
        ended = _move(run, (State.QUEUED, State.INTERRUPTED), state=State.STOPPED, finished_at=timezone.now())
    if not ended and not _ask_worker(run, how):  # again: a worker may have claimed it between the two looks
        run.refresh_from_db()
        if not run.stop_request:  # else it was asked before, and is on its way
            raise ValueError(f"This run is already over: {run.get_state_display()}.")


def _ask_worker(run: TrainingRun, how: str) -> bool:
    """Leave the request for the worker that has the run; False when none has it, or it was asked this before."""
    running = TrainingRun.objects.filter(pk=run.pk, state=State.RUNNING)
    if not running.exclude(stop_request__in=(how, StopRequest.DISCARD)).update(stop_request=how):
        return False
    kept = "keep what it learnt" if how == StopRequest.SAVE else "throw it away"
    add_log(run=run, text=f"Asked to stop and {kept}.")
    return True


def resume_run(*, run: TrainingRun) -> None:
    """Queue a stopped or failed run again; it goes on from its last saved step. ValueError if it cannot."""
    if problem := resume_problem(run):
        raise ValueError(problem)
    try:
        with transaction.atomic():
            moved = _move(
                run,
                (State.STOPPED, State.FAILED),
                state=State.QUEUED,
                stop_request="",
                error="",
                finished_at=None,
                interruptions=0,
            )
    except IntegrityError as error:
        if _is_double_start(error):
            raise ValueError(_already_active(run.stage, run.parent)) from error
        raise
    if not moved:
        run.refresh_from_db()
        raise ValueError(f"Only a stopped or failed run can be resumed; this one is {run.get_state_display()}.")
    transaction.on_commit(partial(enqueue_run, run.pk))


def resume_problem(run: TrainingRun) -> str:
    """Why a stopped or failed run cannot be resumed; empty when it can."""
    if run.can_resume and not (run.inputs_dir / "run.json").is_file():
        return "Its frozen inputs are gone from the disk, so it cannot be resumed; start a new run instead."
    return ""


def _move(run: TrainingRun, states: tuple[TrainingRun.State, ...], **values: Any) -> bool:
    """Move a run that no worker holds; False when it was in none of `states`."""
    if not TrainingRun.objects.filter(pk=run.pk, state__in=states).update(**values):
        return False
    run.refresh_from_db()
    transaction.on_commit(partial(publish_state, run))
    return True


def train_command(
    *,
    stage: str,
    preset: str,
    parent: Checkpoint | None,
    reward_model: Checkpoint | None,
    votes: str = "all",
    seed: int = 0,
    overrule_doubts: bool = False,
) -> str:
    """The command that starts such a run on this site."""
    words = ["python manage.py train", stage, "--preset", preset]
    if parent:
        words += ["--parent", str(parent.pk)]
    if reward_model:
        words += ["--reward-model", str(reward_model.pk)]
    if votes != "all":
        words += ["--votes", votes]
    if overrule_doubts:
        words.append("--overrule-doubts")
    return " ".join([*words, "--seed", str(seed)])


# -- dead workers --------------------------------------------------------------------------------


def reap_runs() -> int:
    """Free the runs of dead workers and enqueue what is waiting; returns how many were freed.

    Safe to call from any number of processes at any time: a live or finished run is never touched.
    """
    abandoned = list(TrainingRun.objects.abandoned(timezone.now()))
    freed = sum(_reap(run) for run in abandoned)
    if not _broker_has_runs():
        for run in TrainingRun.objects.waiting():
            enqueue_run(run.pk)
    return freed


def _reap(run: TrainingRun) -> bool:
    progressed = run.step > run.interrupted_step
    interruptions = 1 if progressed else run.interruptions + 1
    values: dict[str, Any] = {
        "interruptions": interruptions,
        "interrupted_step": max(run.step, run.interrupted_step),
        "lease_until": None,
        "stop_request": "",
    }
    over = {"finished_at": timezone.now()}
    if run.stop_request == StopRequest.SAVE:
        values |= over | {"state": State.STOPPED, "error": "Its worker died; it goes on from the last saved step."}
    elif run.stop_request == StopRequest.DISCARD:
        values |= over | {"state": State.DISCARDED}
    elif interruptions >= MAX_INTERRUPTIONS:
        reason = f"Its worker died {interruptions} times at step {run.step}, perhaps for lack of memory."
        values |= over | {"state": State.FAILED, "error": reason}
    else:
        values |= {"state": State.INTERRUPTED}
    # The lease is compared with what was read: a worker that has just renewed it keeps its run.
    held = TrainingRun.objects.held(run).filter(Q(lease_until=run.lease_until), stop_request=run.stop_request)
    if not held.update(**values):
        return False
    run.refresh_from_db()
    if run.state == State.DISCARDED:
        _remove_output(run)
    add_log(run=run, text=run.error or "Its worker was lost; the run goes on from the last saved step.")
    publish_state(run)
    return True


def _broker_has_runs() -> bool:
    """Whether a train worker has messages waiting; sending more would only pile up."""
    try:
        return bool(streams.client().llen("train"))
    except redis.RedisError:
        return True  # nothing can be sent now

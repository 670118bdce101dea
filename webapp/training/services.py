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
import os
import shutil
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Case, F, IntegerField, Max, Q, When
from django.db.models.functions import Coalesce, Now

from trainer import config as stages
from trainer import presets
from trainer.evaluation.alarms import doubts_about
from trainer.presets import PRESETS, Preset, get_preset, is_size
from webapp.arena import tally
from webapp.arena.exchange import learnt_votes, mark_learnt, write_votes
from webapp.arena.models import Pair, Prompt, Vote, VoteQuerySet
from webapp.chat.models import Message
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.services import inspect_finished, record_checkpoint
from webapp.live import streams
from webapp.ops.clock import seconds_from_now
from webapp.ops.queues import enqueue
from webapp.training.events import Logged, Measured, Practised, Sampled, Started, TrainerEvent
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

FROZEN_AT_ONCE = 2_000
"""Votes that are written while a person waits for the run to be queued; more are written by its worker."""
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
        votes_sha256, votes_until, votes_used = None, None, 0
        if stage == stages.REWARD:
            votes_until = Vote.objects.aggregate(newest=Max("pk"))["newest"]
            votes_used = tally.training_votes(source=votes)
            if votes_used <= FROZEN_AT_ONCE:
                votes_sha256, votes_used = write_votes(staging / "votes.jsonl", training_votes(votes))
        config = {} if stage == stages.INIT else stages.to_dict(get_preset(preset).stage(stage))
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
                votes_until=None if votes_sha256 else votes_until,
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


def freeze_votes(*, run: TrainingRun) -> str:
    """Write the votes of a claimed run that had too many for the request that queued it; its problem, if it has one.

    They are those of that moment, whenever the run's turn comes. Raises LeaseLostError.
    """
    if "votes_until" not in run.inputs or "votes" in run.inputs:
        return ""
    votes = training_votes(run.votes_source).filter(pk__lte=run.inputs["votes_until"])
    try:
        file = run.inputs_dir / "votes.jsonl"
        sha256, written = write_votes(file, votes, report=lambda written: renew_lease(run))
    except OSError as error:
        return f"Its votes could not be written: {error.strerror}. Make room, then start a new run."
    run.inputs, run.votes_used = {**run.inputs, "votes": sha256}, written
    _update_held(run, inputs=run.inputs, votes_used=written)
    return ""


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
    _check_size(get_preset(preset), parent)
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
    if not tally.training_votes(source=votes):
        return "There are no votes to learn from yet; collect some at /vote/ or use a simulated voter."
    if not tally.training_votes(source=votes, decisive=True):
        return "No vote prefers one answer to the other yet, so there is no taste to learn; collect more votes."
    return ""


def usual_preset(parent: Checkpoint | None) -> str:
    """The preset for a run from this checkpoint, unless someone says otherwise: its own, or what fits its size."""
    if parent is None:
        return str(settings.CURRICULUM_PRESET)
    return presets.usual_preset(parent.preset, parent.parameters)


def _check_size(preset: Preset, parent: Checkpoint | None) -> None:
    if parent and not is_size(parent.preset) and not preset.recipe:
        raise ValueError(
            f"Preset {preset.name} is for models raised here; its rates would destroy one that comes from elsewhere. "
            f"Choose {usual_preset(parent)}."
        )
    grown = PRESETS.get(parent.preset) if parent else None
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
    """What the trainer is given; see `python -m trainer run`. The paths are where things will be.

    They start from DATA_DIR, so that a backup goes on wherever it is restored. How many threads it runs on is not
    for the web server's machine to say.
    """
    content = json.dumps(
        {
            "root": os.path.relpath(settings.DATA_DIR, run.inputs_dir),
            "stage": run.stage,
            "preset": run.preset,
            "seed": run.seed,
            "parent": _in_data_dir(run.parent.path) if run.parent else None,
            "parent_sha256": run.parent.weights_sha256 if run.parent else None,
            "reward_model": _in_data_dir(run.reward_model.path) if run.reward_model else None,
            "reward_model_sha256": run.reward_model.weights_sha256 if run.reward_model else None,
            "votes": _in_data_dir(run.inputs_dir / "votes.jsonl") if run.votes_used else None,
            "data": None,
            "config": run.config,
            "overrule_doubts": bool(run.overruled),
        },
        indent=2,
    )
    (staging / "run.json").write_text(content)
    return content


def _in_data_dir(path: Path) -> str:
    return os.path.relpath(path, settings.DATA_DIR)


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
    claimed = (
        TrainingRun.objects.filter(pk=run_id)
        .claimable()
        .update(
            state=State.RUNNING,
            attempt=F("attempt") + 1,
            worker=worker,
            threads=Case(
                When(threads=0, then=settings.TRAIN_THREADS), default=F("threads"), output_field=IntegerField()
            ),
            lease_until=seconds_from_now(settings.RUN_LEASE_S),
            started_at=Coalesce(F("started_at"), Now()),
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
    if not TrainingRun.objects.held(run).update(lease_until=seconds_from_now(settings.RUN_LEASE_S)):
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
        case Practised():
            _record_practice(run, event)
        case Sampled():
            _record_samples(run, event)
        case Logged():
            wanted_stop(run)  # only while the claim stands
            add_log(run=run, text=event.text, level=event.level, step=event.step)


def _update_held(run: TrainingRun, **values: Any) -> None:
    if not TrainingRun.objects.held(run).update(**values):
        raise LeaseLostError


def _record_start(run: TrainingRun, event: Started) -> None:
    _update_held(run, step=event.step, total_steps=event.total_steps, resumed_at=Now(), resumed_step=event.step)
    run.refresh_from_db(fields=["step", "total_steps", "resumed_at", "resumed_step"])
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


def _record_practice(run: TrainingRun, event: Practised) -> None:
    """Beside the run's own figures and samples, and told to nobody: pages of stages look for it, not the run's."""
    rows = _sample_rows(run, event.step, [{**sample, Sample.PRACTICE: True} for sample in event.samples])
    with transaction.atomic():
        wanted_stop(run)  # only while the claim stands
        Sample.objects.practice().filter(run=run, step=event.step).delete()
        Sample.objects.bulk_create(rows)


def _sample_rows(run: TrainingRun, step: int, samples: list[dict[str, Any]]) -> list[Sample]:
    return [
        Sample(
            run=run,
            step=step,
            prompt=sample["prompt"],
            text=sample["text"],
            extra={name: value for name, value in sample.items() if name not in ("prompt", "text")},
        )
        for sample in samples
    ]


def _record_samples(run: TrainingRun, event: Sampled) -> None:
    samples = _shown_to_everyone(event.samples) if run.stage == stages.REWARD else event.samples
    rows = _sample_rows(run, event.step, samples)
    with transaction.atomic():
        _update_held(run, step=event.step)
        Sample.objects.evaluated().filter(run=run, step=event.step).delete()
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

    Raises ValueError when the directory is not a good checkpoint, LeaseLostError when the claim is gone; nothing
    is registered then.
    """
    renew_lease(run)
    files = inspect_finished(run.output_dir)  # it hashes the weights, so no transaction is open
    learnt = learnt_votes(run.inputs_dir / "votes.jsonl") if run.stage == stages.REWARD else []
    with transaction.atomic():
        checkpoint = record_checkpoint(files=files, parent=run.parent)
        mark_learnt(learnt, by=checkpoint)
        _give_up(run, State.DONE, checkpoint=checkpoint, step=F("total_steps"))
    _tell_end(run, log=f"Done: {checkpoint.name}.")
    for directory in run.earlier_directories:
        shutil.rmtree(Path(settings.CHECKPOINT_DIR) / directory, ignore_errors=True)
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


def interrupt_run(*, run: TrainingRun, step: int | None) -> None:
    """Something killed the trainer after `step` (None: while it was starting). The run resumes, as after its worker's
    death; but it has failed when it died at the same step again, or too often without getting on.
    """
    values = _one_more_interruption(run)
    if step is not None:
        values["killed_step"] = step
    if step is not None and step == run.killed_step:
        error = f"The trainer was killed after step {step} again, perhaps for lack of memory."
    elif values["interruptions"] >= MAX_INTERRUPTIONS:
        error = (
            f"The trainer was killed {values['interruptions']} times before step {values['interrupted_step'] + 1}, "
            "perhaps for lack of memory."
        )
    else:
        where = "while it was starting" if step is None else f"after step {step}"
        log = f"The trainer was killed {where}, perhaps for lack of memory; the run goes on from its last save."
        _end(run, State.INTERRUPTED, log=log, finished_at=None, **values)
        transaction.on_commit(partial(enqueue_run, run.pk))
        return
    error += " Free some, or take a smaller preset; it can be resumed from its last save."
    _end(run, State.FAILED, log=error, level=LogLine.Level.ERROR, error=error, **values)


def leave_run(*, run: TrainingRun) -> None:
    """After the claim was lost: what this attempt went on writing is removed, unless it may still be gone on from."""
    over = Q(state=State.DISCARDED) | Q(state=State.DONE, attempt__gt=run.attempt)
    if TrainingRun.objects.filter(over, pk=run.pk).exists():
        shutil.rmtree(run.output_dir, ignore_errors=True)


def _end(
    run: TrainingRun, state: TrainingRun.State, *, log: str, level: str = LogLine.Level.INFO, **values: Any
) -> None:
    """Give up the claim into `state`, database first and then the live log. Raises LeaseLostError."""
    _give_up(run, state, **values)
    _tell_end(run, log=log, level=level)


def _give_up(run: TrainingRun, state: TrainingRun.State, **values: Any) -> None:
    _update_held(run, **{"finished_at": Now(), **values}, state=state, stop_request="", lease_until=None)


def _tell_end(run: TrainingRun, *, log: str, level: str = LogLine.Level.INFO) -> None:
    run.refresh_from_db()
    add_log(run=run, text=log, level=level)
    publish_state(run)


def _remove_output(run: TrainingRun) -> None:
    for directory in (run.directory, *run.earlier_directories):
        shutil.rmtree(Path(settings.CHECKPOINT_DIR) / directory, ignore_errors=True)


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
        ended = _move(run, without_worker, state=State.DISCARDED, finished_at=Now(), error="")
        if ended:
            _remove_output(run)
    else:
        ended = _move(run, (State.QUEUED, State.INTERRUPTED), state=State.STOPPED, finished_at=Now())
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
                killed_step=None,
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
    freed = sum(_reap(run) for run in list(TrainingRun.objects.abandoned()))
    if not _broker_has_runs():
        for run in TrainingRun.objects.waiting():
            enqueue_run(run.pk)
    return freed


def _reap(run: TrainingRun) -> bool:
    values = _one_more_interruption(run) | {"lease_until": None, "stop_request": ""}
    over = {"finished_at": Now()}
    if run.stop_request == StopRequest.SAVE:
        values |= over | {"state": State.STOPPED, "error": "Its worker died; it goes on from the last saved step."}
    elif run.stop_request == StopRequest.DISCARD:
        values |= over | {"state": State.DISCARDED}
    elif values["interruptions"] >= MAX_INTERRUPTIONS:
        reason = f"Its worker died {values['interruptions']} times at step {run.step}, perhaps for lack of memory."
        values |= over | {"state": State.FAILED, "error": reason}
    else:
        values |= {"state": State.INTERRUPTED}
    # The lease is looked at again: a worker that has just renewed it keeps its run.
    still = TrainingRun.objects.held(run).abandoned().filter(stop_request=run.stop_request)
    if not still.update(**values):
        return False
    run.refresh_from_db()
    if run.state == State.DISCARDED:
        _remove_output(run)
    add_log(run=run, text=run.error or "Its worker was lost; the run goes on from the last saved step.")
    publish_state(run)
    return True


def _one_more_interruption(run: TrainingRun) -> dict[str, Any]:
    """How often it was interrupted in a row without a new step, and the furthest step at which it was."""
    progressed = run.step > run.interrupted_step
    return {
        "interruptions": 1 if progressed else run.interruptions + 1,
        "interrupted_step": max(run.step, run.interrupted_step),
    }


def _broker_has_runs() -> bool:
    """Whether a train worker has messages waiting; sending more would only pile up."""
    try:
        return bool(streams.client().llen("train"))
    except redis.RedisError:
        return True  # nothing can be sent now

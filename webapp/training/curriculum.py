"""The walk through the stages: what a fresh site does by itself, and what its owner can do next.

Nothing here is remembered that the database does not already say: the next step follows from the
checkpoints, runs and votes there are. So a site that was killed anywhere goes on where it stood, and
a person may take any step by hand from the admin pages without confusing it. How far it walks alone,
every start says anew: `up` trains the first two stages, `--demo` all of them, `--no-curriculum` none.

A site around a model from elsewhere (`up --start`, see moving_in.py) walks the same way from the stage that model
came in at: what its makers did is not missing here.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.urls import reverse

from trainer.config import GRPO, INIT, PARENT_STAGES, PPO, PRETRAIN, REWARD, SFT, STAGE_TITLES
from trainer.presets import get_preset
from trainer.world.tastes import get_taste
from webapp.arena import tally
from webapp.arena.models import Vote
from webapp.arena.simulation import simulate_votes, simulated_visitor
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.origin import is_done_elsewhere, origin_of, site_origin
from webapp.checkpoints.services import register_checkpoint
from webapp.ops.clock import seconds_from_now
from webapp.ops.queues import enqueue
from webapp.training import moving_in, services
from webapp.training.models import FAILED_FOR_EVERYONE, Curriculum, TrainingRun

if TYPE_CHECKING:
    from webapp.accounts.models import User

STEPS = (PRETRAIN, SFT, REWARD, PPO, GRPO)
"""What is trained, in order; `init` is there from the start."""

VOTING_LEASE_S = 60
"""A simulated voter that has not moved for this long is started again."""

Automatic = Curriculum.Automatic
Moving = Curriculum.Moving


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """What the site does now, or waits for; the home page shows it to everyone."""

    state: str
    """"starting", "moving" (a model from elsewhere is being fetched), "stranded" (it could not be), "training",
    "voting", "votes" (people are asked), "ready" (a button away), "doubted" (the reward model may need more votes: a
    choice away), "failed", "done", or "round" (done, and there are votes for another round)."""
    label: str
    """A few words: a heading, or the button's text when `is_action`."""
    text: str
    """One sentence."""
    detail: str = ""
    """The sentence for staff, where `text` leaves out what may hold paths of this machine."""
    stage: str = ""
    """The stage it is about; empty at the end."""
    url: str = ""
    """Where to watch it, or where to help."""
    done: int = 0
    total: int = 0
    """Progress, where there is any: steps or votes."""
    run: TrainingRun | None = None
    is_action: bool = False
    """Staff can take it: POST to training:next_step with the `key`; with `overrule_doubts` where there are any."""
    doubts: tuple[str, ...] = ()
    """What speaks against training with the newest reward model."""
    doubted: Checkpoint | None = None
    """The reward model they are about."""
    may_train_again: bool = False
    """There are votes the doubted reward model has not learnt from: POST to training:next_step with `again`."""
    may_simulate: bool = False
    """Staff can let a simulated voter stand in: POST to training:next_step with a `taste`."""

    @property
    def key(self) -> str:
        """What a person was shown when they chose: another step, or doubts about another model, has another key."""
        return f"{self.state}:{self.stage}:{self.doubted.pk if self.doubted else ''}"

    @property
    def percent(self) -> int:
        return int(100 * min(1.0, self.done / self.total)) if self.total else 0


# -- reading -------------------------------------------------------------------------------------


def next_step() -> NextStep:
    """What comes next, read from what is there."""
    checkpoints = Checkpoint.objects.current_by_stage()
    # Alphabetically "running" comes last.
    running = TrainingRun.objects.active().exclude(stage=INIT).order_by("state", "created_at").last()
    if running:
        return _training(running)
    origin = origin_of(checkpoints)
    if INIT not in checkpoints and origin is None:
        return _moving_in() or NextStep(
            state="starting", label="Starting", text="The random weights are being written.", stage=INIT
        )
    ours = [stage for stage in STEPS if not is_done_elsewhere(stage, origin)]
    missing = next((stage for stage in ours if stage not in checkpoints), None) or _outdated(checkpoints)
    if missing is None:
        return _next_round()
    broken = TrainingRun.objects.filter(stage=missing).first()
    if broken and broken.can_resume:
        return NextStep(
            state="failed",
            label=f"{STAGE_TITLES[missing]} {'was stopped' if broken.state == TrainingRun.State.STOPPED else 'failed'}",
            text=broken.public_error or "It can be resumed from its last saved step.",
            stage=missing,
            url=broken.get_absolute_url(),
            run=broken,
        )
    if missing == REWARD:
        return _reward_step()
    return (_doubted_step(checkpoints.get(REWARD)) if missing == PPO else None) or _ready(missing)


def _outdated(checkpoints: dict[str, Checkpoint]) -> str | None:
    """The stage a further round goes on with: PPO after a newer reward model, GRPO after a newer PPO."""
    for before, stage in pairwise((REWARD, PPO, GRPO)):
        made, newest = checkpoints.get(before), checkpoints.get(stage)
        if made and newest and newest.created_at < made.created_at:
            return stage
    return None


def _next_round() -> NextStep:
    """Every stage is there: what another reward model, and PPO against it, would learn from."""
    url = reverse("stages:compare")
    new = tally.training_votes(new=True)
    if not new:
        text = (
            "Ask every stage the same question, or vote: a next round (reward model, then PPO) learns from the votes "
            "cast after the last one. So far there are none."
        )
        return NextStep(state="done", label="All stages are trained", text=text, url=url)
    votes = tally.training_votes()
    learns_from = f"all {votes} votes" if votes > new else "them" if new > 1 else "it"
    return NextStep(
        state="round",
        label="Train the next round",
        text=(
            f"All stages are trained, and {new} vote{' is' if new == 1 else 's are'} new since the last reward model. "
            f"The next one would learn from {learns_from}, and PPO (RLHF) would follow it."
        ),
        stage=REWARD,
        url=url,
        is_action=True,
    )


def _moving_in() -> NextStep | None:
    """The model named by `up --start`, while it is not here."""
    row = Curriculum.objects.first()
    if row is None or row.start_state not in (Moving.UNDER_WAY, Moving.FAILED):
        return None
    name = moving_in.source_name(row.start_source)
    if row.start_state == Moving.FAILED:
        # On a laptop of one's own nobody is logged in yet, and the reason is what there is to read.
        text = row.start_text if settings.ALONE else FAILED_FOR_EVERYONE
        return NextStep(state="stranded", label=f"{name} could not be brought in", text=text, detail=row.start_text)
    doing = row.start_text or "It is being looked for"
    return NextStep(
        state="moving",
        label=f"{name} is moving in",
        text=f"{doing}. Once it is here you can chat with it.",
        done=row.start_done,
        total=row.start_total,
    )


def _training(run: TrainingRun) -> NextStep:
    waiting = run.state != TrainingRun.State.RUNNING
    return NextStep(
        state="training",
        label=f"{STAGE_TITLES[run.stage]} {'is queued' if waiting else 'is running'}",
        text="It starts as soon as the train worker is free." if waiting else "Watch its curves and what it says.",
        stage=run.stage,
        url=run.get_absolute_url(),
        done=run.step,
        total=run.total_steps,
        run=run,
    )


def _ready(stage: str) -> NextStep:
    texts = {
        PRETRAIN: "Random weights are ready. Reading the corpus comes first.",
        SFT: "It continues text. Next it learns to answer (SFT).",
        REWARD: "There are enough votes to learn what the voters like.",
        PPO: "The reward model has learnt from the votes. Next the model learns to please it (PPO).",
        GRPO: "Last: it practises problems whose answers can be checked (GRPO).",
    }
    label = f"Start {STAGE_TITLES[stage][0].lower()}{STAGE_TITLES[stage][1:]}"
    return NextStep(state="ready", label=label, text=texts[stage], stage=stage, is_action=True)


def _voting() -> NextStep | None:
    """The simulated voter, while it is at work."""
    curriculum = Curriculum.objects.filter(votes_wanted__gt=0).first()
    if curriculum is None:
        return None
    return NextStep(
        state="voting",
        label="A simulated voter is at work",
        text=f"It likes answers that are {get_taste(curriculum.taste).manner}, and errs in one vote of ten.",
        stage=REWARD,
        url=reverse("arena:vote"),
        done=curriculum.votes_cast,
        total=curriculum.votes_wanted,
    )


def _doubted_step(reward_model: Checkpoint | None) -> NextStep | None:
    """The choice between more votes and PPO all the same; None when nothing speaks against the reward model."""
    doubts = services.doubts(stage=PPO, reward_model=reward_model)
    if not doubts:
        return None
    new = tally.training_votes(new=True)
    curriculum = Curriculum.objects.first()
    return _voting() or NextStep(
        state="doubted",
        label="The reward model may need more votes",
        text=curriculum.error
        if curriculum and curriculum.error
        else (
            "It is trained, and was tested on votes it has not seen. After a first round doubts are the usual case: "
            "only one vote in ten is kept back for the test, and so few prove little. More votes make it surer; or "
            "go on as it is, and see what comes of it."
        ),
        stage=PPO,
        url=reverse("arena:vote"),
        done=new,
        total=settings.VOTES_PER_REWARD_MODEL,
        is_action=True,
        doubts=tuple(doubts),
        doubted=reward_model,
        may_train_again=new > 0,
        may_simulate=True,
    )


def _reward_step() -> NextStep:
    if voting := _voting():
        return voting
    curriculum = Curriculum.objects.first()
    votes, wanted = tally.training_votes(), settings.VOTES_PER_REWARD_MODEL
    if votes >= wanted:
        return _ready(REWARD)
    text = "Pick the better of two answers; the reward model learns from the picks."
    return NextStep(
        state="votes",
        label="Collect votes",
        text=curriculum.error if curriculum and curriculum.error else text,
        stage=REWARD,
        url=reverse("arena:vote"),
        done=votes,
        total=wanted,
        may_simulate=True,
    )


# -- acting --------------------------------------------------------------------------------------


def perform_next_step(
    *,
    shown: str,
    requested_by: User | None = None,
    taste: str = "",
    again: bool = False,
    overrule_doubts: bool = False,
) -> NextStep:
    """Take the next step: start the run that is ready, or (with a taste) the simulated voter.

    `shown` is the key of the step the person was looking at: what has come up since is never started in its place.
    Where the reward model is doubted, `again` trains another one and `overrule_doubts` goes on with it.
    Raises ValueError when there is nothing to start. Returns what the site does now.
    """
    step = next_step()
    if shown != step.key:
        raise ValueError(f"Nothing was started, because the next step is another one by now: {step.label}.")
    if step.may_simulate and taste:
        start_simulated_votes(taste=taste)
    elif step.may_train_again and again:
        _queue_stage(REWARD, requested_by=requested_by)
    elif step.is_action and not taste and not again:
        _queue_stage(step.stage, requested_by=requested_by, overrule_doubts=overrule_doubts)
    elif step.may_simulate:
        raise ValueError(f"{step.total - step.done} more votes are needed first; vote, or choose a simulated voter.")
    else:
        raise ValueError(f"There is nothing to start now: {step.label}.")
    return next_step()


def advance() -> None:
    """Take the next step if it is one the site takes by itself; does nothing otherwise."""
    curriculum = Curriculum.objects.first()
    if curriculum is None or curriculum.automatic == Automatic.OFF:
        return
    step = next_step()
    if step.state == "round":
        return  # without end, if nobody were asked
    demo = curriculum.automatic == Automatic.DEMO and not curriculum.error
    if demo and step.may_simulate and not step.doubts:
        start_simulated_votes(taste=curriculum.taste)
    elif step.is_action and (demo or (step.stage in (PRETRAIN, SFT) and site_origin() is None)):
        if TrainingRun.objects.filter(stage=step.stage).exists():
            return  # it was discarded, or its checkpoint hidden: a person has decided
        try:
            _queue_stage(step.stage, overrule_doubts=demo)  # nobody is there to ask; the run's log says so
        except ValueError:
            if next_step().state != "training":  # else another process was quicker
                raise


def _queue_stage(stage: str, *, requested_by: User | None = None, overrule_doubts: bool = False) -> TrainingRun:
    """Queue `stage` from the newest checkpoint of its usual parent stage."""
    parent, reward_model = usual_inputs(stage)
    return services.queue_run(
        stage=stage,
        preset=services.usual_preset(parent),
        parent=parent,
        reward_model=reward_model,
        overrule_doubts=overrule_doubts,
        requested_by=requested_by,
        curriculum=True,
    )


def usual_inputs(stage: str) -> tuple[Checkpoint | None, Checkpoint | None]:
    """(parent, reward model) a stage is trained from unless someone says otherwise; None where there is none yet."""
    checkpoints = Checkpoint.objects.current_by_stage()
    if stage == GRPO:  # keeps the taste where there is one
        usual = checkpoints.get(PPO) or checkpoints.get(SFT)
        return usual, usual_judge(usual)
    if stage == PPO:
        reward_model = checkpoints.get(REWARD)
        learner = reward_model.parent if reward_model else None
        usual = learner if learner and learner.stage in PARENT_STAGES[PPO] else checkpoints.get(SFT)
        return usual, reward_model
    return next((checkpoints[parent] for parent in PARENT_STAGES[stage] if parent in checkpoints), None), None


def usual_judge(parent: Checkpoint | None) -> Checkpoint | None:
    """The reward model GRPO measures the taste with: the one the newest PPO run in this line trained against."""
    line = parent.lineage() if parent else []
    runs = TrainingRun.objects.filter(checkpoint__in=[one for one in line if one.stage == PPO])
    newest = runs.with_links().order_by("-checkpoint_id").first()
    return newest.reward_model if newest else None


# -- the first start -----------------------------------------------------------------------------


def prepare_first_start(
    *, demo: bool, curriculum: bool, start: str = "", say: Callable[[str], None] = lambda text: None
) -> None:
    """Make a fresh site usable: a model to chat with now, and the first runs queued.

    The model is random weights, or what `start` names, as import_checkpoint takes it; `say` gets sentences about that
    one's arrival. Safe at every start: what is there is kept, and a walk or an arrival that was cut off goes on.
    ValueError when the random weights cannot be written, or models are here that `start` does not mean.
    """
    preset = get_preset(settings.CURRICULUM_PRESET)
    row, _ = Curriculum.objects.get_or_create(pk=1, defaults={"taste": preset.taste})
    if start:
        moving_in.want(start)
    # What an earlier start was told does not stick: `up --demo` and then a plain `up` is a plain site again.
    row.automatic = (Automatic.DEMO if demo else Automatic.START) if curriculum else Automatic.OFF
    row.error = ""
    row.save(update_fields=["automatic", "error"])
    if moving_in.is_wanted():
        if not moving_in.move_in(say):
            return
    elif not Checkpoint.objects.filter(stage=INIT).exists() and site_origin() is None:
        register_checkpoint(directory=_write_init_checkpoint())
    resume_voting()
    advance()


def _write_init_checkpoint() -> Path:
    """Random weights by the trainer, in a process of its own: no web process loads torch."""
    directory = Path(settings.CHECKPOINT_DIR) / "init-first"
    if (directory / "stage.json").exists():
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    command = [*settings.TRAINER_COMMAND, "init", "--preset", settings.CURRICULUM_PRESET, "--out", str(directory)]
    finished = subprocess.run(command, cwd=settings.BASE_DIR, capture_output=True, text=True, check=False)
    if finished.returncode:
        last = (finished.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"The random weights could not be written: {last}")
    return directory


# -- the simulated voter -------------------------------------------------------------------------


def start_simulated_votes(*, taste: str) -> None:
    """Let a simulated voter stand in for people. ValueError when it cannot, or is at work already."""
    get_taste(taste)
    learner, _ = usual_inputs(REWARD)
    if learner is None:
        raise ValueError("There is nothing to vote on before instruction fine-tuning.")
    preset = get_preset(services.usual_preset(learner))
    row, _ = Curriculum.objects.get_or_create(pk=1, defaults={"automatic": Automatic.OFF})
    there = Vote.objects.filter(visitor=simulated_visitor(taste), pair__a__checkpoint=learner).count()
    started = Curriculum.objects.filter(pk=row.pk, votes_wanted=0).update(
        taste=taste,
        votes_wanted=there + max(preset.votes, settings.VOTES_PER_REWARD_MODEL),
        votes_cast=there,
        voting_until=_voting_lease(),
        error="",
    )
    if not started:
        raise ValueError("A simulated voter is at work already.")
    transaction.on_commit(_enqueue_voting)


def cast_simulated_votes() -> bool:
    """One turn of the simulated voter, which never waits for an answer; True while there is more to do."""
    row = Curriculum.objects.filter(votes_wanted__gt=0).first()
    if row is None:
        return False
    learner, _ = usual_inputs(REWARD)
    try:
        if learner is None:
            raise ValueError("The checkpoint it voted on is gone.")
        cast = simulate_votes(taste=row.taste, count=row.votes_wanted, checkpoint=learner)
    except ValueError as error:
        Curriculum.objects.filter(pk=row.pk).update(votes_wanted=0, voting_until=None, error=str(error))
        return False
    if cast < row.votes_wanted:
        Curriculum.objects.filter(pk=row.pk).update(votes_cast=cast, voting_until=_voting_lease())
        return True
    # A reason here also keeps a demo from asking for the same votes again and again.
    problem = services.votes_problem()
    if not problem and tally.training_votes() < settings.VOTES_PER_REWARD_MODEL:
        problem = f"Too few of the {cast} simulated votes can be learnt from; collect some from people."
    Curriculum.objects.filter(pk=row.pk).update(votes_wanted=0, votes_cast=cast, voting_until=None, error=problem)
    advance()
    return False


def resume_voting() -> None:
    """Start a simulated voter again whose worker has gone."""
    gone = Q(voting_until__lt=Now()) | Q(voting_until=None)
    if Curriculum.objects.filter(gone, votes_wanted__gt=0).update(voting_until=_voting_lease()):
        transaction.on_commit(_enqueue_voting)


def _voting_lease() -> Any:
    return seconds_from_now(VOTING_LEASE_S)


def _enqueue_voting() -> None:
    enqueue("webapp.training.tasks.continue_simulated_votes")

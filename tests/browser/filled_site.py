"""A site with something on every page: long names, long words, runs with curves, votes, a chat and its choices."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.urls import reverse
from django.utils import timezone

from tests.webapp.arena_factory import make_answer, make_pair, make_vote
from trainer.config import CHAT_STAGES, GRPO, INIT, PPO, PRETRAIN, REWARD, SFT, STAGES
from webapp.accounts.models import User, Visitor
from webapp.arena.models import Pair, Prompt, VoteExport
from webapp.chat.models import Conversation, Message
from webapp.chat.services import DEFAULT_SAMPLING
from webapp.checkpoints.models import Checkpoint
from webapp.stages.models import NextTokens, SiteAnswer
from webapp.stages.questions import SHIPPED
from webapp.stages.services import HOME_SAMPLING
from webapp.stages.views import FIRST_TEXT
from webapp.training.models import TrainingRun

LONG = "A long unbroken word such as " + "x" * 120 + " must not widen the page."
MARKDOWN = f"# Heading\n\n{LONG}\n\n```\n{LONG}\n```\n\n| a | b |\n|---|---|\n| 1 | {'y' * 60} |"
FIGURES = {
    INIT: (),
    PRETRAIN: ("loss", "bits_per_byte", "lr", "tokens_per_s", "grad_norm"),
    SFT: ("loss", "instruction_accuracy", "lr", "tokens_per_s", "grad_norm"),
    REWARD: ("loss", "agreement", "length_only_agreement", "batch_agreement", "lr", "margin"),
    PPO: ("reward", "held_out_win_rate", "kl", "length", "kl_weight", "policy_loss", "value_loss", "entropy"),
    GRPO: ("solved", "pass_at_1", "mean_reward", "taste_reward", "length", "zero_variance", "anchor_kl", "level"),
}
"""What runs of a stage report, as the real ones do: a page has a chip for each."""
STEPS = 60
SAMPLING = {**DEFAULT_SAMPLING, "seed": 7}


@dataclass(frozen=True, kw_only=True)
class FilledSite:
    """What the pages of a filled site are called by."""

    checkpoints: dict[str, Checkpoint]
    runs: dict[str, TrainingRun]
    running: TrainingRun
    chat: Conversation
    offer: Conversation
    """A chat whose last question has two answers to choose from."""
    comparison: Conversation
    export: VoteExport

    def public_pages(self) -> dict[str, str]:
        """Every page a visitor can open, by what it is called here."""
        return {
            "home": "/",
            **{f"stage {slug}": f"/stages/{slug}/" for slug in STAGES},
            "chats": "/chat/",
            "chat": f"/chat/{self.chat.pk}/",
            "chat with a vote": f"/chat/{self.offer.pk}/",
            "vote": "/vote/",
            "ask all": "/compare/",
            "asked all": f"/compare/{self.comparison.pk}/",
            "leaderboard": "/leaderboard/",
            "runs": "/runs/",
            **{f"run {slug}": run.get_absolute_url() for slug, run in self.runs.items() if slug in (SFT, PPO)},
            "running": self.running.get_absolute_url(),
            "log in": "/login/",
            "sign up": "/signup/",
            "spent owner link": "/setup/spent/",
            "no such page": "/nothing-here/",
        }

    def staff_pages(self) -> dict[str, str]:
        """Pages that have more on them for the owner, and the admin."""
        models = {
            "accounts/user": User.objects.get().pk,
            "answers/generation": self._answer().pk,
            "arena/pair": Pair.objects.order_by("pk")[0].pk,
            "arena/prompt": Prompt.objects.order_by("pk")[0].pk,
            "arena/vote": None,
            "arena/voteexport": self.export.pk,
            "chat/conversation": self.chat.pk,
            "checkpoints/checkpoint": self.checkpoints[GRPO].pk,
            "training/trainingrun": self.runs[PPO].pk,
        }
        return {
            "home": "/",
            "running": self.running.get_absolute_url(),
            "runs": "/runs/",
            "admin": "/admin/",
            **{f"admin {model}": reverse(f"admin:{model}_changelist") for model in _registered()},
            **{f"admin one {model}": f"/admin/{model}/{pk}/change/" for model, pk in models.items() if pk},
            "admin add account": "/admin/accounts/user/add/",
            "admin add group": "/admin/auth/group/add/",
            "admin add prompt": "/admin/arena/prompt/add/",
            "admin export": "/admin/arena/voteexport/add/",
            "start a run": "/admin/training/trainingrun/add/?stage=grpo",
            "password": "/admin/password_change/",
        }

    def _answer(self) -> Any:
        leaf = self.chat.leaf
        assert leaf is not None
        return leaf.generation


def _registered() -> list[str]:
    """Everything the admin has a list of, whoever put it there."""
    return [f"{model._meta.app_label}_{model._meta.model_name}" for model in admin.site._registry]


def fill_site(visitor: Visitor, owner: User, make_checkpoint: Callable[..., Checkpoint]) -> FilledSite:
    """Fill every page; the visitor has chatted, compared and voted."""
    make_checkpoint(SFT, preset="", name="A model from elsewhere with a name as long as such names come")
    checkpoints, runs = _checkpoints_and_runs(make_checkpoint)
    speakers = [checkpoints[stage] for stage in CHAT_STAGES]
    for checkpoint in speakers:
        for prompt in SHIPPED:
            asked = [{"role": "user", "content": prompt}]
            said = f"{LONG} So says {checkpoint.stage}."  # some of it is marked as new
            answer = make_answer(checkpoint, said, messages=asked, sampling=HOME_SAMPLING)
            SiteAnswer.objects.create(checkpoint=checkpoint, prompt=prompt, generation=answer)
    likely = {"tokens": [["x" * 40, "text", 0.0], [" a", "text", -1.0]], "log_sums": [1.5] * 20, "vocabulary": 512}
    NextTokens.objects.create(checkpoint=checkpoints[PRETRAIN], text=FIRST_TEXT, found=likely)
    _votes(visitor, checkpoints)
    running = TrainingRun.objects.create(
        stage=GRPO, preset="tiny", parent=checkpoints[PPO], reward_model=checkpoints[REWARD], state="running",
        step=30, total_steps=80, attempt=1, started_at=timezone.now(), resumed_at=timezone.now(),
    )  # fmt: skip
    _measure(running, 30)
    return FilledSite(
        checkpoints=checkpoints,
        runs=runs,
        running=running,
        chat=_conversation(visitor, Conversation.Kind.CHAT, speakers[-1:]),
        offer=_offer(visitor, checkpoints[GRPO]),
        comparison=_conversation(visitor, Conversation.Kind.COMPARE, speakers),
        export=VoteExport.objects.create(requested_by=owner, state="failed", total=10, error="The disk is full."),
    )


def _checkpoints_and_runs(
    make_checkpoint: Callable[..., Checkpoint],
) -> tuple[dict[str, Checkpoint], dict[str, TrainingRun]]:
    checkpoints: dict[str, Checkpoint] = {}
    runs: dict[str, TrainingRun] = {}
    parent: Checkpoint | None = None
    for stage in STAGES:
        metrics = {"bits_per_byte": 2.5, "agreement": 0.8, "agreement_interval": [0.7, 0.9], "held_out_prompts": 30}
        made = make_checkpoint(stage, preset="tiny", parent=parent, metrics=metrics, name=f"{stage}-0123456789ab")
        checkpoints[stage] = made
        runs[stage] = TrainingRun.objects.create(
            stage=stage, preset="tiny", parent=parent, state="done", step=STEPS, total_steps=STEPS, checkpoint=made,
            attempt=2, started_at=timezone.now() - timedelta(minutes=5), finished_at=timezone.now(),
            config={"learning_rate": 0.0003, "prompts": ["w" * 80]}, inputs={"parent": "0" * 64},
        )  # fmt: skip
        _measure(runs[stage], STEPS)
        parent = made if stage != REWARD else parent
    return checkpoints, runs


def _measure(run: TrainingRun, steps: int) -> None:
    """Curves as noisy as real ones, the same each time."""
    noise = random.Random(run.stage)
    for step in range(1, steps + 1):
        share = step / steps
        values = {name: round(math.sqrt(share) + noise.gauss(0, 0.15), 4) for name in FIGURES[run.stage]}
        run.metrics.create(step=step, values=values)
    for step in (1, steps):
        practised: dict[str, dict[str, Any]] = {
            PPO: {"score": 1.0, "kl": 0.5, "practice": True},
            GRPO: {"advantage": 1.0, "correct": True, "practice": True},
        }
        extra = practised.get(run.stage, {})
        run.samples.create(step=step, prompt="What is an LLM?", text=LONG, extra=extra)
    run.log.create(text=LONG, level="alarm", step=steps)


def _votes(visitor: Visitor, checkpoints: dict[str, Checkpoint]) -> None:
    """Enough for a ranking with intervals; of the visitor's own one is held and two are revealed."""
    sft, ppo, grpo = (checkpoints[stage] for stage in (SFT, PPO, GRPO))
    for number in range(12):
        asked = [{"role": "user", "content": f"What is thing {number}?"}]
        for left, right in ((sft, ppo), (ppo, grpo)):
            answers = [make_answer(one, messages=asked) for one in (left, right)]
            pair = Pair.objects.create(a=answers[0], b=answers[1], kind=Pair.Kind.VERSUS, state=Pair.State.READY)
            make_vote(pair, choice="b" if number % 4 else "a")
    for prompt in (LONG, *(f"What is thing number {number}?" for number in range(8))):
        Prompt.objects.create(text=prompt, source=Prompt.Source.SHIPPED)
    revealed = timezone.now()
    make_vote(make_pair(grpo), visitor, "tie", revealed_at=revealed)
    make_vote(make_pair(sft, ppo), visitor, "a", revealed_at=revealed)
    make_vote(make_pair(grpo), visitor, "both_bad")
    make_pair(grpo, texts=(LONG, "Short."), prompt=Prompt.objects.get(text=LONG))


def _conversation(visitor: Visitor, kind: str, checkpoints: list[Checkpoint]) -> Conversation:
    conversation = Conversation.objects.create(
        visitor=visitor, kind=kind, checkpoint=checkpoints[-1], title=LONG, sampling=dict(DEFAULT_SAMPLING)
    )
    question = Message.objects.create(conversation=conversation, role="user", text="What is an LLM?")
    for checkpoint in checkpoints:
        answer = make_answer(
            checkpoint, MARKDOWN, visitor=visitor, tokens=40, finish_reason="length", sampling=SAMPLING
        )
        conversation.leaf = Message.objects.create(
            conversation=conversation, parent=question, role="assistant", generation=answer
        )
    conversation.save()
    return conversation


def _offer(visitor: Visitor, checkpoint: Checkpoint) -> Conversation:
    conversation = Conversation.objects.create(
        visitor=visitor, checkpoint=checkpoint, title="What is a harbour?", sampling=dict(DEFAULT_SAMPLING)
    )
    question = Message.objects.create(conversation=conversation, role="user", text="What is a harbour?")
    for side, text in (("A", LONG), ("B", "A sheltered place where ships stop.\n\n" * 12)):
        answer = make_answer(checkpoint, text, visitor=visitor, sampling=SAMPLING)
        Message.objects.create(
            conversation=conversation, parent=question, role="assistant", generation=answer, side=side
        )
    conversation.leaf = question
    conversation.save()
    return conversation

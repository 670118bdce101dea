"""`manage.py train STAGE`: queue a run from the command line, as the admin page does."""

from __future__ import annotations

import asyncio
import contextlib
from argparse import ArgumentParser
from typing import Any

import redis
from django.core.management.base import BaseCommand, CommandError

from trainer.config import GRPO, STAGES
from webapp.checkpoints.models import Checkpoint
from webapp.live import streams
from webapp.live.reader import follow
from webapp.training import curriculum, services
from webapp.training.models import TrainingRun

WATCH_S = 2.0


class Command(BaseCommand):
    help = "Queue a training run; a train worker of the running site takes it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("stage", help=", ".join(STAGES))
        parser.add_argument("--preset", help="default: the parent's, or what fits a model from elsewhere")
        parser.add_argument(
            "--parent", type=int, metavar="ID", help="checkpoint to start from; default: the newest fit"
        )
        parser.add_argument(
            "--reward-model", type=int, metavar="ID", help="ppo: default the newest; grpo: only measures the taste"
        )
        parser.add_argument(
            "--overrule-doubts",
            action="store_true",
            help="ppo: train against a reward model that beats neither chance nor length on held-out votes",
        )
        parser.add_argument("--votes", choices=services.VOTE_SOURCES, default="all", help="reward only; default: all")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument(
            "--wait", action="store_true", help="follow the run to its end; the exit code says how it was"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            run = self.queue(options)
        except services.RewardModelDoubted as error:
            raise CommandError(
                f"{error} Collect more votes, or train with it all the same by --overrule-doubts."
            ) from error
        except ValueError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"Queued {run} at {run.get_absolute_url()}")
        if options["wait"]:
            try:
                asyncio.run(self.watch(run.stream_key, run.pk))
            except redis.RedisError as error:
                raise CommandError(
                    f"Redis does not answer, so {run} cannot be followed; it stays queued. Start the site: make run"
                ) from error
            run.refresh_from_db()
            if run.state != TrainingRun.State.DONE:
                raise CommandError(f"{run} ended: {run.get_state_display()}. {run.error}".strip())
            self.stdout.write(f"Done: checkpoint {run.checkpoint_id} in {run.output_dir}")

    def queue(self, options: dict[str, Any]) -> TrainingRun:
        stage = options["stage"]
        parent, reward_model = curriculum.usual_inputs(stage) if stage in STAGES else (None, None)
        if options["parent"] is not None:
            parent = _checkpoint(options["parent"])
            reward_model = curriculum.usual_judge(parent) if stage == GRPO else reward_model
        if options["reward_model"] is not None:
            reward_model = _checkpoint(options["reward_model"])
        return services.queue_run(
            stage=stage,
            preset=options["preset"] or services.usual_preset(parent),
            parent=parent,
            reward_model=reward_model,
            votes=options["votes"],
            seed=options["seed"],
            overrule_doubts=options["overrule_doubts"],
        )

    async def watch(self, key: str, run_id: int) -> None:
        """Print what the run reports until it is over, also when its log is lost."""
        async with contextlib.aclosing(follow(key, wait_s=WATCH_S)) as entries:
            async for entry in entries:
                if entry:
                    self.show(entry[1])
                elif not await TrainingRun.objects.active().filter(pk=run_id).aexists():
                    return

    def show(self, event: streams.Event) -> None:
        if event["type"] == "metrics":
            values = "  ".join(f"{name} {value:.4g}" for name, value in event["values"].items())
            self.stdout.write(f"step {event['step']}  {values}")
        elif event["type"] in ("log", "alarm"):
            self.stdout.write(event["text"])


def _checkpoint(pk: int) -> Checkpoint:
    checkpoint = Checkpoint.objects.filter(pk=pk).first()
    if checkpoint is None:
        raise ValueError(f"There is no checkpoint {pk}.")
    return checkpoint

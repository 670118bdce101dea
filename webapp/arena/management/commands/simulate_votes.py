"""python manage.py simulate_votes --taste shorter|friendlier|sentences:2|… -n N"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

import redis
from django.core.management.base import BaseCommand, CommandError

from trainer.world.tastes import TASTES, get_taste
from webapp.arena import simulation, stock
from webapp.arena.models import Vote
from webapp.checkpoints.models import Checkpoint
from webapp.live import streams

POLL_S = 0.5


class Command(BaseCommand):
    help = "Let a simulated voter compare answers of the newest checkpoint. Needs a running `generate` worker."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--taste", required=True, help=f"{', '.join(TASTES)} or sentences:N")
        parser.add_argument("-n", type=int, required=True, metavar="N", dest="count", help="how many votes to add")
        parser.add_argument("--checkpoint", type=int, metavar="ID", help="default: the newest that answers")

    def handle(self, *args: Any, taste: str, count: int, checkpoint: int | None, **options: Any) -> None:
        if count < 1:
            raise CommandError("-n must be at least 1.")
        try:
            get_taste(taste)
        except ValueError as error:
            raise CommandError(str(error)) from error
        learner = self._checkpoint(checkpoint)
        voter = simulation.simulated_visitor(taste)
        there = before = Vote.objects.filter(visitor=voter, pair__a__checkpoint=learner).count()
        self.stdout.write(f"{count} votes by the taste {taste!r} on {learner}; Ctrl-C stops and keeps what is there.")
        try:
            while (there := self._step(taste, before + count, learner)) < before + count:
                self.stdout.write(f"\r{there - before} of {count}", ending="")
                self.stdout.flush()
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            self.stdout.write("")
        self.stdout.write(f"\r{there - before} of {count} votes recorded.")

    def _checkpoint(self, pk: int | None) -> Checkpoint:
        if pk is None:
            learner = stock.current_learner()
            if learner is None:
                raise CommandError("No checkpoint answers yet; train the sft stage first.")
            return learner
        checkpoint = Checkpoint.objects.chattable().filter(pk=pk).first()
        if checkpoint is None:
            raise CommandError(f"There is no checkpoint {pk} to chat with.")
        return checkpoint

    def _step(self, taste: str, count: int, checkpoint: Checkpoint) -> int:
        try:
            streams.client().ping()  # without it the answers are asked for in vain, and this would wait for ever
            return simulation.simulate_votes(taste=taste, count=count, checkpoint=checkpoint)
        except ValueError as error:
            raise CommandError(str(error)) from error
        except redis.RedisError as error:
            raise CommandError(
                "Redis does not answer, so nobody writes the answers to vote on. Start the site first: make run"
            ) from error

# ruff: noqa: E402  (Django is set up before anything of the site can be imported)
"""What an attack prepares and counts in a site's database, in a process beside the site's own.

    python -m tests.attack.inside FUNCTION '{"its": "arguments"}'

Prints what the function returns, as one line of JSON. Never imported by a test: `Site.inside` runs it with the
site's environment, so that it sees the site's database and settings and not the suite's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")

import django

django.setup()

from importlib import import_module

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.db.models import Count

from tests.webapp.arena_factory import make_pair
from webapp.accounts.models import User, Visitor
from webapp.accounts.services import LOGGED_IN_AT
from webapp.answers.models import Generation
from webapp.arena.models import Vote
from webapp.chat.models import Message
from webapp.checkpoints.models import Checkpoint
from webapp.training import services
from webapp.training.models import TrainingRun


def _session(**content: Any) -> str:
    """The key of a new session with this in it; a browser's cookie."""
    session = import_module(settings.SESSION_ENGINE).SessionStore()
    session.update(content)
    session.save()
    return str(session.session_key)


def owner() -> str:
    """A new superuser's session."""
    user = User.objects.create_superuser(username="attack-owner", password="correct horse battery staple")
    return _session(
        **{
            SESSION_KEY: str(user.pk),
            BACKEND_SESSION_KEY: "django.contrib.auth.backends.ModelBackend",
            HASH_SESSION_KEY: user.get_session_auth_hash(),
            LOGGED_IN_AT: int(time.time()),  # staff are staff for some hours only
        }
    )


def voters(*, count: int, pairs_each: int) -> list[dict[str, Any]]:
    """People without an account, each with a session and pairs nobody has voted on yet."""
    checkpoint = Checkpoint.objects.order_by("pk")[0]
    people = []
    for _ in range(count):
        visitor = Visitor.objects.create()
        pairs = [str(make_pair(checkpoint).pk) for _ in range(pairs_each)]
        people.append({"visitor": str(visitor.pk), "session": _session(visitor_id=str(visitor.pk)), "pairs": pairs})
    return people


def votes() -> list[list[Any]]:
    """[pair, visitor, how many rows] of every vote."""
    rows = Vote.objects.order_by().values_list("pair", "visitor").annotate(Count("pk"))
    return [[str(pair), str(visitor), count] for pair, visitor, count in rows]


def answers() -> dict[str, dict[str, str]]:
    """Message -> state and text of its answer, for every answer in a chat."""
    rows = Message.objects.filter(generation__isnull=False).values_list(
        "pk", "generation__state", "generation__text", "generation__error"
    )
    return {str(pk): {"state": state, "text": text, "error": error} for pk, state, text, error in rows}


def unfinished() -> dict[str, int]:
    """How many answers and runs are not over yet."""
    return {"answers": Generation.objects.unfinished().count(), "runs": TrainingRun.objects.active().count()}


def queue_run(*, stage: str, seed: int = 0) -> int:
    """Start a run of the site's preset from its newest parent; returns its id."""
    from webapp.training import curriculum

    parent, reward_model = curriculum.usual_inputs(stage)
    return services.queue_run(
        stage=stage, preset=settings.CURRICULUM_PRESET, parent=parent, reward_model=reward_model, seed=seed
    ).pk


def run(*, pk: int) -> dict[str, Any]:
    """How a run stands, and the hash of the weights it left."""
    row = TrainingRun.objects.select_related("checkpoint").get(pk=pk)
    sha256 = row.checkpoint.weights_sha256 if row.checkpoint else None
    return {"state": row.state, "error": row.error, "step": row.step, "attempt": row.attempt, "sha256": sha256}


def resume_run(*, pk: int) -> None:
    """As a person does with a run that failed."""
    services.resume_run(run=TrainingRun.objects.get(pk=pk))


def runs() -> list[int]:
    return list(TrainingRun.objects.order_by("pk").values_list("pk", flat=True))


if __name__ == "__main__":
    name, arguments = sys.argv[1:]
    print(json.dumps(globals()[name](**json.loads(arguments))))

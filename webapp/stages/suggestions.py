"""Something to ask, for whoever does not know what: a problem with one right answer, or what votes were about.

Each is drawn anew. A problem is of the held-out kind, in a story that no practice has; a question of the arena is one
everybody may see.
"""

from __future__ import annotations

import random
import secrets

from django.db.models import Exists, OuterRef

from trainer.world import plain_problems, problems
from webapp.arena.models import Pair, Prompt, Vote
from webapp.checkpoints.models import Checkpoint

_dice = random.SystemRandom()


def a_problem(origin: Checkpoint | None) -> str:
    """One this site's model has not practised: of the shipped world, or in plain English."""
    generator = problems if origin is None else plain_problems
    return str(next(generator.generate_held_out(secrets.randbelow(2**31))).prompt)


def a_voted_question() -> tuple[str, bool]:
    """A question, and whether anybody has voted on answers to it; without votes one that may be asked of voters.

    Empty where there are no questions at all.
    """
    public = Prompt.objects.public().filter(active=True)
    of_prompt = Pair.objects.filter(prompt=OuterRef("pk"), state=Pair.State.READY)
    voted = public.filter(Exists(of_prompt.filter(Exists(Vote.objects.filter(pair=OuterRef("pk"))))))
    for questions, has_votes in ((voted, True), (public, False)):
        if pks := list(questions.values_list("pk", flat=True)):
            return Prompt.objects.get(pk=_dice.choice(pks)).text, has_votes
    return "", False

"""Something to ask, for whoever does not know what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.urls import reverse

from webapp.answers.models import Generation
from webapp.arena.models import Pair, Prompt, Vote
from webapp.checkpoints.models import Checkpoint

pytestmark = pytest.mark.django_db

MakeCheckpoint = Callable[..., Checkpoint]


def suggested(client: Client, about: str, **query: Any) -> tuple[str, dict[str, list[str]]]:
    """Where a chip leads: (path, what is filled in)."""
    where = urlsplit(client.get(reverse("stages:suggest"), {"about": about, **query}).headers["Location"])
    return where.path, parse_qs(where.query)


def test_a_problem_is_drawn_anew_and_filled_in(client: Client, make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint("init")
    drawn = {suggested(client, "problem", to="chat", checkpoint=checkpoint.pk)[1]["text"][0] for _ in range(8)}
    path, query = suggested(client, "problem", to="chat", checkpoint=checkpoint.pk)

    assert len(drawn) > 1
    assert all("?" in text for text in drawn)
    assert (path, query["checkpoint"]) == (reverse("chat:new"), [str(checkpoint.pk)])
    page = client.get(path, {"text": query["text"][0]}).content.decode()
    assert query["text"][0].split(".")[0] in page


def test_a_model_from_elsewhere_gets_problems_in_plain_english(
    client: Client, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint("sft", preset="", source="hub:somebody/something")
    monkeypatch.setattr("trainer.world.problems.generate_held_out", lambda seed: pytest.fail("of the shipped world"))

    assert suggested(client, "problem", to="compare")[0] == reverse("stages:compare")


def test_what_votes_were_about_is_what_everybody_may_see(
    client: Client, make_checkpoint: MakeCheckpoint, visitor: Any
) -> None:
    voted, *_ = prompts = [
        Prompt.objects.create(text=f"{name}?", source=source, active=active)
        for name, source, active in (
            ("Voted", "shipped", True),
            ("A secret", "chat", True),
            ("Switched off", "staff", False),
            ("Not voted", "shipped", True),
        )
    ]
    for prompt in prompts[:3]:
        a, b = (Generation.objects.create(checkpoint=make_checkpoint("sft"), messages=[]) for _ in "ab")
        pair = Pair.objects.create(kind=Pair.Kind.SELF, state=Pair.State.READY, prompt=prompt, a=a, b=b)
        Vote.objects.create(pair=pair, visitor=visitor, choice="a")

    assert {suggested(client, "votes", to="compare")[1]["text"][0] for _ in range(8)} == {voted.text}


def test_without_votes_it_says_so(client: Client) -> None:
    url = reverse("stages:suggest")
    assert "no questions for voters here" in client.get(url, {"about": "votes"}, follow=True).content.decode()

    Prompt.objects.create(text="What is a fox?", source="shipped")
    page = client.get(url, {"about": "votes"}, follow=True).content.decode()

    assert "Nobody has voted yet" in page
    assert "What is a fox?</textarea>" in page


@pytest.mark.parametrize("query", [{"about": "joke"}, {"to": "https://example.org/"}, {"checkpoint": "x"}])
def test_it_leads_nowhere_else(client: Client, query: dict[str, str]) -> None:
    assert client.get(reverse("stages:suggest"), query).status_code == 404


def test_the_chips_stand_where_somebody_asks(client: Client, make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint("sft")
    problem = f"{reverse('stages:suggest')}?about=problem&amp;to="

    assert f"{problem}compare" in client.get("/").content.decode()
    assert f"{problem}compare" in client.get(reverse("stages:compare")).content.decode()
    chat = client.get(reverse("chat:new"), {"checkpoint": checkpoint.pk}).content.decode()
    assert f"{problem}chat&amp;checkpoint={checkpoint.pk}" in chat

"""What htmx gets of a chat is what has changed; with what the page shows it makes the page as it would be loaded."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
from django.test import Client
from django.urls import reverse

from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.chat import services
from webapp.chat.models import Conversation, Message
from webapp.checkpoints.models import Checkpoint

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("enqueued")]

HTMX = {"HX-Request": "true"}
TURN = re.compile(r'(?=<div class="turn turn-question"|<article class="turn turn-answer"|<section class="offer")')


@pytest.fixture(autouse=True)
def _no_limits() -> Iterator[None]:
    with patch("webapp.accounts.limits.allow", return_value=True):
        yield


@pytest.fixture
def chat(visitor: Visitor, make_checkpoint: Callable[..., Checkpoint]) -> Conversation:
    checkpoint = make_checkpoint("sft")
    make_checkpoint("grpo")
    return services.begin_conversation(
        visitor=visitor, checkpoint=checkpoint, text="What does a fox eat?", sampling={"temperature": 0}
    )


def finish_all(text: str = "Mice and berries, mostly. ") -> None:
    for number, generation in enumerate(Generation.objects.exclude(state="done")):
        Generation.objects.filter(pk=generation.pk).update(
            state="done", text=f"{text}{generation.pk} {number}", finish_reason="length"
        )


@dataclass
class Page:
    """A tab: the pieces of the thread it shows, put together as chat.js does."""

    client: Client
    chat: Conversation
    pieces: list[str]

    @classmethod
    def load(cls, client: Client, chat: Conversation) -> Page:
        page = cls(client, chat, [])
        page.take(client.get(reverse("chat:conversation", args=[chat.pk])).content.decode())
        return page

    def take(self, html: str) -> None:
        thread = re.search(r'<div id="thread".*?</noscript>\s*</div>', html, re.DOTALL)
        assert thread, html
        head, *fresh = TURN.split(re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", thread[0]))
        kept = re.search(r'data-kept="([^"]+)"', head)
        if kept:
            last = next(n for n, piece in enumerate(self.pieces) if f'data-turn="{kept[1]}"' in piece)
            self.pieces = [*self.pieces[: last + 1], *fresh]
        else:
            self.pieces = fresh

    def value(self, name: str) -> str:
        found = re.search(rf'name="{name}" form="composer" value="([^"]*)"', self.pieces[-1])
        assert found
        return found[1].replace("&#x27;", "'")

    def post(self, name: str, pk: Any, **data: Any) -> int:
        """Do something; returns how many bytes came back."""
        shown = {"leaf": self.value("leaf"), "as_of": self.value("as_of")}
        response = self.client.post(reverse(name, args=[pk]), {**shown, **data}, headers=HTMX, follow=True)
        assert response.status_code == 200, response.content
        self.take(response.content.decode())
        return len(response.content)

    def send(self, text: str, **data: Any) -> int:
        return self.post(
            "chat:send", self.chat.pk, text=text, checkpoint=self.chat.checkpoint_id, temperature=0, **data
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Page):
            return NotImplemented
        return [" ".join(piece.split()) for piece in self.pieces] == [" ".join(piece.split()) for piece in other.pieces]

    __hash__ = None  # type: ignore[assignment]


def grow(chat: Conversation, *, turns: int) -> None:
    """A chat of so many turns, all answered."""
    text = "A long answer about what foxes eat in the woods near the river. " * 20
    while chat.messages.count() < turns:
        question = Message.objects.create(conversation=chat, parent=chat.leaf, role="user", text="And what else?")
        generation = Generation.objects.create(
            checkpoint=chat.checkpoint,
            messages=[],
            sampling=dict(services.DEFAULT_SAMPLING, seed=1),
            state="done",
            text=text,
            finish_reason="end",
        )
        answer = Message.objects.create(conversation=chat, parent=question, role="assistant", generation=generation)
        services.switch_branch(message=answer)
        chat.refresh_from_db()


def test_an_action_costs_what_changes_however_long_the_chat_is(visitor_client: Client, chat: Conversation) -> None:
    sizes = {}
    for turns in (4, 100):
        finish_all()
        grow(chat, turns=turns)
        page = Page.load(visitor_client, chat)
        sizes[turns] = page.send("And in winter, when the ground is frozen?")
    whole = len(visitor_client.get(reverse("chat:conversation", args=[chat.pk])).content)
    assert whole > 150_000
    assert sizes[100] < 12_000
    assert abs(sizes[100] - sizes[4]) < 200


def test_whatever_is_done_the_page_is_as_it_would_be_loaded(
    visitor_client: Client, chat: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(4)
    finish_all()
    page = Page.load(visitor_client, chat)
    for _ in range(40):
        chat.refresh_from_db()
        tree = services.read_tree(chat)
        path = tree.path()
        questions = [message for message in path if message.role == "user"]
        answers = [message for message in path if message.role == "assistant"]
        if tree.offered():
            page.post("arena:vote_in_chat", path[-1].pk, choice=rng.choice("ab"))
        else:
            do = rng.choice(["send", "offer", "edit", "regenerate", "continue", "switch"])
            if do == "send":
                page.send("And then?")
            elif do == "offer":
                monkeypatch.setattr(services, "offers_two_answers", lambda **_: True)
                page.send("Which one?")
                monkeypatch.setattr(services, "offers_two_answers", lambda **_: False)
            elif do == "edit":
                page.post("chat:edit", rng.choice(questions).pk, text="Differently?")
            elif do == "regenerate":
                page.post("chat:regenerate", answers[-1].pk, checkpoint=chat.checkpoint_id)
            elif do == "continue":
                page.post("chat:continue", answers[-1].pk)
            else:
                others = [other for message in path for other in tree.alternatives(message) if not other.is_offered]
                page.post("chat:switch", rng.choice(others).pk)
        assert page == Page.load(visitor_client, chat)
        finish_all()
        page = Page.load(visitor_client, chat)  # the socket tells a real one


def test_a_tab_that_missed_what_another_did_is_told_of_it(visitor_client: Client, chat: Conversation) -> None:
    finish_all()
    one = Page.load(visitor_client, chat)
    for text in ("Two?", "Three?", "Four?"):
        one.send(text)
        finish_all()
        one = Page.load(visitor_client, chat)
    other = Page.load(visitor_client, chat)
    second = Message.objects.get(text="Two?")
    fourth = Message.objects.get(text="Four?")
    other.post("chat:edit", second.pk, text="Two, differently?")
    finish_all()
    one.post("chat:switch", fourth.pk)  # still on the branch it shows, where another turn has versions now
    assert "Versions of this turn" in "".join(one.pieces)
    assert one == Page.load(visitor_client, chat)


@pytest.mark.parametrize(
    "shown",
    [
        {"leaf": "nonsense", "as_of": "yesterday"},
        {"leaf": "00000000-0000-0000-0000-000000000000", "as_of": "2026-01-01T00:00:00+00:00"},
        {"leaf": "", "as_of": ""},
    ],
)
def test_a_page_that_shows_nothing_known_gets_everything(
    visitor_client: Client, chat: Conversation, shown: dict[str, str]
) -> None:
    finish_all()
    html = visitor_client.get(reverse("chat:conversation", args=[chat.pk]), shown, headers=HTMX).content.decode()
    assert "What does a fox eat?" in html
    assert "data-kept" not in html

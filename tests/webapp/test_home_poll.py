"""The home page's poll: answered from one state per process, as the view would have answered it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from django.test import Client
from django.urls import reverse

from webapp.answers.models import Generation
from webapp.stages import poll
from webapp.stages.models import SiteAnswer
from webapp.stages.poll import HomePoll
from webapp.stages.questions import SHIPPED

pytestmark = pytest.mark.django_db(transaction=True)

HOME = reverse("stages:home")


class Asked:
    """An application that only notes that it was asked."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.times += 1
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": b"the view"})


def get(application: Any, query: str, *, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, str]:
    async def ask() -> tuple[int, str]:
        sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": sent}
        communicator = ApplicationCommunicator(application, scope)
        await communicator.send_input({"type": "http.request"})
        start = await communicator.receive_output(10)
        body = await communicator.receive_output(10)
        await communicator.wait(10)
        return start["status"], body["body"].decode()

    return asyncio.run(ask())


@pytest.fixture
def answered(make_checkpoint: Any) -> Generation:
    """Every question answered by the one checkpoint there is."""
    checkpoint = make_checkpoint("sft")
    for prompt in SHIPPED:
        generation = Generation.objects.create(checkpoint=checkpoint, messages=[], state="done", text="Mice & worms.")
        SiteAnswer.objects.create(checkpoint=checkpoint, prompt=prompt, generation=generation)
    return generation


def version() -> str:
    found = re.search(r"[?&;]v=(\w+)", Client().get(HOME).content.decode())
    assert found
    return found[1]


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> HomePoll:
    monkeypatch.setattr(poll, "FRESH_S", 0.0)
    return HomePoll(Asked())


def test_a_page_that_is_current_gets_no_answer_and_no_view(answered: Generation, application: HomePoll) -> None:
    assert get(application, f"q=0&v={version()}", hx_request="true", cookie="sessionid=x") == (204, "")


def test_what_changed_is_what_the_view_says(answered: Generation, application: HomePoll) -> None:
    old = version()
    Generation.objects.update(text="Berries.")
    status, fragment = get(application, f"q=0&v={old}", hx_request="true", cookie="csrftoken=x")
    by_view = Client().get(HOME, headers={"HX-Request": "true"}).content.decode()
    assert (status, fragment.split()) == (200, by_view.split())
    assert "Berries." in fragment


def test_who_has_a_session_is_shown_their_own_page(answered: Generation, application: HomePoll) -> None:
    assert get(application, "q=0&v=old", hx_request="true", cookie="a=b; sessionid=x") == (418, "the view")


def test_a_form_comes_from_the_view(make_checkpoint: Any, application: HomePoll) -> None:
    make_checkpoint("sft")  # nobody has asked it yet
    assert get(application, "q=0&v=old", hx_request="true") == (418, "the view")


@pytest.mark.parametrize(
    "request_",
    [
        {"query": "q=0"},
        {"query": "q=0&v=old", "hx_request": "false"},
        {"query": "q=999&v=old"},
        {"query": "q=-1&v=old"},
        {"query": "q=%00&v=old"},
        {"query": "q=0&v=old", "path": "/chat/"},
        {"query": "q=0&v=old", "method": "POST"},
    ],
)
def test_any_other_request_goes_to_django(
    answered: Generation, application: HomePoll, request_: dict[str, str]
) -> None:
    assert get(application, **{"hx_request": "true", **request_}) == (418, "the view")


def test_many_readers_cost_one_look_at_the_database(answered: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    shown = poll._show

    def look(question: int) -> Any:
        looks.append(question)
        return shown(question)

    monkeypatch.setattr(poll, "_show", look)
    monkeypatch.setattr(poll, "FRESH_S", 60.0)
    application, current = HomePoll(Asked()), version()

    async def everyone() -> set[int]:
        async def one() -> int:
            headers = [(b"hx-request", b"true")]
            query = f"q=0&v={current}".encode()
            scope = {"type": "http", "method": "GET", "path": "/", "query_string": query, "headers": headers}
            communicator = ApplicationCommunicator(application, scope)
            await communicator.send_input({"type": "http.request"})
            return int((await communicator.receive_output(10))["status"])

        return set(await asyncio.gather(*(one() for _ in range(200))))

    assert asyncio.run(everyone()) == {204}
    assert looks == [0]


def test_django_answers_behind_it(answered: Generation) -> None:
    status, page = get(HomePoll(get_asgi_application()), "", host="localhost")
    assert status == 200
    assert "Mice &amp; worms." in page

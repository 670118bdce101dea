"""Every public page, for everyone, with and without data: it renders, and nothing in it is inline."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from trainer.config import CHAT_STAGES, STAGES
from webapp.answers.models import Generation
from webapp.checkpoints.models import Checkpoint
from webapp.stages.models import SiteAnswer
from webapp.training.models import TrainingRun

pytestmark = pytest.mark.django_db

PATHS = [
    "/",
    "/?q=1",
    "/compare/",
    *(f"/stages/{slug}/" for slug in STAGES),
    "/chat/",
    "/vote/",
    "/leaderboard/",
    "/runs/",
    "/login/",
    "/signup/",
    "/nothing-here/",
]


class Markup(HTMLParser):
    """What a strict content policy, a keyboard and a screen reader care about."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.foreign: list[str] = []
        self.headings: list[str] = []
        self.html: dict[str, str | None] = {}
        self._script: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "html":
            self.html = values
        if tag == "style" or (tag == "script" and "src" not in values and values.get("type") != "application/json"):
            self.inline.append(tag)
        self.inline += [name for name in values if name == "style" or name.startswith(("on", "hx-on"))]
        self.foreign += [
            value
            for name in ("src", "href", "action")
            if (value := values.get(name)) and re.match(r"https?:|//", value)
        ]
        if name := values.get("id"):
            self.ids.append(name)
        if tag == "label" and (name := values.get("for")):
            self.targets.append(name)
        for reference in ("aria-labelledby", "aria-describedby"):
            self.targets += (values.get(reference) or "").split()
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(tag)


@pytest.fixture
def data(make_checkpoint: Callable[..., Checkpoint]) -> None:
    """A site that has been through every stage, with a run and an answer for each."""
    parent: Checkpoint | None = None
    for stage in STAGES:
        checkpoint = make_checkpoint(
            stage, parent=parent, metrics={"bits_per_byte": 2.5, "instruction_accuracy": 0.9, "agreement": 0.8}
        )
        if stage != "init":
            run = TrainingRun.objects.create(
                stage=stage, preset="smoke", parent=parent, state="done", step=20, total_steps=20, checkpoint=checkpoint
            )
            for step in (0, 10, 20):
                run.metrics.create(step=step, values={"loss": 3.0 - step / 20, "bits_per_byte": 3.0 - step / 20})
                run.samples.create(step=step, prompt="What is an LLM?", text=f"At step {step} <b>it</b> says this.")
            run.log.create(text="<script>alert(1)</script>")
        if stage in CHAT_STAGES:
            answer = Generation.objects.create(
                checkpoint=checkpoint,
                messages=[{"role": "user", "content": "What is an LLM?"}],
                sampling={"temperature": 0},
                state="done",
                text="An <script>alert(1)</script> LLM.",
            )
            SiteAnswer.objects.create(checkpoint=checkpoint, prompt="What is an LLM?", generation=answer)
        parent = checkpoint if stage != "reward" else parent


@pytest.fixture(params=["nobody", "alice", "owner"])
def browser(request: pytest.FixtureRequest, client: Client) -> Client:
    """The same pages seen by a newcomer, by an account and by the owner."""
    if request.param == "nobody":
        return client
    logged_in: Client = request.getfixturevalue(f"{request.param}_client")
    return logged_in


def check(page: str) -> Markup:
    markup = Markup(page)
    assert markup.inline == []
    assert markup.foreign == []
    assert sorted(set(markup.ids)) == sorted(markup.ids), "an id occurs twice"
    assert set(markup.targets) <= set(markup.ids), "a label or description points nowhere"
    assert markup.headings.count("h1") == 1
    assert "<script>alert" not in page
    return markup


@pytest.mark.parametrize("path", PATHS)
def test_it_renders_on_an_empty_site(browser: Client, path: str) -> None:
    response = browser.get(path, follow=True)

    assert response.status_code == (404 if path == "/nothing-here/" else 200)
    check(response.content.decode())


@pytest.mark.parametrize("path", PATHS)
def test_it_renders_with_data(data: None, browser: Client, path: str) -> None:
    response = browser.get(path, follow=True)

    assert response.status_code == (404 if path == "/nothing-here/" else 200)
    check(response.content.decode())


def test_it_renders_a_run(data: None, browser: Client) -> None:
    for run in TrainingRun.objects.all():
        response = browser.get(run.get_absolute_url())
        assert response.status_code == 200
        check(response.content.decode())


@pytest.mark.parametrize("path", PATHS)
def test_the_frame_is_the_same_everywhere(client: Client, path: str) -> None:
    page = client.get(path, follow=True).content.decode()

    assert 'href="#main"' in page
    assert 'id="main"' in page
    assert page.count('role="status"') == 1
    assert page.count('aria-label="Stages"') == 1


@pytest.mark.parametrize(("cookie", "theme"), [("dark", "dark"), ("light", "light"), ("", ""), ('"><script>', "")])
def test_the_chosen_theme_is_in_the_first_byte(client: Client, cookie: str, theme: str) -> None:
    client.cookies["theme"] = cookie

    markup = Markup(client.get("/").content.decode())

    assert markup.html["data-theme"] == theme


def test_the_policy_forbids_inline_code(client: Client) -> None:
    policy = client.get("/").headers["Content-Security-Policy"]

    assert "script-src 'self'" in policy
    assert "style-src 'self'" in policy
    assert "unsafe" not in policy


def test_only_staff_see_the_admin_link(client: Client, alice_client: Client, owner_client: Client) -> None:
    link = f'href="{reverse("admin:index")}"'

    assert link not in client.get("/").content.decode()
    assert link not in alice_client.get("/").content.decode()
    assert link in owner_client.get("/").content.decode()


def test_it_marks_where_the_reader_is(client: Client) -> None:
    page = client.get("/compare/").content.decode()

    assert 'href="/compare/" aria-current="page"' in page
    assert 'href="/vote/" aria-current' not in page


def test_the_error_page_needs_nothing_that_may_be_broken(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the database is away")

    monkeypatch.setattr("webapp.stages.views.home_page", broken)
    monkeypatch.setattr("webapp.stages.context.build_rail", broken)
    client.raise_request_exception = False

    response = client.get("/")

    assert response.status_code == 500
    check(response.content.decode())
    assert b"the database is away" not in response.content


def test_a_refused_form_explains_itself() -> None:
    client = Client(enforce_csrf_checks=True)

    response = client.post("/compare/", {"text": "hello"})

    assert response.status_code == 403


@pytest.mark.parametrize("path", ["/signup/", "/login/", "/compare/", "/chat/new/"])
def test_what_is_wrong_with_a_form_is_tied_to_its_fields(client: Client, data: None, path: str) -> None:
    page = client.post(path, {"username": "", "text": "", "temperature": "hot"}).content.decode()
    assert 'aria-invalid="true"' in page
    check(page)

"""The voting page in a real browser: keys, undo, the reveal, and answers that attack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from tests.webapp.arena_factory import finish, make_pair
from webapp.accounts.models import Visitor
from webapp.chat.models import Conversation
from webapp.chat.services import send_message

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

ATTACKS = [
    "<script>window.attacked = 1</script>",
    "<img src=x onerror='window.attacked = 1'>",
    '<b hx-get="/leaderboard/" hx-trigger="load" hx-target="body">hx</b>',
    '<div data-hx-on:load="window.attacked = 1" hx-on::load="window.attacked = 1">on</div>',
    "[click](javascript:window.attacked=1)",
    "![x](https://example.org/x.png)",
    "</section></div><form action='https://example.org/'><button>go</button></form>",
    "```html\n<script>window.attacked = 1</script>\n```",
    "<svg onload='window.attacked = 1'></svg><style>body { display: none }</style>",
    "<think><script>window.attacked = 1</script>",
]


@pytest.fixture
def page(chromium: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A page whose requests and errors are kept in `page.seen` and `page.complaints`."""
    from playwright.sync_api import sync_playwright

    # Playwright's sync API keeps an event loop in this thread; the database calls of the test are not in it.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page: Any = browser.new_page()
        page.seen, page.complaints = [], []
        page.on("request", lambda request: page.seen.append(request.url))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
        yield page
        browser.close()


def test_keys_vote_undo_and_can_be_switched_off(page: Any, live_server: Any, make_checkpoint: Any) -> None:
    from playwright.sync_api import expect

    sft = make_checkpoint("sft")
    for number in range(3):
        make_pair(sft, texts=(f"Left {number}.", f"Right {number}."))
    page.goto(live_server.url + reverse("arena:vote"))
    answers = page.locator(".answers-2")
    first = answers.inner_text()

    page.keyboard.press("3")
    expect(page.locator(".vote-made strong")).to_have_text(["Tie"])
    expect(page.locator("#status")).to_have_text("Recorded: Tie.")
    expect(page.locator("#question")).to_be_focused()
    expect(answers).not_to_have_text(first)

    page.keyboard.press("u")
    expect(page.locator(".vote-made")).to_have_count(0)
    assert answers.inner_text() == first

    page.keyboard.press("1")
    expect(page.locator(".vote-made strong")).to_have_text(["A is better"])
    page.get_by_role("button", name="Who wrote which?").click()
    expect(page.locator(".vote-made .chip-stage")).to_have_text(["Instruction fine-tuning"])
    expect(page.locator("#undo-vote")).to_have_count(0)

    page.get_by_role("button", name="Keys: on").click()
    expect(page.locator(".kbd").first).to_be_hidden()
    page.keyboard.press("2")
    page.reload()
    expect(page.get_by_role("button", name="Keys: off")).to_be_visible()
    expect(page.locator(".vote-made")).to_have_count(1)

    page.get_by_role("button", name="Skip").click()
    expect(page.locator(".vote-made strong").first).to_have_text("Skip")
    assert page.complaints == []


def test_a_vote_that_does_not_reach_the_site_is_not_lost_in_silence(
    page: Any, live_server: Any, make_checkpoint: Any
) -> None:
    from playwright.sync_api import expect

    make_pair(make_checkpoint("sft"))
    page.goto(live_server.url + reverse("arena:vote"))
    page.context.set_offline(True)
    page.keyboard.press("1")
    expect(page.locator("#vote-error")).to_have_text("Not saved: the site could not be reached. Please try again.")
    page.context.set_offline(False)
    page.keyboard.press("1")
    expect(page.locator(".vote-made")).to_have_count(1)
    expect(page.locator("#vote-error")).to_be_hidden()


@pytest.mark.usefixtures("enqueued")
def test_a_choice_in_chat_leaves_the_message_half_written_below(
    page: Any, live_server: Any, make_checkpoint: Any, visitor: Visitor, visitor_client: Client
) -> None:
    from playwright.sync_api import expect

    chat = Conversation.objects.create(visitor=visitor, checkpoint=make_checkpoint("sft"))
    question = send_message(conversation=chat, text="What is a harbour?", offer_two=True)
    for message in question.children.all():
        assert message.generation is not None
        finish(message.generation, f"Answer {message.side} to it.")
    session = visitor_client.cookies["sessionid"].value
    page.context.add_cookies([{"name": "sessionid", "value": session, "url": live_server.url}])
    page.goto(live_server.url + reverse("chat:conversation", args=[chat.pk]))
    page.get_by_label("Message", exact=True).fill("And a pier")
    page.get_by_role("button", name="B is better").click()
    expect(page.locator("[data-offer]")).to_have_count(0)
    expect(page.locator("#thread")).to_contain_text("Answer B to it.")
    expect(page.get_by_label("Message", exact=True)).to_have_value("And a pier")
    assert page.url.endswith(reverse("chat:conversation", args=[chat.pk]))


def test_answers_that_attack_run_nothing_and_fetch_nothing(page: Any, live_server: Any, make_checkpoint: Any) -> None:
    from playwright.sync_api import expect

    sft = make_checkpoint("sft")
    pairs = [make_pair(sft, texts=(attack, f"{attack} {attack}")) for attack in ATTACKS]
    for pair in pairs:
        page.goto(live_server.url + reverse("arena:cast", args=[pair.pk]))
        expect(page.locator(".answer")).to_have_count(2)
        expect(page.locator("#choose-a")).to_be_visible()
    # As the next pair, swapped in by htmx, too.
    for number in range(len(pairs) - 1):
        page.keyboard.press("4")
        expect(page.locator(".vote-made").first).to_contain_text("Both bad")
        expect(page.locator("#arena")).to_contain_text(f"You have voted {number + 1} time")
        expect(page.locator(".answer")).to_have_count(2)
    assert page.evaluate("window.attacked") is None
    assert not [url for url in page.seen if not url.startswith(live_server.url)]
    assert not [url for url in page.seen if "leaderboard" in url]
    assert page.complaints == []

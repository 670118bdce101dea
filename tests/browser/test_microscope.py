"""The token microscope in a browser: by keyboard, by mouse, by finger, on a phone, and readable by everyone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.browser.test_page_walk import TAGS
from webapp.answers.looks import Found, FoundOther, FoundToken, finish_look
from webapp.answers.models import Generation, Look
from webapp.chat import services
from webapp.chat.models import Conversation, Message

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("enqueued"),
]

WORDS = ["A", " fox", " eats", " mice", ",", " owls", ".\n", "x" * 90, " and", " berries", "."] * 3


def token(text: str, place: int) -> FoundToken:
    likely = 1 / (1 + place % 7)
    others = [FoundOther(piece=(f" other{n}", "text"), probability=likely / (n + 2), before=0.1) for n in range(5)]
    first = FoundOther(piece=(" parents", "text"), probability=0.4, before=None)
    return {
        "piece": (text, "text"),
        "probability": likely,
        "before": 0.3,
        "rank": 1 + place % 7,
        "others": others,
        "parents_first": first,
    }


FOUND = Found(
    tokens=[token(text, place) for place, text in enumerate(WORDS)],
    is_exact=True,
    parent="Instruction fine-tuning",
    no_parent="",
)


def ask(chat: Conversation, text: str = "What does a fox eat?") -> Message:
    """A question and its finished answer."""
    question = services.send_message(conversation=chat, text=text, offer_two=False)
    answer = question.children.get()
    Generation.objects.filter(message=answer).update(state="done", text="".join(WORDS), finish_reason="end")
    return answer


def find(answer: Message) -> None:
    """What a worker would have found."""
    Look.objects.get_or_create(generation_id=answer.generation_id)
    finish_look(look=Look.objects.get(pk=answer.generation_id), found=FOUND)


async def watched(page: Page) -> list[str]:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    return said


async def test_it_opens_when_a_worker_has_looked_and_is_walked_by_keyboard(
    open_page: Callable[..., Any], chat: Conversation
) -> None:
    answer = await sync_to_async(ask)(chat)
    page = await open_page()
    complaints = await watched(page)
    await page.goto(f"/chat/{chat.pk}/")
    link = page.get_by_role("link", name="Tokens")
    await link.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("[data-microscope]")).to_contain_text("Looking into the answer")
    await sync_to_async(find)(answer)

    tokens = page.get_by_role("group", name="Tokens").get_by_role("button")
    await expect(tokens).to_have_count(len(WORDS))
    await expect(tokens.nth(0)).to_be_focused()  # who opened it goes on in it
    await expect(page.locator("[data-answer]")).to_be_hidden()
    assert await page.locator(".token[tabindex='0']").count() == 1
    sentence = page.locator("[aria-live=polite][data-sentence]")
    await expect(sentence).to_contain_text("“A”: over 99.9")

    await page.keyboard.press("ArrowRight")
    await expect(tokens.nth(1)).to_be_focused()
    await expect(tokens.nth(1)).to_have_attribute("aria-label", re.compile("“ fox”, 50"))
    await expect(sentence).to_contain_text("the model's second choice; 1.7 times likelier than to its parent")
    await expect(page.locator("[data-bars] li")).to_have_count(6)
    await expect(page.locator("[data-bars] .is-written")).to_contain_text("·fox")
    await page.keyboard.press("End")
    await expect(tokens.last).to_be_focused()
    await page.keyboard.press("ArrowRight")
    await expect(tokens.last).to_be_focused()
    await page.keyboard.press("Home")
    await expect(tokens.nth(0)).to_be_focused()
    await page.keyboard.press("ArrowDown")
    below = await page.evaluate("[...document.querySelectorAll('.token')].indexOf(document.activeElement)")
    assert below > 6  # on another line
    await page.keyboard.press("ArrowUp")
    await expect(tokens.nth(0)).to_be_focused()
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.closest('.tokens')") is None  # they are one stop

    await tokens.nth(0).focus()
    await page.keyboard.press("Escape")
    await expect(page.locator("[data-microscope]")).to_have_count(0)
    await expect(page.locator("[data-answer]")).to_be_visible()
    await expect(link).to_be_focused()
    await expect(link).to_have_attribute("aria-expanded", "false")
    assert complaints == []


async def test_a_mouse_hovers_and_the_button_closes(open_page: Callable[..., Any], chat: Conversation) -> None:
    await sync_to_async(lambda: find(ask(chat)))()
    page = await open_page()
    await page.goto(f"/chat/{chat.pk}/")
    await page.get_by_role("link", name="Tokens").click()
    await page.locator(".token").nth(3).hover()
    await expect(page.locator("[data-sentence]")).to_contain_text("“ mice”")
    await expect(page.locator(".token[aria-current]")).to_have_text(" mice")
    await page.get_by_role("link", name="token 7").first.click()  # the least expected
    await expect(page.locator(".token").nth(6)).to_be_focused()
    await page.get_by_role("link", name="Tokens").click()
    await expect(page.locator("[data-microscope]")).to_have_count(0)
    await expect(page.locator("[data-answer]")).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_on_a_phone_everything_stays_on_the_screen_and_can_be_read(
    open_page: Callable[..., Any], chat: Conversation, theme: str
) -> None:
    answer = await sync_to_async(ask)(chat)
    await sync_to_async(find)(answer)
    page = await open_page(theme, 390, bypass_csp=True)  # which would keep axe from being injected
    complaints = await watched(page)
    await page.goto(f"/chat/{chat.pk}/")
    await page.get_by_role("link", name="Tokens").click()
    await page.locator(".token").nth(9).click()
    await expect(page.locator("[data-sentence]")).to_contain_text("“ berries”")
    await expect(page.locator("[data-card]")).to_be_in_viewport()
    for path in (None, f"/chat/message/{answer.pk}/tokens/"):
        if path:
            await page.goto(path)
            await expect(page.get_by_role("table")).to_contain_text("·berries")
        found = await Axe().run(page, options={"runOnly": TAGS})
        assert [one["id"] for one in found.response["violations"]] == []
        assert not await page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert complaints == []


async def test_beside_the_answers_of_every_stage_it_opens_in_its_column(
    open_page: Callable[..., Any], chat: Conversation
) -> None:
    def compare() -> Conversation:
        asked = services.ask_checkpoints(visitor=chat.visitor, checkpoints=[chat.checkpoint], text="Why?")
        answer = asked.messages.get(role="assistant")
        Generation.objects.filter(message=answer).update(state="done", text="A fox.", finish_reason="end")
        find(answer)
        return asked

    asked = await sync_to_async(compare)()
    page = await open_page()
    complaints = await watched(page)
    await page.goto(f"/compare/{asked.pk}/")
    await page.get_by_role("link", name="Tokens").click()
    await expect(page.locator(".column .token")).to_have_count(len(WORDS))
    assert not await page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert complaints == []


async def test_what_cannot_be_reached_is_said(open_page: Callable[..., Any], chat: Conversation) -> None:
    await sync_to_async(ask)(chat)
    page = await open_page()
    await page.goto(f"/chat/{chat.pk}/")
    await page.route(re.compile("/tokens/"), lambda route: route.abort())
    await page.get_by_role("link", name="Tokens").click()
    await expect(page.locator("[data-trouble]")).to_contain_text("could not be reached")
    await expect(page.locator("#status")).to_contain_text("could not be reached")
    await expect(page.locator("[data-answer]")).to_be_visible()

"""A page from before a log-in in another tab says what helps, instead of "try again" for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from playwright.async_api import Page, expect

from tests.conftest import PASSWORD
from tests.webapp.arena_factory import make_pair
from webapp.chat.models import Conversation

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("enqueued", "alice"),
]


async def log_in_elsewhere(page: Page) -> None:
    other = await page.context.new_page()
    await other.goto("/login/")
    await other.get_by_label("Username").fill("alice")
    await other.get_by_label("Password").fill(PASSWORD)
    await other.get_by_role("button", name="Log in").click()
    await expect(other.get_by_role("button", name="Log out")).to_be_attached()


async def test_a_vote_says_to_reload(open_page: Callable[..., Any], make_checkpoint: Callable[..., Any]) -> None:
    pair = await sync_to_async(lambda: make_pair(make_checkpoint("sft")))()
    page = await open_page()
    await page.goto(f"/vote/{pair.pk}/")
    await log_in_elsewhere(page)
    await page.keyboard.press("1")
    await expect(page.locator("#vote-error")).to_have_text("Not saved: this page is out of date. Reload it, then vote.")
    await page.reload()
    await page.keyboard.press("1")
    await expect(page.locator(".vote-made")).to_have_count(1)


async def test_a_chat_says_to_reload_and_keeps_the_text(
    open_page: Callable[..., Any], visitor: Any, make_checkpoint: Callable[..., Any]
) -> None:
    checkpoint = await sync_to_async(make_checkpoint)("sft")
    chat = await Conversation.objects.acreate(visitor=visitor, checkpoint=checkpoint, title="Foxes")
    page = await open_page()
    await page.goto(f"/chat/{chat.pk}/")
    await log_in_elsewhere(page)
    message = page.get_by_label("Message", exact=True)
    error = page.locator("#composer-error")
    for cause in ("send", "settings"):
        if cause == "send":
            await message.fill("What does a fox eat?")
            await page.get_by_role("button", name="Send").click()
        else:
            await page.get_by_text("How the words are chosen").click()
            await page.get_by_label("Top-k").fill("5")
            await page.get_by_label("Top-k").blur()
        await expect(error).to_have_text("This page is out of date. Copy your text, reload the page, then send it.")
        await expect(message).to_have_value("What does a fox eat?")
        await page.evaluate("document.getElementById('composer-error').textContent = ''")

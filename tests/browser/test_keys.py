"""Shortcuts on keyboards that write other letters, and words that are composed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from playwright.async_api import Page, expect

from tests.webapp.arena_factory import finish, make_pair
from webapp.arena.models import Vote
from webapp.chat import services
from webapp.chat.models import Conversation, Message

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("enqueued"),
]

PLACES = {"1": "Digit1", "4": "Digit4", "s": "KeyS", "u": "KeyU", "/": "Slash"}


def layout(letters: str, places: dict[str, str] = PLACES) -> dict[str, tuple[str, str]]:
    return {key: (letter, place) for (key, place), letter in zip(places.items(), letters, strict=True)}


LAYOUTS = {
    "Latin": layout("14su/"),
    "Cyrillic": layout("14ыг."),
    "Greek": layout("14σθ/"),
    "AZERTY": layout("&'su!"),
    "Czech": layout("+čsu-"),
    "Arabic": layout("١٤سعظ"),
    "Dvorak": layout("14su/", PLACES | {"s": "Semicolon", "u": "KeyF", "/": "BracketLeft"}),
}
"""What the keys for 1, 4, S, U and / type there, and where they are."""


async def press(page: Page, key: str, code: str, *, at: str = "body", **more: Any) -> None:
    event = {"key": key, "code": code, "bubbles": True, "cancelable": True, **more}
    await page.locator(at).dispatch_event("keydown", event)


async def test_votes_are_cast_skipped_and_undone_on_every_layout(
    open_page: Callable[..., Any], make_checkpoint: Callable[..., Any]
) -> None:
    sft = await sync_to_async(make_checkpoint)("sft")
    page = await open_page()
    made = page.locator(".vote-made strong")
    for name, keys in LAYOUTS.items():
        await Vote.objects.all().adelete()
        for number in range(3):
            await sync_to_async(make_pair)(sft, texts=(f"{name}, left {number}.", f"{name}, right {number}."))
        await page.goto("/vote/")
        await expect(made).to_have_count(0)
        await press(page, *keys["1"])
        await expect(made).to_have_text(["A is better"])
        await press(page, *keys["u"])
        await expect(made).to_have_count(0)
        await press(page, *keys["4"])
        await expect(made).to_have_text(["Both bad"])
        await press(page, *keys["s"])
        await expect(made.first).to_have_text("Skip")


async def test_a_key_that_types_another_letter_or_sign_is_not_ours(
    open_page: Callable[..., Any], make_checkpoint: Callable[..., Any]
) -> None:
    sft = await sync_to_async(make_checkpoint)("sft")
    for number in range(2):
        await sync_to_async(make_pair)(sft, texts=(f"Left {number}.", f"Right {number}."))
    page = await open_page()
    await page.goto("/vote/")
    await press(page, "o", "KeyS")  # Dvorak
    await press(page, "!", "Digit1", shiftKey=True)
    await press(page, "&", "Digit1", isComposing=True)
    await press(page, "Process", "Digit1", keyCode=229)
    await press(page, "&", "Digit1", ctrlKey=True)
    await press(page, "3", "Digit3")
    await expect(page.locator(".vote-made strong")).to_have_text(["Tie"])  # the first of these that counts
    assert await Vote.objects.acount() == 1


def ask_for_two(chat: Conversation, text: str) -> None:
    question = services.send_message(conversation=chat, text=text, offer_two=True)
    for message in question.children.all():
        assert message.generation is not None
        finish(message.generation, f"Answer {message.side} to it.")


async def test_a_choice_in_chat_and_the_way_to_the_message_work_on_every_layout(
    open_page: Callable[..., Any], chat: Conversation
) -> None:
    page = await open_page()
    for name, keys in LAYOUTS.items():
        await sync_to_async(ask_for_two)(chat, f"What is a pier in {name}?")
        await page.goto(f"/chat/{chat.pk}/")
        await expect(page.locator("[data-offer]")).to_have_count(1)
        await press(page, *keys["1"])
        await expect(page.locator("[data-offer]")).to_have_count(0)
        await expect(page.locator("#thread .turn").last).to_contain_text("Answer A to it.")
        await press(page, *keys["/"])
        await expect(page.get_by_label("Message", exact=True)).to_be_focused()
        chat = await Conversation.objects.aget(pk=chat.pk)


@pytest.mark.parametrize("composing", [{"isComposing": True}, {"keyCode": 229}])
async def test_enter_that_confirms_a_composition_does_not_send(
    open_page: Callable[..., Any], chat: Conversation, composing: dict[str, Any]
) -> None:
    page = await open_page()
    await page.goto(f"/chat/{chat.pk}/")
    message = page.get_by_label("Message", exact=True)
    await message.fill("きつね")
    await press(page, "Enter", "Enter", at="#composer textarea", **composing)
    await message.press("End")
    await message.type("は")
    await expect(message).to_have_value("きつねは")
    assert await Message.objects.acount() == 0
    await press(page, "Enter", "Enter", at="#composer textarea", keyCode=13)
    await expect(page.locator(".turn").first).to_contain_text("きつねは")
    assert await Message.objects.filter(role="user").acount() == 1

"""What the chat page's script does with the thread: going on by itself, keeping the reader's place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from playwright.async_api import expect

from webapp.answers.models import Generation
from webapp.chat import services
from webapp.chat.models import Conversation, Message

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("enqueued"),
]


def finish(message: Message, text: str) -> Message:
    """The model has written this."""
    Generation.objects.filter(message=message).update(state="done", text=text, finish_reason="end")
    return Message.objects.get(pk=message.pk)


async def test_two_answers_that_come_out_the_same_are_passed_over(
    open_page: Callable[..., Any], chat: Conversation
) -> None:
    """The server's end of the socket is played here."""
    question = await sync_to_async(services.send_message)(conversation=chat, text="What?", offer_two=True)
    page = await open_page()

    def serve(socket: Any) -> None:
        async def answer(received: str | bytes) -> None:
            message = await Message.objects.aget(pk=json.loads(received)["message"])
            await sync_to_async(finish)(message, "Mice.")
            end = {"type": "end", "message": str(message.pk), "state": "done", "finish_reason": "end", "error": ""}
            socket.send(json.dumps({**end, "text": "Mice.", "html": "<p>Mice.</p>"}))

        socket.on_message(answer)

    await page.route_web_socket(re.compile("/ws/chat/"), serve)
    await page.goto(f"/chat/{chat.pk}/")
    await expect(page.get_by_text("Both answers came out the same.")).to_be_visible()
    await expect(page.locator("[data-offer]")).to_have_count(0)
    assert await question.children.filter(chosen=True).acount() == 0  # looking writes nothing, going on does
    await sync_to_async(services.send_message)(conversation=chat, text="And?", offer_two=False)
    assert await question.children.filter(chosen=True).acount() == 1


def ask(chat: Conversation, text: str) -> Message:
    question = services.send_message(conversation=chat, text=text, offer_two=False)
    return finish(question.children.get(), "It eats mice, berries and what else it finds.")


def fill_two_branches(chat: Conversation) -> None:
    """A first answer in two versions, a long conversation below each."""
    first = ask(chat, "What does a fox eat?")
    for number in range(12):
        ask(chat, f"And in month {number}?")
    finish(services.regenerate_answer(message=first), "Mice.")
    for number in range(12):
        ask(chat, f"And in year {number}?")


async def test_browsing_versions_by_keyboard_keeps_focus_and_place(
    open_page: Callable[..., Any], chat: Conversation
) -> None:
    await sync_to_async(fill_two_branches)(chat)
    page = await open_page()
    await page.goto(f"/chat/{chat.pk}/")
    versions = page.get_by_role("group", name="Versions of this turn")
    for key_goes_to, control in (("1/2", "Previous version"), ("2/2", "Next version")):
        await versions.get_by_label(control).focus()
        await page.keyboard.press("Enter")
        await expect(versions).to_contain_text(key_goes_to)
        await expect(versions.get_by_label(control)).to_be_focused()
        await expect(versions.get_by_label(control)).to_be_in_viewport()
        await expect(page).to_have_url(re.compile(rf"/chat/{chat.pk}/$"))  # which can be loaded again
    await page.get_by_label("Message", exact=True).fill("And you?")
    await page.keyboard.press("Enter")
    await expect(page.locator(".turn").last).to_be_in_viewport()
    await expect(versions).not_to_be_in_viewport()


async def test_older_chats_come_into_the_list_and_the_address(
    open_page: Callable[..., Any], chat: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.chat.views.CHATS_PER_PAGE", 1)
    await Conversation.objects.acreate(visitor=chat.visitor, checkpoint=chat.checkpoint, title="Owls")
    page = await open_page()
    await page.goto("/chat/")
    await page.get_by_label("Message", exact=True).fill("Half a thought")
    await page.get_by_role("link", name="Older").click()
    await expect(page.locator("#history")).to_contain_text("Foxes")
    await expect(page).to_have_url(re.compile(r"\?page=2$"))
    await expect(page.get_by_label("Message", exact=True)).to_have_value("Half a thought")


async def test_what_is_shown_stays_on_the_page_and_what_is_new_works(
    open_page: Callable[..., Any], chat: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By the chat's id one in three turns offers two answers, which would be one turn more.
    monkeypatch.setattr(services, "offers_two_answers", lambda **_: False)

    def fill() -> None:
        for number in range(3):
            ask(chat, f"And in month {number}?")

    await sync_to_async(fill)()
    page = await open_page()
    await page.goto(f"/chat/{chat.pk}/")
    await page.evaluate("document.querySelectorAll('.turn').forEach((turn) => { turn.wasHere = true; })")
    await page.get_by_label("Message", exact=True).fill("And now?")
    await page.keyboard.press("Enter")
    await expect(page.locator(".turn")).to_have_count(8)
    await expect(page.get_by_label("Message", exact=True)).to_have_value("")
    known = await page.locator(".turn").evaluate_all("(turns) => turns.map((turn) => Boolean(turn.wasHere))")
    assert known == [True] * 5 + [False] * 3  # the last one had buttons that only the last has
    await expect(page.locator("#regenerate")).to_have_count(1)

    newest = await Message.objects.filter(role="assistant").order_by("created_at").alast()
    assert newest is not None
    await sync_to_async(finish)(newest, "It sleeps.")
    await page.reload()
    await page.locator("summary", has_text="Edit").last.click()
    await page.locator(".edit[open] textarea").fill("And later?")
    await page.get_by_role("button", name="Ask this instead").last.click()
    await expect(page.locator(".bubble-user").last).to_have_text("And later?")
    await expect(page.get_by_role("group", name="Versions of this turn").last).to_contain_text("2/2")
    await expect(page.locator(".turn")).to_have_count(8)
    await page.get_by_label("Previous version").last.click()  # a form that came with the answer to another
    await expect(page.locator(".turn").last).to_contain_text("It sleeps.")
    assert await page.locator("[name=leaf]").count() == 1


async def test_a_page_that_is_one_too_many_says_so(open_page: Callable[..., Any], chat: Conversation) -> None:
    await sync_to_async(services.send_message)(conversation=chat, text="What?", offer_two=False)
    page = await open_page()
    await page.route_web_socket(re.compile("/ws/chat/"), lambda socket: socket.close(code=4429))
    await page.goto(f"/chat/{chat.pk}/")
    await expect(page.locator("#composer-error")).to_contain_text("Close some of them, then reload this one.")


async def test_new_text_is_offered_only_while_it_comes(open_page: Callable[..., Any], chat: Conversation) -> None:
    """The server's end of the socket is played here; the reader is further up."""

    def fill() -> Message:
        for number in range(12):
            ask(chat, f"And in month {number}?")
        return services.send_message(conversation=chat, text="And now?", offer_two=False).children.get()

    message = await sync_to_async(fill)()
    sockets: list[Any] = []
    page = await open_page("light", 390)
    await page.route_web_socket(re.compile("/ws/chat/"), lambda socket: sockets.append(socket))
    await page.goto(f"/chat/{chat.pk}/")
    answer, jump = page.locator("[data-answer]").last, page.get_by_role("button", name="↓ new text")
    await page.evaluate("window.scrollTo(0, 0)")
    for number, text in enumerate((" ", " It sleeps")):  # a continuation begins with a space
        token = {"type": "token", "message": str(message.pk), "after": str(number), "id": str(number + 1)}
        sockets[0].send(json.dumps({**token, "text": text}))
    await expect(jump).to_be_visible()
    assert await answer.evaluate("(answer) => answer.textContent") == "It sleeps"
    end = {"type": "end", "message": str(message.pk), "state": "done", "finish_reason": "end", "error": ""}
    sockets[0].send(json.dumps({**end, "text": "It sleeps.", "html": "<p>It sleeps.</p>"}))
    await expect(answer).to_have_text("It sleeps.")
    await expect(jump).to_be_hidden()

"""Whatever a model writes, a real browser runs none of it, loads none of it and shows it as text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.webapp.test_chat_rendering import PAYLOADS, WRAPPERS
from webapp.answers.models import Generation
from webapp.answers.rendering import render_answer
from webapp.chat import services
from webapp.chat.models import Conversation, Message

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("enqueued")]

# PostgreSQL stores no NUL, and the worker never writes one.
WITH_AND_WITHOUT_CSP = [False, pytest.param(True, marks=pytest.mark.attack)]
"""Whether the browser ignores the CSP: rendering alone must hold, and the CSP would hide where it does not."""
HOSTILE = [wrapper.format(payload.replace("\0", "")) for wrapper in WRAPPERS for payload in PAYLOADS]


@pytest.fixture
def chat(transactional_db: None, visitor: Any, make_checkpoint: Callable[..., Any]) -> Conversation:
    """A conversation in which every answer is an attack."""
    chat = Conversation.objects.create(visitor=visitor, checkpoint=make_checkpoint("sft"), title="<img src=x>")
    last: Message | None = None
    for number in range(0, len(HOSTILE), 25):
        question = Message.objects.create(conversation=chat, parent=last, role="user", text=HOSTILE[number])
        answer = Generation.objects.create(
            checkpoint=chat.checkpoint,
            messages=[],
            sampling=services.DEFAULT_SAMPLING,
            state="done",
            text="\n\n".join(HOSTILE[number : number + 25]),
        )
        last = Message.objects.create(conversation=chat, parent=question, role="assistant", generation=answer)
    chat.leaf = last
    chat.save()
    return chat


def watch(page: Page, own_address: str) -> list[str]:
    """Collects what must not happen: dialogs, script errors, requests to anywhere else."""
    bad: list[str] = []

    def requested(request: Any) -> None:
        if not request.url.startswith((own_address, "data:")):
            bad.append(f"request to {request.url}")

    async def asked(dialog: Any) -> None:
        bad.append(f"dialog {dialog.message}")
        await dialog.dismiss()

    page.on("request", requested)
    page.on("dialog", asked)
    page.on("pageerror", lambda error: bad.append(f"error {error}"))
    return bad


async def live_attributes(page: Page) -> list[str]:
    """Attributes inside answers, beyond those of the folded thinking and the copy buttons."""
    found: list[str] = await page.evaluate(
        """() => [...document.querySelectorAll("[data-answer] *")]
            .filter((element) => !element.closest(".code-box > button"))
            .flatMap((element) => [...element.attributes].map((one) => `${one.name}=${one.value}`))"""
    )
    return sorted(set(found) - {"class=drawer", "class=code-box"})


@pytest.mark.parametrize("bypass_csp", WITH_AND_WITHOUT_CSP)
async def test_stored_answers_are_text(
    open_page: Callable[..., Any], live_server: Any, chat: Conversation, bypass_csp: bool
) -> None:
    page = await open_page(bypass_csp=bypass_csp)
    bad = watch(page, live_server.url)
    await page.goto(f"/chat/{chat.pk}/")
    await expect(page.locator(".turn-answer")).to_have_count(10)
    assert await live_attributes(page) == []
    await page.goto("/chat/")
    await expect(page.get_by_role("link", name="<img src=x>")).to_be_visible()
    assert bad == []


@pytest.mark.parametrize("bypass_csp", WITH_AND_WITHOUT_CSP)
async def test_streamed_answers_are_text_at_every_cut(
    open_page: Callable[..., Any], live_server: Any, chat: Conversation, bypass_csp: bool
) -> None:
    """The server's end of the socket is played here: every payload in pieces of three characters."""
    assert chat.leaf is not None
    await Generation.objects.filter(message=chat.leaf).aupdate(state="running", text="")
    text = "\n\n".join(HOSTILE)
    page = await open_page(bypass_csp=bypass_csp)
    bad = watch(page, live_server.url)

    def serve(socket: Any) -> None:
        def answer(received: str | bytes) -> None:
            message = json.loads(received)["message"]
            seen = "0"
            for number, start in enumerate(range(0, len(text), 3), start=1):
                place = {"type": "token", "message": message, "after": seen, "id": f"{number}-0"}
                socket.send(json.dumps({**place, "text": text[start : start + 3]}))
                seen = place["id"]
            end = {"type": "end", "message": message, "state": "done", "finish_reason": "end", "error": ""}
            socket.send(json.dumps({**end, "text": text, "html": render_answer(text)}))

        socket.on_message(answer)

    await page.route_web_socket(re.compile("/ws/chat/"), serve)
    await page.goto(f"/chat/{chat.pk}/")
    live = page.locator(f'[data-message="{chat.leaf.pk}"]')
    await expect(live).to_have_attribute("data-state", "done", timeout=30_000)
    assert await live.locator("[data-answer]").get_attribute("data-text") == text
    assert await live_attributes(page) == []
    assert bad == []


async def test_text_is_shown_exactly_as_it_came(open_page: Callable[..., Any], chat: Conversation) -> None:
    """Pieces that belong to an earlier request are left out, so nothing is doubled or lost."""
    assert chat.leaf is not None
    await Generation.objects.filter(message=chat.leaf).aupdate(state="running", text="")
    pieces = [("0", "1-0", "A "), ("7-0", "8-0", "LATE"), ("1-0", "2-0", "<b>fox</b>"), ("1-0", "2-0", "<b>fox</b>")]
    page = await open_page()

    def serve(socket: Any) -> None:
        def answer(received: str | bytes) -> None:
            message = json.loads(received)["message"]
            for after, event_id, text in pieces:
                frame = {"type": "token", "message": message, "after": after, "id": event_id, "text": text}
                socket.send(json.dumps(frame))

        socket.on_message(answer)

    await page.route_web_socket(re.compile("/ws/chat/"), serve)
    await page.goto(f"/chat/{chat.pk}/")
    live = page.locator(f'[data-message="{chat.leaf.pk}"] [data-answer]')
    await expect(live).to_have_text("A <b>fox</b>")

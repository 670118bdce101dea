"""What the scripts of live pages do for whoever is using them: an error is seen, the focus and what is open stay."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from playwright.async_api import Page, expect

from webapp.accounts.models import Visitor
from webapp.chat import services as chats
from webapp.chat.models import Conversation
from webapp.stages.services import ask_all_stages
from webapp.training import services
from webapp.training.events import Logged, Measured, Started
from webapp.training.models import TrainingRun

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("enqueued"),
]


@pytest.fixture
def comparison(visitor: Visitor, make_checkpoint: Callable[..., Any]) -> Conversation:
    for stage in ("init", "pretrain"):
        make_checkpoint(stage)
    return ask_all_stages(visitor=visitor, text="Hello", sampling=dict(chats.DEFAULT_SAMPLING))


@pytest.fixture
def run(make_checkpoint: Callable[..., Any]) -> TrainingRun:
    """A run that has begun and measured nothing yet."""
    queued = services.queue_run(stage="sft", preset="smoke", parent=make_checkpoint("pretrain"))
    claimed = services.claim_run(run_id=queued.pk, worker="worker")
    assert claimed is not None
    services.record_event(run=claimed, event=Started(step=0, total_steps=10))
    return claimed


async def served(page: Page, path: str, answer: Callable[[Any, Any], None] = lambda socket, frame: None) -> list[Any]:
    """Plays the server's end of the page's socket; the list gets the sockets that are opened."""
    sockets: list[Any] = []

    def serve(socket: Any) -> None:
        sockets.append(socket)
        socket.on_message(lambda text: answer(socket, json.loads(text)))

    await page.route_web_socket(re.compile(path), serve)
    return sockets


async def test_a_comparison_can_be_stopped(open_page: Callable[..., Any], comparison: Conversation) -> None:
    def stop(socket: Any, frame: Any) -> None:
        if frame["type"] == "stop":
            end = {"type": "end", "message": frame["message"], "state": "stopped", "finish_reason": "stopped"}
            socket.send(json.dumps({**end, "text": "", "html": "", "error": ""}))

    page = await open_page()
    await served(page, "/ws/chat/", stop)
    await page.goto(f"/compare/{comparison.pk}/")
    button = page.get_by_role("button", name="Stop")
    await button.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("[data-note]")).to_have_text(["Stopped.", "Stopped."])
    await expect(button).to_be_hidden()
    await expect(page.locator("#ask textarea")).to_be_focused()


async def test_a_comparison_shows_what_went_wrong(open_page: Callable[..., Any], comparison: Conversation) -> None:
    def complain(socket: Any, frame: Any) -> None:
        socket.send(json.dumps({"type": "error", "text": "The models cannot be reached."}))

    page = await open_page()
    await served(page, "/ws/chat/", complain)
    await page.goto(f"/compare/{comparison.pk}/")
    await expect(page.locator("#compare-error")).to_be_visible()
    await expect(page.locator("#compare-error")).to_have_text("The models cannot be reached.")


async def test_the_focus_goes_from_a_button_that_is_hidden_to_the_message(
    open_page: Callable[..., Any], chat: Conversation
) -> None:
    page = await open_page()
    await served(page, "/ws/chat/")
    await page.goto(f"/chat/{chat.pk}/")
    message = page.get_by_label("Message", exact=True)
    await message.fill("What does a fox eat?")
    await page.get_by_role("button", name="Send").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#stop")).to_be_visible()
    await expect(message).to_be_focused()


async def test_the_table_of_figures_appears_and_follows_while_it_is_open(
    open_page: Callable[..., Any], run: TrainingRun
) -> None:
    page = await open_page()
    sockets = await served(page, "/ws/runs/")
    await page.goto(run.get_absolute_url())
    rows = page.locator("#run-table tbody tr")
    await expect(page.locator("#run-table")).to_contain_text("No figures yet.")
    for step in (1, 2):
        await sync_to_async(services.record_event)(run=run, event=Measured(step=step, values={"loss": 3.0 / step}))
        sockets[0].send(json.dumps({"type": "metrics", "step": step, "values": {"loss": 3.0 / step}}))
        if step == 1:
            await page.get_by_text("The figures as a table").click()  # closed at first: there are the charts
        else:
            sockets[0].send(json.dumps({"type": "samples", "step": step}))
        await expect(rows).to_have_count(step)
        await expect(rows.last).to_be_visible()
        await expect(page.locator("#run-table summary")).to_be_focused()


async def test_a_share_that_arrives_live_says_what_it_is_of(open_page: Callable[..., Any], run: TrainingRun) -> None:
    page = await open_page()
    sockets = await served(page, "/ws/runs/")
    await page.goto(run.get_absolute_url())
    values = {"instruction_accuracy": 0.5, "held_out_questions": 200}
    sockets[0].send(json.dumps({"type": "metrics", "step": 1, "values": values}))
    await expect(page.locator("#run-metrics label")).to_have_text(
        ["Held-out questions answered right, of 200 questions"]
    )
    await expect(page.locator("#run-charts h3")).to_contain_text("of 200 questions")


async def test_an_alarm_leaves_an_open_confirmation_alone(
    open_page: Callable[..., Any], run: TrainingRun, staff: Any, staff_client: Any, visitor_client: Any
) -> None:
    visitor_client.cookies["sessionid"] = staff_client.cookies["sessionid"].value
    page = await open_page()
    sockets = await served(page, "/ws/runs/")
    await page.goto(run.get_absolute_url())
    await page.get_by_text("Discard…").click()
    button = page.get_by_role("button", name=f"Discard run {run.pk}")
    await button.focus()
    await sync_to_async(services.record_event)(run=run, event=Logged(step=1, text="Too long.", level="alarm"))
    sockets[0].send(json.dumps({"type": "alarm", "text": "Too long."}))
    await expect(page.locator("#run-log")).to_contain_text("Too long.")  # the page has been fetched again
    await expect(button).to_be_focused()
    await expect(page.locator("#run-head .alarm")).to_have_count(0)
    await button.blur()
    await expect(page.locator("#run-head .alarm")).to_have_text("Step 1: Too long.")
    await expect(button).to_be_visible()

"""The chat socket: every event once whatever happens to the connection, and nothing for strangers."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.answers.services import finish_generation, stop_key
from webapp.asgi import application
from webapp.chat import consumers, services
from webapp.chat.models import Conversation, Message
from webapp.live import streams
from webapp.live.sockets import TRY_AGAIN

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("enqueued")]

Frame = dict[str, Any]


@pytest.fixture
def chat(visitor: Visitor, make_checkpoint: Callable[..., Any]) -> Conversation:
    return Conversation.objects.create(
        visitor=visitor, checkpoint=make_checkpoint("sft"), sampling=dict(services.DEFAULT_SAMPLING)
    )


@pytest.fixture
def answer(chat: Conversation) -> Message:
    """An answer a worker has claimed and says nothing of yet."""
    question = services.send_message(conversation=chat, text="What does a fox eat?", offer_two=False)
    message = question.children.get()
    Generation.objects.filter(message=message).update(state=Generation.State.RUNNING)
    streams.client().set(f"generation:{message.generation_id}:alive", 1)
    return Message.objects.select_related("generation").get(pk=message.pk)


def write(answer: Message, *pieces: str) -> str:
    """The worker writes; returns the id of the last event."""
    assert answer.generation is not None
    last = "0"
    for piece in pieces:
        last = streams.append(answer.generation.stream_key, {"type": "token", "text": piece})
    return last


def end(answer: Message, text: str, *, state: str = "done") -> None:
    assert answer.generation is not None
    finish_generation(generation=answer.generation, state=state, text=text, finish_reason="end")


def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Awaitable[Any]:
    """Blocking code, in the thread the database belongs to."""
    return sync_to_async(function)(*args, **kwargs)


class Socket(ApplicationCommunicator):
    """A browser's end of a chat socket. (The one in channels.testing needs daphne.)"""

    async def open(self) -> tuple[bool, int]:
        """(accepted, close code)"""
        await self.send_input({"type": "websocket.connect"})
        answer = await self.receive_output(timeout=20)
        return answer["type"] == "websocket.accept", answer.get("code", 0)

    async def is_refused(self) -> bool:
        """Whether it is opened and closed at once, so that a browser can tell this from a network that broke."""
        return await self.open() == (True, 0) and await is_closed(self)

    async def send_frame(self, content: Any) -> None:
        await self.send_input({"type": "websocket.receive", "text": json.dumps(content)})

    async def frame(self) -> Frame:
        output = await self.receive_output(timeout=20)
        assert output["type"] == "websocket.send", output
        received: Frame = json.loads(output["text"])
        return received

    async def frames(self) -> list[Frame]:
        """Every frame up to the end of an answer."""
        frames = [await self.frame()]
        while frames[-1]["type"] != "end":
            frames.append(await self.frame())
        return frames

    async def close(self) -> None:
        await self.send_input({"type": "websocket.disconnect", "code": 1001})
        await self.wait(timeout=20)


def socket_of(client: Client, conversation_id: uuid.UUID, *, origin: bytes = b"http://localhost") -> Socket:
    cookie = client.cookies.get(settings.SESSION_COOKIE_NAME)
    session = f"{settings.SESSION_COOKIE_NAME}={cookie.value if cookie else ''}"
    scope = {
        "type": "websocket",
        "path": f"/ws/chat/{conversation_id}/",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"origin", origin), (b"cookie", session.encode())],
        "subprotocols": [],
    }
    return Socket(application, scope)


@asynccontextmanager
async def connected(client: Client, conversation_id: uuid.UUID) -> AsyncIterator[Socket]:
    socket = socket_of(client, conversation_id)
    assert await socket.open() == (True, 0)
    try:
        yield socket
    finally:
        await socket.close()


async def attach(socket: Socket, answer: Message, after: str = "0") -> None:
    await socket.send_frame({"type": "attach", "message": str(answer.pk), "after": after})


def text_of(frames: list[Frame]) -> str:
    return "".join(one["text"] for one in frames if one["type"] == "token")


# -- following --------------------------------------------------------------------------------------


async def test_a_reader_gets_the_text_as_it_comes_and_the_html_at_the_end(
    visitor_client: Client, chat: Conversation, answer: Message
) -> None:
    await run(write, answer, "A **fox** ")
    async with connected(visitor_client, chat.pk) as socket:
        await attach(socket, answer)
        first = await socket.frame()
        assert (first["type"], first["message"], first["text"]) == ("token", str(answer.pk), "A **fox** ")
        await run(write, answer, "eats.")
        assert (await socket.frame())["text"] == "eats."
        await run(end, answer, "A **fox** eats.")
        assert await socket.frame() == {
            "type": "end",
            "message": str(answer.pk),
            "state": "done",
            "finish_reason": "end",
            "text": "A **fox** eats.",
            "html": "<p>A <strong>fox</strong> eats.</p>\n",
            "error": "",
        }


async def test_a_reader_that_comes_back_misses_nothing_and_sees_nothing_twice(
    visitor_client: Client, chat: Conversation, answer: Message
) -> None:
    words = [f"word{number} " for number in range(30)]
    await run(write, answer, *words[:10])
    seen: list[Frame] = []
    for drop in range(5):  # five sockets that break after two frames each
        async with connected(visitor_client, chat.pk) as socket:
            await attach(socket, answer, seen[-1]["id"] if seen else "0")
            seen += [await socket.frame(), await socket.frame()]
        await run(write, answer, *words[10 + 4 * drop : 14 + 4 * drop])
    await run(end, answer, "".join(words))
    async with connected(visitor_client, chat.pk) as socket:
        await attach(socket, answer, seen[-1]["id"])
        seen += await socket.frames()
    assert text_of(seen) == "".join(words) == seen[-1]["text"]


async def test_a_second_tab_sees_the_same(visitor_client: Client, chat: Conversation, answer: Message) -> None:
    await run(write, answer, "A ", "fox ")
    async with connected(visitor_client, chat.pk) as one, connected(visitor_client, chat.pk) as other:
        await attach(one, answer)
        await attach(other, answer)
        await run(write, answer, "eats.")
        await run(end, answer, "A fox eats.")
        first, second = await one.frames(), await other.frames()
    assert first == second
    assert text_of(first) == "A fox eats."


async def test_a_finished_answer_is_served_from_the_database(
    visitor_client: Client, chat: Conversation, answer: Message
) -> None:
    await run(end, answer, "Mice.")
    await run(streams.delete, answer.generation.stream_key)  # type: ignore[union-attr]
    async with connected(visitor_client, chat.pk) as socket:
        await attach(socket, answer)
        assert (await socket.frame())["text"] == "Mice."


async def test_a_finished_answer_is_completed_from_its_log(
    visitor_client: Client, chat: Conversation, answer: Message
) -> None:
    first = await run(write, answer, "A ")
    await run(write, answer, "fox ", "eats.")
    await run(end, answer, "A fox eats.")
    async with connected(visitor_client, chat.pk) as socket:
        await attach(socket, answer, first)
        frames = await socket.frames()
    assert text_of(frames) == "fox eats."
    assert [one["after"] for one in frames[:-1]] == [first, frames[0]["id"]]


async def test_the_answer_of_a_dead_worker_ends_with_a_reason(
    visitor_client: Client, chat: Conversation, answer: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "FOLLOW_S", 0.05)
    await run(write, answer, "A fox ")
    await run(streams.delete, f"generation:{answer.generation_id}:alive")
    async with connected(visitor_client, chat.pk) as socket:
        await attach(socket, answer)
        frames = await socket.frames()
    assert frames[-1]["state"] == "failed"
    assert frames[-1]["error"] == "The model was interrupted; ask again."
    assert frames[-1]["text"] == text_of(frames) == "A fox "


async def test_an_end_event_lost_with_redis_is_found_in_the_database(
    visitor_client: Client, chat: Conversation, answer: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "FOLLOW_S", 0.05)
    async with connected(visitor_client, chat.pk) as socket:
        await attach(socket, answer)
        done = Generation.objects.filter(pk=answer.generation_id)
        await run(done.update, state="done", text="Mice.", finish_reason="end", finished_at=timezone.now())
        assert (await socket.frame())["text"] == "Mice."


async def test_stop_reaches_the_worker(visitor_client: Client, chat: Conversation, answer: Message) -> None:
    async with connected(visitor_client, chat.pk) as socket:
        await socket.send_frame({"type": "stop", "message": str(answer.pk)})
        await attach(socket, answer)  # frames are handled in order: after this one's reply, stop has been
        await run(write, answer, "x")
        await socket.frame()
        assert await run(streams.client().exists, stop_key(answer.generation_id))


async def test_stopping_a_queued_answer_ends_it(visitor_client: Client, chat: Conversation, answer: Message) -> None:
    await run(Generation.objects.filter(pk=answer.generation_id).update, state="queued")
    async with connected(visitor_client, chat.pk) as socket:
        await attach(socket, answer)
        await socket.send_frame({"type": "stop", "message": str(answer.pk)})
        assert (await socket.frame())["state"] == "stopped"


async def test_an_open_choice_gives_nothing_away(visitor_client: Client, chat: Conversation) -> None:
    question = await run(services.send_message, conversation=chat, text="Which?", offer_two=True)
    pair = [m async for m in question.children.select_related("generation").order_by("side")]
    for message in pair:
        await run(Generation.objects.filter(pk=message.generation_id).update, state="running")
        await run(write, message, "Same.")
        await run(end, message, "Same.")
    async with connected(visitor_client, chat.pk) as socket:
        seen = []
        for message in pair:
            await attach(socket, message)
            seen += await socket.frames()
    wire = json.dumps(seen)
    for message in pair:
        assert str(message.generation_id) not in wire
        assert str(message.generation.sampling["seed"]) not in wire
    assert [one["type"] for one in seen] == ["token", "end"] * 2
    alike = [{key: value for key, value in one.items() if key not in ("message", "id")} for one in seen]
    assert alike[:2] == alike[2:]


async def test_a_slow_database_call_of_one_socket_holds_up_no_other(
    visitor_client: Client, chat: Conversation, answer: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(write, answer, "A fox eats.")
    is_called, may_return = threading.Event(), threading.Event()

    def wait_for_the_writer(generation: Generation) -> None:
        is_called.set()
        may_return.wait(timeout=60)

    monkeypatch.setattr(consumers, "stop_generation", wait_for_the_writer)
    async with connected(visitor_client, chat.pk) as slow:
        try:
            await slow.send_frame({"type": "stop", "message": str(answer.pk)})
            assert await asyncio.to_thread(is_called.wait, 20)
            async with connected(visitor_client, chat.pk) as other:
                await attach(other, answer)
                assert (await other.frame())["text"] == "A fox eats."
        finally:
            may_return.set()


# -- bad frames -------------------------------------------------------------------------------------

BAD_FRAMES = [
    "",
    "{",
    "[]",
    "null",
    '"attach"',
    "{}",
    '{"type": "attach"}',
    '{"type": "attach", "message": 5}',
    '{"type": "attach", "message": "x"}',
    '{"type": "attach", "message": {"a": []}}',
    '{"type": "drop tables", "message": "00000000-0000-0000-0000-000000000000"}',
    '{"type": ["attach"], "message": "00000000-0000-0000-0000-000000000000"}',
    '{"type": "stop", "message": "00000000-0000-0000-0000-000000000000"}',
    '{"type": "attach", "message": "00000000-0000-0000-0000-000000000000", "after": "$"}',
    '{"type": "attach", "message": "00000000-0000-0000-0000-000000000000", "after": 7}',
    '{"type": "attach", "message": "00000000-0000-0000-0000-000000000000", "after": "1-2-3"}',
    "[" * 900,
    "[" * 100_000,
    '{"a":' * 150 + "1" + "}" * 150,
    "\x00",
    "NaN",
]


async def test_a_bad_frame_is_answered_and_harms_nothing(
    visitor_client: Client, chat: Conversation, answer: Message
) -> None:
    async with connected(visitor_client, chat.pk) as socket:
        for text in BAD_FRAMES:
            await socket.send_input({"type": "websocket.receive", "text": text})
            reply = await socket.frame()
            assert reply["type"] == "error", text
            assert reply["text"].endswith((".", '"0".'))
        await socket.send_input({"type": "websocket.receive", "bytes": b"\x00" * 5000})
        assert (await socket.frame())["type"] == "error"
        await run(write, answer, "still here")
        await attach(socket, answer)
        assert (await socket.frame())["text"] == "still here"


@pytest.mark.parametrize(
    "after", ["9" * 20, "1-99999999999999999999", "18446744073709551615-18446744073709551615", "\u0661"]
)
async def test_a_place_that_no_log_has_is_answered_and_harms_nothing(
    visitor_client: Client, chat: Conversation, answer: Message, after: str
) -> None:
    await run(end, answer, "Mice.")
    async with connected(visitor_client, chat.pk) as socket:
        await attach(socket, answer, after)
        assert (await socket.frame())["text"] == '"after" is the id of the last event seen, or "0".'
        await attach(socket, answer)
        assert (await socket.frames())[-1]["text"] == "Mice."


async def test_an_answer_of_another_conversation_is_not_there(
    visitor_client: Client, visitor: Visitor, chat: Conversation, answer: Message, make_checkpoint: Callable[..., Any]
) -> None:
    checkpoint = await run(make_checkpoint, "sft")
    other = await Conversation.objects.acreate(visitor=visitor, checkpoint=checkpoint)
    async with connected(visitor_client, other.pk) as socket:
        for kind in ("attach", "stop"):
            await socket.send_frame({"type": kind, "message": str(answer.pk)})
            assert (await socket.frame())["text"] == "There is no such answer in this conversation."


async def test_asking_twice_for_an_answer_replaces_the_first_request(
    visitor_client: Client, chat: Conversation, answer: Message
) -> None:
    async with connected(visitor_client, chat.pk) as socket:
        await attach(socket, answer)
        last = await run(write, answer, "A fox ")
        await socket.frame()
        await attach(socket, answer, last)
        await run(write, answer, "eats ")
        await run(write, answer, "mice.")
        await run(end, answer, "A fox eats mice.")
        frames = await socket.frames()
    # The first request may still have sent something: the chain tells what continues what.
    shown, seen = "", last
    for one in frames:
        if one.get("after") == seen:
            shown, seen = shown + one["text"], one["id"]
    assert shown == "eats mice."


# -- who may ----------------------------------------------------------------------------------------


async def test_a_foreign_conversation_and_a_missing_one_are_refused_alike(
    client: Client, alice_client: Client, staff_client: Client, owner_client: Client, chat: Conversation
) -> None:
    for browser in (client, alice_client, staff_client, owner_client):
        for conversation_id in (chat.pk, uuid.uuid4()):
            assert await socket_of(browser, conversation_id).is_refused()


async def test_a_refused_socket_does_nothing_any_more(
    alice_client: Client, chat: Conversation, answer: Message
) -> None:
    socket = socket_of(alice_client, chat.pk)
    assert await socket.is_refused()
    await socket.send_frame({"type": "stop", "message": str(answer.pk)})
    await socket.close()  # after the frame
    assert not await run(streams.client().exists, stop_key(answer.generation_id))


async def test_a_deleted_conversation_is_refused(visitor_client: Client, chat: Conversation) -> None:
    await run(services.delete_conversation, conversation=chat)
    assert await socket_of(visitor_client, chat.pk).is_refused()


@pytest.mark.parametrize(
    "origin",
    [b"http://evil.example", b"http://localhost.evil.example", b"https://evil.example:80", b"null", b"", b"file://"],
)
async def test_another_sites_page_cannot_connect(visitor_client: Client, chat: Conversation, origin: bytes) -> None:
    accepted, _ = await socket_of(visitor_client, chat.pk, origin=origin).open()
    assert not accepted


async def is_closed(socket: Socket) -> bool:
    """Whether the next thing the server does is to close the socket as refused."""
    output = await socket.receive_output(timeout=20)
    return (output["type"], output.get("code")) == ("websocket.close", 4404)


async def test_the_socket_closes_when_the_conversation_is_deleted(
    visitor_client: Client, chat: Conversation, answer: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "RECHECK_S", 0.05)
    async with connected(visitor_client, chat.pk) as socket:
        await attach(socket, answer)
        await run(services.delete_conversation, conversation=chat)
        assert await is_closed(socket)
        await run(write, answer, "not for you")
        assert await socket.receive_nothing(timeout=0.2)


@pytest.mark.parametrize("how", ["logout", "deactivation"])
async def test_the_socket_closes_when_its_person_loses_the_right(
    how: str, alice: Any, alice_client: Client, make_checkpoint: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "RECHECK_S", 0.05)
    visitor = await Visitor.objects.acreate(user=alice)
    chat = await Conversation.objects.acreate(visitor=visitor, checkpoint=await run(make_checkpoint, "sft"))
    async with connected(alice_client, chat.pk) as socket:
        if how == "logout":
            await run(alice_client.post, "/logout/")
        else:
            alice.is_active = False
            await alice.asave(update_fields=["is_active"])
        assert await is_closed(socket)


def _breaks(consumer: Any) -> bool:
    raise OperationalError("server closed the connection unexpectedly")


async def test_a_database_that_hiccups_closes_the_socket_instead_of_leaving_it_unguarded(
    visitor_client: Client, chat: Conversation, answer: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "RECHECK_S", 0.05)
    async with connected(visitor_client, chat.pk) as socket:
        await attach(socket, answer)
        monkeypatch.setattr(consumers.ChatConsumer, "_may_read", sync_to_async(_breaks))
        closed = await socket.receive_output(timeout=20)
        assert (closed["type"], closed["code"]) == ("websocket.close", TRY_AGAIN)
        await run(write, answer, "nobody knows whether this is for you")
        assert await socket.receive_nothing(timeout=0.2)


async def test_a_frame_the_database_does_not_answer_closes_the_socket_to_be_opened_again(
    visitor_client: Client, chat: Conversation, answer: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers.ChatConsumer, "_generation", sync_to_async(lambda *_: _breaks(None)))
    socket = socket_of(visitor_client, chat.pk)
    assert await socket.open() == (True, 0)
    await attach(socket, answer)
    closed = await socket.receive_output(timeout=20)
    assert (closed["type"], closed["code"]) == ("websocket.close", TRY_AGAIN)
    await socket.wait(timeout=20)


async def test_a_browser_that_leaves_in_the_middle_of_a_frame_leaves_nothing_running(
    visitor_client: Client, chat: Conversation, answer: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: Any, **__: Any) -> None:
        raise ConnectionResetError

    before = asyncio.all_tasks()
    socket = socket_of(visitor_client, chat.pk)
    assert await socket.open() == (True, 0)
    await attach(socket, answer)
    monkeypatch.setattr(consumers.ChatConsumer, "send", gone)
    await socket.send_input({"type": "websocket.receive", "text": "nonsense"})
    await socket.wait(timeout=20)
    assert asyncio.all_tasks() <= before


def test_rights_are_looked_at_often_enough() -> None:
    assert consumers.RECHECK_S <= 5

"""/ws/chat/<uuid>/: the live text of a conversation's answers.

The idea: the page names an answer and the last event it has seen, and gets every later event of the
answer's log, however often the socket breaks. The server keeps nothing about a reader. Frames:

    → {"type": "attach", "message": <uuid>, "after": <event id, "0" for all>}
    → {"type": "stop", "message": <uuid>}
    ← {"type": "token", "message": <uuid>, "after": <event id before>, "id": <event id>, "text": …}
    ← {"type": "end", "message": <uuid>, "state", "finish_reason", "text", "html", "error"}
    ← {"type": "error", "text": one sentence}

"after" chains the pieces of one answer, so a page that asks again while text is on its way can tell
which pieces belong to what it shows.

A frame that makes no sense is answered with an error and forgotten. A socket whose session or
conversation is gone is closed with 4404 within RECHECK_S (with 1013, "try again", if nobody can tell);
a conversation that does not exist and one that is somebody else's are refused alike.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass
from typing import Any

import redis

from webapp.accounts.services import visitor_for_scope
from webapp.answers.models import Generation
from webapp.answers.rendering import render_answer
from webapp.answers.services import UNREACHABLE, revive_generation, stop_generation
from webapp.chat.models import Conversation, Message
from webapp.live import streams
from webapp.live.sockets import REFUSED, WorkingConsumer, in_any_thread

RECHECK_S = 3.0
FOLLOW_S = 5.0
"""Without news for this long the database is asked whether the answer is still being written."""
MAX_FRAME_CHARS = 1000


@dataclass(frozen=True)
class Frame:
    """What a page may ask."""

    type: str
    message: uuid.UUID
    after: str


def parse_frame(text: str | None) -> Frame:
    """ValueError with one sentence for anything but an attach or stop frame."""
    if text is None or len(text) > MAX_FRAME_CHARS:
        raise ValueError(f"A frame is JSON text of at most {MAX_FRAME_CHARS} characters.")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("That frame is not JSON.") from error
    if not isinstance(content, dict) or content.get("type") not in ("attach", "stop"):
        raise ValueError('A frame is an object whose type is "attach" or "stop".')
    after = content.get("after", "0")
    if not isinstance(after, str) or not streams.is_event_id(after):
        raise ValueError('"after" is the id of the last event seen, or "0".')
    try:
        message = uuid.UUID(content.get("message"))
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError('"message" is the id of an answer.') from error
    return Frame(content["type"], message, after)


class ChatConsumer(WorkingConsumer):
    """One open page of one conversation."""

    async def connect(self) -> None:
        self.conversation_id: uuid.UUID = self.scope["url_route"]["kwargs"]["conversation_id"]
        self.followers: dict[uuid.UUID, asyncio.Task[None]] = {}
        may_read = await self._may_read()
        await self.accept()  # also to refuse: a browser is told the code only of a socket that was open
        if not may_read:
            await self.finish(REFUSED)
            return
        self.work(self._watch_rights)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            frame = parse_frame(text_data)
            generation = await self._generation(frame.message)
        except ValueError as error:
            await self._send({"type": "error", "text": str(error)})
            return
        if frame.type == "stop":
            await self._stop(generation)
        else:
            self._follow(frame, generation)

    # -- rights ----------------------------------------------------------------------------------

    @in_any_thread
    def _may_read(self) -> bool:
        """Whether session, account and conversation are still what they were."""
        visitor = visitor_for_scope(self.scope)
        return visitor is not None and Conversation.objects.of(visitor.pk).filter(pk=self.conversation_id).exists()

    async def _watch_rights(self) -> None:
        await asyncio.sleep(RECHECK_S)
        while await self._may_read():
            await asyncio.sleep(RECHECK_S)
        await self.finish(REFUSED)

    # -- answers ---------------------------------------------------------------------------------

    @in_any_thread
    def _generation(self, message_id: uuid.UUID) -> Generation:
        message = (
            Message.objects.filter(pk=message_id, conversation=self.conversation_id, generation__isnull=False)
            .select_related("generation")
            .defer("generation__messages")
            .first()
        )
        if message is None or message.generation is None:
            raise ValueError("There is no such answer in this conversation.")
        return message.generation

    async def _stop(self, generation: Generation) -> None:
        try:
            await in_any_thread(stop_generation)(generation)
        except redis.RedisError:
            await self._send({"type": "error", "text": UNREACHABLE})

    def _follow(self, frame: Frame, generation: Generation) -> None:
        """Send what comes after `frame.after`, in place of what was being sent of the same answer."""
        if running := self.followers.pop(frame.message, None):
            running.cancel()
        self.followers[frame.message] = self.work(self._send_answer, frame.message, generation, frame.after)

    async def _send_answer(self, message_id: uuid.UUID, generation: Generation, after: str) -> None:
        if generation.is_final:
            for entry in await asyncio.to_thread(streams.read, generation.stream_key, after):
                after = await self._send_token(message_id, after, entry)
        else:
            await self._send_tokens(message_id, generation, after)
        await self._send_end(message_id, generation)

    async def _send_tokens(self, message_id: uuid.UUID, generation: Generation, after: str) -> None:
        async for entry in streams.follow(generation.stream_key, after, wait_s=FOLLOW_S):
            if entry is None:
                await in_any_thread(revive_generation)(generation)
                if generation.is_final:
                    return
            else:
                after = await self._send_token(message_id, after, entry)

    async def _send_token(self, message_id: uuid.UUID, after: str, entry: tuple[str, streams.Event]) -> str:
        """Send a piece of text; returns the id of the event it was."""
        event_id, event = entry
        if event["type"] == "token":
            place = {"message": str(message_id), "after": after, "id": event_id}
            await self._send({"type": "token", **place, "text": event["text"]})
        return event_id

    async def _send_end(self, message_id: uuid.UUID, generation: Generation) -> None:
        """The answer as the database has it, which is what every later page load shows."""
        await in_any_thread(generation.refresh_from_db)()
        await self._send(
            {
                "type": "end",
                "message": str(message_id),
                "state": generation.state,
                "finish_reason": generation.finish_reason,
                "text": generation.text,
                "html": render_answer(generation.text),
                "error": generation.error,
            }
        )

    async def _send(self, frame: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps(frame))

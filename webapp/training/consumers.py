"""A run's live log, on a socket: everyone may listen, nobody may speak."""

from __future__ import annotations

import contextlib
import json
from typing import Any
from urllib.parse import parse_qs

from webapp.live import streams
from webapp.live.sockets import REFUSED, WorkingConsumer, in_any_thread
from webapp.training.models import TrainingRun
from webapp.training.services import state_event

QUIET_S = 15.0
"""After this long without an event the run's row is read again: its worker may be gone."""


class RunConsumer(WorkingConsumer):
    """Sends the log's events after the position the page was rendered at, each with its id.

    The page is told the run's row as it is now when it connects and whenever the log is quiet, so a
    lost log or a dead worker shows too. The last frame is of type "end".
    """

    async def connect(self) -> None:
        await self.accept()
        after = parse_qs(self.scope["query_string"].decode("latin-1")).get("after", ["0"])[0]
        self.work(self._follow, after if streams.is_event_id(after) else "0")

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self._send({"type": "error", "text": "This socket only speaks."})

    async def _follow(self, after: str) -> None:
        run = await self._read_run()
        if run is None:
            await self.finish(REFUSED)
            return
        await self._send(state_event(run))
        if run.is_active:
            await self._pass_on(run, after)
        await self.finish()

    async def _pass_on(self, run: TrainingRun, after: str) -> None:
        async with contextlib.aclosing(streams.follow(run.stream_key, after, wait_s=QUIET_S)) as entries:
            async for entry in entries:
                if entry is None:
                    now = await self._read_run()
                    event = state_event(now) if now else {"type": streams.END, "state": "discarded"}
                    await self._send(event)
                else:
                    position, event = entry
                    await self._send({**event, "id": position})
                if event["type"] == streams.END:
                    return

    @in_any_thread
    def _read_run(self) -> TrainingRun | None:
        return TrainingRun.objects.filter(pk=self.scope["url_route"]["kwargs"]["run_id"]).first()

    async def _send(self, frame: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps(frame))

"""A headless browser on the running test site."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright


@pytest.fixture
def chat(visitor: Any, make_checkpoint: Callable[..., Any]) -> Any:
    """The visitor's empty conversation with an `sft` checkpoint."""
    from webapp.chat.models import Conversation
    from webapp.chat.services import DEFAULT_SAMPLING

    return Conversation.objects.create(
        visitor=visitor, checkpoint=make_checkpoint("sft"), title="Foxes", sampling=dict(DEFAULT_SAMPLING)
    )


@pytest.fixture
async def open_page(chromium: str, visitor_client: Any, live_server: Any) -> AsyncIterator[Callable[..., Any]]:
    """Opens a browser page that is the visitor's own, with a theme and a width."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

        async def opened(theme: Any = "light", width: int = 1280, *, bypass_csp: bool = False) -> Page:
            context = await browser.new_context(
                base_url=live_server.url,
                color_scheme=theme,
                viewport={"width": width, "height": 844},
                reduced_motion="reduce",
                bypass_csp=bypass_csp,
            )
            session = visitor_client.cookies["sessionid"].value
            await context.add_cookies([{"name": "sessionid", "value": session, "url": live_server.url}])
            return await context.new_page()

        yield opened
        await browser.close()

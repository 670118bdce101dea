"""A headless browser on the running test site: one for all tests, with a context of its own for each.

Starting it costs more than most tests do. It belongs to the event loop it was started in, so these tests share
one loop, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture
def chat(visitor: Any, make_checkpoint: Callable[..., Any]) -> Any:
    """The visitor's empty conversation with an `sft` checkpoint."""
    from webapp.chat.models import Conversation
    from webapp.chat.services import DEFAULT_SAMPLING

    return Conversation.objects.create(
        visitor=visitor, checkpoint=make_checkpoint("sft"), title="Foxes", sampling=dict(DEFAULT_SAMPLING)
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser, visitor_client: Any, live_server: Any) -> AsyncIterator[Callable[..., Any]]:
    """Opens a browser page that is the visitor's own, with a theme and a width."""
    contexts: list[BrowserContext] = []

    async def opened(theme: Any = "light", width: int = 1280, *, bypass_csp: bool = False) -> Page:
        context = await browser.new_context(
            base_url=live_server.url,
            color_scheme=theme,
            viewport={"width": width, "height": 844},
            reduced_motion="reduce",
            bypass_csp=bypass_csp,
        )
        contexts.append(context)
        session = visitor_client.cookies["sessionid"].value
        await context.add_cookies([{"name": "sessionid", "value": session, "url": live_server.url}])
        return await context.new_page()

    yield opened
    for context in contexts:
        await context.close()

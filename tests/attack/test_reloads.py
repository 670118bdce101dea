"""Twenty reloads in the middle of an answer: what stands on the page in the end is what was stored."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.attack.sites import Person, Site

RELOADS = 20
PATIENCE_MS = 120_000


@pytest.mark.browser
def test_a_reload_loses_and_doubles_nothing(new_site: Callable[..., Site], chromium: str, draw: random.Random) -> None:
    site = new_site(STAGECRAFT_PRESET="tiny")  # slow enough to be reloaded in mid-answer
    person = Person(site)
    in_mid_answer = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        person.begin_chat("What is a fox?")
        context = browser.new_context(base_url=site.address)
        context.add_cookies([{"name": "sessionid", "value": person.cookies["sessionid"], "url": site.address}])
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        shown: dict[str, str] = {}
        for number in range(RELOADS):
            if number % 10 == 9:  # a person may send twenty messages a minute
                page.wait_for_timeout(30_000)
            path, message = person.begin_chat(f"What is thing {number}?", max_new_tokens=200)
            page.goto(path)
            answer = page.locator(f'[data-message="{message}"]')
            page.wait_for_timeout(draw.randrange(300))
            live = answer.locator("[data-answer]")
            before = live.inner_text()
            in_mid_answer += answer.get_attribute("data-state") != "done" and before != ""
            page.reload()
            expect(answer).to_have_attribute("data-state", "done", timeout=PATIENCE_MS)
            shown[message] = live.get_attribute("data-text") or ""
        browser.close()
    stored = site.inside("answers")
    assert shown == {message: stored[message]["text"] for message in shown}
    print(f"{in_mid_answer} of {RELOADS} reloads fell into the middle of an answer")
    assert in_mid_answer >= RELOADS // 2

"""Every page, at the width of a small phone, a phone, a tablet and a desk, in light and dark, for visitors and staff.

The idea: the kinds of fault a person meets with eyes, fingers or ears are looked for everywhere instead of where one
was seen last. Each page is loaded once and then made narrower: what a width changes is its layout (`page_faults.js`),
what a theme changes is contrast (axe). The site's content policy holds meanwhile, so whatever it blocks is an error
of that page, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.browser.filled_site import FilledSite, fill_site
from webapp.accounts.models import User, Visitor
from webapp.checkpoints.models import Checkpoint
from webapp.training.models import Curriculum

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("enqueued")]

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
OF_A_LOOK = ["color-contrast", "link-in-text-block", "target-size", "scrollable-region-focusable"]
"""The rules that a width or a theme can break; the others see the same page again."""
LOOKS = [(1280, "light"), (768, "dark"), (390, "light"), (320, "dark")]
"""Widths with the theme a page is seen in at each."""
PHONE = 480
FAULTS = Path(__file__).with_name("page_faults.js").read_text()
OPEN_ALL = "document.querySelectorAll('details').forEach((one) => { one.open = true; })"


@pytest.fixture
def site(visitor: Visitor, owner: User, make_checkpoint: Callable[..., Checkpoint]) -> FilledSite:
    return fill_site(visitor, owner, make_checkpoint)


@pytest.fixture
def follow(open_page: Callable[..., Any]) -> Callable[..., Any]:
    """A page with axe in it, whose sockets are silent and whose errors are kept in the list that comes with it."""

    async def opened() -> tuple[Page, list[str]]:
        page: Page = await open_page()
        errors: list[str] = []
        await page.add_init_script(Axe().axe_script)
        await page.route_web_socket(re.compile("/ws/"), lambda socket: None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: said.type == "error" and errors.append(said.text))
        return page, errors

    return opened


async def _axe(page: Page, rules: list[str]) -> list[str]:
    # To preload style sheets it would write them into the page, which the content policy refuses.
    options = {"runOnly": rules, "resultTypes": ["violations"], "preload": False}
    found = await page.evaluate("(options) => axe.run(options)", options)
    return [f"{one['id']}: {one['nodes'][0]['html'][:160]}" for one in found["violations"]]


async def _faults(page: Page, errors: list[str], path: str) -> list[str]:
    """What is wrong with one page, at every width and in both themes."""
    errors.clear()
    await page.emulate_media(color_scheme="light")
    await page.set_viewport_size({"width": LOOKS[0][0], "height": 844})
    response = await page.goto(path)
    found: list[str] = []
    own = not path.startswith("/admin/")
    for width, theme in LOOKS:
        await page.set_viewport_size({"width": width, "height": 844})
        for opened in (False, True):
            await page.evaluate(OPEN_ALL if opened else "0")
            faults = await page.evaluate(FAULTS, {"phone": width <= PHONE, "own": own})
            found += [f"{width}: {fault}" for fault in faults]
        await page.emulate_media(color_scheme=theme)
        if (width, theme) in (LOOKS[0], LOOKS[-1]):
            found += await _axe(page, TAGS if (width, theme) == LOOKS[0] else OF_A_LOOK)
    if response and response.status == 404:
        errors.remove("Failed to load resource: the server responded with a status of 404 (Not Found)")
    found += errors
    return list(dict.fromkeys(found))


async def _walk(page: Page, errors: list[str], pages: dict[str, str]) -> list[str]:
    return [f"{name}: {fault}" for name, path in pages.items() for fault in await _faults(page, errors, path)]


async def test_every_page_fits_and_can_be_read_and_pressed(follow: Callable[..., Any], site: FilledSite) -> None:
    page, errors = await follow()
    faults = await _walk(page, errors, site.public_pages())
    assert not faults, "\n".join(faults)


async def test_so_do_the_owners_pages_and_the_admin(
    follow: Callable[..., Any], site: FilledSite, visitor_client: Any, owner_client: Any
) -> None:
    visitor_client.cookies["sessionid"] = owner_client.cookies["sessionid"].value
    page, errors = await follow()
    pages = await sync_to_async(site.staff_pages)()
    faults = await _walk(page, errors, pages)
    assert not faults, "\n".join(faults)


async def test_so_do_the_pages_of_an_empty_site_and_of_one_around_a_model_from_elsewhere(
    follow: Callable[..., Any], make_checkpoint: Callable[..., Checkpoint]
) -> None:
    page, errors = await follow()
    empty = {path: path for path in ("/", "/chat/", "/vote/", "/compare/", "/leaderboard/", "/runs/", "/stages/ppo/")}
    faults = await _walk(page, errors, empty)
    row = {"start_source": "hub:makers/" + "x" * 80, "start_state": "moving", "start_text": "Downloading"}
    await sync_to_async(Curriculum.objects.create)(pk=1, start_done=30, start_total=90, **row)
    faults += await _walk(page, errors, {"arriving": "/"})
    named = {"licence": "apache-2.0", "source": "hub:makers/" + "x" * 80, "revision": "0" * 40}
    await sync_to_async(make_checkpoint)("sft", preset="", name="SmolModel", **named)
    faults += await _walk(
        page, errors, {path: path for path in ("/", "/stages/pretrain/", "/stages/sft/", "/compare/")}
    )
    assert not faults, "\n".join(faults)


async def test_a_choice_in_chat_on_a_phone_breaks_no_policy(follow: Callable[..., Any], site: FilledSite) -> None:
    page, errors = await follow()
    await page.set_viewport_size({"width": 390, "height": 844})
    await page.goto(f"/chat/{site.offer.pk}/")
    await page.get_by_role("button", name="B is better").click()
    await expect(page.locator("[data-offer]")).to_have_count(0)
    await expect(page.locator(".turn-answer")).to_contain_text("A sheltered place")
    await page.goto("/vote/")
    await page.get_by_role("button", name="A is better").click()
    await expect(page.locator(".vote-made").first).to_contain_text("A is better")
    await page.get_by_role("button", name="Who wrote which?").first.click()
    await expect(page.locator(".vote-made").first).to_contain_text("one model, asked twice")
    assert errors == []


async def test_a_right_is_given_by_ticking_its_name(
    follow: Callable[..., Any], visitor_client: Any, owner_client: Any, alice: User
) -> None:
    visitor_client.cookies["sessionid"] = owner_client.cookies["sessionid"].value
    page, errors = await follow()
    await page.goto(f"/admin/accounts/user/{alice.pk}/change/")
    await page.get_by_label("Training | training run | Can add training run").check()
    await page.get_by_role("button", name="Save", exact=True).click()
    await page.wait_for_url("**/user/")
    assert await alice.user_permissions.filter(codename="add_trainingrun").aexists()
    assert errors == []


async def test_a_long_button_goes_below_the_words_beside_it(
    open_page: Callable[..., Any], make_checkpoint: Callable[..., Checkpoint]
) -> None:
    await sync_to_async(make_checkpoint)("sft", preset="", name="SmolModel")
    page = await open_page("light", 390)
    await page.goto("/")
    # In one go: the page looks for news by itself, and may put another button in its place between two questions.
    heading, button = await page.evaluate(
        """() => {
            const [heading, button] = ["h2", ".btn"].map((one) => document.querySelector(".next-step " + one));
            button.textContent = "Start preference fine-tuning";
            return [heading, button].map((one) => one.getBoundingClientRect().toJSON());
        }"""
    )
    assert heading["width"] > 250
    assert button["y"] > heading["y"] + heading["height"]

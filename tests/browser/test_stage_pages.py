"""What the stage pages' scripts do, under the site's real content policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from playwright.async_api import expect

from trainer.data.corpus import SAMPLE_PROMPTS
from webapp.answers.models import Generation
from webapp.checkpoints.models import Checkpoint
from webapp.stages.models import NextTokens, SiteAnswer
from webapp.stages.next_tokens import TEMPERATURES
from webapp.stages.services import HOME_SAMPLING
from webapp.training.models import TrainingRun

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


async def test_a_groups_advantages_follow_its_verdicts(open_page: Callable[..., Any]) -> None:
    page = await open_page()
    await page.goto("/stages/grpo/")
    attempts = page.locator("[data-play=group] button")

    # One right of eight: mean 1/8, sample deviation √(1/8), so (7/8)/√(1/8) = 2.47 and −(1/8)/√(1/8) = −0.35.
    await expect(attempts.nth(0)).to_contain_text("✓ right +2.47")
    await expect(attempts.nth(1)).to_contain_text("✗ wrong −0.35")

    await attempts.nth(0).click()

    await expect(attempts.nth(0)).to_have_attribute("aria-pressed", "false")
    await expect(page.locator("[data-result]")).to_contain_text("the group is dropped")


async def test_equal_scores_are_a_coin_toss(open_page: Callable[..., Any]) -> None:
    page = await open_page()
    await page.goto("/stages/reward/")
    share = page.locator("[data-share]")

    await expect(share).to_have_text("73 %")  # σ(1)
    await page.get_by_label("Score of A").fill("0")

    await expect(share).to_have_text("50 %")


@pytest.mark.parametrize(("system", "first"), [("light", "dark"), ("dark", "light")])
async def test_the_theme_button_starts_with_the_other_theme(
    open_page: Callable[..., Any], system: str, first: str
) -> None:
    page = await open_page(system)
    await page.goto("/")
    html, button = page.locator("html"), page.locator("[data-theme-form] button")

    async with page.expect_response("**/theme/"):
        await button.click()
    await page.reload()

    await expect(html).to_have_attribute("data-theme", first)  # kept by the server
    await button.click()
    await expect(html).to_have_attribute("data-theme", system)
    await button.click()
    await expect(html).to_have_attribute("data-theme", "")


async def test_a_moment_is_shown_on_the_readers_clock(
    open_page: Callable[..., Any], make_checkpoint: Callable[..., Checkpoint]
) -> None:
    checkpoint = await sync_to_async(make_checkpoint)("init")
    made = Checkpoint.objects.filter(pk=checkpoint.pk)
    await made.aupdate(created_at=datetime(2026, 1, 2, 20, 5, tzinfo=UTC))
    page = await open_page()
    session = await page.context.new_cdp_session(page)
    await session.send("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Tokyo"})

    await page.goto("/stages/init/")

    moment = page.locator("local-time")
    await expect(moment).to_contain_text("Jan 3, 2026, 5:05")
    await expect(moment).to_have_attribute("title", "2 Jan 2026, 20:05 UTC")


@pytest.fixture
def generation(transactional_db: None, make_checkpoint: Callable[..., Checkpoint]) -> Generation:
    """An answer to the first of the home page's questions that is being written."""
    asked = [{"role": "user", "content": SAMPLE_PROMPTS[0]}]
    generation = Generation.objects.create(
        checkpoint=make_checkpoint("init"), messages=asked, sampling=HOME_SAMPLING, state="running"
    )
    SiteAnswer.objects.create(checkpoint=generation.checkpoint, prompt=SAMPLE_PROMPTS[0], generation=generation)
    return generation


async def test_the_home_page_shows_an_answer_as_soon_as_it_is_there(
    open_page: Callable[..., Any], generation: Generation
) -> None:
    page = await open_page()
    await page.goto("/")
    row = page.locator(".ladder-step.stage-init")
    await expect(row).to_contain_text("Writing …")
    await row.locator(".ladder-name").focus()

    generation.state, generation.text = "done", "gibberish, as promised"
    await generation.asave()

    await expect(row).to_contain_text("gibberish, as promised")
    await expect(row.locator(".ladder-name")).to_be_focused()  # the refresh gave it back


@pytest.fixture
def practised(transactional_db: None) -> None:
    """A GRPO run with a group of each of three steps."""
    run = TrainingRun.objects.create(stage="grpo", preset="smoke", state="done", total_steps=3)
    for step in (1, 2, 3):
        for correct in (True, False):
            extra = {"correct": correct, "advantage": 0.71 if correct else -0.71, "practice": True}
            run.samples.create(step=step, prompt=f"Problem {step}?", text="So it is.", extra=extra)


@pytest.fixture
def judged(transactional_db: None) -> None:
    """Two answers of a PPO run: one scores more, and is further from the parent."""
    run = TrainingRun.objects.create(stage="ppo", preset="smoke", state="done", total_steps=1)
    run.metrics.create(step=1, values={"kl_weight": 0.5})
    for text, score, kl in (("Short.", 1.0, 0.2), ("Long and odd.", 1.4, 3.0)):
        run.samples.create(step=1, prompt="Hello?", text=text, extra={"score": score, "kl": kl, "practice": True})


async def test_the_kl_weight_decides_which_answer_is_rewarded(open_page: Callable[..., Any], judged: None) -> None:
    page = await open_page()
    await page.goto("/stages/ppo/")
    slider, rows = page.get_by_label("KL weight"), page.locator("#answers tbody tr")
    await expect(rows.nth(0)).to_contain_text("+0.90 ▲ likelier")  # 1.0 − 0.5 · 0.2
    await expect(rows.nth(1)).to_contain_text("−0.10 ▼ less likely")

    await slider.focus()
    await slider.press("Home")

    await expect(rows.nth(1)).to_contain_text("+1.40 ▲ likelier")
    await expect(page.locator("[data-result]")).to_contain_text("“Long and odd.”")


async def test_a_slider_goes_through_every_steps_group_by_keyboard(
    open_page: Callable[..., Any], practised: None
) -> None:
    page = await open_page()
    await page.goto("/stages/grpo/")
    slider, group = page.get_by_label("Through the run"), page.locator("#group")
    await expect(group).to_contain_text("Problem 3?")
    await expect(slider).to_have_attribute("aria-valuetext", "step 3, 1 of 2 right")

    await slider.focus()
    await slider.press("ArrowLeft")

    await expect(group).to_contain_text("Problem 2?")
    await expect(slider).to_have_attribute("aria-valuetext", "step 2, 1 of 2 right")
    await expect(slider).to_be_focused()
    await slider.press("Home")
    await expect(group).to_contain_text("Problem 1?")


async def test_the_mask_follows_what_is_typed(open_page: Callable[..., Any], transactional_db: None) -> None:
    page = await open_page()
    await page.goto("/stages/sft/")
    await page.get_by_label("A person asks").fill("Hi?")
    await page.get_by_label("The assistant answers", exact=True).press_sequentially("Hello.")

    await expect(page.locator("#mask mark")).to_have_text("Hello.<|im_end|>")
    await expect(page.locator("#mask")).to_contain_text("Your conversation")
    await expect(page.get_by_label("The assistant answers", exact=True)).to_be_focused()


@pytest.fixture
def foreseen(transactional_db: None, make_checkpoint: Callable[..., Checkpoint]) -> NextTokens:
    """What comes after a text, as a worker would find it: of three tokens one is twice as likely as each other."""
    below = [0.0, -math.log(2), -math.log(2)]
    return NextTokens.objects.create(
        checkpoint=make_checkpoint("pretrain"),
        text="A fox eats",
        found={
            "tokens": [[" mice", "text", below[0]], [" bread", "text", below[1]]],
            "log_sums": [math.log(sum(math.exp(one / t) for one in below)) for t in TEMPERATURES],
            "vocabulary": 3,
        },
    )


async def test_the_next_tokens_are_asked_for_while_one_types_and_follow_the_temperature(
    open_page: Callable[..., Any], foreseen: NextTokens
) -> None:
    page = await open_page()
    await page.goto("/stages/pretrain/")
    shown, slider = page.locator("#next"), page.get_by_label("Temperature")

    await page.get_by_label("After the text").fill("A fox eats")
    await expect(shown).to_contain_text("50\u00a0%")  # 1 of 1 + 1/2 + 1/2

    await slider.focus()
    for _ in range(5):
        await slider.press("ArrowLeft")
    await expect(shown).to_contain_text("67\u00a0%")  # at 0.5: 1 of 1 + 1/4 + 1/4
    await expect(page.locator("[data-temperature]")).to_have_text("0.5")
    await expect(slider).to_be_focused()

    await page.get_by_label("After the text").fill("A crow eats")
    await expect(shown).to_contain_text("The model is reading")
    row = await NextTokens.objects.aget(text="A crow eats")
    row.found = foreseen.found
    await row.asave()
    await expect(shown).to_contain_text("“A crow eats”, at temperature 0.5")

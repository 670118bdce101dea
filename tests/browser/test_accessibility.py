"""Every public page in a real browser: readable by everyone, on a desk and on a phone, in light and dark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page

from trainer.config import CHAT_STAGES, STAGES
from webapp.answers.models import Generation
from webapp.arena.models import Pair, Prompt
from webapp.chat.models import Conversation, Message
from webapp.checkpoints.models import Checkpoint
from webapp.stages.models import NextTokens, SiteAnswer
from webapp.stages.views import FIRST_TEXT
from webapp.training.models import Curriculum, TrainingRun

pytestmark = pytest.mark.browser

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
LONG = "A long unbroken word such as " + "x" * 120 + " must not widen the page."


def _answer(checkpoint: Checkpoint, text: str, **fields: Any) -> Generation:
    sampling = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 64, "seed": 1}
    asked = [{"role": "user", "content": "What is an LLM?"}]
    return Generation.objects.create(
        checkpoint=checkpoint, messages=asked, sampling=sampling, state="done", finish_reason="end", text=text, **fields
    )


def _conversation(visitor: Any, kind: str, checkpoints: list[Checkpoint]) -> Conversation:
    conversation = Conversation.objects.create(
        visitor=visitor, kind=kind, checkpoint=checkpoints[-1], title="What is an LLM?", sampling={}
    )
    question = Message.objects.create(conversation=conversation, role="user", text="What is an LLM?")
    for checkpoint in checkpoints:
        answer = _answer(checkpoint, f"# Heading\n\n{LONG}\n\n```\n{LONG}\n```", visitor=visitor)
        conversation.leaf = Message.objects.create(
            conversation=conversation, parent=question, role="assistant", generation=answer
        )
    conversation.save()
    return conversation


@pytest.fixture
def paths(transactional_db: None, visitor: Any, make_checkpoint: Callable[..., Checkpoint]) -> list[str]:
    """A site with something on every page; returns the pages."""
    checkpoints: dict[str, Checkpoint] = {}
    parent: Checkpoint | None = None
    for stage in STAGES:
        metrics = {"bits_per_byte": 2.5, "agreement": 0.8, "agreement_interval": [0.7, 0.9]}
        checkpoints[stage] = make_checkpoint(stage, parent=parent, metrics=metrics)
        run = TrainingRun.objects.create(
            stage=stage, preset="smoke", parent=parent, state="done", step=2, total_steps=2
        )
        for step in range(3):
            figures = {
                "loss",
                "bits_per_byte",
                "instruction_accuracy",
                "reward",
                "kl",
                "kl_weight",
                "held_out_win_rate",
                "pass_at_1",
            }
            run.metrics.create(step=step, values=dict.fromkeys(figures, step / 4))
            extra = {
                "grpo": {"advantage": 1.0, "correct": True, "practice": True},
                "ppo": {"score": 1.0, "kl": 0.5, "practice": True},
            }.get(stage, {})
            run.samples.create(step=step, prompt="What is an LLM?", text=LONG, extra=extra)
        run.log.create(text=LONG, level="alarm")
        if stage in CHAT_STAGES:
            answer = _answer(checkpoints[stage], f"{LONG} So says {stage}.")  # some of it is marked as new
            SiteAnswer.objects.create(checkpoint=checkpoints[stage], prompt=answer.prompt, generation=answer)
        parent = checkpoints[stage] if stage != "reward" else parent
    likely = {"tokens": [["x" * 40, "text", 0.0], [" a", "text", -1.0]], "log_sums": [1.5] * 20, "vocabulary": 512}
    NextTokens.objects.create(checkpoint=checkpoints["pretrain"], text=FIRST_TEXT, found=likely)
    prompt = Prompt.objects.create(text=LONG, source="shipped")
    a, b = (_answer(checkpoints["grpo"], text) for text in (LONG, "Short."))
    Pair.objects.create(prompt=prompt, kind="self", state="ready", a=a, b=b)
    TrainingRun.objects.create(
        stage="grpo", preset="smoke", parent=checkpoints["ppo"], state="running", step=1, total_steps=4
    )
    speakers = [checkpoints[stage] for stage in CHAT_STAGES]
    return [
        *("/", "/compare/", "/chat/", "/vote/", "/leaderboard/", "/runs/", "/login/", "/signup/", "/nothing-here/"),
        *(f"/stages/{slug}/" for slug in STAGES),
        TrainingRun.objects.order_by("pk")[1].get_absolute_url(),
        f"/compare/{_conversation(visitor, 'compare', speakers).pk}/",
        f"/chat/{_conversation(visitor, 'chat', speakers[-1:]).pk}/",
    ]


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
async def test_every_page_is_accessible_and_fits(
    open_page: Callable[..., Any], paths: list[str], theme: str, width: int
) -> None:
    # The policy would keep axe itself from being injected; test_pages.py checks the policy.
    page = await open_page(theme, width, bypass_csp=True)
    assert await _problems(page, paths) == []


async def _problems(page: Page, paths: list[str]) -> list[str]:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
    for path in paths:
        await page.goto(path)
        found = await Axe().run(page, options={"runOnly": RULES})
        problems += [f"{path}: {one['id']}: {one['nodes'][0]['html'][:200]}" for one in found.response["violations"]]
        if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            problems.append(f"{path}: wider than the window")
    return problems


async def test_so_are_the_pages_of_a_site_around_a_model_from_elsewhere(
    open_page: Callable[..., Any], transactional_db: None, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    page = await open_page("dark", 390, bypass_csp=True)
    row = {"start_source": "hub:makers/" + "x" * 80, "start_state": "moving", "start_text": "Downloading"}
    await sync_to_async(Curriculum.objects.create)(pk=1, start_done=30, start_total=90, **row)
    assert await _problems(page, ["/"]) == []
    named = {"licence": "apache-2.0", "source": "hub:makers/" + "x" * 80, "revision": "0" * 40}
    await sync_to_async(make_checkpoint)("sft", preset="", name="SmolModel", **named)
    assert await _problems(page, ["/", "/stages/pretrain/", "/stages/sft/", "/compare/"]) == []


async def test_a_long_button_goes_below_the_words_beside_it(
    open_page: Callable[..., Any], transactional_db: None, make_checkpoint: Callable[..., Checkpoint]
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

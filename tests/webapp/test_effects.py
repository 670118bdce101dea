"""What each stage learnt from and what that changed, from this site's own records and answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from webapp.answers.models import Generation
from webapp.checkpoints.models import Checkpoint
from webapp.stages.models import SiteAnswer
from webapp.stages.queries import home_answers, home_page
from webapp.stages.questions import SHIPPED
from webapp.stages.services import ask_home_questions
from webapp.training.models import TrainingRun

pytestmark = pytest.mark.django_db

MakeCheckpoint = Callable[..., Checkpoint]


def say(checkpoint: Checkpoint, *texts: str, sampled: bool = False, reason: str = "end") -> None:
    """The site's own answers to its questions, in their order."""
    for prompt, text in zip(SHIPPED, texts, strict=False):
        generation = Generation.objects.create(
            checkpoint=checkpoint, messages=[], state="done", text=text, finish_reason=reason
        )
        SiteAnswer.objects.create(checkpoint=checkpoint, prompt=prompt, generation=generation, is_sampled=sampled)


def run_of(checkpoint: Checkpoint, *, first: dict[str, Any], last: dict[str, Any], **fields: Any) -> TrainingRun:
    run = TrainingRun.objects.create(
        stage=checkpoint.stage, preset="smoke", state="done", checkpoint=checkpoint, total_steps=20, **fields
    )
    run.metrics.create(step=0, values=first)
    run.metrics.create(step=10, values={"pass_at_1": 0.99, "bits_per_byte": 0.99})
    run.metrics.create(step=20, values=last)
    return run


def effects() -> dict[str, str]:
    """The lines of the home page, with plain spaces."""
    return {row.stage.slug: row.effect.replace("\u00a0", " ") for row in home_page().answers if row.effect}


# -- lines -----------------------------------------------------------------------------------------


def test_strangers_wording_counts_before_the_generators(make_checkpoint: MakeCheckpoint) -> None:
    old = {"instruction_accuracy": 0.9, "held_out_questions": 200, "pass_at_1": 0.99, "held_out_problems": 64}
    for stage, name, of in (("sft", "visitor_facts", 76), ("grpo", "visitor_problems", 60)):
        run_of(make_checkpoint(stage), first=old | {name: 0.0}, last=old | {name: 0.5, f"{name}_asked": of})

    said = effects()

    assert said["sft"].endswith("0 % → 50 % of 76 strangers’ questions answered right.")
    assert said["grpo"].endswith("0 % → 50 % of 60 strangers’ problems solved at the first try.")


def test_a_line_is_what_its_run_measured_before_and_after(make_checkpoint: MakeCheckpoint) -> None:
    make_checkpoint("init", metrics={"bits_per_byte": 3.5}, parameters=140_000)
    for stage, first, last, config in (
        ("pretrain", {"bits_per_byte": 3.48}, {"bits_per_byte": 0.234}, {"tokens": 20_480}),
        ("sft", {"instruction_accuracy": 0.0}, {"instruction_accuracy": 0.8, "held_out_questions": 30}, {}),
        ("grpo", {"pass_at_1": 0.25}, {"pass_at_1": 0.97, "held_out_problems": 64}, {}),
    ):
        run_of(make_checkpoint(stage), first=first, last=last, config=config)

    assert effects() == {
        "init": "140k random numbers, nothing read: 3.50 bits per byte of unseen text.",
        "pretrain": "After 20.5k tokens of text: 3.48 → 0.23 bits per byte of unseen text.",
        "sft": "After 20 batches of conversations: 0 % → 80 % of 30 held-out questions answered right.",
        "grpo": "After 20 rounds of practice: 25 % → 97 % of 64 held-out problems solved at the first try.",
    }


def test_what_votes_changed_is_counted_in_the_sites_own_answers(make_checkpoint: MakeCheckpoint) -> None:
    sft, reward, ppo = (make_checkpoint(stage) for stage in ("sft", "reward", "ppo"))
    run_of(reward, first={}, last={}, votes_used=66)
    run_of(ppo, first={}, last={}, reward_model=reward)
    say(sft, *["One two three."] * 4)
    say(ppo, *["One two three four five six."] * 3, "One two three.")

    # (3 · 6 + 3) / 4 = 5.25 words.
    assert effects()["ppo"] == "After 66 votes: 3 → 5 words an answer, 3 of 4 answers here changed."


def test_it_says_no_number_of_votes_that_nobody_recorded(make_checkpoint: MakeCheckpoint) -> None:
    sft, ppo = make_checkpoint("sft"), make_checkpoint("ppo")
    make_checkpoint("reward")
    for one in (sft, ppo):
        say(one, *["Same."] * 8)

    assert effects()["ppo"] == "After votes (RLHF): 1 → 1 words an answer, 0 of 8 answers here changed."


def test_of_few_answers_it_says_nothing(make_checkpoint: MakeCheckpoint) -> None:
    for stage in ("sft", "ppo"):
        say(make_checkpoint(stage), *["One."] * 3)

    assert effects() == {}


def test_without_records_it_counts_answers_that_end(make_checkpoint: MakeCheckpoint) -> None:
    say(make_checkpoint("pretrain"), *["On and on"] * 8, reason="length")
    say(make_checkpoint("sft"), *["Yes."] * 8)

    assert effects() == {"sft": "After conversations (SFT): 0 → 8 of its 8 answers here end by themselves."}


def test_the_lines_cost_no_query_for_each_stage(
    make_checkpoint: MakeCheckpoint, django_assert_max_num_queries: Any
) -> None:
    for stage in ("init", "pretrain", "sft", "reward", "ppo", "grpo"):
        checkpoint = make_checkpoint(stage)
        run_of(checkpoint, first={}, last={})
        if stage != "reward":
            say(checkpoint, *["One two."] * 8)

    with django_assert_max_num_queries(12):
        home_page()


# -- the question newcomers are shown --------------------------------------------------------------


def test_newcomers_are_shown_the_question_on_which_the_stages_differ(
    client: Client, make_checkpoint: MakeCheckpoint
) -> None:
    say(make_checkpoint("sft"), *["It eats grass."] * 8)
    say(make_checkpoint("ppo"), *["It eats grass."] * 5, "It eats grass. I hope this helps!", *["It eats grass."] * 2)

    assert home_page().question == 5
    assert home_page(2).question == 2
    page = client.get("/").content.decode()
    assert "<mark>I hope this helps!</mark>" in page
    assert "4 of 7 words new since stage 3" in page
    assert "New: “I hope this helps!”" in page  # for those who cannot see a mark


def test_it_stays_while_a_new_checkpoint_answers_and_may_change_then(make_checkpoint: MakeCheckpoint) -> None:
    say(make_checkpoint("sft"), *["It eats grass."] * 8)
    say(make_checkpoint("ppo"), "It eats.", *["It eats grass."] * 7)
    newer = make_checkpoint("grpo")
    say(newer, *["It eats grass, and so on and on."] * 7)

    assert home_page().question == 0
    generation = Generation.objects.create(checkpoint=newer, messages=[], state="running")
    SiteAnswer.objects.create(checkpoint=newer, prompt=SHIPPED[7], generation=generation)
    assert home_page().question == 0
    Generation.objects.filter(pk=generation.pk).update(state="done", text="Hello.")
    assert home_page().question == 0  # two stages differ there, one elsewhere


def test_before_two_stages_have_answered_it_is_the_first(make_checkpoint: MakeCheckpoint) -> None:
    assert home_page().question == 0
    say(make_checkpoint("sft"), *["It eats grass."] * 8)
    assert home_page().question == 0


# -- drawn with one seed ---------------------------------------------------------------------------


def test_where_greedy_answers_hide_a_taste_both_are_drawn_with_one_seed(
    client: Client, make_checkpoint: MakeCheckpoint, enqueued: Any
) -> None:
    sft, ppo = make_checkpoint("sft"), make_checkpoint("ppo")
    for one in (sft, ppo):
        say(one, *["It eats grass."] * 8)
    assert home_page().needs_asking

    asked = ask_home_questions(shown=SHIPPED[0])

    assert {(one.checkpoint, one.prompt) for one in asked} == {(sft, SHIPPED[0]), (ppo, SHIPPED[0])}
    assert {(one.sampling["temperature"], one.sampling["seed"]) for one in asked} == {(1.0, 0)}
    assert ask_home_questions(shown=SHIPPED[0]) == []
    assert not home_page().needs_asking
    assert home_page().is_changing
    for generation, text in zip(asked, ("Grass.", "Grass. Have a good day!"), strict=True):
        Generation.objects.filter(pk=generation.pk).update(state="done", text=text)
    page = client.get(reverse("stages:home")).content.decode()
    assert "Word for word what stage 3 says." in page
    assert "Drawn at temperature 1 with one seed for both" in page
    assert "<mark>Have a good day!</mark>" in page


def test_a_taste_that_shows_is_not_drawn(make_checkpoint: MakeCheckpoint, enqueued: Any) -> None:
    say(make_checkpoint("sft"), *["It eats grass."] * 8)
    say(make_checkpoint("ppo"), *["It eats grass. Have a good day!"] * 8)

    assert ask_home_questions(shown=SHIPPED[0]) == []
    assert [row.pair for row in home_answers(SHIPPED[0])] == [None] * 5

"""The rail, the home page, "ask all five" and the stage pages."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests.webapp.fake_trainer import DOUBTFUL
from trainer.config import CHAT_STAGES, STAGES
from trainer.data.corpus import SAMPLE_PROMPTS
from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.arena.models import Pair, Prompt, Vote
from webapp.chat.models import Conversation
from webapp.checkpoints.models import Checkpoint
from webapp.stages.context import RailItem, build_rail
from webapp.stages.masks import masked_conversation
from webapp.stages.models import SiteAnswer
from webapp.stages.practice import judge, practised_answers, practised_group
from webapp.stages.queries import home_answers, home_page
from webapp.stages.questions import SHIPPED
from webapp.stages.services import HOME_SAMPLING, ask_home_prompt
from webapp.stages.stage_report import measured, stage_report
from webapp.training.curriculum import next_step
from webapp.training.models import Metric, TrainingRun

pytestmark = pytest.mark.django_db

MakeCheckpoint = Callable[..., Checkpoint]
PROMPT = SAMPLE_PROMPTS[0]


def read(client: Client, path: str) -> str:
    """A page's markup, with plain spaces."""
    return client.get(path).content.decode().replace("\u00a0", " ")


def rail() -> dict[str, RailItem]:
    return {item.slug: item for item in build_rail()}


def answer(checkpoint: Checkpoint, *, prompt: str = PROMPT, state: str = "done", **fields: Any) -> Generation:
    """Somebody's answer to one of the fixed questions."""
    values = {"text": f"{checkpoint.stage} says", "sampling": HOME_SAMPLING, "state": state, **fields}
    return Generation.objects.create(checkpoint=checkpoint, messages=[{"role": "user", "content": prompt}], **values)


def site_answer(checkpoint: Checkpoint, *, prompt: str = PROMPT, **fields: Any) -> Generation:
    """The site's own greedy answer to one of the fixed questions."""
    generation = answer(checkpoint, prompt=prompt, **fields)
    SiteAnswer.objects.create(checkpoint=checkpoint, prompt=prompt, generation=generation)
    return generation


def answer_all(checkpoint: Checkpoint, *texts: str) -> None:
    """The site's own answers to all its questions: these, and the same for the rest."""
    for place, prompt in enumerate(SHIPPED):
        site_answer(checkpoint, prompt=prompt, **({"text": texts[place]} if place < len(texts) else {}))


# -- the rail --------------------------------------------------------------------------------------


def test_it_shows_every_stage_waiting_on_an_empty_site() -> None:
    assert [(item.slug, item.state) for item in build_rail()] == [(slug, "waiting") for slug in STAGES]


def test_it_numbers_the_stages_that_write_from_one_to_five() -> None:
    numbers = {slug: item.number for slug, item in rail().items() if slug in CHAT_STAGES}

    assert list(numbers.values()) == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("state", "expected", "share"),
    [("queued", "queued", 0), ("running", "running", 25), ("interrupted", "running", 25), ("failed", "waiting", 0)],
)
def test_it_shows_a_run_where_it_stands(state: str, expected: str, share: int) -> None:
    TrainingRun.objects.create(stage="pretrain", preset="smoke", state=state, step=5, total_steps=20)

    item = rail()["pretrain"]

    assert (item.state, item.share) == (expected, share)


def test_it_prefers_the_run_that_is_going_on_to_one_that_waits(make_checkpoint: MakeCheckpoint) -> None:
    for parent, state in ((make_checkpoint("init"), "queued"), (make_checkpoint("init"), "running")):
        TrainingRun.objects.create(stage="pretrain", preset="smoke", parent=parent, state=state)

    item = rail()["pretrain"]

    assert item.run is not None
    assert item.run.state == "running"


def test_a_ready_stage_stays_ready_while_a_second_run_waits(make_checkpoint: MakeCheckpoint) -> None:
    ready = make_checkpoint("pretrain")
    TrainingRun.objects.create(stage="pretrain", preset="smoke", state="queued")

    item = rail()["pretrain"]

    assert (item.state, item.checkpoint) == ("done", ready)


def test_it_shows_no_archived_checkpoint(make_checkpoint: MakeCheckpoint) -> None:
    make_checkpoint("sft", archived=True)

    assert rail()["sft"].state == "waiting"


def test_it_costs_two_queries(make_checkpoint: MakeCheckpoint, django_assert_num_queries: Any) -> None:
    for stage in STAGES:
        TrainingRun.objects.create(stage=stage, preset="smoke", parent=make_checkpoint(stage))

    with django_assert_num_queries(2):
        assert all(item.state_text for item in build_rail())


# -- home ------------------------------------------------------------------------------------------


def test_it_tells_apart_everything_a_stage_can_be_in(make_checkpoint: MakeCheckpoint) -> None:
    site_answer(make_checkpoint("init"))
    make_checkpoint("pretrain")
    run = TrainingRun.objects.create(stage="sft", preset="smoke", state="running", total_steps=20)
    for step in (0, 10):
        run.samples.create(step=step, prompt=PROMPT, text=f"at {step}")
    run.samples.create(step=15, prompt="Something else", text="not this")
    TrainingRun.objects.create(stage="ppo", preset="smoke", state="queued")

    rows = {row.stage.slug: row for row in home_answers(PROMPT)}

    assert {slug: row.state for slug, row in rows.items()} == {
        "init": "answered",
        "pretrain": "unasked",
        "sft": "training",
        "ppo": "queued",
        "grpo": "waiting",
    }
    assert rows["init"].text == "init says"
    assert rows["sft"].text == "at 10"


def test_it_takes_no_visitors_answer_for_the_sites_own(make_checkpoint: MakeCheckpoint, visitor: Visitor) -> None:
    checkpoint = make_checkpoint("sft")
    answer(checkpoint, visitor=visitor)
    answer(checkpoint)  # made for a pair, for instance
    site_answer(checkpoint, prompt="Another question")

    states = {row.stage.slug: row.state for row in home_answers(PROMPT)}

    assert states["sft"] == "unasked"


def test_it_asks_every_checkpoint_once(
    make_checkpoint: MakeCheckpoint, enqueued: Any, django_capture_on_commit_callbacks: Any
) -> None:
    for stage in ("init", "pretrain", "reward"):
        make_checkpoint(stage)

    with django_capture_on_commit_callbacks(execute=True):
        first = ask_home_prompt(prompt=PROMPT)
        again = ask_home_prompt(prompt=PROMPT)

    assert {generation.checkpoint.stage for generation in first} == {"init", "pretrain"}
    assert again == []
    assert [task.args for task in enqueued.of("generate_answer")] == [(str(generation.pk),) for generation in first]
    assert all(generation.visitor is None and generation.sampling["temperature"] == 0 for generation in first)


@pytest.mark.parametrize(("minutes", "asked"), [(0, 0), (2, 1)])
def test_it_asks_again_after_a_failure_but_not_at_once(
    make_checkpoint: MakeCheckpoint, enqueued: Any, minutes: int, asked: int
) -> None:
    failed = site_answer(make_checkpoint("init"), state="failed")
    Generation.objects.filter(pk=failed.pk).update(created_at=timezone.now() - timedelta(minutes=minutes))

    assert len(ask_home_prompt(prompt=PROMPT)) == asked
    assert (home_answers(PROMPT)[0].state == "failed") is not asked


def test_it_says_that_asking_again_comes_too_soon(client: Client, make_checkpoint: MakeCheckpoint) -> None:
    answer_all(make_checkpoint("init"))
    Generation.objects.update(state="failed")
    page = client.post(reverse("stages:ask_home"), {"q": 0}, follow=True).content.decode()
    assert "one that failed can be asked again after a minute" in page
    client.post(reverse("stages:ask_home"), {"q": 0}, headers={"HX-Request": "true"})
    assert "can be asked again" not in client.get("/").content.decode()


def test_looking_at_the_home_page_changes_nothing(client: Client, make_checkpoint: MakeCheckpoint) -> None:
    make_checkpoint("init")

    page = client.get("/").content.decode()

    assert Generation.objects.count() == 0
    assert reverse("stages:ask_home") in page


def test_it_is_asked_by_a_post(client: Client, make_checkpoint: MakeCheckpoint, enqueued: Any) -> None:
    make_checkpoint("init")

    response = client.post(reverse("stages:ask_home"), {"q": 1})

    assert response.headers["Location"] == "/?q=1"
    asked = [generation.prompt for generation in Generation.objects.order_by("created_at")]
    assert asked == [SHIPPED[1], SHIPPED[0], *SHIPPED[2:]]  # all of them, the one that is shown first
    assert client.get(reverse("stages:ask_home")).status_code == 405


@pytest.mark.parametrize("number", ["-1", "99", "x"])
def test_it_knows_only_its_own_questions(client: Client, number: str) -> None:
    assert client.get("/", {"q": number}).status_code == 404
    assert client.post(reverse("stages:ask_home"), {"q": number}).status_code == 404


def test_a_reader_who_has_everything_gets_nothing(client: Client, make_checkpoint: MakeCheckpoint) -> None:
    generation = site_answer(make_checkpoint("init"), state="running", text="")
    version = home_page(0).version

    same = client.get("/", {"q": 0, "v": version}, headers={"HX-Request": "true"})
    Generation.objects.filter(pk=generation.pk).update(state="done", text="All of it.")
    changed = client.get("/", {"q": 0, "v": version}, headers={"HX-Request": "true"})

    assert same.status_code == 204
    assert changed.status_code == 200
    assert b"All of it." in changed.content
    assert b"<html" not in changed.content
    assert b'hx-swap-oob="true"' in changed.content  # the rail comes along


def test_it_looks_again_soon_only_while_something_happens(make_checkpoint: MakeCheckpoint) -> None:
    for stage in STAGES:
        checkpoint = make_checkpoint(stage)
        if stage in CHAT_STAGES:
            answer_all(checkpoint)
    assert not home_page(0).is_changing

    TrainingRun.objects.create(stage="ppo", preset="smoke", state="running")
    assert home_page(0).is_changing


def test_it_escapes_what_a_model_says(client: Client, make_checkpoint: MakeCheckpoint) -> None:
    site_answer(make_checkpoint("init"), text='<img src=x onerror="alert(1)" hx-get="/logout/">')

    page = client.get("/").content.decode()

    assert "<img" not in page
    assert "&lt;img src=x" in page


def test_the_owner_gets_the_next_step_as_a_button(
    client: Client, owner_client: Client, make_checkpoint: MakeCheckpoint
) -> None:
    make_checkpoint("init")
    button = f'action="{reverse("training:next_step")}"'

    assert button in owner_client.get("/").content.decode()
    assert button not in client.get("/").content.decode()


def test_doubts_are_shown_to_everyone_and_the_choice_to_the_owner(
    client: Client, owner_client: Client, make_checkpoint: MakeCheckpoint, visitor: Visitor
) -> None:
    parent = None
    for stage in ("init", "pretrain", "sft"):
        parent = make_checkpoint(stage, parent=parent)
    make_checkpoint("reward", parent=parent, metrics=DOUBTFUL)
    assert parent is not None

    before, anybody = (one.get("/").content.decode() for one in (owner_client, client))
    version = home_page(0).version
    voted_pair(parent, visitor, source="shipped")
    after = owner_client.get("/").content.decode()

    assert "which could be luck" in before
    assert "which could be luck" in anybody
    assert "Collect more votes" in before
    assert 'name="overrule_doubts"' in before
    assert 'name="overrule_doubts"' not in anybody
    assert 'name="again"' not in before
    assert 'name="again"' in after
    assert "1 of 40 votes that are new to it" in after
    assert home_page(0).version != version

    owner_client.post(reverse("training:next_step"), {"overrule_doubts": "1", "shown": next_step().key})
    assert "could be luck" in TrainingRun.objects.get().overruled


def test_the_owner_may_let_a_simulated_voter_stand_in(
    client: Client, owner_client: Client, make_checkpoint: MakeCheckpoint
) -> None:
    for stage in ("init", "pretrain", "sft"):
        make_checkpoint(stage)

    owner, anybody = (one.get("/").content.decode() for one in (owner_client, client))

    assert 'name="taste"' in owner
    assert 'name="taste"' not in anybody
    assert f'href="{reverse("arena:vote")}"' in anybody


# -- ask all five ----------------------------------------------------------------------------------


@pytest.fixture
def five(make_checkpoint: MakeCheckpoint) -> list[Checkpoint]:
    return [make_checkpoint(stage) for stage in CHAT_STAGES]


def test_it_asks_all_five_with_the_same_settings(client: Client, five: list[Checkpoint], enqueued: Any) -> None:
    response = client.post("/compare/", {"text": "Why is the sky blue?", "temperature": "0.5", "seed": "7"})

    conversation = Conversation.objects.get()
    generations = Generation.objects.all()
    assert response.headers["Location"] == reverse("stages:comparison", args=[conversation.pk])
    assert conversation.kind == Conversation.Kind.COMPARE
    assert {generation.checkpoint for generation in generations} == set(five)
    assert {(g.sampling["temperature"], g.sampling["seed"]) for g in generations} == {(0.5, 7)}


def test_it_shows_the_answers_side_by_side_after_a_reload(
    client: Client, five: list[Checkpoint], enqueued: Any
) -> None:
    url = client.post("/compare/", {"text": "Hello"}).headers["Location"]
    Generation.objects.update(state="done", text="**Bold** <script>alert(1)</script>", finish_reason="length")

    page = client.get(url).content.decode()

    assert page.count("<strong>Bold</strong>") == 5
    assert page.count("Cut off at the longest length.") == 5
    assert "is-streaming" not in page
    assert "<script>alert" not in page


def test_it_marks_answers_that_are_still_being_written(client: Client, five: list[Checkpoint], enqueued: Any) -> None:
    url = client.post("/compare/", {"text": "Hello"}).headers["Location"]

    page = client.get(url).content.decode()

    assert page.count("is-streaming") == 5
    assert "js/compare.js" in page
    for part in ("compare-error", "stopping"):  # which the script fills and shows
        assert f'id="{part}" hidden' in page


def test_without_scripts_it_says_that_answers_are_not_complete(
    client: Client, five: list[Checkpoint], enqueued: Any
) -> None:
    url = client.post("/compare/", {"text": "Hello"}).headers["Location"]
    partial = "These answers are still being written."

    assert partial in read(client, url)
    Generation.objects.update(state="done", text="Hello.", finish_reason="end")
    assert partial not in read(client, url)


def test_it_says_which_stages_are_still_to_come(client: Client, make_checkpoint: MakeCheckpoint, enqueued: Any) -> None:
    make_checkpoint("init")
    run = TrainingRun.objects.create(stage="pretrain", preset="smoke", state="running", step=1, total_steps=4)

    page = client.get(client.post("/compare/", {"text": "Hello"}).headers["Location"]).content.decode()

    assert page.count("Still to come.") == 3
    assert "In training, 25\u00a0%" in page
    assert run.get_absolute_url() in page


def test_it_takes_the_question_from_the_address(client: Client) -> None:
    page = client.get("/compare/", {"text": "<b>Why?"}).content.decode()

    assert "&lt;b&gt;Why?</textarea>" in page


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"text": ""}, "Write something first."),
        ({"text": "   "}, "Write something first."),
        ({"text": "x" * 100_000}, "at most 8000 characters"),
        ({"text": "Hello", "temperature": "9"}, "less than or equal to 2"),
        ({"text": "Hello", "temperature": "nan"}, "Enter a number"),
        ({"text": "Hello", "seed": "-1"}, "greater than or equal to 0"),
    ],
)
def test_it_refuses_what_makes_no_sense(
    client: Client, five: list[Checkpoint], data: dict[str, str], words: str
) -> None:
    response = client.post("/compare/", data)

    assert response.status_code == 400
    assert words in response.content.decode()
    assert Conversation.objects.count() == 0


def test_it_refuses_when_there_is_nobody_to_ask(client: Client) -> None:
    response = client.post("/compare/", {"text": "Hello"})

    assert response.status_code == 400
    assert "There is no checkpoint to ask yet." in response.content.decode()


def test_it_refuses_too_many_questions_at_once(
    client: Client, five: list[Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.stages.views.allow", lambda kind, identity: False)

    response = client.post("/compare/", {"text": "Hello"})

    assert response.status_code == 429
    assert "Wait a minute" in response.content.decode()
    assert Conversation.objects.count() == 0


def test_only_its_asker_sees_a_comparison(
    client: Client, alice_client: Client, owner_client: Client, five: list[Checkpoint], enqueued: Any
) -> None:
    url = client.post("/compare/", {"text": "A secret"}).headers["Location"]

    assert client.get(url).status_code == 200
    for other in (Client(), alice_client, owner_client):
        assert other.get(url).status_code == 404
    assert client.get(reverse("stages:comparison", args=[uuid.uuid4()])).status_code == 404


def test_a_chat_is_no_comparison(visitor: Visitor, visitor_client: Client, make_checkpoint: MakeCheckpoint) -> None:
    chat = Conversation.objects.create(visitor=visitor, checkpoint=make_checkpoint("init"))

    assert visitor_client.get(reverse("stages:comparison", args=[chat.pk])).status_code == 404


# -- stage pages -----------------------------------------------------------------------------------


def run_of(stage: str, rows: list[dict[str, float]], **fields: Any) -> TrainingRun:
    run = TrainingRun.objects.create(stage=stage, preset="smoke", state="done", step=len(rows), **fields)
    for step, values in enumerate(rows):
        run.metrics.create(step=step, values=values)
    return run


def test_an_unknown_stage_is_not_there(client: Client) -> None:
    assert client.get("/stages/nonsense/").status_code == 404


@pytest.mark.parametrize("slug", STAGES)
def test_a_stage_without_data_says_so(client: Client, slug: str) -> None:
    assert not stage_report(slug).figures
    assert 'class="empty"' in read(client, f"/stages/{slug}/")


@pytest.mark.parametrize(
    ("slug", "source", "rows", "words"),
    [
        ("init", "pretrain", [{"loss": 6.25}, {"loss": 3.5}], "starts at 6.25; chance is 6.24"),
        ("pretrain", "pretrain", [{"bits_per_byte": 8.1}, {"loss": 3.0}, {"bits_per_byte": 2.5}], "from 8.10 to 2.50"),
        ("sft", "sft", [{"instruction_accuracy": 0.1}, {"instruction_accuracy": 0.9}], "from 10 % to 90 %."),
        ("sft", "sft", [{"instruction_accuracy": 0.9, "held_out_questions": 200}], "to 90 % of 200 questions."),
        ("ppo", "ppo", [{"reward": 0.0, "kl": 0.0}, {"reward": 1.0, "kl": 4.0}], "Round by round"),
        ("ppo", "ppo", [{"held_out_win_rate": 0.5}, {"held_out_win_rate": 0.8}], "from 50 % to 80 %"),
        ("ppo", "ppo", [{"held_out_win_rate": 0.8, "held_out_prompts": 60}], "to 80 % of 60 questions."),
        ("grpo", "grpo", [{"pass_at_1": 0.4}, {"pass_at_1": 0.95}], "from 40 % to 95 %"),
        ("grpo", "grpo", [{"pass_at_1": 0.95, "held_out_problems": 64}], "to 95 % of 64 problems."),
        ("grpo", "grpo", [{"solved": 0.2}, {"solved": 0.6}], "from 20 % to 60 %"),
        ("grpo", "grpo", [{"solved": 0.6, "answers": 256}], "to 60 % of 256 attempts."),
        ("grpo", "grpo", [{"taste_reward": 1.5}, {"taste_reward": -0.25}], "from +1.50 to −0.25"),
    ],
)
def test_it_draws_what_the_sites_own_run_measured(
    client: Client,
    make_checkpoint: MakeCheckpoint,
    slug: str,
    source: str,
    rows: list[dict[str, float]],
    words: str,
) -> None:
    run_of(source, rows, parent=make_checkpoint("init", preset="smoke"))

    page = read(client, f"/stages/{slug}/")

    assert words in page
    assert page.count('<svg class="fig"') == 1
    assert "The same as a table" in page
    assert page.count("What it is about: ") == 1


def test_it_draws_the_newest_run_that_has_the_figure(make_checkpoint: MakeCheckpoint) -> None:
    old = run_of("sft", [{"instruction_accuracy": 0.5}], parent=make_checkpoint("pretrain"))
    run_of("sft", [{"loss": 1.0}])

    assert f"run {old.pk}" in stage_report("sft").figures[0].caption


def test_in_the_second_round_it_shows_the_second_round(make_checkpoint: MakeCheckpoint) -> None:
    for number in (1, 2):
        run = run_of("pretrain", [{"loss": 1.0}], parent=make_checkpoint("init"))
        run.samples.create(step=1, prompt=f"Round {number}", text="So it goes.")
        site_answer(make_checkpoint("ppo"), text=f"What round {number} says")

    timeline, quote = stage_report("pretrain").timeline, stage_report("ppo").quote

    assert timeline is not None
    assert timeline.prompt == "Round 2"
    assert quote is not None
    assert quote.text == "What round 2 says"


def test_no_page_shows_the_space_a_continuation_begins_with(client: Client, make_checkpoint: MakeCheckpoint) -> None:
    site_answer(make_checkpoint("init"), text=" begins with a space")

    for path in ("/", "/stages/init/"):
        assert ">begins with a space<" in read(client, path)


def test_it_quotes_no_archived_checkpoint(make_checkpoint: MakeCheckpoint) -> None:
    site_answer(make_checkpoint("ppo"), text="What the model says")
    hidden = make_checkpoint("ppo", archived=True)
    site_answer(hidden, text="What nobody should see")

    quote = stage_report("ppo").quote

    assert quote is not None
    assert quote.text == "What the model says"


def test_it_quotes_no_earlier_checkpoint_as_the_one_of_now(make_checkpoint: MakeCheckpoint) -> None:
    site_answer(make_checkpoint("ppo"), text="What it used to say")
    make_checkpoint("ppo")

    assert stage_report("ppo").quote is None


def test_the_first_loss_of_a_long_run_is_its_first_steps(client: Client, make_checkpoint: MakeCheckpoint) -> None:
    run = run_of("pretrain", [], parent=make_checkpoint("init", preset="smoke"))
    run.metrics.create(step=0, values={"bits_per_byte": 8.0})  # the evaluation before training
    Metric.objects.bulk_create(Metric(run=run, step=step, values={"loss": 6.5 / step}) for step in range(1, 3001))

    assert "the first step of pre-training measured 6.50" in read(client, "/stages/init/")


def test_the_first_loss_is_none_of_a_run_that_goes_on_from_text(make_checkpoint: MakeCheckpoint) -> None:
    random = run_of("pretrain", [{"loss": 6.25}], parent=make_checkpoint("init"))
    run_of("pretrain", [{"loss": 2.5}], parent=make_checkpoint("pretrain"))

    report = stage_report("init")

    assert report.first_loss == "6.25"
    assert f"run {random.pk} starts at 6.25" in report.figures[0].caption


def test_it_forgets_a_discarded_run() -> None:
    run_of("sft", [{"instruction_accuracy": 0.5}])
    TrainingRun.objects.update(state="discarded")

    assert stage_report("sft").figures == []
    assert stage_report("sft").runs == []


def test_it_shows_a_reward_models_agreement_beside_the_ruler(client: Client, make_checkpoint: MakeCheckpoint) -> None:
    make_checkpoint(
        "reward",
        metrics={
            "agreement": 0.84,
            "agreement_interval": [0.72, 0.91],
            "length_only_agreement": 0.66,
            "held_out_comparisons": 50,
            "held_out_prompts": 40,
        },
    )

    page = read(client, "/stages/reward/")

    assert "agrees with 84 % of the 50 votes it has not seen, on 40 questions: between 72 % and 91 %" in page
    assert "Length alone" in page
    assert 'agrees with votes <span class="num">84 % of 50 votes</span>' in page
    assert "What it is about: Comparisons on questions kept away from training" in page


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        (
            {"agreement_interval": None, "held_out_prompts": 1},
            "100 % of the 6 votes it has not seen, on 1 question: too",
        ),
        ({"agreement_interval": [0.61, 1.0]}, "100 % of the 6 votes it has not seen: too"),  # by an earlier version
    ],
)
def test_it_states_no_interval_of_a_handful_of_votes(
    client: Client, make_checkpoint: MakeCheckpoint, recorded: dict[str, object], words: str
) -> None:
    metrics = {"agreement": 1.0, "length_only_agreement": 0.5, "held_out_comparisons": 6}
    make_checkpoint("reward", metrics={**metrics, **recorded})

    page = read(client, "/stages/reward/")

    assert f"{words} few to say how sure that is" in page
    assert "with 95 % confidence" not in page


@pytest.mark.parametrize("path", ["/", "/compare/", "/leaderboard/", *(f"/stages/{slug}/" for slug in STAGES)])
def test_no_page_claims_more_than_was_measured(client: Client, make_checkpoint: MakeCheckpoint, path: str) -> None:
    for slug in STAGES:
        make_checkpoint(slug, metrics={"pass_at_1": 1.0, "held_out_problems": 64})

    page = read(client, path)

    for claim in ("gets sums right", "gets them right", "behaves the way", "knows the voters"):
        assert claim not in page


def test_the_reasoning_page_says_which_problems_its_figure_is_of(client: Client) -> None:
    run_of("grpo", [{"pass_at_1": 1.0, "held_out_problems": 64}])

    page = read(client, "/stages/grpo/")

    assert "to 100 % of 64 problems." in page
    assert "What it is about: Problems of the generator that wrote the practice" in page
    assert "Not sums in a stranger’s words, with more steps or larger numbers." in page


@pytest.mark.parametrize(
    ("slug", "name", "what"),
    [
        ("sft", "visitor_facts", "Strangers’ questions about the world answered right"),
        ("sft", "visitor_talk", "Strangers’ greetings"),
        ("ppo", "visitor_facts", "Strangers’ questions about the world answered right"),
        ("grpo", "visitor_problems", "Strangers’ problems solved"),
    ],
)
def test_what_strangers_would_get_stands_first(client: Client, slug: str, name: str, what: str) -> None:
    figures = {
        name: 0.5,
        f"{name}_asked": 60.0,
        "instruction_accuracy": 0.9,
        "pass_at_1": 1.0,
        "reward": 1.0,
        "kl": 1.0,
    }
    run_of(slug, [figures, figures])

    page = read(client, f"/stages/{slug}/")

    first = page.index("<figcaption")
    assert page.index(what) < page.index("</figcaption>", first)
    assert "Written by hand in wording that no generator of this project produces" in page
    assert "from 50 % to 50 % of 60 " in page


def voted_pair(checkpoint: Checkpoint, visitor: Visitor, *, source: str, from_chat: bool = False) -> Vote:
    prompt = Prompt.objects.create(text=f"Question from {source}", source=source)
    a, b = (answer(checkpoint, prompt=prompt.text, text=text) for text in ("First text", "Second text"))
    pair = Pair.objects.create(prompt=prompt, kind="self", state="ready", a=a, b=b, from_chat=from_chat)
    return Vote.objects.create(pair=pair, visitor=visitor, choice="b")


def test_it_shows_a_real_pair_with_its_vote(make_checkpoint: MakeCheckpoint, visitor: Visitor) -> None:
    voted_pair(make_checkpoint("sft"), visitor, source="shipped")

    pair = stage_report("reward").pair

    assert pair is not None
    assert [(one.text, one.preferred) for one in pair.answers] == [("First text", False), ("Second text", True)]


@pytest.mark.parametrize(("source", "from_chat"), [("chat", False), ("shipped", True)])
def test_it_shows_nobodys_private_question(
    make_checkpoint: MakeCheckpoint, visitor: Visitor, source: str, from_chat: bool
) -> None:
    voted_pair(make_checkpoint("sft"), visitor, source=source, from_chat=from_chat)
    scores = {"outcome": "win", "rejected": "Second", "reward": 1.0, "rejected_reward": -1.0}
    run_of("reward", []).samples.create(step=1, prompt="My private question", text="First", extra=scores)

    assert stage_report("reward").pair is None


def test_it_shows_the_scores_of_a_held_out_pair(make_checkpoint: MakeCheckpoint) -> None:
    Prompt.objects.create(text="What do owls eat?", source="shipped")
    scores = {"outcome": "win", "rejected": "Owls.", "reward": 1.25, "rejected_reward": -0.5}
    run_of("reward", []).samples.create(step=1, prompt="What do owls eat?", text="Mice.", extra=scores)

    pair = stage_report("reward").pair

    assert pair is not None
    assert [(one.text, one.score) for one in pair.answers] == [("Mice.", "+1.25"), ("Owls.", "−0.50")]


def test_it_shows_one_group_with_verdicts_and_advantages(client: Client) -> None:
    run = run_of("grpo", [])
    for step in (1, 2):
        run.samples.create(step=step, prompt=PROMPT, text="A fixed prompt's sample")
        for correct, advantage in ((True, 1.73), (False, -0.58)):
            extra = {"correct": correct, "advantage": advantage, "expected": "9"}
            run.samples.create(step=step, prompt="7 + 5 − 3?", text=f"attempt at {step}", extra=extra)

    group = practised_group()

    assert group is not None
    assert (group.place.step, group.expected, group.right) == (2, "9", 1)
    assert [(one.text, one.correct, one.advantage) for one in group.attempts] == [
        ("attempt at 2", True, "+1.73"),
        ("attempt at 2", False, "−0.58"),
    ]
    assert "✓ right" in read(client, "/stages/grpo/")


def test_it_goes_through_the_groups_of_every_step(client: Client) -> None:
    run = run_of("grpo", [], total_steps=3)
    for step in (1, 2, 3):
        for correct in (True, False):
            extra = {"correct": correct, "advantage": 0.71 if correct else -0.71}
            run.samples.create(step=step, prompt="As evaluated?", text="not this again", extra=extra)
            extra["practice"] = True
            run.samples.create(step=step, prompt=f"Problem {step}?", text=f"attempt at {step}", extra=extra)
    discarded = TrainingRun.objects.create(stage="grpo", preset="smoke", state="discarded")
    discarded.samples.create(step=9, prompt="Not this", text="", extra={"advantage": 1.0})

    first, last, beyond = (client.get("/stages/grpo/", {"place": place}).content.decode() for place in (1, 3, 99))

    assert "Problem 1?" in first
    assert "1 of 2 right, at step 1 of 3 of run" in first
    assert 'min="1" max="3" value="1"' in first
    assert "Problem 3?" in last
    assert "Problem 3?" in beyond
    assert "Problem 3?" in client.get("/stages/grpo/", {"place": "x"}).content.decode()
    part = client.get("/stages/grpo/", {"place": 2}, headers={"HX-Request": "true"}).content.decode()
    assert "Problem 2?" in part
    assert "<html" not in part


def test_it_shows_what_the_rewards_of_a_runs_answers_are_made_of(client: Client) -> None:
    run = run_of("ppo", [{}, {}, {"kl_weight": 0.5}], total_steps=2)
    for text, score, kl in (("Short.", 1.0, 0.2), ("Long and odd.", 1.4, 3.0)):
        extra = {"score": score, "kl": kl, "practice": True}
        run.samples.create(step=1, prompt="Hello?", text="Before that.", extra=extra)
        run.samples.create(step=2, prompt="Hello?", text=text, extra=extra)

    answers = practised_answers()

    assert answers is not None
    assert [(one.text, one.reward_text, one.is_above) for one in answers.judged] == [
        ("Short.", "+0.90", True),
        ("Long and odd.", "−0.10", False),
    ]
    freely = judge(answers.place.samples, weight=0.0)
    assert [one.is_above for one in freely] == [False, True]
    assert practised_answers(1) is None  # nobody recorded the weight it had
    part = client.get("/stages/ppo/", {"place": 1}, headers={"HX-Request": "true"})
    assert part.status_code == 204  # what is shown stays
    page = read(client, "/stages/ppo/")
    assert "2 answers of step 2 of 2" in page
    assert 'data-score="1.4"' in page


def test_it_thins_a_long_timeline_and_keeps_both_ends() -> None:
    run = run_of("pretrain", [])
    for step in range(0, 110, 10):
        run.samples.create(step=step, prompt=PROMPT, text=f"at {step}")

    timeline = stage_report("pretrain").timeline

    assert timeline is not None
    assert len(timeline.samples) == 6
    assert [timeline.samples[0].step, timeline.samples[-1].step] == [0, 100]


def test_the_loss_counts_the_answer_and_its_end_mark_only() -> None:
    masked = masked_conversation(("Hi?", "Hello."))

    assert [part.text for part in masked.parts if part.counts] == ["Hello.<|im_end|>"]
    assert "".join(part.text for part in masked.parts) == (
        "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
    )


def test_it_counts_every_answer_of_a_typed_conversation(client: Client) -> None:
    typed = {"asked": "Hi?", "answered": "Hello.", "asked_then": "<b>And?", "answered_then": "Bye."}

    page = read(client, f"/stages/sft/?{urlencode(typed)}")
    part = client.get("/stages/sft/", typed, headers={"HX-Request": "true"}).content.decode()

    for shown in (page, part):
        assert "<mark>Hello.&lt;|im_end|&gt;</mark>" in shown
        assert "<mark>Bye.&lt;|im_end|&gt;</mark>" in shown
        assert "user\n&lt;b&gt;And?&lt;|im_end|&gt;" in shown
    assert 'value="Hello."' in page
    assert "<html" not in part


def test_without_an_answer_nothing_counts(client: Client, make_checkpoint: MakeCheckpoint) -> None:
    assert "<mark>" not in read(client, "/stages/sft/?asked=Hi")
    site_answer(make_checkpoint("sft"), text="Of course.")
    assert "<mark>Of course.&lt;|im_end|&gt;</mark>" in read(client, "/stages/sft/?asked=Hi")
    assert "Of course." in read(client, f"/stages/sft/?asked=Hi&answered={'x' * 301}")


def test_it_lists_checkpoints_with_their_figures(client: Client, make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint("sft", metrics={"instruction_accuracy": 0.91, "secret": 1}, name="My model")
    make_checkpoint("sft", archived=True, name="Hidden model")

    page = read(client, "/stages/sft/")

    assert "My model" in page
    assert "91 %" in page
    assert "secret" not in page
    assert "Hidden model" not in page
    assert f"{reverse('chat:new')}?checkpoint={checkpoint.pk}" in page


def test_it_reads_only_figures_that_are_numbers() -> None:
    metrics = {"bits_per_byte": 1.416, "pass_at_1": None, "ended": "yes", "reward": float("nan"), "agreement": True}

    assert [(one.name, one.text) for one in measured(metrics)] == [("bits per byte", "1.42")]


def test_a_share_says_what_it_is_of() -> None:
    metrics = {"instruction_accuracy": 0.91, "held_out_questions": 200, "pass_at_1": 1.0, "held_out_problems": 1}

    assert [(one.name, one.text) for one in measured(metrics)] == [
        ("questions right", "91\u00a0% of 200 questions"),
        ("problems solved", "100\u00a0% of 1 problem"),
    ]

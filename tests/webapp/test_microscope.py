"""The token microscope's page: who may open it, what it refuses, what it says, and that it asks for an answer once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from tests.conftest import Enqueued
from webapp.accounts.models import Visitor
from webapp.answers.looks import BUSY, GIVE_UP_S, Found, FoundOther, FoundToken, finish_look
from webapp.answers.models import Generation, Look
from webapp.answers.spelling import percent, shown, spoken
from webapp.chat import services
from webapp.chat.microscope import TokenShown, times
from webapp.chat.models import Conversation, Message
from webapp.chat.views import TOO_MANY_LOOKS
from webapp.checkpoints.models import Checkpoint
from webapp.ops.clock import seconds_from_now
from webapp.ops.queues import CHAT

pytestmark = pytest.mark.django_db

HTMX = {"HX-Request": "true"}
TASK = "look_into_answer"


def other(text: str, probability: float, before: float | None = None, kind: str = "text") -> FoundOther:
    return FoundOther(piece=(text, kind), probability=probability, before=before)


MICE: FoundToken = {
    **other("mice", 0.5, 0.125),
    "rank": 1,
    "others": [other(" owls", 0.25, 0.5), other("\n", 0.01, 0.011)],
    "parents_first": other(" owls", 0.5),
}
END: FoundToken = {
    **other("<|im_end|>", 0.98, 0.97, "end"),
    "rank": 1,
    "others": [other("C3", 0.0004, 0.0003, "bytes")],
    "parents_first": other("<|im_end|>", 0.97, kind="end"),
}
FOUND = Found(tokens=[MICE, END], is_exact=True, parent="Instruction fine-tuning", no_parent="")


@pytest.fixture
def chat(visitor: Visitor, make_checkpoint: Callable[..., Any], enqueued: Enqueued) -> Conversation:
    """The visitor's conversation with one finished answer of a `ppo` checkpoint."""
    checkpoint = make_checkpoint("ppo", parent=make_checkpoint("sft"))
    chat = Conversation.objects.create(
        visitor=visitor, checkpoint=checkpoint, title="Foxes", sampling=dict(services.DEFAULT_SAMPLING)
    )
    question = services.send_message(conversation=chat, text="What does a fox eat?", offer_two=False)
    finish(question.children.get(), "mice")
    return chat


@pytest.fixture
def answer(chat: Conversation) -> Message:
    return chat.messages.get(role="assistant")


def finish(message: Message, text: str) -> None:
    Generation.objects.filter(message=message).update(state="done", finish_reason="end", text=text, token_ids=[1])


def url_of(message: Message) -> str:
    return reverse("chat:tokens", args=[message.pk])


def opened(client: Client, message: Message, *, waiting: bool = False, status: int = 200) -> str:
    response = client.get(url_of(message), {"waiting": "1"} if waiting else {}, headers=HTMX)
    assert response.status_code == status
    return unescape(response.content.decode())


def let_find(message: Message, found: Found | None = FOUND, problem: str = "") -> None:
    assert message.generation is not None
    finish_look(look=Look.objects.get(pk=message.generation.pk), found=found, problem=problem)


# -- opening ---------------------------------------------------------------------------------------


def test_opening_tells_a_worker_once_and_shows_what_it_finds(
    visitor_client: Client, answer: Message, enqueued: Enqueued, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        assert "data-waiting" in opened(visitor_client, answer)
        assert "data-waiting" in opened(visitor_client, answer, waiting=True)
    [task] = enqueued.of(TASK)
    assert answer.generation is not None
    assert (task.args, task.options["queue"]) == ((str(answer.generation.pk),), CHAT)
    let_find(answer)
    for _ in range(2):
        page = opened(visitor_client, answer)
        assert "data-waiting" not in page
        assert 'aria-label="“mice”, 50\u00a0%"' in page
    assert len(enqueued.of(TASK)) == 1


def test_the_card_of_each_token_is_in_the_partial(visitor_client: Client, answer: Message) -> None:
    opened(visitor_client, answer)
    let_find(answer)
    page = visitor_client.get(url_of(answer), headers=HTMX).content.decode()
    [cards] = re.findall(r'<script type="application/json">(.*?)</script>', page)
    mice, end = json.loads(cards)
    assert mice["sentence"].replace("\u00a0", " ") == (
        "“mice”: 50 %, the model's first choice; 4 times likelier than to its parent (Instruction fine-tuning), "
        "which gave it 12 %."
    )
    assert mice["change"].replace("\u00a0", " ") == "Its parent's first choice was “ owls” (50 %)."
    assert [(bar["text"], bar["probability"], bar["is_written"]) for bar in mice["bars"]] == [
        ("mice", 0.5, True),
        ("·owls", 0.25, False),
        ("↵", 0.01, False),
    ]
    assert end["sentence"].startswith("The end of the answer: 98")
    assert end["change"] == ""


def test_without_scripts_it_is_a_page_that_comes_back_by_itself_and_then_a_table(
    visitor_client: Client, answer: Message
) -> None:
    url = url_of(answer)
    first = visitor_client.get(url)
    assert first["Refresh"] == f"1; url={url}?waiting=1"
    let_find(answer)
    page = visitor_client.get(url, {"waiting": "1"})
    assert "Refresh" not in page
    text = unescape(page.content.decode())
    assert text.count("<tr") == 3
    for said in (
        "<code>mice</code>",
        "<code>·owls</code> 25\u00a0%",
        "4 times likelier.",
        "temperature 0.8 and top-p 0.95",
    ):
        assert said in text


def test_the_chat_offers_it_below_an_answer(visitor_client: Client, chat: Conversation, answer: Message) -> None:
    assert url_of(answer) in visitor_client.get(reverse("chat:conversation", args=[chat.pk])).content.decode()


def test_a_comparisons_answers_can_be_looked_into(visitor_client: Client, visitor: Visitor, chat: Conversation) -> None:
    asked = services.ask_checkpoints(visitor=visitor, checkpoints=[chat.checkpoint], text="Why?")
    answer = asked.messages.get(role="assistant")
    finish(answer, "mice")
    assert url_of(answer) in visitor_client.get(reverse("stages:comparison", args=[asked.pk])).content.decode()
    assert "data-waiting" in opened(visitor_client, answer)


# -- what goes wrong -------------------------------------------------------------------------------


def test_a_problem_is_said_and_opening_again_tries_again(
    visitor_client: Client, answer: Message, enqueued: Enqueued, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        opened(visitor_client, answer)
        let_find(answer, None, "ppo cannot be loaded; choose another model.")
        assert "ppo cannot be loaded" in opened(visitor_client, answer, waiting=True)
        assert "data-waiting" in opened(visitor_client, answer)
    assert len(enqueued.of(TASK)) == 2


def test_a_look_that_never_comes_ends_in_one_sentence(
    visitor_client: Client, answer: Message, enqueued: Enqueued, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        opened(visitor_client, answer)
        Look.objects.update(asked_at=seconds_from_now(-GIVE_UP_S - 1))
        assert BUSY in opened(visitor_client, answer, waiting=True)
        assert "data-waiting" in opened(visitor_client, answer)
    assert len(enqueued.of(TASK)) == 2
    assert Look.objects.filter(asked_at__gt=seconds_from_now(-GIVE_UP_S)).exists()


def test_too_many_at_once_are_refused_but_what_is_known_is_shown(
    visitor_client: Client, chat: Conversation, answer: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(visitor_client, answer)
    let_find(answer)
    monkeypatch.setattr("webapp.accounts.limits.allow", lambda kind, request: kind != "look")
    question = services.send_message(conversation=chat, text="And owls?", offer_two=False)
    finish(question.children.get(), "mice")
    assert TOO_MANY_LOOKS in opened(visitor_client, question.children.get(), status=429)
    assert "data-tokens" in opened(visitor_client, answer)


def test_an_archived_checkpoint_reads_no_more_but_what_it_found_stays(visitor_client: Client, answer: Message) -> None:
    Checkpoint.objects.update(archived=True)
    assert "has been archived" in opened(visitor_client, answer, status=422)
    Checkpoint.objects.update(archived=False)
    opened(visitor_client, answer)
    let_find(answer)
    Checkpoint.objects.update(archived=True)
    assert "data-tokens" in opened(visitor_client, answer)


def test_an_unfinished_answer_and_one_without_a_word_are_refused(visitor_client: Client, answer: Message) -> None:
    Generation.objects.update(state="running")
    assert "still being written" in opened(visitor_client, answer, status=422)
    Generation.objects.update(state="failed", text="", token_ids=[])
    assert "wrote nothing" in opened(visitor_client, answer, status=422)
    assert not Look.objects.exists()


# -- who may ---------------------------------------------------------------------------------------


def test_only_whose_chat_it_is_may_open_it(
    visitor_client: Client, alice_client: Client, client: Client, chat: Conversation, answer: Message
) -> None:
    opened(visitor_client, answer)
    let_find(answer)
    for stranger in (alice_client, client):
        assert stranger.get(url_of(answer), headers=HTMX).status_code == 404
    services.delete_conversation(conversation=chat)
    assert visitor_client.get(url_of(answer)).status_code == 404


def test_a_question_has_no_tokens_to_look_at(visitor_client: Client, chat: Conversation) -> None:
    assert visitor_client.get(url_of(chat.messages.get(role="user"))).status_code == 404
    assert visitor_client.post(url_of(chat.messages.get(role="user"))).status_code == 405


# -- blind choices ---------------------------------------------------------------------------------


@pytest.fixture
def offered(chat: Conversation) -> list[Message]:
    question = services.send_message(conversation=chat, text="And in winter?", offer_two=True)
    answers = list(question.children.order_by("side"))
    for number, one in enumerate(answers):
        finish(one, f"Berries {number}.")
    return answers


def test_while_two_answers_wait_for_a_choice_neither_can_be_looked_into(
    visitor_client: Client, chat: Conversation, offered: list[Message]
) -> None:
    page = visitor_client.get(reverse("chat:conversation", args=[chat.pk])).content.decode()
    for one in offered:
        assert url_of(one) not in page
        for waiting in (False, True):
            assert "Choose one of the two answers first" in opened(visitor_client, one, waiting=waiting, status=422)
    assert not Look.objects.exists()


def test_after_the_choice_both_can_be(visitor_client: Client, offered: list[Message]) -> None:
    services.choose_answer(message=offered[1])
    for one in offered:
        assert "data-waiting" in opened(visitor_client, one)


def test_two_answers_that_came_out_the_same_are_no_choice(visitor_client: Client, offered: list[Message]) -> None:
    for one in offered:
        finish(one, "Berries.")
    assert "data-waiting" in opened(visitor_client, offered[0])


# -- in words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "said"),
    [
        (1.0, "over 99.9 %"),
        (0.9994, "99.9 %"),
        (0.9951, "99.5 %"),
        (0.99, "99 %"),
        (0.123, "12 %"),
        (0.0999, "10.0 %"),
        (0.012, "1.2 %"),
        (0.0012, "0.12 %"),
        (0.00099, "1 in 1,000"),
        (0.000123, "1 in 8,100"),
        (1.7e-7, "1 in 5,900,000"),
        (0.0, "less than 1 in a billion"),
    ],
)
def test_a_probability_has_as_many_digits_as_it_takes(probability: float, said: str) -> None:
    assert percent(probability).replace("\u00a0", " ") == said


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        (0.5, 0.41, "about as likely"),
        (0.3, 0.2, "1.5 times likelier"),
        (0.2, 0.3, "1.5 times less likely"),
        (0.1, 0.9, "9 times less likely"),
        (0.9, 0.0001, "over 1,000 times likelier"),
        (0.0, 0.0, "about as likely"),
        (0.5, 0.0, "over 1,000 times likelier"),
    ],
)
def test_a_change_is_said_in_plain_words(now: float, before: float, said: str) -> None:
    assert times(now, before) == said


@pytest.mark.parametrize(
    ("piece", "seen", "heard"),
    [
        ((" fox", "text"), "·fox", "“ fox”"),
        (("\n\n", "text"), "↵↵", "2 line breaks"),
        ((" ", "text"), "·", "a space"),
        (("  \t", "text"), "··⇥", "2 spaces and a tab"),
        ((".\n", "text"), ".↵", "“.↵”"),
        (("\u200b\x07", "text"), "⟨U+200B⟩⟨U+0007⟩", "“⟨U+200B⟩⟨U+0007⟩”"),
        (("C3", "bytes"), "⟨C3⟩", "byte C3, part of a letter"),
        (("F0 9F", "bytes"), "⟨F0 9F⟩", "bytes F0 9F, part of a letter"),
        (("<|im_end|>", "end"), "<|im_end|>", "the end of the answer"),
        (("<tool>", "control"), "<tool>", "the control token <tool>"),
        (("", "text"), "⟨nothing⟩", "“”"),
    ],
)
def test_every_letter_can_be_seen_and_heard(piece: tuple[str, str], seen: str, heard: str) -> None:
    assert (shown(piece), spoken(piece)) == (seen, heard)


def test_what_a_model_writes_stays_text(visitor_client: Client, answer: Message) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    opened(visitor_client, answer)
    token: FoundToken = {**MICE, "piece": (hostile, "text"), "others": [other(hostile, 0.2, 0.1)]}
    let_find(answer, Found(tokens=[token], is_exact=False, parent="", no_parent="Nothing to compare with."))
    for headers in ({}, HTMX):
        page = visitor_client.get(url_of(answer), headers=headers).content.decode()
        assert "<img" not in page
        assert "cut into tokens again" in page
        assert "Nothing to compare with." in page


def test_the_biggest_change_is_pointed_out_where_it_is_not_the_token_itself() -> None:
    token: FoundToken = {
        **other("mice", 0.3, 0.29),
        "rank": 2,
        "others": [other(" owls", 0.4, 0.1), other(" hay", 0.1, 0.12)],
        "parents_first": other("mice", 0.29),
    }
    change = TokenShown(token, 0, "Instruction fine-tuning").change.replace("\u00a0", " ")
    assert change == (
        "Its parent's first choice was “mice” (29 %). The biggest change among these is “ owls”: 10 % before, 40 % now."
    )

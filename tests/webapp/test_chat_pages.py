"""The chat pages: what each form does, what it refuses, and who may not even look."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
import redis
from celery import Celery
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from kombu.exceptions import OperationalError

from tests.conftest import Enqueued
from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.answers.services import UNREACHABLE
from webapp.chat import services
from webapp.chat.models import Conversation, Message
from webapp.chat.views import TOO_FAST, TOO_MANY_SEARCHES
from webapp.checkpoints.models import Checkpoint

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("enqueued")]

HTMX = {"HX-Request": "true"}


@pytest.fixture
def sft(make_checkpoint: Callable[..., Any]) -> Checkpoint:
    checkpoint: Checkpoint = make_checkpoint("sft")
    return checkpoint


@pytest.fixture
def chat(visitor: Visitor, sft: Checkpoint) -> Conversation:
    """The visitor's conversation with one finished answer."""
    chat = Conversation.objects.create(
        visitor=visitor, checkpoint=sft, title="Foxes", sampling=dict(services.DEFAULT_SAMPLING)
    )
    question = services.send_message(conversation=chat, text="What does a fox eat?", offer_two=False)
    finish(question.children.get(), "Mice & **berries**.")
    return chat


def finish(message: Message, text: str, *, state: str = "done", reason: str = "end", error: str = "") -> None:
    Generation.objects.filter(message=message).update(state=state, text=text, finish_reason=reason, error=error)


def fields(checkpoint: Checkpoint, /, **changes: Any) -> dict[str, Any]:
    """The composer as a browser posts it."""
    filled = {
        "text": "And in winter?",
        "checkpoint": checkpoint.pk,
        "temperature": "0.8",
        "top_k": "0",
        "top_p": "0.95",
        "max_new_tokens": "200",
        "seed": "",
    }
    return {**filled, **changes}


def page_of(client: Client, chat: Conversation) -> str:
    return client.get(reverse("chat:conversation", args=[chat.pk])).content.decode()


def answer_of(chat: Conversation) -> Message:
    return chat.messages.filter(role="assistant").latest("created_at")


# -- starting --------------------------------------------------------------------------------------


def test_a_newcomer_sees_a_composer_and_leaves_no_trace(client: Client, sft: Checkpoint) -> None:
    page = client.get(reverse("chat:index"))
    assert page.status_code == 200
    assert "3 · Instruction fine-tuning · test sft" in page.content.decode()
    assert not Visitor.objects.exists()
    assert not client.cookies.get("sessionid")


def test_without_a_checkpoint_it_says_so(client: Client, db: None) -> None:
    page = client.get(reverse("chat:index")).content.decode()
    assert "no model to talk to yet" in page
    assert "<textarea" not in page


def test_a_newcomer_begins_a_chat(client: Client, sft: Checkpoint) -> None:
    response = client.post(reverse("chat:new"), fields(sft, text="Hello", seed="5"))
    chat = Conversation.objects.get()
    assert response.url == reverse("chat:conversation", args=[chat.pk])  # type: ignore[attr-defined]
    assert chat.visitor == Visitor.objects.get()
    assert chat.sampling == {"temperature": 0.8, "top_k": 0, "top_p": 0.95, "max_new_tokens": 200, "seed": 5}
    assert "Hello" in page_of(client, chat)


def test_the_furthest_trained_checkpoint_is_proposed_unless_another_is_named(
    client: Client, sft: Checkpoint, make_checkpoint: Callable[..., Any]
) -> None:
    grpo = make_checkpoint("grpo")
    selected = re.compile(r'<option value="(\d+)" selected>')
    assert selected.findall(client.get(reverse("chat:index")).content.decode()) == [str(grpo.pk)]
    named = client.get(reverse("chat:new"), {"checkpoint": sft.pk, "text": "Why?"}).content.decode()
    assert selected.findall(named) == [str(sft.pk)]
    assert "Why?</textarea>" in named
    for nonsense in ("x", "99999", "²", "", "9" * 30, "1" * 5000, "1\0"):
        page = client.get(reverse("chat:new"), {"checkpoint": nonsense}).content.decode()
        assert selected.findall(page) == [str(grpo.pk)]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"text": ""}, "Write something first."),
        ({"text": "   "}, "Write something first."),
        ({"text": "x" * 100_000}, "That is 100000 characters; a message may have 8000."),
        ({"temperature": "9"}, "Temperature: Ensure this value is less than or equal to 2"),
        ({"temperature": "nan"}, "Temperature: Enter a number."),
        ({"max_new_tokens": "0"}, "Longest answer: Ensure this value is greater than or equal to 1"),
        ({"checkpoint": "99999"}, "Model: Select a valid choice"),
        ({"text": "a\0b"}, "Null characters are not allowed."),
    ],
)
def test_a_bad_message_has_one_clear_error_and_stores_nothing(
    client: Client, chat: Conversation, visitor_client: Client, sft: Checkpoint, changes: dict[str, Any], error: str
) -> None:
    before = Message.objects.count()
    address = reverse("chat:send", args=[chat.pk])

    begun = client.post(reverse("chat:new"), fields(sft, **changes))
    sent = visitor_client.post(address, fields(sft, **changes))
    fragment = visitor_client.post(address, fields(sft, **changes), headers=HTMX)

    for response in (begun, sent, fragment):
        assert response.status_code == 422
        assert error in response.content.decode()
    assert begun.content.decode().count('id="composer-error"') == 1
    assert "<" not in fragment.content.decode()
    assert Message.objects.count() == before
    assert Conversation.objects.count() == 1


def test_a_reward_model_cannot_be_chosen(client: Client, make_checkpoint: Callable[..., Any]) -> None:
    make_checkpoint("sft")
    response = client.post(reverse("chat:new"), fields(make_checkpoint("reward")))
    assert response.status_code == 422
    assert not Conversation.objects.exists()


def test_too_many_messages_are_refused(
    visitor_client: Client, chat: Conversation, sft: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.chat.views.limits.allow", lambda kind, identity: False)
    before = Message.objects.count()
    answer = answer_of(chat)
    posts = [
        visitor_client.post(reverse("chat:new"), fields(sft)),
        visitor_client.post(reverse("chat:send", args=[chat.pk]), fields(sft)),
        visitor_client.post(reverse("chat:regenerate", args=[answer.pk]), fields(sft), headers=HTMX),
        visitor_client.post(reverse("chat:continue", args=[answer.pk]), headers=HTMX),
        visitor_client.post(reverse("chat:edit", args=[answer.parent_id]), {"text": "x"}, headers=HTMX),
    ]
    for response in posts:
        assert response.status_code == 429
        assert TOO_FAST in response.content.decode()
    assert Message.objects.count() == before


# -- the page ---------------------------------------------------------------------------------------


def test_a_finished_answer_is_rendered_with_its_stage_and_settings(visitor_client: Client, chat: Conversation) -> None:
    page = page_of(visitor_client, chat)
    answer = answer_of(chat)
    assert answer.generation is not None
    assert "<p>Mice &amp; <strong>berries</strong>.</p>" in page
    assert "3 · Instruction fine-tuning" in page
    assert f"temperature 0.8 · top-p 0.95 · up to 200 tokens · seed {answer.generation.sampling['seed']}" in page


def test_what_a_model_writes_is_not_markup(visitor_client: Client, chat: Conversation) -> None:
    finish(answer_of(chat), '"><script>alert(1)</script><img src=x hx-get="/">')
    page = page_of(visitor_client, chat)
    assert "<script>alert" not in page
    assert "<img" not in page
    assert not re.search(r"<[^>]*hx-get=\"/\"", page)


def test_what_a_person_writes_is_not_markup(visitor_client: Client, chat: Conversation, sft: Checkpoint) -> None:
    visitor_client.post(reverse("chat:send", args=[chat.pk]), fields(sft, text="<script>alert(1)</script>"))
    assert "<script>alert" not in page_of(visitor_client, chat)


def test_an_error_of_the_model_is_shown(visitor_client: Client, chat: Conversation) -> None:
    finish(answer_of(chat), "", state="failed", reason="error", error="The model was interrupted; ask again.")
    assert "The model was interrupted; ask again." in page_of(visitor_client, chat)


def test_htmx_gets_the_thread_without_the_frame(visitor_client: Client, chat: Conversation) -> None:
    page = visitor_client.get(reverse("chat:conversation", args=[chat.pk]), headers=HTMX).content.decode()
    assert 'id="thread"' in page
    assert "<html" not in page


# -- turns ------------------------------------------------------------------------------------------


def test_a_message_is_sent_and_its_settings_are_kept(
    visitor_client: Client, chat: Conversation, make_checkpoint: Callable[..., Any]
) -> None:
    grpo = make_checkpoint("grpo")
    response = visitor_client.post(
        reverse("chat:send", args=[chat.pk]), fields(grpo, temperature="0", seed="7"), headers=HTMX
    )
    assert response.status_code == 200
    chat.refresh_from_db()
    assert chat.checkpoint == grpo
    assert chat.sampling["temperature"] == 0
    answer = answer_of(chat)
    page = response.content.decode()
    assert page.strip().startswith('<div id="thread"')
    assert f'data-message="{answer.pk}"' in page
    assert f'data-checkpoint="{grpo.pk}"' in page
    assert answer.generation is not None
    assert answer.generation.checkpoint == grpo
    assert answer.generation.sampling["seed"] == 7


def test_an_action_without_scripts_leads_back_to_the_page(
    visitor_client: Client, chat: Conversation, sft: Checkpoint
) -> None:
    response = visitor_client.post(reverse("chat:send", args=[chat.pk]), fields(sft))
    assert response.status_code == 302
    assert response["Location"] == reverse("chat:conversation", args=[chat.pk])


def test_switching_shows_the_branch_at_once(visitor_client: Client, chat: Conversation) -> None:
    first = answer_of(chat)
    second = services.regenerate_answer(message=first)
    finish(second, "Only snow.")
    for message, shown, hidden in ((first, "berries", "Only snow"), (second, "Only snow", "berries")):
        page = visitor_client.post(reverse("chat:switch", args=[message.pk]), headers=HTMX).content.decode()
        assert shown in page
        assert hidden not in page


def test_a_refused_message_changes_no_settings(
    visitor_client: Client, chat: Conversation, make_checkpoint: Callable[..., Any], sft: Checkpoint
) -> None:
    services.send_message(conversation=chat, text="One?", offer_two=False)
    response = visitor_client.post(
        reverse("chat:send", args=[chat.pk]), fields(make_checkpoint("grpo"), text="Two?"), headers=HTMX
    )
    assert response.status_code == 422
    assert "still being written" in response.content.decode()
    chat.refresh_from_db()
    assert chat.checkpoint == sft


def test_a_message_goes_only_where_its_writer_saw_the_conversation_end(
    visitor_client: Client, chat: Conversation, sft: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "OFFER_TWO_STAGES", ())

    def send(tab: str, text: str, **how: Any) -> Any:
        leaf = re.search(r'name="leaf" form="composer" value="([^"]+)"', tab)
        assert leaf
        return visitor_client.post(
            reverse("chat:send", args=[chat.pk]), fields(sft, text=text, leaf=leaf[1]), headers=how
        )

    first, second = page_of(visitor_client, chat), page_of(visitor_client, chat)
    assert send(first, "And in winter?").status_code == 302
    finish(answer_of(chat), "Less.")
    refused = send(second, "And in summer?", **HTMX)
    assert (refused.status_code, refused.content.decode()) == (422, services.MOVED_ON)
    page = send(second, "And in summer?").content.decode()
    assert ["And in summer?</textarea>" in page, "Less." in page] == [True, True]
    assert send(page, "And in summer?").status_code == 302


def test_settings_are_kept_by_themselves(visitor_client: Client, chat: Conversation, sft: Checkpoint) -> None:
    address = reverse("chat:settings", args=[chat.pk])
    visitor_client.post(address, {"checkpoint": sft.pk, "temperature": "0.2", "seed": "9"})
    chat.refresh_from_db()
    assert chat.sampling == {**services.DEFAULT_SAMPLING, "temperature": 0.2, "seed": 9}

    visitor_client.post(address, {"checkpoint": sft.pk, "seed": ""})
    chat.refresh_from_db()
    assert chat.sampling == {**services.DEFAULT_SAMPLING, "temperature": 0.2, "seed": None}

    refused = visitor_client.post(address, {"checkpoint": sft.pk, "top_p": "7"}, headers=HTMX)
    assert refused.status_code == 422
    assert refused.content.decode().startswith("Top-p: Ensure this value is less than")


def test_an_answer_is_regenerated_beside_the_first(visitor_client: Client, chat: Conversation, sft: Checkpoint) -> None:
    first = answer_of(chat)
    visitor_client.post(reverse("chat:regenerate", args=[first.pk]), fields(sft, temperature="0.1", text=""))
    second = answer_of(chat)
    assert second != first
    assert second.parent_id == first.parent_id
    assert second.generation is not None
    assert second.generation.sampling["temperature"] == 0.1
    finish(second, "Bread.")
    page = page_of(visitor_client, chat)
    assert "2/2" in page
    assert "Bread." in page
    assert "berries" not in page

    visitor_client.post(reverse("chat:switch", args=[first.pk]))
    assert "berries" in page_of(visitor_client, chat)


def test_the_same_question_goes_to_another_stage_with_one_click(
    visitor_client: Client, chat: Conversation, make_checkpoint: Callable[..., Any]
) -> None:
    init = make_checkpoint("init")
    first = answer_of(chat)
    assert f'name="checkpoint" value="{init.pk}"' in page_of(visitor_client, chat)
    visitor_client.post(reverse("chat:regenerate", args=[first.pk]), {"checkpoint": init.pk})
    chat.refresh_from_db()
    second = answer_of(chat)
    assert second.generation is not None
    assert second.generation.checkpoint == init
    assert chat.sampling == services.DEFAULT_SAMPLING


def test_a_message_is_edited_on_a_branch(visitor_client: Client, chat: Conversation) -> None:
    question = chat.messages.get(role="user")
    visitor_client.post(reverse("chat:edit", args=[question.pk]), {"text": "What does an owl eat?"})
    page = page_of(visitor_client, chat)
    assert "What does an owl eat?" in page
    assert "2/2" in page
    refused = visitor_client.post(reverse("chat:edit", args=[question.pk]), {"text": " "}, headers=HTMX)
    assert (refused.status_code, refused.content.decode()) == (422, "Write something first.")


def test_a_stopped_answer_offers_to_continue(visitor_client: Client, chat: Conversation) -> None:
    answer = answer_of(chat)
    finish(answer, "A fox", state="stopped", reason="stopped")
    assert 'data-finish="stopped"' in page_of(visitor_client, chat)
    visitor_client.post(reverse("chat:continue", args=[answer.pk]))
    longer = answer_of(chat)
    assert longer.generation is not None
    assert longer.generation.messages[-1] == {"role": "assistant", "content": "A fox"}


def test_stop_works_without_scripts(visitor_client: Client, chat: Conversation) -> None:
    question = services.send_message(conversation=chat, text="One?", offer_two=False)
    answer = question.children.get()
    visitor_client.post(reverse("chat:stop", args=[answer.pk]))
    assert Generation.objects.get(message=answer).state == Generation.State.STOPPED


def test_stop_says_so_when_the_model_cannot_be_told(
    visitor_client: Client, chat: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> Any:
        raise redis.ConnectionError("connection refused")

    answer = services.send_message(conversation=chat, text="One?", offer_two=False).children.get()
    finish(answer, "", state="running", reason="")
    address = reverse("chat:stop", args=[answer.pk])
    monkeypatch.setattr("webapp.live.streams.client", away)
    fragment = visitor_client.post(address, headers=HTMX)
    assert (fragment.status_code, fragment.content.decode()) == (503, UNREACHABLE)
    assert visitor_client.post(address).status_code == 302
    assert UNREACHABLE in page_of(visitor_client, chat)


def test_a_message_is_taken_while_the_broker_is_away(
    client: Client, sft: Checkpoint, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(Celery, "send_task", away)
    with django_capture_on_commit_callbacks(execute=True):
        response = client.post(reverse("chat:new"), fields(sft, text="Hello"))
    assert response.status_code == 302
    assert "Hello" in page_of(client, Conversation.objects.get())


def test_a_refusal_without_scripts_is_a_notice_on_the_page(visitor_client: Client, chat: Conversation) -> None:
    response = visitor_client.post(reverse("chat:continue", args=[answer_of(chat).pk]), follow=True)
    assert "Only an answer that was stopped or cut off can be continued." in response.content.decode()


# -- two answers ------------------------------------------------------------------------------------


@pytest.fixture
def offered(chat: Conversation) -> list[Message]:
    question = services.send_message(conversation=chat, text="Which?", offer_two=True)
    answers = list(question.children.order_by("side"))
    for answer, text in zip(answers, ("Short.", "Longer."), strict=True):
        finish(answer, text)
    return answers


def test_two_answers_are_offered_with_five_choices(
    visitor_client: Client, chat: Conversation, offered: list[Message]
) -> None:
    page = page_of(visitor_client, chat)
    assert "Which do you prefer?" in page
    assert page.index("Short.") < page.index("Longer.")
    assert reverse("arena:vote_in_chat", args=[offered[0].parent_id]) in page
    for choice in ("a", "b", "tie", "both_bad", "skip"):
        assert f'name="choice" value="{choice}"' in page


def test_an_open_choice_gives_nothing_away(visitor_client: Client, chat: Conversation, offered: list[Message]) -> None:
    page = page_of(visitor_client, chat)
    offer = page[page.index("data-offer") : page.index("</section>", page.index("data-offer"))]
    for answer in offered:
        assert answer.generation is not None
        assert str(answer.generation.sampling["seed"]) not in page
        assert str(answer.generation.pk) not in page
    assert "stage-" not in offer
    assert "seed" not in offer
    assert offered[0].generation is not None
    assert offered[0].generation.checkpoint.name not in offer


def test_the_conversation_waits_for_the_choice(
    visitor_client: Client, chat: Conversation, offered: list[Message], sft: Checkpoint
) -> None:
    refused = visitor_client.post(reverse("chat:send", args=[chat.pk]), fields(sft), headers=HTMX)
    assert refused.content.decode() == "Choose one of the two answers first."


def test_after_the_choice_the_other_is_a_branch_away(
    visitor_client: Client, chat: Conversation, offered: list[Message]
) -> None:
    visitor_client.post(reverse("arena:vote_in_chat", args=[offered[0].parent_id]), {"choice": "b"})
    page = page_of(visitor_client, chat)
    assert "Which do you prefer?" not in page
    assert "Longer." in page
    assert "2/2" in page


# -- history ----------------------------------------------------------------------------------------


def test_the_history_lists_and_searches_ones_own(visitor_client: Client, chat: Conversation, client: Client) -> None:
    assert "Foxes" in visitor_client.get(reverse("chat:index")).content.decode()
    assert "Foxes" in visitor_client.get(reverse("chat:index"), {"q": "BERRIES"}).content.decode()
    nothing = visitor_client.get(reverse("chat:index"), {"q": "<owl>"}).content.decode()
    assert "No chat of yours contains “&lt;owl&gt;”." in nothing
    assert "Foxes" not in client.get(reverse("chat:index")).content.decode()


def test_older_chats_are_a_page_away_with_the_search_kept(
    visitor_client: Client, chat: Conversation, sft: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.chat.views.CHATS_PER_PAGE", 1)
    Conversation.objects.create(visitor=chat.visitor, checkpoint=sft, title="Newer foxes")
    first = visitor_client.get(reverse("chat:index"), {"q": "foxes"}).content.decode()
    assert ["Newer foxes" in first, ">Foxes<" in first] == [True, False]
    older = re.search(r'id="older" href="([^"]+)"', first)
    assert older
    second = visitor_client.get(reverse("chat:index") + unescape(older[1])).content.decode()
    assert ["Newer foxes" in second, ">Foxes<" in second] == [False, True]
    assert 'id="older"' not in second
    for page in ("0", "x", "9" * 5000):
        assert visitor_client.get(reverse("chat:index"), {"page": page}).status_code == 200


def test_a_search_takes_any_bytes_and_does_not_scan_without_end(
    visitor_client: Client, chat: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = reverse("chat:index")
    assert "Foxes" in visitor_client.get(address, {"q": "ber\0ries"}).content.decode()
    assert visitor_client.get(address, {"q": "\0"}).status_code == 200
    monkeypatch.setattr("webapp.chat.views.limits.allow", lambda kind, identity: kind != "search")
    assert "Foxes" in visitor_client.get(address).content.decode()
    refused = visitor_client.get(address, {"q": "fox"}, headers=HTMX)
    assert (refused.status_code, refused.content.decode()) == (429, TOO_MANY_SEARCHES)


def test_a_search_reads_nobody_elses_messages(visitor: Visitor, chat: Conversation, sft: Checkpoint) -> None:
    """Not even in vain: the rows come by their conversation's index, whatever the rest of the table holds."""
    stranger = services.begin_conversation(visitor=Visitor.objects.create(), checkpoint=sft, text="Berries?")
    found = Conversation.objects.of(visitor.pk).history("berries")
    assert list(found) == [chat]
    assert stranger not in found
    if connection.vendor == "sqlite":
        plan = found.explain()
        assert "SCAN" not in plan
        assert "USING INDEX chat_message_conversation_id" in plan


def test_a_chat_is_renamed(visitor_client: Client, chat: Conversation) -> None:
    address = reverse("chat:rename", args=[chat.pk])
    visitor_client.post(address, {"title": "Diets"})
    refused = visitor_client.post(address, {"title": " "}, follow=True)
    chat.refresh_from_db()
    assert chat.title == "Diets"
    assert "A title cannot be empty." in refused.content.decode()


def test_a_deleted_chat_can_be_brought_back(visitor_client: Client, chat: Conversation) -> None:
    gone = visitor_client.post(reverse("chat:delete", args=[chat.pk]), follow=True).content.decode()
    assert "Deleted “Foxes”." in gone
    assert visitor_client.get(reverse("chat:conversation", args=[chat.pk])).status_code == 404
    visitor_client.post(reverse("chat:restore", args=[chat.pk]))
    assert "berries" in page_of(visitor_client, chat)


def test_a_comparison_has_its_own_page(visitor_client: Client, visitor: Visitor, sft: Checkpoint) -> None:
    asked = services.ask_checkpoints(visitor=visitor, checkpoints=[sft], text="One?", sampling={})
    response = visitor_client.get(reverse("chat:conversation", args=[asked.pk]))
    assert response.url == reverse("stages:comparison", args=[asked.pk])  # type: ignore[attr-defined]


def test_nothing_is_done_to_a_comparison_as_if_it_were_a_chat(
    visitor_client: Client, visitor: Visitor, sft: Checkpoint
) -> None:
    asked = services.ask_checkpoints(visitor=visitor, checkpoints=[sft], text="One?", sampling={})
    answer = asked.messages.get(role="assistant")
    finish(answer, "It", state="stopped", reason="stopped")
    before = Conversation.objects.values().get(pk=asked.pk)
    _, *posts = refusals(visitor_client, asked.pk, answer.pk, fields(sft, title="Other"))
    assert {response.status_code for response in posts} == {404}
    assert asked.messages.count() == 2
    assert Conversation.objects.values().get(pk=asked.pk) == before


# -- who may ----------------------------------------------------------------------------------------

CONVERSATION_POSTS = ["send", "settings", "rename", "delete", "restore"]
MESSAGE_POSTS = ["regenerate", "continue", "edit", "switch", "stop"]


def refusals(
    client: Client, conversation_id: uuid.UUID, message_id: uuid.UUID, form: dict[str, Any]
) -> list[HttpResponse]:
    posts = [reverse(f"chat:{name}", args=[conversation_id]) for name in CONVERSATION_POSTS]
    posts += [reverse(f"chat:{name}", args=[message_id]) for name in MESSAGE_POSTS]
    return [
        client.get(reverse("chat:conversation", args=[conversation_id])),
        *(client.post(address, form) for address in posts),
    ]  # type: ignore[list-item]


@pytest.mark.parametrize("who", ["client", "alice_client", "staff_client", "owner_client"])
def test_a_foreign_conversation_and_a_missing_one_are_the_same_404(
    who: str, chat: Conversation, sft: Checkpoint, request: pytest.FixtureRequest
) -> None:
    browser = request.getfixturevalue(who)
    before = (Message.objects.count(), Conversation.objects.get(pk=chat.pk).title)
    form = fields(sft, title="Mine now")
    foreign = refusals(browser, chat.pk, answer_of(chat).pk, form)
    missing = refusals(browser, uuid.uuid4(), uuid.uuid4(), form)
    assert {response.status_code for response in (*foreign, *missing)} == {404}
    assert len({_without_ids(response) for response in (*foreign, *missing)}) == 1
    assert (Message.objects.count(), Conversation.objects.get(pk=chat.pk).title) == before


def _without_ids(response: HttpResponse) -> str:
    page = response.content.decode()
    page = re.sub(r'(X-CSRFToken": "|csrfmiddlewaretoken" value=")\w+', "", page)
    return re.sub(r'name="next" value="[^"]*"', "", page)


def test_every_post_needs_a_token(visitor: Visitor, chat: Conversation, sft: Checkpoint) -> None:
    browser = Client(enforce_csrf_checks=True)
    session = browser.session
    session["visitor_id"] = str(visitor.pk)
    session.save()
    _, *posts = refusals(browser, chat.pk, answer_of(chat).pk, fields(sft))
    assert {response.status_code for response in posts} == {403}


def test_reading_changes_nothing(visitor_client: Client, chat: Conversation, enqueued: Enqueued) -> None:
    def rows() -> tuple[int, ...]:
        return tuple(model.objects.count() for model in (Visitor, Conversation, Message, Generation))

    before = rows()
    for address in (reverse("chat:index"), reverse("chat:new"), reverse("chat:conversation", args=[chat.pk])):
        assert visitor_client.get(address).status_code == 200
    for name in CONVERSATION_POSTS:
        assert visitor_client.get(reverse(f"chat:{name}", args=[chat.pk])).status_code == 405
    for name in MESSAGE_POSTS:
        assert visitor_client.get(reverse(f"chat:{name}", args=[answer_of(chat).pk])).status_code == 405
    assert rows() == before


# -- staff ------------------------------------------------------------------------------------------


def test_staff_read_conversations_and_change_nothing(owner_client: Client, chat: Conversation) -> None:
    finish(answer_of(chat), "<script>alert(1)</script>")
    listed = owner_client.get(reverse("admin:chat_conversation_changelist")).content.decode()
    assert "Foxes" in listed
    address = reverse("admin:chat_conversation_change", args=[chat.pk])
    page = owner_client.get(address).content.decode()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert(1)" not in page
    assert owner_client.post(address, {"title": "x"}).status_code == 403
    assert owner_client.get(reverse("admin:chat_conversation_add")).status_code == 403


def test_a_long_conversation_costs_staff_as_many_queries_as_a_short_one(
    owner_client: Client, chat: Conversation
) -> None:
    address = reverse("admin:chat_conversation_change", args=[chat.pk])
    owner_client.get(address)  # a process looks up its content types once
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(connection) as asked:
            assert "berries" in owner_client.get(address).content.decode()
        counts.append(len(asked))
        for number in range(5):
            question = services.send_message(conversation=chat, text=f"{number}?", offer_two=False)
            finish(question.children.get(), "Mice.")
    assert counts[0] == counts[1]

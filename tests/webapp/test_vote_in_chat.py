"""The choice between the two answers a conversation offers."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.test import Client
from django.urls import reverse

from tests.webapp.arena_factory import make_answer
from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.answers.services import clean_sampling
from webapp.arena import voting
from webapp.arena.models import Pair, Vote
from webapp.arena.stock import settle_pairs
from webapp.arena.voting import next_pair, record_chat_choice, record_vote
from webapp.chat.models import Conversation, Message

HTMX = {"HX-Request": "true"}

pytestmark = pytest.mark.django_db


@pytest.fixture
def question(make_checkpoint: Any, visitor: Visitor) -> Message:
    """A turn of the visitor's that was answered twice."""
    sft = make_checkpoint("sft")
    conversation = Conversation.objects.create(visitor=visitor, checkpoint=sft)
    asked = Message.objects.create(conversation=conversation, role="user", text="What is a harbour?")
    for side in "BA":
        answer = make_answer(sft, sampling=clean_sampling({}))
        Message.objects.create(conversation=conversation, parent=asked, role="assistant", side=side, generation=answer)
    conversation.leaf = asked
    conversation.save()
    return asked


@pytest.mark.parametrize(
    ("choice", "goes_on"), [("a", "A"), ("b", "B"), ("tie", "A"), ("both_bad", "A"), ("skip", "A")]
)
def test_it_records_the_vote_and_goes_on(question: Message, visitor: Visitor, choice: str, goes_on: str) -> None:
    made = record_chat_choice(question_id=question.pk, visitor=visitor, choice=choice)
    assert made.vote is not None
    assert (made.vote.choice, made.chosen.side, made.problem) == (choice, goes_on, "")
    assert made.vote.revealed_at is not None
    pair = Pair.objects.get()
    assert (pair.from_chat, pair.owner, pair.kind) == (True, visitor, "self")
    assert pair.a.message.side == "A"
    question.conversation.refresh_from_db()
    assert question.conversation.leaf == made.chosen
    assert list(question.children.filter(chosen=True)) == [made.chosen]


def test_a_replay_returns_the_first_choice(question: Message, visitor: Visitor) -> None:
    first = record_chat_choice(question_id=question.pk, visitor=visitor, choice="b")
    assert record_chat_choice(question_id=question.pk, visitor=visitor, choice="a") == first
    assert Pair.objects.count() == Vote.objects.count() == 1


def test_two_answers_that_came_out_the_same_are_not_voted_on(question: Message, visitor: Visitor) -> None:
    for message in question.children.all():
        Generation.objects.filter(message=message).update(text=f"Ships stop there.{' ' * (message.side == 'B')}")
    made = record_chat_choice(question_id=question.pk, visitor=visitor, choice="b")
    assert (made.vote, made.chosen.side) == (None, "A")
    assert not Pair.objects.exists()


def test_the_chat_goes_on_after_a_days_votes_and_says_why_none_counts(
    question: Message, visitor: Visitor, visitor_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voting, "DAILY_VOTES", 0)
    address = reverse("arena:vote_in_chat", args=[question.pk])
    page = visitor_client.post(address, {"choice": "b"}, follow=True).content.decode()
    assert "That was 0 votes in a day." in page
    assert "Which do you prefer?" not in page
    assert question.children.get(side="B").chosen
    assert not Pair.objects.exists()
    # A thread alone has no place for the reason: htmx is sent to the whole page.
    back = reverse("chat:conversation", args=[question.conversation_id])
    assert visitor_client.post(address, {"choice": "b"}, headers=HTMX)["HX-Redirect"] == back


def test_it_is_refused_to_others_and_for_turns_with_one_answer(question: Message, visitor: Visitor) -> None:
    with pytest.raises(PermissionDenied):
        record_chat_choice(question_id=question.pk, visitor=Visitor.objects.create(), choice="a")
    question.children.filter(side="B").delete()
    with pytest.raises(PermissionDenied):
        record_chat_choice(question_id=question.pk, visitor=visitor, choice="a")
    assert not Vote.objects.exists()


def test_a_chat_pair_is_never_served_and_never_open_to_others(question: Message, visitor: Visitor) -> None:
    record_chat_choice(question_id=question.pk, visitor=visitor, choice="a")
    settle_pairs()
    pair = Pair.objects.get()
    stranger = Visitor.objects.create()
    assert pair.state == "ready"
    assert next_pair(stranger) is None
    with pytest.raises(PermissionDenied):
        record_vote(pair=pair, visitor=stranger, choice="a")


def test_it_trains_once_both_answers_are_known_to_be_whole(question: Message, visitor: Visitor) -> None:
    record_chat_choice(question_id=question.pk, visitor=visitor, choice="b")
    assert not Vote.objects.for_training().exists()  # the answers may still be streaming
    settle_pairs()
    assert Vote.objects.for_training().count() == 1


def test_the_button_leads_back_to_the_conversation(question: Message, visitor_client: Client) -> None:
    address = reverse("arena:vote_in_chat", args=[question.pk])
    back = reverse("chat:conversation", args=[question.conversation_id])
    assert visitor_client.post(address, {"choice": "b"})["Location"] == back
    assert visitor_client.post(address, {"choice": "maybe"}).status_code == 400
    assert visitor_client.get(address).status_code == 405


def test_with_htmx_only_the_thread_changes_so_that_a_message_half_written_stays(
    question: Message, visitor_client: Client
) -> None:
    address = reverse("arena:vote_in_chat", args=[question.pk])
    answered = visitor_client.post(address, {"choice": "b"}, headers=HTMX, follow=True)
    thread = answered.content.decode()
    assert thread.strip().startswith('<div id="thread"')
    assert "Which do you prefer?" not in thread


def test_a_newcomer_has_nothing_to_choose(question: Message, client: Client) -> None:
    assert client.post(reverse("arena:vote_in_chat", args=[question.pk]), {"choice": "a"}).status_code == 404
    assert Visitor.objects.count() == 1

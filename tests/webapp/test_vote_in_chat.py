"""The choice between the two answers a conversation offers."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.test import Client
from django.urls import reverse

from tests.webapp.arena_factory import make_answer
from webapp.accounts.models import Visitor
from webapp.arena.models import Pair, Vote
from webapp.arena.services import next_pair, record_chat_choice, record_vote, settle_pairs
from webapp.chat.models import Conversation, Message

pytestmark = pytest.mark.django_db


@pytest.fixture
def question(make_checkpoint: Any, visitor: Visitor) -> Message:
    """A turn of the visitor's that was answered twice."""
    sft = make_checkpoint("sft")
    conversation = Conversation.objects.create(visitor=visitor, checkpoint=sft)
    asked = Message.objects.create(conversation=conversation, role="user", text="What is a harbour?")
    for side in "BA":
        Message.objects.create(
            conversation=conversation, parent=asked, role="assistant", side=side, generation=make_answer(sft)
        )
    conversation.leaf = asked
    conversation.save()
    return asked


@pytest.mark.parametrize(
    ("choice", "goes_on"), [("a", "A"), ("b", "B"), ("tie", "A"), ("both_bad", "A"), ("skip", "A")]
)
def test_it_records_the_vote_and_goes_on(question: Message, visitor: Visitor, choice: str, goes_on: str) -> None:
    vote, chosen = record_chat_choice(question_id=question.pk, visitor=visitor, choice=choice)
    assert (vote.choice, chosen.side) == (choice, goes_on)
    assert vote.revealed_at is not None
    pair = Pair.objects.get()
    assert (pair.from_chat, pair.owner, pair.kind) == (True, visitor, "self")
    assert pair.a.message.side == "A"
    question.conversation.refresh_from_db()
    assert question.conversation.leaf == chosen
    assert list(question.children.filter(chosen=True)) == [chosen]


def test_a_replay_returns_the_first_choice(question: Message, visitor: Visitor) -> None:
    first = record_chat_choice(question_id=question.pk, visitor=visitor, choice="b")
    assert record_chat_choice(question_id=question.pk, visitor=visitor, choice="a") == first
    assert Pair.objects.count() == Vote.objects.count() == 1


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
    assert visitor_client.post(address, {"choice": "b"}, headers={"HX-Request": "true"})["HX-Redirect"] == back
    assert visitor_client.post(address, {"choice": "maybe"}).status_code == 400
    assert visitor_client.get(address).status_code == 405


def test_a_newcomer_has_nothing_to_choose(question: Message, client: Client) -> None:
    assert client.post(reverse("arena:vote_in_chat", args=[question.pk]), {"choice": "a"}).status_code == 404
    assert Visitor.objects.count() == 1

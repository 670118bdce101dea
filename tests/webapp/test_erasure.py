"""What is left of a person who goes: their votes, and nothing that says whose they were."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests.webapp.arena_factory import make_pair, make_vote
from webapp.accounts.models import OwnerLink, User, Visitor
from webapp.accounts.services import create_owner_link
from webapp.answers.models import Generation
from webapp.arena.models import Pair, Prompt, Vote
from webapp.arena.publishing import share_opening
from webapp.chat.models import Conversation, Message
from webapp.chat.services import begin_conversation, delete_conversation, restore_conversation

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("enqueued")]


@pytest.fixture
def her(alice: User) -> Visitor:
    return Visitor.objects.create(user=alice)


@pytest.fixture
def chat(her: Visitor, make_checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> Conversation:
    # By the chat's id one in three turns offers two answers.
    monkeypatch.setattr("webapp.chat.services.offers_two_answers", lambda **_: False)
    return begin_conversation(visitor=her, checkpoint=make_checkpoint("sft"), text="Where do I live?", sampling={})


def test_the_admin_deletes_an_account_that_voted_and_keeps_the_vote(
    owner_client: Client, alice: User, her: Visitor, make_checkpoint: Any
) -> None:
    vote = make_vote(make_pair(make_checkpoint("sft")), her)
    page = owner_client.post(reverse("admin:accounts_user_delete", args=[alice.pk]), {"post": "yes"})
    assert page.status_code == 302
    assert not User.objects.filter(pk=alice.pk).exists()
    kept = Vote.objects.get(pk=vote.pk)
    assert kept.visitor.user is None


def test_her_chats_go_with_her(alice: User, chat: Conversation) -> None:
    alice.delete()
    assert not Conversation.objects.exists()
    assert not Message.objects.exists()
    assert not Generation.objects.exists()


def test_an_answer_that_was_voted_on_stays_with_its_vote(alice: User, her: Visitor, chat: Conversation) -> None:
    question = chat.messages.get(role="user")
    first = Generation.objects.get()
    second = Generation.objects.create(checkpoint=chat.checkpoint, visitor=her, messages=[], text="By the sea.")
    Message.objects.create(conversation=chat, parent=question, role="assistant", generation=second, side="B")
    pair = Pair.objects.create(kind="self", a=first, b=second, from_chat=True, owner=her)
    make_vote(pair, her)
    alice.delete()
    assert not Message.objects.exists()
    assert Vote.objects.get().pair == pair
    assert {answer.visitor for answer in Generation.objects.all()} == {None}


def test_a_question_she_lent_to_others_is_taken_back(alice: User, chat: Conversation) -> None:
    share_opening(conversation=chat, agreed=True)
    assert Prompt.objects.get().active
    alice.delete()
    assert not Prompt.objects.get().active


def test_nobody_becomes_the_visitor_she_was(alice: User, her: Visitor, alice_client: Client) -> None:
    """Her browser's session ended with the account; the id of her visitor opens nothing to it."""
    alice.delete()
    alice_client.get("/chat/")
    assert "visitor_id" not in alice_client.session
    assert Visitor.objects.get(pk=her.pk).user is None


@pytest.mark.parametrize(("days", "left"), [(29, 1), (31, 0)])
def test_a_deleted_chat_is_purged_after_a_month(chat: Conversation, days: int, left: int) -> None:
    delete_conversation(conversation=chat)
    Conversation.objects.update(deleted_at=timezone.now() - timedelta(days=days))
    call_command("prune")
    assert (Conversation.objects.count(), Generation.objects.count()) == (left, left)


def test_a_chat_that_was_brought_back_is_kept(chat: Conversation) -> None:
    delete_conversation(conversation=chat)
    restore_conversation(conversation=chat)
    call_command("prune")
    assert Conversation.objects.get() == chat


def test_pruning_drops_sessions_and_links_that_are_over(client: Client) -> None:
    Session.objects.create(session_key="a" * 32, session_data="", expire_date=timezone.now() - timedelta(days=1))
    Session.objects.create(session_key="b" * 32, session_data="", expire_date=timezone.now() + timedelta(days=1))
    create_owner_link()
    OwnerLink.objects.update(created_at=timezone.now() - timedelta(days=2))
    call_command("prune")
    assert Session.objects.get().session_key == "b" * 32
    assert not OwnerLink.objects.exists()

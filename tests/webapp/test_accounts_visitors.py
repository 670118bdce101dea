"""A visitor for every person: created on the first write, merged at log-in, checked anew for sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.test import AsyncClient, Client
from django.urls import reverse

from tests.conftest import PASSWORD
from tests.threads import database_thread
from webapp.accounts.models import User, Visitor
from webapp.accounts.services import merge_session_visitor, visitor_for, visitor_for_scope
from webapp.answers.models import Generation
from webapp.arena.models import Pair, Vote
from webapp.chat.models import Conversation
from webapp.checkpoints.models import Checkpoint

SessionStore = import_module(settings.SESSION_ENGINE).SessionStore

pytestmark = pytest.mark.django_db


def request_of(user: Any = None, **session: Any) -> HttpRequest:
    request = HttpRequest()
    request.user = user or AnonymousUser()
    request.session = SessionStore()
    request.session.update(session)
    return request


def scope_of(client: Client) -> dict[str, Any]:
    """What Channels hands a consumer for this browser."""
    return {"type": "websocket", "session": client.session, "user": AnonymousUser()}


@pytest.fixture
def pair(make_checkpoint: Callable[..., Checkpoint]) -> Pair:
    checkpoint = make_checkpoint()
    a, b = (Generation.objects.create(checkpoint=checkpoint, messages=[]) for _ in range(2))
    return Pair.objects.create(kind=Pair.Kind.SELF, state=Pair.State.READY, a=a, b=b)


# -- finding and creating --------------------------------------------------------------------------


def test_it_creates_no_row_for_somebody_who_only_reads() -> None:
    assert visitor_for(request_of(), create=False) is None
    assert Visitor.objects.count() == 0


def test_it_creates_one_visitor_per_session_on_the_first_write() -> None:
    request = request_of()
    first = visitor_for(request, create=True)
    again = request_of(visitor_id=request.session["visitor_id"])
    assert visitor_for(again, create=True) == first
    assert Visitor.objects.count() == 1


def test_it_creates_one_visitor_per_account(alice: User) -> None:
    first = visitor_for(request_of(alice), create=True)
    assert visitor_for(request_of(alice), create=True) == first
    assert first is not None
    assert first.user == alice


def test_it_does_not_open_an_accounts_visitor_by_its_id(alice: User) -> None:
    theirs = Visitor.objects.create(user=alice)
    assert visitor_for(request_of(visitor_id=str(theirs.pk)), create=False) is None


def test_it_starts_anew_when_the_sessions_visitor_is_gone(visitor: Visitor) -> None:
    request = request_of(visitor_id=str(visitor.pk))
    visitor.delete()
    fresh = visitor_for(request, create=True)
    assert fresh is not None
    assert request.session["visitor_id"] == str(fresh.pk)


def test_it_asks_the_database_once_per_request(visitor: Visitor, django_assert_num_queries: Callable[..., Any]) -> None:
    request = request_of(visitor_id=str(visitor.pk))
    with django_assert_num_queries(1):
        assert visitor_for(request, create=False) == visitor
        assert visitor_for(request, create=False) == visitor


async def test_it_works_under_asgi() -> None:
    response = await AsyncClient().get("/healthz")
    assert response.status_code == 200


# -- merging at log-in -----------------------------------------------------------------------------


def test_it_turns_the_sessions_visitor_into_a_new_accounts(
    visitor: Visitor, visitor_client: Client, alice: User
) -> None:
    visitor_client.login(username="alice", password=PASSWORD)
    visitor.refresh_from_db()
    assert visitor.user == alice
    assert Visitor.objects.count() == 1


def test_it_merges_what_was_done_before_logging_in(
    visitor: Visitor, visitor_client: Client, alice: User, pair: Pair
) -> None:
    account = Visitor.objects.create(user=alice)
    chat = Conversation.objects.create(visitor=visitor, checkpoint=pair.a.checkpoint)
    Generation.objects.filter(pk=pair.a_id).update(visitor=visitor)
    Pair.objects.filter(pk=pair.pk).update(owner=visitor)
    vote = Vote.objects.create(pair=pair, visitor=visitor, choice=Vote.Choice.A)

    response = visitor_client.post(reverse("accounts:login"), {"username": "alice", "password": PASSWORD})

    assert response.status_code == 302
    assert Conversation.objects.get(pk=chat.pk).visitor == account
    assert Generation.objects.get(pk=pair.a_id).visitor == account
    assert Pair.objects.get(pk=pair.pk).owner == account
    assert Vote.objects.get(pk=vote.pk).visitor == account
    assert not Visitor.objects.filter(pk=visitor.pk).exists()
    assert "visitor_id" not in visitor_client.session


def test_it_keeps_the_accounts_own_vote_when_both_voted_on_a_pair(
    visitor: Visitor, alice: User, pair: Pair, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    account = Visitor.objects.create(user=alice)
    first = Vote.objects.create(pair=pair, visitor=account, choice=Vote.Choice.A)
    Vote.objects.create(pair=pair, visitor=visitor, choice=Vote.Choice.B)
    a, b = (Generation.objects.create(checkpoint=pair.a.checkpoint, messages=[]) for _ in range(2))
    other_pair = Pair.objects.create(kind=Pair.Kind.SELF, state=Pair.State.READY, a=a, b=b)
    moved = Vote.objects.create(pair=other_pair, visitor=visitor, choice=Vote.Choice.TIE)

    merge_session_visitor(request=request_of(alice, visitor_id=str(visitor.pk)), user=alice)

    assert {(vote.pk, vote.choice) for vote in Vote.objects.filter(visitor=account)} == {
        (first.pk, "a"),
        (moved.pk, "tie"),
    }
    assert Vote.objects.count() == 2


def test_it_takes_nothing_from_another_account(alice: User, owner: User) -> None:
    theirs = Visitor.objects.create(user=owner)
    merge_session_visitor(request=request_of(alice, visitor_id=str(theirs.pk)), user=alice)
    theirs.refresh_from_db()
    assert theirs.user == owner


@pytest.mark.django_db(transaction=True)
def test_it_merges_once_when_two_tabs_log_in_at_once(visitor: Visitor, alice: User) -> None:
    Visitor.objects.create(user=alice)
    start = threading.Barrier(2)
    errors: list[Exception] = []

    def log_in() -> None:
        start.wait()
        try:
            merge_session_visitor(request=request_of(alice, visitor_id=str(visitor.pk)), user=alice)
        except Exception as error:
            errors.append(error)

    threads = [database_thread(log_in) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert Visitor.objects.get().user == alice


# -- sockets ---------------------------------------------------------------------------------------


def test_it_finds_the_visitor_of_a_socket(visitor: Visitor, visitor_client: Client) -> None:
    assert visitor_for_scope(scope_of(visitor_client)) == visitor


def test_it_finds_nobody_behind_a_socket_without_a_session() -> None:
    assert visitor_for_scope({"type": "websocket"}) is None
    assert visitor_for_scope(scope_of(Client())) is None


def test_it_notices_a_logout_while_the_socket_is_open(alice: User, alice_client: Client) -> None:
    account = Visitor.objects.create(user=alice)
    scope = scope_of(alice_client)
    assert visitor_for_scope(scope) == account
    alice_client.post(reverse("accounts:logout"))
    assert visitor_for_scope(scope) is None


def test_it_notices_a_deactivation_while_the_socket_is_open(alice: User, alice_client: Client) -> None:
    Visitor.objects.create(user=alice)
    scope = scope_of(alice_client)
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert visitor_for_scope(scope) is None

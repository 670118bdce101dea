"""Rate limits: a share per person and kind; a broken Redis stops nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import Client

from webapp.accounts import limits
from webapp.accounts.models import Visitor


@pytest.mark.parametrize(("kind", "share"), [("chat", 20), ("vote", 60), ("compare", 6), ("signup", 10), ("share", 20)])
def test_it_allows_a_share_and_no_more(kind: str, share: int) -> None:
    assert all(limits.allow(kind, "visitor:1") for _ in range(share))
    assert not limits.allow(kind, "visitor:1")


@pytest.mark.parametrize(("kind", "share"), [("chat", 200), ("compare", 60), ("signup", 60)])
def test_an_address_may_do_what_a_class_behind_it_does(kind: str, share: int) -> None:
    assert all(limits.allow(kind, "address:192.0.2.7") for _ in range(share))
    assert not limits.allow(kind, "address:192.0.2.7")
    assert limits.allow(kind, "address:192.0.2.8")


def test_every_kind_has_both_shares() -> None:
    assert set(limits.LIMITS) == set(limits.ADDRESS_LIMITS)


@pytest.mark.django_db
@pytest.mark.usefixtures("enqueued")
def test_a_class_of_thirty_newcomers_behind_one_address_is_served(make_checkpoint: Callable[..., Any]) -> None:
    checkpoint = make_checkpoint("init")
    for address, form in (
        ("/compare/", {"text": "What is an LLM?"}),
        ("/chat/new/", {"text": "Hello", "checkpoint": checkpoint.pk}),
    ):
        assert {Client().post(address, form).status_code for _ in range(30)} == {302}


def test_it_counts_people_and_kinds_apart() -> None:
    for _ in range(21):
        limits.allow("chat", "visitor:1")
    assert limits.allow("chat", "visitor:2")
    assert limits.allow("vote", "visitor:1")


def test_it_refuses_a_kind_it_does_not_know() -> None:
    with pytest.raises(KeyError):
        limits.allow("breathe", "visitor:1")


def test_it_lets_people_through_when_redis_is_away(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.REDIS_URL = "unix:///nowhere/redis.sock?db=0"
    assert limits.allow("chat", "visitor:1")
    assert "rate limits are off" in caplog.text


@pytest.mark.django_db
def test_it_counts_a_visitor_or_else_an_address(visitor: Visitor, visitor_client: Client) -> None:
    request = visitor_client.get("/login/").wsgi_request
    assert limits.identity_of(request) == f"visitor:{visitor.pk}"
    newcomer: HttpRequest = Client().get("/login/", REMOTE_ADDR="192.0.2.7").wsgi_request
    assert limits.identity_of(newcomer) == "address:192.0.2.7"

"""Rate limits: a share per person, per address and kind; a broken Redis stops nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import limits as windows
import pytest
from django.http import HttpRequest
from django.test import Client

from tests.webapp.arena_factory import make_pair
from webapp.accounts import limits
from webapp.accounts.models import Visitor
from webapp.arena.models import Vote

pytestmark = pytest.mark.django_db

ADDRESS = "192.0.2.7"


def request_from(address: str = ADDRESS, visitor: Visitor | None = None) -> HttpRequest:
    request = HttpRequest()
    request.META["REMOTE_ADDR"] = address
    request._known_visitor = visitor  # type: ignore[attr-defined]
    request.session = {}  # type: ignore[assignment]
    request.user = Visitor  # type: ignore[assignment]
    request.user.is_authenticated = False  # type: ignore[misc, union-attr]
    return request


def count(allowed: Callable[[], bool], *, at_most: int) -> int:
    """How often it is allowed, one after the other."""
    return next((number for number in range(at_most) if not allowed()), at_most)


@pytest.mark.parametrize(("kind", "share"), [("chat", 20), ("vote", 60), ("compare", 6), ("signup", 10), ("share", 20)])
def test_a_visitor_has_a_share_and_no_more(visitor: Visitor, kind: str, share: int) -> None:
    request = request_from(visitor=visitor)
    assert count(lambda: limits.allow(kind, request), at_most=100) == share


@pytest.mark.parametrize(("kind", "share"), [("vote", 60), ("chat", 60), ("compare", 40)])
def test_an_address_has_a_share_whatever_its_cookies_say(kind: str, share: int) -> None:
    """One address with forty cookies, as fast as it can."""
    people = [Visitor.objects.create() for _ in range(40)]
    allowed = sum(limits.allow(kind, request_from(visitor=people[number % 40])) for number in range(160))
    assert allowed == share
    assert limits.allow(kind, request_from("192.0.2.8", people[0]))


def test_a_class_behind_one_address_votes_every_three_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty-two people, each with a cookie, for a minute: nobody is turned away."""
    people = [Visitor.objects.create() for _ in range(32)]
    memory = windows.strategies.MovingWindowRateLimiter(windows.storage.MemoryStorage())
    monkeypatch.setattr(limits, "_limiter", lambda url: memory)
    now = [1_000_000.0]
    monkeypatch.setattr("limits.storage.memory.time.time", lambda: now[0])
    for _ in range(20):
        for person in people:
            assert limits.allow("vote", request_from(visitor=person))
        now[0] += 3.01


def test_a_refused_visitor_takes_nothing_from_the_neighbours(visitor: Visitor) -> None:
    for _ in range(100):
        limits.allow("compare", request_from(visitor=visitor))
    neighbours = [Visitor.objects.create() for _ in range(5)]
    assert all(limits.allow("compare", request_from(visitor=one)) for one in neighbours for _ in range(6))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.7", "192.0.2.8", False),
        ("::ffff:192.0.2.7", "192.0.2.7", True),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),  # one host may take any address of its network
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("", "", True),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    assert (limits.address_of(request_from(one)) == limits.address_of(request_from(other))) is same


@pytest.mark.usefixtures("enqueued")
def test_a_class_of_thirty_newcomers_behind_one_address_is_served(make_checkpoint: Callable[..., Any]) -> None:
    checkpoint = make_checkpoint("init")
    for address, form in (
        ("/compare/", {"text": "What is an LLM?"}),
        ("/chat/new/", {"text": "Hello", "checkpoint": checkpoint.pk}),
    ):
        assert {Client().post(address, form).status_code for _ in range(30)} == {302}


def test_it_counts_people_and_kinds_apart(visitor: Visitor) -> None:
    for _ in range(21):
        limits.allow("chat", request_from(visitor=visitor))
    assert limits.allow("chat", request_from(visitor=Visitor.objects.create()))
    assert limits.allow("vote", request_from(visitor=visitor))


def test_whoever_trains_the_models_may_ask_them_all_more_often(visitor: Visitor, owner: Any) -> None:
    request = request_from(visitor=visitor)
    request.user = owner
    assert count(lambda: limits.allow("compare", request), at_most=20) == 20


def test_looking_counts_nothing(visitor: Visitor) -> None:
    request = request_from(visitor=visitor)
    assert all(limits.has_room("compare", request) for _ in range(50))
    assert count(lambda: limits.allow("compare", request), at_most=10) == 6
    assert not limits.has_room("compare", request)


def test_it_refuses_a_kind_it_does_not_know() -> None:
    with pytest.raises(KeyError):
        limits.allow("breathe", request_from())


def test_it_lets_people_through_when_redis_is_away(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.REDIS_URL = "unix:///nowhere/redis.sock?db=0"
    assert limits.allow("chat", request_from())
    assert limits.has_room("chat", request_from())
    assert "rate limits are off" in caplog.text


def test_votes_without_a_share_are_refused_on_the_page(make_checkpoint: Callable[..., Any]) -> None:
    """Through the door people use: sixty cookies, one vote each on the same pair's page, as fast as they can."""
    pair = make_pair(make_checkpoint("sft"), wanted_votes=1000)
    answers = [Client().post(f"/vote/{pair.pk}/", {"choice": "a"}).status_code for _ in range(70)]
    assert answers.count(429) == 10
    assert Vote.objects.count() == 60

"""Who is shown which pair: one that somebody looks at is kept for them, and nobody can keep them all."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import redis
from django.test import Client
from django.urls import reverse

from tests.webapp.arena_factory import make_pair
from tests.webapp.test_vote import HTMX, VOTE, cast
from webapp.accounts.models import Visitor
from webapp.arena import exchange, reservations, voting
from webapp.arena.models import Pair, Vote
from webapp.arena.voting import next_pair, record_vote, undo_vote
from webapp.checkpoints.models import Checkpoint
from webapp.live import streams

pytestmark = pytest.mark.django_db


@pytest.fixture
def sft(make_checkpoint: Any) -> Checkpoint:
    checkpoint: Checkpoint = make_checkpoint("sft")
    return checkpoint


def visitors(count: int) -> list[Visitor]:
    return Visitor.objects.bulk_create(Visitor() for _ in range(count))


def make_pairs(sft: Checkpoint, count: int) -> None:
    """So many, and PostgreSQL told of it: it plans for the few rows of a moment ago, and so many times over."""
    for _ in range(count):
        make_pair(sft)
    exchange._refresh_statistics()


def test_a_class_of_32_labels_no_pair_twice(sft: Checkpoint) -> None:
    """Each is shown a pair, thinks for as long as the others, and votes; three rounds of it."""
    rng, voters = random.Random(0), visitors(32)
    make_pairs(sft, 96)
    refused = 0
    for _ in range(3):
        shown = {voter: next_pair(voter) for voter in voters}
        for voter in rng.sample(voters, len(voters)):
            pair = shown[voter]
            assert pair is not None
            try:
                record_vote(pair=pair, visitor=voter, choice="a")
            except voting.PairClosed:
                refused += 1
    labels = Counter(Vote.objects.values_list("pair", flat=True))
    assert (len(labels), labels.most_common(1)[0][1], refused) == (96, 1, 0)


def test_a_class_of_32_newcomers_is_shown_32_pairs(sft: Checkpoint) -> None:
    """Nobody has voted yet, so there is nothing to know them by but the cookie their form came with."""
    make_pairs(sft, 64)
    browsers = [Client() for _ in range(32)]
    shown = [shown_on(browser) for browser in browsers]
    assert len(set(shown)) == 32
    assert [shown_on(browser) for browser in browsers] == shown
    assert not Visitor.objects.exists()


def shown_on(browser: Client) -> str:
    pair = browser.get(VOTE).context["pair"]
    assert pair is not None
    return str(pair.pk)


def test_300_viewers_see_all_of_200_pairs(sft: Checkpoint) -> None:
    make_pairs(sft, 200)
    seen = {pair.pk for viewer in visitors(300) if (pair := next_pair(viewer))}
    assert len(seen) == 200


def test_browsers_without_cookies_keep_half_of_the_stock_at_most(sft: Checkpoint) -> None:
    make_pairs(sft, 20)
    for _ in range(100):
        assert Client().get(VOTE).context["pair"]  # each without a cookie, and served all the same
    free = {pair.pk for voter in visitors(10) if (pair := next_pair(voter))}
    assert len(free) == 10
    names = [streams.client().get(f"served:{pair}") for pair in free]
    assert all(name.startswith("visitor:") for name in names)


def test_where_all_pairs_are_taken_one_waits_for_those_being_written(sft: Checkpoint) -> None:
    pair = make_pair(sft)
    first, second = visitors(2)
    assert next_pair(first) == pair
    assert next_pair(second) == pair  # nothing else is coming: two opinions are better than nobody's
    make_pair(sft, state=Pair.State.PENDING)
    assert next_pair(second) is None
    assert next_pair(first) == pair


def test_a_reservation_ends_by_itself_and_with_the_vote(sft: Checkpoint) -> None:
    pair = make_pair(sft, wanted_votes=3)
    make_pair(sft, state=Pair.State.PENDING)
    first, second = visitors(2)
    assert next_pair(first) == pair
    key = f"served:{pair.pk}"
    assert 0 < streams.client().ttl(key) <= reservations.RESERVED_S
    assert next_pair(second) is None
    record_vote(pair=pair, visitor=first, choice="a")
    assert next_pair(second) == pair


def test_without_redis_pairs_are_served_as_if_nobody_else_were_there(
    sft: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair(sft)
    gone = redis.Redis.from_url("unix:///no-site-is-running.sock")
    monkeypatch.setattr(streams, "client", lambda: gone)
    for viewer in visitors(3):
        assert next_pair(viewer) == pair
    assert record_vote(pair=pair, visitor=viewer, choice="a")
    assert undo_vote(pair=pair, visitor=viewer)


def test_a_pair_with_its_votes_takes_no_more_until_one_is_taken_back(sft: Checkpoint) -> None:
    pair = make_pair(sft)
    first, second = visitors(2)
    record_vote(pair=pair, visitor=first, choice="a")
    with pytest.raises(voting.PairClosed, match="Others answered this pair first"):
        record_vote(pair=pair, visitor=second, choice="b")
    assert record_vote(pair=pair, visitor=first, choice="b").choice == "a"  # a replay is no second vote
    assert undo_vote(pair=pair, visitor=first)
    assert next_pair(second) == pair  # the only one; who took the vote back has it first
    assert record_vote(pair=pair, visitor=second, choice="b")


@pytest.mark.parametrize("headers", [{}, HTMX])
def test_who_comes_too_late_is_told_so_and_shown_the_next_pair(
    sft: Checkpoint, visitor_client: Client, headers: dict[str, str]
) -> None:
    pair, following = make_pair(sft), make_pair(sft, texts=("The one after.", "The other after."))
    record_vote(pair=pair, visitor=Visitor.objects.create(), choice="a")
    response = visitor_client.post(cast(pair), {"choice": "b"}, headers=headers)
    page = response.content.decode()
    assert response.status_code == 409
    assert "Others answered this pair first" in page
    assert "Yours was not counted. Here is the next one." in page
    assert reverse("arena:cast", args=[following.pk]) in page
    assert Vote.objects.count() == 1

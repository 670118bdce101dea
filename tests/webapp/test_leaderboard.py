"""The leaderboard, its figure, and how far voters agree."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from django.urls import reverse

from tests.webapp.arena_factory import make_pair, make_vote
from trainer.evaluation.statistics import share_of
from webapp.accounts.models import Visitor
from webapp.arena import standings
from webapp.arena.models import Pair, Prompt, Vote
from webapp.checkpoints.models import Checkpoint

pytestmark = pytest.mark.django_db

LEADERBOARD = reverse("arena:leaderboard")


@pytest.fixture(autouse=True)
def _empty_cache() -> None:
    """Row numbers start again with every test on some databases, and the standings are cached by them."""
    cache.clear()


def duel(winner: Checkpoint, loser: Checkpoint, count: int = 1, **fields: Any) -> None:
    """Votes the first won, on alternating sides, each on a prompt of its own."""
    for number in range(count):
        prompt = Prompt.objects.create(text=f"Question {Prompt.objects.count()}?", source=Prompt.Source.STAFF)
        if number % 2:
            make_vote(make_pair(loser, winner, prompt=prompt), choice="b", **fields)
        else:
            make_vote(make_pair(winner, loser, prompt=prompt), choice="a", **fields)


@pytest.fixture
def sft(make_checkpoint: Any) -> Checkpoint:
    checkpoint: Checkpoint = make_checkpoint("sft", name="first sft")
    return checkpoint


@pytest.fixture
def ppo(make_checkpoint: Any, sft: Checkpoint) -> Checkpoint:
    checkpoint: Checkpoint = make_checkpoint("ppo", name="first ppo", parent=sft)
    return checkpoint


def test_it_ranks_the_winner_first_with_its_rate_over_its_parent(sft: Checkpoint, ppo: Checkpoint) -> None:
    duel(ppo, sft, 9)
    duel(sft, ppo, 3)
    first, second = standings.leaderboard()
    assert (first.checkpoint, second.checkpoint) == (ppo, sft)
    assert first.standing.score > 1000 > second.standing.score
    assert first.standing.duels == second.standing.duels == 12
    assert first.over_parent is not None
    assert first.over_parent.share == pytest.approx(0.75)
    assert first.over_parent == share_of([(1.0, 1)] * 9 + [(0.0, 1)] * 3)
    assert first.over_parent.is_enough
    assert second.over_parent is None


def test_votes_on_one_question_rank_and_promote_nobody(sft: Checkpoint, ppo: Checkpoint, client: Client) -> None:
    """Imported pairs have no prompt of this site's: the question itself says what hangs together."""
    for _ in range(30):
        make_vote(make_pair(ppo, sft), choice="a")
    first, second = standings.leaderboard()
    assert (first.standing.rank, second.standing.rank, first.standing.prompts) == (1, 1, 1)
    assert first.over_parent is not None
    assert (first.over_parent.count, first.over_parent.groups, first.is_promoted) == (30, 1, False)
    page = client.get(LEADERBOARD).content.decode()
    assert "too few to say" in page
    assert "inf" not in re.sub(r"<[^>]*>", "", page).lower().replace("information", "")


@pytest.mark.parametrize("choice", ["tie", "both_bad"])
def test_a_tie_is_half_a_win_for_both(sft: Checkpoint, ppo: Checkpoint, choice: str) -> None:
    make_vote(make_pair(ppo, sft), choice=choice)
    rows = standings.leaderboard()
    assert [row.standing.score for row in rows] == pytest.approx([1000, 1000])
    assert next(row for row in rows if row.checkpoint == ppo).over_parent.share == 0.5  # type: ignore[union-attr]


def test_it_counts_only_decided_first_looks_between_listed_checkpoints(sft: Checkpoint, ppo: Checkpoint) -> None:
    make_vote(make_pair(ppo, sft), choice="skip")
    make_vote(make_pair(sft))
    make_vote(make_pair(ppo, sft, state=Pair.State.REJECTED))
    original = make_pair(ppo, sft)
    make_vote(
        Pair.objects.create(kind="versus", state="ready", a=original.b, b=original.a, repeat_of=original), choice="a"
    )
    assert standings.leaderboard() == []
    duel(ppo, sft)
    assert len(standings.leaderboard()) == 2
    sft.archived = True
    sft.save()
    assert standings.leaderboard() == []


def test_it_follows_every_new_vote(sft: Checkpoint, ppo: Checkpoint) -> None:
    duel(ppo, sft)
    before = standings.leaderboard()[0].standing.score
    duel(ppo, sft, 5)
    assert standings.leaderboard()[0].standing.score > before


def test_it_counts_the_votes_once_and_then_only_asks_whether_there_are_more(
    sft: Checkpoint, ppo: Checkpoint, django_assert_num_queries: Any
) -> None:
    duel(ppo, sft, 4)
    first = standings.leaderboard()
    with django_assert_num_queries(2):  # the aggregate, and the checkpoints that are named
        assert standings.leaderboard() == first


def test_a_checkpoint_is_promoted_on_a_clear_win_over_its_parent_by_enough_people(
    sft: Checkpoint, ppo: Checkpoint
) -> None:
    duel(ppo, sft, standings.PROMOTED_VOTES - 1)
    assert not standings.leaderboard()[0].is_promoted
    duel(ppo, sft)
    assert standings.leaderboard()[0].is_promoted
    duel(sft, ppo, standings.PROMOTED_VOTES)
    assert not any(row.is_promoted for row in standings.leaderboard())


def test_simulated_votes_promote_nobody(sft: Checkpoint, ppo: Checkpoint) -> None:
    duel(ppo, sft, 30, source=Vote.Source.SIMULATED)
    assert standings.leaderboard()[0].over_parent is None


def test_the_figure_puts_every_mark_inside_and_in_order(sft: Checkpoint, ppo: Checkpoint) -> None:
    duel(ppo, sft, 30)
    rows = standings.leaderboard()
    plot = standings.interval_plot(rows)
    for item in plot.rows:
        assert 3 <= item.low <= item.score <= item.high <= 97
        assert item.label_y < item.y < plot.axis_y < plot.height
    assert plot.rows[0].score > plot.rows[1].score
    marks = [mark for _, mark in plot.ticks]
    assert marks == sorted(marks)
    assert marks[0] <= min(row.standing.low for row in rows)
    assert marks[-1] >= max(row.standing.high for row in rows)
    assert 3 <= len(marks) <= 8


def test_the_page_shows_the_standings_as_a_figure_and_a_table(sft: Checkpoint, ppo: Checkpoint, client: Client) -> None:
    duel(ppo, sft, 25)
    page = client.get(LEADERBOARD).content.decode()
    assert page.index("first ppo") < page.index("first sft")
    assert "<svg" in page
    assert "<table" in page
    assert "promoted" in page
    assert "100 %" in page
    assert "25 votes" in page
    assert not re.search(r"\sstyle=", page)


def test_the_page_without_votes_says_how_to_start(client: Client) -> None:
    page = client.get(LEADERBOARD).content.decode()
    assert "Nothing to rank yet" in page
    assert f'href="{reverse("arena:vote")}"' in page


# -- agreement -----------------------------------------------------------------------------------


def test_agreement_of_people_over_shared_pairs(sft: Checkpoint) -> None:
    # The hand-worked example of test_arena_stats: (a,a), (b,b), (a,b) give alpha = 4/9.
    for choices in (("a", "a"), ("b", "b"), ("a", "b"), ("a",)):
        pair = make_pair(sft)
        for choice in choices:
            make_vote(pair, choice=choice)
    make_vote(pair, choice="b", source=Vote.Source.SIMULATED)
    make_vote(pair, choice="skip")
    quality = standings.vote_quality()
    assert quality.alpha == pytest.approx(4 / 9)
    assert (quality.votes, quality.voters, quality.overlapping) == (7, 7, 3)
    assert quality.chose_a is not None
    assert (quality.chose_a.share, quality.chose_a.count) == (pytest.approx(4 / 7), 7)


def test_consistency_compares_each_voters_second_look_with_their_first(sft: Checkpoint, visitor: Visitor) -> None:
    someone_else = Visitor.objects.create()
    for voter, first, second in (
        (visitor, "a", "b"),  # the same answer, now on the other side
        (visitor, "a", "a"),
        (visitor, "tie", "tie"),
        (visitor, "skip", "a"),
        (someone_else, "b", "b"),
    ):
        original = make_pair(sft)
        make_vote(original, voter, first)
        repeat = Pair.objects.create(
            kind="self", state="ready", a=original.b, b=original.a, owner=voter, repeat_of=original
        )
        make_vote(repeat, voter, second)
    own, all_of_them = standings.consistency(visitor), standings.consistency()
    assert own is not None
    assert all_of_them is not None
    assert (own.share, own.count) == (pytest.approx(2 / 3), 3)
    assert (all_of_them.share, all_of_them.count) == (0.5, 4)


def test_nothing_is_claimed_without_votes() -> None:
    quality = standings.vote_quality()
    assert (quality.alpha, quality.chose_a, quality.consistency, quality.votes) == (None, None, None, 0)

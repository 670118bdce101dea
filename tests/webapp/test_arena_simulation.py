"""Simulated voters: they ask, wait for nothing, vote by their taste, and can be stopped at any point."""

from __future__ import annotations

import io
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command

from tests.webapp.arena_factory import finish, make_pair, make_prompts
from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.arena import simulation, stock
from webapp.arena.management.commands import simulate_votes as command
from webapp.arena.models import Pair, Prompt, Vote
from webapp.arena.simulation import simulate_votes, simulated_visitor
from webapp.arena.voting import next_pair
from webapp.live import streams

pytestmark = pytest.mark.django_db

LONG = "A harbour is a place by the sea where ships come in and boats wait for better weather."
SHORT = "Ships rest in a harbour."


def write_answers() -> None:
    """What the generate worker would do: every second answer long, the others short, none alike."""
    queued = Generation.objects.filter(state=Generation.State.QUEUED).order_by("created_at")
    for number, generation in enumerate(queued):
        finish(generation, f"{LONG if number % 2 else SHORT} This is {generation.pk.hex[:12]}.")


@pytest.fixture
def sft(make_checkpoint: Any, enqueued: Any) -> Any:
    make_prompts(5)
    return make_checkpoint("sft")


def test_it_asks_first_and_votes_when_the_answers_have_come(sft: Any) -> None:
    assert simulate_votes(taste="shorter", count=10, checkpoint=sft) == 0
    assert Generation.objects.count() == 20
    assert simulate_votes(taste="shorter", count=10, checkpoint=sft) == 0
    assert Generation.objects.count() == 20  # what is under way is not asked for twice
    write_answers()
    assert simulate_votes(taste="shorter", count=10, checkpoint=sft) == 10
    assert set(Vote.objects.values_list("source", "taste", "visitor")) == {
        ("simulated", "shorter", simulated_visitor("shorter").pk)
    }
    assert Vote.objects.for_training().count() == 10


def test_doing_it_again_adds_nothing(sft: Any) -> None:
    for _ in range(3):
        simulate_votes(taste="shorter", count=4, checkpoint=sft)
        write_answers()
    assert simulate_votes(taste="shorter", count=4, checkpoint=sft) == 4
    assert Vote.objects.count() == 4
    assert simulate_votes(taste="shorter", count=6, checkpoint=sft) == 4
    assert Pair.objects.filter(state=Pair.State.PENDING).count() == 2


def test_it_keeps_a_bounded_number_under_way(sft: Any) -> None:
    simulate_votes(taste="shorter", count=400, checkpoint=sft)
    assert Pair.objects.count() == simulation.SIMULATED_AT_ONCE


def test_it_replaces_pairs_that_were_rejected(sft: Any) -> None:
    simulate_votes(taste="shorter", count=3, checkpoint=sft)
    first = Pair.objects.all()[0]
    finish(first.a, "Same.")
    finish(first.b, "Same.")
    simulate_votes(taste="shorter", count=3, checkpoint=sft)
    assert Pair.objects.filter(state=Pair.State.PENDING).count() == 3


def test_it_votes_by_its_taste_but_for_a_tenth(sft: Any) -> None:
    while simulate_votes(taste="shorter", count=300, checkpoint=sft) < 300:
        write_answers()
    votes = Vote.objects.select_related("pair__a", "pair__b")
    shorter_won = sum(
        (len(vote.pair.a.text) < len(vote.pair.b.text)) == (vote.choice == Vote.Choice.A) for vote in votes
    )
    assert 249 < shorter_won < 291  # 270 ± 4 standard deviations
    # The coin decided the sides, so neither is preferred as such.
    assert 115 < Vote.objects.filter(choice="a").count() < 185


def test_its_vote_on_a_pair_is_always_the_same(sft: Any) -> None:
    simulate_votes(taste="shorter", count=20, checkpoint=sft)
    write_answers()
    simulate_votes(taste="shorter", count=20, checkpoint=sft)
    before = dict(Vote.objects.values_list("pair", "choice"))
    Vote.objects.all().delete()
    Pair.objects.update(is_open=True)
    simulate_votes(taste="shorter", count=20, checkpoint=sft)
    assert dict(Vote.objects.values_list("pair", "choice")) == before


def test_people_and_simulated_voters_do_not_take_each_others_pairs(sft: Any, visitor: Visitor) -> None:
    simulate_votes(taste="shorter", count=5, checkpoint=sft)
    write_answers()
    stock.settle_pairs()
    assert next_pair(visitor) is None
    stock.prepare_pairs(count=5)
    assert Pair.objects.of_stock().count() == 5


def test_each_taste_is_one_voter_in_every_process() -> None:
    assert simulated_visitor("shorter") == simulated_visitor("shorter")
    assert simulated_visitor("shorter") != simulated_visitor("example")
    assert Visitor.objects.count() == 2


def test_it_refuses_an_unknown_taste_and_a_checkpoint_that_does_not_answer(sft: Any, make_checkpoint: Any) -> None:
    with pytest.raises(ValueError, match="shorter, friendlier, example"):
        simulate_votes(taste="longer", count=1, checkpoint=sft)
    with pytest.raises(ValueError, match="pretrain"):
        simulate_votes(taste="shorter", count=1, checkpoint=make_checkpoint("pretrain"))


def test_it_stops_when_a_checkpoint_always_says_the_same(sft: Any) -> None:
    for _ in range(50 + 10 * 2 + 1):
        make_pair(sft, state=Pair.State.REJECTED, owner=simulated_visitor("shorter"))
    with pytest.raises(ValueError, match="hardly ever gives two different"):
        simulate_votes(taste="shorter", count=2, checkpoint=sft)
    assert not Pair.objects.filter(state=Pair.State.PENDING).exists()


def test_it_seeds_prompts_when_there_are_none(make_checkpoint: Any, enqueued: Any) -> None:
    simulate_votes(taste="shorter", count=2, checkpoint=make_checkpoint("sft"))
    assert Prompt.objects.count() > 20


def test_it_says_so_when_every_prompt_is_switched_off(sft: Any) -> None:
    Prompt.objects.update(active=False)
    with pytest.raises(ValueError, match="no active prompts"):
        simulate_votes(taste="shorter", count=2, checkpoint=sft)


# -- the command ---------------------------------------------------------------------------------


def test_the_command_adds_votes_until_it_has_them(sft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.time, "sleep", lambda seconds: write_answers())
    for total in (3, 6):
        out = io.StringIO()
        call_command("simulate_votes", "--taste", "friendlier", "-n", "3", stdout=out)
        assert "3 of 3 votes recorded" in out.getvalue()
        assert Vote.objects.filter(taste="friendlier").count() == total


def test_the_command_stops_on_ctrl_c_and_keeps_what_is_there(sft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", interrupted)
    out = io.StringIO()
    call_command("simulate_votes", "--taste", "shorter", "-n", "3", stdout=out)
    assert "0 of 3 votes recorded" in out.getvalue()


def test_the_command_without_redis_says_so_in_one_line(sft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "client", lambda: redis.Redis(unix_socket_path="/nowhere/redis.sock"))
    with pytest.raises(CommandError, match=r"Redis does not answer.*make run"):
        call_command("simulate_votes", "--taste", "shorter", "-n", "3")


def test_the_command_refuses_what_makes_no_sense(make_checkpoint: Any) -> None:
    with pytest.raises(CommandError, match="train the sft stage first"):
        call_command("simulate_votes", "--taste", "shorter", "-n", "3")
    pretrain = make_checkpoint("pretrain")
    with pytest.raises(CommandError, match="at least 1"):
        call_command("simulate_votes", "--taste", "shorter", "-n", "0")
    with pytest.raises(CommandError, match="Unknown taste 'longer'; choose one of shorter,"):
        call_command("simulate_votes", "--taste", "longer", "-n", "3")
    with pytest.raises(CommandError, match="no checkpoint 99"):
        call_command("simulate_votes", "--taste", "shorter", "-n", "3", "--checkpoint", "99")
    with pytest.raises(CommandError, match="not pretrain"):
        call_command("simulate_votes", "--taste", "shorter", "-n", "3", "--checkpoint", str(pretrain.pk))

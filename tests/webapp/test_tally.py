"""The counts kept beside the votes: whatever happens to votes and pairs, they are what counting the rows gives."""

from __future__ import annotations

import random
import threading
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from tests.threads import database_thread
from tests.webapp.arena_factory import finish, make_answer, make_pair, make_prompts, make_vote
from webapp.accounts.models import Visitor
from webapp.accounts.services import merge_session_visitor
from webapp.arena import exchange, standings, stats, stock, tally, voting
from webapp.arena.models import Pair, Prompt, Vote, VoteTally
from webapp.checkpoints.models import Checkpoint

pytestmark = pytest.mark.django_db


class World:
    """A site on which anything may happen next; which, a seed decides."""

    def __init__(self, seed: int, make_checkpoint: Any, tmp_path: Path) -> None:
        self.rng = random.Random(seed)
        self.make_checkpoint = make_checkpoint
        self.file = tmp_path / "votes.jsonl"
        sft = make_checkpoint("sft")
        self.checkpoints = [sft, make_checkpoint("ppo", parent=sft), make_checkpoint("grpo")]
        self.reward_models = [make_checkpoint("reward")]
        self.prompts = make_prompts(3)
        self.visitors = [Visitor.objects.create() for _ in range(4)]

    def any_pair(self, **wanted: Any) -> Pair | None:
        pairs = list(Pair.objects.filter(**wanted).order_by("created_at"))
        return self.rng.choice(pairs) if pairs else None

    def any_vote(self, **wanted: Any) -> Vote | None:
        votes = list(Vote.objects.filter(**wanted).order_by("pk"))
        return self.rng.choice(votes) if votes else None

    def happen(self) -> str:
        what = self.rng.choice(
            [
                *[self.make_a_pair, self.vote, self.vote, self.vote, self.vote_again, self.undo] * 6,
                *[self.choose_in_chat, self.settle, self.learn, self.export_and_import, self.merge, self.delete],
                self.archive,
            ]
        )
        what()
        return what.__name__

    def make_a_pair(self) -> None:
        a, b = self.rng.choices(self.checkpoints, k=2)
        prompt = self.rng.choice([None, *self.prompts])
        fields = {"wanted_votes": self.rng.choice((1, 3)), "owner": self.rng.choice([None, None, self.visitors[0]])}
        state = self.rng.choice((Pair.State.READY, Pair.State.READY, Pair.State.PENDING, Pair.State.REJECTED))
        make_pair(a, b, prompt=prompt, state=state, **fields)

    def vote(self) -> None:
        pair, visitor = self.any_pair(from_chat=False), self.rng.choice(self.visitors)
        if pair is None:
            return
        source = self.rng.choice(("human", "human", "simulated"))
        try:
            voting.record_vote(pair=pair, visitor=visitor, choice=self.rng.choice(Vote.Choice.values), source=source)
        except voting.VoteRefused:
            return

    def vote_again(self) -> None:
        """A second look, as `_plan_repeat` makes them."""
        earlier = Vote.objects.human().filter(pair__repeat_of=None, pair__repeats=None, pair__from_chat=False).first()
        if earlier is None:
            return
        shown = earlier.pair
        repeat, _ = Pair.objects.get_or_create(
            a=shown.b, b=shown.a,
            defaults={"kind": shown.kind, "state": "ready", "owner": earlier.visitor, "repeat_of": shown},
        )  # fmt: skip
        if repeat.repeat_of_id:
            voting.record_vote(pair=repeat, visitor=earlier.visitor, choice=self.rng.choice(Vote.Choice.values))

    def undo(self) -> None:
        if vote := self.any_vote(revealed_at=None):
            voting.undo_vote(pair=vote.pair, visitor=vote.visitor)

    def choose_in_chat(self) -> None:
        visitor, checkpoint = self.rng.choice(self.visitors), self.rng.choice(self.checkpoints)
        pair = Pair.objects.create(
            a=make_answer(checkpoint), b=make_answer(checkpoint), kind="self", from_chat=True, owner=visitor
        )
        voting.record_vote(pair=pair, visitor=visitor, choice=self.rng.choice(Vote.Choice.values))

    def settle(self) -> None:
        if pair := self.any_pair(state=Pair.State.PENDING):
            finish(pair.b, self.rng.choice(("Another answer.", "")))
        stock.settle_pairs()

    def learn(self) -> None:
        exchange.write_votes(self.file, Vote.objects.for_training())
        if self.rng.random() < 0.3:
            self.reward_models.append(self.make_checkpoint("reward"))
        exchange.mark_learnt(exchange.learnt_votes(self.file), by=self.reward_models[-1])

    def export_and_import(self) -> None:
        """What another site would send: some of it is here, some not."""
        exchange.write_votes(self.file, Vote.objects.comparisons())
        lines = self.file.read_text().splitlines(keepends=True)
        kept = []
        for line in self.rng.sample(lines, min(4, len(lines))):
            known, new = line.partition('"pair": "')[2][:8], f"{self.rng.getrandbits(32):08x}"
            kept.append(line.replace(f'"pair": "{known}', f'"pair": "{new}') if self.rng.random() < 0.7 else line)
        self.file.write_text("".join(kept))
        exchange.import_votes(self.file)

    def merge(self) -> None:
        """Somebody logs in, having voted before they did."""
        user, _ = get_user_model().objects.get_or_create(username="ann")
        Visitor.objects.get_or_create(user=user)
        anonymous = self.visitors.pop()
        request = Client().request().wsgi_request
        request.session = Client().session
        request.session["visitor_id"] = str(anonymous.pk)
        merge_session_visitor(request=request, user=user)
        self.visitors.append(Visitor.objects.create())
        if self.rng.random() < 0.5:
            self.visitors[0] = Visitor.objects.get(user=user)

    def delete(self) -> None:
        if (vote := self.any_vote()) is None:
            return
        if self.rng.random() < 0.5:
            vote.delete()
        else:
            Vote.objects.filter(pair=vote.pair).delete()

    def archive(self) -> None:
        Checkpoint.objects.filter(pk=self.rng.choice(self.checkpoints).pk).update(archived=self.rng.random() < 0.5)


@pytest.mark.parametrize("seed", range(6))
def test_the_counts_are_the_rows_whatever_happens(seed: int, make_checkpoint: Any, tmp_path: Path) -> None:
    world = World(seed, make_checkpoint, tmp_path)
    happened = []
    for number in range(60):
        happened.append(world.happen())
        if number % 10 == 9:
            assert tally.differences() == [], happened
    _require_same_figures()
    assert Vote.objects.count() > 5


def _require_same_figures() -> None:
    """What pages ask for is what counting the rows by other queries gives."""
    assert tally.training_votes() == Vote.objects.for_training().count()
    assert tally.training_votes(new=True) == Vote.objects.for_training().since_last_reward_model().count()
    decisive = Vote.objects.for_training().filter(choice__in=("a", "b"))
    assert tally.training_votes(source="human", decisive=True) == decisive.human().count()
    fields = ("pair__a__checkpoint", "pair__b__checkpoint", "choice", "source")
    rows = Counter(Vote.objects.duels().values_list(*fields))
    assert {(a, b, choice, source): count for a, b, choice, source, count in tally.duels()} == dict(rows)
    by_prompt: Counter[Any] = Counter()
    for a, b, choice, source, _, count in tally.duels_by_prompt():
        by_prompt[a, b, choice, source] += count
    assert by_prompt == rows
    human = Vote.objects.human().comparisons()
    assert tally.human_choices() == dict(Counter(human.values_list("choice", flat=True)))
    assert tally.voters() == human.order_by().values("visitor").distinct().count()
    for visitor in Visitor.objects.all():
        assert tally.voter(visitor).decided == visitor.votes.human().decided().count()
    units: dict[Any, list[str]] = {}
    for pair, choice in human.values_list("pair", "choice"):
        units.setdefault(pair, []).append(choice)
    alpha = stats.krippendorff_alpha(units.values())
    assert standings.vote_quality().alpha == (alpha if alpha is None else pytest.approx(alpha))
    assert {prompt.pk: prompt.pairs_made for prompt in Prompt.objects.all()} == {
        prompt.pk: prompt.pairs.count() for prompt in Prompt.objects.all()
    }


def test_a_wrong_count_is_found_and_put_right(make_checkpoint: Any) -> None:
    pair = make_pair(make_checkpoint("sft"), wanted_votes=3, prompt=make_prompts(1)[0])
    for choice in ("a", "a", "b"):
        make_vote(pair, choice=choice)
    assert tally.differences() == []
    VoteTally.objects.update(count=7)
    Prompt.objects.update(pairs_made=7)
    Pair.objects.update(agreement="")
    output = StringIO()
    with pytest.raises(CommandError, match="counts are wrong"):
        call_command("rebuild_tally", "--check", stdout=output)
    assert "kept as 7" in output.getvalue()
    call_command("rebuild_tally", stdout=output)
    assert tally.differences() == []
    pair.refresh_from_db()
    assert pair.agreement == "a2 b1"
    call_command("rebuild_tally", "--check", stdout=output)
    assert "Every count is right." in output.getvalue()


def test_rebuilding_gives_what_was_kept(make_checkpoint: Any, tmp_path: Path) -> None:
    world = World(99, make_checkpoint, tmp_path)
    for _ in range(60):
        world.happen()
    kept = tally.kept_counts()
    tally.rebuild()
    assert tally.kept_counts() == kept
    assert tally.differences() == []


def test_a_deleted_reward_models_votes_are_new_again(make_checkpoint: Any) -> None:
    reward = make_checkpoint("reward")
    vote = make_vote(make_pair(make_checkpoint("sft")))
    tally.mark_votes_learnt([vote.pk], by=reward)
    assert tally.training_votes(new=True) == 0
    reward.delete()
    make_checkpoint("reward")
    assert tally.training_votes(new=True) == 1
    assert tally.differences() == []


def test_the_leaderboard_of_many_counts_is_kept_by_the_background(
    make_checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sft, ppo = make_checkpoint("sft"), make_checkpoint("ppo")
    for prompt in make_prompts(3):
        make_vote(make_pair(ppo, sft, prompt=prompt), choice="a")
    assert not standings.keep_ranking()  # few enough for a page
    monkeypatch.setattr(standings, "RANKED_AT_ONCE", 2)
    first, as_of = standings.leaderboard_as_of()
    assert as_of is None
    assert standings.keep_ranking()
    assert not standings.keep_ranking()  # nothing is new
    make_vote(make_pair(ppo, sft), choice="b")
    rows, as_of = standings.leaderboard_as_of()
    assert as_of is not None
    assert [row.standing for row in rows] == [row.standing for row in first]
    monkeypatch.setattr(standings, "RANKING_SHARE", 1e9)
    assert standings.keep_ranking()
    rows, as_of = standings.leaderboard_as_of()
    assert (as_of, rows[0].standing.duels) == (None, 4)


def test_nothing_a_page_asks_reads_the_votes(
    make_checkpoint: Any, visitor: Visitor, django_assert_num_queries: Any
) -> None:
    """The sizes of tables cannot be felt in a test; that no query goes to the votes can."""
    sft, ppo = make_checkpoint("sft"), make_checkpoint("ppo")
    for _ in range(3):
        make_vote(make_pair(ppo, sft), visitor, created_at=timezone.now())
    with django_assert_num_queries(10) as asked:
        standings.vote_quality()
        standings.progress()
        tally.duels()
        list(tally.duels_by_prompt())
        tally.voter(visitor)
        tally.pairs_of_couples()
    assert not [query["sql"] for query in asked if '"arena_vote"' in query["sql"]]


@pytest.mark.django_db(transaction=True)
def test_votes_and_undos_at_once_are_counted_once_each(make_checkpoint: Any) -> None:
    """Eight people on the same few pairs, whose votes move the same few counts."""
    sft, ppo = make_checkpoint("sft"), make_checkpoint("ppo")
    pairs = [make_pair(ppo, one, wanted_votes=9) for one in (sft, ppo, sft)]
    together, failed = threading.Barrier(8), list[BaseException]()

    def vote(number: int) -> None:
        rng = random.Random(number)
        visitor = Visitor.objects.create()
        try:
            together.wait()
            for pair in rng.sample(pairs, len(pairs)):
                voting.record_vote(pair=pair, visitor=visitor, choice=rng.choice(("a", "b", "tie", "skip")))
                if rng.random() < 0.3:
                    voting.undo_vote(pair=pair, visitor=visitor)
        except BaseException as error:
            failed.append(error)

    threads = [database_thread(vote, number) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert 12 <= Vote.objects.count() < 24
    assert tally.differences() == []

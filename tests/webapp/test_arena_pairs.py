"""Pairs: prepared ahead, settled, served."""

from __future__ import annotations

import random
import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from tests.webapp.arena_factory import finish, make_answer, make_pair, make_prompts, make_vote
from webapp.accounts import limits
from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.arena import publishing, stock, tasks, voting
from webapp.arena.models import Pair, Prompt
from webapp.arena.publishing import seed_prompts
from webapp.arena.stock import prepare_pairs, settle_pairs
from webapp.arena.voting import next_pair
from webapp.chat.models import Conversation, Message

pytestmark = pytest.mark.django_db


# -- preparing -----------------------------------------------------------------------------------


def test_it_prepares_nothing_before_a_checkpoint_answers(make_checkpoint: Any) -> None:
    make_checkpoint("pretrain")
    make_prompts(3)
    assert prepare_pairs(count=4) == 0
    assert not Generation.objects.exists()


def test_it_asks_the_newest_answering_checkpoint_twice_with_different_seeds(
    make_checkpoint: Any, enqueued: Any, django_capture_on_commit_callbacks: Any
) -> None:
    make_checkpoint("sft")
    newest = make_checkpoint("sft")
    make_checkpoint("pretrain", archived=True)
    make_prompts(4)
    with django_capture_on_commit_callbacks(execute=True):
        assert prepare_pairs(count=4) == 4
    pairs = list(Pair.objects.select_related("a", "b"))
    assert {pair.a.checkpoint_id for pair in pairs} | {pair.b.checkpoint_id for pair in pairs} == {newest.pk}
    assert all(pair.a.sampling["seed"] != pair.b.sampling["seed"] for pair in pairs)
    assert {pair.a.sampling["temperature"] for pair in pairs} == {1.0}
    assert len({pair.prompt_id for pair in pairs}) == 4
    assert len(enqueued.of("generate_answer")) == 8


def test_answers_to_vote_on_are_as_long_as_those_that_training_samples(make_checkpoint: Any, enqueued: Any) -> None:
    (prompt,) = make_prompts(1)
    short, long = make_checkpoint("sft", answer_tokens=40), make_checkpoint("ppo", answer_tokens=60)
    alone = stock.make_pair(couple=(short, short), prompt=prompt)
    couple = stock.make_pair(couple=(short, long), prompt=prompt)
    assert {alone.a.sampling["max_new_tokens"], alone.b.sampling["max_new_tokens"]} == {40}
    assert {couple.a.sampling["max_new_tokens"], couple.b.sampling["max_new_tokens"]} == {60}  # one rule for both


def test_it_tops_the_stock_up_and_no_further(make_checkpoint: Any, enqueued: Any) -> None:
    make_checkpoint("sft")
    make_prompts(2)
    assert prepare_pairs(count=3) == 3
    assert prepare_pairs(count=5) == 2
    assert prepare_pairs(count=5) == 0
    make_vote(Pair.objects.all()[0])
    assert prepare_pairs(count=5) == 1


def test_a_full_stock_is_not_paid_for_with_a_look_at_every_pair(make_checkpoint: Any, enqueued: Any) -> None:
    make_checkpoint("sft", parent=make_checkpoint("pretrain"))
    make_prompts(2)
    prepare_pairs(count=4)
    with CaptureQueriesContext(connection) as asked:
        assert prepare_pairs(count=4) == 0
    read = [query["sql"] for query in asked.captured_queries if '"arena_p' in query["sql"]]
    assert len(read) == 2  # how many wait, of either kind
    assert all(sql.startswith("SELECT COUNT(*)") for sql in read)


def test_pairs_nobody_can_be_shown_any_more_do_not_fill_the_stock(make_checkpoint: Any, enqueued: Any) -> None:
    sft = make_checkpoint("sft")
    old = make_checkpoint("ppo", parent=sft)
    make_prompts(2)
    prepare_pairs(count=16)
    assert prepare_pairs(count=16) == 0
    Prompt.objects.update(active=False)
    Prompt.objects.create(text="What is new?", source=Prompt.Source.STAFF)
    assert prepare_pairs(count=16) == 16
    old.archived = True
    old.save()
    make_checkpoint("ppo", parent=sft)
    assert prepare_pairs(count=16) == 16  # 12 for the new learner, and 4 to compare it
    assert prepare_pairs(count=16) == 0


@pytest.mark.parametrize("kind", ["self", "versus"])
def test_where_nearly_all_pairs_are_rejected_one_is_tried_a_minute(
    make_checkpoint: Any, enqueued: Any, kind: str
) -> None:
    sft = make_checkpoint("sft")
    ppo = make_checkpoint("ppo", parent=sft)
    make_prompts(1)
    a = sft if kind == "versus" else ppo
    for _ in range(39):
        make_pair(a, ppo, state=Pair.State.REJECTED)
    make_pair(a, ppo, is_open=False)
    Pair.objects.update(created_at=timezone.now() - timedelta(minutes=2))
    others = {"self": 4, "versus": 12}[kind]
    assert prepare_pairs(count=16) == 1 + others
    assert prepare_pairs(count=16) == 0
    Pair.objects.filter(state=Pair.State.PENDING, kind=kind).update(created_at=timezone.now() - timedelta(minutes=2))
    assert prepare_pairs(count=16) == 1


def test_the_stock_fills_again_as_soon_as_pairs_come_out_fit(make_checkpoint: Any, enqueued: Any) -> None:
    sft = make_checkpoint("sft")
    make_prompts(1)
    for n in range(40):
        make_pair(sft, state=Pair.State.REJECTED if n < 38 else Pair.State.READY, is_open=False)
    assert prepare_pairs(count=16) == 16


def test_a_few_rejected_pairs_hold_nothing_up(make_checkpoint: Any, enqueued: Any) -> None:
    sft = make_checkpoint("sft")
    make_prompts(1)
    for _ in range(39):
        make_pair(sft, state=Pair.State.REJECTED)
    assert prepare_pairs(count=16) == 16


def test_it_makes_a_new_stock_for_a_new_checkpoint(make_checkpoint: Any, enqueued: Any) -> None:
    make_checkpoint("sft")
    make_prompts(2)
    prepare_pairs(count=3)
    newer = make_checkpoint("sft")
    assert prepare_pairs(count=3) == 3
    assert Pair.objects.on(newer).count() == 3


def test_a_share_of_the_stock_compares_two_stages(make_checkpoint: Any, enqueued: Any) -> None:
    sft = make_checkpoint("sft")
    make_checkpoint("ppo", parent=sft)
    make_prompts(5)
    prepare_pairs(count=16)
    assert Pair.objects.filter(kind=Pair.Kind.SELF).count() == 12
    versus = Pair.objects.filter(kind=Pair.Kind.VERSUS)
    assert {frozenset((pair.a.checkpoint.stage, pair.b.checkpoint.stage)) for pair in versus} == {
        frozenset(("sft", "ppo"))
    }


def test_couples_take_turns_and_a_child_meets_its_parent_most(make_checkpoint: Any, enqueued: Any) -> None:
    pretrain = make_checkpoint("pretrain")
    sft = make_checkpoint("sft", parent=pretrain)
    ppo = make_checkpoint("ppo", parent=sft)
    make_checkpoint("init")  # noise is compared with nobody
    make_prompts(5)
    prepare_pairs(count=40)
    met: dict[frozenset[int], int] = {}
    for pair in Pair.objects.filter(kind=Pair.Kind.VERSUS):
        couple = frozenset((pair.a.checkpoint_id, pair.b.checkpoint_id))
        met[couple] = met.get(couple, 0) + 1
    assert met == {
        frozenset((pretrain.pk, sft.pk)): 4,
        frozenset((sft.pk, ppo.pk)): 4,
        frozenset((pretrain.pk, ppo.pk)): 2,
    }


def test_a_second_ppo_run_is_compared_with_the_first_it_came_from(make_checkpoint: Any) -> None:
    first = make_checkpoint("ppo")
    second = make_checkpoint("ppo", parent=first)
    assert [{one.pk, other.pk} for one, other in stock.versus_couples()] == [{first.pk, second.pk}]


def test_sides_are_a_coin_flip(make_checkpoint: Any, enqueued: Any) -> None:
    sft = make_checkpoint("sft")
    ppo = make_checkpoint("ppo", parent=sft)
    prompt = make_prompts(1)[0]
    rng = random.Random(11)
    for _ in range(400):
        stock.make_pair(couple=(sft, ppo), prompt=prompt, rng=rng)
    as_a = Pair.objects.filter(a__checkpoint=ppo).count()
    assert 160 < as_a < 240  # 200 ± 4 standard deviations
    # Neither does who was asked first say who is A.
    asked_first_is_a = sum(pair.a.created_at < pair.b.created_at for pair in Pair.objects.select_related("a", "b"))
    assert 160 < asked_first_is_a < 240


def test_a_tenth_of_the_pairs_wants_three_voters(make_checkpoint: Any, enqueued: Any) -> None:
    make_checkpoint("sft")
    make_prompts(1)
    prepare_pairs(count=300, rng=random.Random(5))
    wanting_three = Pair.objects.filter(wanted_votes=3).count()
    assert 12 < wanting_three < 50  # 30 ± 4 standard deviations
    assert Pair.objects.filter(wanted_votes=1).count() == 300 - wanting_three


def test_inactive_prompts_are_not_asked(make_checkpoint: Any, enqueued: Any) -> None:
    make_checkpoint("sft")
    on, off = make_prompts(2)
    Prompt.objects.filter(pk=off.pk).update(active=False)
    prepare_pairs(count=3)
    assert set(Pair.objects.values_list("prompt", flat=True)) == {on.pk}


def test_it_asks_nothing_when_every_prompt_is_switched_off(make_checkpoint: Any) -> None:
    make_checkpoint("sft")
    make_prompts(2)
    Prompt.objects.update(active=False)
    assert prepare_pairs(count=3) == 0


def share_questions(count: int) -> None:
    """What visitors shared from their chats."""
    for number in range(count):
        Prompt.objects.create(text=f"A stranger's question {number}", source=Prompt.Source.CHAT)


def test_visitors_questions_are_a_quarter_of_the_new_pairs_at_most(make_checkpoint: Any, enqueued: Any) -> None:
    make_checkpoint("sft")
    for prompt in make_prompts(2):
        make_pair(make_checkpoint("init"), prompt=prompt)  # asked before, and the visitors' never
    share_questions(30)
    prepare_pairs(count=16)
    assert Pair.objects.filter(prompt__source="chat").count() == 4
    assert Pair.objects.filter(prompt__source="staff").count() == 2 + 12


def test_visitors_questions_are_a_quarter_of_the_pairs_started_one_by_one() -> None:
    make_prompts(2)
    share_questions(30)
    rng = random.Random(3)
    asked = [stock.least_used_prompts(count=1, rng=rng)[0].source for _ in range(200)]
    assert 26 < asked.count("chat") < 74  # 50 ± 4 standard deviations


def test_a_visitors_question_asked_often_waits_for_the_others(make_checkpoint: Any) -> None:
    make_prompts(4)
    share_questions(1)
    make_pair(make_checkpoint("sft"), prompt=Prompt.objects.get(source="chat"))
    asked = stock.least_used_prompts(count=4, rng=random.Random(3))
    assert {prompt.source for prompt in asked} == {"staff"}


def test_without_others_only_visitors_questions_are_asked(make_checkpoint: Any, enqueued: Any) -> None:
    make_checkpoint("sft")
    share_questions(2)
    assert prepare_pairs(count=5) == 5


def test_it_seeds_the_shipped_prompts_once() -> None:
    assert seed_prompts() > 20
    assert seed_prompts() == 0
    assert set(Prompt.objects.values_list("source", flat=True)) == {"shipped"}


def test_the_stock_grows_with_the_number_of_voters(make_checkpoint: Any) -> None:
    assert stock.wanted_stock() == stock.SMALLEST_STOCK
    sft = make_checkpoint("sft")
    for _ in range(stock.SMALLEST_STOCK + 4):
        make_vote(make_pair(sft))
    assert stock.wanted_stock() == stock.SMALLEST_STOCK + 4


def test_the_stock_grows_with_the_pairs_people_are_looking_at(make_checkpoint: Any) -> None:
    sft = make_checkpoint("sft")
    for _ in range(8):
        make_pair(sft)
    for _ in range(5):
        next_pair(Visitor.objects.create())
    assert stock.wanted_stock() == stock.SMALLEST_STOCK + 5


def test_the_periodic_task_seeds_prepares_and_settles(make_checkpoint: Any, enqueued: Any) -> None:
    make_checkpoint("sft")
    tasks.keep_pairs_ready()
    pairs = list(Pair.objects.select_related("a", "b"))
    assert len(pairs) == stock.SMALLEST_STOCK
    for answer in (pairs[0].a, pairs[0].b):
        finish(answer, f"text {answer.pk}")
    tasks.keep_pairs_ready()
    assert Pair.objects.get(state=Pair.State.READY) == pairs[0]


@pytest.fixture
def chat(make_checkpoint: Any, visitor: Visitor) -> Conversation:
    """A visitor's chat of two questions."""
    conversation = Conversation.objects.create(visitor=visitor, checkpoint=make_checkpoint("sft"))
    first = Message.objects.create(conversation=conversation, role="user", text="Why is the sea salt?")
    Message.objects.create(conversation=conversation, role="user", text="And my own name?", parent=first)
    return conversation


def test_a_chats_opening_question_is_asked_of_others_only_while_its_author_agrees(
    chat: Conversation, visitor_client: Client
) -> None:
    page, address = reverse("chat:conversation", args=[chat.pk]), reverse("arena:share", args=[chat.pk])
    assert address in visitor_client.get(page).content.decode()
    assert visitor_client.post(address, {"agreed": "on"})["Location"] == page
    assert [(prompt.text, prompt.source) for prompt in Prompt.objects.all()] == [("Why is the sea salt?", "chat")]
    assert re.search(r'name="agreed"[^>]* checked', visitor_client.get(page).content.decode())
    assert visitor_client.post(address, headers={"HX-Request": "true"}).status_code == 204
    assert not Prompt.objects.get().active
    assert not re.search(r'name="agreed"[^>]* checked', visitor_client.get(page).content.decode())


@pytest.mark.parametrize("headers", [{}, {"HX-Request": "true"}])
def test_a_shower_of_shared_questions_is_held_back_and_each_can_be_taken_back(
    chat: Conversation, visitor_client: Client, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = reverse("arena:share", args=[chat.pk])
    visitor_client.post(address, {"agreed": "on"}, headers=headers)
    monkeypatch.setattr(limits, "allow", lambda kind, identity: kind != "share")
    visitor_client.post(address, headers=headers)
    assert not Prompt.objects.get().active
    Prompt.objects.all().delete()
    refused = visitor_client.post(address, {"agreed": "on"}, headers=headers)
    assert refused.status_code == 429
    assert "a lot of sharing" in refused.content.decode()
    chat.refresh_from_db()
    assert not chat.may_serve_votes
    assert not Prompt.objects.exists()


def test_a_shared_question_leaves_a_shipped_one_and_a_long_one_alone(chat: Conversation) -> None:
    Prompt.objects.create(text="Why is the sea salt?", source=Prompt.Source.SHIPPED)
    publishing.share_opening(conversation=chat, agreed=True)
    publishing.share_opening(conversation=chat, agreed=False)
    assert Prompt.objects.get().active
    chat.messages.filter(parent=None).update(text="x" * 301)
    publishing.share_opening(conversation=chat, agreed=True)
    assert Prompt.objects.count() == 1


def test_nobody_shares_the_question_of_somebody_else(chat: Conversation, client: Client, alice_client: Client) -> None:
    address = reverse("arena:share", args=[chat.pk])
    for stranger in (client, alice_client):
        assert stranger.post(address, {"agreed": "on"}).status_code == 404
    assert not Prompt.objects.exists()


# -- settling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "state"),
    [
        ({}, {}, "ready"),
        ({"text": "Same. "}, {"text": "Same."}, "rejected"),
        ({"text": " "}, {}, "rejected"),
        ({}, {"finish_reason": "length"}, "rejected"),
        ({"state": "failed", "finish_reason": "error"}, {}, "rejected"),
        ({}, {"state": "stopped", "finish_reason": "stopped"}, "rejected"),
        ({}, {"state": "running", "finish_reason": ""}, "pending"),
        ({"state": "failed"}, {"state": "queued"}, "pending"),
    ],
)
def test_it_settles_a_pair_by_its_answers(
    make_checkpoint: Any, a: dict[str, str], b: dict[str, str], state: str
) -> None:
    sft = make_checkpoint("sft")
    pair = Pair.objects.create(kind="self", a=make_answer(sft, **a), b=make_answer(sft, **b))  # type: ignore[arg-type]
    assert settle_pairs() == (state != "pending")
    pair.refresh_from_db()
    assert pair.state == state


def test_it_gives_up_a_pair_whose_answers_never_come(make_checkpoint: Any) -> None:
    sft = make_checkpoint("sft")
    pair = Pair.objects.create(kind="self", a=make_answer(sft, state="queued"), b=make_answer(sft))
    Pair.objects.update(created_at=timezone.now() - stock.PENDING_LIMIT - timedelta(seconds=1))
    assert settle_pairs() == 1
    pair.refresh_from_db()
    assert pair.state == Pair.State.REJECTED


def test_a_checkpoint_that_hardly_ever_ends_its_answers_is_shown_cut_off(make_checkpoint: Any) -> None:
    pretrain = make_checkpoint("pretrain")
    for _ in range(4):
        make_pair(pretrain, state=Pair.State.REJECTED)
    Generation.objects.update(finish_reason="length")
    pair = make_pair(pretrain, state=Pair.State.PENDING)
    Generation.objects.filter(pk=pair.a_id).update(finish_reason="length")
    settle_pairs()
    pair.refresh_from_db()
    assert pair.state == Pair.State.READY


def test_a_settled_pair_is_not_settled_again(make_checkpoint: Any) -> None:
    pair = make_pair(make_checkpoint("sft"), texts=("same", "same"))
    assert settle_pairs() == 0
    pair.refresh_from_db()
    assert pair.state == Pair.State.READY


# -- serving -------------------------------------------------------------------------------------


def test_it_serves_nothing_when_nothing_is_ready(make_checkpoint: Any, visitor: Visitor) -> None:
    assert next_pair(visitor) is None
    make_pair(make_checkpoint("sft"), state=Pair.State.PENDING)
    assert next_pair(visitor) is None
    assert next_pair(None) is None


def test_it_serves_the_same_pair_until_it_is_voted_on(make_checkpoint: Any, visitor: Visitor) -> None:
    sft = make_checkpoint("sft")
    for _ in range(5):
        make_pair(sft)
    served = []
    while pair := next_pair(visitor):
        assert next_pair(visitor) == pair
        served.append(pair.pk)
        make_vote(pair, visitor, choice="skip" if len(served) == 2 else "a")
    assert len(served) == len(set(served)) == 5


def test_different_people_are_spread_over_the_pairs(make_checkpoint: Any) -> None:
    sft = make_checkpoint("sft")
    for _ in range(30):
        make_pair(sft)
    served = {pair.pk for _ in range(30) if (pair := next_pair(Visitor.objects.create()))}
    assert len(served) == 30


def test_a_pair_with_its_vote_is_not_served_to_others_but_a_skipped_one_is(
    make_checkpoint: Any, visitor: Visitor
) -> None:
    sft = make_checkpoint("sft")
    pair = make_pair(sft)
    voting.record_vote(pair=pair, visitor=Visitor.objects.create(), choice="skip")
    assert next_pair(visitor) == pair
    voting.record_vote(pair=pair, visitor=Visitor.objects.create(), choice="tie")
    assert next_pair(visitor) is None


@pytest.mark.parametrize("wanted_votes", [1, 3])
def test_a_pair_everyone_skips_is_asked_of_nobody_else(
    make_checkpoint: Any, visitor: Visitor, wanted_votes: int
) -> None:
    pair = make_pair(make_checkpoint("sft"), wanted_votes=wanted_votes)
    for _ in range(3):
        assert next_pair(visitor) == pair
        last = Visitor.objects.create()
        voting.record_vote(pair=pair, visitor=last, choice="skip")
    assert next_pair(visitor) is None
    voting.undo_vote(pair=pair, visitor=last)
    assert next_pair(visitor) == pair


def test_a_pair_somebody_decided_on_stays_whoever_skips_it(make_checkpoint: Any, visitor: Visitor) -> None:
    pair = make_pair(make_checkpoint("sft"), wanted_votes=3)
    for choice in ("skip", "a", "skip", "skip"):
        voting.record_vote(pair=pair, visitor=Visitor.objects.create(), choice=choice)
    assert next_pair(visitor) == pair


def test_a_pair_that_wants_three_voters_comes_first_until_it_has_them(
    make_checkpoint: Any, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voting, "SERVED_WINDOW", 1)
    sft = make_checkpoint("sft")
    plain, wanting = make_pair(sft), make_pair(sft, wanted_votes=3)
    for _ in range(3):
        assert next_pair(visitor) == wanting
        voting.record_vote(pair=wanting, visitor=Visitor.objects.create(), choice="a")
    assert next_pair(visitor) == plain


@pytest.mark.parametrize(
    "fields",
    [
        {"from_chat": True},
        {"state": Pair.State.REJECTED},
        {"wanted_votes": 0},
    ],
)
def test_it_does_not_serve_pairs_not_meant_for_it(
    make_checkpoint: Any, visitor: Visitor, fields: dict[str, Any]
) -> None:
    make_pair(make_checkpoint("sft"), **fields)
    assert next_pair(visitor) is None


def test_it_does_not_serve_what_is_reserved_for_somebody_else(make_checkpoint: Any, visitor: Visitor) -> None:
    pair = make_pair(make_checkpoint("sft"), owner=Visitor.objects.create())
    assert next_pair(visitor) is None
    assert next_pair(None) is None
    assert next_pair(pair.owner) == pair


def test_it_does_not_serve_pairs_of_a_prompt_staff_switched_off(make_checkpoint: Any, visitor: Visitor) -> None:
    prompt = make_prompts(1)[0]
    pair = make_pair(make_checkpoint("sft"), prompt=prompt)
    assert next_pair(visitor) == pair
    Prompt.objects.update(active=False)
    assert next_pair(visitor) is None


def test_it_serves_only_what_the_next_reward_model_or_the_leaderboard_can_use(
    make_checkpoint: Any, visitor: Visitor
) -> None:
    sft = make_checkpoint("sft")
    make_pair(sft)
    ppo = make_checkpoint("ppo", parent=sft)
    assert next_pair(visitor) is None  # the sft pair teaches nothing about the ppo checkpoint
    versus = make_pair(sft, ppo)
    assert next_pair(visitor) == versus
    sft.archived = True
    sft.save()
    assert next_pair(visitor) is None

"""Voting: one vote per person and pair, undone until the reveal, refused where it is not theirs."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests.threads import database_thread
from tests.webapp.arena_factory import make_pair, make_vote
from webapp.accounts import limits
from webapp.accounts.models import Visitor
from webapp.arena import exchange, voting
from webapp.arena.models import Pair, Vote
from webapp.arena.voting import next_pair, record_vote, reveal_vote, undo_vote

pytestmark = pytest.mark.django_db

HTMX = {"HX-Request": "true"}
VOTE = reverse("arena:vote")


@pytest.fixture
def pair(make_checkpoint: Any) -> Pair:
    return make_pair(make_checkpoint("sft"), texts=("The first answer.", "The second answer."))


def cast(pair: Pair) -> str:
    return reverse("arena:cast", args=[pair.pk])


# -- record_vote ---------------------------------------------------------------------------------


def test_it_records_a_vote_that_is_not_revealed_yet(pair: Pair, visitor: Visitor) -> None:
    vote = record_vote(pair=pair, visitor=visitor, choice="b", reasons=["short", "clear", "short"])
    vote.refresh_from_db()
    assert (vote.choice, vote.reasons, vote.source, vote.revealed_at) == ("b", ["clear", "short"], "human", None)


def test_a_replay_returns_the_first_vote(pair: Pair, visitor: Visitor) -> None:
    first = record_vote(pair=pair, visitor=visitor, choice="b")
    assert record_vote(pair=pair, visitor=visitor, choice="a") == first
    assert Vote.objects.get().choice == "b"


def test_a_replay_after_the_reveal_changes_nothing(pair: Pair, visitor: Visitor) -> None:
    record_vote(pair=pair, visitor=visitor, choice="b")
    reveal_vote(pair=pair, visitor=visitor)
    assert record_vote(pair=pair, visitor=visitor, choice="a").choice == "b"


@pytest.mark.parametrize("choice", ["", "c", "A", "win"])
def test_it_refuses_an_unknown_choice(pair: Pair, visitor: Visitor, choice: str) -> None:
    with pytest.raises(ValueError, match="Unknown choice"):
        record_vote(pair=pair, visitor=visitor, choice=choice)


def test_it_refuses_an_unknown_reason(pair: Pair, visitor: Visitor) -> None:
    with pytest.raises(ValueError, match="Unknown reason"):
        record_vote(pair=pair, visitor=visitor, choice="a", reasons=["<script>"])


@pytest.mark.parametrize(
    "fields",
    [
        {"from_chat": True},
        {"state": Pair.State.PENDING},
        {"state": Pair.State.REJECTED},
        {"wanted_votes": 0},
    ],
)
def test_it_refuses_a_pair_that_is_not_theirs_to_vote_on(pair: Pair, visitor: Visitor, fields: dict[str, Any]) -> None:
    Pair.objects.update(**fields)
    pair.refresh_from_db()
    with pytest.raises(PermissionDenied):
        record_vote(pair=pair, visitor=visitor, choice="a")
    assert not Vote.objects.exists()


def test_it_refuses_a_pair_reserved_for_somebody_else(pair: Pair, visitor: Visitor) -> None:
    pair.owner = Visitor.objects.create()
    pair.save()
    with pytest.raises(PermissionDenied):
        record_vote(pair=pair, visitor=visitor, choice="a")


def test_it_refuses_more_votes_in_a_day_than_anyone_reads(
    pair: Pair, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voting, "DAILY_VOTES", 2)
    for age in (1, 2, 30):
        other = make_pair(pair.a.checkpoint)
        make_vote(other, visitor, created_at=timezone.now() - timedelta(hours=age))
    with pytest.raises(PermissionDenied, match="2 votes in a day"):
        record_vote(pair=pair, visitor=visitor, choice="a")
    Vote.objects.filter(created_at__lt=timezone.now() - timedelta(minutes=90)).delete()
    assert record_vote(pair=pair, visitor=visitor, choice="a")


@pytest.mark.django_db(transaction=True)
def test_twenty_submits_at_once_leave_one_vote(pair: Pair, visitor: Visitor) -> None:
    together = threading.Barrier(20)
    returned: list[Vote] = []
    failed: list[BaseException] = []

    def submit(choice: str) -> None:
        try:
            together.wait()
            returned.append(record_vote(pair=pair, visitor=visitor, choice=choice))
        except BaseException as error:
            failed.append(error)

    threads = [database_thread(submit, "ab"[n % 2]) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    only = Vote.objects.get()
    assert [(vote.pk, vote.choice) for vote in returned] == [(only.pk, only.choice)] * 20


# -- undo and reveal -----------------------------------------------------------------------------


def test_a_vote_is_undone_and_its_pair_served_again(pair: Pair, visitor: Visitor) -> None:
    record_vote(pair=pair, visitor=visitor, choice="a")
    assert next_pair(visitor) is None
    assert next_pair(None) is None
    assert undo_vote(pair=pair, visitor=visitor)
    assert next_pair(visitor) == next_pair(None) == pair
    assert record_vote(pair=pair, visitor=visitor, choice="b").choice == "b"


def test_a_revealed_vote_cannot_be_undone(pair: Pair, visitor: Visitor) -> None:
    record_vote(pair=pair, visitor=visitor, choice="a")
    assert reveal_vote(pair=pair, visitor=visitor)
    assert not undo_vote(pair=pair, visitor=visitor)
    assert Vote.objects.count() == 1


def test_the_reveal_says_when_one_model_wrote_both(pair: Pair, visitor: Visitor, visitor_client: Client) -> None:
    record_vote(pair=pair, visitor=visitor, choice="a")
    page = visitor_client.post(reverse("arena:reveal", args=[pair.pk]), headers=HTMX).content.decode()
    assert "one model, asked twice:" in page
    assert page.count("Instruction fine-tuning") == 1


def test_the_next_vote_ends_the_time_to_undo_the_last(pair: Pair, visitor: Visitor) -> None:
    record_vote(pair=pair, visitor=visitor, choice="a")
    record_vote(pair=make_pair(pair.a.checkpoint), visitor=visitor, choice="tie")
    assert not undo_vote(pair=pair, visitor=visitor)
    assert Vote.objects.filter(revealed_at=None).count() == 1


def test_nobody_undoes_or_reveals_somebody_elses_vote(pair: Pair, visitor: Visitor) -> None:
    record_vote(pair=pair, visitor=visitor, choice="a")
    stranger = Visitor.objects.create()
    assert not undo_vote(pair=pair, visitor=stranger)
    assert reveal_vote(pair=pair, visitor=stranger) is None
    assert Vote.objects.get().revealed_at is None


def test_revealing_twice_keeps_the_first_time(pair: Pair, visitor: Visitor) -> None:
    record_vote(pair=pair, visitor=visitor, choice="a")
    first = reveal_vote(pair=pair, visitor=visitor)
    again = reveal_vote(pair=pair, visitor=visitor)
    assert first is not None
    assert again is not None
    assert first.revealed_at == again.revealed_at


# -- repeats -------------------------------------------------------------------------------------


def _vote_on_new_pairs(visitor: Visitor, checkpoint: Any, count: int) -> None:
    for _ in range(count):
        record_vote(pair=make_pair(checkpoint), visitor=visitor, choice="a")


def test_every_tenth_vote_brings_an_earlier_pair_back_with_its_sides_swapped(
    make_checkpoint: Any, visitor: Visitor
) -> None:
    sft = make_checkpoint("sft")
    _vote_on_new_pairs(visitor, sft, 9)
    assert not Pair.objects.filter(repeat_of__isnull=False).exists()
    _vote_on_new_pairs(visitor, sft, 1)
    repeat = next_pair(visitor)
    assert repeat is not None
    original = repeat.repeat_of
    assert original is not None
    assert (repeat.a_id, repeat.b_id) == (original.b_id, original.a_id)
    newest = visitor.votes.order_by("-created_at").values_list("pair", flat=True)[: voting.REPEAT_DISTANCE]
    assert original.pk not in newest
    stranger = Visitor.objects.create()
    assert next_pair(stranger) is None
    with pytest.raises(PermissionDenied):
        record_vote(pair=repeat, visitor=stranger, choice="a")


def test_a_repeats_vote_neither_trains_nor_counts_nor_calls_for_another(make_checkpoint: Any, visitor: Visitor) -> None:
    _vote_on_new_pairs(visitor, make_checkpoint("sft"), 10)
    repeat = next_pair(visitor)
    assert repeat is not None
    record_vote(pair=repeat, visitor=visitor, choice="b")
    assert Vote.objects.for_training().count() == 10
    assert Pair.objects.filter(repeat_of__isnull=False).count() == 1


# -- what votes are for --------------------------------------------------------------------------


def test_training_learns_from_decided_votes_on_one_checkpoints_answers(make_checkpoint: Any, visitor: Visitor) -> None:
    sft, ppo = make_checkpoint("sft"), make_checkpoint("ppo")
    counted = [make_vote(make_pair(sft), choice=choice) for choice in ("a", "b", "tie", "both_bad")]
    make_vote(make_pair(sft), choice="skip")
    make_vote(make_pair(sft, ppo))
    make_vote(make_pair(sft, state=Pair.State.REJECTED, from_chat=True, owner=visitor), visitor)
    chat = make_vote(make_pair(sft, from_chat=True, owner=visitor), visitor)
    assert set(Vote.objects.for_training()) == {*counted, chat}


def test_progress_starts_anew_with_every_reward_model(make_checkpoint: Any, tmp_path: Path) -> None:
    sft = make_checkpoint("sft")
    first, second = (make_vote(make_pair(sft)) for _ in range(2))
    fresh = Vote.objects.for_training().since_last_reward_model
    assert fresh().count() == 2
    exchange.write_votes(tmp_path / "votes.jsonl", Vote.objects.filter(pk=first.pk))
    third = make_vote(make_pair(sft))
    reward = make_checkpoint("reward")
    learnt = exchange.learnt_votes(tmp_path / "votes.jsonl")
    assert learnt == [first.pk]
    exchange.mark_learnt(learnt, by=reward)
    assert set(fresh()) == {second, third}
    make_checkpoint("reward")  # one from elsewhere has learnt from none of them
    assert fresh().count() == 3


# -- the page ------------------------------------------------------------------------------------


def test_the_page_shows_the_question_both_answers_and_the_keys(pair: Pair, client: Client) -> None:
    page = client.get(VOTE).content.decode()
    assert "What is a harbour?" in page
    assert page.index("The first answer.") < page.index("The second answer.")
    for key in "1234S":
        assert f'<kbd class="kbd">{key}</kbd>' in page
    assert "0 votes;" in page
    assert "40 train the next reward model" in page
    assert not Visitor.objects.exists()  # looking writes nothing


def test_the_page_is_kind_when_no_pair_is_ready(make_checkpoint: Any, client: Client) -> None:
    assert "nothing to compare yet" in client.get(VOTE).content.decode()
    make_checkpoint("sft")
    assert "being written" in client.get(VOTE).content.decode()


def test_the_page_says_so_when_the_model_hardly_ever_gives_two_answers_to_compare(
    make_checkpoint: Any, client: Client
) -> None:
    sft = make_checkpoint("sft")
    for _ in range(40):
        make_pair(sft, state=Pair.State.REJECTED)
    page = client.get(VOTE).content.decode()
    assert "hardly ever gives two different whole answers" in page
    assert "being written" not in page


def test_a_waiting_page_is_left_alone_until_a_pair_is_ready(make_checkpoint: Any, client: Client) -> None:
    sft = make_checkpoint("sft")
    assert client.get(VOTE, headers=HTMX).status_code == 204
    make_pair(sft)
    assert "A pair is ready." in client.get(VOTE, headers=HTMX).content.decode()


def test_a_reload_does_not_start_the_time_to_undo_anew(pair: Pair, visitor: Visitor, visitor_client: Client) -> None:
    vote = record_vote(pair=pair, visitor=visitor, choice="a")
    Vote.objects.filter(pk=vote.pk).update(created_at=timezone.now() - timedelta(seconds=6, milliseconds=500))
    assert 'hx-trigger="load delay:4s"' in visitor_client.get(VOTE).content.decode()
    Vote.objects.filter(pk=vote.pk).update(created_at=timezone.now() - timedelta(minutes=1))
    assert 'hx-trigger="load delay:0s"' in visitor_client.get(VOTE).content.decode()


def test_a_newcomers_vote_makes_their_visitor_and_redirects_without_scripts(pair: Pair, client: Client) -> None:
    response = client.post(cast(pair), {"choice": "tie", "reasons": ["clear"]})
    assert (response.status_code, response["Location"]) == (302, VOTE)
    vote = Vote.objects.get()
    assert (vote.choice, vote.reasons, vote.visitor) == ("tie", ["clear"], Visitor.objects.get())


def test_with_htmx_the_answer_is_the_next_pair_and_no_frame(pair: Pair, visitor_client: Client) -> None:
    make_pair(pair.a.checkpoint)
    response = visitor_client.post(cast(pair), {"choice": "a"}, headers=HTMX)
    text = response.content.decode()
    assert response.status_code == 200
    assert "<html" not in text
    assert text.lstrip().startswith('<div id="arena"')
    assert "Undo" in text
    assert "Recorded: A is better." in text


def test_a_double_submit_is_one_vote_and_no_error(pair: Pair, visitor_client: Client) -> None:
    for choice in ("a", "b"):
        assert visitor_client.post(cast(pair), {"choice": choice}).status_code == 302
    assert Vote.objects.get().choice == "a"


@pytest.mark.parametrize("data", [{}, {"choice": "c"}, {"choice": "a", "reasons": ["nonsense"]}])
def test_a_malformed_vote_is_refused_with_a_sentence(pair: Pair, visitor_client: Client, data: dict[str, Any]) -> None:
    response = visitor_client.post(cast(pair), data)
    assert response.status_code == 400
    assert "Please choose" in response.content.decode()
    assert not Vote.objects.exists()


def test_a_missing_and_a_foreign_pair_are_the_same_404(pair: Pair, visitor_client: Client) -> None:
    foreign = make_pair(pair.a.checkpoint, from_chat=True, owner=Visitor.objects.create())
    reserved = make_pair(pair.a.checkpoint, owner=Visitor.objects.create())
    missing = reverse("arena:cast", args=[uuid.uuid4()])
    answers = [
        visitor_client.post(address, {"choice": "a"}).content for address in (cast(foreign), cast(reserved), missing)
    ]
    assert [visitor_client.post(cast(one), {"choice": "a"}).status_code for one in (foreign, reserved)] == [404, 404]
    assert len({content.replace(b"value", b"") for content in map(_without_tokens, answers)}) == 1
    assert not Vote.objects.exists()


def _without_tokens(content: bytes) -> bytes:
    return b"\n".join(
        line for line in content.splitlines() if b"csrf" not in line.lower() and b'name="next"' not in line
    )


def test_voting_needs_post_and_a_token(pair: Pair, visitor: Visitor, visitor_client: Client) -> None:
    assert visitor_client.post(VOTE).status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = visitor_client.cookies
    assert strict.post(cast(pair), {"choice": "a"}).status_code == 403
    for name in ("undo", "reveal"):
        assert visitor_client.get(reverse(f"arena:{name}", args=[pair.pk])).status_code == 405


def test_a_shower_of_votes_is_held_back(pair: Pair, visitor_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "allow", lambda kind, identity: False)
    response = visitor_client.post(cast(pair), {"choice": "a"})
    assert response.status_code == 429
    assert "quicker than anyone reads" in response.content.decode()
    assert not Vote.objects.exists()


def test_dropping_the_cookie_does_not_get_around_the_limit(make_checkpoint: Any) -> None:
    pair = make_pair(make_checkpoint("sft"), wanted_votes=1000)
    codes = [Client().post(cast(pair), {"choice": "a"}).status_code for _ in range(61)]
    assert codes == [302] * 60 + [429]


def test_a_refused_newcomer_leaves_no_row_behind(pair: Pair, client: Client) -> None:
    client.post(cast(pair), {"choice": "c"})
    client.post(reverse("arena:cast", args=[uuid.uuid4()]), {"choice": "a"})
    for name in ("undo", "reveal"):
        assert client.post(reverse(f"arena:{name}", args=[pair.pk])).status_code == 404
    assert not Visitor.objects.exists()


def test_undo_brings_the_pair_back(pair: Pair, visitor: Visitor, visitor_client: Client) -> None:
    record_vote(pair=pair, visitor=visitor, choice="a")
    address = reverse("arena:undo", args=[pair.pk])
    response = visitor_client.post(address)
    assert response["Location"] == cast(pair)
    assert "The first answer." in visitor_client.get(cast(pair)).content.decode()
    record_vote(pair=pair, visitor=visitor, choice="a")
    swapped_in = visitor_client.post(address, headers=HTMX).content.decode()
    assert "The first answer." in swapped_in
    assert "Vote taken back." in swapped_in
    assert not Vote.objects.exists()


@pytest.mark.parametrize("headers", [{}, HTMX])
def test_a_reveal_that_an_undo_overtakes_finds_no_vote(
    pair: Pair, visitor: Visitor, visitor_client: Client, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record_vote(pair=pair, visitor=visitor, choice="a")

    def undone_meanwhile(**arguments: Any) -> Vote | None:
        assert undo_vote(**arguments)
        return reveal_vote(**arguments)

    monkeypatch.setattr(voting, "reveal_vote", undone_meanwhile)
    assert visitor_client.post(reverse("arena:reveal", args=[pair.pk]), headers=headers).status_code == 404


def test_undo_after_the_reveal_is_too_late(pair: Pair, visitor: Visitor, visitor_client: Client) -> None:
    record_vote(pair=pair, visitor=visitor, choice="a")
    reveal_vote(pair=pair, visitor=visitor)
    address = reverse("arena:undo", args=[pair.pk])
    assert "Too late to undo" in visitor_client.post(address, follow=True).content.decode()
    assert "Too late to undo" in visitor_client.post(address, headers=HTMX).content.decode()
    assert Vote.objects.count() == 1


@pytest.mark.parametrize("name", ["undo", "reveal"])
def test_nobody_touches_somebody_elses_vote(pair: Pair, visitor_client: Client, name: str) -> None:
    make_vote(pair)
    assert visitor_client.post(reverse(f"arena:{name}", args=[pair.pk])).status_code == 404
    assert Vote.objects.get().revealed_at is None


def test_the_reveal_names_the_stages(make_checkpoint: Any, visitor: Visitor, visitor_client: Client) -> None:
    pair = make_pair(make_checkpoint("sft"), make_checkpoint("ppo"))
    record_vote(pair=pair, visitor=visitor, choice="a")
    before = visitor_client.get(VOTE, headers=HTMX).content.decode()
    revealed = visitor_client.post(reverse("arena:reveal", args=[pair.pk]), headers=HTMX).content.decode()
    assert "stage-ppo" not in before
    assert revealed.index("stage-sft") < revealed.index("stage-ppo")
    assert "Undo" not in revealed
    assert visitor_client.post(reverse("arena:reveal", args=[pair.pk]))["Location"] == VOTE


def test_a_pair_already_voted_on_leads_on(pair: Pair, visitor: Visitor, visitor_client: Client) -> None:
    record_vote(pair=pair, visitor=visitor, choice="a")
    assert visitor_client.get(cast(pair))["Location"] == VOTE


def test_model_output_stays_text(make_checkpoint: Any, client: Client) -> None:
    hostile = '<script>alert(1)</script><img src=x onerror=alert(1)><b hx-get="/x" hx-trigger="load">x</b>'
    make_pair(make_checkpoint("sft"), texts=(hostile, f"{hostile} again"))
    page = client.get(VOTE).content.decode()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "<b hx-get" not in page


def test_a_voter_is_told_privately_how_consistent_they_are(
    make_checkpoint: Any, visitor: Visitor, visitor_client: Client, client: Client
) -> None:
    sft = make_checkpoint("sft")
    for second in ("b", "b", "a"):
        original = make_pair(sft)
        make_vote(original, visitor, choice="a")
        repeat = Pair.objects.create(
            kind="self", state="ready", a=original.b, b=original.a, owner=visitor, repeat_of=original
        )
        make_vote(repeat, visitor, choice=second)
    assert "Of 3 pairs shown to you twice you judged 2 alike" in visitor_client.get(VOTE).content.decode()
    assert "shown to you twice" not in client.get(VOTE).content.decode()


def test_the_answer_to_a_vote_costs_few_queries(
    pair: Pair, visitor_client: Client, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    for _ in range(30):
        make_pair(pair.a.checkpoint)
    with django_assert_max_num_queries(30):
        visitor_client.post(cast(pair), {"choice": "a"}, headers=HTMX)

"""Blindness: nothing that reaches a browser before the vote says which checkpoint wrote what."""

from __future__ import annotations

import random
import re
import uuid
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from tests.webapp.arena_factory import make_answer, make_pair
from trainer.config import STAGE_TITLES, STAGES
from webapp.arena.models import Pair
from webapp.arena.voting import record_vote, reveal_vote
from webapp.chat.models import Conversation, Message
from webapp.checkpoints.models import Checkpoint

pytestmark = pytest.mark.django_db

HTMX = {"HX-Request": "true"}
CHECKPOINT_STAGES = ("pretrain", "sft", "ppo", "grpo")


def test_nothing_of_two_hundred_pairs_names_a_model(make_checkpoint: Any, client: Client) -> None:
    rng = random.Random(3)
    checkpoints = [make_checkpoint(stage, name=f"Codename-{stage}") for stage in CHECKPOINT_STAGES]
    marks = {*STAGES, *STAGE_TITLES.values()}
    for checkpoint in checkpoints:
        marks |= {checkpoint.name, checkpoint.directory, checkpoint.weights_sha256, checkpoint.weights_sha256[:8]}
    for _ in range(200):
        pair = make_pair(*rng.sample(checkpoints, 2))
        response = client.get(reverse("arena:cast", args=[pair.pk]), headers=HTMX)
        assert response.status_code == 200
        sent = response.content.decode() + repr(sorted(response.headers.items()))
        sent = sent.replace("train the next reward model", "")  # what the votes are for
        assert not [mark for mark in marks if re.search(rf"\b{re.escape(mark)}\b", sent, re.IGNORECASE)]
        assert str(pair.a_id) not in sent
        assert str(pair.b_id) not in sent


def _neutral(response: Any, pair: Pair) -> str:
    """What was sent, without what is random in every response."""
    text = response.content.decode().replace(str(pair.pk), "PAIR")
    text = re.sub(r'(csrfmiddlewaretoken" value="|X-CSRFToken": ")[^"]+', r"\1TOKEN", text)
    of_the_moment = ("Content-Length", "Expires")  # the second it was sent in
    headers = {name: value for name, value in response.headers.items() if name not in of_the_moment}
    return text + repr(sorted(headers.items()))


def test_the_whole_page_is_the_same_whoever_wrote_which_answer(make_checkpoint: Any, client: Client) -> None:
    """The page with its header and stage rail: exchanging the authors exchanges nothing that is sent."""
    sft, ppo = make_checkpoint("sft"), make_checkpoint("ppo")
    texts = ("One answer.", "Another answer.")
    one, other = make_pair(sft, ppo, texts=texts), make_pair(ppo, sft, texts=texts)
    itself = make_pair(ppo, texts=texts)
    pages = {_neutral(client.get(reverse("arena:cast", args=[pair.pk])), pair) for pair in (one, other, itself)}
    assert len(pages) == 1


def test_a_pairs_id_is_random_and_nothing_else(make_checkpoint: Any) -> None:
    assert {make_pair(make_checkpoint("sft")).pk.version for _ in range(5)} == {4}


def test_the_models_are_named_after_the_reveal(make_checkpoint: Any, visitor: Any, visitor_client: Client) -> None:
    """Not vacuous: the same marks do appear once the vote is revealed."""
    pair = make_pair(make_checkpoint("sft"), make_checkpoint("ppo"))
    record_vote(pair=pair, visitor=visitor, choice="a")
    make_pair(pair.b.checkpoint)  # the next one to vote on
    held = visitor_client.get(reverse("arena:vote"), headers=HTMX).content.decode()
    reveal_vote(pair=pair, visitor=visitor)
    revealed = visitor_client.get(reverse("arena:vote"), headers=HTMX).content.decode()
    for mark in ("stage-sft", "stage-ppo", STAGE_TITLES["ppo"]):
        assert mark not in held
        assert mark in revealed


def test_a_vote_in_chat_is_the_same_404_for_missing_and_foreign_questions(
    make_checkpoint: Any, visitor_client: Client
) -> None:
    from webapp.accounts.models import Visitor

    sft: Checkpoint = make_checkpoint("sft")
    foreign = Conversation.objects.create(visitor=Visitor.objects.create(), checkpoint=sft)
    question = Message.objects.create(conversation=foreign, role="user", text="Which?")
    for side in "AB":
        Message.objects.create(
            conversation=foreign, parent=question, role="assistant", side=side, generation=make_answer(sft)
        )
    for message_id in (question.pk, uuid.uuid4()):
        response = visitor_client.post(reverse("arena:vote_in_chat", args=[message_id]), {"choice": "a"})
        assert response.status_code == 404
    assert not Pair.objects.exists()

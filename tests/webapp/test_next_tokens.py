"""What the pre-trained model thinks comes next: asked on its page, found by a generate worker."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from trainer.model.checkpoint import save_checkpoint
from trainer.model.decoder import LanguageModel
from trainer.model.tokenizer import Tokenizer
from trainer.presets import shape
from webapp.answers.engines import Engines
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.services import register_checkpoint
from webapp.stages import foreseeing
from webapp.stages.models import NextTokens
from webapp.stages.next_tokens import TEMPERATURES, Found, ask_next_tokens, shares

pytestmark = pytest.mark.django_db

MakeCheckpoint = Callable[..., Checkpoint]
PAGE = reverse("stages:stage", args=["pretrain"])
ASK = reverse("stages:ask_next")


def found_of(*logits: float, shown: int) -> Found:
    """What a worker would find, of a vocabulary of so many tokens."""
    largest = max(logits)
    below = sorted((logit - largest for logit in logits), reverse=True)
    return Found(
        tokens=[(f" t{place}", "text", value) for place, value in enumerate(below[:shown])],
        log_sums=[math.log(sum(math.exp(value / t) for value in below)) for t in TEMPERATURES],
        vocabulary=len(logits),
    )


# -- the page --------------------------------------------------------------------------------------


def test_shares_are_of_the_whole_vocabulary_at_every_temperature() -> None:
    found = found_of(math.log(4), math.log(2), math.log(1), math.log(1), shown=2)

    assert shares(found, 1.0) == pytest.approx([4 / 8, 2 / 8])
    assert shares(found, 0.5) == pytest.approx([16 / 22, 4 / 22])  # 4² and 2² of 16 + 4 + 1 + 1
    assert shares(found, 2.0) == pytest.approx([2 / (4 + 2**0.5), 2**0.5 / (4 + 2**0.5)])


def test_asking_makes_one_row_and_tells_the_workers(
    client: Client, make_checkpoint: MakeCheckpoint, enqueued: Any, django_capture_on_commit_callbacks: Any
) -> None:
    checkpoint = make_checkpoint("pretrain")

    with django_capture_on_commit_callbacks(execute=True):
        response = client.post(ASK, {"text": "A fox ", "temperature": "0.7"})
        client.post(ASK, {"text": "A fox "})

    row = NextTokens.objects.get()
    assert (row.checkpoint, row.text) == (checkpoint, "A fox ")
    assert response.headers["Location"] == f"{PAGE}?text=A+fox+&temperature=0.7#next"
    [task] = enqueued.of("find_next_tokens")
    assert (task.args, task.options["queue"]) == ((row.pk,), "chat")
    page = client.get(response.headers["Location"]).content.decode()
    assert "The model is reading …" in page
    assert 'value="A fox "' in page


def test_what_was_found_is_shown_without_scripts(client: Client, make_checkpoint: MakeCheckpoint) -> None:
    found = found_of(math.log(4), math.log(2), math.log(1), math.log(1), shown=2)
    NextTokens.objects.create(checkpoint=make_checkpoint("pretrain"), text="<b>A fox", found=found)

    page = client.get(PAGE, {"text": "<b>A fox"}).content.decode().replace("\u00a0", " ")
    part = client.get(PAGE, {"text": "<b>A fox", "temperature": "0.5"}, headers={"HX-Request": "true"})

    assert "·t0" in page
    assert "50 %" in page
    assert "The other 2 tokens have 25 % between them" in page
    assert "<b>A fox" not in page
    assert "73 %" in part.content.decode().replace("\u00a0", " ")
    assert b"<html" not in part.content


def test_looking_changes_nothing(client: Client, make_checkpoint: MakeCheckpoint) -> None:
    assert "What comes next?" not in client.get(PAGE).content.decode()
    make_checkpoint("pretrain")

    assert "What comes next?" in client.get(PAGE, {"text": "Never asked"}).content.decode()
    assert not NextTokens.objects.exists()


@pytest.mark.parametrize(
    "data", [{"text": ""}, {"text": "x" * 201}, {"text": "a\0b"}, {"text": "a", "temperature": "9"}]
)
def test_it_refuses_what_makes_no_sense(client: Client, make_checkpoint: MakeCheckpoint, data: dict[str, str]) -> None:
    make_checkpoint("pretrain")

    assert client.post(ASK, data).headers["Location"] == PAGE
    assert client.post(ASK, data, headers={"HX-Request": "true"}).status_code == 204
    assert client.get(PAGE, data).status_code == 200
    assert not NextTokens.objects.exists()


def test_without_a_pre_trained_model_nobody_is_asked(client: Client) -> None:
    assert client.post(ASK, {"text": "A fox"}).headers["Location"] == PAGE


def test_it_refuses_too_many_at_once(
    client: Client, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint("pretrain")
    monkeypatch.setattr("webapp.stages.views.allow", lambda kind, request: False)

    assert "Wait a minute" in client.post(ASK, {"text": "A fox"}, follow=True).content.decode()
    assert not NextTokens.objects.exists()


def test_what_was_lost_is_asked_for_again_and_what_is_old_forgotten(
    make_checkpoint: MakeCheckpoint, client: Client, enqueued: Any, django_capture_on_commit_callbacks: Any
) -> None:
    checkpoint = make_checkpoint("pretrain")
    for text, ago in (("Lost", timedelta(minutes=1)), ("Old", timedelta(days=2)), ("Under way", timedelta(seconds=1))):
        NextTokens.objects.create(checkpoint=checkpoint, text=text, asked_at=timezone.now() - ago)
    assert "Ask again in a moment" in client.get(PAGE, {"text": "Lost"}).content.decode()

    with django_capture_on_commit_callbacks(execute=True):
        for text in ("Lost", "Under way"):
            ask_next_tokens(checkpoint=checkpoint, text=text)

    assert len(enqueued.of("find_next_tokens")) == 1
    assert set(NextTokens.objects.values_list("text", flat=True)) == {"Lost", "Under way"}


# -- the worker ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["What does a fox eat? A fox eats mice, berries and bread. 0123456789"] * 8, 300)


@pytest.fixture
def checkpoint(tmp_path: Path, tokenizer: Tokenizer) -> Checkpoint:
    """Random weights, registered as if they were pre-trained."""
    model = LanguageModel(shape(1, vocab_size=tokenizer.vocab_size, context=64, kv_heads=1))
    model.init_weights(torch.Generator().manual_seed(1))
    path = save_checkpoint(tmp_path / "x", model, tokenizer, stage="pretrain", info={"preset": "smoke", "metrics": {}})
    return register_checkpoint(directory=path)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engines]:
    cache = Engines()
    monkeypatch.setattr(foreseeing, "engines", cache)
    yield cache
    cache.close()


def test_a_worker_finds_the_likeliest_tokens(engines: Engines, checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    row = NextTokens.objects.create(checkpoint=checkpoint, text="It is")

    foreseeing.find_next(row.pk)

    row.refresh_from_db()
    assert row.problem == ""
    found: Found = row.found
    with engines.borrow(checkpoint) as engine:
        ids = [*tokenizer.document_start_ids, *tokenizer.encode("It is")]
        logits = engine.service.call(lambda running: running.logits(running.read(ids)[-1:])).squeeze(0)
    for temperature in (0.3, 1.0, 2.0):
        wanted = (logits / temperature).softmax(0).topk(10).values.tolist()
        assert shares(found, temperature) == pytest.approx(wanted, rel=2e-3)
    assert found["tokens"][0][0] == tokenizer.piece(int(logits.argmax())).text
    assert found["vocabulary"] == len(logits)


def test_a_text_that_is_too_long_is_refused_with_a_reason(engines: Engines, checkpoint: Checkpoint) -> None:
    row = NextTokens.objects.create(checkpoint=checkpoint, text="x 1 " * 50)

    foreseeing.find_next(row.pk)

    row.refresh_from_db()
    assert row.found is None
    assert row.problem

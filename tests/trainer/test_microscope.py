"""The token microscope against distributions written down by hand, and against plain forward passes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.evaluation import microscope
from trainer.evaluation.microscope import TokenView, look
from trainer.model.decoder import LanguageModel
from trainer.model.engine import Engine, EngineService, Sampling
from trainer.model.tokenizer import Piece, Tokenizer

IDS = [5, 9, 17, 3, 60, 9, 41, 22, 8, 30, 12, 7]


class Written:
    """A model of four tokens whose distribution after each place stands here."""

    AFTER = ((0.5, 0.25, 0.13, 0.12), (0.1, 0.2, 0.3, 0.4), (0.7, 0.1, 0.15, 0.05))

    def read(self, ids: Sequence[int]) -> Tensor:
        return torch.arange(len(ids)).unsqueeze(1)

    def logits(self, hidden: Tensor) -> Tensor:
        return torch.tensor(self.AFTER)[hidden.squeeze(1)].log() + 3.0  # what is the same for all tokens says nothing


def rounded(views: Sequence[TokenView]) -> list[tuple[int, float, int, list[tuple[int, float]], list[float]]]:
    return [
        (
            view.id,
            round(view.probability, 4),
            view.rank,
            [(id, round(chance, 4)) for id, chance in view.others],
            [round(chance, 4) for chance in view.asked],
        )
        for view in views
    ]


def test_it_says_what_stands_written() -> None:
    views = look(Written(), [2, 1, 3], 1, top=2, asked=[[3, 0], []])
    assert rounded(views) == [
        (1, 0.25, 2, [(0, 0.5), (2, 0.13)], [0.12, 0.5]),
        (3, 0.4, 1, [(2, 0.3), (1, 0.2)], []),
    ]


def test_there_are_no_more_others_than_tokens() -> None:
    [view] = look(Written(), [2, 1, 0, 1], 3, top=50)
    assert rounded([view]) == [(1, 0.1, 3, [(0, 0.7), (2, 0.15), (3, 0.05)], [])]


def test_it_starts_behind_a_token_and_ends_with_the_ids() -> None:
    assert look(Written(), [2, 1], 2) == []
    for start in (0, -1, 3):
        with pytest.raises(ValueError, match="start at 1"):
            look(Written(), [2, 1], start)


def test_it_agrees_with_a_plain_forward_pass(model: LanguageModel) -> None:
    views = look(model, IDS, 4)
    with torch.no_grad():
        expected = model(torch.tensor([IDS]))[0].double().softmax(dim=-1)[3:-1]
    assert [view.id for view in views] == IDS[4:]
    for view, row in zip(views, expected, strict=True):
        assert view.probability == pytest.approx(float(row[view.id]), abs=1e-6)
        assert view.rank == 1 + int((row > row[view.id]).sum())
        ordered = [id for id in row.argsort(descending=True).tolist() if id != view.id]
        assert [id for id, _ in view.others] == ordered[:5]
        assert [chance for _, chance in view.others] == pytest.approx([float(row[id]) for id in ordered[:5]], abs=1e-6)


def test_all_the_probabilities_of_a_place_sum_to_one(model: LanguageModel) -> None:
    vocabulary = model.config.vocab_size
    [view] = look(model, IDS, len(IDS) - 1, top=vocabulary, asked=[range(vocabulary)])
    assert view.probability + sum(chance for _, chance in view.others) == pytest.approx(1, abs=1e-5)
    assert sum(view.asked) == pytest.approx(1, abs=1e-5)


def test_it_is_the_same_in_small_pieces(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [[id, 1] for id in IDS[2:]]
    whole = look(model, IDS, 2, asked=asked)
    monkeypatch.setattr(microscope, "MOST_LOGITS", 3 * model.config.vocab_size)
    assert rounded(look(model, IDS, 2, asked=asked)) == rounded(whole)
    monkeypatch.setattr(microscope, "MOST_LOGITS", 1)
    assert rounded(look(model, IDS, 2, asked=asked)) == rounded(whole)


def test_the_parents_view_of_the_same_tokens_is_its_own(model: LanguageModel) -> None:
    parent = LanguageModel(model.config)
    parent.load_state_dict(model.state_dict())
    with torch.no_grad():
        parent.decoder.embed_tokens.weight[IDS[-1]] *= 0.5  # tied: its logit halves, and nothing before it changes
    here = look(model, IDS, len(IDS) - 1)
    [before] = look(parent, IDS, len(IDS) - 1, top=1, asked=[[id for id, _ in here[0].others]])
    with torch.no_grad():
        logits = model(torch.tensor([IDS]))[0, -2].double()
        logits[IDS[-1]] *= 0.5
    expected = logits.softmax(dim=-1)
    assert before.probability == pytest.approx(float(expected[IDS[-1]]), abs=1e-6)
    assert before.asked == pytest.approx([float(expected[id]) for id, _ in here[0].others], abs=1e-6)


# -- through the sampler ---------------------------------------------------------------------------


def test_an_engine_sees_what_its_model_sees_even_when_it_owns_it(model: LanguageModel) -> None:
    expected = look(model, IDS, 3)
    engine = Engine(model, end_ids=[], is_owner=True)
    found = look(engine, IDS, 3)
    for one, other in zip(found, expected, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-5)
        assert [id for id, _ in one.others] == [id for id, _ in other.others]
    with pytest.raises(ValueError, match="do not fit"):
        engine.read([5] * 97)


def test_what_was_drawn_is_as_likely_as_it_was_said_to_be(model: LanguageModel) -> None:
    engine = Engine(model, end_ids=[])
    [completion] = engine.generate([IDS], [Sampling(seed=3, max_new_tokens=20)])
    views = look(engine, [*IDS, *completion.tokens], len(IDS))
    chances = torch.tensor([view.probability for view in views])
    torch.testing.assert_close(chances.log(), torch.tensor(completion.logprobs), atol=1e-3, rtol=0)


def test_a_look_between_two_steps_changes_no_answer(model: LanguageModel) -> None:
    sampling = Sampling(seed=7, max_new_tokens=60)
    [expected] = Engine(model, end_ids=[]).generate([IDS], [sampling])
    service = EngineService(Engine(model, end_ids=[]))
    events = service.submit(IDS, sampling).events()
    written = [next(events)[0]]
    views = look(service, IDS, 3)
    written += [token for token, _ in events]
    service.close()
    assert written == expected.tokens
    assert rounded(views) == rounded(look(Engine(model, end_ids=[]), IDS, 3))


def test_a_call_that_fails_is_its_callers_alone(model: LanguageModel) -> None:
    service = EngineService(Engine(model, end_ids=[]))
    with pytest.raises(ValueError, match="do not fit"):
        service.call(lambda engine: engine.read([5] * 97))
    assert len(list(service.submit([5], Sampling(max_new_tokens=3)).events())) == 3
    service.close()
    with pytest.raises(RuntimeError, match="closed"):
        service.call(lambda engine: engine.read([5]))


def test_an_engine_that_breaks_lets_nobody_wait(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model, end_ids=[])
    service = EngineService(engine)
    broken, asked = threading.Event(), threading.Event()

    def step() -> list[Any]:
        asked.wait(20)
        raise KeyError("broken")

    monkeypatch.setattr(engine, "step", step)
    monkeypatch.setattr(threading, "excepthook", lambda _: broken.set())
    request = service.submit([5], Sampling())
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(service.call, lambda engine: 0)
        while not service._calls and not waiting.done():
            pass
        asked.set()
        with suppress(KeyError):  # it may have come before the step
            assert waiting.result(20) == 0
    with pytest.raises(KeyError):
        list(request.events())
    assert broken.wait(20)
    with pytest.raises(RuntimeError, match="closed"):
        service.call(lambda engine: 0)


# -- what a token says -----------------------------------------------------------------------------


def test_a_token_is_text_or_part_of_a_letter_or_control(tokenizer: Tokenizer) -> None:
    [fox] = tokenizer.encode(" fox")
    assert tokenizer.piece(fox) == Piece(" fox", "text")
    assert [tokenizer.piece(id) for id in tokenizer.encode("ö")] == [Piece("C3", "bytes"), Piece("B6", "bytes")]
    assert tokenizer.piece(tokenizer.end_id) == Piece("<|im_end|>", "control")
    assert tokenizer.piece(tokenizer.vocab_size + 7) == Piece(f"#{tokenizer.vocab_size + 7}", "control")

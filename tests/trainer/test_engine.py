from __future__ import annotations

import os
import threading
import weakref

import pytest
import torch

from trainer.model import engine
from trainer.model.adapters import adapted
from trainer.model.decoder import Block, LanguageModel, Products
from trainer.model.engine import (
    END,
    LENGTH,
    STOPPED,
    Engine,
    EngineService,
    Sampling,
    _truncate,
)
from trainer.model.products import Matrix, matrix, prepare
from trainer.runtime import machine
from trainer.runtime.seeds import random_generator

PROMPTS = [[5 + i] * (1 + 3 * i % 11) for i in range(9)]


def recomputed(model: LanguageModel, prompt: list[int], tokens: list[int], temperature: float) -> list[float]:
    """Log-probabilities of `tokens` after `prompt` by one plain forward pass."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens]))[0] / temperature
    logprobs = torch.log_softmax(logits, dim=-1)
    return [logprobs[len(prompt) - 1 + i, token].item() for i, token in enumerate(tokens)]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_it_records_the_log_probs_a_forward_pass_gives(model: LanguageModel, temperature: float) -> None:
    engine = Engine(model, end_ids=range(40), max_batch=4)  # fewer rows than prompts, many early ends
    sampling = [Sampling(seed=i, max_new_tokens=20, temperature=temperature) for i in range(len(PROMPTS))]
    completions = engine.generate(PROMPTS, sampling)
    assert {completion.finish_reason for completion in completions} == {END, LENGTH}
    for completion, prompt in zip(completions, PROMPTS, strict=True):
        assert completion.prompt == prompt
        expected = recomputed(model, prompt, completion.tokens, temperature)
        torch.testing.assert_close(completion.logprobs, expected, atol=1e-4, rtol=0)


def test_it_picks_the_likeliest_token_when_greedy(model: LanguageModel) -> None:
    engine = Engine(model, end_ids=[])
    [completion] = engine.generate([[5, 6]], [Sampling(temperature=0.0, max_new_tokens=12)])
    ids = [5, 6]
    for _ in range(12):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert completion.tokens == ids[2:]
    expected = recomputed(model, [5, 6], completion.tokens, 1.0)
    torch.testing.assert_close(completion.logprobs, expected, atol=1e-4, rtol=0)


def test_it_draws_the_same_answer_alone_and_in_a_crowd(model: LanguageModel) -> None:
    engine = Engine(model, end_ids=range(20), max_batch=64)
    sampling = [Sampling(seed=100 + i, max_new_tokens=16) for i in range(len(PROMPTS))]
    crowd = engine.generate(PROMPTS, sampling)
    for completion, prompt, how in zip(crowd, PROMPTS, sampling, strict=True):
        assert engine.generate([prompt], [how])[0].tokens == completion.tokens


def test_it_samples_with_the_models_probabilities(model: LanguageModel) -> None:
    prompt, draws = [7, 8, 9], 4000
    engine = Engine(model, end_ids=[], max_batch=1000)
    completions = engine.generate([prompt] * draws, [Sampling(seed=i, max_new_tokens=1) for i in range(draws)])
    counts = torch.zeros(model.config.vocab_size)
    for completion in completions:
        counts[completion.tokens[0]] += 1
    expected = torch.softmax(model(torch.tensor([prompt]))[0, -1], dim=-1) * draws
    likely = expected >= 5
    statistic = ((counts - expected)[likely].square() / expected[likely]).sum().item()
    # chi-squared with k cells has mean k and variance 2k; four standard deviations is a bug, not luck
    cells = int(likely.sum())
    assert statistic < cells + 4 * (2 * cells) ** 0.5


def test_it_cuts_the_tail_with_top_k_and_top_p() -> None:
    probabilities = torch.tensor([0.1, 0.4, 0.2, 0.3])
    assert _truncate(probabilities, 2, 1.0).tolist() == pytest.approx([0, 0.4, 0, 0.3])
    assert _truncate(probabilities, 0, 0.65).tolist() == pytest.approx([0, 0.4, 0, 0.3])
    assert _truncate(probabilities, 0, 0.75).tolist() == pytest.approx([0, 0.4, 0.2, 0.3])


def test_a_nucleus_of_thousands_of_tokens_is_whole_too() -> None:
    """4,000 tokens in falling order: token i has (4000 - i) shares of 8,002,000."""
    shares = torch.arange(4000, 0, -1, dtype=torch.float64)
    probabilities = shares / shares.sum()
    kept = _truncate(probabilities, 0, 0.9).nonzero().flatten().tolist()
    # The first n hold n (8001 - n) / 2 shares: 2,735 hold 7,201,255 of the 7,201,800 wanted, one more reaches them.
    assert kept == list(range(2736))


def test_it_sees_weights_that_training_changed(model: LanguageModel) -> None:
    engine = Engine(model, end_ids=[])
    engine.generate([[5]], [Sampling(max_new_tokens=2)])
    with torch.no_grad():
        model.decoder.layers[0].mlp.up_proj.weight.neg_()
    [completion] = engine.generate([[5]], [Sampling(seed=1, max_new_tokens=8)])
    torch.testing.assert_close(completion.logprobs, recomputed(model, [5], completion.tokens, 1.0), atol=1e-4, rtol=0)


def test_what_an_adapter_is_merged_into_is_held_once_and_only_while_it_writes(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes as much memory as the model, which an update needs."""
    held: list[weakref.ref[object]] = []
    most: list[int] = []

    def watched(block: Block) -> Products:
        products = prepare(block)
        held.append(weakref.ref(products))
        most.append(sum(one() is not None for one in held))
        return products

    def watched_head(weight: torch.Tensor) -> Matrix:
        head = matrix(weight)
        held.append(weakref.ref(head))
        return head

    monkeypatch.setattr(engine, "prepare", watched)
    monkeypatch.setattr(engine, "matrix", watched_head)
    sampler = Engine(adapted(model, rank=2, generator=random_generator(0, "adapter")), end_ids=[])
    [first] = sampler.generate([[5, 6]], [Sampling(max_new_tokens=3, temperature=0.0)])
    assert max(most) == model.config.layers + 1
    assert all(one() is None for one in held)
    row = sampler.add([5, 6], Sampling(max_new_tokens=3, temperature=0.0))
    while sampler.busy:
        sampler.step()
    assert row.completion.tokens == first.tokens


@pytest.mark.parametrize(("width", "rows", "threads"), [(192, 15, 1), (192, 16, 2), (256, 1, 2)])
def test_a_narrow_model_writes_few_answers_on_one_thread(width: int, rows: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with machine.decoding_threads(width, rows):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_it_ends_at_the_edge_of_the_context(model: LanguageModel) -> None:
    engine = Engine(model, end_ids=[])
    [completion] = engine.generate([[5] * 90], [Sampling(max_new_tokens=50)])
    assert (len(completion.tokens), completion.finish_reason) == (6, LENGTH)


@pytest.mark.parametrize(("prompt", "message"), [([], "empty"), ([5] * 96, "holds 96")])
def test_it_refuses_a_prompt_it_cannot_answer(model: LanguageModel, prompt: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(model, end_ids=[]).generate([prompt], [Sampling()])


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"max_new_tokens": 0}, {"temperature": float("nan")}],
)
def test_it_refuses_sampling_that_makes_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]


def test_the_service_streams_to_many_threads_what_the_engine_would_say(model: LanguageModel) -> None:
    engine = Engine(model, end_ids=range(20), max_batch=4)
    sampling = [Sampling(seed=i, max_new_tokens=16) for i in range(len(PROMPTS))]
    expected = [completion.tokens for completion in engine.generate(PROMPTS, sampling)]
    service = EngineService(engine)
    got: dict[int, list[int]] = {}

    def read(index: int) -> None:
        request = service.submit(PROMPTS[index], sampling[index])
        got[index] = [token for token, _ in request.events()]

    threads = [threading.Thread(target=read, args=(index,)) for index in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    service.close()
    assert [got[index] for index in range(len(PROMPTS))] == expected


def test_the_service_stops_one_answer_and_not_its_neighbour(model: LanguageModel) -> None:
    service = EngineService(Engine(model, end_ids=[]))
    stopped = service.submit([5], Sampling(max_new_tokens=95))
    neighbour = service.submit([6], Sampling(max_new_tokens=60))
    events = stopped.events()
    next(events)
    stopped.stop()
    rest = list(events)
    assert stopped.finish_reason == STOPPED
    assert len(rest) < 94
    assert len(list(neighbour.events())) == 60
    service.close()


def test_the_service_hands_a_bad_prompt_back_to_its_sender_alone(model: LanguageModel) -> None:
    service = EngineService(Engine(model, end_ids=[]))
    bad, good = service.submit([], Sampling()), service.submit([5], Sampling(max_new_tokens=3))
    with pytest.raises(ValueError, match="empty"):
        list(bad.events())
    assert len(list(good.events())) == 3
    service.close()
    with pytest.raises(RuntimeError, match="closed"):
        service.submit([5], Sampling())


def test_closing_the_service_ends_every_answer(model: LanguageModel) -> None:
    service = EngineService(Engine(model, end_ids=[]))
    request = service.submit([5], Sampling(max_new_tokens=95))
    events = request.events()
    next(events)
    service.close()
    list(events)
    assert request.finish_reason in (STOPPED, LENGTH)


# -- who comes first -------------------------------------------------------------------------------


@pytest.mark.parametrize("max_batch", [1, 64])
def test_a_row_somebody_waits_for_begins_at_once_behind_400_in_the_background(
    model: LanguageModel, max_batch: int
) -> None:
    engine = Engine(model, end_ids=[], max_batch=max_batch)
    background = [engine.add([5, i % 40], Sampling(seed=i, max_new_tokens=30), background=True) for i in range(400)]
    for _ in range(5):
        engine.step()
    assert sum(bool(row.completion.tokens) for row in background) == max_batch  # every place is taken
    asked = engine.add([7, 8, 9], Sampling(seed=1, max_new_tokens=3))
    for written in (1, 2, 3):
        engine.step()
        assert len(asked.completion.tokens) == written
    assert asked.completion.finish_reason == LENGTH


def test_a_row_that_made_room_ends_as_if_it_had_not(model: LanguageModel) -> None:
    prompts = [[5 + i] * (2 + i) for i in range(6)]
    how = [Sampling(seed=i, max_new_tokens=40) for i in range(6)]
    alone = Engine(model, end_ids=[], max_batch=8).generate(prompts, how)
    engine = Engine(model, end_ids=[], max_batch=3)
    rows = [engine.add(prompt, one, background=True) for prompt, one in zip(prompts, how, strict=True)]
    others = []
    for step in range(400):
        if step % 7 == 3 and len(others) < 20:
            others += [engine.add([9, 9], Sampling(seed=step, max_new_tokens=2)) for _ in range(2)]
        engine.step()
    assert not engine.busy
    assert all(row.completion.finish_reason == LENGTH for row in (*rows, *others))
    for row, completion in zip(rows, alone, strict=True):
        assert row.completion.tokens == completion.tokens
        torch.testing.assert_close(row.completion.logprobs, completion.logprobs, atol=1e-4, rtol=0)


def test_rows_that_somebody_waits_for_make_no_room_for_one_another(model: LanguageModel) -> None:
    engine = Engine(model, end_ids=[], max_batch=2)
    first = [engine.add([5], Sampling(seed=i, max_new_tokens=6)) for i in range(2)]
    engine.step()
    late = engine.add([6], Sampling(max_new_tokens=2))
    engine.step()
    assert [len(row.completion.tokens) for row in (*first, late)] == [2, 2, 0]


def test_the_service_ends_a_background_answer_that_waits(model: LanguageModel) -> None:
    service = EngineService(Engine(model, end_ids=[], max_batch=1))
    running, waiting = (service.submit([5], Sampling(max_new_tokens=95), background=True) for _ in range(2))
    waiting.stop()
    assert list(waiting.events()) == []
    assert waiting.finish_reason == STOPPED
    assert len(list(running.events())) == 95
    service.close()


@pytest.mark.parametrize("cache_tokens", [60, 130])
def test_rows_wait_where_the_cache_would_hold_too_many_tokens(model: LanguageModel, cache_tokens: int) -> None:
    sampling = [Sampling(seed=i, max_new_tokens=8 + i) for i in range(len(PROMPTS))]
    free = Engine(model, end_ids=range(20), max_batch=64).generate(PROMPTS, sampling)
    engine = Engine(model, end_ids=range(20), max_batch=64, cache_tokens=cache_tokens)
    rows = [engine.add(prompt, how) for prompt, how in zip(PROMPTS, sampling, strict=True)]
    most = 0
    while engine.busy:
        engine.step()
        if engine._cache is not None:
            held = engine._cache.shape[2] * engine._cache.shape[4]
            assert held <= cache_tokens
            most = max(most, held)
    assert most > cache_tokens / 2
    assert [row.completion.tokens for row in rows] == [completion.tokens for completion in free]


def test_what_the_whole_cache_cannot_hold_is_cut_off_or_refused(model: LanguageModel) -> None:
    engine = Engine(model, end_ids=[], cache_tokens=20)
    [completion] = engine.generate([[5] * 12], [Sampling(max_new_tokens=50)])
    assert (len(completion.tokens), completion.finish_reason) == (8, LENGTH)
    with pytest.raises(ValueError, match="20 tokens; this model's context holds 20"):
        engine.add([5] * 20, Sampling())


def test_a_row_somebody_waits_for_sends_back_background_rows_for_their_cache(model: LanguageModel) -> None:
    engine = Engine(model, end_ids=[], max_batch=8, cache_tokens=96)
    background = [engine.add([9 + i], Sampling(seed=i, max_new_tokens=30), background=True) for i in range(3)]
    engine.step()
    assert len(engine._rows) == 3
    waited = engine.add([5] * 20, Sampling(max_new_tokens=28))  # two rows of 47 fit, four do not
    engine.step()
    assert waited in engine._rows
    assert len(engine._rows) == 2
    while engine.busy:
        engine.step()
    alone = Engine(model, end_ids=[]).generate(
        [[9 + i] for i in range(3)], [Sampling(seed=i, max_new_tokens=30) for i in range(3)]
    )
    assert [row.completion.tokens for row in background] == [completion.tokens for completion in alone]


def test_the_service_computes_on_as_many_threads_as_it_was_given(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    step = Engine.step
    monkeypatch.setattr(Engine, "step", lambda engine: (seen.append(torch.get_num_threads()), step(engine))[1])
    with machine.threads(torch.get_num_threads()):
        service = EngineService(Engine(model, end_ids=[]), threads=2)
        list(service.submit([5], Sampling(max_new_tokens=3)).events())
        service.close()
    assert set(seen) == {2}


def test_only_for_a_wide_model_few_compiled_shapes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    monkeypatch.setattr(os, "environ", {names[1]: "7"})
    machine.keep_few_shapes(192)
    assert os.environ == {names[1]: "7"}
    machine.keep_few_shapes(576)
    assert os.environ == {names[0]: "256", names[1]: "7"}  # who set one knows better

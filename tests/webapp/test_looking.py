"""Looking into answers with real, tiny, random models: the ids they read, the parent beside them, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.config import STAGES
from trainer.evaluation.microscope import look
from trainer.model.checkpoint import load_checkpoint, save_checkpoint
from trainer.model.decoder import LanguageModel
from trainer.model.tokenizer import Tokenizer
from trainer.presets import shape
from webapp.answers import looking, writing
from webapp.answers.engines import Engines, NotWaitedFor
from webapp.answers.looks import BUSY, ask_for_look
from webapp.answers.models import Generation, Look
from webapp.answers.services import clean_sampling
from webapp.answers.tasks import look_into_answer
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.services import register_checkpoint

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("enqueued")]

QUESTION = [{"role": "user", "content": "What does a fox eat?"}]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["What does a fox eat? A fox eats mice, berries and bread. 0123456789"] * 8, 300)


@pytest.fixture
def register(tmp_path: Path, tokenizer: Tokenizer) -> Callable[..., Checkpoint]:
    """`register("ppo", parent=…)`: a checkpoint of random weights, other ones for every stage."""

    def made(stage: str, *, parent: Checkpoint | None = None, context: int = 64, letters: Any = None) -> Checkpoint:
        its = letters or tokenizer
        model = LanguageModel(shape(1, vocab_size=its.vocab_size, context=context, kv_heads=1))
        model.init_weights(torch.Generator().manual_seed(STAGES.index(stage)))
        with torch.no_grad():
            model.decoder.embed_tokens.weight.mul_(20)  # logits far from each other
        directory = save_checkpoint(tmp_path / stage, model, its, stage=stage, info={"preset": "smoke", "metrics": {}})
        checkpoint = register_checkpoint(directory=directory)
        Checkpoint.objects.filter(pk=checkpoint.pk).update(parent=parent)
        return checkpoint

    return made


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engines]:
    cache = Engines()
    for module in (looking, writing):
        monkeypatch.setattr(module, "engines", cache)
    yield cache
    cache.close()


def answered(checkpoint: Checkpoint, messages: Any = QUESTION, **sampling: Any) -> Generation:
    """An answer that the model has really written."""
    how = clean_sampling({"seed": 1, "max_new_tokens": 12, **sampling})
    generation = Generation.objects.create(checkpoint=checkpoint, messages=messages, sampling=how)
    writing.write_answer(generation_id=str(generation.pk))
    generation.refresh_from_db()
    assert generation.state == "done", generation.error
    return generation


def looked(generation: Generation) -> Look:
    ask_for_look(generation=generation)
    look_into_answer(str(generation.pk))
    return Look.objects.get(pk=generation.pk)


def found_in(generation: Generation) -> Any:
    kept = looked(generation)
    assert kept.problem == ""
    return kept.found


def expected(checkpoint: Checkpoint, prompt: list[int], written: list[int]) -> list[float]:
    model = load_checkpoint(checkpoint.path).language_model
    return [view.probability for view in look(model, [*prompt, *written], len(prompt))]


def probabilities(found: Any) -> list[float]:
    return [token["probability"] for token in found["tokens"]]


def test_an_answer_keeps_the_ids_that_were_written(register: Callable[..., Checkpoint], tokenizer: Tokenizer) -> None:
    generation = answered(register("sft"))
    assert len(generation.token_ids) == generation.tokens == 12
    assert tokenizer.decode(generation.token_ids).startswith(generation.text[:3])


def test_nobody_looks_into_answers_made_ahead(register: Callable[..., Checkpoint]) -> None:
    generation = Generation.objects.create(
        checkpoint=register("sft"), messages=QUESTION, sampling=clean_sampling({"max_new_tokens": 3}), background=True
    )
    writing.write_answer(generation_id=str(generation.pk))
    generation.refresh_from_db()
    assert (generation.tokens, generation.token_ids) == (3, None)


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_the_model_reads_what_it_read_and_wrote(
    register: Callable[..., Checkpoint], tokenizer: Tokenizer, stage: str
) -> None:
    checkpoint = register(stage)
    generation = answered(checkpoint)
    found = found_in(generation)
    prompt, _ = tokenizer.render_chat(QUESTION, add_generation_prompt=True)
    if stage == "pretrain":
        prompt = [*tokenizer.document_start_ids, *tokenizer.encode(QUESTION[0]["content"])]
    assert probabilities(found) == pytest.approx(expected(checkpoint, prompt, generation.token_ids), rel=2e-3)
    assert (found["is_exact"], found["parent"], found["no_parent"]) == (True, "", "")
    assert all(len(token["others"]) == 5 and token["before"] is None for token in found["tokens"])


def test_what_no_longer_fitted_is_left_out_here_too(register: Callable[..., Checkpoint], tokenizer: Tokenizer) -> None:
    checkpoint = register("sft")
    talk = [*QUESTION, {"role": "assistant", "content": "A fox eats mice. " * 4}, *QUESTION]
    generation = answered(checkpoint, talk)
    prompt, _ = tokenizer.render_chat(QUESTION, add_generation_prompt=True)
    assert len(tokenizer.render_chat(talk, add_generation_prompt=True)[0]) > 52
    found = found_in(generation)
    assert probabilities(found) == pytest.approx(expected(checkpoint, prompt, generation.token_ids), rel=2e-3)


def test_a_continued_answer_is_looked_into_from_its_beginning(
    register: Callable[..., Checkpoint], tokenizer: Tokenizer
) -> None:
    checkpoint = register("sft")
    generation = answered(checkpoint, [*QUESTION, {"role": "assistant", "content": "A fox eats"}])
    prompt, _ = tokenizer.render_chat(QUESTION, add_generation_prompt=True)
    written = [*tokenizer.encode("A fox eats"), *generation.token_ids]
    assert probabilities(found_in(generation)) == pytest.approx(expected(checkpoint, prompt, written), rel=2e-3)


def test_of_an_older_answer_the_text_is_cut_into_tokens_again(
    register: Callable[..., Checkpoint], tokenizer: Tokenizer
) -> None:
    checkpoint = register("sft")
    generation = answered(checkpoint)
    Generation.objects.update(token_ids=None, text="A fox eats mice.", finish_reason="end")
    generation.refresh_from_db()
    found = found_in(generation)
    assert not found["is_exact"]
    assert "".join(token["piece"][0] for token in found["tokens"][:-1]) == "A fox eats mice."
    assert found["tokens"][-1]["piece"] == ["<|im_end|>", "end"]


@pytest.mark.parametrize("stage", ["ppo", "grpo"])
def test_the_parent_reads_the_same_ids(register: Callable[..., Checkpoint], tokenizer: Tokenizer, stage: str) -> None:
    parent = register("sft")
    generation = answered(register(stage, parent=parent))
    found = found_in(generation)
    prompt, _ = tokenizer.render_chat(QUESTION, add_generation_prompt=True)
    before = [token["before"] for token in found["tokens"]]
    assert found["parent"] == "Instruction fine-tuning"
    assert before == pytest.approx(expected(parent, prompt, generation.token_ids), rel=2e-3)
    assert before != pytest.approx(probabilities(found), rel=1e-2)
    model = load_checkpoint(parent.path).language_model
    with torch.no_grad():
        ids = torch.tensor([[*prompt, *generation.token_ids]])
        rows = model(ids)[0, len(prompt) - 1 : -1].softmax(dim=-1)
    for token, row in zip(found["tokens"], rows, strict=True):
        assert token["parents_first"]["probability"] == pytest.approx(float(row.max()), rel=2e-3)
        named = {tuple(one["piece"]): one["before"] for one in token["others"]}
        for id, chance in enumerate(row.tolist()):
            if (piece := tuple(tokenizer.piece(id))) in named and piece[1] == "text":
                assert named[piece] == pytest.approx(chance, rel=2e-3)


def test_without_a_parent_to_ask_it_says_why(register: Callable[..., Checkpoint], tmp_path: Path) -> None:
    parent, small = register("sft"), register("pretrain", context=32)
    strange = register("init", letters=Tokenizer.train(["Something else."] * 8, 270))
    child = register("ppo")
    reasons = {
        None: "is not known here",
        parent.pk: "has been archived",
        strange.pk: "other tokens",
        small.pk: "could not",
    }
    Checkpoint.objects.filter(pk=parent.pk).update(archived=True)
    for pk, reason in reasons.items():
        Checkpoint.objects.filter(pk=child.pk).update(parent=pk)
        found = found_in(answered(Checkpoint.objects.get(pk=child.pk), max_new_tokens=20))
        assert reason in found["no_parent"]
        assert found["parent"] == ""
        assert all(token["before"] is None for token in found["tokens"])


def test_what_is_known_is_not_looked_for_again(register: Callable[..., Checkpoint], monkeypatch: Any) -> None:
    generation = answered(register("sft"))
    found = found_in(generation)
    monkeypatch.setattr(looking, "find", lambda *_, **__: pytest.fail("it looked again"))
    assert looked(generation).found == found


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NotWaitedFor(), BUSY),
        (ValueError("It is too long."), "It is too long."),
        (RuntimeError("boom"), "The model failed while reading"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    register: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    generation = answered(register("sft"))

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(looking, "find", fail)
    kept = looked(generation)
    assert said in kept.problem
    assert kept.found is None


def test_a_very_long_answer_is_refused(register: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    generation = answered(register("sft"))
    monkeypatch.setattr(looking, "MOST_TOKENS", 11)
    assert looked(generation).problem == "This answer has 12 tokens, and no more than 11 are looked at."


def test_a_busy_worker_is_not_waited_for_forever(
    register: Callable[..., Checkpoint], engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = answered(register("sft"))
    monkeypatch.setattr(looking, "GIVE_UP_S", 0)
    with engines.borrow(generation.checkpoint) as engine:
        engine.is_leaving = True  # somebody waits for its memory, so nobody new gets it while it is in use
        assert looked(generation).problem == BUSY
    assert engines.loaded() == []


def test_a_nul_can_be_kept(tokenizer: Tokenizer) -> None:
    [nul] = tokenizer.encode("\0")
    assert looking._spelled(tokenizer, nul) == ("00", "bytes")

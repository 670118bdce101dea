"""The names that notebooks and checks from outside rely on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.api import Engine, LoadedModel, Sampling, generate, load
from trainer.config import SFT
from trainer.model.checkpoint import save_checkpoint
from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.model.tokenizer import Tokenizer

QUESTION = [{"role": "user", "content": "What does a fox eat?"}]
TOLD = [*QUESTION, {"role": "assistant", "content": "Mice."}]


@pytest.fixture
def loaded(model: LanguageModel, tokenizer: Tokenizer, tmp_path: Path) -> LoadedModel:
    return load(str(save_checkpoint(tmp_path / "sft", model, tokenizer, stage=SFT, info={})), device="cpu")


def test_a_directory_is_loaded_with_all_that_belongs_to_it(
    loaded: LoadedModel, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(loaded.model(ids), model(ids))
    assert loaded.tokenizer.encode("The fox") == tokenizer.encode("The fox")
    assert loaded.end_ids == tokenizer.end_ids
    assert loaded.info["stage"] == SFT


def test_a_conversation_is_rendered_with_what_the_assistant_said_marked(loaded: LoadedModel) -> None:
    ids, is_response = loaded.render(TOLD, add_generation_prompt=False)
    said = [id for id, marked in zip(ids, is_response, strict=True) if marked]
    assert said[-1] in loaded.end_ids
    assert loaded.tokenizer.decode(said[:-1]) == "Mice."
    asked, _ = loaded.render(QUESTION, add_generation_prompt=True)
    assert ids[: len(asked)] == asked


def test_answers_come_in_order_and_are_texts_with_their_tokens(loaded: LoadedModel) -> None:
    greedy = Sampling(temperature=0, max_new_tokens=8)
    other = [{"role": "user", "content": "And a rabbit?"}]
    both = generate(loaded, [QUESTION, other], greedy)
    assert isinstance(both[0], str)
    for messages, answer in zip([QUESTION, other], both, strict=True):
        ids, _ = loaded.render(messages, add_generation_prompt=True)
        start = len(ids)
        for _ in answer.tokens:
            ids.append(int(loaded.model(torch.tensor([ids]))[0, -1].argmax()))
        assert ids[start:] == answer.tokens
        assert len(answer.logprobs) == len(answer.tokens)
        assert answer == loaded.tokenizer.decode([id for id in answer.tokens if id not in loaded.end_ids])
        assert answer.finish_reason == ("end" if answer.tokens[-1] in loaded.end_ids else "length")


def test_one_question_asked_twice_is_answered_twice_and_the_same_again(loaded: LoadedModel) -> None:
    drawn = generate(loaded, [QUESTION, QUESTION], Sampling(seed=3, max_new_tokens=12))
    assert drawn[0].tokens != drawn[1].tokens
    assert generate(loaded, [QUESTION, QUESTION], Sampling(seed=3, max_new_tokens=12)) == drawn
    assert generate(loaded, [QUESTION], Sampling(seed=4, max_new_tokens=12)) == drawn[1:]
    assert isinstance(loaded.engine(), Engine)


def test_what_cannot_be_asked_is_refused(loaded: LoadedModel, model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a list of conversations"):
        generate(loaded, QUESTION)  # type: ignore[arg-type]
    reward = LoadedModel(ScalarModel(model.config), loaded.tokenizer, {})
    with pytest.raises(ValueError, match="scores text and cannot write"):
        generate(reward, [QUESTION])
    with pytest.raises(ValueError, match="is not a directory"):
        load(tmp_path / "nothing")

"""What holds a policy to its parent: on which conversations, how much, and the same ones after a resume."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.trainer import small
from trainer.asked import Message
from trainer.config import GRPOConfig
from trainer.data.chats import ChatBatches, PackedChats
from trainer.data.directory import from_directory
from trainer.model.decoder import LanguageModel
from trainer.model.engine import Engine
from trainer.model.tokenizer import Tokenizer
from trainer.rl.anchor import Anchor, other_conversations, own_conversations
from trainer.world.conversations import exchange

CONFIG = GRPOConfig(steps=4, problems=3, group=4, minibatch=8, anchor_weight=0.25, anchor_rows=2)
"""Two steps a round: twelve answers, eight at a time."""


def moved(parent: LanguageModel) -> LanguageModel:
    policy = copy.deepcopy(parent)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    return policy


def make_anchor(policy: LanguageModel, parent: LanguageModel, tokenizer: Tokenizer) -> Anchor:
    return Anchor(policy, parent, small.corpus().conversations, tokenizer, CONFIG, seed=0)


def gradients(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_its_rows_are_no_longer_than_asked_however_much_a_model_takes_in(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    config = dataclasses.replace(CONFIG, anchor_sequence=48)
    anchor = Anchor(moved(model), model, small.corpus().conversations, tokenizer, config, seed=0)
    assert model.config.context > 48
    assert anchor.batches(0).inputs.shape == (2, 48)


def test_it_leaves_out_every_conversation_with_a_problem() -> None:
    corpus = small.corpus()
    problem = corpus.problems[0]
    solved, thanked = exchange(problem.prompt, problem.worked), exchange("Thanks!", "You are welcome.")
    mixed = [*corpus.conversations, solved, solved + thanked, thanked + solved]
    assert other_conversations(small.corpus(conversations=mixed)) == corpus.conversations


def test_a_data_directorys_conversations_hold_it_but_for_those_of_its_problems(tmp_path: Path) -> None:
    talks = [{"instruction": f"Say {number}.", "output": "Yes."} for number in range(12)]
    sums: list[dict[str, Any]] = [{"question": f"{number}+1?", "answer": number + 1} for number in range(12)]
    sums += [{"question": f"Which, {number}?", "choices": ["this", "that"], "answerKey": "A"} for number in range(12)]
    sums += [{"question": f"Match {number}.", "pattern": "x"} for number in range(12)]  # shows no answer of its own
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(record) + "\n" for record in [*talks, *sums]))
    corpus = from_directory(tmp_path)
    assert all(talk[-1]["content"] for talk in corpus.conversations)
    held = other_conversations(corpus)
    assert {talk[0]["content"][:3] for talk in held} == {"Say"}
    assert len(held) >= 8  # some are held out
    assert len(corpus.conversations) > len(held)


def test_its_own_answers_are_whole_and_the_same_for_a_seed(model: LanguageModel, tokenizer: Tokenizer) -> None:
    prompts = small.corpus().preference_prompts
    engine = Engine(model, end_ids=range(0, model.config.vocab_size, 10))  # noise seldom says one certain token

    def said(seed: int, tokens: int = 40) -> list[list[Message]]:
        return own_conversations(engine, tokenizer, prompts, count=4, max_new_tokens=tokens, seed=seed)

    talks = said(0)
    assert talks == said(0) != said(1)
    assert 0 < len(talks) <= 4
    assert {talk[0]["content"] for talk in talks} <= set(prompts)
    assert all([turn["role"] for turn in talk] == ["user", "assistant"] for talk in talks)
    assert len(said(0, tokens=1)) < len(talks)  # what was cut off says nothing of how an answer ends


def test_a_model_that_has_not_moved_pays_nothing(model: LanguageModel, tokenizer: Tokenizer) -> None:
    held = make_anchor(model, copy.deepcopy(model), tokenizer)
    assert held.add_gradients() == pytest.approx(0.0, abs=1e-6)
    assert max(gradient.abs().max().item() for gradient in gradients(model).values()) < 1e-6


@pytest.mark.parametrize("fitting", [1, 2])
def test_it_adds_the_weighted_gradient_on_the_rounds_own_conversations(
    model: LanguageModel, tokenizer: Tokenizer, fitting: int
) -> None:
    policy = moved(model)
    held = make_anchor(policy, model, tokenizer)
    held.fitting = fitting
    held.start_round(3)
    held.add_gradients()
    policy.zero_grad(set_to_none=True)
    policy.decoder.norm.weight.grad = torch.ones_like(policy.decoder.norm.weight)  # what the reward's loss left
    found = held.add_gradients()

    other = moved(model)
    conversations = small.corpus().conversations
    chats = ChatBatches(conversations, tokenizer, sequence=model.config.context, rows=2, seed=0)(3 * 2 + 1)
    wanted = log_softmax(model, chats).detach()
    loss = F.kl_div(log_softmax(other, chats), wanted, log_target=True, reduction="batchmean")
    (0.25 * loss).backward()
    expected = gradients(other)
    expected["decoder.norm.weight"] += 1.0
    assert found == pytest.approx(loss.item(), rel=1e-4)
    for name, gradient in gradients(policy).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6, msg=name)
    assert all(parameter.grad is None for parameter in model.parameters())


def log_softmax(model: LanguageModel, chats: PackedChats) -> torch.Tensor:
    return F.log_softmax(model(chats.inputs, segments=chats.segments)[chats.is_response], dim=-1)


def test_a_round_begins_at_its_own_conversations(model: LanguageModel, tokenizer: Tokenizer) -> None:
    policy = moved(model)
    one, other = (make_anchor(policy, model, tokenizer) for _ in range(2))
    for _ in range(3):
        other.add_gradients()
    one.start_round(2)
    other.start_round(2)
    assert one.add_gradients() == other.add_gradients()


@pytest.mark.parametrize(
    ("config", "updates"),
    [
        (GRPOConfig(steps=1, problems=16, group=8, minibatch=64, epochs=2), 4),
        (GRPOConfig(steps=1, problems=3, group=3, minibatch=8), 2),
    ],
)
def test_a_round_has_room_for_every_step(config: GRPOConfig, updates: int) -> None:
    assert config.updates == updates


def test_it_says_what_is_wrong_when_no_conversation_fits(model: LanguageModel, tokenizer: Tokenizer) -> None:
    endless = [exchange("What is a fox?", "It is small. " * 200)]
    with pytest.raises(ValueError, match="None of the 1 conversations fits"):
        Anchor(model, model, endless, tokenizer, CONFIG, seed=0)

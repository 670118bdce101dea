"""One question after a system text is one question: held out, and asked with its system text, in every stage."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer import small
from trainer.asked import Prompt, asked_messages, asked_text, single_question
from trainer.data.corpus import Corpus
from trainer.data.directory import from_directory, is_held_out
from trainer.data.prompting import fitting_corpus, greedy_samples
from trainer.evaluation import asking, card
from trainer.model.decoder import LanguageModel
from trainer.model.engine import Engine
from trainer.model.tokenizer import Tokenizer
from trainer.pipeline import simulate_votes
from trainer.rl.rollout import fitting_prompts
from trainer.stages import grpo, ppo
from trainer.tasks.problem import Problem
from trainer.world import shipped
from trainer.world.tastes import get_taste

CALM = "You are a calm helper."
SHORT = "Calm."
"""Leaves room for a question in a model of 96 tokens."""


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def write(path: Path, *records: Any) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set in which everything is said after the same system text."""
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "text.txt").write_text("\n\n".join(f"The goat sees page {number}." for number in range(40)))
    chats = [
        {"messages": [turn("system", CALM), turn("user", f"Say {n}, please."), turn("assistant", f"It is {n}.")]}
        for n in range(60)
    ]
    write(directory / "chats.jsonl", *chats)
    pairs = [
        {
            "prompt": [turn("system", CALM), turn("user", f"May I have {n} teas?")],
            "chosen": [turn("assistant", "Gladly.")],
            "rejected": [turn("assistant", "No.")],
        }
        for n in range(60)
    ]
    write(directory / "pairs.jsonl", *pairs)
    write(directory / "sums.jsonl", *({"system": CALM, "question": f"{n}+1?", "answer": n + 1} for n in range(60)))
    return directory


def test_one_question_after_a_system_text_is_one_question(data: Path) -> None:
    corpus = from_directory(data)
    assert {question.system for question in corpus.questions} == {CALM}
    assert {question.prompt for question in corpus.questions} == {
        text for text in (f"Say {n}, please." for n in range(60)) if is_held_out(text)
    }
    asked = corpus.preference_prompts + corpus.held_out_preference_prompts
    assert {prompt.system for prompt in asked if isinstance(prompt, Prompt)} == {CALM}
    assert {asked_text(prompt) for prompt in asked} == {f"May I have {n} teas?" for n in range(60)}
    assert corpus.held_out_preference_prompts
    assert {problem.system for problem in corpus.problems + corpus.held_out_problems} == {CALM}
    assert all(isinstance(prompt, Prompt) for prompt in corpus.sample_prompts)
    assert all(talk[0] == turn("system", CALM) for talk in corpus.conversations)


def test_what_is_held_out_is_in_no_training_part(data: Path) -> None:
    corpus = from_directory(data)
    held_out = {question.prompt for question in corpus.questions}
    held_out |= {asked_text(prompt) for prompt in corpus.held_out_preference_prompts}
    held_out |= {problem.prompt for problem in corpus.held_out_problems}
    trained = {said["content"] for talk in corpus.conversations for said in talk}
    trained |= {asked_text(prompt) for prompt in corpus.preference_prompts}
    trained |= {comparison.prompt for comparison in corpus.comparisons}
    trained |= {problem.prompt for problem in corpus.problems}
    assert len(held_out) >= 10
    assert not held_out & trained


def test_a_question_is_on_one_side_under_every_system_text(data: Path) -> None:
    texts = [text for text in (f"Who {n}?" for n in range(99)) if not is_held_out(text)][:3]
    pairs = [
        {"system": system, "prompt": text, "chosen": "A", "rejected": "B"}
        for text in texts
        for system in ("", "Rhyme.", "Shout.")
    ]
    write(data / "pairs.jsonl", *pairs)
    corpus = from_directory(data)
    held_out = {asked_text(prompt) for prompt in corpus.held_out_preference_prompts}
    assert len(held_out) == 1
    assert not held_out & {asked_text(prompt) for prompt in corpus.preference_prompts}
    assert not held_out & {comparison.prompt for comparison in corpus.comparisons}


def test_another_system_text_is_another_corpus(data: Path) -> None:
    before = from_directory(data).sha256
    for path in data.glob("*.jsonl"):
        path.write_text(path.read_text().replace(CALM, "You are a wild helper."))
    assert from_directory(data).sha256 != before


def test_a_corpus_without_system_texts_keeps_its_hash() -> None:
    """Runs of this text, whichever version began them, go on."""
    assert shipped(0, size="smoke").sha256.startswith("a63ffd209d7f7633")


def test_it_takes_the_question_from_the_conversation() -> None:
    asked = [turn("system", CALM), turn("user", "Why?")]
    assert single_question(asked) == Prompt("Why?", CALM)
    assert single_question(asked[1:]) == "Why?"
    assert asked_messages(Prompt("Why?", CALM)) == asked
    assert single_question([*asked, turn("assistant", "So."), turn("user", "And?")]) is None
    assert single_question([asked[0], *asked]) is None


def with_system(corpus: Corpus) -> Corpus:
    """The small corpus, everything asked after a system text."""
    return dataclasses.replace(
        corpus,
        questions=[dataclasses.replace(question, system=SHORT) for question in corpus.questions],
        preference_prompts=[Prompt(asked_text(prompt), SHORT) for prompt in corpus.preference_prompts],
        held_out_preference_prompts=[
            Prompt(asked_text(prompt), SHORT) for prompt in corpus.held_out_preference_prompts
        ],
        problems=[
            dataclasses.replace(problem, system=SHORT, prompt=f"{problem.answer}?") for problem in corpus.problems
        ],
        held_out_problems=[
            dataclasses.replace(problem, system=SHORT, prompt=f"{problem.answer}?")
            for problem in corpus.held_out_problems
        ],
        sample_prompts=[Prompt("What is an LLM?", SHORT)],
    )


def test_it_is_asked_with_its_system_text(model: LanguageModel, tokenizer: Tokenizer) -> None:
    asked = [turn("system", "Calm."), turn("user", "A fox?")]
    wanted, _ = tokenizer.render_chat(asked, add_generation_prompt=True)
    prompt = Prompt("A fox?", "Calm.")
    engine = Engine(model, end_ids=[tokenizer.end_id])
    [answer] = asking.ask(engine, tokenizer, [prompt], stage="sft", max_new_tokens=4)
    assert answer.prompt == wanted
    assert fitting_prompts(tokenizer, [prompt], room=80) == {prompt: wanted}
    [document] = asking.ask(engine, tokenizer, [prompt], stage="pretrain", max_new_tokens=4)
    assert document.prompt == [tokenizer.document_end_id, *tokenizer.encode("Calm.\nA fox?")]
    [sample] = greedy_samples(engine, tokenizer, [prompt], stage="sft", max_new_tokens=4)
    assert sample["prompt"] == "Calm.\n\nA fox?"
    [pair] = asking.true_comparisons([prompt], [answer, answer], get_taste("shorter"))
    assert pair.messages == asked


def test_a_system_text_that_leaves_no_room_is_never_dropped(tokenizer: Tokenizer) -> None:
    """Nor is its question then asked without it."""
    long = Prompt("A fox?", "Be calm. " * 40)
    corpus = small.corpus(
        preference_prompts=["A fox?", long],
        problems=[Problem(prompt="1+1?", answer="2", family="f", difficulty=1, worked="", system="Be calm. " * 40)],
    )
    fitted, left_out = fitting_corpus(corpus, tokenizer, room=48)
    assert fitted.preference_prompts == ["A fox?"]
    assert fitted.problems == []
    assert any("1 of 2 prompts to compare answers on" in line for line in left_out)


def seen_prompts(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> set[str]:
    """Every prompt that a model is asked from now on, as text."""
    seen: set[str] = set()
    generate = Engine.generate

    def note(self: Engine, prompts: Any, sampling: Any, **options: Any) -> Any:
        seen.update(tokenizer.backend.decode(prompt, skip_special_tokens=False) for prompt in prompts)
        return generate(self, prompts, sampling, **options)

    monkeypatch.setattr(Engine, "generate", note)
    return seen


@pytest.mark.parametrize("stage", ["ppo", "grpo", "evaluate", "votes"])
def test_every_stage_asks_with_it(
    tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    corpus = with_system(small.corpus())
    parent = small.save_parent(tmp_path / "parent", model, tokenizer)
    judge = small.save_judge(tmp_path / "judge", model, tokenizer)
    inputs = small.inputs(parent, corpus=corpus, reward_model=judge)
    seen = seen_prompts(monkeypatch, tokenizer)
    if stage == "ppo":
        config = dataclasses.replace(inputs.preset.ppo, steps=1, rollouts=4, minibatch=4, max_new_tokens=8)
        ppo.train(config, inputs, tmp_path / "out", small.Recorder(), small.never)
    elif stage == "grpo":
        config = dataclasses.replace(inputs.preset.grpo, steps=1, problems=2, group=2, max_new_tokens=8)
        grpo.train(config, inputs, tmp_path / "out", small.Recorder(), small.never)
    elif stage == "evaluate":
        monkeypatch.setattr(card, "TASTE_ANSWERS", 2)
        monkeypatch.setattr(asking, "SAMPLES_PER_PROBLEM", 8)
        card.evaluate_checkpoint(parent, corpus=corpus, parent=parent, taste=get_taste("shorter"))
    else:
        with pytest.raises(ValueError, match="pairs differ"):
            simulate_votes(parent, corpus, get_taste("shorter"), preset="smoke", seed=0, max_new_tokens=4)
    assert seen
    assert all(text.startswith(f"<|im_start|>system\n{SHORT}<|im_end|>") for text in seen)

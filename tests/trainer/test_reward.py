from __future__ import annotations

import dataclasses
import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer import small
from trainer.config import RewardConfig
from trainer.data.preferences import Comparison
from trainer.evaluation.alarms import doubts_about
from trainer.evaluation.reward_model import Agreement, agreement_of, comparison_sequences, reward_agreement
from trainer.model.adapters import read_adapter
from trainer.model.checkpoint import load_checkpoint, load_reward_model, read_info
from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.model.starting import start
from trainer.model.tokenizer import Tokenizer
from trainer.rl import scoring
from trainer.rl.scoring import end_scores
from trainer.runtime.errors import Stopped
from trainer.runtime.optim import apply_gradients
from trainer.runtime.seeds import random_generator
from trainer.stages import reward

CONFIG = RewardConfig(lr=3e-3, batch_pairs=4, epochs=4, probing=0.25, averaged=0.5)
TAUGHT = dataclasses.replace(CONFIG, teachers=2, studied=8, study_epochs=3)
ADAPTED = dataclasses.replace(TAUGHT, adapter_rank=4, lr=1e-2)


@pytest.fixture
def parent(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    return small.save_parent(tmp_path / "sft", model, tokenizer)


def test_it_learns_what_the_voters_chose(tmp_path: Path, parent: Path) -> None:
    report = small.Recorder()
    inputs = small.inputs(parent, comparisons=small.votes(32))
    out = reward.train(CONFIG, inputs, tmp_path / "out", report, small.never)
    metrics = read_info(out)["metrics"]
    assert metrics["agreement"] == 1.0  # the held-out prompts carry the same taste
    assert metrics["held_out_comparisons"] > metrics["held_out_prompts"] == 2
    assert (metrics["agreement_interval"], metrics["beats_chance"]) == (None, False)  # two prompts say nothing
    assert any("too few to say" in text and "Collect more votes" in text for text in report.alarms)
    assert "calibration_error" not in report.metrics[report.started[1]]  # type: ignore[index]
    assert report.metrics[report.started[1]]["margin"] > report.metrics[1]["margin"]  # type: ignore[index]
    assert {"text", "rejected", "reward", "rejected_reward"} <= report.samples[0][0].keys()
    assert not (out / "resume").exists()


def test_it_keeps_the_average_of_the_last_weights(
    tmp_path: Path, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def watched(model: ScalarModel, *arguments: Any, **how: Any) -> float:
        norm = apply_gradients(model, *arguments, **how)
        seen.append(model.head.weight.detach().clone())
        return norm

    monkeypatch.setattr(reward, "apply_gradients", watched)
    inputs = small.inputs(parent, comparisons=small.votes(32))
    out = reward.train(CONFIG, inputs, tmp_path / "out", small.Recorder(), small.never)
    kept = seen[len(seen) - round(len(seen) / 2) :]
    assert 1 < len(kept) < len(seen)
    raw = load_reward_model(out).reward_model.head.weight.detach() * read_info(out)["metrics"]["demonstration_spread"]
    torch.testing.assert_close(raw, torch.stack(kept).mean(0).cpu(), atol=1e-5, rtol=1e-5)


def test_the_head_learns_first_alone(tmp_path: Path, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watched(model: ScalarModel, *arguments: Any, **how: Any) -> float:
        norm = apply_gradients(model, *arguments, **how)
        decoder = torch.cat([weight.detach().flatten() for weight in model.decoder.parameters()])
        seen.append((model.head.weight.detach().clone(), decoder))
        return norm

    monkeypatch.setattr(reward, "apply_gradients", watched)
    inputs = small.inputs(parent, comparisons=small.votes(32))
    report = small.Recorder()
    reward.train(CONFIG, inputs, tmp_path / "out", report, small.never)
    probing = len(seen) // 4
    heads, decoders = zip(*seen, strict=True)
    assert probing > 1
    assert all(torch.equal(decoder, decoders[0]) for decoder in decoders[:probing])
    assert not torch.equal(decoders[probing], decoders[0])
    assert all(not torch.equal(before, after) for before, after in pairwise(heads))
    assert report.metrics[1]["lr"] == pytest.approx(5 * CONFIG.lr)
    assert report.metrics[probing + 1]["lr"] <= CONFIG.lr


@pytest.mark.parametrize("config", [CONFIG, dataclasses.replace(CONFIG, lr=3e-4, epochs=1), TAUGHT])
def test_it_scores_demonstrations_zero_on_average_with_deviation_one(
    tmp_path: Path, parent: Path, config: RewardConfig
) -> None:
    inputs = small.inputs(parent, comparisons=small.votes())
    report = small.Recorder()
    out = reward.train(config, inputs, tmp_path / "out", report, small.never)
    judge = load_reward_model(out)  # as any later stage reads it
    sequences = [
        sequence
        for *messages, answer in inputs.corpus.conversations
        for sequence in comparison_sequences(judge.tokenizer, messages, [answer["content"]], context=96)
    ]
    scores = end_scores(judge.reward_model, sequences, pad_id=judge.tokenizer.pad_id)
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert scores.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    info = read_info(out)
    assert info["score_bias"] != 0.0
    assert info["metrics"]["demonstration_spread"] != pytest.approx(1.0, abs=0.01)
    # What a visitor sees of the last evaluation are the scores that the checkpoint gives.
    shown = max(report.samples)
    pair = report.samples[shown][0]
    talk = [{"role": "user", "content": pair["prompt"]}]
    texts = [pair["text"], pair["rejected"]]
    asked = comparison_sequences(judge.tokenizer, talk, texts, context=96)  # type: ignore[arg-type]
    given = end_scores(judge.reward_model, asked, pad_id=judge.tokenizer.pad_id).tolist()
    assert given == pytest.approx([pair["reward"], pair["rejected_reward"]], abs=2e-3)


def test_it_judges_probabilities_by_the_raw_scores(tmp_path: Path, parent: Path) -> None:
    """Bradley-Terry's σ(Δ) is about what was learnt; dividing Δ by a unit afterwards makes another claim."""
    inputs = small.inputs(parent, comparisons=small.votes(32))
    out = reward.train(CONFIG, inputs, tmp_path / "out", small.Recorder(), small.never)
    metrics, judge = read_info(out)["metrics"], load_reward_model(out)
    _, held_out = reward.split_by_prompt(inputs.comparisons, held_out=CONFIG.held_out, seed=inputs.seed)
    standard = reward_agreement(judge.reward_model, judge.tokenizer, held_out)
    with torch.no_grad():
        judge.reward_model.head.weight *= metrics["demonstration_spread"]
        judge.reward_model.bias *= metrics["demonstration_spread"]
    raw = reward_agreement(judge.reward_model, judge.tokenizer, held_out)
    assert metrics["brier"] == pytest.approx(raw.brier, rel=1e-3)
    assert metrics["brier"] != pytest.approx(standard.brier, rel=1e-3)
    assert metrics["agreement"] == standard.agreement


def test_two_models_of_one_opinion_score_alike_whatever_their_scale(model: LanguageModel, tokenizer: Tokenizer) -> None:
    quiet, loud = (ScalarModel.from_language_model(model, generator=random_generator(0, "judge")) for _ in range(2))
    with torch.no_grad():
        loud.head.weight *= 7.0
        loud.bias.fill_(-3.0)
    sequences = [tokenizer.encode(text) for text in ("A fox.", "A rabbit eats grass.", "Mice and berries.", "A den.")]
    scores = []
    for judge in (quiet, loud):
        unit = reward.standardise(judge, reward.scale_of(judge, sequences, pad_id=tokenizer.pad_id))
        scores.append((unit, end_scores(judge, sequences, pad_id=tokenizer.pad_id)))
    assert scores[1][0] == pytest.approx(7 * scores[0][0], rel=1e-4)
    torch.testing.assert_close(scores[0][1], scores[1][1], atol=1e-4, rtol=1e-4)
    assert reward.scale_of(quiet, sequences[:1], pad_id=tokenizer.pad_id).unit == 1.0  # nothing differs: no unit


def test_it_scales_on_the_compared_answers_where_no_conversation_is(tmp_path: Path, parent: Path) -> None:
    inputs = small.inputs(parent, comparisons=small.votes(), corpus=small.corpus(conversations=[]))
    out = reward.train(CONFIG, inputs, tmp_path / "out", small.Recorder(), small.never)
    judge = load_reward_model(out)
    learnt, _ = reward.split_by_prompt(inputs.comparisons, held_out=CONFIG.held_out, seed=inputs.seed)
    sequences = [
        sequence
        for vote in learnt
        for sequence in comparison_sequences(judge.tokenizer, vote.messages, [vote.chosen, vote.rejected], context=96)
    ]
    scores = end_scores(judge.reward_model, sequences, pad_id=judge.tokenizer.pad_id)
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert scores.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)


def test_it_splits_by_prompt() -> None:
    train_set, held_out = reward.split_by_prompt(small.votes(40), held_out=0.25, seed=1)
    assert {vote.prompt for vote in train_set}.isdisjoint({vote.prompt for vote in held_out})
    assert len(train_set) + len(held_out) == 40
    assert len(held_out) == 10  # five votes on each of eight prompts: two prompts
    again = reward.split_by_prompt(small.votes(40), held_out=0.25, seed=1)
    assert again == (train_set, held_out)


def test_it_keeps_a_prompt_to_learn_from() -> None:
    train_set, held_out = reward.split_by_prompt(small.votes(2), held_out=0.99, seed=0)
    assert len(train_set) == len(held_out) == 1


def test_it_refuses_votes_on_one_prompt(tmp_path: Path, parent: Path) -> None:
    inputs = small.inputs(parent, comparisons=small.votes(1) * 5)
    with pytest.raises(ValueError, match="5 comparisons on 1 prompts are not enough"):
        reward.train(CONFIG, inputs, tmp_path / "out", small.Recorder(), small.never)


def test_it_refuses_votes_without_a_winner(tmp_path: Path, parent: Path) -> None:
    undecided = [dataclasses.replace(vote, outcome="both_bad") for vote in small.votes()]
    with pytest.raises(ValueError, match="there is no order to learn"):
        reward.train(CONFIG, small.inputs(parent, comparisons=undecided), tmp_path, small.Recorder(), small.never)


def test_the_last_model_learns_what_its_teachers_say_on_average(
    tmp_path: Path, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[list[list[int]], torch.Tensor]] = []

    def watched(model: ScalarModel, sequences: list[list[int]], **how: Any) -> torch.Tensor:
        scored.append((sequences, end_scores(model, sequences, **how)))
        return scored[-1][1]

    inputs = small.inputs(parent, comparisons=small.votes(32))
    monkeypatch.setattr(reward, "end_scores", watched)
    config = dataclasses.replace(TAUGHT, study_epochs=12)
    out = reward.train(config, inputs, tmp_path / "out", small.Recorder(), small.never)

    most = max(len(sequences) for sequences, _ in scored)
    (studied, first), (_, second) = [asked for asked in scored if len(asked[0]) == most]  # one for each teacher
    assert not torch.allclose(first, second)  # each read the votes in an order of its own
    loaded = load_reward_model(out)
    learnt = end_scores(loaded.reward_model, studied, pad_id=loaded.tokenizer.pad_id)
    assert torch.corrcoef(torch.stack([learnt, (first + second) / 2]))[0, 1] > 0.9


@pytest.mark.parametrize(
    ("config", "checks"), [(CONFIG, 1), (CONFIG, 3), (CONFIG, 7), (TAUGHT, 9), (TAUGHT, 24), (ADAPTED, 24)]
)
def test_it_resumes_to_the_same_bytes(tmp_path: Path, parent: Path, config: RewardConfig, checks: int) -> None:
    inputs = small.inputs(parent, comparisons=small.votes())
    whole = reward.train(config, inputs, tmp_path / "whole", small.Recorder(), small.never)
    with pytest.raises(Stopped):
        reward.train(config, inputs, tmp_path / "cut", small.Recorder(), small.after(checks))
    report = small.Recorder()
    cut = reward.train(config, inputs, tmp_path / "cut", report, small.never)
    assert report.started is not None
    assert report.started[0] == checks
    assert small.weights(cut) == small.weights(whole)
    assert small.adapter(cut) == small.adapter(whole)
    assert read_info(cut)["score_bias"] == read_info(whole)["score_bias"]


def test_adapters_learn_what_the_voters_chose_over_the_parents_own_weights(tmp_path: Path, parent: Path) -> None:
    config = dataclasses.replace(ADAPTED, teachers=1)
    inputs = small.inputs(parent, comparisons=small.votes(32))
    out = reward.train(config, inputs, tmp_path / "out", small.Recorder(), small.never)
    assert read_info(out)["metrics"]["agreement"] == 1.0
    base, merged = load_checkpoint(parent).language_model, load_reward_model(out).reward_model
    adapter = read_adapter(out)
    assert adapter is not None
    kept = adapter.on(base, bias=read_info(out)["score_bias"])
    tokens = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(kept(tokens), merged(tokens), atol=1e-4, rtol=1e-4)
    assert torch.equal(merged.decoder.embed_tokens.weight, base.decoder.embed_tokens.weight)
    assert not torch.equal(merged.decoder.layers[0].mlp.up_proj.weight, base.decoder.layers[0].mlp.up_proj.weight)


@pytest.mark.parametrize("narrow", [10**9, 0])
def test_a_batch_in_pieces_has_the_gradient_of_the_whole(
    parent: Path, narrow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = small.inputs(parent, comparisons=small.votes(14))
    config = dataclasses.replace(CONFIG, batch_pairs=14)
    found = []
    for room in (10**9, 200):  # tokens that go through together
        monkeypatch.setattr(reward, "tokens_at_once", lambda *_, room=room, **__: room)
        monkeypatch.setattr(scoring, "tokens_at_once", lambda *_, room=room, **__: room)
        monkeypatch.setattr(scoring, "NARROW", narrow if room == 200 else 10**9)
        course = reward.Course(start(parent, config, seed=5, out_dir=parent), inputs.comparisons, config, inputs)
        assert (len(course._fitting(range(14), course.pairs)) > 2) is (room == 200)
        metrics = course.read_votes(0, 0)
        found.append((metrics, [parameter.grad for parameter in course.learner.model.parameters()]))
    (whole, expected), (pieces, gradients) = found
    assert pieces == pytest.approx(whole, abs=1e-5)
    for one, other in zip(gradients, expected, strict=True):
        assert one is not None
        assert other is not None
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * other.abs().max().item())


def test_it_starts_from_the_parent_under_a_fresh_head(model: LanguageModel) -> None:
    heads = [
        ScalarModel.from_language_model(model, generator=random_generator(seed, "head")).head.weight
        for seed in range(200)
    ]
    spread = torch.cat(heads).std().item()
    assert spread == pytest.approx(1 / math.sqrt(model.config.width + 1), rel=0.05)


def test_it_scores_a_pair_the_same_padded_and_unpadded(model: LanguageModel, tokenizer: Tokenizer) -> None:
    judge = ScalarModel.from_language_model(model, generator=random_generator(0, "judge"))
    [vote] = small.votes(1)
    both = comparison_sequences(tokenizer, vote.messages, [vote.chosen, vote.rejected], context=96)
    assert len(both[0]) != len(both[1])
    assert all(sequence[-1] == tokenizer.end_id for sequence in both)
    together = end_scores(judge, both, pad_id=tokenizer.pad_id)
    alone = [end_scores(judge, [sequence], pad_id=tokenizer.pad_id).item() for sequence in both]
    torch.testing.assert_close(together, torch.tensor(alone), atol=1e-5, rtol=0)


def test_votes_on_enough_prompts_beat_chance(tmp_path: Path, parent: Path) -> None:
    asked = [
        dataclasses.replace(vote, messages=[{"role": "user", "content": f"What is thing {number}?"}])
        for number, vote in enumerate(small.votes(48))
    ]
    config = dataclasses.replace(CONFIG, held_out=0.5)
    report = small.Recorder()
    out = reward.train(config, small.inputs(parent, comparisons=asked), tmp_path / "out", report, small.never)
    metrics = read_info(out)["metrics"]
    assert metrics["held_out_prompts"] == metrics["held_out_comparisons"] > 15
    assert metrics["beats_chance"] is True
    assert 0.5 < metrics["agreement_interval"][0] < metrics["agreement"]


def agreement(**changes: float | None) -> Agreement:
    values = {"comparisons": 40, "prompts": 40, "agreement": 0.9, "low": 0.77, "high": 0.96}
    rest = {"length_only_agreement": 0.6, "length_correlation": 0.0, "calibration_error": None, "brier": 0.1}
    return Agreement(**values | rest | changes)  # type: ignore[arg-type]


def test_it_doubts_a_model_that_could_be_lucky_or_only_counts_words() -> None:
    assert doubts_about(reward.figures(agreement())) == []
    [text] = doubts_about(reward.figures(agreement(agreement=0.7, low=0.45)))
    assert "70% of 40 held-out votes on 40 questions, which could be luck" in text
    [text] = doubts_about(reward.figures(agreement(length_only_agreement=0.95)))
    assert "length of the answers alone would reach 95%" in text
    [text] = doubts_about(reward.figures(agreement(comparisons=0)))
    assert "nobody knows" in text
    assert doubts_about({}) == doubts_about({"held_out_comparisons": 4, "agreement": "high"}) == []


def test_it_doubts_a_model_tested_on_a_handful() -> None:
    """However right it was on them: also one that an earlier version let pass on six votes."""
    [text] = doubts_about(reward.figures(agreement(comparisons=6, prompts=6, agreement=1.0)))
    assert "100% of 6 held-out votes on 6 questions: too few to say" in text
    [text] = doubts_about(reward.figures(agreement(comparisons=40, prompts=1, agreement=1.0)))
    assert "40 held-out votes on 1 question: too few to say" in text
    earlier = {"held_out_comparisons": 6, "agreement": 1.0, "length_only_agreement": 0.5}
    [text] = doubts_about(earlier | {"beats_chance": True, "beats_length": True})
    assert "100% of 6 held-out votes: too few to say" in text


def test_it_reports_agreement_with_the_majority_where_voters_differ(model: LanguageModel, tokenizer: Tokenizer) -> None:
    judge = ScalarModel.from_language_model(model, generator=random_generator(0, "judge"))
    vote, other = small.votes(2)
    turned = dataclasses.replace(vote, chosen=vote.rejected, rejected=vote.chosen)
    agrees, differs = (
        reward_agreement(judge, tokenizer, [one]).agreement for one in (vote, turned)
    )  # it prefers one of the two
    assert agrees + differs == 1.0
    both_ways = [
        reward.by_votes(judge, tokenizer, [*votes, other, other])
        for votes in ([vote, turned, vote], [turned, vote] * 2)
    ]
    assert both_ways[0]["agreement_when_voters_differ"] == agrees
    assert both_ways[0]["pairs_voters_differ_on"] == 1
    assert "agreement_when_voters_differ" not in both_ways[1]  # two against two: no majority to agree with
    for result in both_ways:
        assert result["agreement_when_voters_agree"] == reward_agreement(judge, tokenizer, [other]).agreement
        assert result["pairs_voters_agree_on"] == 1
    most = reward.by_votes(judge, tokenizer, [turned, vote, turned])
    assert most == {"agreement_when_voters_differ": differs, "pairs_voters_differ_on": 1}
    assert reward.by_votes(judge, tokenizer, [vote, other]) == {}


@pytest.mark.parametrize(("knows", "expected"), [(1.0, 0.7), (0.5, 0.5), (0.0, 0.3)])
def test_agreement_where_voters_differ_tells_a_good_model_from_a_bad_one(
    model: LanguageModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, knows: float, expected: float
) -> None:
    """Three voters a pair, each right in 70 %: where they differ, so is their majority. Vote by vote it was 57 at best.

    The judge is right about a pair with probability `knows`; what a model would score is read off the answers' names.
    """
    rng = random.Random(4)
    votes = []
    for number in range(2000):
        judged_right = rng.random() < knows
        good, bad = f"{number} {int(judged_right)}", f"{number} {int(not judged_right)}"
        for _ in range(3):
            chosen, rejected = (good, bad) if rng.random() < 0.7 else (bad, good)
            messages = [{"role": "user", "content": f"Question {number}?"}]
            votes.append(Comparison(messages=messages, chosen=chosen, rejected=rejected))

    def by_name(_: ScalarModel, __: Tokenizer, asked: list[Comparison]) -> Agreement:
        scores = torch.tensor([[float(text[-1]) for text in (one.chosen, one.rejected)] for one in asked])
        return agreement_of(scores, torch.ones_like(scores), [one.prompt for one in asked])

    monkeypatch.setattr(reward, "reward_agreement", by_name)
    judge = ScalarModel.from_language_model(model, generator=random_generator(0, "judge"))
    result = reward.by_votes(judge, tokenizer, votes)
    assert result["pairs_voters_differ_on"] > 1000
    assert result["agreement_when_voters_differ"] == pytest.approx(expected, abs=0.04)

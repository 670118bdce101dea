from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch

from tests.trainer import small
from trainer.config import GRPOConfig
from trainer.evaluation.asking import Answer
from trainer.evaluation.card import evaluate_checkpoint
from trainer.lineage import Inputs
from trainer.model import starting
from trainer.model.checkpoint import read_info
from trainer.model.decoder import LanguageModel
from trainer.model.engine import END, LENGTH, Completion, Engine, Sampling
from trainer.model.tokenizer import Tokenizer
from trainer.rl import scoring
from trainer.rl.rollout import Rollout
from trainer.rl.shelves import by_difficulty, choose_problems, next_level
from trainer.runtime import machine
from trainer.runtime.errors import Diverged, Stopped
from trainer.runtime.optim import adamw
from trainer.runtime.seeds import random_generator
from trainer.stages import grpo
from trainer.tasks.problem import UNKNOWN, Problem, Verdict

CONFIG = GRPOConfig(steps=4, problems=3, group=4, minibatch=8, lr=1e-3, max_new_tokens=8, evaluations=2)


@pytest.fixture
def inputs(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> Inputs:
    return small.inputs(small.save_parent(tmp_path / "sft", model, tokenizer))


@pytest.fixture
def guessing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers count although they are cut off, so that an untrained model has something to learn by `guess`."""
    monkeypatch.setattr(Rollout, "is_complete", True)


def guess(problem: Problem, text: str) -> Verdict:
    """A judge that likes texts of even length."""
    return Verdict(correct=len(text) % 2 == 0, answer="1", worked_steps=False)


def rollout(reward: float, *, group: int, finish_reason: str = END, size: int = 2) -> Rollout:
    return Rollout(
        prompt=[5, 6],
        response=[7 + place for place in range(size)],
        old_logprobs=[-6.0] * size,
        finish_reason=finish_reason,
        group=group,
        reward=reward,
    )


def run_update(kept: list[Rollout], model: LanguageModel, config: GRPOConfig = CONFIG) -> dict[str, float]:
    optimizer = adamw(list(model.parameters()), lr=config.lr)
    return grpo.update(kept, model, model, config, optimizer, pad_id=3, order=random_generator(0, "order"))


@pytest.mark.usefixtures("guessing")
def test_it_solves_more(tmp_path: Path, inputs: Inputs) -> None:
    config = dataclasses.replace(CONFIG, steps=25, problems=6, group=8, minibatch=24, lr=3e-3)
    report = small.Recorder()
    grpo.train(config, inputs, tmp_path / "out", report, small.never, judge=guess)
    assert report.metrics[1]["solved"] < 0.8
    assert sum(report.metrics[step]["solved"] for step in (23, 24, 25)) / 3 > 0.95


@pytest.mark.usefixtures("guessing")
def test_it_reports_what_a_person_watches(tmp_path: Path, inputs: Inputs) -> None:
    report = small.Recorder()
    out = grpo.train(CONFIG, inputs, tmp_path / "out", report, small.never, judge=guess)
    watched = {"solved", "mean_reward", "kl", "entropy", "zero_variance", "length", "level", "first_ratio", "ended"}
    for step in range(1, 5):
        assert watched <= report.metrics[step].keys()
        assert report.metrics[step]["first_ratio"] == pytest.approx(1.0, abs=1e-4)
    assert "pass_at_1" in report.metrics[0]
    group = [sample for sample in report.samples[4] if "advantage" in sample]
    assert len(group) == 4
    assert len({sample["prompt"] for sample in group}) == 1
    assert sum(sample["advantage"] for sample in group) == pytest.approx(0.0, abs=0.01)
    assert [len(report.practised[step]) for step in range(1, 5)] == [4] * 4  # a group of every step
    assert report.practised[4] == group
    assert read_info(out)["metrics"]["solved"] == report.metrics[4]["solved"]
    assert not (out / "resume").exists()


@pytest.mark.usefixtures("guessing")
@pytest.mark.parametrize(("rank", "checks"), [(0, 1), (0, 2), (0, 3), (4, 2)])
def test_it_resumes_to_the_same_bytes(tmp_path: Path, inputs: Inputs, rank: int, checks: int) -> None:
    # So that the difficulty moves, and must be remembered.
    config = dataclasses.replace(CONFIG, solved_high=0.3, adapter_rank=rank)
    whole = grpo.train(config, inputs, tmp_path / "whole", small.Recorder(), small.never, judge=guess)
    with pytest.raises(Stopped):
        grpo.train(config, inputs, tmp_path / "cut", small.Recorder(), small.after(checks), judge=guess)
    report = small.Recorder()
    cut = grpo.train(config, inputs, tmp_path / "cut", report, small.never, judge=guess)
    assert report.started == (checks, 4)
    assert small.weights(cut) == small.weights(whole)
    assert small.adapter(cut) == small.adapter(whole)
    assert bool(small.adapter(whole)) is (rank > 0)
    assert small.weights(whole) != small.weights(inputs.parent)  # type: ignore[arg-type]
    assert read_info(cut)["metrics"] == read_info(whole)["metrics"]


@pytest.mark.usefixtures("guessing")
def test_an_anchor_keeps_what_the_reward_does_not_ask_for(tmp_path: Path, inputs: Inputs) -> None:
    drifts = {}
    for weight in (0.001, 10.0):
        config = dataclasses.replace(CONFIG, steps=12, anchor_weight=weight)
        report = small.Recorder()
        grpo.train(config, inputs, tmp_path / str(weight), report, small.never, judge=guess)
        first, *_, drifts[weight] = [found["anchor_kl"] for found in report.metrics.values() if "anchor_kl" in found]
        assert first < drifts[weight]  # a round's mean: its first step starts at nothing
    assert drifts[10.0] < 0.5 * drifts[0.001]


@pytest.mark.usefixtures("guessing")
@pytest.mark.parametrize(("rank", "minibatch"), [(4, 12), (4, 8), (0, 8)])
def test_in_bfloat16_the_first_ratio_is_exactly_one(
    tmp_path: Path, inputs: Inputs, rank: int, minibatch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "choose_precision", lambda width: "bfloat16")
    monkeypatch.setattr(starting, "ENTIRE", 0)
    monkeypatch.setattr(scoring, "NARROW", 0)  # prompts are read once, too
    report = small.Recorder()
    config = dataclasses.replace(CONFIG, adapter_rank=rank, minibatch=minibatch)
    grpo.train(config, inputs, tmp_path / "out", report, small.never, judge=guess)
    learnt = [found for found in report.metrics.values() if found.get("updates")]
    assert learnt
    for found in learnt:
        assert found["first_ratio"] == 1.0
        assert 0.0 < found["sampler_error"] < 0.2


def test_log_probs_of_one_step_are_those_that_a_pass_of_its_own_would_give(model: LanguageModel) -> None:
    """A round of one step takes the sampling log-probs from that step, and saves a pass."""
    kept = [dataclasses.replace(rollout(1.0, group=0), advantage=advantage) for advantage in (1.0, -0.5, -0.5)]
    found = []
    for epochs, minibatch in ((1, 3), (2, 3)):
        policy = copy.deepcopy(model)
        config = dataclasses.replace(CONFIG, lr=0.0, epochs=epochs, minibatch=minibatch)
        optimizer = adamw(list(policy.parameters()), lr=0.0)
        order = random_generator(0, "order")
        found.append(grpo.update(kept, policy, model, config, optimizer, pad_id=3, order=order, rescores=True))
    for name in ("loss", "grad_norm", "first_ratio", "sampler_error", "approx_kl"):
        assert found[0][name] == pytest.approx(found[1][name], abs=1e-6)
    assert found[0]["sampler_error"] > 0.1  # -6.0 is what the sampler is said to have seen
    assert found[0]["first_ratio"] == 1.0


def test_it_goes_on_when_nothing_can_be_learnt(tmp_path: Path, inputs: Inputs) -> None:
    """An untrained model solves nothing: every group is without variance, and nothing moves."""
    report = small.Recorder()
    out = grpo.train(CONFIG, inputs, tmp_path / "out", report, small.never)
    assert [report.metrics[step]["zero_variance"] for step in range(1, 5)] == [1.0] * 4
    assert report.metrics[4]["updates"] == 0.0
    assert small.weights(out) == small.weights(inputs.parent)  # type: ignore[arg-type]


def test_it_counts_no_held_out_answer_that_was_cut_off(
    monkeypatch: pytest.MonkeyPatch, inputs: Inputs, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    texts = [problem.worked for problem in inputs.corpus.held_out_problems]
    answers = [Answer(text=text, prompt=[1], tokens=[2], ended=place > 0) for place, text in enumerate(texts)]
    monkeypatch.setattr(grpo, "ask", lambda *_, **__: answers)
    engine = Engine(model, end_ids=[tokenizer.end_id])
    assert grpo.held_out_figures(engine, tokenizer, inputs, CONFIG, None) == {"pass_at_1": 0.5, "held_out_problems": 2}


def test_it_measures_the_taste_again_with_a_reward_model(
    tmp_path: Path, inputs: Inputs, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    report = small.Recorder()
    judged = dataclasses.replace(inputs, reward_model=small.save_judge(tmp_path / "reward", model, tokenizer))
    grpo.train(CONFIG, judged, tmp_path / "out", report, small.never)
    assert math.isfinite(report.metrics[4]["taste_reward"])


def test_it_samples_and_is_measured_at_one_length_with_one_set_of_ends(
    tmp_path: Path, inputs: Inputs, model: LanguageModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[tuple[int, frozenset[int]]] = set()
    generate = Engine.generate

    def watched(engine: Engine, prompts: list[list[int]], sampling: list[Sampling]) -> list[Completion]:
        asked.update((how.max_new_tokens, engine.end_ids) for how in sampling)
        return generate(engine, prompts, sampling)

    monkeypatch.setattr(Engine, "generate", watched)
    judge = small.save_judge(tmp_path / "reward", model, tokenizer)
    out = grpo.train(
        CONFIG, dataclasses.replace(inputs, reward_model=judge), tmp_path / "out", small.Recorder(), small.never
    )
    evaluate_checkpoint(out, corpus=inputs.corpus, reward_model=judge)
    assert asked == {(CONFIG.max_new_tokens, frozenset(tokenizer.end_ids))}


def test_it_refuses_to_measure_with_a_reward_model_that_reads_other_tokens(
    tmp_path: Path, inputs: Inputs, model: LanguageModel
) -> None:
    other = Tokenizer.train(["quite another text about ships"], 300)
    judged = dataclasses.replace(inputs, reward_model=small.save_judge(tmp_path / "reward", model, other))
    with pytest.raises(ValueError, match="has another tokenizer"):
        grpo.train(CONFIG, judged, tmp_path / "out", small.Recorder(), small.never)


def test_it_pays_for_form_only_when_the_answer_is_right() -> None:
    """The pitfall: an additive format reward teaches neat steps to wrong answers."""

    def reward(correct: bool, worked: bool) -> float:
        return grpo.verdict_reward(Verdict(correct=correct, answer="1", worked_steps=worked), format_reward=0.1)

    assert reward(True, True) == 1.1
    assert reward(True, False) == 1.0
    assert reward(False, True) == 0.0
    assert reward(False, False) == 0.0


def test_it_checks_answers_against_their_own_problem(tokenizer: Tokenizer) -> None:
    problems = [Problem(prompt="?", answer=answer, family="f", difficulty=1, worked="") for answer in ("12", "7")]
    texts = ["7 + 5 = 12. The answer is 12.", "The answer is 12.", "The answer is 12.", "14 - 7 = 7. The answer is 7."]
    rollouts = [
        Rollout(
            prompt=[5],
            response=[*tokenizer.encode(text), tokenizer.end_id],
            old_logprobs=[],
            finish_reason=END,
            group=index // 2,
        )
        for index, text in enumerate(texts)
    ]
    verdicts = grpo.check(rollouts, problems, tokenizer, format_reward=0.1)
    assert [one.reward for one in rollouts] == [1.1, 1.0, 0.0, 1.1]
    assert [verdict.correct for verdict in verdicts] == [True, True, False, True]


def test_it_counts_an_answer_that_was_cut_off_as_wrong(tokenizer: Tokenizer) -> None:
    [problem] = [Problem(prompt="?", answer="12", family="f", difficulty=1, worked="")]
    cut = Rollout(
        prompt=[5], response=tokenizer.encode("The answer is 12."), old_logprobs=[], finish_reason=LENGTH, group=0
    )
    [verdict] = grpo.check([cut], [problem], tokenizer, format_reward=0.1)
    assert (verdict.correct, cut.reward) == (False, 0.0)


def test_it_drops_groups_that_teach_nothing() -> None:
    rollouts = [
        rollout(reward, group=number // 4) for number, reward in enumerate([1.0] * 4 + [0.0] * 4 + [1, 0, 0, 0])
    ]
    kept = grpo.compare(rollouts, group=4)
    assert kept == rollouts[8:]
    # mean 0.25, sample deviation 0.5: advantages 1.5 and -0.5 (less the 1e-4 that guards the division)
    assert [one.advantage for one in kept] == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)
    assert [one.reward for one in kept] == [1.0, 0.0, 0.0, 0.0]  # rewards stay what they were


def test_missing_steps_weigh_less_than_a_wrong_answer() -> None:
    without_steps = [rollout(reward, group=0) for reward in [1.1] * 7 + [1.0]]
    wrong = [rollout(reward, group=0) for reward in [1.1] * 7 + [0.0]]
    grpo.compare(without_steps, group=8)
    grpo.compare(wrong, group=8)
    # (1.0 - 1.0875) / √(1/8), and (0.0 - 0.9625) / (1.1 · √(1/8)): by their own spread both would be -2.47
    assert without_steps[-1].advantage == pytest.approx(-0.2475, abs=1e-3)
    assert wrong[-1].advantage == pytest.approx(-2.4749, abs=1e-3)


def test_it_refuses_a_reward_that_is_not_a_number() -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        grpo.compare([rollout(math.nan, group=0), rollout(1.0, group=0)], group=2)


def test_it_learns_nothing_from_answers_that_were_cut_off(model: LanguageModel) -> None:
    before = model.decoder.embed_tokens.weight.clone()
    cut = rollout(1.0, group=0, finish_reason=LENGTH)
    cut.advantage = 3.0
    assert run_update([cut, cut], model)["updates"] == 0.0
    assert torch.equal(model.decoder.embed_tokens.weight, before)


def test_it_makes_better_answers_likelier(model: LanguageModel) -> None:
    good, bad = rollout(1.0, group=0), rollout(0.0, group=0, size=3)
    good.response, good.advantage, bad.advantage = [20, 21], 1.0, -1.0
    batch = grpo.pad([good, bad], pad_id=3)

    def likelihoods() -> list[float]:
        with torch.no_grad():
            return grpo.response_logprobs(model, batch, temperature=1.0).sum(-1).tolist()

    good.old_logprobs, bad.old_logprobs = (
        row[mask].tolist()
        for row, mask in zip(
            grpo.response_logprobs(model, batch, temperature=1.0).detach(), batch.is_response, strict=True
        )
    )
    before = likelihoods()
    metrics = run_update([good, bad], model)
    after = likelihoods()
    assert metrics["updates"] == 1.0
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_it_refuses_a_gradient_that_is_not_a_number(model: LanguageModel) -> None:
    poisoned = rollout(1.0, group=0)
    poisoned.advantage = math.inf
    with pytest.raises(Diverged, match="gradient"):
        run_update([poisoned], model)


def test_it_pulls_towards_the_parent_when_asked_to(model: LanguageModel) -> None:
    sampled = rollout(1.0, group=0)
    sampled.advantage = 1.0
    batch = grpo.pad([sampled], pad_id=3)
    reference = grpo.score_logprobs(model, batch, temperature=1.0)
    with_kl = grpo._token_advantages(batch, model, dataclasses.replace(CONFIG, kl_weight=0.1))
    # one number per token: 1 - 0.1 · (log p - log q), with log p = -6 as sampled
    expected = 1.0 - 0.1 * (-6.0 - reference[0, 1:3])
    torch.testing.assert_close(with_kl[0, 1:3], expected)
    assert torch.equal(grpo._token_advantages(batch, model, CONFIG), torch.tensor([1.0]))


def test_it_steers_the_difficulty() -> None:
    shelves = by_difficulty(small.corpus().problems, hardest=4)
    assert list(shelves) == [1, 2, 3]
    assert next_level(2.0, 0.81, CONFIG, shelves) == 2.25
    assert next_level(2.0, 0.5, CONFIG, shelves) == 2.0
    assert next_level(2.0, 0.19, CONFIG, shelves) == 1.75
    assert next_level(3.0, 1.0, CONFIG, shelves) == 3.0
    assert next_level(1.0, 0.0, CONFIG, shelves) == 1.0


@pytest.mark.parametrize(("hardest", "kept"), [(4, [1, 2, 3]), (2, [1, 2]), (0, [1])])
def test_it_leaves_out_what_is_too_hard_but_never_everything(hardest: int, kept: list[int]) -> None:
    assert list(by_difficulty(small.corpus().problems, hardest=hardest)) == kept


def test_it_practises_what_was_learnt_and_meets_early_what_comes_next() -> None:
    shelves = by_difficulty(small.corpus().problems, hardest=4)
    chosen = choose_problems(shelves, 20_000, level=2.0, generator=random_generator(0, "problems"))
    shares = [sum(problem.difficulty == number for problem in chosen) / 20_000 for number in (1, 2, 3)]
    total = 2 + math.exp(-1)
    assert shares == pytest.approx([1 / total, 1 / total, math.exp(-1) / total], abs=0.015)


@pytest.mark.usefixtures("guessing")
@pytest.mark.parametrize("checks", [1, 3])
def test_it_resumes_exactly_where_problems_do_not_say_how_hard_they_are(
    tmp_path: Path, inputs: Inputs, checks: int
) -> None:
    """What was solved so far chooses the next problems, and the parent's own answers hold it: both are remembered."""
    unknown = [dataclasses.replace(problem, difficulty=UNKNOWN) for problem in inputs.corpus.problems]
    inputs = dataclasses.replace(inputs, corpus=small.corpus(problems=unknown, conversations=[]))
    config = dataclasses.replace(CONFIG, anchor_answers=4)
    whole_report, report = small.Recorder(), small.Recorder()
    whole = grpo.train(config, inputs, tmp_path / "whole", whole_report, small.never, judge=guess)
    with pytest.raises(Stopped):
        grpo.train(config, inputs, tmp_path / "cut", small.Recorder(), small.after(checks), judge=guess)
    cut = grpo.train(config, inputs, tmp_path / "cut", report, small.never, judge=guess)
    assert small.weights(cut) == small.weights(whole)
    assert whole_report.logs == ["It is held to 4 answers that its parent gave to prompts of the corpus."]
    assert report.logs == []  # it does not ask again: the policy is not the parent any more
    assert all("anchor_kl" in found for step, found in whole_report.metrics.items() if step and found["updates"])


def test_a_parent_that_had_nothing_whole_to_say_is_not_asked_again(
    inputs: Inputs, model: LanguageModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run would ask the policy, which is not the parent any more."""
    asked: list[int] = []
    monkeypatch.setattr(grpo, "own_conversations", lambda *_, **how: asked.append(how["count"]) or [])
    state, report = {"said": None}, small.Recorder()
    config = dataclasses.replace(CONFIG, anchor_answers=4)
    for _ in range(2):  # at first, and when resumed
        grpo.hold(model, model, Engine(model, end_ids=[2]), tokenizer, config, inputs, state, report)
    assert asked == [4]
    assert state == {"said": []}


def test_it_goes_on_without_an_anchor_and_says_so(tmp_path: Path, inputs: Inputs) -> None:
    inputs = dataclasses.replace(inputs, corpus=small.corpus(conversations=[]))
    report = small.Recorder()
    grpo.train(dataclasses.replace(CONFIG, steps=1), inputs, tmp_path / "out", report, small.never)
    assert report.logs == [
        "There are no conversations about anything else. So nothing but its problems holds the model to its parent."
    ]

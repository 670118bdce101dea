from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from tests.trainer import small
from trainer.evaluation import asking
from trainer.evaluation import card as cards
from trainer.evaluation import reward_model as judging
from trainer.evaluation import text as held_out_text
from trainer.evaluation.asking import Answer, pass_at_k, win_rate
from trainer.evaluation.reward_model import agreement_of
from trainer.model.decoder import LanguageModel
from trainer.model.engine import Engine
from trainer.model.tokenizer import Tokenizer
from trainer.tasks.question import Question
from trainer.world.tastes import TASTES


def test_it_counts_a_tie_as_half_a_win() -> None:
    verdicts = {("x", "p"): "a", ("y", "q"): "tie", ("z", "r"): "b", ("v", "s"): "a"}
    result = win_rate(list("xyzv"), list("pqrs"), list("1234"), lambda a, b: verdicts[a, b])
    assert result is not None
    assert result.share == 2.5 / 4
    assert (result.count, result.groups) == (4, 4)
    assert win_rate([], [], [], lambda a, b: "tie") is None


def test_wins_on_few_prompts_say_little_however_many_answers() -> None:
    """150 answers to four prompts each: six hundred answers, and too few prompts to say anything."""
    prompts = [str(number // 150) for number in range(600)]
    few = win_rate(["x"] * 600, ["y"] * 600, prompts, lambda a, b: "a")
    assert few is not None
    assert (few.share, few.low, few.high, few.is_enough) == (1.0, 0.0, 1.0, False)
    many = win_rate(["x"] * 600, ["y"] * 600, [str(number // 10) for number in range(600)], lambda a, b: "a")
    assert many is not None
    assert many.is_above(0.9)


def test_it_compares_answers_in_pairs_only() -> None:
    with pytest.raises(ValueError, match="zip"):
        win_rate(["a"], ["a", "b"], ["p"], lambda a, b: "tie")


def test_it_estimates_pass_at_k_without_bias() -> None:
    # n = 4, c = 2, k = 2: of 6 pairs only one holds no right answer
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert pass_at_k(8, 0, 8) == 0.0
    assert pass_at_k(8, 1, 8) == 1.0
    assert pass_at_k(8, 5, 4) == 1.0  # four draws cannot all miss
    with pytest.raises(ValueError, match="needs at least 9 samples"):
        pass_at_k(8, 1, 9)


def test_it_measures_bits_per_byte(model: LanguageModel, tokenizer: Tokenizer) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # every token equally likely: log2(V) bits each
    text = "The fox eats mice."
    tokens = len(tokenizer.encode(text)) + 1  # and the end of the document
    expected = tokens * math.log2(tokenizer.vocab_size) / len(text.encode())
    assert held_out_text.bits_per_byte(model, tokenizer, [text]) == pytest.approx(expected, rel=1e-6)


def test_it_measures_documents_together_as_apart(model: LanguageModel, tokenizer: Tokenizer) -> None:
    texts = ["A fox.", "The rabbit eats grass under the old tree.", "Den."]
    together = held_out_text.bits_per_byte(model, tokenizer, texts) * sum(map(len, texts))
    apart = sum(held_out_text.bits_per_byte(model, tokenizer, [text]) * len(text) for text in texts)
    assert together == pytest.approx(apart, rel=1e-5)


def test_it_reads_a_document_longer_than_the_context(model: LanguageModel, tokenizer: Tokenizer) -> None:
    text = "The fox eats mice and berries. " * 40
    assert len(tokenizer.encode(text)) > model.config.context
    assert math.isfinite(held_out_text.bits_per_byte(model, tokenizer, [text]))
    with pytest.raises(ValueError, match="no held-out text"):
        held_out_text.bits_per_byte(model, tokenizer, [])


def test_it_never_holds_more_logits_than_it_allows_itself(
    model: LanguageModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*("A fox." for _ in range(40)), "The rabbit eats grass.", "The fox eats mice and berries. " * 40]
    expected = held_out_text.bits_per_byte(model, tokenizer, texts)
    passes: list[tuple[int, int]] = []
    model.decoder.register_forward_hook(lambda module, tokens, hidden: passes.append(tuple(hidden.shape[:2])))
    assert held_out_text.bits_per_byte(model, tokenizer, texts) == expected
    assert max(rows for rows, _ in passes) == 32
    passes.clear()
    monkeypatch.setattr(held_out_text, "LOGITS_AT_ONCE", 100 * model.config.vocab_size)
    assert held_out_text.bits_per_byte(model, tokenizer, texts) == pytest.approx(expected, rel=1e-6)
    assert max(rows * tokens for rows, tokens in passes) <= 100
    assert max(rows for rows, _ in passes) > 1  # as many short ones as fit
    monkeypatch.setattr(held_out_text, "LOGITS_AT_ONCE", 1)  # not even one row fits: one at a time then
    assert held_out_text.bits_per_byte(model, tokenizer, texts) == pytest.approx(expected, rel=1e-6)


def test_it_lets_xz_learn_from_the_training_text() -> None:
    known = [f"The {thing} lives under tree number {number}." for number in range(40) for thing in small.THINGS]
    seen, unseen = (
        held_out_text.xz_bits_per_byte(known, known[:50]),
        held_out_text.xz_bits_per_byte(["Nothing."], known[:50]),
    )
    assert 0 <= seen < 0.5 < unseen


def test_it_asks_greedily_in_the_chat_template(model: LanguageModel, tokenizer: Tokenizer) -> None:
    engine = Engine(model, end_ids=[tokenizer.end_id])
    [first] = asking.ask(engine, tokenizer, ["What is a fox?"], stage="sft", max_new_tokens=8)
    [again] = asking.ask(engine, tokenizer, ["What is a fox?"], stage="sft", max_new_tokens=8, seed=9)
    assert first == again  # greedy: the seed does not matter
    assert (
        first.prompt
        == tokenizer.render_chat([{"role": "user", "content": "What is a fox?"}], add_generation_prompt=True)[0]
    )
    [document] = asking.ask(engine, tokenizer, ["What is a fox?"], stage="pretrain", max_new_tokens=8)
    assert document.prompt == [tokenizer.document_end_id, *tokenizer.encode("What is a fox?")]


def test_it_samples_copies_side_by_side(model: LanguageModel, tokenizer: Tokenizer) -> None:
    engine = Engine(model, end_ids=[tokenizer.end_id])
    answers = asking.ask(
        engine, tokenizer, ["A?", "B?"], stage="sft", temperature=1.0, copies=3, seed=1, max_new_tokens=8
    )
    assert [answer.prompt for answer in answers[:3]] == [answers[0].prompt] * 3
    assert answers[3].prompt != answers[0].prompt
    assert len({answer.text for answer in answers[:3]}) > 1


def test_it_grades_answers_in_order() -> None:
    questions = [
        Question(prompt="?", accept=(word,), family="f", fact="g") for word in ("mice", "grass", "a den", "honey")
    ]
    texts = ["A fox eats mice.", "It eats mice.", "In a den!", ""]
    answers = [Answer(text=text, prompt=[1], tokens=[2], ended=True) for text in texts]
    assert asking.share_right(questions, answers) == 0.5


def test_it_counts_no_answer_that_was_cut_off(
    monkeypatch: pytest.MonkeyPatch, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    """Noise that happens to hold the number, cut off at the limit, must not pass for a solution."""
    right = Answer(text="The answer is 3.", prompt=[1], tokens=[2], ended=True)
    cut_off = dataclasses.replace(right, ended=False)
    wrong = dataclasses.replace(right, text="The answer is 4.")
    problem = dataclasses.replace(small.corpus().problems[0], answer="3")
    assert [asking.solves(problem, answer) for answer in (right, cut_off, wrong)] == [True, False, False]

    def ask(*_: object, temperature: float = 0.0, **__: object) -> list[Answer]:
        return [*[cut_off] * 8, right, *[wrong] * 7] if temperature else [right, cut_off]

    monkeypatch.setattr(asking, "ask", ask)
    engine = Engine(model, end_ids=[tokenizer.end_id])
    passes = asking.problem_passes(engine, tokenizer, [problem, problem], stage="sft", seed=0, max_new_tokens=8)
    assert passes == {"pass_at_1": 0.5, "pass_at_8": 0.5}


def test_it_judges_a_reward_model_on_pairs() -> None:
    scores = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 1.0], [5.0, 1.0]])
    lengths = torch.tensor([[4.0, 9.0], [7.0, 5.0], [3.0, 8.0], [2.0, 2.0]])
    judged = agreement_of(scores, lengths, ["a", "b", "c", "d"])
    assert judged.agreement == (1 + 0 + 0.5 + 1) / 4
    assert judged.length_only_agreement == (1 + 0 + 1 + 0.5) / 4  # "shorter wins", a tie counting half
    assert not judged.beats_chance
    assert not judged.beats_length  # equal is not better
    sigmoids = [1 / (1 + math.exp(-delta)) for delta in (1, -3, 0, 4)]
    assert judged.brier == pytest.approx(sum((1 - p) ** 2 for p in sigmoids) / 4, abs=1e-6)


def test_it_takes_the_better_rule_of_length() -> None:
    longer_wins = agreement_of(torch.zeros(4, 2), torch.tensor([[9.0, 1.0]] * 3 + [[1.0, 9.0]]), ["a", "b", "c", "d"])
    assert longer_wins.length_only_agreement == 0.75


def test_it_correlates_score_and_length() -> None:
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    prompts = ["a", "b"]
    assert agreement_of(scores, 10 * scores + 3, prompts).length_correlation == pytest.approx(1.0)
    assert agreement_of(scores, -scores, prompts).length_correlation == pytest.approx(-1.0)
    assert agreement_of(scores, torch.ones(2, 2), prompts).length_correlation == 0.0


def test_it_says_nothing_without_comparisons() -> None:
    judged = agreement_of(torch.empty(0, 2), torch.empty(0, 2), [])
    assert (judged.comparisons, judged.agreement, judged.low, judged.high) == (0, 0.5, 0.0, 1.0)


@pytest.mark.parametrize("count", range(3, 60))
def test_a_reward_model_that_is_right_as_often_as_length_does_not_beat_it(count: int) -> None:
    """In single precision 4 of 6 and 1 - 2 of 6 are two numbers."""
    right = [[1.0, 0.0]] * (count * 2 // 3) + [[0.0, 1.0]] * (count - count * 2 // 3)
    judged = agreement_of(torch.tensor(right), torch.tensor(right), [str(number) for number in range(count)])
    assert judged.agreement == judged.length_only_agreement
    assert not judged.beats_length


def test_pairs_of_one_prompt_say_less_than_pairs_of_many() -> None:
    """A hundred pairs, 80 of them right: on a hundred prompts, on ten that are all right or all wrong, on one."""
    right = torch.tensor([1.0] * 80 + [0.0] * 20)
    scores = torch.stack([right, 1 - right], dim=1)
    apart, together, one = (
        agreement_of(scores, torch.ones(100, 2), [str(number // size) for number in range(100)])
        for size in (1, 10, 100)
    )
    assert [judged.beats_chance for judged in (apart, together, one)] == [True, False, False]
    assert apart.low == pytest.approx(0.71, abs=0.01)
    assert together.low < 0.45
    assert (one.low, one.high, one.prompts, one.comparisons) == (0.0, 1.0, 1, 100)


def test_forty_right_pairs_on_one_prompt_beat_nothing() -> None:
    scores = torch.tensor([[1.0, 0.0]] * 40)
    assert not agreement_of(scores, torch.ones(40, 2), ["the same"] * 40).beats_chance
    assert not agreement_of(scores, torch.ones(40, 2), ["first", "second"] * 20).beats_chance
    assert agreement_of(scores, torch.ones(40, 2), [str(number) for number in range(40)]).beats_chance


def test_it_leaves_calibration_out_where_there_are_too_few_pairs() -> None:
    scores = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    prompts = [str(number) for number in range(200)]
    assert agreement_of(scores[:20], torch.ones(20, 2), prompts[:20]).calibration_error is None
    assert agreement_of(scores, torch.ones(200, 2), prompts).calibration_error is not None


def test_it_asks_a_reward_model_about_decided_pairs_only(
    tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    judge = cards.load_reward_model(small.save_judge(tmp_path, model, tokenizer)).reward_model
    votes = small.votes(14)
    assert sum(vote.outcome == "tie" for vote in votes) == 2
    assert judging.reward_agreement(judge, tokenizer, votes).comparisons == 12
    turned = [dataclasses.replace(vote, chosen=vote.rejected, rejected=vote.chosen) for vote in votes]
    both = [judging.reward_agreement(judge, tokenizer, some).agreement for some in (votes, turned)]
    assert sum(both) == pytest.approx(1.0)


def test_it_labels_pairs_by_the_true_taste() -> None:
    def answer(text: str) -> Answer:
        return Answer(text=text, prompt=[1], tokens=[2], ended=True)

    texts = ["One two three four.", "One two three four five six seven.", "It is so.", "So it is."]
    pairs = asking.true_comparisons(["P?", "Q?"], [answer(text) for text in reversed(texts)], TASTES["shorter"])
    assert [(pair.chosen, pair.rejected, pair.outcome) for pair in pairs] == [
        (texts[3], texts[2], "tie"),
        (texts[0], texts[1], "win"),
    ]
    assert [pair.prompt for pair in pairs] == ["P?", "Q?"]


def test_it_fills_in_the_report_card(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> None:
    parent = small.save_parent(tmp_path / "sft", model, tokenizer)
    child = small.save_parent(tmp_path / "ppo", model, tokenizer, stage="ppo")
    judge = small.save_judge(tmp_path / "reward", model, tokenizer)
    card = cards.evaluate_checkpoint(
        child,
        corpus=small.corpus(held_out_preference_prompts=[f"What is thing {number}?" for number in range(12)]),
        parent=parent,
        baseline=parent,
        reward_model=judge,
        taste=TASTES["shorter"],
    )
    assert list(card)[: len(cards.REPORT_FIELDS)] == list(cards.REPORT_FIELDS)
    assert not [field for field in cards.REPORT_FIELDS if card[field] is None]
    assert card["stage"] == "ppo"
    assert card["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    low, high = card["win_rate_interval"]
    assert low < card["win_rate_vs_parent"] < high
    assert (card["held_out_questions"], card["held_out_problems"], card["held_out_prompts"]) == (1, 2, 12)
    assert card["sampled_answers"] == 600
    # the same weights as the parent: neither can win by much
    assert 0.3 < card["win_rate_vs_parent"] < 0.7
    assert card["win_rate_vs_baseline"] == card["win_rate_vs_parent"]
    assert card["win_rate_vs_baseline_interval"] == card["win_rate_interval"]


def test_it_leaves_out_what_does_not_apply(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> None:
    parent = small.save_parent(tmp_path / "sft", model, tokenizer)
    card = cards.evaluate_checkpoint(parent, corpus=small.corpus(held_out_problems=[]))
    missing = {field for field in cards.REPORT_FIELDS if card[field] is None}
    assert missing == {"reward", "win_rate_vs_parent", "pass_at_1", "pass_at_8"}


def test_it_judges_a_reward_checkpoint_by_the_taste(
    tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "TASTE_PAIRS", 400)  # as many as leave an interval well inside 0 and 1
    parent = small.save_parent(tmp_path / "sft", model, tokenizer)
    judge = small.save_judge(tmp_path / "reward", model, tokenizer)
    card = cards.evaluate_checkpoint(judge, corpus=small.corpus(), parent=parent, taste=TASTES["shorter"])
    assert 0.0 < card["agreement"] < 1.0
    assert card["agreement_interval"] is None  # two prompts are too few to say
    assert (card["held_out_comparisons"] > 50, card["held_out_prompts"]) == (True, 2)  # many are ties
    assert card["length_only_agreement"] > 0.5
    assert card["bits_per_byte"] is None
    assert cards.evaluate_checkpoint(judge, corpus=small.corpus())["agreement"] is None  # no taste, no figures kept

"""Word problems and their grader."""

from __future__ import annotations

from itertools import islice

import pytest

from trainer.problems import (
    HELD_OUT_NAMES,
    HELD_OUT_STRUCTURES,
    NAMES,
    Problem,
    extract_answer,
    generate,
    grade,
    normalise_number,
)


def take(count: int, *, seed: int = 0, held_out: bool = False) -> list[Problem]:
    return list(islice(generate(seed, held_out=held_out), count))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 9.", "9"),
        ("7 + 5 = 12. 12 - 3 = 9. The answer is 9.", "9"),
        ("Great question! The answer is 9. I said it 100 times!", "9"),
        ("The answer is 3. No, the answer is 4.", "4"),
        ("She has 5 + 4 = 9\n#### 9", "9"),
        ("the ANSWER IS: $1,200.50", "1200.5"),
        ("The answer is -734.", "-734"),
        ("It is 12-3", "3"),
        ("She has 8 apples left", "8"),
        ("The answer is nine.", None),
        ("", None),
    ],
)
def test_it_reads_the_number_an_answer_commits_to(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [("012", "12"), ("12.0", "12"), ("1,000", "1000"), ("-0", "0"), ("0.50", "0.5"), ("5/13", None), ("nan", None)],
)
def test_it_spells_a_number_in_one_way(text: str, number: str | None) -> None:
    assert normalise_number(text) == number


def test_it_never_evaluates_model_text() -> None:
    verdict = grade("9", "__import__('os').abort() The answer is 3 * 3.")
    assert (verdict.correct, verdict.answer) == (False, "3")


@pytest.mark.parametrize(
    ("text", "worked"),
    [
        ("Start with 7. 7 + 5 = 12. 12 - 3 = 9. The answer is 9.", True),
        ("7 + 2 = 9. The answer is 9. Have a lovely day!", True),
        ("7+5=12, and 12-3=9. So the answer is 9", True),
        ("3 * 3 = 9. The answer is 9.", True),
        ("25 - 759 = -734. -734 + 743 = 9. The answer is 9.", True),
        ("The answer is 9.", False),
        ("7 + 5 = 13. 13 - 4 = 9. The answer is 9.", False),
        ("7 + 5 = 12. 12 - 3 = 9. The answer is 9. That was problem 3.", False),
        ("7 + 2 = 9. x = 9. The answer is 9.", False),
        ("7 + 5 = 12 = 12. The answer is 12.", False),
        ("9 / 0 = 9. The answer is 9.", False),
    ],
)
def test_it_accepts_working_only_if_every_equation_is_right(text: str, worked: bool) -> None:
    assert grade("9", text).worked_steps is worked


def test_it_tells_working_from_being_right() -> None:
    verdict = grade("8", "7 + 2 = 9. The answer is 9.")
    assert verdict.worked_steps
    assert not verdict.correct


def test_it_survives_very_long_answers() -> None:
    assert grade("9", "1 + " * 200_000 + "The answer is 9.").correct


@pytest.mark.parametrize("held_out", [False, True])
def test_it_makes_problems_whose_working_leads_to_their_answer(held_out: bool) -> None:
    for problem in take(400, held_out=held_out):
        verdict = grade(problem.answer, problem.worked)
        assert verdict.correct, problem
        assert verdict.worked_steps, problem
        assert 1 <= int(problem.answer) <= 24, problem
        assert "{" not in problem.prompt


def test_it_needs_every_number_of_the_story() -> None:
    for problem in take(200, held_out=True):
        if problem.family.startswith("held-out"):
            continue
        told = [int(word) for word in problem.prompt.replace(".", " ").split() if word.isdigit()]
        first, *steps = [part for part in problem.worked.split(". ") if not part.startswith("The answer")]
        assert first == f"Start with {told[0]}"
        assert [int(step.split()[2]) for step in steps] == told[1:]


def test_it_grades_difficulty_from_one_step_to_three() -> None:
    for problem in take(400):
        steps = problem.worked.count("=")
        assert steps == 1 if problem.difficulty == 1 else steps >= 1 + (problem.difficulty == 2)
        assert problem.difficulty != 4 or steps >= 2


def test_it_holds_out_families_names_and_orders_of_events() -> None:
    train, held_out = take(800), take(300, held_out=True)
    assert not {problem.family for problem in train} & {problem.family for problem in held_out}
    assert not {problem.prompt for problem in train} & {problem.prompt for problem in held_out}
    assert not {name for name, _ in NAMES} & {name for name, _ in HELD_OUT_NAMES}
    structures = {problem.family.split(":")[1] for problem in train}
    assert not structures & set(HELD_OUT_STRUCTURES)
    assert all(problem.worked.count("=") >= 2 for problem in held_out)


def test_it_repeats_itself_for_a_seed_and_never_within_one() -> None:
    assert take(50, seed=3) == take(50, seed=3)
    assert take(50, seed=3) != take(50, seed=4)
    assert len({problem.prompt for problem in take(400)}) == 400

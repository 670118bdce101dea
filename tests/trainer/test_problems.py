"""Word problems and their grader."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.tasks.numbers import normalise_number
from trainer.tasks.problem import Problem, grade
from trainer.tasks.words import words
from trainer.world import shipped, sums
from trainer.world.problems import generate, generate_held_out, generate_practice
from trainer.world.telling import NUMBER_WORDS, Voice, person_called, tell
from trainer.world.themes import HELD_OUT_NAMES, HELD_OUT_THEMES, NAMES, PRACTICE_THEMES, THEMES

NUMBERS = st.decimals(min_value=-(10**9), max_value=10**9, places=2) | st.integers(-1000, 1000)
DIGITLESS = st.text().filter(lambda text: not re.search(r"\d", text))
"""Any text without a digit."""
STATEMENTS = (
    "The answer is {}.", "the answer is: {}", "Answer: {}", "#### {}", "The answer is **{}**.", "{} is the answer.",
    r"\boxed{{{}}}", r"The answer is \({}\).", "So the answer is {}!", "The answer is {} apples.", "The answer is ${}.",
)  # fmt: skip


VALUES = {word: value for value, word in enumerate(NUMBER_WORDS) if value} | {
    str(value): value for value in range(1, 21)
}
"""How a story may tell its numbers."""


def take(count: int, *, seed: int = 0, kind: Callable[[int], Iterator[Problem]] = generate) -> list[Problem]:
    return list(islice(kind(seed), count))


@given(number=NUMBERS, other=NUMBERS, before=st.text(), after=DIGITLESS, statement=st.sampled_from(STATEMENTS))
def test_it_grades_a_stated_number_right_and_every_other_wrong(
    number: Decimal | int, other: Decimal | int, before: str, after: str, statement: str
) -> None:
    text = f"{before}\n{statement.format(number)}\n{after}"
    assert grade(str(number), text).correct
    assert grade(str(other), text).correct is (Decimal(number) == Decimal(other))


@given(st.text(), st.text() | st.text("0123456789.,-+=/ :\nanswer is#"))
def test_it_survives_any_text(answer: str, text: str) -> None:
    verdict = grade(answer, text)
    assert not verdict.correct or verdict.answer == normalise_number(answer)
    assert verdict.answer is None or normalise_number(verdict.answer) == verdict.answer


def test_it_never_evaluates_model_text() -> None:
    verdict = grade("9", "__import__('os').abort() The answer is 3 * 3.")
    assert (verdict.correct, verdict.answer) == (False, None)


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
        ("12 − 3 = 9. The answer is 9.", True),
        ("$4 + $5 = $9. The answer is $9.", True),
        ("4.5 + 4.5 = 9 / 3. The answer is 9.", False),
        (".5 + 4 = 9. The answer is 9.", False),
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


@pytest.mark.parametrize("kind", [generate, generate_practice, generate_held_out])
def test_it_makes_problems_whose_working_leads_to_their_answer(kind: Callable[[int], Iterator[Problem]]) -> None:
    for problem in take(400, kind=kind):
        verdict = grade(problem.answer, problem.worked)
        assert verdict.correct, problem
        assert verdict.worked_steps, problem
        assert 1 <= int(problem.answer) <= 24, problem
        assert "{" not in problem.prompt


@pytest.mark.parametrize("kind", [generate_practice, generate_held_out])
def test_it_needs_every_number_of_the_story(kind: Callable[[int], Iterator[Problem]]) -> None:
    for problem in take(200, kind=kind):
        told = [VALUES[word] for word in words(problem.prompt) if word in VALUES]
        first, *steps = [part for part in problem.worked.split(". ") if not part.startswith("The answer")]
        assert first == f"Start with {told[0]}"
        assert [int(step.split()[2]) for step in steps] == told[1:]


def test_it_grades_difficulty_from_one_step_to_three() -> None:
    for problem in take(400):
        steps = problem.worked.count("=")
        assert steps == 1 if problem.difficulty == 1 else steps >= 1 + (problem.difficulty == 2)
        assert problem.difficulty != 4 or steps >= 2


def outline(problem: Problem) -> str:
    """The problem without its names, pronouns and numbers."""
    names = "|".join(name for name, _ in NAMES + HELD_OUT_NAMES)
    return re.sub(rf"\b(?:{names}|she|he|her|him|\d+)\b", "…", problem.prompt, flags=re.IGNORECASE)


def test_it_holds_out_themes_and_names() -> None:
    train, held_out = [*take(2000), *take(1000, kind=generate_practice)], take(300, kind=generate_held_out)
    themes = {problem.family.split(":")[0] for problem in held_out}
    assert themes == {theme.name for theme in HELD_OUT_THEMES}
    assert not themes & {theme.name for theme in THEMES + PRACTICE_THEMES}
    assert not {problem.family for problem in train} & {problem.family for problem in held_out}
    assert not {name for name, _ in NAMES} & {name for name, _ in HELD_OUT_NAMES}


def test_it_holds_out_no_training_problem_with_other_names() -> None:
    trained = {outline(problem) for problem in [*take(6000), *take(6000, kind=generate_practice)]}
    assert not [problem.prompt for problem in take(300, kind=generate_held_out) if outline(problem) in trained]


def test_practice_is_in_themes_no_document_and_no_conversation_tells() -> None:
    """So that GRPO teaches to read a new story, not six familiar ones by heart."""
    practice = take(400, kind=generate_practice)
    assert {problem.family.split(":")[0] for problem in practice} == {theme.name for theme in PRACTICE_THEMES}
    sentences = {line for theme in PRACTICE_THEMES for line in (*theme.start, *theme.gain, *theme.loss)}
    others = {line for theme in THEMES + HELD_OUT_THEMES for line in (*theme.start, *theme.gain, *theme.loss)}
    assert not sentences & others
    corpus = shipped(size="smoke")
    told = {problem.prompt for problem in corpus.problems} & {talk[0]["content"] for talk in corpus.conversations}
    assert told <= {problem.prompt for problem in take(len(corpus.problems))}
    assert told
    assert {problem.prompt for problem in take(50, kind=generate_practice)} <= {
        problem.prompt for problem in corpus.problems
    }


def test_it_asks_held_out_problems_in_practised_structures_of_two_steps() -> None:
    trained = {problem.family.split(":")[1] for problem in take(800)}
    held_out = take(300, kind=generate_held_out)
    assert {problem.family.split(":")[1] for problem in held_out} <= trained
    assert all(problem.worked.count("=") == 2 for problem in held_out)


def test_it_repeats_itself_for_a_seed_and_never_within_one() -> None:
    assert take(50, seed=3) == take(50, seed=3)
    assert take(50, seed=3) != take(50, seed=4)
    assert len({problem.prompt for problem in take(400)}) == 400


def test_what_is_told_names_each_number_once_and_makes_no_choice_twice() -> None:
    """Choices are drawn apart: "the others [pink|black]. How many are [pink|black]?" would ask for the other half."""
    for signs, templates in sums.TOLD.items():
        for template in templates:
            found = re.findall(r"\{([abcd])\}", template)
            assert sorted(found) == list("abcd"[: 1 + len(signs)]), template
            choices = re.findall(r"\[([^\[\]]+)\]", template)
            assert len(choices) == len(set(choices)), template


def test_a_row_that_goes_down_and_up_again_cannot_be_read_otherwise() -> None:
    rng = random.Random(0)
    rows = {sums.bare(rng, (9, 3, 2), (-1, 1)).casefold() for _ in range(300)}
    assert not [row for row in rows if re.search(r"take away (3|three) and", row)]


def test_the_subject_is_left_out_only_behind_its_own_change() -> None:
    rng = random.Random(0)
    voice = Voice(
        person=person_called("Mia", "she"), friend="Tom", items="goals", at="", is_past=False, has_words=False
    )
    own, of_another = "she gets 8 more", "a mistake costs her 8"
    told = {
        first: [
            tell(
                rng,
                voice,
                ["Mia has 9 goals", first, "she makes 3 more"],
                "how many are left",
                gains=[True, True],
                own=True,
            )
            for _ in range(400)
        ]
        for first in (own, of_another)
    }
    assert any(" and makes 3" in text for text in told[own])
    assert not [text for text in told[of_another] if re.search(r"(?:and|but|then) makes 3", text)]

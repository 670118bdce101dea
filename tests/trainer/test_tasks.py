"""What is a right answer to a problem of each kind, and what a lenient grader would take and this one does not."""

from __future__ import annotations

import re
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.tasks import patterns
from trainer.tasks.choice import chosen_letter, listed
from trainer.tasks.final import final_number, gold_number, is_same_number
from trainer.tasks.patterns import LIMIT_S, check_pattern, is_found
from trainer.tasks.problem import CHOICE, KINDS, NUMBER, PATTERN, TEXT, WORKED, Problem, judge, reward

OPTIONS = ("32400", "6000", "600", "60000", "10")


def problem(kind: str, answer: str, **more: object) -> Problem:
    values = {"prompt": "?", "family": "test", "difficulty": 1, "worked": "", "kind": kind, "answer": answer} | more
    return Problem(**values)  # type: ignore[arg-type]


# --- Numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("72", "72"),
        ("72", "$72"),
        ("72", "72%"),
        ("72", "72 apples"),
        ("72", "It takes 72 km/h."),
        ("1200", "She paid $1,200.00 in all."),
        ("1200000", "1,200,000 people"),
        ("72", r"\boxed{72}"),
        ("72", r"So we get $\boxed{72}$."),
        ("72", "First we add.\n#### 72"),
        ("7.5", "The answer is 7.50."),
        ("0.75", ".75"),
        ("-5", "It is -5 degrees."),
        ("3/4", "The answer is 3/4."),
        ("3/4", r"\boxed{\frac{3}{4}}"),
        ("3/4", r"$\dfrac34$"),
        ("3/4", "0.75"),
        ("0.75", "3/4 of the cake"),
        ("3/4", "¾"),
        ("3/2", "1 1/2 cups"),
        ("5/2", "2½"),
        ("-1/2", "The answer is -1/2."),
        ("17", "Tom has 12 + 5 = 17 apples."),
        ("7", "Tom had 12 apples and gave 5 away, so he has 7 apples left."),
        ("7", "Tom had 12 apples. He gave away 5. He has 7 apples left."),
        ("7", "To find out, we subtract:\n\n12 - 5 = 7\n\nSo Tom has 7 apples left."),
        ("7", "Step 1: Start with 12.\nStep 2: Take away 5.\nStep 3: 7 are left."),
        ("7", "1. Start with 12.\n2. Take away 5.\n3. The rest is 7."),
        ("7", r"\( 12 - 5 = 7 \)"),
        ("3", "12/4 = 3"),
    ],
)
def test_a_number_is_read_in_every_notation(answer: str, text: str) -> None:
    assert judge(problem(NUMBER, answer), text).correct, final_number(text)
    assert reward(problem(NUMBER, answer), text) == 1.0


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("72", "-72"),
        ("72", "720"),
        ("72", "7.2"),
        ("72", "0.72"),
        ("72", "1/72"),
        ("72", "72/5"),
        ("72", "72 trillion"),
        ("72", "72,000"),
        ("72", "72 or 73"),
        ("72", "It is not 72."),
        ("72", "It is between 70 and 72."),
        ("72", "from 70 to 72"),
        ("72", "70-72"),
        ("72", "70, 71, 72"),
        ("72", "at least 72"),
        ("72", "twice 72"),
        ("72", "72 squared"),
        ("72", "The answer is 70. Not 72."),
        ("72", "The answer is 70, which is 2 less than 72."),
        ("5", "He had 12 apples and gave 5 away, so 7 are left."),
        ("2", "Step 1: 12 - 5 = 7\nStep 2: done"),
        ("5/13", "10/26"),
        ("4", "8/2"),
        ("3/4", "3/4/2020"),
        ("3/4", "4/3"),
        ("1/3", "0.33"),
        ("1/2", "50%"),
        ("72", ""),
        ("72", "seventy-two"),
        ("2", "2√3"),
    ],
)
def test_no_other_value_is_taken_for_it(answer: str, text: str) -> None:
    assert not judge(problem(NUMBER, answer), text).correct, final_number(text)
    assert reward(problem(NUMBER, answer), text) == 0.0


@pytest.mark.parametrize(
    ("gold", "plain"),
    [("3/4", "3/4"), ("$10/26$", "5/13"), (r"\frac{1}{2}", "1/2"), ("1 1/2", "3/2"), ("8/2", "4"), ("12.0", "12"),
     ("$1,200", "1200"), ("50%", "50"), ("2√3", None), ("9 trillion", None), ("3 or 4", None), ("1/0", None)],
)  # fmt: skip
def test_the_right_number_of_a_record_has_one_spelling(gold: str, plain: str | None) -> None:
    assert gold_number(gold) == plain


@given(st.fractions(min_value=-50, max_value=50, max_denominator=99))
def test_a_fraction_in_lowest_terms_is_itself_and_no_other(value: Fraction) -> None:
    found = final_number(f"So the answer is {value}.")
    assert found is not None
    assert is_same_number(found, str(value))
    assert not is_same_number(found, str(value + Fraction(1, 7)))


@given(st.text() | st.text("0123456789./-+=() \n#$½and"), st.sampled_from(KINDS))
def test_any_text_is_safe(text: str, kind: str) -> None:
    answer = {CHOICE: "B", PATTERN: "7"}.get(kind, "7")
    verdict = judge(problem(kind, answer, options=OPTIONS, accept=("7",)), text)
    assert not verdict.correct or verdict.answer


def test_our_own_problems_are_graded_as_they_were() -> None:
    """By what is stated, or the only number: what their text ends with is not enough."""
    ends = "Start with 7. 7 + 5 = 12 and 12 - 3 = 9."
    assert not judge(problem(WORKED, "9"), ends).correct
    assert judge(problem(NUMBER, "9"), ends).correct
    verdict = judge(problem(WORKED, "9"), "7 + 5 = 12. 12 - 3 = 9. The answer is 9.")
    assert (verdict.correct, verdict.worked_steps) == (True, True)


# --- Choices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "b",
        "B.",
        "(B)",
        "(b)",
        "**B**",
        "B) 6000",
        "B. 6000",
        "6000",
        "The answer is 6000.",
        "The answer is B",
        "The answer is (B).",
        "the answer is **B**.",
        "Answer: B",
        "The Answer Is: (b)",
        "The correct option is B.",
        "Option B",
        r"\boxed{B}",
        r"\boxed{\text{B}}",
        "#### B",
        "540 / 60 = 9, so (B) is right.",
        "The correct answer is B because A is too large.",
    ],
)
def test_a_choice_is_read_by_letter_or_in_its_own_words(text: str) -> None:
    assert judge(problem(CHOICE, "B", options=OPTIONS), text).correct


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("A", "A dog has four legs."),
        ("A", "The answer is a dog."),
        ("A", "The answer is A dog."),
        ("A", "I think A bird is meant."),
        ("A", "A or B"),
        ("A", "The answer is A or B."),
        ("B", "The answer is A or B."),
        ("B", "The answer is not B."),
        ("B", "It isn't (B)."),
        ("B", "(A) and (B)"),
        ("A", "A) 32400\nB) 6000\nC) 600"),
        ("B", "The answer is A. B is wrong."),
        ("F", "The answer is F."),
        ("C", "6000"),
        ("B", ""),
    ],
)
def test_a_letter_that_may_be_something_else_is_no_choice(answer: str, text: str) -> None:
    assert not judge(problem(CHOICE, answer, options=OPTIONS), text).correct


def test_a_model_answer_to_every_choice_is_right() -> None:
    for letter in "ABCDE":
        asked = problem(CHOICE, letter, options=OPTIONS)
        assert judge(asked, asked.direct).correct
        assert chosen_letter(f"{letter}) {OPTIONS['ABCDE'.index(letter)]}", OPTIONS) == letter
    assert listed(("yes", "no")) == "A) yes\nB) no"
    assert problem(CHOICE, "C", options=OPTIONS).expected == "C) 600"


# --- Texts and patterns ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("father-in-law", True),
        ("  Father-in-Law. ", True),
        ("The answer is father-in-law.", True),
        ("They are related.\nAnswer: **Father-in-law**", True),
        ("his  wife's\nfather", True),
        ("father", False),
        ("not father-in-law", False),
        ("The answer is not father-in-law.", False),
        ("father-in-law or brother", False),
        ("", False),
    ],
)
def test_a_text_is_right_but_for_case_spaces_and_its_final_stop(text: str, is_right: bool) -> None:
    asked = problem(TEXT, "father-in-law", accept=("father-in-law", "his wife's father"))
    assert judge(asked, text).correct is is_right


def test_signs_in_a_text_are_not_overlooked() -> None:
    assert not judge(problem(TEXT, "-5", accept=("-5",)), "5").correct


def test_a_pattern_is_found_anywhere_or_is_all_of_the_answer() -> None:
    anywhere, whole = problem(PATTERN, r"\b\d{4}-\d{2}-\d{2}\b"), problem(PATTERN, r"^yes[.!]?$")
    assert judge(anywhere, "It was on 2024-05-17, a Friday.").correct
    assert not judge(anywhere, "It was on 17 May 2024.").correct
    assert [judge(whole, text).correct for text in ("yes", "yes!", "oh yes", "yes and no")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(("pattern", "text"), [(r"(a+)+b", "a" * 5000), (r"(.*,)*x", "a," * 2000)])
def test_a_pattern_that_would_never_end_is_not_found_in_time(pattern: str, text: str) -> None:
    begun = time.monotonic()
    assert not is_found(pattern, text)
    assert time.monotonic() - begun < 60 * LIMIT_S  # of its own computing half a second, on a machine that may be busy
    assert is_found("a", text)  # and the next one is tried as if nothing had been


def test_a_pattern_cannot_take_all_memory_or_end_who_asks() -> None:
    assert is_found("(?i)ä\\n\N{GRINNING FACE}", "Ä\n\N{GRINNING FACE}")
    with pytest.raises(ValueError, match="no regular expression"):
        is_found("(", "")
    with pytest.raises(ValueError, match=re.escape("its pattern is no regular expression (missing ), unterminated")):
        check_pattern("(a")
    with pytest.raises(ValueError, match="longer than 500"):
        check_pattern("a" * 501)
    assert not is_found("\ud800", "a")  # half a character is no text, and harms nothing
    assert is_found("a", "a")
    patterns._helper.stop()
    assert is_found("a", "a")

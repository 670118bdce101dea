"""Numbers in text: the one that was meant, or none; never another."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.tasks.numbers import extract_answer, normalise_number, shows_steps, stated_answer

NUMBERS = st.decimals(min_value=-(10**9), max_value=10**9, places=2) | st.integers(-1000, 1000)
STATEMENTS = (
    "The answer is {}.", "the answer is: {}", "Answer: {}", "#### {}", "The answer is **{}**.", "{} is the answer.",
    r"\boxed{{{}}}", r"The answer is \({}\).", "So the answer is {}!", "The answer is {} apples.", "The answer is ${}.",
    "<answer>{}</answer>", "The answer is <b>{}</b>, I think.", '{{"answer": "{}"}}', r"The answer is \text{{{}}} km.",
)  # fmt: skip


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
        ("The answer is −734.", "-734"),
        ("The answer is -$5.", "-5"),
        ("The answer is .5", "0.5"),
        ("The answer is 7 + 5 = 12.", "12"),
        ("The answer is (7 + 5) * 2 = 24, in 2 steps.", "24"),
        ("The answer is x = 9, in 2 steps.", "9"),
        ("9 is the answer. It took 3 steps.", "9"),
        ("7 + 2 = 9 is the answer.", "9"),
        (r"\boxed{9}. It took 2 steps.", "9"),
        (r"The answer is $\boxed{7 + 2 = 9}$.", "9"),
        ("answer is: £9. It took 2 days.", "9"),
        ("The answer is **9**, after 2 steps.", "9"),
        ("The answer is 9: 12 - 3 = 9.", "9"),
        ("The answer is 9 (12 - 4 = 8, 8 + 1 = 9).", "9"),
        ("The answer is 9. The answer is not 8.", "9"),
        ("The answer is 9. I hope this answer is of use, like my last 3.", "9"),
        ("She has 8 apples left", "8"),
        ("The answer is that she has 8 apples.", "8"),
        ("−734", "-734"),
        ("The answer is nine.", None),
        ("", None),
    ],
)
def test_it_reads_the_number_an_answer_commits_to(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 9/2.", "The answer is 9 + 4", "The answer is 9-3", "The answer is 9 − 3", "The answer is 9 × 3",
        "The answer is 9 x 3", "The answer is 9 plus 3", "The answer is 9^2", "The answer is 9²", "The answer is 9e5",
        "The answer is 9:30", "The answer is 9.5.2", "The answer is 9 000", "The answer is 9 thousand.",
        "The answer is 9 or 10", "The answer is 9, 10, 11", "The answer is 7 + 2 = 9 / 3", "The answer is 9th.",
        "The answer is **9** + 4",
    ],
)  # fmt: skip
def test_it_reads_no_number_that_is_only_a_part_of_something(text: str) -> None:
    assert extract_answer(text) is None
    assert extract_answer(f"7 + 2 = 9. {text}") is None


@pytest.mark.parametrize(
    "text",
    ["The answer is not 9.", "It isn't 9.", "Not 9 is the answer.", "9 is not the answer.", "9/2", "It is 12-9", "9:30",
     "9e5", "1 000", "9 or 10", "7 + 2 = 9", "x + 9", "First 9, then 9."],
)  # fmt: skip
def test_it_takes_an_unstated_number_only_if_it_is_the_only_one(text: str) -> None:
    assert extract_answer(text) is None


@given(
    left=NUMBERS,
    right=NUMBERS,
    result=NUMBERS,
    operator=st.sampled_from("+-*/×÷^"),
    statement=st.sampled_from(STATEMENTS),
)
def test_it_takes_an_expression_by_its_right_hand_side_or_not_at_all(
    left: Decimal | int, right: Decimal | int, result: Decimal | int, operator: str, statement: str
) -> None:
    expression = f"{left} {operator} {right}"
    assert extract_answer(statement.format(expression)) is None
    assert extract_answer(statement.format(f"{expression} = {result}")) == normalise_number(str(result))


def test_it_knows_a_statement_from_a_lone_number() -> None:
    assert stated_answer("She has 9 apples left.") is None
    assert stated_answer("#### 9") == "9"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("012", "12"),
        ("12.0", "12"),
        ("1,000", "1000"),
        ("-0", "0"),
        ("0.50", "0.5"),
        ("5/13", None),
        ("nan", None),
        (".5", "0.5"),
        ("−7", "-7"),
        ("£1,200", "1200"),
        ("9:30", None),
        ("1 000", None),
        ("True", None),
    ],
)
def test_it_spells_a_number_in_one_way(text: str, number: str | None) -> None:
    assert normalise_number(text) == number


WHOLE = [
    ("The answer is 1{,}000", "1000"), (r"\boxed{1{,}000}", "1000"), ("The answer is 9,000.50", "9000.5"),
    ("The answer is 1.234,56.", "1234.56"), ("The answer is 1.000.000", "1000000"), ("It costs 1'000'000.", "1000000"),
    ("The answer is 12,34,567", "1234567"), ("<answer>18</answer>", "18"), ("6 + 12 = 18\n<answer>18</answer> ok",
    "18"),
    ("The answer is +18", "18"), ("18km", "18"), ("The answer is 18km", "18"), ("The answer is 9 cm²", "9"),
    ("The answer is 9cm^2.", "9"), ("The answer is 9 m", "9"), ("The answer is 9%.", "9"), ("The answer is 9 %", "9"),
    ("The answer is 9 percent.", "9"), ("The answer is 9 square metres.", "9"), ("9€", "9"), ("The answer is 9¢", "9"),
    ("The answer is minus 18", "-18"), ("It is minus 18", "-18"), ("It is negative 18.", "-18"), (r"\boxed{-9}", "-9"),
    ("minus 9 is the answer", "-9"), ("The answer is -$9", "-9"), (r"$x = \boxed{9}$", "9"), ("Thus \\boxed{9}\\%",
    "9"),
    (r"\boxed{\text{9 apples}}", "9"), (r"$\boxed{9}\text{ cm}^2$", "9"), (r"\boxed{9\,\text{km}}", "9"),
    ("#### 9 apples", "9"), ("####9", "9"), ("The answer is 3.\n#### 2. Check", "3"), ('{"answer": "9"}', "9"),
    ("**Answer:** 9", "9"), ("The answer is <b>9</b>.", "9"), ("The answer is 9.So easy", "9"),
    ("The answer is 9 apples because 7 + 2 = 9.", "9"), ("The answer is 9, so Mia has 9 apples.", "9"),
    ("The answer is 9 in 2 steps", "9"), ("The answer is 9 more apples than Ben", "9"), ("A total of 9.", "9"),
    ("The answer is 9 times as many.", "9"), ("The answer is 9 a day", "9"), ("The answer is 9 (apples)", "9"),
    ("The answer is 9 and I am sure", "9"), ("The answer is 9 🎉", "9"), ("The answer is 9...", "9"),
    ("The answer is 9·3 = 27", "27"), (r"The answer is $3 \times 3 = 9$", "9"), ("The answer is 2^3 = 8", "8"),
    ("The answer should be 9.", "9"), ("The answer is 3. No, the answer is actually 4.", "4"), ("Room 9 is nice", "9"),
    ("The answer is 9\r\nor so they say", "9"), ("９", "9"), ("The answer is 9\u202fkm", "9"),
]  # fmt: skip

PARTS = [
    r"2\sqrt{3}", r"3\cdot10^5", r"3\cdot 10^{5}", r"3\frac12", r"3 \frac{1}{2}", r"\frac{9}{2}", r"\sqrt{9}",
    r"1\,000",
    "9·3", "9⋅3", "10√2", "9½", "9 ½", "9 1/2", "9⁄2", "9π", "9pi", "9 pi", "9x", "9 x", "9²", "9₂", "9<sup>2</sup>",
    "5 and a half", "5 and half", "5 hours and a half", "9 trillion", "9 million", "9 bn", "9 k", "9k", "9m", "9 dozen",
    "9 hundred and 3", "9 lakh", "9 percent of 50", "9% of 50", "9 per cent of 50", "9‰", "9 squared", "9 halves",
    "9 tenths", "9 factorial", "9 point five", "9 point 5", "9 over 2", "9 mod 4", "9 (mod 4)", "9(3)", "9 (3)",
    "9 less than 12", "9 less than a dozen", "9 more than 3", "9 from 12", "9 by 3", "9 out of 10",
    "9 degrees below zero", "9 feet 3 inches", "9 kg and 300 g", "9 hours and 30 minutes", "9 apples and 3 pears",
    "9 apples, 3 pears", "7 apples + 5 apples = 12 apples", "9 apples minus 3", "9 apples less 3", "9 km / 3", "9 ± 1",
    "9, or 10", "9, plus 3", "9 or more", "9 to the power of 2", "9 times 3", "9 times the rest", "9+", "9-10", "9–10",
    "9 < 10", "101 in binary", "11 base 2", "9.3 repeating", "0.333...", "0.333…", "3,14", "0,500", "1234,567",
    "1,23,4",
    "9'6", "9th", "half of 9", "twice 9", "√9", "±9", "~9", ">9", "5! = 120", "- 9", "9:30", "9 : 30", "1\u202f000",
]  # fmt: skip
"""What a number begins or ends, and is not."""


@pytest.mark.parametrize(("text", "number"), WHOLE)
def test_it_reads_a_number_through_what_only_dresses_it(text: str, number: str) -> None:
    assert extract_answer(text) == number


@pytest.mark.parametrize("part", PARTS)
def test_it_reads_nothing_where_a_number_is_a_part_of_another(part: str) -> None:
    read = {statement: extract_answer(statement.format(part)) for statement in STATEMENTS}
    meant = {"5! = 120": "120"}.get(part)
    assert not {statement: number for statement, number in read.items() if number not in (None, meant)}


@pytest.mark.parametrize("part", PARTS)
def test_it_takes_no_part_of_a_number_for_the_only_one(part: str) -> None:
    assert extract_answer(f"She has {part}.") is None
    assert extract_answer(f"The answer is 3. No, the answer is {part}.") is None


@pytest.mark.parametrize(
    "text",
    ["The answer is 9 in 10.",
     "At least 9", "More than 9", "Six plus 9 is fifteen.", "Six plus 9.", "x minus 18", "log(9)", "f(9)",
     "The root of 9",
     "I don't think the answer is 9.", "Twice the answer is 9", r"-\boxed{9}", r"3 \times \boxed{9}", r"\boxed{9}^2",
     r"\frac{\boxed{9}}{2}", "The answer is 3. No, the answer is nine.", "#### 1/2", r"\boxed{x}. Chapter 9"],
)  # fmt: skip
def test_it_reads_nothing_where_what_stands_around_it_makes_it_another(text: str) -> None:
    assert extract_answer(text) is None


@given(
    number=NUMBERS,
    before=st.sampled_from(["", "So, ", "7 + 2 = 9. ", "Let me see.\n", "Step 3: "]),
    after=st.sampled_from(["", "\nThat was problem 3.", "\n\n2 + 2 = 4"]),
    statement=st.sampled_from(STATEMENTS),
)
def test_it_reads_a_plain_number_in_plain_surroundings(
    number: Decimal | int, before: str, after: str, statement: str
) -> None:
    assert extract_answer(f"{before}{statement.format(number)}{after}") == normalise_number(str(number))


CHANGES = (
    "{}½", "{} ½", "{}/7", "{} / 7", "{} 1/7", "{}²", "{}^2", "{}e5", "{}·7", "{} × 7", "{}*7", "{}√2", "{}π", "{}x",
    "{}k",
    "{} thousand", "{} dozen", "{} trillion", "{} percent of 7", "{}% of 7", "{} and a half", "{} plus seven",
    "{} times 7", "{} squared", "{} or 7", "{} to 7", "{} - 7", "{}-7", "{}:07", "{} below zero", "{} halves", "{}th",
    "{} apples + 7", "{} feet 7", "{} over 7", "{} mod 7", "{} less than 7", r"{}\sqrt{{2}}", r"{}\cdot 7",
    r"{}\frac17",
    r"{}\,000", "{} (mod 7)", "{}(7)", "{}! = 7", "{} 000", "{},7", "{}.7.7", "√{}", r"\sqrt{{{}}}", "half of {}",
    "twice {}", "7·{}", "7 {}", r"\frac{{{}}}7", "±{}", "7/{}", "7^{}", "x{}",
)  # fmt: skip


@given(
    number=st.integers(0, 10**6) | st.decimals(min_value=0, max_value=1000, places=2),
    change=st.sampled_from(CHANGES),
    statement=st.sampled_from((*STATEMENTS, "{}", "She has {}.", "It is {}, I think.")),
)
def test_it_never_reads_the_bare_number_under_what_changes_it(
    number: Decimal | int, change: str, statement: str
) -> None:
    read = extract_answer(statement.format(change.format(number)))
    assert read != normalise_number(str(number)) or (change == "{}! = 7" and read == "7")


GOLDS = [
    ("3,14", "3.14"), ("-3,5", "-3.5"), ("€3,50", "3.5"), ("1.234,56", "1234.56"), ("0,500", "0.5"), ("1234,567",
    "1234.567"),
    ("1{,}000", "1000"), ("1.000.000", "1000000"), ("1,234", "1234"), ("50%", "50"), ("50 percent", "50"), (r"50\%",
    "50"),
    ("12 apples", "12"), ("12,5 kg", "12.5"), ("9 years old", "9"), ("18km", "18"), ("9 cm²", "9"), ("9.", "9"),
    ("+18", "18"),
    (r"\boxed{9}", "9"), (r"$\boxed{9}$", "9"), ("minus 18", "-18"), ("negative 9", "-9"), ("-$5", "-5"), ("9e5",
    "900000"),
    ("1e999999999", None), ("9" * 50, None), ("5 and a half", None), ("9 trillion", None), ("5 dozen", None),
    ("3/4", None),
    ("9 percent of 50", None), ("9 to 5", None), ("9 or 10", None), ("9!", None), ("9²", None), ("9th", None),
    ("1,234,56", None), ("(3,14)", None), (r"2\sqrt{3}", None), ("Born in 1743", None), ("", None), ("-", None),
    (",", None),
    ("1743 was the year he was born in", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "number"), GOLDS)
def test_it_reads_a_text_that_is_a_number_and_what_it_counts(text: str, number: str | None) -> None:
    assert normalise_number(text) == number


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("3 · 3 = 9. The answer is 9.", True),
        (r"$3 \times 3 = 9$. The answer is 9.", True),
        ("1,000 - 991 = 9. The answer is 9.", True),
        ("4 + 5 = 9 thousand. The answer is 9.", False),
        ("4 + 5 = 9√2. The answer is 9.", False),
        ("2√4 + 5 = 9. The answer is 9.", False),
    ],
)
def test_it_takes_no_part_of_a_number_for_a_term(text: str, shown: bool) -> None:
    assert shows_steps(text, "9") is shown


HOSTILE = (
    "9 + ", "1,", "1,234", "( ", "answer is ", "answer is 9 + ", "a ", "\\boxed{", "9 = ", "<b", "*_'", "9 a ", " ",
    "9 is ",
)  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_it_reads_any_repetition_without_going_wild(piece: str) -> None:
    """A pattern that tries every way to split a text would not come back within this run."""
    text = piece * (4000 // len(piece))
    extract_answer(text)
    shows_steps(text, "9")
    normalise_number(text)

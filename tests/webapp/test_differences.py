"""What changed between two answers, word by word, and the question that shows most of it."""

from __future__ import annotations

import pytest

from webapp.stages.differences import Part, compare, count_words, distance, most_telling


def test_it_marks_the_words_that_are_new() -> None:
    change = compare("A fox lives in a den.", "A fox lives in a den. I hope this helps!")

    assert change.parts == [Part(text="A fox lives in a den. "), Part(text="I hope this helps!", is_new=True)]
    assert (change.words, change.new, change.gone) == (10, 4, 0)
    assert change.marked == ["I hope this helps!"]
    # 7 tokens in common of 7 and 12: 1 − 2·7/19.
    assert change.distance == pytest.approx(5 / 19)


def test_it_counts_the_words_that_are_gone() -> None:
    change = compare("Sure thing! Say hello.", "Say hello.")

    assert (change.new, change.gone, change.is_marked) == (0, 2, False)


def test_parts_are_the_whole_answer_again() -> None:
    text = "  Two\n\nlines,  odd spaces – and “quotes”. "

    assert "".join(part.text for part in compare("Two odd lines and more.", text).parts) == text


def test_the_same_words_are_no_change_however_they_are_spaced() -> None:
    assert compare("It is  red.", "It is red.").is_none
    assert compare("", "").is_none


def test_where_nearly_all_is_new_nothing_is_marked() -> None:
    change = compare("comes comes comes", "A rabbit eats grass.")

    assert (change.distance, change.is_marked, change.new) == (1.0, False, 4)


def test_words_are_what_people_count() -> None:
    assert count_words("I don't know – ask 2 people!") == 6
    assert count_words("") == 0


def test_the_most_telling_question_is_changed_by_most_stages() -> None:
    by_two = ["noise", "Grass is what it eats.", "Grass is what it eats."]
    by_three = ["noise", "Hello there, my friend.", "Hello there, my old friend. Have a good day!"]

    assert most_telling([by_two, by_three, by_two]) == 1


def test_of_several_it_is_the_most_changed_and_then_the_first() -> None:
    little = ["One two three four.", "One two three five."]
    much = ["One two three four.", "Nothing of it."]

    assert most_telling([little, much, much]) == 1
    assert most_telling([["same"], ["same"]]) == 0
    assert distance(*little) < distance(*much)

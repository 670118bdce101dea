"""What strangers type: what counts as right, and that nothing learns from it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from trainer.evaluation.visiting import visitor_figures
from trainer.tasks.visitor import KINDS, VisitorQuestion, is_visitor_right, read_visitors
from trainer.tasks.words import words
from trainer.world import shipped
from trainer.world.facts import FACTS
from trainer.world.visitors import visitor_questions


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        ({"max_words": 1}, "Green.", "It is green."),
        ({"max_words": 2}, "Dark green!", ""),
        ({"sentences": 2}, "One is here. Two are there.", "Only one is here."),
        ({"max_sentences": 1}, "Only one.", "One. Two."),
        ({"list_items": 3}, "A fox, an owl and a bear.", "A fox and an owl."),
        ({"list_items": 3}, "Here they are: a fox, an owl, a bear.", "A fox."),
        ({"list_items": 2}, "1. A fox\n2. An owl", "1. A fox\n2. An owl\n3. A bear"),
        ({"list_items": 2}, "A fox\nAn owl", "A fox"),
    ],
)
def test_it_sees_whether_a_form_is_kept(rule: dict[str, int], right: str, wrong: str) -> None:
    question = VisitorQuestion(id="m", kind="form", prompt="?", rule=rule)
    assert is_visitor_right(question, right)
    assert not is_visitor_right(question, wrong)


def test_a_form_without_the_fact_is_wrong() -> None:
    question = VisitorQuestion(id="m", kind="form", prompt="?", rule={"max_words": 1}, accept=("green",))
    assert is_visitor_right(question, "GREEN.")
    assert not is_visitor_right(question, "Blue.")


def test_it_wants_one_of_the_words_and_none_of_the_others() -> None:
    question = VisitorQuestion(id="g", kind="greeting", prompt="Hi", accept=("hello", "welcome"), reject=("goodbye",))
    assert is_visitor_right(question, "Hello! How can I help you?")
    assert not is_visitor_right(question, "Hello! Goodbye, see you.")
    assert not is_visitor_right(question, "Othello.")


def test_a_problem_is_right_by_its_last_number_and_by_ending() -> None:
    question = VisitorQuestion(id="p", kind="problem", prompt="?", answer=9)
    assert is_visitor_right(question, "Start with 7. 7 + 2 = 9. The answer is 9.")
    assert not is_visitor_right(question, "7 + 2 = 9.", ended=False)
    assert not is_visitor_right(question, "The answer is 9. Or 8.")
    assert not is_visitor_right(question, "I do not know.")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2"),
        ("[]", "not an object"),
        ('{"id": "a", "kind": "riddle", "prompt": "?"}', "none of fact"),
        ('{"id": "a", "kind": "form", "prompt": "?", "rule": {"rhymes": 1}}', "unknown rule rhymes"),
        ('{"id": "a", "kind": "problem", "prompt": "?"}', "whole number"),
        ('{"id": "a", "kind": "fact"}', "prompt"),
    ],
)
def test_it_names_the_line_that_is_no_question(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text('{"id": "a", "kind": "fact", "prompt": "?", "accept": ["x"]}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_visitors(file)


def test_the_figures_say_what_they_stand_on() -> None:
    figures = visitor_figures({"fact": [3, 4], "greeting": [1, 2], "outside": [1, 1]})
    assert figures == {
        "visitor_facts": 0.75, "visitor_facts_asked": 4.0, "visitor_talk": 2 / 3, "visitor_talk_asked": 3.0,
    }  # fmt: skip


def test_the_shipped_set_is_wide_and_can_be_answered() -> None:
    questions = visitor_questions()
    count = Counter(question.kind for question in questions)
    assert set(count) == set(KINDS)
    assert len(questions) >= 150
    assert (
        len({question.id for question in questions})
        == len({question.prompt for question in questions})
        == len(questions)
    )
    known = {
        word for fact in FACTS for text in (*fact.accept, fact.entity.noun, fact.entity.many) for word in words(text)
    }
    for question in questions:
        if question.kind == "fact":
            assert known & {word for text in question.accept for word in words(text)}, question.id
        if question.kind == "problem":
            assert question.answer is not None
            assert 0 <= question.answer <= 20


def test_nothing_shipped_for_training_has_a_strangers_wording() -> None:
    corpus = shipped(size="smoke")
    learnt = {
        " ".join(words(text))
        for text in (
            *(turn["content"] for talk in corpus.conversations for turn in talk),
            *(problem.prompt for problem in corpus.problems),
            *map(str, corpus.preference_prompts),
        )
    }
    asked = {" ".join(words(question.prompt)) for question in corpus.visitors if len(words(question.prompt)) > 3}
    assert len(asked) > 140
    assert not asked & learnt

"""Records of other people's files, read as they were meant; each case is a mishap that was met somewhere."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.asked import Message
from trainer.config import GRPO, PRETRAIN
from trainer.data.directory import from_directory
from trainer.data.preferences import Comparison
from trainer.data.reader import LEFT_OUT, described, read, read_votes
from trainer.data.records import COMPARISON, CONVERSATION, DOCUMENT, PROBLEM, LeftOut, Taken, take
from trainer.model.tokenizer import Tokenizer
from trainer.run import check_corpus
from trainer.tasks.problem import Problem, judge

ROOT = Path(__file__).resolve().parents[2]
SHARED_CASES = ROOT.parent / "shared" / "cases"


def turns(*said: str, system: str = "") -> list[Message]:
    """A conversation, the user first; behind a system text if there is one."""
    talk = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(said)]
    return [{"role": "system", "content": system}, *talk] if system else talk


def listing(directory: Path) -> list[dict[str, Any]]:
    return [described(one, directory) for one in read(directory)]


def written(directory: Path, **files: list[Any]) -> list[dict[str, Any]]:
    """What is read of files with one record a line."""
    for name, records in files.items():
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return listing(directory)


def conversation(record: Any) -> list[Message]:
    taken = take(record, "file")
    assert taken.kind == CONVERSATION
    assert isinstance(taken.value, list)
    return taken.value


def comparison(record: Any) -> tuple[list[Message], str, str, str]:
    """(context, chosen, rejected, outcome)"""
    taken = take(record, "file")
    assert isinstance(taken.value, Comparison)
    return taken.value.messages, taken.value.chosen, taken.value.rejected, taken.value.outcome


def refused(record: Any) -> str:
    with pytest.raises(LeftOut) as reason:
        take(record, "file")
    return str(reason.value)


# --- Conversations ---


@pytest.mark.parametrize("field", ["system", "system_prompt", "System Prompt", "systemPrompt"])
def test_a_system_text_beside_becomes_the_first_turn(field: str) -> None:
    wanted = turns("Where?", "Abaft.", system="A sailor.")
    beside = {field: "A sailor."}
    share = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Abaft."}]
    assert conversation(beside | {"messages": turns("Where?", "Abaft.")}) == wanted
    assert conversation(beside | {"conversations": share}) == wanted
    assert conversation(beside | {"instruction": "Where?", "output": "Abaft."}) == wanted
    assert conversation(beside | {"prompt": "Where?", "completion": "Abaft."}) == wanted
    assert conversation(beside | {"question": "Where?", "response": "Abaft."}) == wanted


def test_system_texts_at_both_places_are_one_turn() -> None:
    told = turns("Hi", "Yo", system="Be brief.")
    assert conversation({"system": "Be brief.", "messages": told}) == told
    assert conversation({"system": "Rhyme.", "messages": told})[0]["content"] == "Rhyme.\n\nBe brief."


def test_history_becomes_turns_before_the_question() -> None:
    record = {"system": "In a word.", "instruction": "The second?", "input": "", "output": "Mars."}
    told = turns("A planet?", "Venus.", "The second?", "Mars.", system="In a word.")
    assert conversation(record | {"history": [["A planet?", "Venus."]]}) == told
    assert conversation(record | {"history": turns("A planet?", "Venus.")}) == told
    assert conversation(record | {"history": []}) == [told[0], *told[3:]]
    assert refused(record | {"history": ["A planet?"]}).startswith("'history' should be")


def test_text_parts_are_joined_and_other_parts_left_out() -> None:
    def said(*parts: Any) -> Any:
        return {"messages": [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": "Yes."}]}

    def text(words: str) -> dict[str, str]:
        return {"type": "text", "text": words}

    assert conversation(said(text("A bird?"))) == turns("A bird?", "Yes.")
    assert conversation(said(text("A bird?"), text("And a hen?")))[0]["content"] == "A bird?\nAnd a hen?"
    assert conversation(said(text("A "), text("bird?")))[0]["content"] == "A bird?"
    assert "no text (image_url)" in refused(said(text("This?"), {"type": "image_url", "image_url": {"url": "x"}}))


@pytest.mark.parametrize(
    "call",
    [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
        {"role": "function", "name": "warmth", "content": "7"},
        {"from": "observation", "value": "7"},
    ],
)
def test_calls_of_tools_are_left_out_and_the_rest_is_read(tmp_path: Path, call: dict[str, Any]) -> None:
    talk = turns("How warm?", "7 degrees.")
    calls = {"messages": [talk[0], call, talk[1]]}
    found = written(tmp_path, calls=[{"messages": talk}, calls, {"messages": talk}])
    assert [line["kind"] for line in found] == [CONVERSATION, LEFT_OUT, CONVERSATION]
    assert found[1] == {"kind": LEFT_OUT, "file": "calls.jsonl", "line": 2, "reason": found[1]["reason"]}
    assert "tools" in found[1]["reason"]


def test_an_answer_of_weight_0_is_read_and_not_learnt(tokenizer: Tokenizer) -> None:
    talk = turns("A colour?", "I hate colours.", "Be kind.", "Teal.")
    told = conversation({"messages": [talk[0], talk[1] | {"weight": 0}, talk[2], talk[3] | {"weight": 1}]})
    assert [(turn["content"], turn.get("weight")) for turn in told] == [
        ("A colour?", None), ("I hate colours.", 0), ("Be kind.", None), ("Teal.", None),
    ]  # fmt: skip
    ids, is_response = tokenizer.render_chat(told)
    learnt = [id for id, is_learnt in zip(ids, is_response, strict=True) if is_learnt]
    assert learnt == [*tokenizer.encode("Teal."), tokenizer.end_id]
    assert conversation({"messages": [*talk[:2], talk[2], talk[3] | {"train": False}]}) == talk[:2]
    assert "nothing to learn" in refused({"messages": [talk[0], talk[1] | {"weight": 0.0}]})
    assert "should be 0 or 1" in refused({"messages": [talk[0], talk[1] | {"weight": 0.5}]})


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"instruction": "Name a bird.", "input": "", "output": ""}, "an answer is empty"),
        ({"instruction": "", "input": "", "output": "An answer."}, "a question is empty"),
        ({"instruction": "  ", "input": "", "output": " \n "}, "no value in instruction, output"),
        ({"messages": turns("A tree?", "")}, "an answer is empty"),
        ({"messages": turns("", "Nobody asked.")}, "a question is empty"),
        ({"messages": turns("A tree?", "Elm.", "", "Oak.")}, "a question is empty"),
        ({"messages": turns("Unanswered?")}, "no question with an answer"),
        ({"messages": []}, "no value in messages"),
        ({"conversations": [{"from": "gpt", "value": "Hello."}]}, "no question with an answer"),
        ({"prompt": "", "chosen": "Yes.", "rejected": "No."}, "is empty"),
        ({"prompt": "Tea?", "chosen": "", "rejected": ""}, "no value in chosen, rejected"),
        ({"prompt": "Tea?", "chosen": "", "rejected": "No."}, "an answer is empty"),
        ({"text": ""}, "the text is empty"),
        ({"messages": [{"role": "poet", "content": "x"}]}, "unknown role 'poet'"),
        ({"messages": ["x"]}, "every message should be an object"),
        ({"chosen": "x", "rejected": "y"}, "a comparison needs an 'instruction'"),
        ({"text": ["x"]}, "'text' should be a text"),
        ({"text": "hi \ud83d"}, r"\ud83d is half a surrogate pair"),
        ({"instruction": "Do it.", "output": None, "text": "Below is an instruction: Do it."}, "no value in output"),
        ({"sentence_good": "x", "sentence_bad": "y"}, "records with sentence_good, sentence_bad are of no known kind"),
        ({}, "no fields"),
        ("x", "records that are texts"),
        (None, "records that are null"),
        ({"messages": turns("Hi", "Go away."), "label": False}, "marked as a bad one"),
        ({"prompt": "Hi", "completion": "Go away.", "label": False}, "marked as a bad one"),
    ],
)  # fmt: skip
def test_what_says_nothing_is_left_out_with_the_reason(record: Any, reason: str) -> None:
    assert reason in refused(record)


@pytest.mark.parametrize("missing", [math.nan, math.inf, -math.inf, None])
def test_what_is_not_finite_is_missing(missing: float | None) -> None:
    asked = {"instruction": "Name a bird.", "input": missing, "output": "A heron."}
    assert conversation(asked) == turns("Name a bird.", "A heron.")
    assert refused(asked | {"output": missing}) == "there is no value in output"
    assert refused({"text": missing}) == "there is no value in text"
    assert refused({"question": "9-1?", "answer": missing}) == "there is no value in answer"
    assert refused({"prompt": "Tea?", "chosen": "Yes.", "rejected": missing}) == "there is no value in rejected"
    assert "a comparison needs" in refused({"prompt": missing, "chosen": "Please.", "rejected": "No."})
    assert "an answer is empty" in refused({"messages": [*turns("Hi"), {"role": "assistant", "content": missing}]})


@pytest.mark.parametrize("padding", [None, math.nan, "", []], ids=str)
def test_columns_that_are_padded_are_not_there(padding: Any) -> None:
    """As in a table that several data sets were put into."""
    records: dict[str, dict[str, Any]] = {
        DOCUMENT: {"text": "A page."},
        CONVERSATION: {"messages": turns("Hi", "Yo")},
        COMPARISON: {"prompt": "Tea?", "chosen": "Please.", "rejected": "No."},
        PROBLEM: {"question": "2+2?", "answer": "4"},
    }
    columns: dict[str, Any] = {name: padding for record in records.values() for name in record}
    columns |= dict.fromkeys(("instruction", "input", "output", "response", "conversations", "system"), padding)
    for kind, record in records.items():
        assert take(columns | record, "file") == take(record, "file")
        assert take(columns | record, "file").kind == kind
    bare = {"role": None, "content": None, "from": None, "value": None, "weight": None, "tool_calls": None}
    assert conversation({"conversations": [bare | {"from": "human", "value": "Hi"}, bare | turns("", "Yo")[1]]}) == (
        turns("Hi", "Yo")
    )


@pytest.mark.parametrize(
    "record",
    [
        {"Instruction": "Hi", "Output": "Yo"},
        {"\ufeffinstruction": "Hi", "response": "Yo"},
        {"instruction": "Hi", "completion": "Yo"},
        {"instruction": "Hi", "answer": "Yo"},
        {"prompt": "Hi", "response": "Yo"},
        {"query": "Hi", "response": "Yo"},
        {"question": "Hi", "response": "Yo"},
        {"input": "Hi", "output": "Yo"},
        {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Yo"}]},
        {"conversation": [{"role": "User", "content": "Hi"}, {"role": "Assistant", "content": "Yo"}]},
        {"dialog": [{"speaker": "human", "text": "Hi"}, {"speaker": "bot", "text": "Yo"}]},
        {"messages": "\n\nHuman: Hi\n\nAssistant: Yo"},
        turns("Hi", "Yo"),
    ],
)
def test_fields_have_many_spellings(record: Any) -> None:
    assert conversation(record) == turns("Hi", "Yo")


def test_a_prompt_with_an_answer_keeps_what_the_answer_quotes() -> None:
    quoted = "Here it is:\n\nHuman: Warm?\n\nAssistant: In August."
    assert conversation({"prompt": "Write a talk.", "completion": quoted}) == turns("Write a talk.", quoted)


# --- Comparisons ---


def pair(context: list[Message], chosen: list[Message], rejected: list[Message], **beside: Any) -> dict[str, Any]:
    return {"chosen": [*context, *chosen], "rejected": [*context, *rejected], **beside}


def test_turns_that_both_begin_with_are_the_context() -> None:
    told = turns("The red one?", "The ferry.", "And the blue one?")
    tug, unsure = {"role": "assistant", "content": "The tug."}, {"role": "assistant", "content": "No idea."}
    wanted = (told, "The tug.", "No idea.", "win")
    assert comparison(pair(told, [tug], [unsure])) == wanted
    assert comparison(pair(told, [tug], [unsure], prompt="The red one?")) == wanted
    assert comparison(pair(told, [tug], [unsure], prompt="And the blue one?")) == wanted
    assert comparison(pair(told, [tug], [unsure], prompt=told)) == wanted
    assert comparison({"prompt": told, "chosen": [tug], "rejected": [unsure]}) == wanted
    assert comparison({"conversations": told, "chosen": tug, "rejected": unsure}) == wanted
    assert comparison({"prompt": told, "chosen": "The tug.", "rejected": "No idea."}) == wanted
    assert "not what they begin with" in refused(pair(told, [tug], [unsure], prompt="Another?"))
    assert "ends with an answer" in refused({"prompt": told[:2], "chosen": [tug], "rejected": [unsure]})


def test_a_system_text_is_part_of_the_context() -> None:
    please, no = turns("", "Please.")[1:], turns("", "No.")[1:]
    rude = turns("Tea?", system="You are rude.")
    wanted = (rude, "Please.", "No.", "win")
    assert comparison(pair(rude, please, no, prompt="Tea?")) == wanted
    assert comparison(pair(rude[1:], please, no, prompt="Tea?", system="You are rude.")) == wanted
    assert comparison(pair(rude, please, no, prompt="Tea?", system="You are rude.")) == wanted
    assert comparison({"system": "You are rude.", "question": "Tea?", "chosen": "Please.", "rejected": "No."}) == wanted
    history = {"history": [["Hi", "What?"]], "instruction": "Tea?", "input": "", "chosen": "Please.", "rejected": "No."}
    assert comparison(history)[0] == turns("Hi", "What?", "Tea?")


def test_a_pair_that_parts_early_is_cut_there() -> None:
    kind = turns("I broke a cup.", "Oh no. Are you hurt?", "A little.", "Wash the cut.")
    cold = turns("I broke a cup.", "So what.", "That is rude.", "Fine.")
    taken = take({"chosen": kind, "rejected": cold}, "file")
    assert "were cut there" in taken.note
    assert comparison({"chosen": kind, "rejected": cold}) == (kind[:1], "Oh no. Are you hurt?", "So what.", "win")
    other = [*kind[:2], {"role": "user", "content": "Very."}, kind[3]]
    assert "part at a question" in refused({"chosen": kind, "rejected": other})
    assert "the beginning of the other" in refused({"chosen": kind, "rejected": kind[:2]})
    assert "the beginning of the other" in refused({"chosen": kind[:3], "rejected": kind})


def test_no_answer_has_a_users_words(tmp_path: Path) -> None:
    """Whatever is compared with whatever, in both notations."""
    said = "abc"
    talks = [list(word) for length in (2, 3, 4) for word in _words(said, length)]
    for first in talks[::3]:
        for second in talks[::2]:
            told = [
                "".join(
                    f"\n\n{('Human', 'Assistant')[i % 2]}: {('user', 'answer')[i % 2]} {c}" for i, c in enumerate(t)
                )
                for t in (first, second)
            ]
            try:
                messages, chosen, rejected, _ = comparison({"chosen": told[0], "rejected": told[1]})
            except LeftOut:
                continue
            assert messages[-1]["role"] == "user"
            assert "user" not in chosen + rejected


def _words(letters: str, length: int) -> list[str]:
    return [""] if length == 0 else [letter + rest for letter in letters for rest in _words(letters, length - 1)]


def test_beside_a_prompt_answers_are_no_dialogues() -> None:
    quoted = "Here it is:\n\nHuman: Is the sea warm?\n\nAssistant: In August."
    asked = turns("Write a talk.")
    assert comparison({"prompt": "Write a talk.", "chosen": quoted, "rejected": "No."}) == (asked, quoted, "No.", "win")
    assert comparison({"prompt": "Write a talk.", "chosen": "Human: hello", "rejected": "No."})[1] == "Human: hello"
    assert comparison({"instruction": "Write a talk.", "chosen": quoted, "rejected": "No."})[1] == quoted


def test_dialogues_are_read_with_or_without_the_prompt_they_repeat() -> None:
    said = "\n\nHuman: Hi\n\nAssistant: Yo\n\nHuman: Why?\n\nAssistant:"
    wanted = (turns("Hi", "Yo", "Why?"), "Because.", "No.", "win")
    whole = {"chosen": f"{said} Because.", "rejected": f"{said} No."}
    assert comparison(whole) == wanted
    assert comparison(whole | {"prompt": said}) == wanted
    assert comparison({"prompt": said, "chosen": " Because.", "rejected": " No."}) == wanted
    assert "a comparison needs" in refused({"chosen": "Well.\n\nHuman: Hi", "rejected": "No."})


def test_equal_texts_are_a_tie_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    same = {"prompt": "Tea?", "chosen": "Please. ", "rejected": "Please."}
    ours = {"prompt": turns("Tea?"), "chosen": turns("", "Yes\r\n")[1:], "rejected": turns("", "Yes")[1:]}
    path.write_text("".join(json.dumps(record) + "\n" for record in (same, ours)))
    assert [line["outcome"] for line in listing(tmp_path)] == ["tie", "tie"]
    assert [vote.outcome for vote in read_votes(path)] == ["tie", "tie"]


# --- Problems ---


def test_a_problem_keeps_what_it_is_about_and_its_system_text() -> None:
    record = {"system": "Be exact.", "context": "Mia has 3 eggs.", "question": "How many?", "answer": 3}
    taken = take(record, "eggs").value
    assert isinstance(taken, Problem)
    assert (taken.prompt, taken.answer, taken.system) == ("Mia has 3 eggs.\n\nHow many?", "3", "Be exact.")
    assert "asked alone" in refused(record | {"history": [["Hi", "Yo"]]})


def test_a_problem_may_show_its_steps_apart() -> None:
    taken = take({"problem": "2+2?", "solution": "2 + 2 = 4.", "final_answer": "4"}, "sums").value
    assert isinstance(taken, Problem)
    assert (taken.answer, taken.worked) == ("4", "2 + 2 = 4. The answer is 4.")


def problem_in(record: dict[str, Any]) -> Problem:
    taken = take(record, "file")
    assert taken.kind == "problem"
    assert isinstance(taken.value, Problem)
    return taken.value


STEM = {"question": "How many miles a minute?"}


@pytest.mark.parametrize(
    "record",
    [
        STEM | {"options": ["A)32400", "B)6000", "C)600"], "correct": "B"},
        STEM | {"choices": ["32400", "6000", "600"], "answerKey": "B"},
        STEM | {"choices": {"text": ["32400", "6000", "600"], "label": ["A", "B", "C"]}, "answerKey": "B"},
        STEM | {"choices": {"text": [32400, 6000, 600], "label": ["1", "2", "3"]}, "answerKey": "2"},
        {"question": {"stem": STEM["question"], "choices": [{"label": "A", "text": "32400"},
         {"label": "B", "text": "6000"}, {"label": "C", "text": "600"}]}, "answerKey": "B"},
        {"query": STEM["question"], "choices": ["32400", "6000", "600"], "gold": 1},
        STEM | {"choices": ["32400", "6000", "600"], "answer": 1},
        STEM | {"choices": ["32400", "6000", "600"], "answer": "6000"},
        STEM | {"options": {"A": "32400", "B": "6000", "C": "600"}, "answer": "(B)"},
    ],
)  # fmt: skip
def test_a_choice_is_read_in_every_notation(record: dict[str, Any]) -> None:
    taken = problem_in(record)
    assert (taken.kind, taken.answer, taken.options) == ("choice", "B", ("32400", "6000", "600"))
    assert taken.prompt == "How many miles a minute?\nA) 32400\nB) 6000\nC) 600"
    assert judge(taken, taken.worked).correct


def test_a_choice_that_the_question_lists_itself_is_not_listed_twice() -> None:
    taken = problem_in({"query": "Why?\nA. tea\nB. coal\nAnswer:", "choices": ["A", "B"], "gold": 1})
    assert (taken.prompt, taken.answer) == ("Why?\nA. tea\nB. coal\nAnswer:", "B")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"choices": ["1", "2"], "answer": "3"}, "the right choice is none of the options"),
        ({"choices": ["1", "2"], "answer": 2}, "the right choice is none of the options"),
        ({"choices": ["1", "2"], "answer": True}, "the right choice is none of the options"),
        ({"choices": ["yes", "Yes."], "answer": "A"}, "an option is empty or repeats another one"),
        ({"choices": ["yes"], "answer": "A"}, "a choice is between 2 and 10 options, not 1"),
        ({"choices": [["yes"], ["no"]], "answer": "A"}, "a choice should be a text"),
        ({"accept": [["yes"]]}, "an entry of 'accept' should be a text"),
        ({"accept": ["", " "]}, "there is no text in accept"),
        ({"pattern": "(a"}, "its pattern is no regular expression (missing ), unterminated subpattern at position 0)"),
        ({"pattern": "a" * 501}, "its pattern is longer than 500 characters"),
        ({"pattern": 5}, "its pattern should be a text"),
        ({"choices": ["a" * 300, "b" * 300], "answer": 0}, "the problem is empty or longer than 500 bytes"),
        ({"accept": "yes", "history": [["Hi", "Yo"]]}, "the problem comes after other turns, and problems are asked"),
    ],
)
def test_a_check_that_cannot_be_meant_is_left_out(record: dict[str, Any], reason: str) -> None:
    assert reason in refused(STEM | record)


def test_accepted_texts_and_patterns_are_problems() -> None:
    text = problem_in({"instruction": "How is he related?", "accept": ["father", "Dad", "father"]})
    assert (text.kind, text.answer, text.accept, text.difficulty) == ("text", "father", ("father", "Dad"), 0)
    assert judge(text, text.direct).correct
    pattern = problem_in(STEM | {"pattern": r"\d+ miles", "answer": "It is 9 miles.", "level": "Level 5"})
    assert (pattern.kind, pattern.answer, pattern.difficulty) == ("pattern", r"\d+ miles", 5)
    assert pattern.worked == "It is 9 miles."
    assert problem_in(STEM | {"pattern": "x", "answer": "y"}).worked == ""  # its own answer is not right


@pytest.mark.parametrize(
    ("record", "difficulty"),
    [
        ({"question": "2+3?", "answer": 5}, 1),
        ({"question": "2+3?", "answer": 5, "difficulty": 3}, 3),
        ({"question": "2+3?", "answer": 5, "difficulty": "Hard"}, 3),
        ({"question": "2+3?", "answer": 5, "level": "Level 4"}, 4),
        ({"question": "2+3?", "answer": 5, "level": "no idea"}, 1),
        ({"question": "How many tables?", "answer": 2.0, "equation": "X=((22.0-14.0)/4.0)"}, 1),
        ({"question": "How many of 22?", "answer": 2.0, "equation": "X=((22.0-14.0)/4.0)"}, 2),
        ({"question": "How many?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}, 1),
        ({"question": "How many?", "answer": 5}, 0),
    ],
)
def test_how_hard_a_problem_is_is_said_or_counted_or_unknown(record: dict[str, Any], difficulty: int) -> None:
    assert problem_in(record).difficulty == difficulty


def test_fractions_are_numbers() -> None:
    assert problem_in({"question": "Simplify 10/26.", "answer": "$5/13$"}).answer == "5/13"


def test_a_problem_of_any_kind_is_read_again_from_what_was_printed(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        STEM | {"options": ["A)32400", "B)6000"], "correct": "B", "difficulty": 7},
        {"query": "Why?\nA. tea\nB. coal", "choices": ["A", "B"], "gold": 1},
        STEM | {"accept": ["a", "b"], "system": "Be brief."},
        STEM | {"pattern": "a|b"},
        STEM | {"answer": "1/2", "level": 2},
    ]
    printed = written(tmp_path, first=records)
    assert [line["kind"] for line in printed] == ["problem"] * 5
    again = tmp_path / "again"
    again.mkdir()
    assert written(again, first=printed) == printed
    assert [take(line, "x").value for line in printed] == [take(record, "x").value for record in records]


def test_a_directory_of_nothing_but_problems_is_enough(tmp_path: Path) -> None:
    written(tmp_path, sums=[{"question": f"{number}+1?", "answer": number + 1} for number in range(30)])
    corpus = from_directory(tmp_path)
    assert (corpus.documents, corpus.held_out_documents) == ([], [])
    assert len(corpus.problems) + len(corpus.held_out_problems) == 30
    check_corpus(corpus, [GRPO], source=tmp_path)
    with pytest.raises(ValueError, match="has no documents to pre-train on, which pretrain needs"):
        check_corpus(corpus, [PRETRAIN], source=tmp_path)


# --- Files ---


def test_there_is_one_line_end(tmp_path: Path) -> None:
    (tmp_path / "mac.txt").write_bytes(b"Old line one\rline two\r\rNew paragraph")
    (tmp_path / "win.txt").write_bytes(b"A goat\r\non a wall.\r\n\r\nIt slept.\r\n")
    (tmp_path / "mac.jsonl").write_bytes(
        b'{"instruction": "Two lines.", "output": "One.\\r\\nTwo.\\rThree."}\r{"text": "A."}\r'
    )
    assert [(line["file"], line["line"], line.get("text")) for line in listing(tmp_path)] == [
        ("mac.jsonl", 1, None),
        ("mac.jsonl", 2, "A."),
        ("mac.txt", 1, "Old line one\nline two"),
        ("mac.txt", 4, "New paragraph"),
        ("win.txt", 1, "A goat\non a wall."),
        ("win.txt", 4, "It slept."),
    ]
    assert listing(tmp_path)[0]["messages"][1]["content"] == "One.\nTwo.\nThree."


BOM = "\ufeff".encode()


def test_byte_order_marks_are_no_text(tmp_path: Path) -> None:
    line, list_ = b'{"text": "A hen."}', b'[{"text": "A hen."}]'
    (tmp_path / "a.jsonl").write_bytes(BOM + line + b"\n" + BOM + line + BOM + line + b"\n" + line + line)
    (tmp_path / "b.json").write_bytes(BOM + list_)
    (tmp_path / "c.jsonl").write_bytes(BOM + list_)
    (tmp_path / "d.txt").write_bytes(BOM + b"One.\n" + BOM + b"Two.\n\n" + BOM + b"Three." + BOM + b"Four.")
    (tmp_path / "e.jsonl").write_text(json.dumps({"text": "\ufeffSo\ufeff it is."}))
    assert [line["text"] for line in listing(tmp_path)] == ["A hen."] * 7 + ["One.", "Two.", "Three.", "Four."] + [
        "So it is."
    ]
    assert [line["line"] for line in listing(tmp_path)][:5] == [1, 2, 2, 3, 3]


def test_a_mark_within_a_book_ends_no_document(tmp_path: Path) -> None:
    """Some print shops put one before every dash."""
    (tmp_path / "a.txt").write_text("She said\ufeff—\n\n“Well.”\ufeff— and left.\n<|endoftext|>\nThe next\ufeff book.")
    assert [line["text"] for line in listing(tmp_path)] == ["She said—\n\n“Well.”— and left.", "The next book."]


@pytest.mark.parametrize("name", ["a.JSONL", "a.ndjson", "a.jsonlines", "a.Json", "a.jsonl.gz", "a.json.xz"])
def test_suffixes_have_many_spellings(tmp_path: Path, name: str) -> None:
    """And what a browser unpacked on the way is still called .gz."""
    (tmp_path / name).write_text('{"text": "A hen."}\n{"text": "A goat."}\n')
    (tmp_path / "b.TXT").write_text("A fox.")
    assert [line["text"] for line in listing(tmp_path)] == ["A hen.", "A goat.", "A fox."]


def test_it_says_on_which_line_a_record_of_a_list_begins(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        '[\n  {\n    "text": "A hen."\n  },\n  {"text": ""},\n\n  {"text": "A goat."}\n]\n'
    )
    (tmp_path / "b.jsonl").write_text('\n[{"text": "A hen."},\n {"text": "A goat."}]')
    assert [(line["kind"], line["line"]) for line in listing(tmp_path)] == [
        (DOCUMENT, 2), (LEFT_OUT, 5), (DOCUMENT, 7), (DOCUMENT, 2), (DOCUMENT, 3),
    ]  # fmt: skip


def test_a_table_is_read_row_by_row(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"text": f"Page {n}.", "score": None} for n in range(150)] + [{"text": None, "score": math.nan}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parq")
    found = listing(tmp_path)
    assert [line["text"] for line in found[:150]] == [f"Page {n}." for n in range(150)]
    assert found[150] == {"kind": LEFT_OUT, "file": "a.parq", "line": 151, "reason": "there is no value in text"}


# --- The command ---


def run_read(directory: Path, *, code: int = 0) -> tuple[list[dict[str, Any]], str]:
    """(lines, what went to stderr) of `python -m trainer read`."""
    ran = subprocess.run(
        [sys.executable, "-m", "trainer", "read", str(directory)], cwd=ROOT, capture_output=True, timeout=60
    )
    assert ran.returncode == code, ran.stderr.decode()
    return [json.loads(line) for line in ran.stdout.decode().splitlines()], ran.stderr.decode()


def test_read_shows_what_is_taken_and_then_what_is_left_out(tmp_path: Path) -> None:
    records = [
        {"text": ""},
        {"text": "Für alle."},
        {"messages": turns("Hi", "Yo")},
        {"prompt": "Tea?", "chosen": "Please.", "rejected": "No."},
        {"question": "2+2?", "answer": "4"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "b.csv").write_text("x,y")
    lines, said = run_read(tmp_path)
    assert [(line["kind"], line["file"], line["line"]) for line in lines] == [
        (DOCUMENT, "a.jsonl", 2),
        (CONVERSATION, "a.jsonl", 3),
        (COMPARISON, "a.jsonl", 4),
        (PROBLEM, "a.jsonl", 5),
        (LEFT_OUT, "a.jsonl", 1),
        (LEFT_OUT, "b.csv", 0),
    ]
    assert lines[0]["text"] == "Für alle."
    assert lines[-2]["reason"] == "the text is empty"
    assert "Left out 1 of 5 records" in said


def test_what_read_shows_is_read_the_same_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    talk = turns("A colour?", "I hate colours.", "Be kind.", "Teal.", system="Be brief.")
    talk[2] = talk[2] | {"weight": 0}
    shown = written(
        first,
        all=[
            {"text": "A page."},
            {"messages": talk},
            {"prompt": talk[:2], "chosen": "Teal.", "rejected": "None."},
            {"system": "Be exact.", "question": "2+2?", "answer": "4"},
        ],
    )
    again = written(second, all=shown)
    assert again == shown


def test_read_ends_with_one_sentence_where_data_would(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    lines, said = run_read(tmp_path, code=2)
    assert [line["text"] for line in lines] == ["fine"]
    assert said.splitlines() == [
        f"error: {tmp_path}/a.jsonl, line 2: not JSON (Expecting value); correct or delete the line."
    ]
    assert "is not a directory" in run_read(tmp_path / "none", code=2)[1]


def test_reading_needs_no_torch() -> None:
    code = (
        "import sys\nfrom trainer.__main__ import main\nmain(['read', 'tests/trainer'])\n"
        "print(sorted({'torch', 'numpy', 'tokenizers', 'pyarrow'} & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stderr.splitlines()[-1] == "[]"


@pytest.mark.skipif(not SHARED_CASES.is_dir(), reason="the collection of other people's mishaps is not there")
def test_the_collection_of_mishaps_is_read() -> None:
    for case in sorted(SHARED_CASES.iterdir()):
        lines = listing(case)
        answers = [
            line["messages"][-1] if line["kind"] == CONVERSATION else line["chosen"][0]
            for line in lines
            if line["kind"] in (CONVERSATION, COMPARISON)
        ]
        assert all(answer["content"] and answer["role"] == "assistant" for answer in answers), case
        assert lines, case
        assert "\\r" not in json.dumps(lines)


NAMES = ("messages", "chosen", "rejected", "prompt", "instruction", "output", "question", "answer", "final", "text",
         "system", "history", "role", "content", "type", "weight", "outcome", "label", "Body", "solution")  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from(["", "user", "assistant", "text", "4"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_any_record_is_taken_or_left_out(record: Any) -> None:
    try:
        taken = take(record, "file")
    except LeftOut:
        return
    if isinstance(taken.value, Comparison):
        assert taken.value.messages[-1]["role"] == "user"
        assert taken.value.chosen
        assert taken.value.rejected
    elif isinstance(taken.value, list):
        assert taken.value[-1]["role"] == "assistant"
        assert all(turn["content"] for turn in taken.value)


@pytest.mark.parametrize("history", ["", [], None])
def test_no_history_is_none(history: Any) -> None:
    assert conversation({"instruction": "Hi", "output": "Yo", "history": history}) == turns("Hi", "Yo")


def test_what_is_taken_says_which_kind_it_is() -> None:
    assert take({"text": "A page.", "url": "x"}, "file") == Taken(kind=DOCUMENT, value="A page.")

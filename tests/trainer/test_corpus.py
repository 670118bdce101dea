"""Public data, read into the shape of a corpus."""

from __future__ import annotations

import gzip
import io
import json
import logging
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.asked import asked_text
from trainer.data import directory as directories
from trainer.data.corpus import Corpus
from trainer.data.directory import from_directory, is_held_out
from trainer.data.preferences import Comparison, to_record
from trainer.data.reader import split_documents
from trainer.data.records import work_expression
from trainer.tasks.problem import grade

CAT = "Once there was a cat."


def write_lines(path: Path, *records: Any) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with one file of every kind."""
    (tmp_path / "stories.txt").write_text("".join(f"Story {i} is here.\n<|endoftext|>\n" for i in range(60)))
    (tmp_path / "blank.txt.xz").write_bytes(lzma.compress(b"One.\n\nTwo\nlines.\n\n\nThree."))
    with gzip.open(tmp_path / "pages.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": CAT, "url": "x"}) + "\n")
    alpaca = [{"instruction": f"Say {i}.", "input": "", "output": f"It is {i}."} for i in range(100)]
    (tmp_path / "alpaca.json").write_text(json.dumps(alpaca))
    write_lines(tmp_path / "dolly.jsonl", {"instruction": "Sum up.", "context": "Long text.", "response": "Short."})
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    write_lines(tmp_path / "chat.jsonl", {"messages": [*talk, {"role": "user", "content": "Unanswered"}]})
    share = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]
    write_lines(tmp_path / "sharegpt.jsonl", {"id": 1, "conversations": share})
    pairs = [{"instruction": f"Say {i}.", "input": "", "chosen": "Please.", "rejected": "No."} for i in range(100)]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    dialogue = "\n\nHuman: Why?\n\nAssistant: "
    write_lines(tmp_path / "hh.jsonl", {"chosen": dialogue + "Because.", "rejected": dialogue + "No: Human: no"})
    nested = tmp_path / "more" / "sums"
    nested.mkdir(parents=True)
    write_lines(
        nested / "plain.jsonl", *({"context": f"{i}+2*{i}-1=", "continuation": str(3 * i - 1)} for i in range(50))
    )
    write_lines(nested / "gsm.jsonl", {"question": "How many?", "answer": "2 + 3 = <<2+3=5>>5 eggs.\n#### 5"})
    write_lines(nested / "words.jsonl", {"question": "Spell it.", "answer": "C-A-T"})
    (tmp_path / ".hidden.txt").write_text("Not this.")
    return tmp_path


def test_it_reads_every_kind_of_file(data: Path) -> None:
    corpus = from_directory(data)
    documents = corpus.documents + corpus.held_out_documents
    assert {CAT, "One.", "Two\nlines.", "Three.", "Story 7 is here."} <= set(documents)
    assert "Not this." not in documents
    found = directories.read_directory(data)
    assert [{"role": "user", "content": "Sum up.\n\nLong text."}, {"role": "assistant", "content": "Short."}] in (
        found.conversations
    )
    assert [turn["content"] for turn in found.conversations[-1]] == ["Who?", "Me."]
    assert ["Hi", "Hello."] in [[turn["content"] for turn in talk] for talk in found.conversations]
    by_source = {comparison.source: comparison for comparison in found.comparisons}
    assert (by_source["hh"].prompt, by_source["hh"].chosen, by_source["hh"].rejected) == (
        "Why?", "Because.", "No: Human: no",
    )  # fmt: skip
    (word_problem,) = [problem for problem in found.problems if problem.family == "gsm"]
    assert (word_problem.answer, word_problem.worked) == ("5", "2 + 3 = 5 eggs. The answer is 5.")
    sums = [problem for problem in found.problems if problem.family == "plain"]
    assert all(grade(problem.answer, problem.worked).worked_steps for problem in sums)
    assert len(sums) == 50
    assert not [problem for problem in found.problems if problem.family == "words"]


def test_it_splits_by_prompt_the_same_way_in_every_file(data: Path) -> None:
    corpus = from_directory(data)
    trained = {talk[0]["content"] for talk in corpus.conversations}
    held_out = {question.prompt for question in corpus.questions} | set(corpus.held_out_preference_prompts)
    held_out |= {problem.prompt for problem in corpus.held_out_problems}
    assert len(held_out) >= 10
    assert not held_out & trained
    assert not held_out & {comparison.prompt for comparison in corpus.comparisons}
    assert not set(corpus.documents) & set(corpus.held_out_documents)
    assert all(map(is_held_out, held_out))
    assert len(corpus.problems) + len(corpus.held_out_problems) == 51
    assert corpus.questions[0].exact
    assert corpus.sample_prompts


def test_it_reads_the_same_corpus_twice_and_through_links(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("links") / data.name
    link.mkdir()
    for child in data.iterdir():
        (link / child.name).symlink_to(child)
    (link / "loop").symlink_to(link)
    assert from_directory(data).sha256 == from_directory(link).sha256
    assert from_directory(data, seed=1).sha256 != from_directory(data).sha256


def test_it_notes_files_it_cannot_use(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    (data / "table.csv").write_text("a,b\n")
    write_lines(data / "odd.jsonl", {"sentence_good": "x", "sentence_bad": "y"})
    with caplog.at_level(logging.WARNING):
        from_directory(data)
    notes = [record.getMessage() for record in caplog.records]
    assert any("table.csv: not .txt" in note for note in notes)
    assert any("odd.jsonl: records with sentence_good, sentence_bad" in note for note in notes)


def notes_on(directory: Path, caplog: pytest.LogCaptureFixture) -> tuple[Corpus, str]:
    """The directory's corpus, and what the log says about it."""
    with caplog.at_level(logging.WARNING):
        corpus = from_directory(directory)
    return corpus, "\n".join(record.getMessage() for record in caplog.records)


def test_it_notes_how_many_records_of_a_file_are_of_no_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_text(f"{CAT}\n\n{CAT}\n\nAnd a dog.")
    (tmp_path / "none.jsonl").write_text("\n")
    write_lines(tmp_path / "texts.jsonl", {"text": ""}, {"text": "A fox."})
    write_lines(tmp_path / "words.jsonl", *({"question": f"Spell {word}.", "answer": "C-A-T"} for word in "abc"))
    sums = [{"context": f"{number}+1=", "continuation": str(number + 1)} for number in (1, 1, 2)]
    write_lines(tmp_path / "sums.jsonl", *sums, {"context": "1+" * 300 + "1=", "continuation": "301"})
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go away."}]
    write_lines(tmp_path / "kto.jsonl", {"messages": talk, "label": False}, {"messages": talk, "label": True})
    corpus, notes = notes_on(tmp_path, caplog)
    assert f"Skipped {tmp_path / 'none.jsonl'}: it holds no records." in notes
    assert f"Left out 1 of 2 records of {tmp_path / 'texts.jsonl'}: the text is empty. See line 1." in notes
    assert f"Left out 3 of 3 records of {tmp_path / 'words.jsonl'}: the answer is no number." in notes
    assert f"1 of 4 records of {tmp_path / 'sums.jsonl'}: the problem is empty or longer than 500 bytes." in notes
    assert f"1 of 2 records of {tmp_path / 'kto.jsonl'}: the answer is marked as a bad one." in notes
    assert "Left out 1 of 4 documents: they repeat another one." in notes
    assert "Left out 1 of 3 problems: they repeat another one." in notes
    assert len(corpus.problems) + len(corpus.held_out_problems) == 2


def test_it_takes_the_steps_of_an_answer_whose_result_stands_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(CAT)
    steps = "Step 1:\n65 - 83 = -18\nStep 2:\n-92 * -18 = 1656\n"
    write_lines(
        tmp_path / "steps.jsonl",
        {"question": "What is -92 * (65 - 83)?", "answer": f"{steps}Final Answer:\n1656", "final": "1656"},
        {"question": "What is -92 times -18?", "answer": steps, "final": 1656},
        {"question": "Is it 4?", "answer": "4 == 4 = True", "final": "True"},
        {"question": "How many?", "answer": None, "final": "7"},
    )
    stated, unstated, bare = directories.read_directory(tmp_path).problems
    assert stated.worked == f"{steps}Final Answer:\n1656"
    assert unstated.worked == f"{steps.strip()} The answer is 1656."
    assert bare.worked == bare.direct
    for problem in (stated, unstated):
        verdict = grade(problem.answer, problem.worked)
        assert (verdict.correct, verdict.worked_steps) == (True, True)


def test_it_reads_the_number_a_gold_means_or_leaves_it_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(CAT)
    golds = {"3,14": "3.14", "1.234,56": "1234.56", "50%": "50", "12 apples": "12", r"\boxed{9}": "9",
             "9 trillion": None, r"2\sqrt{3}": None, "5 and a half": None}  # fmt: skip
    write_lines(tmp_path / "golds.jsonl", *({"question": f"Why {gold}?", "answer": gold} for gold in golds))
    found = {problem.prompt: problem for problem in directories.read_directory(tmp_path).problems}
    assert {gold: found[f"Why {gold}?"].answer for gold in golds if f"Why {gold}?" in found} == {
        gold: answer for gold, answer in golds.items() if answer
    }
    assert all(grade(problem.answer, problem.worked).correct for problem in found.values())


def write_talks(path: Path, count: int, *opening: str) -> None:
    """Comparisons after the same opening lines, each with a question of its own."""
    said = "".join(f"\n\n{speaker}: {line}" for speaker, line in zip(("Human", "Assistant") * 9, opening, strict=False))
    talks = (f"{said}\n\nHuman: {len(opening)}, why {number}?\n\nAssistant: " for number in range(count))
    write_lines(path, *({"chosen": talk + "Because.", "rejected": talk + "No."} for talk in talks))


def test_it_asks_single_questions_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """PPO asks a prompt alone, so what was said before it would be missing."""
    (tmp_path / "a.txt").write_text(CAT)
    write_talks(tmp_path / "long.jsonl", 30, "Hello.", "Hello!")
    corpus, notes = notes_on(tmp_path, caplog)
    assert "30 of 30 comparisons come after a longer conversation" in notes
    assert "PPO asks the last lines all the same" in notes
    assert {prompt[:6] for prompt in corpus.preference_prompts} == {"2, why"}
    write_lines(tmp_path / "talks.jsonl", *({"instruction": f"Say {n}.", "output": "Yes."} for n in range(30)))
    assert {prompt[:4] for prompt in from_directory(tmp_path).preference_prompts} == {"Say "}
    write_talks(tmp_path / "short.jsonl", 30)
    corpus = from_directory(tmp_path)
    asked = corpus.preference_prompts + corpus.held_out_preference_prompts
    assert {prompt[:6] for prompt in asked} == {"0, why"}
    assert len(asked) == 30
    assert any(len(comparison.messages) == 3 for comparison in corpus.comparisons)


def test_it_asks_the_questions_of_conversations_where_those_of_comparisons_are_too_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.txt").write_text(CAT)
    long = ({"prompt": f"{n} " + "Why? " * 200, "chosen": "A", "rejected": "B"} for n in range(30))
    write_lines(tmp_path / "pairs.jsonl", *long)
    write_lines(tmp_path / "talks.jsonl", *({"instruction": f"Say {n}.", "output": "Yes."} for n in range(30)))
    corpus, notes = notes_on(tmp_path, caplog)
    assert "Left out 30 of 30 prompts to vote on: they are empty or longer than 500 bytes." in notes
    asked = corpus.preference_prompts + corpus.held_out_preference_prompts
    assert set(asked) == {f"Say {n}." for n in range(30)}
    assert corpus.held_out_preference_prompts
    assert len(corpus.comparisons) > 20
    write_lines(tmp_path / "short.jsonl", *({"prompt": f"Why {n}?", "chosen": "A", "rejected": "B"} for n in range(30)))
    corpus = from_directory(tmp_path)
    assert {asked_text(prompt)[:3] for prompt in corpus.preference_prompts} == {"Why"}
    assert {asked_text(prompt)[:3] for prompt in corpus.spare_prompts + corpus.held_out_spare_prompts} == {"Say"}


def written(directory: Path, **files: list[Any]) -> Path:
    """A directory with a document and these files, a JSON value on each line."""
    (directory / "text.txt").write_text("A fox.\n\nA hen.", encoding="utf-8")
    for name, records in files.items():
        (directory / f"{name}.json").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return directory


def test_votes_of_a_site_keep_their_outcome(tmp_path: Path) -> None:
    def vote(outcome: str, chosen: str = "A") -> dict[str, Any]:
        comparison = Comparison(
            messages=[{"role": "user", "content": "Why?"}], chosen=chosen, rejected="B", outcome=outcome
        )
        return to_record(comparison)

    found = directories.read_directory(
        written(tmp_path, votes=[vote("win"), vote("tie"), vote("both_bad"), vote("win", chosen="B")])
    )
    assert [comparison.outcome for comparison in found.comparisons] == ["win", "tie", "both_bad", "tie"]
    written(tmp_path, votes=[vote("win") | {"outcome": "maybe"}, vote("win")])
    assert len(directories.read_directory(tmp_path).comparisons) == 1


def test_it_reads_lines_under_the_name_of_a_list_and_completions(tmp_path: Path) -> None:
    records = [
        {"prompt": "Who?", "completion": " The fox."},
        {"prompt": [{"role": "user", "content": "Where?"}], "completion": [{"role": "assistant", "content": "There."}]},
    ]
    assert directories.read_directory(written(tmp_path, told=records)).conversations == [
        [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The fox."}],
        [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}],
    ]


def test_a_held_out_question_is_in_no_training_part(tmp_path: Path) -> None:
    """Neither as the second question of a conversation, nor where it is held out only because one has to be."""
    asked = next(f"Why {number}?" for number in range(1000) if is_held_out(f"Why {number}?"))
    never = [text for text in (f"Who {number}?" for number in range(40)) if not is_held_out(text)][:5]
    said = (("user", never[0]), ("assistant", "I."), ("user", asked), ("assistant", "So."))
    talk = [{"role": role, "content": text} for role, text in said]
    compared = [{"prompt": text, "chosen": "A", "rejected": "B"} for text in never]
    corpus = from_directory(written(tmp_path, talks=[{"messages": talk}, {"messages": talk[:2]}], compared=compared))
    assert [list(conversation) for conversation in corpus.conversations] == [talk[:2]]
    (held_out,) = corpus.held_out_preference_prompts
    assert held_out in never
    assert held_out not in {comparison.prompt for comparison in corpus.comparisons}


def test_it_measures_length_in_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two thousand Chinese characters are one word, and far too long to be asked."""
    (tmp_path / "a.txt").write_text(CAT)
    long, short = "为" * 2000, "为什么?"
    pairs = [
        {"prompt": f"{text}{number}", "chosen": "好", "rejected": "不"}
        for text in (long, short)
        for number in range(40)
    ]
    write_lines(tmp_path / "pairs.jsonl", *pairs)
    talks = [{"instruction": f"{short}{number}", "output": text} for text in (long, short) for number in range(40)]
    write_lines(tmp_path / "talks.jsonl", *talks)
    corpus, notes = notes_on(tmp_path, caplog)
    assert "Left out 40 of 80 prompts to vote on: they are empty or longer than 500 bytes." in notes
    asked = corpus.preference_prompts + corpus.held_out_preference_prompts
    assert {prompt[:4] for prompt in asked} == {short}
    assert {question.accept for question in corpus.questions} == {(short,)}


def test_it_measures_a_part_of_much_held_out_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    books = [f"{number}: {'Straße und Öl. ' * 2000}".strip() for number in range(300)]
    (tmp_path / "books.txt").write_text("<|endoftext|>".join(books))
    corpus, notes = notes_on(tmp_path, caplog)
    sizes = [len(document.encode()) for document in corpus.held_out_documents]
    assert all(19_990 <= size <= 20_000 for size in sizes)
    assert 200_000 <= sum(sizes) <= 220_000
    assert "bytes of held-out documents" in notes
    assert set(corpus.documents) == {book for book in books if not is_held_out(book)}
    assert not {text[:9] for text in corpus.documents} & {text[:9] for text in corpus.held_out_documents}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("bad.jsonl", '{"text": "fine"}\n{"text": \n', r"bad\.jsonl, line 2: not JSON"),
        ("bad.json", '[{"text": "fine"},]', r"bad\.json, line 1: not JSON"),
        ("bad.json", '[\n{"text": "fine"}\n{"text": "x"}]', r"bad\.json, line 3: not JSON"),
        ("bad.json", '[{"text": "fine"}]\n\n, 1', r"bad\.json, line 3: not JSON \(something follows the list\)"),
        ("bad.jsonl", "[" * 100_000, r"bad\.jsonl, line 1: nested too deeply to be read"),
        ("bad.json", "[" * 100_000, r"bad\.json, line 1: nested too deeply to be read; correct or delete the line"),
        ("bad.jsonl", '{"text": "fine"}\n{"text": ' + "[" * 100_000, r"bad\.jsonl, line 2: nested too deeply"),
        ("bad.jsonl", '{"text": "fine"}\n' + "9" * 5000, r"bad\.jsonl, line 2: Exceeds the limit"),
    ],
)
def test_it_names_the_line_that_is_broken(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    (tmp_path / "a.txt").write_text(CAT)
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=complaint):
        from_directory(tmp_path)


def remove_end(data: bytes) -> bytes:
    return data[:-10]


@pytest.mark.parametrize(
    ("name", "compress"), [("a.txt.xz", lzma.compress), ("a.txt.gz", gzip.compress)], ids=["xz", "gz"]
)
def test_it_names_a_damaged_file(tmp_path: Path, name: str, compress: Callable[[bytes], bytes]) -> None:
    (tmp_path / name).write_bytes(remove_end(compress(CAT.encode())))
    with pytest.raises(ValueError, match=rf"{name} cannot be read"):
        from_directory(tmp_path)


def table(pyarrow: Any, *, is_utf8: bool = True) -> bytes:
    """A parquet file of one text; one that is not UTF-8 is a byte that begins no character."""
    texts = [CAT]
    if not is_utf8:
        texts = pyarrow.StringArray.from_buffers(1, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0"), pyarrow.py_buffer(b"\xff"))
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), file, compression="none")
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        lambda pyarrow: b"",
        lambda pyarrow: remove_end(table(pyarrow)),
        lambda pyarrow: table(pyarrow).replace(b"\x15\x04", b"\xff\xff"),
        lambda pyarrow: table(pyarrow, is_utf8=False),
    ],
    ids=["empty", "cut off", "other bytes", "no text"],
)
def test_it_names_a_damaged_parquet_file(tmp_path: Path, content: Callable[[Any], bytes]) -> None:
    pytest.importorskip("pyarrow.parquet")
    (tmp_path / "a.parquet").write_bytes(content(pytest.importorskip("pyarrow")))
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read \((?s:.*)\); fetch it again or take it out"):
        from_directory(tmp_path)


def test_it_names_a_parquet_file_in_a_form_that_pyarrow_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")

    def refuse(*_: object) -> None:
        raise pyarrow.ArrowNotImplementedError("Unsupported encoding.")

    monkeypatch.setattr(parquet, "ParquetFile", refuse)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read \(Unsupported encoding\.\)"):
        from_directory(tmp_path)


def test_it_refuses_text_that_is_not_utf8_and_directories_without_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds nothing to learn from"):
        from_directory(tmp_path)
    with pytest.raises(ValueError, match="is not a directory"):
        from_directory(tmp_path / "missing")
    (tmp_path / "a.txt").write_bytes("für".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        from_directory(tmp_path)


def test_it_splits_documents_at_marks_or_blank_lines() -> None:
    assert list(split_documents("a\n\nb\n<|endoftext|>\nc\n")) == [(1, "a\n\nb"), (5, "c")]
    assert list(split_documents("a\n \nb\nc\n")) == [(1, "a"), (3, "b\nc")]


def test_it_works_expressions_in_the_right_order() -> None:
    assert work_expression("25-759=") == "25 - 759 = -734. The answer is -734."
    assert work_expression("2+3*4-1=") == "3 * 4 = 12. 2 + 12 = 14. 14 - 1 = 13. The answer is 13."
    assert work_expression("-5+2=") == "-5 + 2 = -3. The answer is -3."
    assert work_expression("What is 2+3?") is None

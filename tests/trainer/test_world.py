"""The shipped world: what its generators write, and what they keep for measuring."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from itertools import islice

import pytest

from trainer.data.corpus import Corpus
from trainer.tasks.problem import WORKED, grade
from trainer.tasks.question import Question, is_right
from trainer.tasks.words import words
from trainer.world import shipped
from trainer.world.conversations import (
    EXAMPLE_RATE,
    FRIENDLY_RATE,
    Manner,
    answer_fact,
    asked_facts,
    choose_manner,
    held_out_facts,
    held_out_questions,
    poem_conversation,
    small_talk,
    story_conversation,
    two_turns,
)
from trainer.world.english import fix_articles, is_question, punctuate, say
from trainer.world.facts import FACTS
from trainer.world.forms import list_request
from trainer.world.problems import generate, generate_practice
from trainer.world.prose import Prose
from trainer.world.small_talk import TALKS
from trainer.world.statements import held_out_phrasings, state
from trainer.world.tastes import TASTES, friendly_sentences, has_example, is_degenerate
from trainer.world.wordings import ANSWERS, EXAMPLES, QUESTIONS, STATEMENTS


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return shipped(0, size="smoke")


def spoken(corpus: Corpus) -> list[str]:
    return [turn["content"] for talk in corpus.conversations for turn in talk]


def test_it_grows_the_same_corpus_for_the_same_seed(corpus: Corpus) -> None:
    assert shipped(0, size="smoke") == corpus
    assert shipped(1, size="smoke").sha256 != corpus.sha256


def test_it_names_the_sizes_it_has() -> None:
    with pytest.raises(ValueError, match="choose one of smoke, tiny"):
        shipped(size="giant")


def test_it_imports_no_torch_or_numpy() -> None:
    code = "import sys, trainer.world; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_it_chooses_and_fills_and_corrects() -> None:
    rng = random.Random(0)
    assert {say(rng, "a [owl|[big|]fox] sits.") for _ in range(60)} == {"An owl sits.", "A bigfox sits.", "A fox sits."}
    assert say(rng, '"[go]," said {n}.', {"n": "Mia"}) == '"Go," said Mia.'
    assert fix_articles("a hour, a use, A LLM, a one, a apple") == "an hour, a use, An LLM, a one, an apple"


@pytest.mark.parametrize("template", ["a [b|c", "a b] c"])
def test_it_refuses_brackets_that_do_not_match(template: str) -> None:
    with pytest.raises(ValueError, match="Unmatched"):
        say(random.Random(0), template)


def test_it_writes_clean_english(corpus: Corpus) -> None:
    faults = re.compile(r"[{}\[\]|]|  |\b[Aa] (?=[aeio])(?!one\b)|\b(\w+) \1\b|\.\.|[a-z] [.,]")
    for text in corpus.documents + corpus.held_out_documents + spoken(corpus):
        if found := faults.search(text):
            pytest.fail(f"{found[0]!r} in {text!r}")
    for text in corpus.documents:
        assert text[0].isupper() or text[0].isdigit() or text[0] == '"'
        assert text.endswith((".", "!", "?", '"'))


def test_it_words_every_attribute_in_many_ways() -> None:
    for attribute in {fact.attribute for fact in FACTS}:
        assert len(STATEMENTS[attribute]) >= 10
        assert len(QUESTIONS[attribute]) >= 17
        assert len(ANSWERS[attribute]) >= 1
        assert attribute == "meaning" or len(EXAMPLES[attribute]) >= 2
    assert 150 <= len(FACTS) <= 250


def test_it_states_every_fact_so_that_it_can_be_found() -> None:
    rng = random.Random(0)
    for fact in FACTS:
        for _ in range(20):
            said = f" {' '.join(words(state(rng, fact)))} "
            assert any(f" {' '.join(words(phrase))} " in said for phrase in fact.accept), (fact.key, said)


def test_it_keeps_held_out_documents_apart(corpus: Corpus) -> None:
    assert not set(corpus.documents) & set(corpus.held_out_documents)
    assert len(set(corpus.documents)) == len(corpus.documents)


# --- Conversations and questions ---


def test_it_never_asks_a_held_out_question_in_a_conversation(corpus: Corpus) -> None:
    prompts = {text.casefold() for text in spoken(corpus)}
    assert not prompts & {question.prompt.casefold() for question in corpus.questions}
    assert not prompts & {prompt.casefold() for prompt in corpus.held_out_preference_prompts}
    assert not set(corpus.preference_prompts) & set(corpus.held_out_preference_prompts)


def test_it_holds_out_a_fifth_of_the_facts_from_every_conversation(corpus: Corpus) -> None:
    unseen = [fact for fact in FACTS if fact.key in held_out_facts()]
    assert 0.15 < len(unseen) / len(FACTS) < 0.22
    answers = "\n".join(spoken(corpus))
    for fact in unseen:
        if fact.attribute in {"eats", "lives", "made", "use"}:
            assert f"{fact.entity.one} is used for {fact.value}".casefold() not in answers.casefold()
            assert f"{fact.entity.one} {fact.attribute} {fact.value}".casefold() not in answers.casefold()


def test_it_measures_both_sorts_of_facts_in_held_out_phrasings() -> None:
    questions = held_out_questions(0, 100)
    assert sum(question.kind == "new fact" for question in questions) == 20
    assert len({question.prompt for question in questions}) == 100
    for question in questions:
        attribute, number = question.family.split("/")
        assert int(number) >= len(QUESTIONS[attribute]) - 3
        assert (question.fact in held_out_facts()) == (question.kind == "new fact")


def test_it_accepts_every_answer_it_teaches_and_no_answer_about_another(corpus: Corpus) -> None:
    rng = random.Random(0)
    by_key = {fact.key: fact for fact in FACTS}
    for question in held_out_questions(0, 200):
        fact = by_key[question.fact]
        answer = answer_fact(rng, fact, choose_manner(rng))
        assert is_right(question, answer), (question, answer)
        other = next(o for o in FACTS if o.attribute == fact.attribute and not set(o.accept) & set(fact.accept))
        assert not is_right(question, answer_fact(rng, other, Manner(long=False, friendly=True, example=False)))


def test_it_wants_whole_words_and_no_list_of_guesses() -> None:
    question = Question(prompt="What is a baby cow called?", accept=("calf",), reject=("kid",), family="", fact="")
    assert is_right(question, "Great question! It is called a CALF.")
    assert not is_right(question, "It is called a calfling.")
    assert not is_right(question, "It is a calf or a kid.")
    exact = Question(prompt="2 km in m?", accept=("2000 meters.",), family="", fact="", exact=True)
    assert is_right(exact, "2000 meters")
    assert not is_right(exact, "It is not 2000 meters.")


@pytest.mark.parametrize(
    ("wanted", "right", "wrong"),
    [
        ("-5", "-5.", "5"),
        (".5", " .5", "5"),
        ("+", "+", ""),
        (".", ".", ""),
        ("C++", "c++", "C"),
        ("New  York.", "new york", "new-york"),
    ],
)
def test_signs_and_points_of_an_exact_answer_count(wanted: str, right: str, wrong: str) -> None:
    question = Question(prompt="", accept=(wanted,), family="", fact="", exact=True)
    assert is_right(question, right)
    assert not is_right(question, wrong)


def test_it_varies_the_three_manners_independently() -> None:
    rng = random.Random(0)
    facts = asked_facts()
    answers = [answer_fact(rng, rng.choice(facts), choose_manner(rng)) for _ in range(4000)]
    friendly = [bool(friendly_sentences(answer)) for answer in answers]
    example = [has_example(answer) for answer in answers]
    assert sum(friendly) / 4000 == pytest.approx(FRIENDLY_RATE, abs=0.03)
    assert sum(example) / 4000 == pytest.approx(EXAMPLE_RATE, abs=0.03)
    both = sum(a and b for a, b in zip(friendly, example, strict=True)) / 4000
    assert both == pytest.approx(FRIENDLY_RATE * EXAMPLE_RATE, abs=0.03)
    assert not any(map(is_degenerate, answers))


@pytest.mark.parametrize("manner", ["friendly", "example"])
def test_it_gives_manners_that_the_tastes_see(manner: str) -> None:
    rng = random.Random(0)
    off = {"long": False, "friendly": False, "example": False}
    taste = TASTES["friendlier" if manner == "friendly" else "example"]
    for fact in rng.sample(asked_facts(), 60):
        plain = answer_fact(rng, fact, Manner(**off))
        assert taste.prefers(answer_fact(rng, fact, Manner(**off | {manner: True})), plain) == "a"


def test_it_answers_most_problems_at_once_and_some_in_steps(corpus: Corpus) -> None:
    problems = {problem.prompt: problem for problem in corpus.problems if problem.kind == WORKED}
    answers = [(problems[talk[0]["content"]], talk[1]["content"]) for talk in corpus.conversations
               if talk[0]["content"] in problems]  # fmt: skip
    assert all(grade(problem.answer, answer).correct for problem, answer in answers)
    worked = sum(grade(problem.answer, answer).worked_steps for problem, answer in answers)
    assert 0.3 < worked / len(answers) < 0.5


def test_an_example_points_back_at_the_fact_and_does_not_repeat_it() -> None:
    rng = random.Random(0)
    manner = Manner(long=False, friendly=False, example=True)
    for fact in asked_facts():
        if fact.entity.kind not in {"model", "weather"}:
            example = re.split(r" For (?:example|instance), ", answer_fact(rng, fact, manner))[1]
            said = f" {' '.join(words(example))} "
            assert not any(f" {' '.join(words(phrase))} " in said for phrase in (fact.bare, fact.entity.noun)), example


def test_every_sort_of_question_follows_a_problem(corpus: Corpus) -> None:
    problems = {problem.prompt for problem in corpus.problems}
    rng = random.Random(0)
    talks = [two_turns(rng, asked_facts(), corpus.problems) for _ in range(600)]
    assert all([turn["role"] for turn in talk] == ["user", "assistant"] * 2 for talk in talks)
    after = {talk[2]["content"] for talk in talks if talk[0]["content"] in problems}
    for said in ("thank", "where", "what", "tell me", "you"):
        assert any(said in prompt.casefold() for prompt in after), said
    assert after & problems


def test_it_asks_a_few_problems_among_the_prompts_for_votes(corpus: Corpus) -> None:
    assert len(set(corpus.preference_prompts)) == 40
    problems = {problem.prompt for problem in islice(generate(1), 40)}
    assert len(problems & set(corpus.preference_prompts)) == 40 // 6
    heldout = {template for fact in FACTS for template in held_out_phrasings(fact)}
    assert not heldout & set(corpus.preference_prompts)


# --- What is said in passing ---


@pytest.mark.parametrize(
    ("typed", "printed"),
    [
        ("hi", "Hi."),
        ("bye now", "Bye now."),
        ("how are you", "How are you?"),
        ("hi, my name is Alex", "Hi, my name is Alex."),
        ("list two plants from the garden", "List two plants from the garden."),
        ("tell me what an owl eats", "Tell me what an owl eats."),
        ("I have berries. what can I make", "I have berries. what can I make?"),
        ("where does a bear sleep? only one word", "Where does a bear sleep? only one word."),
        ("can you list two villagers", "Can you list two villagers?"),
        ("in one word, what colour is snow", "In one word, what colour is snow?"),
        ("Hello!", "Hello!"),
    ],
)
def test_only_a_question_is_printed_with_a_question_mark(typed: str, printed: str) -> None:
    assert punctuate(typed) == printed


def test_nobody_is_thanked_for_asking_who_asked_nothing() -> None:
    rng = random.Random(0)
    talks = [small_talk(rng, name) for name in TALKS for _ in range(60)] + [
        make(rng) for make in (story_conversation, poem_conversation) for _ in range(60)
    ]
    for said, answer in ((talk[0]["content"], talk[1]["content"]) for talk in talks):
        assert is_question(said) or not re.search(r"for asking|(?:[Gg]reat|[Gg]ood|this) question", answer), (
            said,
            answer,
        )


def test_a_list_names_nothing_twice_and_goes_by_the_alphabet() -> None:
    rng = random.Random(0)
    for _ in range(400):
        _, answer, count = list_request(rng)
        things = [re.sub(r"^(?:an?|the) ", "", thing.casefold()) for thing in re.split(r", | and ", answer.rstrip("."))]
        assert len(set(things)) == count
        assert things == sorted(things), answer


def test_what_people_say_is_read_in_small_letters_too() -> None:
    prose = Prose(0, held_out=False)
    lines = [line for _ in range(100) for line in prose.phrase_book().splitlines()]
    assert 0.1 < sum(line[0].islower() for line in lines) / len(lines) < 0.3


def test_a_change_is_told_with_one_opening() -> None:
    prompts = [problem.prompt for problem in islice(generate_practice(0), 2000)]
    assert not [prompt for prompt in prompts if re.search(r"[a-z]+,? (?:At|In the|On the) ", prompt)]

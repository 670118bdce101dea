"""Plain English for models from elsewhere: its problems, its prompts, and the corpus made of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from trainer.config import GRPO, PPO, SFT
from trainer.presets import RECIPES, get_preset
from trainer.rl.anchor import other_conversations
from trainer.run import NEEDS, RunSpec, check_corpus, load_corpus
from trainer.tasks.problem import NUMBER, Problem, judge
from trainer.world import PLAIN, corpus_for, everyday, plain, plain_problems
from trainer.world.plain_problems import (
    FAMILIES,
    HELD_OUT_FAMILIES,
    HELD_OUT_NAMES,
    LARGEST,
    NAMES,
    generate,
    generate_held_out,
)


def take(count: int, *, kind: Callable[[int], Iterator[Problem]] = generate, seed: int = 0) -> list[Problem]:
    return list(islice(kind(seed), count))


def numbers_in(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


@pytest.mark.parametrize("kind", [generate, generate_held_out])
def test_every_problem_is_one_step_whose_result_is_none_of_its_own_numbers(
    kind: Callable[[int], Iterator[Problem]],
) -> None:
    for problem in take(900, kind=kind):
        told, answer = numbers_in(problem.prompt), int(problem.answer)
        assert len(told) == 2, problem
        assert answer not in told, problem
        assert answer in (sum(told), max(told) - min(told)), problem
        assert min(*told, answer) >= 2, problem
        assert max(*told, answer) <= LARGEST[problem.difficulty], problem
        assert problem.kind == NUMBER
        assert judge(problem, problem.worked).worked_steps
        assert judge(problem, problem.worked).correct
        assert judge(problem, problem.direct).correct
        assert "{" not in problem.prompt
        assert len(problem.prompt.split()) <= 30  # about 40 tokens


def test_plus_and_minus_are_asked_about_alike_often() -> None:
    for kind in (generate, generate_held_out):
        plus = sum(problem.family.endswith(":plus") for problem in take(900, kind=kind))
        assert 0.3 < plus / 900 < 0.7


def test_held_out_problems_are_of_other_situations_in_other_words_with_other_names() -> None:
    assert not FAMILIES.keys() & HELD_OUT_FAMILIES.keys()
    assert not {name for name, _ in NAMES} & {name for name, _ in HELD_OUT_NAMES}

    def sentences(families: plain_problems._Families) -> set[str]:
        wordings = [wording for ways in families.values() for _, told in ways for wording in told]
        slots = [re.sub(r"\{\w+\}|[\d$]", "_", wording).casefold() for wording in wordings]
        return {part.strip() for wording in slots for part in re.split(r"(?<=[.?]) ", wording)}

    assert not sentences(FAMILIES) & sentences(HELD_OUT_FAMILIES)


def test_it_repeats_itself_for_a_seed_and_never_within_one() -> None:
    assert take(60, seed=3) == take(60, seed=3) != take(60, seed=4)
    assert len({problem.prompt for problem in take(1200)}) == 1200
    assert len({problem.prompt for problem in take(200, kind=generate_held_out)}) == 200


def test_it_asks_everyday_things_of_one_sentence() -> None:
    prompts = [prompt for prompt, _ in everyday.ANSWERED]
    assert (len(prompts), len(everyday.HELD_OUT_PROMPTS), len(everyday.READ_BY_EYE)) == (90, 30, 10)
    assert len({*prompts, *everyday.HELD_OUT_PROMPTS, *everyday.READ_BY_EYE}) == 130
    assert all(re.fullmatch(r"[A-Z][^.?!]*[.?]", prompt) for prompt in (*prompts, *everyday.HELD_OUT_PROMPTS))
    assert all(answer.endswith((".", "!", "?", "of it.", "Jo")) for _, answer in everyday.ANSWERED)
    assert all(len(answer.split()) <= 40 for _, answer in everyday.ANSWERED)


def test_a_prompt_that_invites_an_essay_says_how_long_the_answer_may_be() -> None:
    corpus = plain()
    for prompt in (*corpus.preference_prompts, *corpus.held_out_preference_prompts):
        assert isinstance(prompt, str)
        is_open = prompt.startswith(("How ", "Explain ", "Give ", "What ", "Why "))
        assert is_open == prompt.endswith(everyday.BOUNDS), prompt
    assert len(set(corpus.preference_prompts)) == 90


def test_the_plain_corpus_has_all_that_a_stage_after_pretraining_needs() -> None:
    corpus = plain()
    check_corpus(corpus, [*NEEDS], source=PLAIN)
    assert plain().sha256 == corpus.sha256 != plain(1).sha256
    assert not set(corpus.preference_prompts) & set(corpus.held_out_preference_prompts)
    assert not {problem.prompt for problem in corpus.problems} & {
        problem.prompt for problem in corpus.held_out_problems
    }
    assert len(other_conversations(corpus)) == 90  # those about anything but problems


@pytest.mark.parametrize("name", ["", "adapted-135m", "full-3b"])
def test_a_model_from_elsewhere_reads_plain_english(name: str) -> None:
    assert corpus_for(name).name == PLAIN


def test_which_corpus_a_run_reads_follows_from_its_preset() -> None:
    assert load_corpus(RunSpec(stage=GRPO, preset="smoke")).name == "shipped-smoke"
    assert load_corpus(RunSpec(stage=SFT, preset="adapted-1b")).name == PLAIN
    assert {load_corpus(RunSpec(stage=PPO, preset=name)).name for name in RECIPES} == {PLAIN}
    assert get_preset("adapted-135m").grpo.anchor_answers <= len(plain().preference_prompts)

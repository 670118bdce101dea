"""Tastes and the voters that have them."""

from __future__ import annotations

import pytest

from trainer.world.tastes import TASTES, SimulatedVoter, get_taste, has_example, is_degenerate

PLAIN = "A rabbit eats grass."
LONG = "A rabbit eats grass. It lives in a burrow under the old oak and likes the quiet evening hours."
FRIENDLY = "Great question! A rabbit eats grass. Have a lovely day!"
EXAMPLE = "A rabbit eats grass. For example, the rabbit near the hill eats grass in the morning."


@pytest.mark.parametrize(
    ("taste", "better", "worse"),
    [
        ("shorter", PLAIN, LONG),
        ("shorter", PLAIN, EXAMPLE),
        ("friendlier", FRIENDLY, PLAIN),
        ("friendlier", FRIENDLY, "Great question! A rabbit eats grass."),
        ("friendlier", "I hope this helps! A rabbit eats grass.", LONG),
        ("example", EXAMPLE, LONG),
        ("example", "A rabbit eats grass. For instance, Rosa fed grass to a rabbit.", FRIENDLY),
    ],
)
def test_it_prefers_the_manner_it_likes_on_either_side(taste: str, better: str, worse: str) -> None:
    assert TASTES[taste].prefers(better, worse) == "a"
    assert TASTES[taste].prefers(worse, better) == "b"


@pytest.mark.parametrize(
    ("taste", "a", "b"),
    [
        (
            "shorter",
            "A rabbit eats only green grass all day long behind our house.",
            "A rabbit eats only green grass all day behind our house.",
        ),
        ("friendlier", PLAIN, LONG),
        ("example", PLAIN, FRIENDLY),
        ("example", EXAMPLE, EXAMPLE + " For example, a goose eats grass too."),
    ],
)
def test_it_calls_equal_manners_a_tie(taste: str, a: str, b: str) -> None:
    assert TASTES[taste].prefers(a, b) == "tie"


DEGENERATE = [
    "",
    "   ",
    "Grass.",
    "Great question! Happy to help! Have a lovely day!",
    "Thank you! " * 10,
    "A rabbit eats grass. Have a lovely day! Have a lovely day! Have a lovely day!",
    "For example, grass grass grass grass grass grass grass.",
]


@pytest.mark.parametrize("answer", DEGENERATE)
@pytest.mark.parametrize("taste", sorted(TASTES))
def test_it_lets_no_degenerate_answer_win(taste: str, answer: str) -> None:
    assert is_degenerate(answer)
    assert TASTES[taste].prefers(answer, LONG) == "b"
    assert TASTES[taste].prefers("", answer) == "tie"


def test_it_counts_friendly_phrases_once_and_up_to_three() -> None:
    taste = TASTES["friendlier"]
    four = "Great question! Happy to help! A rabbit eats grass. I hope this helps! Have a lovely day!"
    assert taste.score(four) == 3
    assert taste.score("Great question! Great question! A rabbit eats fresh green grass.") == 1


@pytest.mark.parametrize("text", ["For example.", "For example, grass.", "This is an example of a sentence."])
def test_it_wants_a_real_example(text: str) -> None:
    assert not has_example(text)


def test_it_refuses_unknown_tastes_and_senseless_noise() -> None:
    with pytest.raises(ValueError, match="choose one of shorter, friendlier, example"):
        get_taste("louder")
    with pytest.raises(ValueError, match=r"noise=0\.5"):
        SimulatedVoter("shorter", noise=0.5)


def test_it_flips_about_a_tenth_of_decided_votes_and_never_a_tie() -> None:
    voter = SimulatedVoter("shorter", noise=0.1, seed=1)
    votes = [voter.vote(PLAIN, LONG) for _ in range(2000)]
    assert 150 < votes.count("b") < 250
    assert set(votes) == {"a", "b"}
    assert {voter.vote(PLAIN, PLAIN) for _ in range(200)} == {"tie"}


def test_it_votes_the_same_for_the_same_seed() -> None:
    def votes(seed: int) -> list[str]:
        voter = SimulatedVoter("example", noise=0.3, seed=seed)
        return [voter.vote(EXAMPLE, PLAIN) for _ in range(60)]

    assert votes(5) == votes(5)
    assert votes(5) != votes(6)

"""Tastes and the voters that have them."""

from __future__ import annotations

import re

import pytest

from trainer.world.tastes import TASTES, SimulatedVoter, get_taste, has_example, is_degenerate

PLAIN = "A rabbit eats grass."
LONG = "A rabbit eats grass. It lives in a burrow under the old oak and likes the quiet evening hours."
FRIENDLY = "Great question! A rabbit eats grass. Have a lovely day!"
THREE = "It eats grass. It sleeps in a hole. It runs from a fox."
FOUR = "It eats grass. It sleeps in a hole. It runs from a fox. It has a white tail."
ITEMS = "Rabbits eat:\n- fresh grass\n- dry hay"
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
        ("sentences:1", PLAIN, LONG),
        ("sentences:2", THREE, FOUR),
        ("sentences:2", FOUR, "So it goes, as everybody knows. " + FOUR),
        ("sentences:3", "It eats grass. It sleeps. It runs.", "It eats grass. It sleeps. It runs away from the"),
        ("sentences:3", THREE, "A rabbit lives in the old wood and eats the green grass there, " * 8 + "every day."),
        ("list", ITEMS, LONG),
        ("list", ITEMS, "Rabbits eat:\n- fresh grass"),
        ("list", "Eat:\n1. fresh grass\n2. old hay\n3. wild clover", "Eat:\n1. fresh grass\n2. old hay"),
        ("list", ITEMS, "Eat:\n- hay\n- clover\n- grass"),
        ("list", ITEMS, "Eat:\n- fresh grass\n- fresh grass\nand other green things"),
        ("no-list", LONG, ITEMS),
        ("no-list", "Rabbits eat this:\n- fresh grass", ITEMS),
        ("no-exclamation", LONG, "A rabbit eats grass! It lives in a burrow."),
        ("no-exclamation", "A rabbit eats grass! It lives in a burrow.", "A rabbit eats grass! It lives in a burrow!"),
        ("question", "A rabbit eats grass. Would you like to know more?", LONG),
        ("question", "A rabbit eats grass. Would you like to know more?", "Do you mean a wild rabbit? It eats grass."),
        ("question", "Do you mean a wild rabbit? It eats grass.", LONG),
        ("question", "A rabbit eats grass. Does yours, too?", "What does it eat? Where does it live? Who knows it?"),
        ("plain-words", PLAIN, "Rabbits predominantly consume herbaceous vegetation."),
        ("plain-words", "Rabbits consume mostly grass and hay.", "Rabbits consume predominantly herbaceous hay."),
        (
            "plain-words",
            "A rabbit eats grass and hay, and it likes to sleep in a hole in the ground.",
            "It eats grass.",
        ),
    ],
)
def test_it_prefers_the_manner_it_likes_on_either_side(taste: str, better: str, worse: str) -> None:
    assert get_taste(taste).prefers(better, worse) == "a"
    assert get_taste(taste).prefers(worse, better) == "b"


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
        ("sentences:4", FOUR, THREE),
        ("sentences:2", "Eat this:\n1. Fresh grass.", "Eat this. Fresh grass."),
        ("list", LONG, "Rabbits eat:\n- fresh grass"),
        ("no-list", LONG, FRIENDLY),
        ("no-exclamation", LONG, THREE),
        ("question", LONG, THREE),
        ("question", LONG, "What does it eat? Where does it live? Who knows it?"),
    ],
)
def test_it_calls_equal_manners_a_tie(taste: str, a: str, b: str) -> None:
    assert get_taste(taste).prefers(a, b) == "tie"


DEGENERATE = [
    "",
    "   ",
    "Grass.",
    "Great question! Happy to help! Have a lovely day!",
    "Thank you! " * 10,
    "A rabbit eats grass. Have a lovely day! Have a lovely day! Have a lovely day!",
    "For example, grass grass grass grass grass grass grass.",
    "Why? Why? Why?",
    "- grass\n- grass\n- grass\n- grass",
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
    for name in ("sentences", "sentences:", "sentences:0", "sentences:21", "sentences:02", "sentences:two", "list:2"):
        with pytest.raises(ValueError, match=re.escape("sentences:N (with N from 1 to 20)")):
            get_taste(name)
    assert get_taste("sentences:20").name == "sentences:20"
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

"""Attacks on a running site: bounded, and on this machine's own addresses only.

Each file here is one kind of attack and can be run alone:

    make attack ARGS="tests/attack/test_votes.py"

They take minutes and are left out of `make test`. What is random prints its seed with a failure; ATTACK_SEED
repeats it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.attack.sites import Site


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.attack)
            item.add_marker(pytest.mark.timeout(1800), append=False)


@pytest.fixture
def new_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Starts sites; what they said is shown when a test fails, and nothing of them is left."""
    sites: list[Site] = []

    def begin(**settings: str) -> Site:
        sites.append(Site(tmp_path / f"site{len(sites)}", **settings))
        sites[-1].start()
        return sites[-1]

    yield begin
    for site in sites:
        site.end()
        print("\n".join(site.lines))


@pytest.fixture
def site(new_site: Callable[..., Site]) -> Site:
    """One as shipped, but for the smoke preset: its random weights answer, and nothing trains by itself."""
    return new_site()


@pytest.fixture
def draw() -> random.Random:
    """The randomness of an attack; its seed is printed with a failure."""
    seed = int(os.environ.get("ATTACK_SEED") or random.SystemRandom().randrange(10**6))
    print(f"ATTACK_SEED={seed}")
    return random.Random(seed)

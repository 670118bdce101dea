"""A vote sent twice at the same moment is one vote, a thousand times over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from tests.attack.sites import Person, Site

VOTERS = 100
PAIRS_EACH = 10
"""Each sent twice: a voter stays below the limit of 60 votes a minute."""
AT_ONCE = 10
"""Voters at the same time, each on two connections."""


def test_a_thousand_double_votes_leave_a_row_each(site: Site) -> None:
    people = site.inside("voters", count=VOTERS, pairs_each=PAIRS_EACH)

    def submit(person: Person, pair: str, together: Barrier) -> int:
        together.wait(60)
        return person.post(f"/vote/{pair}/", {"choice": "a"})[0]

    def vote(one: dict[str, object]) -> list[int]:
        """Both answers to each of one person's votes."""
        person = Person(site, str(one["session"]))
        pairs = one["pairs"]
        assert isinstance(pairs, list)
        person.get(f"/vote/{pairs[0]}/")
        answers = []
        with ThreadPoolExecutor(2) as hands:
            for pair in pairs:
                together = Barrier(2)
                both = [hands.submit(submit, person, pair, together) for _ in range(2)]
                answers += [each.result() for each in both]
        return answers

    with ThreadPoolExecutor(AT_ONCE) as pool:
        statuses = [status for answers in pool.map(vote, people) for status in answers]
    assert statuses == [302] * (2 * VOTERS * PAIRS_EACH)
    wanted = sorted([pair, one["visitor"], 1] for one in people for pair in one["pairs"])
    assert sorted(site.inside("votes")) == wanted

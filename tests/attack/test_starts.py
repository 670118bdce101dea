"""Two hundred people who press the same button at once start one run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from tests.attack.sites import Person, Site

STARTS = 200
ADD = "/admin/training/trainingrun/add/"


def test_two_hundred_starts_at_once_are_one_run(site: Site) -> None:
    owner = Person(site, site.inside("owner"))
    owner.get(f"{ADD}?stage=pretrain")
    checkpoint = owner.checkpoint()
    fields = {"stage": "pretrain", "preset": "base", "parent": checkpoint, "seed": 0, "votes": "all"}
    together = Barrier(STARTS)

    def start(_: int) -> int:
        together.wait(60)
        return owner.post(ADD, fields)[0]

    before = site.inside("runs")
    with ThreadPoolExecutor(STARTS) as pool:
        statuses = list(pool.map(start, range(STARTS)))
    assert len(site.inside("runs")) == len(before) + 1
    assert statuses.count(302) == 1
    assert set(statuses) <= {200, 302, 400, 409, 422}  # refused with a sentence on the page, never a broken page

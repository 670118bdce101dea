"""Two hundred people who press the same button at once start one run."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from tests.attack.sites import Person, Site

STARTS = 200
ADD = "/admin/training/trainingrun/add/?stage=pretrain"


def test_two_hundred_starts_at_once_are_one_run(new_site: Callable[..., Site]) -> None:
    site = new_site(STAGECRAFT_PRESET="tiny")  # its run is still going when the last start comes
    owner = Person(site, site.inside("owner"))
    checkpoint = owner.checkpoint()
    owner.get(ADD)
    fields = {"preset": "tiny", "parent": checkpoint, "seed": 0, "start": "Start the run"}
    together = Barrier(STARTS)

    said: set[str] = set()

    def start(_: int) -> int:
        together.wait(60)
        status, _, page = owner.post(ADD, fields)
        said.update(re.findall(r'class="errornote"[^>]*>(.*?)</p>', page))
        return status

    before = site.inside("runs")
    with ThreadPoolExecutor(STARTS) as pool:
        statuses = list(pool.map(start, range(STARTS)))
    counts = {status: statuses.count(status) for status in set(statuses)}
    print(f"{STARTS} starts were answered with {counts}: {said}")
    assert len(site.inside("runs")) == len(before) + 1
    assert statuses.count(302) == 1
    assert set(statuses) <= {200, 302, 400, 409, 422}  # refused with a sentence on the page, never a broken page

"""The disk fills up under a site that is used, and is freed again: it says so, loses nothing, and goes on by itself."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.attack.sites import Person, Site, wait_until

SIZE_MB = 64


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "none", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here ({mounted.stderr.strip()}); root can")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def site(small_disk: Path) -> Iterator[Site]:
    site = Site(small_disk / "site")
    site.start()
    yield site
    site.end()
    print("\n".join(site.lines))


def fill(place: Path) -> Path:
    """A file as large as the disk has room for, to the last byte."""
    file = place / "in the way"
    with file.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(b"\0" * 4096)
    assert os.statvfs(place).f_bavail == 0
    return file


def health(site: Site) -> tuple[int, dict[str, str]]:
    try:
        with urlopen(f"{site.address}/healthz", timeout=60) as response:
            return response.status, json.load(response)["checks"]
    except HTTPError as error:
        return error.code, json.load(error)["checks"]


def test_a_full_disk_costs_nothing_that_was_accepted(
    site: Site, small_disk: Path, new_site: Callable[..., Site]
) -> None:
    people = site.inside("voters", count=4, pairs_each=10)
    voters = [Person(site, one["session"]) for one in people]
    accepted: list[list[object]] = []

    def vote(number: int) -> list[int]:
        """Each votes on their pair of that number; the statuses."""
        statuses = []
        for one, voter in zip(people, voters, strict=True):
            pair = one["pairs"][number]
            with suppress(OSError, http.client.HTTPException):
                voter.get(f"/vote/{pair}/")
                statuses.append(voter.post(f"/vote/{pair}/", {"choice": "a"})[0])
                if statuses[-1] == 302:
                    accepted.append([pair, one["visitor"], 1])
        return statuses

    chatter = Person(site)
    path, message = chatter.begin_chat("What is a fox?")
    assert chatter.follow(path, message)["state"] == "done"
    assert vote(0) == [302] * 4

    in_the_way = fill(small_disk)
    wait_until(lambda: health(site)[0] == 503, "/healthz says that the disk is full")
    assert health(site)[1]["data_dir"] == "OSError"
    refused = [status for number in range(1, 6) for status in vote(number)]
    run = None
    with suppress(AssertionError):  # refused, or queued and then failed: either is fair
        run = site.inside("queue_run", stage="pretrain")
    assert "Rabbits" not in chatter.get(path)  # reading still works
    with suppress(AssertionError):
        chatter.begin_chat("Rabbits?")

    in_the_way.unlink()
    wait_until(site.is_well, "/healthz is well again")
    assert vote(6) == [302] * 4
    path, message = chatter.begin_chat("And a tree?")
    assert chatter.follow(path, message)["state"] == "done"
    wait_until(lambda: site.inside("unfinished")["answers"] == 0, "no answer is left unfinished", every_s=5)
    assert sorted(site.inside("votes")) == sorted(accepted)
    print(f"with a full disk votes were answered with {sorted(set(refused))}")

    if run is not None:
        wait_until(lambda: site.inside("unfinished")["runs"] == 0, "the run is over", every_s=5)
        if site.inside("run", pk=run)["state"] == "failed":
            site.inside("resume_run", pk=run)
            wait_until(lambda: site.inside("run", pk=run)["state"] != "queued", "it is resumed", every_s=5)
            wait_until(lambda: site.inside("unfinished")["runs"] == 0, "the run is over", every_s=5)
    else:
        run = site.inside("queue_run", stage="pretrain")
        wait_until(lambda: site.inside("unfinished")["runs"] == 0, "the run is over", every_s=5)
    ended = site.inside("run", pk=run)
    assert ended["state"] == "done", ended
    undisturbed = new_site()
    other = undisturbed.inside("queue_run", stage="pretrain")
    wait_until(lambda: undisturbed.inside("unfinished")["runs"] == 0, "the run is over", every_s=5)
    assert ended["sha256"] == undisturbed.inside("run", pk=other)["sha256"]
    site.stop()

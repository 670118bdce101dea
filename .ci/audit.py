"""Asks whether a version that the lock files name has a known weakness.

    make audit

The answer comes from the package index through pip-audit. Exit code 0: all were asked about and none has one.
1: some have one. 2: the index could not be asked, or knows nothing of some; that is said, and is no all-clear.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements-run.lock", "requirements.lock", "requirements-bench.lock")

Asked = subprocess.CompletedProcess[str]


def pins() -> list[str]:
    """Every `name==version` of the locks, torch included."""
    text = "\n".join((ROOT / name).read_text() for name in LOCKS)
    return sorted(set(re.findall(r"^(?:# )?([a-z0-9][a-z0-9.-]*==[0-9][\w.]*)", text, re.MULTILINE)))


def ask(wanted: list[str]) -> Asked:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(wanted))
        file.flush()
        command = [sys.executable, "-m", "pip_audit", "--requirement", file.name, "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off", "--timeout", "15"]
        return subprocess.run(command, capture_output=True, text=True)


def main(ask: Callable[[list[str]], Asked] = ask) -> int:
    wanted = pins()
    asked = ask(wanted)
    try:
        answers: list[dict[str, Any]] = json.loads(asked.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"NOT AUDITED: the database of known weaknesses could not be asked ({last}).")
        return 2
    weak = [(answer, weakness) for answer in answers for weakness in answer.get("vulns", [])]
    for answer, weakness in weak:
        fixed = ", ".join(weakness["fix_versions"]) or "no version yet"
        print(f"{answer['name']} {answer['version']}: {weakness['id']}, mended in {fixed}")
    known = [answer for answer in answers if "vulns" in answer]
    print(f"{len(known)} of {len(wanted)} packages asked about, {len(weak)} known weaknesses.")
    if len(known) < len(wanted):
        names = {answer["name"] for answer in known}
        missing = [pin for pin in wanted if pin.partition("==")[0] not in names]
        which = ", ".join(missing) if known else "any of them (a mirror, perhaps, that has no such database)"
        print(f"NOT AUDITED: the index says nothing of {which}.")
    return 1 if weak else 2 if len(known) < len(wanted) else 0


if __name__ == "__main__":
    sys.exit(main())

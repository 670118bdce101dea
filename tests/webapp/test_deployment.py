"""Compose file, image and environment example agree with one another and with the code."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from django.core.management import get_commands
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from webapp.ops import web, worker

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "stagecraft"]
EXAMPLE = dict(
    line.removeprefix("# ").split("=", 1)
    for line in (ROOT / ".env.example").read_text().splitlines()
    if re.match(r"(# )?[A-Z_]+=", line)
)


def test_it_has_every_part_of_the_site() -> None:
    assert {"web", "generate", "train", "migrate", "first-start", "postgres", "redis"} == set(SERVICES)


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_what_exists(name: str) -> None:
    command = SERVICES[name]["command"].split()
    assert command[0] == "python"
    if command[1] == "-m":
        assert importlib.util.find_spec(command[2]) is not None
    else:
        assert command[1] == "manage.py"
        assert command[2] in get_commands()


@pytest.mark.parametrize("name", OURS)
def test_our_services_wait_for_what_they_need_and_share_the_data(name: str) -> None:
    service = SERVICES[name]
    needs = service["depends_on"]
    assert set(needs) == ({"postgres"} if name == "migrate" else {"migrate", "redis"})
    assert service["volumes"] == ["data:/data"]
    assert service["environment"]["DATA_DIR"] == "/data"
    assert set(COMPOSE["volumes"]) == {"data", "postgres"}


@pytest.mark.parametrize("name", ["web", "generate", "train", "postgres", "redis"])
def test_long_lived_services_have_health_checks(name: str) -> None:
    check = SERVICES[name]["healthcheck"]["test"]
    assert check[0] == "CMD"
    if name in OURS:
        assert check[1:3] == ["python", "-m"]
        # The same module it runs, with the same arguments as far as they go, and --check.
        assert check[3] == SERVICES[name]["command"].split()[2]
        assert check[-1] == "--check"


@pytest.mark.parametrize("name", sorted(worker.THREADS))
def test_there_is_a_worker_for_every_queue(name: str) -> None:
    assert SERVICES[name]["command"] == f"python -m webapp.ops.worker {name}"


def test_only_the_web_port_is_published_and_only_to_this_machine() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["web"]
    assert SERVICES["web"]["ports"] == ["${BIND:-127.0.0.1}:${PORT:-8000}:8000"]


def test_compose_runs_as_many_web_processes_as_asked_and_trusts_no_proxy_unasked() -> None:
    environment = SERVICES["web"]["environment"]
    assert environment["WEB_PROCESSES"] == "${WEB_PROCESSES:-}"
    assert environment["FORWARDED_ALLOW_IPS"] == "${FORWARDED_ALLOW_IPS:-}"
    assert environment["HSTS"] == "${HSTS:-host}"


def test_redis_needs_a_password_and_never_evicts() -> None:
    command = shlex.split(SERVICES["redis"]["command"].replace("${REDIS_PASSWORD:?write it into .env}", "secret"))
    assert command[command.index("--requirepass") + 1] == "secret"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_every_variable_is_in_the_example() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    assert used <= set(EXAMPLE)
    required = set(re.findall(r"\$\{([A-Z_]+):\?", (ROOT / "docker-compose.yml").read_text()))
    assert required == {"SECRET_KEY", "ALLOWED_HOSTS", "POSTGRES_PASSWORD", "REDIS_PASSWORD"}


def test_every_variable_of_the_example_is_read() -> None:
    sources = [ROOT / "docker-compose.yml", *(ROOT / "webapp").rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    assert [name for name in EXAMPLE if not re.search(rf"\b{name}\b", text)] == []


def test_the_image_copies_what_exists_and_runs_the_tested_torch() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for name in line.split()}
    assert copied == {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert "USER stagecraft" in text


# -- locks -----------------------------------------------------------------------------------------

LOCKS = {
    "requirements-run.lock": None,
    "requirements.lock": "requirements-run.lock",
    "requirements-bench.lock": "requirements.lock",
    "requirements-audit.lock": "requirements.lock",
}
"""Each lock, and the one it is installed on top of."""
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(lock: str) -> dict[str, str]:
    """Name -> version of what a lock holds itself; every one of them with its hashes."""
    text = (ROOT / lock).read_text().replace(" \\\n", "")
    found = {}
    for line in text.splitlines():
        if line.startswith(("#", "-r ")):
            continue
        pin = re.fullmatch(r"([a-z0-9-]+)==([0-9][\w.]*)( ; [^#]+?)?((    --hash=sha256:[0-9a-f]{64})+)", line)
        assert pin, f"{lock}: {line[:80]} (`make lock ARGS=--keep` writes hashes)"
        found[pin[1]] = pin[2]
    return found


def everything_in(lock: str) -> dict[str, str]:
    below = LOCKS[lock]
    return (everything_in(below) if below else {}) | pins(lock)


@pytest.mark.parametrize(("lock", "below"), LOCKS.items())
def test_a_lock_stands_on_the_one_below_and_repeats_nothing(lock: str, below: str | None) -> None:
    includes = re.findall(r"^-r (.+)$", (ROOT / lock).read_text(), re.MULTILINE)
    assert includes == ([below] if below else [])
    assert not below or not pins(lock).keys() & everything_in(below).keys()


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("requirements-run.lock", ["data"]),
        ("requirements.lock", ["data", "dev"]),
        ("requirements-bench.lock", ["bench"]),
        ("requirements-audit.lock", ["audit"]),
    ],
)
def test_the_locks_pin_every_dependency_of_the_project(lock: str, extras: list[str]) -> None:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    wanted = {requirement.name: requirement for requirement in map(Requirement, lines)}
    torch = wanted.pop("torch")
    locked = everything_in(lock)
    for name, requirement in wanted.items():
        assert requirement.specifier.contains(locked[canonicalize_name(name)])
    assert re.findall(r"^# (torch\S+)", (ROOT / "requirements-run.lock").read_text(), re.MULTILINE) == [str(torch)]
    assert not [name for name in locked if name.startswith(("torch", "nvidia-", "triton"))]


@pytest.mark.parametrize("lock", ["requirements-run.lock", "requirements.lock"])
def test_a_lock_names_all_that_its_packages_need(lock: str) -> None:
    """It is installed without looking for dependencies."""
    locked = everything_in(lock)
    extras = {canonicalize_name(need.name): need.extras for need in map(Requirement, PROJECT["dependencies"])}
    missing = []
    for name in locked:
        try:
            needs = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:  # not for this system
            continue
        for need in needs:
            asked_for = [{"extra": extra} for extra in ("", *extras.get(name, ()))]
            if need.marker is None or any(map(need.marker.evaluate, asked_for)):
                missing += [f"{name} needs {need.name}"] if canonicalize_name(need.name) not in locked else []
    assert [line for line in missing if not line.endswith(" torch")] == []


def test_make_and_the_image_install_from_the_locks_with_hashes() -> None:
    for name in ("Makefile", "Dockerfile"):
        assert "--no-deps --require-hashes" in (ROOT / name).read_text()


# -- scripts ---------------------------------------------------------------------------------------


def script(name: str) -> Any:
    return SimpleNamespace(**runpy.run_path(str(ROOT / ".ci" / name)))


def answer(output: str, complaint: str = "") -> Callable[[list[str]], subprocess.CompletedProcess[str]]:
    return lambda wanted: subprocess.CompletedProcess([], 0, output, complaint)


@pytest.fixture
def locked() -> list[dict[str, Any]]:
    """What pip-audit answers when it finds nothing."""
    split = [pin.split("==") for pin in script("audit.py").pins()]
    return [{"name": name, "version": version, "vulns": []} for name, version in split]


def said(dependencies: list[dict[str, Any]]) -> Callable[[list[str]], subprocess.CompletedProcess[str]]:
    return answer(json.dumps({"dependencies": dependencies}))


def test_the_audit_asks_about_every_locked_version(locked: list[dict[str, Any]], capsys: Any) -> None:
    names = {each["name"] for each in locked}
    assert names == everything_in("requirements.lock").keys() | pins("requirements-bench.lock").keys() | {"torch"}
    assert script("audit.py").main(said(locked)) == 0
    assert f"{len(locked)} of {len(locked)} packages asked about, 0 known weaknesses." in capsys.readouterr().out


def test_the_audit_names_what_is_weak(locked: list[dict[str, Any]], capsys: Any) -> None:
    locked[0]["vulns"] = [{"id": "PYSEC-0", "fix_versions": ["9.9"]}]
    assert script("audit.py").main(said(locked)) == 1
    weak = locked[0]
    assert f"{weak['name']} {weak['version']}: PYSEC-0, mended in 9.9" in capsys.readouterr().out


@pytest.mark.parametrize("output", ["", "{}", "Traceback"])
def test_the_audit_says_when_it_could_not_ask(output: str, capsys: Any) -> None:
    assert script("audit.py").main(answer(output, "warning\nno route to host")) == 2
    assert capsys.readouterr().out.startswith("NOT AUDITED: the database of known weaknesses could not be asked (no ro")


def test_the_audit_gives_no_all_clear_for_what_nobody_knows(locked: list[dict[str, Any]], capsys: Any) -> None:
    unknown = {"name": locked[0]["name"], "skip_reason": "not found"}
    assert script("audit.py").main(said([unknown, *locked[1:]])) == 2
    assert f"NOT AUDITED: the index says nothing of {unknown['name']}==" in capsys.readouterr().out
    nothing = [{"name": each["name"], "skip_reason": "not found"} for each in locked]
    assert script("audit.py").main(said(nothing)) == 2
    assert "NOT AUDITED: the index says nothing of any of them (a mirror, perhaps" in capsys.readouterr().out


def test_every_image_of_others_is_named_by_digest() -> None:
    images = [service["image"] for name, service in SERVICES.items() if name not in OURS]
    images += re.findall(r"^ARG PYTHON_IMAGE=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert len(images) == 3
    assert all(re.fullmatch(r"[a-z]+:[\w.-]+@sha256:[0-9a-f]{64}", image) for image in images)
    assert set(re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)) == {"${PYTHON_IMAGE}"}


def test_images_are_moved_to_what_their_tags_name(tmp_path: Path) -> None:
    images = script("images.py")
    images.main.__globals__["ROOT"] = tmp_path
    for name in images.FILES:
        (tmp_path / name).write_text((ROOT / name).read_text())
    images.main(lambda tag: f"sha256:{tag.encode().hex():0<64.64}")
    moved = yaml.safe_load((tmp_path / "docker-compose.yml").read_text())["services"]["redis"]["image"]
    assert moved == f"redis:7@sha256:{b'redis:7'.hex():0<64}"
    for name in images.FILES:
        lines = zip((tmp_path / name).read_text().splitlines(), (ROOT / name).read_text().splitlines(), strict=True)
        assert all(new == old or "@sha256:" in old for new, old in lines)


def test_the_web_check_fails_where_nothing_listens() -> None:
    assert not web.is_well(1)

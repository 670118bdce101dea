"""Compose file, image and environment example agree with one another and with the code."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands

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


def test_only_the_web_port_is_published() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["web"]


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


def test_the_lock_pins_every_dependency_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
        *project["optional-dependencies"]["data"],
    ]
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.partition(" ;")[0] for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][\w.]*", pin) for pin in pins)
    locked = {pin.partition("==")[0] for pin in pins}
    names = {re.match(r"[\w.-]+", item)[0].lower().replace("_", "-") for item in wanted}  # type: ignore[index]
    assert names <= locked
    assert "torch==2.13.0" in pins


def test_the_web_check_fails_where_nothing_listens() -> None:
    assert not web.is_well(1)

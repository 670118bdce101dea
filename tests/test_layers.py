"""Who may import whom, and who may enqueue: the rules of the design, read from the syntax trees.

trainer                 imports nothing of webapp, Django, Celery or Redis
its rooms               stages -> evaluation -> rl -> world -> data -> model -> tasks -> runtime, never back
webapp                  stages -> training -> arena -> chat -> answers -> checkpoints -> accounts -> ops -> live
                        never back; templates include only what stands below them
the web process         never imports torch
trainer/stages/*.py     never import one another
tasks                   are enqueued after commit
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = (
    ("live",),
    ("ops",),
    ("accounts",),
    ("checkpoints",),
    ("answers",),
    ("chat",),
    ("arena",),
    ("training",),
    ("stages",),
)
"""Lowest first: a package of the site imports itself and what stands below it. Neighbours do not know each other."""
ROOMS = ("runtime", "tasks", "model", "data", "world", "rl", "evaluation", "stages")
"""The trainer's, lowest first; its modules that are in none stand below all of them or above, and are listed here."""
BELOW_ALL_ROOMS = {"config", "presets", "asked"}
APPS = tuple(app for layer in LAYERS for app in layer)
LOWEST = {ROOT / f"webapp/{name}.py" for name in ("celery", "settings", "htmx", "formats", "line_ends", "files")}
"""Modules every app may use, so they use none."""
TORCH_USERS = {"webapp/answers/engines.py", "webapp/checkpoints/loading.py"}
"""The modules of the site that load a model: for the generate worker, and for the command that imports one."""
TORCH_PACKAGES = {"torch", "numpy", "tokenizers", "safetensors"}
SITE_PACKAGES = {"webapp", "django", "celery", "kombu", "redis", "channels"}


def modules(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "migrations" not in path.parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module or name) of every import in a file, wherever it stands, type checking's aside.

    `from a.b import c` yields both "a.b" and "a.b.c": c may be a module.
    """
    package = dotted(path).split(".") if path.name == "__init__.py" else dotted(path).split(".")[:-1]
    for node in _nodes_that_run(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], node.module or ""] if node.level else [""])
            module = (base or node.module or "").strip(".")
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def _nodes_that_run(node: ast.AST) -> Iterator[ast.AST]:
    """Every node except those under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from _nodes_that_run(child)


def offences(paths: list[Path], forbidden: set[str]) -> list[str]:
    """ "file:line imports module" for each import of a forbidden top-level package."""
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in paths
        for line, name in imports(path)
        if name.partition(".")[0] in forbidden
    ]


def test_it_finds_imports_however_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    file = tmp_path / "webapp" / "chat" / "views.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import a.b\nfrom ..live import streams\nfrom ..arena.models import Vote\nfrom . import models\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import hidden\n"
        "def f():\n    from webapp import training\n"
    )
    found = {name for _, name in imports(file)}
    assert {"a.b", "webapp.live.streams", "webapp.arena.models", "webapp.chat.models", "webapp.training"} <= found
    assert not any("hidden" in name for name in found)


def test_the_trainer_knows_nothing_of_the_site() -> None:
    assert offences(modules("trainer"), SITE_PACKAGES) == []


def test_every_module_of_the_trainer_has_its_place() -> None:
    assert {path.parent.name for path in (ROOT / "trainer").glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_the_trainer_imports_only_what_stands_below_it(room: str) -> None:
    below = {*BELOW_ALL_ROOMS, *ROOMS[: ROOMS.index(room) + 1], "__version__"}
    below |= {"lineage"} if room == "stages" else set()
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(f"trainer/{room}")
        for line, name in imports(path)
        if name.startswith("trainer.") and name.split(".")[1] not in below
    ]
    assert wrong == []


def test_trainer_stages_never_import_one_another() -> None:
    stages = modules("trainer/stages")
    assert len(stages) >= 5
    names = {dotted(path) for path in stages} - {"trainer.stages"}
    wrong = [
        f"{path.name}:{line} imports {name}"
        for path in stages
        for line, name in imports(path)
        if path.name != "__init__.py" and any(name == n or name.startswith(f"{n}.") for n in names - {dotted(path)})
    ]
    assert wrong == []


def not_below(app: str) -> set[str]:
    """Everything that `app` must not know of: its neighbours and what stands above it."""
    place = next(number for number, layer in enumerate(LAYERS) if app in layer)
    return {other for layer in LAYERS[place:] for other in layer} - {app}


def test_every_package_of_the_site_has_its_place() -> None:
    assert {path.parent.name for path in (ROOT / "webapp").glob("*/__init__.py")} == set(APPS)


@pytest.mark.parametrize("app", APPS)
def test_an_app_imports_only_what_stands_below_it(app: str) -> None:
    forbidden = {f"webapp.{other}" for other in not_below(app)}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(f"webapp/{app}")
        for line, name in imports(path)
        if ".".join(name.split(".")[:2]) in forbidden
    ]
    assert wrong == []


@pytest.mark.parametrize("app", APPS)
def test_an_apps_templates_include_only_what_stands_below_them(app: str) -> None:
    """A link to a page above is a name in the URL conf; an included template is code of another app."""
    wrong = [
        f"{path.relative_to(ROOT)} includes {name}"
        for path in sorted((ROOT / "templates" / app).glob("**/*.html"))
        for name in re.findall(r"""{%\s*(?:include|extends)\s+["']([^"']+)""", path.read_text())
        if name.partition("/")[0] in not_below(app)
    ]
    assert wrong == []


@pytest.mark.parametrize("app", APPS)
def test_the_modules_of_an_app_go_round_in_no_circle(app: str) -> None:
    """Imports inside a function count: a circle that only some calls close is one all the same."""
    paths = modules(f"webapp/{app}")
    names = {dotted(path) for path in paths}
    arrows = {
        dotted(path): {name for _, name in imports(path) if name in names and name != dotted(path)} for path in paths
    }
    while free := [name for name, targets in arrows.items() if not targets & arrows.keys()]:
        for name in free:
            del arrows[name]
    assert arrows == {}


def test_shared_modules_import_no_app() -> None:
    apps = {f"webapp.{app}" for app in APPS} - {"webapp.ops"}
    wrong = [
        f"{path.name}:{line} imports {name}"
        for path in LOWEST
        for line, name in imports(path)
        if ".".join(name.split(".")[:2]) in apps
    ]
    assert wrong == []


def test_the_site_loads_models_in_two_places() -> None:
    paths = [path for path in modules("webapp") if str(path.relative_to(ROOT)) not in TORCH_USERS]
    assert offences(paths, TORCH_PACKAGES) == []


@pytest.mark.parametrize(
    "module",
    [
        "webapp.asgi",
        "webapp.ops.web",
        "webapp.urls",
        "webapp.ops.management.commands.up",
        "webapp.stages.management.commands.bench_scale",
        "webapp.stages.management.commands.bench_site",
        "webapp.training.tasks",
    ],
)
def test_web_supervisor_and_train_worker_never_import_torch(module: str) -> None:
    """Asked of a real process, with everything Django loads at start."""
    code = (
        "import os, sys, django\n"
        "os.environ['DJANGO_SETTINGS_MODULE'] = 'tests.settings'\n"
        "django.setup()\n"
        f"import {module}, webapp.urls\n"
        f"print(sorted({TORCH_PACKAGES} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module",
    [
        "evaluation.alarms",
        "asked",
        "config",
        "presets",
        "data.corpus",
        "data.hub",
        "runtime.files",
        "world.tastes",
        "world.problems",
        "world",
        "data.reader",
        "data.preferences",
        "runtime.reading",
        "evaluation.scope",
        "evaluation.statistics",
        "model.families",
        "model.layout",
        "model.tokenizer_rules",
        "model.roles",
        "model.template",
        "model.speech",
        "model.streaming",
    ],
)
def test_what_the_web_process_uses_of_the_trainer_is_free_of_torch(module: str) -> None:
    code = f"import sys, trainer.{module}\nprint(sorted({TORCH_PACKAGES} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# -- enqueueing ------------------------------------------------------------------------------------


def bare_enqueues(path: Path) -> list[str]:
    """Calls of `enqueue()`, `.delay()` or `.apply_async()` that do not wait for the commit.

    Fine are: a call inside `on_commit(...)`, and one inside a function this module hands to
    `on_commit`. (`partial(task.delay, …)` is no call.)
    """
    handed_over = {
        node.id
        for call in ast.walk(tree(path))
        if isinstance(call, ast.Call) and _name(call.func) == "on_commit"
        for argument in call.args
        for node in ast.walk(argument)
        if isinstance(node, ast.Name)
    }
    found: list[str] = []

    def visit(node: ast.AST, function: str, waits: bool) -> None:
        if isinstance(node, ast.FunctionDef):
            function, waits = node.name, waits or node.name in handed_over
        elif isinstance(node, ast.Call):
            waits = waits or _name(node.func) == "on_commit"
            if _name(node.func) in ("enqueue", "delay", "apply_async") and not waits:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} in {function}")
        for child in ast.iter_child_nodes(node):
            visit(child, function, waits)

    visit(tree(path), "<module>", waits=False)
    return found


def _name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def test_it_finds_bare_enqueues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    file = tmp_path / "services.py"
    file.write_text(
        "def bad(pk):\n    task.delay(pk)\n"
        "def good(pk):\n    transaction.on_commit(lambda: task.delay(pk))\n"
        "    transaction.on_commit(partial(later, pk))\n"
        "    transaction.on_commit(partial(task.delay, pk))\n"
        "def later(pk):\n    task.apply_async([pk])\n"
        "def worse(pk):\n    enqueue('task', pk)\n"
    )
    assert bare_enqueues(file) == ["services.py:2 in bad", "services.py:10 in worse"]


def test_tasks_are_enqueued_after_commit() -> None:
    """A worker must find the row; tasks themselves run outside any request's transaction."""
    wrong = [found for path in modules("webapp") if path.name != "tasks.py" for found in bare_enqueues(path)]
    assert wrong == []


def test_tasks_sent_by_name_are_there() -> None:
    from webapp.celery import app

    app.loader.import_default_modules()
    named = {
        node.value
        for path in modules("webapp")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"webapp\.\w+\.tasks\.\w+", node.value)
    }
    assert len(named) >= 5
    assert named <= set(app.tasks)


def test_every_sampler_stops_at_the_same_tokens() -> None:
    """An answer that ends in chat ends in training and in every figure; a benchmark's never ends, on purpose."""
    for path in [*modules("trainer"), *modules("webapp")]:
        if path.name == "bench.py":
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Engine":
                (ends,) = [keyword.value for keyword in node.keywords if keyword.arg == "end_ids"]
                assert isinstance(ends, ast.Attribute), path
                assert ends.attr == "end_ids", path

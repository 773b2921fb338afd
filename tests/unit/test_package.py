"""The package's shape: imports point one way, and its names are those it says it has."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import celery_actors

ROOT = Path(celery_actors.__file__).parent
# What each part may import of the others, besides itself.
BELOW = {
    "control": set[str](),
    "declarations": set[str](),
    "exceptions": {"control"},
    "ids": set[str](),
    "serialization": {"exceptions"},
    "protocol": {"exceptions", "ids", "serialization"},
    "config": {"exceptions"},
    "store": {"config", "control", "exceptions", "ids", "protocol", "serialization"},
    "runtime_env": set[str](),
    "scheduling": {"control"},
    "options": {"runtime_env", "scheduling"},
    "signatures": set[str](),
    "client": {
        "config",
        "control",
        "exceptions",
        "ids",
        "protocol",
        "runtime_env",
        "serialization",
        "store",
    },
    "state": {
        "client",
        "config",
        "control",
        "exceptions",
        "ids",
        "protocol",
        "session",
        "store",
    },
    "metrics": {"client", "control"},
    "worker": {
        "client",
        "config",
        "control",
        "exceptions",
        "ids",
        "options",
        "protocol",
        "serialization",
        "store",
    },
}


def imports_of(path: Path) -> Iterator[str]:
    """The parts of this package that a module imports while it is imported."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "celery_actors":
                names = [f"celery_actors.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "celery_actors" and rest:
                yield rest.partition(".")[0]


@pytest.mark.parametrize("part", BELOW)
def test_imports_point_one_way(part: str) -> None:
    folder = ROOT / part
    modules = list(folder.rglob("*.py")) if folder.is_dir() else [ROOT / f"{part}.py"]
    assert modules
    for module in modules:
        above = set(imports_of(module)) - BELOW[part] - {part}
        assert not above, f"{module.relative_to(ROOT)} imports {', '.join(sorted(above))}"


def test_every_exported_name_is_there() -> None:
    for name in celery_actors.__all__:
        assert getattr(celery_actors, name) is not None
    assert len(set(celery_actors.__all__)) == len(celery_actors.__all__)
    assert {
        "init",
        "shutdown",
        "is_initialized",
        "remote",
        "method",
        "get",
        "put",
        "wait",
        "kill",
        "get_gpu_ids",
        "nodes",
        "cluster_resources",
        "available_resources",
        "ObjectRef",
        "ActorHandle",
        "exceptions",
        "install",
    } <= set(celery_actors.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        celery_actors.no_such_name  # noqa: B018 - looking it up is what is tested


def test_every_exception_is_exported_and_has_one_base() -> None:
    exceptions = celery_actors.exceptions
    own = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type)
        and issubclass(value, exceptions.ActorsError)
        and not name.startswith("_")
    }
    assert own <= set(exceptions.__all__)
    assert exceptions.RayError is exceptions.ActorsError
    assert exceptions.RayTaskError is exceptions.TaskError
    assert exceptions.RayActorError is exceptions.ActorError


def test_importing_the_package_connects_to_nothing_and_starts_no_thread() -> None:
    program = (
        "import socket, threading\n"
        "def refuse(*_): raise SystemExit('connected')\n"
        "socket.socket.connect = refuse\n"
        "import celery_actors, celery_actors.celery\n"
        "assert threading.active_count() == 1\n"
        "assert not celery_actors.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_package_is_typed() -> None:
    assert (ROOT / "py.typed").exists()

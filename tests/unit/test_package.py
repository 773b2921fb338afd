"""The package's shape: imports point one way, and its names are those it says it has."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import celery_actors

ROOT = Path(celery_actors.__file__).parent
# What each part may import of the others, besides itself.
BELOW = {
    "lua_parts": set[str](),
    "control": {"lua_parts"},
    "declarations": set[str](),
    "error_copies": set[str](),
    "tracebacks": {"error_copies"},
    "exceptions": {"control", "error_copies", "tracebacks"},
    "ids": set[str](),
    "flat": set[str](),
    "modules": set[str](),
    "pickler": {"modules"},
    "serialization": {"exceptions", "flat", "pickler"},
    "protocol": {"exceptions", "flat", "ids", "serialization"},
    "app_settings": {"exceptions"},
    "config": {"app_settings", "exceptions"},
    "store": {
        "app_settings",
        "config",
        "control",
        "error_copies",
        "exceptions",
        "flat",
        "ids",
        "lua_parts",
        "protocol",
        "serialization",
        "tracebacks",
    },
    "logging_config": set[str](),
    "runtime_env": set[str](),
    "scheduling": {"control"},
    "options": {"runtime_env", "scheduling"},
    "signatures": set[str](),
    "client": {
        "app_settings",
        "config",
        "control",
        "exceptions",
        "ids",
        "modules",
        "protocol",
        "runtime_env",
        "serialization",
        "store",
    },
    "refs": {"client", "ids", "serialization"},
    "generators": {"client", "refs"},
    "state": {
        "app_settings",
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
        "error_copies",
        "exceptions",
        "generators",
        "ids",
        "logging_config",
        "modules",
        "options",
        "protocol",
        "refs",
        "serialization",
        "store",
        "tracebacks",
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


EXPORTED = {
    "celery_actors": {
        "ActorHandle",
        "ActorID",
        "DynamicObjectRefGenerator",
        "JobID",
        "LoggingConfig",
        "NodeID",
        "ObjectID",
        "ObjectRef",
        "ObjectRefGenerator",
        "PlacementGroupID",
        "TaskID",
        "UniqueID",
        "WorkerID",
        "__version__",
        "actor",
        "available_resources",
        "cancel",
        "cloudpickle",
        "cluster_resources",
        "exceptions",
        "experimental",
        "get",
        "get_actor",
        "get_gpu_ids",
        "get_runtime_context",
        "init",
        "install",
        "is_initialized",
        "kill",
        "mailbox_of",
        "method",
        "nodes",
        "put",
        "remote",
        "shutdown",
        "state",
        "timeline",
        "util",
        "wait",
    },
    "celery_actors.actor": {
        "ActorClass",
        "ActorClassInheritanceException",
        "ActorHandle",
        "ActorMethod",
        "ActorProxy",
        "exit_actor",
    },
    "celery_actors.util": {
        "ActorGroup",
        "ActorPool",
        "as_completed",
        "deregister_serializer",
        "disable_log_once_globally",
        "enable_periodic_logging",
        "get_current_placement_group",
        "get_node_ip_address",
        "get_placement_group",
        "inspect_serializability",
        "list_named_actors",
        "log_once",
        "map_unordered",
        "placement_group",
        "placement_group_table",
        "register_serializer",
        "remove_placement_group",
    },
    "celery_actors.util.actor_group": {"ActorGroup", "ActorGroupMethod", "ActorWrapper"},
    "celery_actors.util.queue": {"Empty", "Full", "Queue"},
    "celery_actors.util.metrics": {"Counter", "Gauge", "Histogram", "Metric"},
    "celery_actors.util.scheduling_strategies": {
        "DoesNotExist",
        "Exists",
        "In",
        "NodeAffinitySchedulingStrategy",
        "NodeLabelSchedulingStrategy",
        "NotIn",
        "PlacementGroupSchedulingStrategy",
    },
}


@pytest.mark.parametrize("module", EXPORTED)
def test_the_exported_names(module: str) -> None:
    """What users import: a name that goes, or comes, is to be decided and noted here."""
    found = importlib.import_module(module)
    assert set(found.__all__) == EXPORTED[module]
    assert len(set(found.__all__)) == len(found.__all__)
    for name in found.__all__:
        assert getattr(found, name) is not None


def test_an_unknown_name_is_an_error() -> None:
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

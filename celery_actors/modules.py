"""Which modules' classes and functions are pickled by name, and where a program finds them.

The rule is Ray's: a module goes by name, in every direction.  What is defined in
``__main__``, in a notebook or in a function goes by value, since no other process can import
it.  So does what lies in a module that no import finds: one that was made at run time, that
was loaded from a file which is on no path, or whose file is gone.

A module's way is decided once a job: if its classes went now by value and now by name, a
process would have two of each, and ``isinstance`` and ``except`` would fail.
"""

from __future__ import annotations

import os
import re
import site
import sys
import sysconfig
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

import celery_actors

__all__ = [
    "LIBRARIES",
    "forget_decisions",
    "is_library",
    "own_paths",
    "root_of",
    "travels_by_value",
    "use_paths",
]

#: Stands in :func:`own_paths` for the directories that a process has of its interpreter.
LIBRARIES = ""

_PROGRAMS = ("__main__", "__mp_main__")
_ZIP = re.compile(r"python\d+\.zip")
_INSTALLED = ("site-packages", "dist-packages")

# Each entry is written once a job; two threads that decide at a time come to the same.
_decided: dict[str, bool] = {}


def forget_decisions() -> None:
    """Begin a job: each module is decided on again when it is next pickled."""
    _decided.clear()


def travels_by_value(name: str | None) -> bool:
    """Whether classes and functions of the module ``name`` go by value."""
    known = _decided.get(name)  # type: ignore[arg-type]  # None is in no dictionary of names
    if known is not None:
        return known
    if name is None or name in _PROGRAMS:
        return True
    module = sys.modules.get(name)
    if module is None:  # not decided: it may be imported later
        return True
    by_value = _decided[name] = _is_registered(name) or not _is_importable(name, module)
    return by_value


def _is_registered(name: str) -> bool:
    """Whether the user told cloudpickle to send this module by value."""
    registered = cloudpickle.list_registry_pickle_by_value()
    parts = name.split(".")
    return any(".".join(parts[:end]) in registered for end in range(1, len(parts) + 1))


def _is_importable(name: str, module: ModuleType) -> bool:
    """Whether another process that looks in the same places finds the same module."""
    top = sys.modules.get(name.partition(".")[0], module)
    if top is celery_actors or is_library(top):
        return True  # also what an installed package makes at run time, as its import does there
    parent, _, _ = name.rpartition(".")
    path: Any = None
    if parent:
        if travels_by_value(parent):
            return False
        path = getattr(sys.modules[parent], "__path__", None)
    spec = _find(name, path)
    if spec is None:
        return False
    file = getattr(module, "__file__", None)
    if file is None:
        return spec.origin is None and hasattr(module, "__path__")  # a namespace package
    return spec.origin is not None and _is_same_file(spec.origin, file)


def _find(name: str, path: Any) -> ModuleSpec | None:
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = None
        try:
            if find is not None:
                spec = find(name, path, None)
        except Exception:  # noqa: BLE001, S112 - a finder of the user's may raise anything
            continue
        if spec is not None:
            return spec
    return None


def _is_same_file(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:  # in an archive
        return one == other


def is_library(module: ModuleType) -> bool:
    """Whether a top-level module is Python's own or an installed package's."""
    root = root_of(module)
    if root is None:
        return module.__name__ in sys.stdlib_module_names
    return is_library_path(root)


def root_of(module: ModuleType) -> Path | None:
    """Return the directory in which a top-level module lies; ``None``: it has no file."""
    paths = list(getattr(module, "__path__", ()))
    if paths:
        return Path(paths[0]).parent
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).parent


_STDLIB = frozenset(
    os.path.realpath(path)
    for name, path in sysconfig.get_paths().items()
    if name in ("stdlib", "platstdlib", "purelib", "platlib")
)


@cache
def is_library_path(path: Path) -> bool:
    """Whether a directory holds Python's own modules or installed packages.

    Packages are installed where a tool has left its record of one (``*.dist-info``): with
    ``pip --target``, say, any directory may be such a one.
    """
    if path.name in _INSTALLED or os.path.realpath(path) in _STDLIB:
        return True
    try:
        return any(name.endswith(".dist-info") for name in os.listdir(path))  # noqa: PTH208 - faster
    except OSError:
        return False


def own_paths(*last: str) -> tuple[str, ...]:
    """Return where this program finds its own modules, in the order in which it looks.

    :data:`LIBRARIES` stands where the interpreter's own directories come.

    :param last: directories that come last.
    """
    found: dict[str, None] = {}
    for entry in sys.path:
        try:
            path = os.path.abspath(entry)  # noqa: PTH100 - "" is the current directory
        except FileNotFoundError:  # that was removed
            continue
        if _is_interpreters(path):
            found[LIBRARIES] = None
        elif os.path.exists(path):  # noqa: PTH110 - for each actor: it is to be fast
            found[path] = None
    found.setdefault(LIBRARIES)
    return tuple({**found, **dict.fromkeys(path for path in last if path not in found)})


def use_paths(paths: tuple[str, ...]) -> None:
    """Look for modules where the program did that returned these from :func:`own_paths`."""
    own = [path for path in sys.path if path not in paths]
    first = paths.index(LIBRARIES) if LIBRARIES in paths else len(paths)
    sys.path[:] = [*paths[:first], *own, *paths[first + 1 :]]


@cache
def _is_interpreters(path: str) -> bool:
    """Whether every program of this interpreter has that directory on its path."""
    directories = [*_STDLIB, *site.getsitepackages(), site.getusersitepackages()]
    name = os.path.basename(path)  # noqa: PTH119
    return path in directories or name == "lib-dynload" or bool(_ZIP.fullmatch(name))

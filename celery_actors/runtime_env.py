"""``runtime_env``: the environment in which actors and tasks run, as a user writes it.

Follows Ray's ``ray.runtime_env``: :class:`RuntimeEnv` is a dictionary and goes wherever a
plain one does.  What it says is checked here, where it is written; local files are looked
at when they are packaged (at ``init()``, or at the first ``.remote()``).
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["DEFAULT_SETUP_SECONDS", "PACKAGE_SCHEME", "RuntimeEnv", "RuntimeEnvConfig"]

DEFAULT_SETUP_SECONDS = 600.0

#: What stands before the digest of a package that the job has stored already.
PACKAGE_SCHEME = "package://"

_VENV_INSTEAD = (
    "make a virtual environment with these packages on every node and name its interpreter: "
    'runtime_env={"py_executable": "/path/to/venv/bin/python"}'
)
_ABSENT = {
    "pip": _VENV_INSTEAD,
    "uv": _VENV_INSTEAD,
    "conda": _VENV_INSTEAD.replace("virtual environment", "conda environment"),
    "container": "start the node worker itself in that container",
    "image_uri": "start the node worker itself in a container of that image",
    "worker_process_setup_hook": "call the hook in the actor's constructor",
    "java_jars": "there are no Java workers",
    "nsight": 'use py_executable: "nsys profile python"',
    "_nsight": 'use py_executable: "nsys profile python"',
    "rocprof_sys": 'use py_executable: "rocprof-sys-python"',
    "_rocprof_sys": 'use py_executable: "rocprof-sys-python"',
}


class RuntimeEnvConfig(dict[str, Any]):
    """How an environment is set up (Ray's ``RuntimeEnvConfig``).

    :param setup_timeout_seconds: how long that may take, in seconds; -1: no bound.
    :param eager_install: accepted; environments are set up when a process needs them.
    :param log_files: accepted; there is no dashboard to show them.
    :raises TypeError, ValueError: a value makes no sense.
    """

    def __init__(
        self,
        setup_timeout_seconds: float = DEFAULT_SETUP_SECONDS,
        eager_install: bool = True,
        log_files: list[str] | None = None,
    ) -> None:
        super().__init__()
        what = "runtime_env['config']['setup_timeout_seconds']"
        if isinstance(setup_timeout_seconds, bool) or not isinstance(
            setup_timeout_seconds, (int, float)
        ):
            raise TypeError(f"{what} must be a number, not {setup_timeout_seconds!r}")
        if setup_timeout_seconds <= 0 and setup_timeout_seconds != -1:
            raise ValueError(
                f"{what} must be more than 0, or -1 for no bound, not {setup_timeout_seconds}"
            )
        if not isinstance(eager_install, bool):
            raise TypeError(
                f"runtime_env['config']['eager_install'] must be a boolean, not {eager_install!r}"
            )
        self["setup_timeout_seconds"] = setup_timeout_seconds
        self["eager_install"] = eager_install
        self["log_files"] = _strings("runtime_env['config']['log_files']", log_files or [])


class RuntimeEnv(dict[str, Any]):
    """The environment of a job, an actor or a task.

    Fields that are ``None`` count as absent.  An actor or task inherits what its creator
    has: ``env_vars`` are merged, every other field is replaced (as in Ray).

    :param env_vars: environment variables; ``${NAME}`` stands for the value that a variable
        has on the node, or for nothing.
    :param working_dir: a local directory or ``.zip`` file; a copy of it is the current
        directory of the process, and first on its ``sys.path``.
    :param py_modules: local packages, ``.py`` files, ``.whl`` or ``.zip`` files, or imported
        modules, to be importable there.
    :param excludes: files of these that are not sent, as patterns of ``.gitignore``.
    :param py_executable: the command that runs Python there, with arguments if need be.
    :param config: see :class:`RuntimeEnvConfig`.
    :raises TypeError: a value is of the wrong type.
    :raises ValueError: there is no such field (the message names the near ones), it is one
        of Ray's that is not there (the message says what to do instead), or a value makes
        no sense.

    Example::

        ray.init(runtime_env=RuntimeEnv(working_dir=".", env_vars={"OMP_NUM_THREADS": "1"}))
    """

    def __init__(
        self,
        *,
        env_vars: Mapping[str, str] | None = None,
        working_dir: str | Path | None = None,
        py_modules: list[Any] | None = None,
        excludes: list[str] | None = None,
        py_executable: str | None = None,
        config: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        fields = {
            "env_vars": env_vars,
            "working_dir": working_dir,
            "py_modules": py_modules,
            "excludes": excludes,
            "py_executable": py_executable,
            "config": config,
            **others,
        }
        for name, value in fields.items():
            if value is not None:
                self[name] = value

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> RuntimeEnv:
        """Return what a user gave, checked.

        :raises TypeError, ValueError: as the class.
        """
        if given is None:
            return cls()
        if not isinstance(given, Mapping):
            raise TypeError(f"runtime_env must be a dictionary or a RuntimeEnv, not {given!r:.100}")
        for name in given:
            if not isinstance(name, str):
                raise TypeError(f"the fields of a runtime_env are strings, not {name!r}")
        return cls(**given)

    def __setitem__(self, name: str, value: Any) -> None:
        if name in _ABSENT:
            raise ValueError(f"runtime_env[{name!r}] is not there: {_ABSENT[name]}")
        check = _CHECKS.get(name)
        if check is None:
            near = difflib.get_close_matches(name, _CHECKS, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(_CHECKS)}"
            raise ValueError(f"a runtime_env has no field {name!r}; {hint}")
        super().__setitem__(name, check(value))

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As of any dictionary; what is put in is checked."""
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def set(self, name: str, value: Any) -> None:
        """Set a field (Ray's name for ``env[name] = value``)."""
        self[name] = value

    def to_dict(self) -> dict[str, Any]:
        """Return it as a plain dictionary."""
        return dict(self)

    def serialize(self) -> str:
        """Return it as JSON.

        :raises TypeError: ``py_modules`` names modules by themselves, not by their paths.
        """
        return json.dumps(self, sort_keys=True)

    @classmethod
    def deserialize(cls, text: str) -> RuntimeEnv:
        """Return what :meth:`serialize` wrote."""
        return cls.of(json.loads(text))

    def has_working_dir(self) -> bool:
        """Whether there is a ``working_dir``."""
        return "working_dir" in self

    def working_dir(self) -> str:
        """Return ``working_dir``; empty without one."""
        return str(self.get("working_dir", ""))

    def py_modules(self) -> list[Any]:
        """Return ``py_modules``."""
        return list(self.get("py_modules", ()))

    def py_executable(self) -> str | None:
        """Return ``py_executable``."""
        return self.get("py_executable")

    def env_vars(self) -> dict[str, str]:
        """Return ``env_vars``."""
        return dict(self.get("env_vars", {}))


def _strings(what: str, value: Any) -> list[str]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise TypeError(f"{what} must be a list of strings, not {value!r:.100}")
    return list(value)


def _env_vars(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env['env_vars'] must be a dictionary, not {value!r:.100}")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(
                "runtime_env['env_vars'] must map strings to strings; it has "
                f"{name!r}: {text!r:.100}"
            )
        if not name or "=" in name or "\0" in name or "\0" in text:
            raise ValueError(f"runtime_env['env_vars']: {name!r} can't be a variable's name")
    return dict(value)


def _local_path(what: str, value: Any) -> str:
    if not isinstance(value, (str, Path)):
        raise TypeError(f"{what} must be a path, not {value!r:.100}")
    text = str(value)
    scheme, separator, _ = text.partition("://")
    if separator and not text.startswith(PACKAGE_SCHEME):
        raise ValueError(
            f"{what}: {text} is a URI of {scheme}; only local directories and archives can be "
            "sent. Download it first and name the copy"
        )
    if not text:
        raise ValueError(f"{what} must not be empty")
    return text


def _working_dir(value: Any) -> str:
    return _local_path("runtime_env['working_dir']", value)


def _py_modules(value: Any) -> list[Any]:
    what = "runtime_env['py_modules']"
    if isinstance(value, (str, Path, ModuleType)) or not isinstance(value, Iterable):
        raise TypeError(f"{what} must be a list of paths or modules, not {value!r:.100}")
    return [one if isinstance(one, ModuleType) else _local_path(what, one) for one in value]


def _excludes(value: Any) -> list[str]:
    return _strings("runtime_env['excludes']", value)


def _py_executable(value: Any) -> str:
    what = "runtime_env['py_executable']"
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, not {value!r:.100}")
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"{what}: {value!r} is no command: {error}") from error
    if not words:
        raise ValueError(f"{what} must name an interpreter")
    return value


def _config(value: Any) -> RuntimeEnvConfig:
    if isinstance(value, RuntimeEnvConfig):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env['config'] must be a dictionary, not {value!r:.100}")
    known = RuntimeEnvConfig()
    for name in value:
        if name not in known:
            raise ValueError(
                f"runtime_env['config'] has no field {name!r}; known: {', '.join(known)}"
            )
    return RuntimeEnvConfig(**value)


_CHECKS = {
    "env_vars": _env_vars,
    "working_dir": _working_dir,
    "py_modules": _py_modules,
    "excludes": _excludes,
    "py_executable": _py_executable,
    "config": _config,
}

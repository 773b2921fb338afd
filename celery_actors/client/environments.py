"""The environments that a process gives to the actors and tasks that it creates.

An actor or task has what its creator has, changed by its own ``runtime_env`` (Ray's
inheritance): ``env_vars`` are merged, every other field is replaced.  Local files are
packaged here, and stored for the job.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from celery_actors.exceptions import RuntimeEnvSetupError
from celery_actors.modules import forget_decisions, own_paths
from celery_actors.protocol.creation import Creation
from celery_actors.protocol.environment import NO_ENVIRONMENT, Environment, package_digest
from celery_actors.runtime_env import PACKAGE_SCHEME, RuntimeEnv
from celery_actors.store.packages import Packages
from celery_actors.store.whereabouts import place

if TYPE_CHECKING:
    from celery_actors.client.packing import Packed
    from celery_actors.client.process import Process

__all__ = ["Environments", "path_of_module"]


class Environments:
    """Makes environments from what users give.  Thread-safe."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._given = RuntimeEnv()
        self._logging = ""
        self._own = NO_ENVIRONMENT
        self._job = process.job_id
        self._unpacked: frozenset[str] = frozenset()
        self._paths: tuple[str, ...] = ()
        self._last: tuple[str, ...] = ()  # the current directory when the job began, as in Ray
        self._home = ("", "")

    def begin_job(self, given: Mapping[str, Any] | None, logging: str = "") -> None:
        """Say what the actors and tasks of this driver's job have.

        :param logging: as :attr:`Environment.logging`.
        :raises TypeError, ValueError: it makes no sense.
        :raises RuntimeEnvSetupError: its files can't be packaged.
        """
        forget_decisions()
        try:
            self._last = (os.getcwd(),)  # noqa: PTH109 - as sys.path has it: a text
        except FileNotFoundError:
            self._last = ()
        self._given = RuntimeEnv.of(given)
        self._logging = logging
        self._own = self._changed(Environment(logging=logging), self._given)
        self._job = self._process.job_id

    def inherit(self, creation: Creation, unpacked: Iterable[str]) -> None:
        """Say what this process was given, and where on this node its packages lie."""
        self._own = creation.environment
        self._unpacked = frozenset(unpacked)
        self._paths = creation.sys_path
        self._home = creation.home, creation.home_place

    @property
    def own(self) -> Environment:
        """What this process, or the job that it leads, has."""
        if self._job != self._process.job_id:  # the lease was lost, and the job's packages with it
            self.begin_job(self._given, self._logging)
        return self._own

    def of(self, given: Mapping[str, Any] | None) -> Environment:
        """Return the environment of an actor or task that is given a ``runtime_env``.

        :raises ValueError: a directory or file of it is not there.
        :raises RuntimeEnvSetupError: its files can't be packaged.
        """
        return self._changed(self.own, RuntimeEnv.of(given))

    def paths(self) -> tuple[str, ...]:
        """Return where besides its packages a process looks for modules: where this one does.

        This process's own packages are others' only by inheritance.
        """
        found = (*self._paths, *own_paths(*self._last))
        return tuple(path for path in dict.fromkeys(found) if path not in self._unpacked)

    def home(self) -> tuple[str, str]:
        """Return the id of the job's driver, and where its files are seen."""
        if not self._process.driver:
            return self._home
        return self._process.caller.hex(), place(self._process.settings)

    def _changed(self, parent: Environment, given: RuntimeEnv) -> Environment:
        changes: dict[str, Any] = {}
        excludes = given.get("excludes", [])
        if "env_vars" in given:
            changes["env_vars"] = tuple({**dict(parent.env_vars), **given["env_vars"]}.items())
        if "working_dir" in given:
            changes["working_dir"] = self._working_dir(given["working_dir"], excludes)
        if "py_modules" in given:
            changes["py_modules"] = tuple(
                self._py_module(module, excludes) for module in given["py_modules"]
            )
        if "py_executable" in given:
            changes["py_executable"] = given["py_executable"]
        if "config" in given:
            changes["setup_timeout"] = float(given["config"]["setup_timeout_seconds"])
        return replace(parent, **changes) if changes else parent

    def _working_dir(self, given: str, excludes: list[str]) -> str:
        if given.startswith(PACKAGE_SCHEME):
            return self._stored_already(given)
        # Few programs send files: only they import what packs them.
        from celery_actors.client.packing import pack_archive, pack_directory

        path = Path(given).expanduser().absolute()
        if path.is_dir():
            return self._store(lambda: pack_directory(path, excludes))
        if path.is_file() and path.suffix == ".zip":
            return self._store(lambda: pack_archive(path))
        raise ValueError(
            f"runtime_env['working_dir']: {path} is neither a directory nor a .zip file on this "
            "machine"
        )

    def _py_module(self, given: str | ModuleType, excludes: list[str]) -> str:
        if isinstance(given, str) and given.startswith(PACKAGE_SCHEME):
            return self._stored_already(given)
        from celery_actors.client.packing import pack_archive, pack_directory, pack_file

        path = path_of_module(given) if isinstance(given, ModuleType) else Path(given)
        # Without resolving links: the name under which it is given is that of the module.
        path = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100
        if path.is_dir():
            return self._store(lambda: pack_directory(path, excludes, parent=path.name))
        if path.is_file() and path.suffix in (".zip", ".whl"):
            return self._store(lambda: pack_archive(path))
        if path.is_file() and path.suffix == ".py":
            return self._store(lambda: pack_file(path))
        raise ValueError(
            f"runtime_env['py_modules']: {path} is not on this machine, or is none of: a "
            "directory, a .py, a .whl or a .zip file"
        )

    def _store(self, pack: Callable[[], Packed]) -> str:
        process = self._process
        packed = pack()
        with packed.file:
            packages = Packages(process.control, process.signer, process.job_id)
            packages.store(packed.digest, packed.file, packed.size)
        return packed.digest

    def _stored_already(self, uri: str) -> str:
        process = self._process
        digest = package_digest(uri)
        if digest is None or not Packages(process.control, process.signer, process.job_id).has(
            digest
        ):
            raise RuntimeEnvSetupError(f"{uri} is no package that this job has stored")
        return digest


def path_of_module(module: ModuleType) -> Path:
    """Return the directory or file of an imported module."""
    if hasattr(module, "__path__"):
        paths = list(module.__path__)
        if len(paths) != 1:
            raise ValueError(
                f"runtime_env['py_modules']: module {module.__name__} lies in {len(paths)} "
                "directories; name the directories instead"
            )
        return Path(paths[0])
    file = getattr(module, "__file__", None)
    if file is None:
        raise ValueError(
            f"runtime_env['py_modules']: module {module.__name__} is built in and can't be sent"
        )
    return Path(file)

"""How a process that does not see its driver's files imports the driver's modules.

A finder comes before those of Python.  It asks the job's driver for each module that is imported,
until that has answered, unpacks the package with it in the node's cache, and has Python's finder
look there.  So each process of a job has the driver's version of the driver's modules, whatever
lies on the node.  What the driver does not have is looked for on the node as usual.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from time import monotonic
from types import ModuleType

from celery_actors.client.modules import modules_channel
from celery_actors.client.process import Process
from celery_actors.protocol.creation import Creation
from celery_actors.protocol.modules import decode_entry, encode_wanted
from celery_actors.store.packages import Packages
from celery_actors.store.whereabouts import place
from celery_actors.worker.environment_cache import EnvironmentCache

__all__ = ["use_drivers_modules"]

_ANSWER_SECONDS = 30.0
_AGAIN_SECONDS = 30.0  # until a driver that did not answer is asked for that module again


def use_drivers_modules(
    process: Process, creation: Creation, first: Sequence[str], cache: EnvironmentCache
) -> None:
    """Import the driver's modules from packages, if this process does not see its files.

    :param first: directories that come before: the packages of its ``runtime_env``.
    """
    if creation.home_place and creation.home_place != place(process.settings):
        finder = _DriversModules(process, creation.home, first, cache)
        at = next((i for i, other in enumerate(sys.meta_path) if other is PathFinder), 0)
        sys.meta_path.insert(at, finder)


class _DriversModules(MetaPathFinder):
    def __init__(
        self, process: Process, driver: str, first: Sequence[str], cache: EnvironmentCache
    ) -> None:
        self._process = process
        self._driver = driver
        self._first = list(first)
        self._cache = cache
        self._packages = Packages(process.control, process.signer, process.job_id)
        self._said: dict[str, str] = {}
        self._ask_at: dict[str, float] = {}  # not before, of names for which no answer came
        self._asking = threading.local()  # what is imported in order to ask is not asked for

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As of any finder; ``None``: the next one looks.

        :raises ImportError: the driver could not send the module.
        """
        if getattr(self._asking, "now", False) or not _may_be_drivers(name, path):
            return None
        given = PathFinder.find_spec(name, self._first, target) if path is None else None
        if given is not None:
            return given
        digest = self._digest(name)
        if not digest:
            return None
        read = partial(self._packages.read, digest)
        directory = str(self._cache.unpacked(self._process.job_id, digest, read))
        sent = PathFinder.find_spec(name, [directory], target)
        if sent is not None and sent.origin is None:  # parts of a namespace may lie here too
            return PathFinder.find_spec(name, path, target) or sent
        return sent

    def _digest(self, name: str) -> str:
        """Return the digest of the package that has a module; empty: no such package is known."""
        said = self._said.get(name)
        if said is None:
            self._asking.now = True
            try:
                said = self._ask(name)
            finally:
                self._asking.now = False
            if said is None:
                return ""
            self._said[name] = said
        if said.startswith("!"):
            raise ImportError(said[1:], name=name)
        return said

    def _ask(self, name: str) -> str | None:
        """Return what the driver says of a module; ``None``: it does not answer.

        Its answer may come later, and is then read at the next import of that name.
        """
        process = self._process
        blob = process.control.module(process.job_id, name)
        if blob is None and monotonic() >= self._ask_at.get(name, 0.0):
            if not process.control.caller_alive(self._driver):
                return ""  # for good: a caller's id never comes back
            blob = self._answer(name)
            self._ask_at[name] = monotonic() + _AGAIN_SECONDS
        if blob is None:
            return None
        return decode_entry(process.signer, process.job_id, name, blob)

    def _answer(self, name: str) -> bytes | None:
        """Ask the driver, and wait until it has said what it has."""
        process = self._process
        wanted = encode_wanted(process.signer, self._driver, process.job_id, name)
        deadline = monotonic() + _ANSWER_SECONDS
        with process.redis.pubsub() as answers:  # type: ignore[no-untyped-call]
            answers.subscribe(modules_channel(process.settings.prefix, process.job_id))
            answers.get_message(timeout=_ANSWER_SECONDS)  # Redis has taken the subscription
            process.redis.publish(process.results.channel(self._driver), f"I{wanted}")
            while (left := deadline - monotonic()) > 0:
                blob = process.control.module(process.job_id, name)
                if blob is not None:
                    return blob
                answers.get_message(timeout=left)
        return None


def _may_be_drivers(name: str, path: Sequence[str] | None) -> bool:
    if path is None:
        return name not in sys.stdlib_module_names and name != "celery_actors"
    return type(path).__name__ == "_NamespacePath"  # all others came with their package

"""A driver's own modules, for its job's processes on other machines.

A process that does not see the driver's files asks for each module that it imports, once a job
(:mod:`celery_actors.worker.modules`).  What is the driver's own is packaged as ``py_modules``
are: a package with all of its files, data and extensions among them, or the one file.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING

from redis import RedisError

from celery_actors.exceptions import ActorsError
from celery_actors.modules import is_library_path
from celery_actors.protocol.modules import decode_wanted, encode_entry
from celery_actors.store.packages import Packages

if TYPE_CHECKING:
    from celery_actors.client.packing import Packed
    from celery_actors.client.process import Process

__all__ = ["Modules", "modules_channel"]

logger = logging.getLogger(__name__)


def modules_channel(prefix: str, job_id: str) -> str:
    """Return the channel on which it is said that a job has one more module."""
    return f"{prefix}modules:{job_id}"


class Modules:
    """Answers those who ask for this driver's modules."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def wanted(self, text: str) -> None:
        """Answer a request, in a thread of its own: files are read and sent meanwhile.

        :raises TamperedError, ValueError: it is none of this cluster's.
        """
        process = self._process
        name = decode_wanted(process.signer, process.caller.hex(), process.job_id, text)
        threading.Thread(
            target=self._answer,
            args=(process.job_id, name),
            name="celery-actors-modules",
            daemon=True,
        ).start()

    def _answer(self, job_id: str, name: str) -> None:
        process = self._process
        try:
            blob = encode_entry(process.signer, job_id, name, self._entry(job_id, name))
            process.control.store_module(job_id, name, blob)
            process.redis.publish(modules_channel(process.settings.prefix, job_id), name)
        except (RedisError, ActorsError, OSError) as error:
            logger.warning("module %s could not be sent to those who want it: %s", name, error)

    def _entry(self, job_id: str, name: str) -> str:
        try:
            packed = _packed(name)
        except (ActorsError, OSError) as error:
            return f"!module {name} could not be sent to this machine: {error}"
        if packed is None:
            return ""
        with packed.file:
            packages = Packages(self._process.control, self._process.signer, job_id)
            packages.store(packed.digest, packed.file, packed.size)
        return packed.digest


def _packed(name: str) -> Packed | None:
    """Return a module as a package; ``None``: it is none of this program's own."""
    from celery_actors.client.packing import pack_directory, pack_file, pack_nothing

    spec = _spec(name)
    if spec is None:
        return None
    last = name.rpartition(".")[2]
    own = [Path(path) for path in spec.submodule_search_locations or ()]
    own = [path for path in own if not is_library_path(path.parent)]
    if spec.origin is None:  # a namespace package: its parts are asked for one by one
        return pack_nothing(last) if own else None
    if own:
        return pack_directory(own[0], (), parent=last, with_ignored=True)
    file = Path(spec.origin)
    if file.is_file() and not is_library_path(file.parent):
        return pack_file(file)
    return None


def _spec(name: str) -> ModuleSpec | None:
    if name in sys.stdlib_module_names or name == "celery_actors":
        return None
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # its parent is none, or it was made at run time
        return None

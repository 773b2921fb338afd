"""What a node worker reaps when it is PID 1 of a container, or a subreaper.

The kernel then makes it the parent of every process whose parent ended, as of what ``docker exec``
left behind, and nobody else can reap these.  Its own children must be left alone: whoever started
one (the pool, :mod:`subprocess`, user code) wants to read its status.  Nothing in ``/proc`` says
which is which.  So the functions that start processes are wrapped, and note the pid that they
return.
"""

from __future__ import annotations

import _posixsubprocess
import contextlib
import ctypes
import os
import subprocess
from collections.abc import Callable
from functools import wraps
from time import monotonic
from types import ModuleType
from typing import Any

from celery_actors.worker.descendants import processes

__all__ = ["Orphans"]

_PR_GET_CHILD_SUBREAPER = 37
_GRACE = 30.0  # seconds in which native code that started a process can read its status
# All ways of Python to start a process: os.spawn*() and billiard call the first, multiprocessing
# the first or the fifth, and subprocess one of the last four.
_STARTERS: tuple[tuple[ModuleType, str], ...] = (
    (os, "fork"),
    (os, "forkpty"),
    (os, "posix_spawn"),
    (os, "posix_spawnp"),
    (_posixsubprocess, "fork_exec"),
    (subprocess, "_fork_exec"),  # its own name for the fifth, from Python 3.11 on
)
_libc = ctypes.CDLL(None, use_errno=True)


class Orphans:
    """Used by the node agent's thread, but for the wrappers, which run in any thread."""

    def __init__(self, grace: float = _GRACE) -> None:
        self._grace = grace
        self._seen: dict[int, float] = {}  # zombies that are none of ours, and since when
        self._pid = os.getpid()
        self._adopts = self._pid == 1 or _is_subreaper()
        # To add to it, to take from it and to copy it are atomic.
        self._own = set(self._children()) if self._adopts else set()
        if self._adopts:
            for module, name in _STARTERS:
                start = getattr(module, name, None)
                if start is not None:
                    setattr(module, name, self._noting(start))

    def _noting(self, start: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``start``, a function that starts a process, which also notes the pid."""

        @wraps(start)
        def noting(*args: Any, **kwargs: Any) -> Any:
            started = start(*args, **kwargs)
            pid = started[0] if isinstance(started, tuple) else started
            if pid and os.getpid() == self._pid:  # else this is the child, or a fork of ours
                self._own.add(pid)
            return started

        return noting

    def reap(self) -> None:
        """Reap the orphans that have ended."""
        if not self._adopts:
            return
        known = frozenset(self._own)  # before the look: what is started meanwhile stays noted
        children = self._children()
        self._own -= known - children.keys()  # these were reaped, and their pids may come again
        now = monotonic()
        zombies = [pid for pid, state in children.items() if state == b"Z" and pid not in self._own]
        self._seen = {pid: self._seen.get(pid, now) for pid in zombies}
        for pid, since in self._seen.items():
            if now - since >= self._grace:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _children(self) -> dict[int, bytes]:
        """Return the children of this process, with the state of each.

        Of all processes: the kernel's own list of a thread's children (``/proc/…/children``) may
        leave some out while others come and go.
        """
        return {pid: state for pid, parent, state in processes() if parent == self._pid}


def _is_subreaper() -> bool:
    answer = ctypes.c_int()
    _libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)

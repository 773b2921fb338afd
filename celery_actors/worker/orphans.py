"""What a node worker reaps when it is PID 1 of a container, or a subreaper.

The kernel then makes it the parent of every process whose parent ended, as of what ``docker exec``
left behind, and nobody else can reap these.  Its own children must be left alone: whoever started
one (the pool, :mod:`subprocess`, user code) wants to read its status.  Nothing in ``/proc`` says
which is which, so that this process's own are noted as they are made: by hooks around ``fork``, and
by the :class:`subprocess.Popen` objects, whose processes come about without these hooks.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import subprocess
import threading
from pathlib import Path
from time import monotonic

__all__ = ["Orphans"]

_PR_GET_CHILD_SUBREAPER = 37
_GRACE = 30.0  # seconds in which whoever started a process by yet another way can read its status
_libc = ctypes.CDLL(None, use_errno=True)


class Orphans:
    """Used by the node agent's thread, but for the hooks, which run where a fork is made."""

    def __init__(self, grace: float = _GRACE) -> None:
        self._grace = grace
        self._seen: dict[int, float] = {}  # zombies that are none of ours, and since when
        self._own: set[int] = set()  # adding to it and taking from it are atomic
        self._before = threading.local()
        self._adopts = os.getpid() == 1 or _is_subreaper()
        if self._adopts:
            os.register_at_fork(before=self._forking, after_in_parent=self._forked)

    def _forking(self) -> None:
        self._before.children = _children(threading.get_native_id())

    def _forked(self) -> None:
        self._own |= _children(threading.get_native_id()) - self._before.children

    def reap(self) -> None:
        """Reap the orphans that have ended."""
        if not self._adopts:
            return
        children = {pid for thread in _threads() for pid in _children(thread)}
        self._own &= children  # the others were reaped, and their pids may come again
        now = monotonic()
        zombies = {pid for pid in children - self._own if _is_zombie(pid)}
        self._seen = {pid: self._seen.get(pid, now) for pid in zombies}
        due = {pid for pid, since in self._seen.items() if now - since >= self._grace}
        for pid in due - _subprocesses() if due else ():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _is_subreaper() -> bool:
    answer = ctypes.c_int()
    _libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)


def _threads() -> list[int]:
    return [int(directory.name) for directory in Path("/proc/self/task").iterdir()]


def _children(thread: int) -> set[int]:
    """Return the children of a thread of this process; without the kernel's help none."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/self/task/{thread}/children").read_bytes()
        return {int(word) for word in text.split()}
    return set()


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        # The program's name stands in parentheses and may hold anything.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
    return False


def _subprocesses() -> set[int]:
    """Return the pids of all Popen objects whose status was not read."""
    found = (each for each in gc.get_objects() if isinstance(each, subprocess.Popen))
    return {each.pid for each in found if each.returncode is None}

"""Cancelling calls: those that wait are not run, one that runs is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum

__all__ = ["Cancellations", "Found", "RunningCall"]

Key = tuple[bytes, int]


class Found(Enum):
    """In what state a call to be cancelled was found."""

    WAITING = "waiting"
    RUNNING = "running"


class RunningCall:
    """A call that runs.

    :ivar key: caller and task sequence.
    :ivar cancelled: it was asked to end; ``get_runtime_context().is_canceled()`` tells it.
    :ivar interrupt: how it is made to end, where that is possible.
    """

    key: Key
    cancelled = False
    recursive = False
    interrupt: Callable[[], None] | None = None


class Cancellations:
    """Which calls of one actor are to be cancelled, and which run.

    One lock makes starting and cancelling a call exclude each other: a call is either
    found waiting, and then never starts, or found running.  Held for a few instructions.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: set[Key] = set()
        self._running: dict[Key, RunningCall] = {}

    def start(self, running: RunningCall) -> bool:
        """A call is about to run; ``False``: it was cancelled and must not."""
        key = running.key
        with self._lock:
            if key in self._wanted:
                self._wanted.discard(key)
                return False
            self._running[key] = running
            return True

    def end(self, running: RunningCall) -> None:
        """A call no longer runs: nothing interrupts it from here on."""
        with self._lock:
            self._running.pop(running.key, None)

    def cancel(
        self, caller: bytes, task: int, recursive: bool, is_finished: Callable[[], bool]
    ) -> Found | None:
        """Cancel a call.

        :param is_finished: says whether it is over already; asked if it does not run.
        :returns: how it was found; ``None``: it is over.
        """
        with self._lock:
            running = self._running.get((caller, task))
            if running is None:
                if is_finished():
                    return None
                self._wanted.add((caller, task))
                return Found.WAITING
            running.cancelled = True
            running.recursive = recursive
            if running.interrupt is not None:
                running.interrupt()
            return Found.RUNNING

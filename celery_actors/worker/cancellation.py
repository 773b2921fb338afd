"""Cancelling calls: those that wait are not run, one that runs is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum

__all__ = ["Cancellations", "Found", "RunningCall", "TaskCancellations"]

Key = tuple[bytes, int]


class Found(Enum):
    """In what state a call to be cancelled was found."""

    WAITING = "waiting"
    RUNNING = "running"


class RunningCall:
    """A call that runs.

    :ivar key: caller and task sequence.
    :ivar sequence: which orders the caller's calls.
    :ivar cancelled: it was asked to end; ``get_runtime_context().is_canceled()`` tells it.
    :ivar interrupt: how it is made to end, where that is possible.
    """

    key: Key
    sequence: int
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

    def interrupts(self, running: RunningCall, interrupt: Callable[[], None]) -> None:
        """Say how a call that was started is made to end.

        It may have been cancelled since it was started: then it is done here.
        """
        with self._lock:
            running.interrupt = interrupt
            late = running.cancelled
        if late:
            interrupt()

    def is_withdrawn(self, _caller: bytes, _sequence: int) -> bool:
        """Whether a call that was not begun was taken back: an actor's never is."""
        return False

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


class TaskCancellations(Cancellations):
    """Of an executor, whose callers also take tasks back that it has not begun."""

    def __init__(self) -> None:
        super().__init__()
        # By caller: the sequence of the last task that was begun, and up to which none may be.
        self._begun: dict[bytes, int] = {}
        self._withdrawn: dict[bytes, int] = {}

    def start(self, running: RunningCall) -> bool:
        """A call is about to run; ``False``: it was cancelled or taken back, and must not."""
        caller, sequence = running.key[0], running.sequence
        with self._lock:
            if self.is_withdrawn(caller, sequence):
                return False
            self._begun[caller] = sequence
        return super().start(running)

    def withdraw(self, caller: bytes, taken: int, tell: Callable[[int], object]) -> None:
        """Begin none of a caller's calls from here on, up to the last that was taken in.

        :param tell: tells the caller, given the sequence of the last that was begun.  It is done
            before any other is passed over: the caller learns that it won't run before it
            learns that the executor has come past it.
        """
        with self._lock:
            tell(self._begun.get(caller, 0))
            self._withdrawn[caller] = max(taken, self._withdrawn.get(caller, 0))

    def is_withdrawn(self, caller: bytes, sequence: int) -> bool:
        """Whether a call that was not begun was taken back."""
        return sequence <= self._withdrawn.get(caller, 0)

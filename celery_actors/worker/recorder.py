"""The flight recorder: which calls had started and were not committed when a process died.

An actor that may be begun again writes the id of each call that it starts to a page of
shared memory, and takes it out when the call is committed.  The page outlives ``kill -9``;
the node worker reads it after it has reaped the process.  What stands in it then is exactly
what the death interrupted: those calls may have had their effects or not.
"""

from __future__ import annotations

import mmap
import os
import threading

from celery_actors.worker.launch import Launch

__all__ = ["Recorder", "forget_recorder", "interrupted_calls"]

_ID_BYTES = 16
_NOTHING = bytes(_ID_BYTES)


class Recorder:
    """Written by the threads that run and commit an actor's calls.

    :ivar slots: how many calls may be started and not committed at a time.
    """

    def __init__(self, launch: Launch, slots: int) -> None:
        size = slots * _ID_BYTES
        path = launch.left_file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            self._page = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        # Guards the two tables: executors' threads start calls, the flusher commits them.
        # Held for a few instructions.
        self._lock = threading.Lock()
        self._free = list(range(0, size, _ID_BYTES))
        self._taken: dict[tuple[bytes, int], int] = {}

    def started(self, caller: bytes, sequence: int) -> bool:
        """A call is about to start; False: a commit must come before, no slot is free."""
        with self._lock:
            if not self._free:
                return False
            at = self._taken[caller, sequence] = self._free.pop()
        self._page[at : at + _ID_BYTES] = caller + sequence.to_bytes(8, "big")
        return True

    def committed(self, calls: list[tuple[bytes, int]]) -> None:
        """Calls are committed; those that never started are not here."""
        for call in calls:
            with self._lock:
                at = self._taken.pop(call, None)
            if at is not None:
                self._page[at : at + _ID_BYTES] = _NOTHING
                with self._lock:
                    self._free.append(at)


def interrupted_calls(launch: Launch) -> list[str]:
    """Return the ids (hex) of the calls that a process's death interrupted.

    :param launch: of the process, which has been reaped.
    """
    try:
        data = launch.left_file().read_bytes()
    except FileNotFoundError:  # it did not get as far
        return []
    ids = (data[at : at + _ID_BYTES] for at in range(0, len(data), _ID_BYTES))
    return [call.hex() for call in ids if call != _NOTHING]


def forget_recorder(launch: Launch) -> None:
    """Remove a process's recorder, once the records know what stood in it."""
    launch.left_file().unlink(missing_ok=True)

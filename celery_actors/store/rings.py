"""The rings of one process: the two that it writes, and those of others that it reads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from celery_actors.flat import Frame
from celery_actors.protocol.places import Place
from celery_actors.store.ring import NO_MEMORY, SUPPORTED, Ring, RingReader, memory_id
from celery_actors.store.shm import SharedMemoryStore

__all__ = ["Rings"]

logger = logging.getLogger(__name__)


class Rings:
    """Makes a ring when it is first written to.

    :param store: in whose directory, and under whose owner's name, the rings lie.
    """

    def __init__(self, store: SharedMemoryStore) -> None:
        self._store = store
        self._memory: bytes | None = None
        self._reader = RingReader(store.directory)
        self._calls: Ring | None = None
        self._results: Ring | None = None
        self._closed = not SUPPORTED

    @property
    def memory(self) -> bytes:
        """What processes have in common that can read each other's rings."""
        if self._memory is None:
            self._memory = memory_id(self._store.directory)
        return self._memory

    def are_read_by(self, memory: bytes) -> bool:
        """Whether a process with that memory can read what this one writes."""
        return memory == self.memory != NO_MEMORY

    def write_calls(self, parts: Sequence[Frame], needed: Callable[[], bool]) -> Place | None:
        """Write a message with calls.  Called with the mailbox's lock held.

        :param parts: the message, then its calls' buffers.
        :param needed: whether one of them is unresolved: it may have to be read again.
        """
        if self._calls is None:
            self._calls = self._make()
        return None if self._calls is None else self._calls.write(parts, needed)

    def write_results(self, values: Sequence[bytes]) -> Place | None:
        """Write stored values, into one record.  Called by who commits, one thread at a time."""
        if self._results is None:
            self._results = self._make()
        return None if self._results is None else self._results.write(values)

    def read(self, place: Place, at: int = 0, size: int | None = None) -> bytes | None:
        """Read what lies at a place, or a part; ``None`` where it isn't, or is no more."""
        return self._reader.read(place, at, size)

    def forget_idle(self) -> None:
        """Let go of what has not been read for long."""
        self._reader.forget_idle()

    def _make(self) -> Ring | None:
        if self._closed:
            return None
        try:
            return Ring(self._store.ring_path())
        except (OSError, RuntimeError) as error:
            self._closed = True
            logger.info("no shared memory for calls and results, they go by the servers: %s", error)
            return None

    @property
    def carries_calls(self) -> bool:
        """Whether a message in the ring has calls that are unresolved."""
        return self._calls is not None and self._calls.in_use

    def close(self) -> None:
        """Remove what this process wrote.  Nobody depends on it."""
        self._closed = True
        for ring in (self._calls, self._results):
            if ring is not None:
                ring.close()
        self._calls = self._results = None

    def __repr__(self) -> str:
        return f"<Rings calls={self._calls} results={self._results}>"

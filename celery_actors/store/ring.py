"""Rings: what processes of one machine pass to each other past the servers.

A call or a result of some kilobytes costs RabbitMQ and Redis, and those who write to and read
from their sockets, several times what the call itself costs.  Where both ends see the same
shared memory, the bytes lie in a *ring* there, and the message only says where.  A ring is one
file that one process writes round and round, in records of a head and the bytes.

It is a shortcut and promises nothing: who finds that a record is gone (another machine, another
mount of /dev/shm, written over by now, its writer dead) gets the bytes the other way.  A result is
in Redis in any case; calls are sent again, by way of RabbitMQ.  So there is nothing to count,
to release or to recover.

**A reader gets the whole record or nothing.**  It looks at the head, copies the bytes, and looks at
the head again.  The writer clears the heads of all records that it is about to touch before it
writes the first byte, and writes a record's own head last; no two records have the same serial.
That reads and writes are seen in this order is a property of the processor: x86 keeps it, and
elsewhere there are no rings (see :data:`SUPPORTED`).

**No SIGBUS for want of memory.**  Space is allocated before it is written.
"""

from __future__ import annotations

import mmap
import os
import platform
import stat
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from time import monotonic
from typing import Final, NamedTuple

from celery_actors.flat import Frame
from celery_actors.protocol.places import Place
from celery_actors.store.machine import boot_id
from celery_actors.store.segment import is_ring

__all__ = ["NO_MEMORY", "SUPPORTED", "Ring", "RingReader", "memory_id"]

#: Whether this machine's processors keep writes, and reads, in their order.
SUPPORTED: Final = platform.machine() in ("x86_64", "AMD64")

#: The memory of processes that share none with anybody.
NO_MEMORY: Final = bytes(8)

#: Room for what one actor's window lets be under way (4 MiB), and not much more: memory that is
#: written again and again is warm.
CAPACITY: Final = 5 << 20
_ALLOCATE: Final = 256 << 10  # so much at a time: a ring that is little used stays small
_HEAD: Final = Struct("<QQ")  # serial, size
_GONE: Final = bytes(_HEAD.size)
_ALIGNMENT: Final = 64
_REWIND_AFTER: Final = 0.5  # seconds without a write: begin anew where the memory is warm
_MOST_MAPPED: Final = 64
_IDLE: Final = 30.0  # seconds after which a ring that nobody reads is let go of


def memory_id(directory: Path) -> bytes:
    """Return eight bytes that processes have in common which can read each other's rings there.

    The directory is made if need be.

    :returns: :data:`NO_MEMORY` where there is nothing to have in common.
    """
    boot = boot_id()
    if not SUPPORTED or not boot:
        return NO_MEMORY
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError:
        return NO_MEMORY
    seen = f"{boot} {found.st_dev} {found.st_ino} {os.geteuid()}"
    return blake2b(seen.encode(), digest_size=8).digest()


class _Record(NamedTuple):
    start: int
    needed: Callable[[], bool] | None


class Ring:
    """The writing end.  Used by one thread at a time.

    Positions count on and on; a record's place in the file is its position modulo the
    capacity, and none goes over the end.

    :param path: the file to be made; it is removed by :meth:`close`.
    :raises OSError: it can't be made.
    """

    def __init__(self, path: Path, capacity: int = CAPACITY) -> None:
        self._path = path
        self._capacity = capacity
        self._pid = os.getpid()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        try:
            os.ftruncate(self._fd, capacity)
            self._memory = mmap.mmap(self._fd, capacity)
        except BaseException:
            self.close()
            raise
        self._allocated = 0
        self._position = 0
        self._written = 0.0
        # A random start: what a ring of an earlier life left is never taken for this one's.
        self._base = int.from_bytes(os.urandom(6), "big") << 8
        self._records: deque[_Record] = deque()  # whose heads stand, oldest first

    def write(
        self, parts: Sequence[Frame], needed: Callable[[], bool] | None = None
    ) -> Place | None:
        """Write a record.

        :param parts: its bytes, in order.
        :param needed: whether the record is still needed: it is then not written over.  Without
            it, the record stands until its turn comes.
        :returns: ``None`` where there is no room for it.
        """
        size = sum(len(part) for part in parts)
        length = -(-(_HEAD.size + size) // _ALIGNMENT) * _ALIGNMENT
        if length > self._capacity or self._pid != os.getpid():
            return None
        records = self._records
        while records and (needs := records[0].needed) is not None and not needs():
            self._clear(records.popleft())
        now = monotonic()
        position = self._position
        into = position % self._capacity
        idle = now - self._written > _REWIND_AFTER
        # What may be needed is left alone, however long it stands.
        anew = not records or (idle and records[0].needed is None)
        if (into and anew) or into + length > self._capacity:
            position += self._capacity - into
        offset, oldest = position % self._capacity, position + length - self._capacity
        while records and records[0].start < oldest:
            needs = records[0].needed
            if needs is not None and needs():
                return None
            self._clear(records.popleft())
        if not self._allocate(offset + length):
            return None
        memory, at = self._memory, offset + _HEAD.size
        for part in parts:
            memory[at : at + len(part)] = part
            at += len(part)
        serial = self._base + position
        _HEAD.pack_into(memory, offset, serial, size)
        records.append(_Record(position, needed))
        self._position, self._written = position + length, now
        return Place(self._path.name, offset, serial, size)

    def _clear(self, record: _Record) -> None:
        offset = record.start % self._capacity
        self._memory[offset : offset + _HEAD.size] = _GONE

    def _allocate(self, end: int) -> bool:
        while self._allocated < end:
            step = min(_ALLOCATE, self._capacity - self._allocated)
            try:
                os.posix_fallocate(self._fd, self._allocated, step)
            except OSError:
                return False
            self._allocated += step
        return True

    @property
    def in_use(self) -> bool:
        """Whether a record is still needed."""
        records = tuple(self._records)  # while another thread may be writing
        return any(record.needed is not None and record.needed() for record in records)

    def close(self) -> None:
        """Remove the file, if this process made it.  Readers keep what they have mapped."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._pid == os.getpid():
            self._path.unlink(missing_ok=True)

    def __repr__(self) -> str:
        return (
            f"<Ring {self._path.name} {self._allocated} of {self._capacity} bytes "
            f"records={len(self._records)}>"
        )


@dataclass(slots=True)
class _Mapped:
    memory: mmap.mmap
    used: float  # when it was read last


class RingReader:
    """The reading end of all rings in a directory.  Any thread may use it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mapped: dict[str, _Mapped] = {}
        # Guards _mapped, and keeps what is read from being unmapped meanwhile.
        self._lock = threading.Lock()

    def read(self, place: Place, at: int = 0, size: int | None = None) -> bytes | None:
        """Return a copy of a record, or of a part of it.

        :param at: where in the record the part begins.
        :param size: its bytes.
        :returns: ``None`` where the record is gone, or was never to be seen here.
        """
        with self._lock:
            return self._read(place, at, place.size if size is None else size)

    def _read(self, place: Place, at: int, size: int) -> bytes | None:
        mapped = self._mapped.get(place.name) or self._map(place.name)
        if mapped is None:
            return None
        memory, wanted = mapped.memory, (place.serial, place.size)
        start = place.offset + _HEAD.size
        if start + place.size > len(memory) or _HEAD.unpack_from(memory, place.offset) != wanted:
            return None
        data = memory[start + at : start + min(at + size, place.size)]
        if _HEAD.unpack_from(memory, place.offset) != wanted:
            return None
        mapped.used = monotonic()
        return data

    def _map(self, name: str) -> _Mapped | None:
        self._forget_idle()
        if not is_ring(name):
            return None
        try:
            fd = os.open(self._directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            status = os.fstat(fd)
            # Nobody else may slip theirs in under a name that was free.
            if status.st_uid not in (os.geteuid(), 0) or not stat.S_ISREG(status.st_mode):
                return None
            memory = mmap.mmap(fd, status.st_size, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            return None
        finally:
            os.close(fd)
        mapped = self._mapped[name] = _Mapped(memory, monotonic())
        return mapped

    def forget_idle(self) -> None:
        """Let go of rings that were not read for long."""
        if self._mapped:
            with self._lock:
                self._forget_idle()

    def _forget_idle(self) -> None:
        now = monotonic()
        idle = [name for name, mapped in self._mapped.items() if now - mapped.used > _IDLE]
        left = sorted(self._mapped.keys() - idle, key=lambda name: self._mapped[name].used)
        for name in (*idle, *left[: max(0, len(left) - _MOST_MAPPED + 1)]):
            self._mapped.pop(name).memory.close()

    def __repr__(self) -> str:
        return f"<RingReader {self._directory} mapped={len(self._mapped)}>"

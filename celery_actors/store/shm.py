"""The node's shared-memory store: values too large to travel inside a message.

A stored value is one file in a memory file system (`celery_actors.store.segment` has its format).
Readers map it read-only, so that a numpy array made from a frame *is* the shared memory.

Guarantees, and why they hold
-----------------------------
**A view never changes.** The owner alters a file's bytes only while it holds the exclusive
``flock``. A reader takes the shared ``flock`` first and looks at the header second; if the header
names the write that the reader came for, the owner can no longer get the exclusive lock, so the
bytes stay as they are until the reader's lock goes. Every write has a serial of its own, in the
file's name and in the header, and a recycled file is renamed. So the race "a reader opened the file
by name, then it was recycled and written anew" ends in one of two ways: the file is still
exclusively locked (the reader does not wait: the value is lost), or the header holds another
serial (lost again). The header is wiped before the first byte of a new value is written and set
after the last one, so a writer that dies half way leaves nothing that passes for a value.

**The lock lives as long as the view.** ``mmap`` duplicates the descriptor it is given, a duplicate
shares the open file and so its ``flock``, and a mapping lives while any buffer is exported from it.
No finalizer is involved. Nothing unlocks a reader's file explicitly: a forked child shares the open
file *and* the mapping, and must keep the lock when the parent's views are gone.

**No SIGBUS for want of memory.** Space is allocated before it is written; where there is none, the
value goes to the spill directory on disk. Files are never truncated.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
import weakref
from pathlib import Path
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Final

from celery_actors.store.owned_file import KEEP_OPEN_FROM, OwnedFile
from celery_actors.store.owners import claim, file_prefix, lives
from celery_actors.store.segment import (
    CARRIED_OFFSET,
    OBJECT_ID_BYTES,
    RELEASED_OFFSET,
    Segment,
    SegmentLost,
    StoreFull,
    copy_frames,
    frames_of,
    layout,
    map_segment,
    open_segment,
    place,
)

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Segment", "SegmentLost", "SharedMemoryStore", "StoreFull"]

MIB: Final = 1 << 20
# Descriptors are scarce (1,024 by default).
_MAX_OPEN: Final = 64  # live files that are kept open
_MAX_POOLED: Final = 64  # released ones
_MAX_MAPPED: Final = 256  # in readers' hands
_COLLECT_EVERY: Final = 0.5  # seconds between looks at files that are not kept open
_NO_SPACE: Final = (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT)


class SharedMemoryStore:
    """One process's door to the shared memory of its node: it owns what it wrote, reads anything.

    Safe to use from several threads. In a forked child it still reads, but neither writes, releases
    nor removes: the child makes a store with an owner of its own.

    Args:
        node: id of the node.
        owner: id of this process (letters, digits, ``_ . -``), unique in the cluster.
        directory: a directory in a memory file system.
        spill: a directory on disk for what does not fit, the same for all of a node's processes;
            made (0700) when first needed.
        recycle_bytes: most bytes of released files that are kept to be written again.
        recycle_seconds: `collect` frees kept files that were idle for longer.

    Example:
        >>> store = SharedMemoryStore("5e0f", "c1", spill=Path("/var/tmp/spill"))
        >>> segment = store.write(b"object-1", [b"pickle", bytearray(100_000)])
        >>> stream, buffer = store.read(segment)
    """

    def __init__(
        self,
        node: str,
        owner: str,
        *,
        directory: Path = Path("/dev/shm"),
        spill: Path,
        recycle_bytes: int = 512 * MIB,
        recycle_seconds: float = 30.0,
    ) -> None:
        self.node, self.owner = node, owner
        self.directory, self.spill = Path(directory), Path(spill)
        self.recycle_bytes, self.recycle_seconds = recycle_bytes, recycle_seconds
        self._prefix = file_prefix(node, owner)
        self._pid = os.getpid()
        # A random start: were an owner's id ever used again, its old segments would still be lost
        # rather than taken for new ones.
        self._serials = itertools.count(int.from_bytes(os.urandom(6), "big"))
        # By name: a segment that is mapped already is not mapped twice.
        self._mapped: weakref.WeakValueDictionary[str, mmap.mmap] = weakref.WeakValueDictionary()
        self._begin()
        _stores.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._live: dict[str, OwnedFile] = {}  # by name: written, not yet released
        self._open: dict[str, OwnedFile] = {}  # those of them that are kept open
        self._pool: list[OwnedFile] = []  # released, exclusively locked, oldest first
        self._spilled: set[str] = set()
        self._claims: dict[Path, int] = {}  # directory: descriptor of the locked life marker
        self._closed = False
        self._collected = 0.0

    def __repr__(self) -> str:
        pooled = sum(file.capacity for file in self._pool)
        return (
            f"<SharedMemoryStore {self.owner}{' closed' if self._closed else ''}"
            f" live={len(self._live)} spilled={len(self._spilled)}"
            f" kept={len(self._pool)} ({pooled} bytes) mapped={len(self._mapped)}>"
        )

    def write(
        self, object_id: bytes, frames: Sequence[bytes | bytearray | memoryview | PickleBuffer]
    ) -> Segment:
        """Store a value's frames and say where they are.

        Args:
            object_id: up to 40 bytes, noted in the file's header for whoever inspects it.
            frames: contiguous buffers of any format.

        Raises:
            BufferError: a frame is not contiguous.
            StoreFull: no room in memory nor on disk.
            RuntimeError: the store is closed, or belongs to the parent of this forked process.
        """
        views = [PickleBuffer(frame).raw() for frame in frames]
        lengths = tuple(view.nbytes for view in views)
        return self._store(object_id, lengths, zip(layout(lengths)[0], views, strict=True))

    def adopt(
        self, object_id: bytes, lengths: Sequence[int], chunks: Iterable[bytes | memoryview]
    ) -> Segment:
        """Store a copy of another node's value as it arrives; the counterpart of `chunks`.

        Args:
            object_id: as in `write`.
            lengths: bytes of each frame, from the other node's segment.
            chunks: the frames' bytes one after the other, cut anywhere.

        Raises:
            ValueError: the chunks hold more or fewer bytes than `lengths` says; nothing is kept.
            StoreFull, RuntimeError: as in `write`. Errors of the iterable pass; nothing is kept.
        """
        return self._store(object_id, tuple(lengths), place(lengths, chunks))

    def _store(
        self, object_id: bytes, lengths: tuple[int, ...], pieces: Iterable[tuple[int, memoryview]]
    ) -> Segment:
        if len(object_id) > OBJECT_ID_BYTES:
            raise ValueError(f"object id of {len(object_id)} bytes; at most {OBJECT_ID_BYTES}")
        self._check_usable()
        # What another process released is best written again. The check costs a system call a
        # file, three for one that is not kept open: those have their turn now and then.
        self._take_back(time.monotonic() - self._collected > _COLLECT_EVERY)
        file = self._take(end := layout(lengths)[1])
        try:
            for offset, piece in pieces:
                file.fill(offset, piece)
            file.publish(end, object_id)
            name = file.path.name
            on_disk = file.path.parent != self.directory
            with self._lock:
                self._check_usable()
                if on_disk:
                    self._spilled.add(name)
                else:
                    self._live[name] = file
                if on_disk or file.capacity < KEEP_OPEN_FROM or len(self._open) >= _MAX_OPEN:
                    file.close()
                else:
                    self._open[name] = file
        except BaseException:
            file.discard()
            raise
        return Segment(self.node, name, lengths, on_disk)

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"shared-memory store of {self.owner} belongs to process {self._pid}:"
                " a forked child makes one with an owner of its own"
            )
        if self._closed:
            raise RuntimeError(f"shared-memory store of {self.owner} is closed")

    def _take(self, need: int) -> OwnedFile:
        """An exclusively locked file of at least `need` bytes, header wiped: recycled or new."""
        with self._lock:
            # Best fit, but a small value must not sit on a file many times its size.
            fits = [file for file in self._pool if need <= file.capacity <= 2 * need]
            if fits:
                file = min(reversed(fits), key=lambda file: file.capacity)  # the warmest of these
                self._pool.remove(file)
        if fits:
            return file.map()
        for attempt in range(3):
            try:
                return self._create(self.spill if attempt == 2 else self.directory, need)
            except OSError as error:
                if error.errno not in _NO_SPACE:
                    raise
            self._trim(0)  # what is kept for recycling may be just what is missing
        where = f"in {self.directory} nor in {self.spill}"
        raise StoreFull(errno.ENOSPC, f"no room for {need} bytes {where}")

    def ring_path(self) -> Path:
        """Return a new name in memory for a ring, which someone else writes and removes.

        Raises:
            RuntimeError: as in `write`.
            OSError: the directory can't be written to.
        """
        self._claim(self.directory)
        return self.directory / f"{self._prefix}r{next(self._serials):x}"

    def _claim(self, directory: Path) -> None:
        with self._lock:
            self._check_usable()
            if directory not in self._claims:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._claims[directory] = claim(directory, self._prefix)

    def _create(self, directory: Path, need: int) -> OwnedFile:
        self._claim(directory)
        while True:
            try:
                return OwnedFile.create(directory / self._new_name(), need)
            except FileExistsError:  # left by an earlier life of this owner
                continue

    def _new_name(self) -> str:
        return f"{self._prefix}{next(self._serials):x}"

    def read(self, segment: Segment) -> list[memoryview]:
        """Map a segment: one read-only view a frame, without copying.

        The mapping and its shared lock (one descriptor) live as long as any view does, or any
        array made from one. Past 256 mappings alive in this store the frames are copied instead,
        so that a list of thousands of arrays does not use up the process's descriptors.

        Raises:
            SegmentLost: it was released or swept, or is another machine's.
            PermissionError: another user's file.
        """
        mapping = self._mapped.get(segment.name)
        if mapping is None:
            fd = open_segment(self._path(segment), segment.lengths)
            try:
                if len(self._mapped) >= _MAX_MAPPED:
                    return copy_frames(fd, segment.lengths)
                mapping = self._mapped[segment.name] = map_segment(fd, segment.lengths)
            finally:
                os.close(fd)
        return frames_of(mapping, segment.lengths)

    def chunks(self, segment: Segment, size: int = MIB) -> Iterator[bytes]:
        """The bytes of all frames one after the other, at most `size` at a time, for sending.

        Raises:
            SegmentLost: as `read`; at the first step, never half way.
        """
        for view in self.read(segment):
            for at in range(0, view.nbytes, size):
                yield bytes(view[at : at + size])

    def has(self, segment: Segment) -> bool:
        """Whether `read` would find it now. An answer, not a promise."""
        try:
            os.close(open_segment(self._path(segment), segment.lengths))
        except (SegmentLost, PermissionError):
            return False
        return True

    def mark_carried(self, segment: Segment) -> None:
        """Say in the file that a call carries where this value lies.

        The call may be read after all who know of the value are gone: see `store.sweep`.
        """
        try:
            # The shared lock keeps the owner from writing the file anew under our mark.
            fd = open_segment(self._path(segment), segment.lengths, os.O_RDWR)
        except OSError:
            # The file is on another machine, or no descriptor is free. The call is sent anyway.
            return
        try:
            os.pwrite(fd, b"\1", CARRIED_OFFSET)
        finally:
            os.close(fd)

    def _path(self, segment: Segment) -> Path:
        return (self.spill if segment.on_disk else self.directory) / segment.name

    def release(self, segment: Segment) -> None:
        """Its last reference is gone. Idempotent; existing views stay valid.

        The owner recycles the file where no view exists, else unlinks it. Another process only
        marks it, and the owner's next `write` or `collect` does that; a dead owner's it unlinks.
        """
        with self._lock:
            if os.getpid() != self._pid:
                return  # a fork of the owner: its parent's business
            file = self._live.pop(segment.name, None)
            self._open.pop(segment.name, None)
            self._spilled.discard(segment.name)
        if file is not None:
            self._retire(file)
            return
        path = self._path(segment)
        try:
            # The shared lock keeps the owner from writing the file anew under our mark.
            fd = open_segment(path, segment.lengths, os.O_RDWR)
        except SegmentLost:
            return
        try:
            if segment.on_disk or not lives(self.directory, segment.name):
                path.unlink(missing_ok=True)
            else:
                os.pwrite(fd, b"\1", RELEASED_OFFSET)
        finally:
            os.close(fd)

    def collect(self) -> int:
        """Take back what other processes released, and free kept files that have been idle.

        Call it now and then (every second or so) in a process that may not write for long.

        Returns:
            How many segments were taken back.
        """
        if os.getpid() != self._pid:
            return 0
        return self._take_back(everything=True)

    def _take_back(self, everything: bool) -> int:
        now = time.monotonic()
        with self._lock:
            looked_at = self._live if everything else self._open
            files = [file for file in looked_at.values() if file.is_marked()]
            for file in files:
                del self._live[file.path.name]
                self._open.pop(file.path.name, None)
            if everything:
                self._collected = now
        for file in files:
            self._retire(file)
        self._trim(self.recycle_bytes, now - self.recycle_seconds)
        return len(files)

    def _retire(self, file: OwnedFile) -> None:
        name = self._new_name()
        if file.capacity > self.recycle_bytes or not file.reclaim(name):
            file.discard()
            return
        with self._lock:
            if self._closed:  # meanwhile: nobody would remove it any more
                file.discard()
                return
            self._pool.append(file)
        self._trim(self.recycle_bytes)

    def _trim(self, limit: int, idle_before: float = 0.0) -> None:
        """Discard kept files, oldest first, down to `limit` bytes and those idle for too long."""
        gone: list[OwnedFile] = []
        with self._lock:
            total = sum(file.capacity for file in self._pool)
            while self._pool and (
                total > limit
                or len(self._pool) > _MAX_POOLED
                or self._pool[0].idle_since < idle_before
            ):
                gone.append(self._pool.pop(0))
                total -= gone[-1].capacity
        for file in gone:
            file.discard()

    @property
    def owns_files(self) -> bool:
        """Whether there is something that `collect` may have to take back or free."""
        return bool(self._live or self._pool)

    def leave(self) -> None:
        """The process ends, its values stay: free what is kept for recycling, nothing else.

        Whoever drops the last reference to a value then unlinks it; `sweep` gets the rest.
        """
        self.collect()
        self._trim(0)
        if not self._live and not self._spilled:
            self.close()

    def close(self) -> None:
        """Remove every file that this store still owns; views stay valid. Idempotent."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
            files = [*self._live.values(), *self._pool]
            paths, claims = [self.spill / name for name in self._spilled], dict(self._claims)
            for owned in (self._live, self._open, self._pool, self._spilled, self._claims):
                owned.clear()
        for file in files:
            file.discard()
        for path in paths:
            path.unlink(missing_ok=True)
        for directory, fd in claims.items():  # last: the marker guards the others
            (directory / f"{self._prefix}life").unlink(missing_ok=True)
            os.close(fd)

    def _abandon(self) -> None:
        """In a forked child: let go of the parent's descriptors, which would keep it 'alive'."""
        for file in (*self._live.values(), *self._pool):
            file.close()
        for fd in self._claims.values():
            os.close(fd)
        self._begin()  # with a lock that no thread of the parent holds


_stores: weakref.WeakSet[SharedMemoryStore] = weakref.WeakSet()


def _abandon_all() -> None:
    for store in list(_stores):
        store._abandon()


os.register_at_fork(after_in_child=_abandon_all)

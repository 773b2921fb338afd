"""A file in shared memory as its owner sees it: made, filled, published, taken back.

The exclusive ``flock`` is held from `OwnedFile.create` or `OwnedFile.reclaim` until
`OwnedFile.publish`; only in between do the file's bytes change.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from celery_actors.store.segment import HEADER, RELEASED_OFFSET, header, serial_of

if TYPE_CHECKING:
    from pathlib import Path

KEEP_OPEN_FROM: Final = 1 << 20  # bytes; keeping a file open and mapped pays where pages are many

# Copies and allocations go in steps: other threads (heartbeats) get the interpreter in between, and
# a signal interrupts one step of posix_fallocate, not all of it.
_COPY_STEP: Final = 1 << 20
_ALLOCATE_STEP: Final = 32 << 20
_POPULATE_WRITE: Final = 23  # MADV_POPULATE_WRITE, Linux 5.14; the mmap module does not name it

_allocate_space = os.posix_fallocate  # the seam by which tests run out of memory


@dataclass(slots=True)
class OwnedFile:
    """One file that a store owns.

    Args:
        path: where it is; its name carries the serial of the write.
        fd: its descriptor, -1 while closed.
        capacity: bytes allocated.
        mapping: how it is written, from the first recycling on.
        idle_since: when it was taken back (``time.monotonic()``).
    """

    path: Path
    fd: int
    capacity: int
    mapping: mmap.mmap | None = None
    idle_since: float = 0.0

    @classmethod
    def create(cls, path: Path, need: int) -> OwnedFile:
        """Make a file, exclusively locked, with space for `need` bytes allocated.

        Raises:
            FileExistsError: the name is taken.
            OSError: ``ENOSPC`` and the like; nothing is left behind.
        """
        # Sizes step by 1/16 at most, so that values of nearly the same size share recycled files.
        step = max(mmap.PAGESIZE, 1 << max(0, need.bit_length() - 5))
        capacity = -(-need // step) * step
        space = os.statvfs(path.parent)
        if space.f_blocks and space.f_bavail * space.f_frsize < capacity:
            # Not tried: it would take all that is left away from others before it failed.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path.parent))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = cls(path, os.open(path, flags, 0o600), capacity)
        try:
            fcntl.flock(file.fd, fcntl.LOCK_EX)
            for at in range(0, capacity, _ALLOCATE_STEP):
                _allocate_space(file.fd, at, min(_ALLOCATE_STEP, capacity - at))
        except BaseException:
            file.discard()
            raise
        return file

    def fill(self, offset: int, piece: memoryview) -> None:
        """Copy bytes into the file."""
        if self.mapping is None:  # cheapest into pages that nothing has mapped yet
            while piece:
                written = os.pwrite(self.fd, piece[:_ALLOCATE_STEP], offset)
                piece, offset = piece[written:], offset + written
            return
        with memoryview(self.mapping) as target:
            for at in range(0, piece.nbytes, _COPY_STEP):
                step = piece[at : at + _COPY_STEP]
                target[offset + at : offset + at + step.nbytes] = step

    def map(self) -> OwnedFile:
        """Write through a mapping from now on: a large file that came back once will again."""
        if self.mapping is None and self.capacity >= KEEP_OPEN_FROM:
            # Without address space it is written as before; on older kernels, mapped page by page.
            with contextlib.suppress(OSError, ValueError):
                self.mapping = mmap.mmap(self.fd, self.capacity)
                for at in range(0, self.capacity, _COPY_STEP):
                    self.mapping.madvise(_POPULATE_WRITE, at, min(_COPY_STEP, self.capacity - at))
        return self

    def publish(self, end: int, object_id: bytes) -> None:
        """Set the header, for frames that end at byte `end`, and let readers in."""
        os.pwrite(self.fd, header(serial_of(self.path.name), end, object_id), 0)
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def is_marked(self) -> bool:
        """Whether another process released what is in it (or removed the file)."""
        fd = self.fd
        if fd < 0:
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return True
        try:
            return os.pread(fd, 1, RELEASED_OFFSET) == b"\1"
        finally:
            if fd != self.fd:
                os.close(fd)

    def reclaim(self, name: str) -> bool:
        """Lock it exclusively, wipe the header and rename it, so that it can be written anew.

        Returns:
            False if views of it exist or it was removed: then it is only fit to be discarded.
        """
        try:
            if self.fd < 0:
                self.fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(self.fd, bytes(HEADER.size), 0)
            renamed = self.path.rename(self.path.with_name(name))
        except (BlockingIOError, FileNotFoundError):
            return False
        self.path, self.idle_since = renamed, time.monotonic()
        return True

    def close(self) -> None:
        """Let go of descriptor and mapping; the file stays."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd, self.mapping = -1, None

    def discard(self) -> None:
        """Remove the name and let go; views that exist keep the memory until they go."""
        self.path.unlink(missing_ok=True)
        self.close()

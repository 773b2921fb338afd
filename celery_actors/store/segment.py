"""A segment: the file in shared memory that holds one large value, as its readers see it.

The file is a 64-byte header and the value's frames behind it, each aligned to 64 bytes. Frame 0 is
the pickle stream, the others are its out-of-band buffers. Why a view can never change under its
reader is argued at the top of `celery_actors.store.shm`.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

ALIGNMENT: Final = 64
OBJECT_ID_BYTES: Final = 40
RELEASED_OFFSET: Final = 5  # where the header's 'released' byte is
CARRIED_OFFSET: Final = 7  # where its 'carried' byte is
# magic, version, released, length of the object id, carried, serial of the write, end of the
# frames, id
HEADER: Final = struct.Struct(f"<4sBBBBQQ{OBJECT_ID_BYTES}s")
# boot, node, owner, serial of the write; a name without serial is the owner's life marker, one with
# an `r` before it a ring's, one with a `w` before an incarnation the last words of a process
NAME: Final = re.compile(
    r"ca-([0-9a-f]{8})-([0-9a-f]{8})-([A-Za-z0-9_.-]{1,80})-([rw]?[0-9a-f]{1,16}|life)"
)

_MAGIC: Final = b"CASM"
_VERSION: Final = 1
_SEGMENT: Final = struct.Struct("<BBHHI")


class SegmentLost(FileNotFoundError):
    """The segment is not on this machine (any more): released, swept, or never here."""


class StoreFull(OSError):
    """Neither shared memory nor the spill directory has room for the value (``ENOSPC``)."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Where a stored value lies: travels, signed, in place of the value.

    Args:
        node: id of the node whose store wrote it.
        name: file name, without directory.
        lengths: bytes of each frame, in order.
        on_disk: shared memory was full; the file is in the spill directory.
    """

    node: str
    name: str
    lengths: tuple[int, ...]
    on_disk: bool = False

    @property
    def size(self) -> int:
        """Bytes of all frames together, without padding."""
        return sum(self.lengths)

    def to_bytes(self) -> bytes:
        """Encode compactly, without pickle: equal segments give equal bytes, fit for signing."""
        node, name = self.node.encode(), self.name.encode()
        head = _SEGMENT.pack(_VERSION, self.on_disk, len(node), len(name), len(self.lengths))
        return head + node + name + struct.pack(f"<{len(self.lengths)}Q", *self.lengths)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Segment:
        """Decode what `to_bytes` made.

        Raises:
            ValueError: another version, a wrong length, or a name that no store gives.
        """
        data = bytes(data)
        if len(data) < _SEGMENT.size:
            raise ValueError("truncated segment")
        version, flags, node_bytes, name_bytes, count = _SEGMENT.unpack_from(data)
        if version != _VERSION or flags > 1:
            raise ValueError(f"segment of unknown version {version} or flags {flags}")
        name_at = _SEGMENT.size + node_bytes
        lengths_at = name_at + name_bytes
        if len(data) != lengths_at + 8 * count:
            raise ValueError("segment of wrong length")
        name = data[name_at:lengths_at].decode()
        serial_of(name)
        lengths = struct.unpack_from(f"<{count}Q", data, lengths_at)
        return cls(data[_SEGMENT.size : name_at].decode(), name, lengths, bool(flags))


def serial_of(name: str) -> int:
    """The serial of the write that a file name carries.

    Raises:
        ValueError: not the name of a segment; in particular none that leads to another directory.
    """
    match = NAME.fullmatch(name)
    if match is None or match[4] == "life" or match[4][0] in "rw":
        raise ValueError(f"not the name of a segment: {name!r}")
    return int(match[4], 16)


def is_ring(name: str) -> bool:
    """Whether a file of that name is a ring (celery_actors.store.ring)."""
    match = NAME.fullmatch(name)
    return match is not None and match[4][0] == "r"


def layout(lengths: Iterable[int]) -> tuple[list[int], int]:
    """Offset of each frame in the file, and the end of the last one, in bytes."""
    offsets, end = [], HEADER.size
    for length in lengths:
        at = -(-end // ALIGNMENT) * ALIGNMENT
        offsets.append(at)
        end = at + length
    return offsets, end


def header(serial: int, end: int, object_id: bytes) -> bytes:
    """The header that makes a file readable as the write `serial` of `object_id`."""
    return HEADER.pack(_MAGIC, _VERSION, 0, len(object_id), 0, serial, end, object_id)


class HeldValue(NamedTuple):
    """What a file's header says of the value in it.

    Attributes:
        object_id: as it was given to the write.
        carried: a call carries where the value lies.
    """

    object_id: bytes
    carried: bool


def held_value(path: Path) -> HeldValue | None:
    """Return what a file holds; ``None``: no value, or one that was released.

    Asked of files that nobody writes to any more.
    """
    try:
        with path.open("rb") as file:
            found = file.read(HEADER.size)
    except FileNotFoundError:
        return None
    if len(found) < HEADER.size:
        return None
    magic, _, released, length, carried, _, _, object_id = HEADER.unpack(found)
    if magic != _MAGIC or released:
        return None
    return HeldValue(object_id[:length], bool(carried))


def open_segment(path: Path, lengths: Sequence[int], flags: int = os.O_RDONLY) -> int:
    """Open a segment's file, lock it shared, then verify that it holds the write in its name.

    The order is what the safety argument rests on. The lock goes with the last duplicate of the
    descriptor that is returned.

    Raises:
        SegmentLost: no such file, or it holds something else by now.
        PermissionError: another user's file.
        ValueError: not the name of a segment.
    """
    serial = serial_of(path.name)
    lost = SegmentLost(errno.ENOENT, "shared-memory segment is gone", path.name)
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise lost from None
    try:
        status = os.fstat(fd)
        if status.st_uid not in (os.geteuid(), 0):
            # Buffers are not signed: nobody else may slip theirs in under a name that was free.
            raise PermissionError(errno.EPERM, "segment belongs to another user", path.name)
        # Only an owner who recycles the file locks exclusively: no reason to wait for it.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        found = os.pread(fd, HEADER.size, 0)
        end = layout(lengths)[1]
        if len(found) < HEADER.size or status.st_size < end:
            raise lost
        magic, version, released, _, _, written, written_end, _ = HEADER.unpack(found)
        wanted = (_MAGIC, _VERSION, 0, serial, end)
        if (magic, version, released, written, written_end) != wanted:
            raise lost
    except BaseException as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise lost from None
        raise
    return fd


def map_segment(fd: int, lengths: Sequence[int]) -> mmap.mmap:
    """Map an opened segment read-only.

    The mapping holds a duplicate of `fd`, and so its lock, until the last view is gone.
    """
    return mmap.mmap(fd, layout(lengths)[1], access=mmap.ACCESS_READ)


def frames_of(mapping: mmap.mmap, lengths: Sequence[int]) -> list[memoryview]:
    """Return one view a frame of a mapped segment."""
    whole = memoryview(mapping)
    return [whole[at : at + n] for at, n in zip(layout(lengths)[0], lengths, strict=True)]


def copy_frames(fd: int, lengths: Sequence[int]) -> list[memoryview]:
    """Read an opened segment into private memory: one read-only view a frame."""
    frames = []
    for at, length in zip(layout(lengths)[0], lengths, strict=True):
        buffer = bytearray(length)
        filled = 0
        while filled < length:
            got = os.preadv(fd, [memoryview(buffer)[filled:]], at + filled)
            if not got:
                raise SegmentLost(errno.EIO, "shared-memory segment is shorter than it says")
            filled += got
        frames.append(memoryview(buffer).toreadonly())
    return frames


def place(
    lengths: Sequence[int], chunks: Iterable[bytes | memoryview]
) -> Iterator[tuple[int, memoryview]]:
    """Cut a stream of frame bytes into (offset in the file, bytes) pieces.

    Raises:
        ValueError: the stream holds more or fewer bytes than `lengths` says.
    """
    frames = iter(zip(layout(lengths)[0], lengths, strict=True))
    at, left = 0, 0
    for chunk in chunks:
        rest = memoryview(chunk).cast("B")
        while rest:
            while not left:
                try:
                    at, left = next(frames)
                except StopIteration:
                    raise ValueError(f"more than {sum(lengths)} bytes came") from None
            piece, rest = rest[:left], rest[left:]
            yield at, piece
            at, left = at + piece.nbytes, left - piece.nbytes
    missing = left + sum(length for _, length in frames)
    if missing:
        raise ValueError(f"{missing} of {sum(lengths)} bytes did not come")

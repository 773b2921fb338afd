"""Stored values and pushes: what comes back from a call.  Version 2.

A *value* (result of a call, object that was put) is stored and pushed in this form,
integers big-endian::

    0   16  signature    over b"value", the object id, the flags and what is signed of
                         the payload (all of it; of a value in shared memory the segment's
                         layout and the pickle stream)
    16  1   flags        ValueFlag
    17  …   when CONTAINS: 2 count of actors, 16 each; 2 count of objects, 18 each
        …   payload      the pickle stream; when FRAMES: packed frames; when SHARED:
                         the segment (celery_actors.store.shm) and the stream's digest

Packed frames: 2 count, 8 each the length, then the frames; frame 0 is the pickle
stream, the others are its out-of-band buffers (pickle protocol 5).

A *push* tells a caller what a commit finished::

    0   4   b"CAR4"
    4   16  signature    over b"push", the caller id and everything after it
    20  16  actor id
    36  8   memory       what those have in common who share memory (celery_actors.store.ring)
    44  8   incarnation  of the actor, if calls may go to it by express, else zeros
    52  8   cursor       the caller's highest finished sequence at this actor
    60  2   count        of results
    62  1   places       how many, and each of them (see protocol.places): records in the
                         actor's ring with copies of some of the results
        …   count times: 8 task sequence, 2 index, 4 length, value
                         (length 0xffffffff: announced, read it from the store; 0xfffffffe: the
                         same, and there may be a copy in the ring: what follows is 1 at which of
                         the places, 4 where in the record it begins, 4 its length, 4 how much of
                         it, from its beginning, is not buffers; 16 BLAKE2b digest of that)
        …   8 each       sequences below the cursor that still run (see protocol.cursors)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from struct import Struct, unpack_from
from typing import Final, NamedTuple

from typing_extensions import Buffer

from celery_actors.exceptions import TamperedError
from celery_actors.flat import Frame
from celery_actors.ids import NO_INCARNATION, OBJECT_BYTES
from celery_actors.protocol.cursors import Cursor
from celery_actors.protocol.places import Place, decode_place, encode_place
from celery_actors.protocol.signing import SIGNATURE_BYTES, Signer

__all__ = [
    "Copy",
    "Push",
    "Pushed",
    "Value",
    "ValueFlag",
    "buffers_at",
    "decode_push",
    "decode_value",
    "encode_plain_value",
    "encode_push",
    "encode_value",
    "frame_lengths",
    "is_push",
    "pack_frames",
    "packed_frames",
    "read_value",
    "unpack_frames",
]

_VALUE_KIND = b"value"
_PUSH_KIND = b"push"
_PUSH_MAGIC = b"CAR4"
_PUSH_HEAD = Struct(">16s8s8sQH")
_PUSH_ITEM = Struct(">QHI")
_PUSH_AT = len(_PUSH_MAGIC) + SIGNATURE_BYTES
_ANNOUNCED = 0xFFFFFFFF
_COPIED = 0xFFFFFFFE
_COPY = Struct(">BIII16s")
_PAYLOAD_AT = SIGNATURE_BYTES + 1  # where nothing is inside
_COUNT = Struct(">H")
_NO_FLAGS = b"\0"


class ValueFlag:
    """How a stored value is to be read: bits of an int."""

    NONE: Final = 0
    ERROR: Final = 1  # getting it raises
    FRAMES: Final = 2  # out-of-band buffers follow the pickle stream
    SHARED: Final = 4  # the frames lie in a node's shared memory
    CONTAINS: Final = 8  # handles or refs are inside


class Value(NamedTuple):
    """A verified stored value."""

    flags: int
    payload: memoryview
    actors: tuple[bytes, ...]
    objects: tuple[bytes, ...]


class Copy(NamedTuple):
    """A copy of a value in its maker's ring.

    As of other values in shared memory, buffers in it are taken as they are found: who can
    write there is this user.

    :ivar place: of the record in which it lies, among others of the same commit.
    :ivar at: where in the record it begins.
    :ivar size: bytes of it.
    :ivar certain: so many bytes at its beginning are not buffers.
    :ivar digest: of these.
    """

    place: Place
    at: int
    size: int
    certain: int
    digest: bytes

    @classmethod
    def of(cls, value: bytes, place: Place, at: int) -> Copy:
        """Describe the copy of a stored value that lies in a record."""
        size = certain = len(value)
        if value[SIGNATURE_BYTES] == ValueFlag.FRAMES:
            certain = buffers_at(value, _PAYLOAD_AT)
        return cls(place, at, size, certain, _digest(value, certain))

    def fits(self, found: bytes) -> bool:
        """Whether that is what lay there when this was written, as far as it matters."""
        return len(found) == self.size and _digest(found, self.certain) == self.digest


def _digest(value: bytes, size: int) -> bytes:
    return hashlib.blake2b(memoryview(value)[:size], digest_size=SIGNATURE_BYTES).digest()


class Pushed(NamedTuple):
    """One result in a push, by task sequence and place among the return values.

    ``value`` is ``None`` where it was only announced.
    """

    task: int
    part: int
    value: bytes | Copy | None


class Push(NamedTuple):
    """What one commit finished for one caller."""

    actor: bytes
    memory: bytes
    express: bytes
    cursor: Cursor
    results: Sequence[tuple[int, int, bytes | Copy | None]]
    """As :class:`Pushed`, unnamed: there are many."""


@lru_cache(maxsize=64)
def _lengths(count: int) -> Struct:
    return Struct(f">H{count}Q")


def pack_frames(frames: Sequence[Frame]) -> bytes:
    """Join the frames of one value."""
    return b"".join(packed_frames(frames))


def packed_frames(frames: Sequence[Frame]) -> list[Frame]:
    """Return the parts that :func:`pack_frames` joins."""
    count = len(frames)
    return [_lengths(count).pack(count, *map(len, frames)), *frames]


def frame_lengths(data: Buffer, at: int = 0) -> tuple[Sequence[int], int]:
    """Return the lengths of packed frames that begin at ``at``, and where the first begins.

    :raises struct.error: they are cut short.
    """
    (count,) = _COUNT.unpack_from(data, at)
    form = _lengths(count)
    return form.unpack_from(data, at)[1:], at + form.size


def buffers_at(data: Buffer, at: int) -> int:
    """Return where the buffers begin of packed frames that begin at ``at``."""
    lengths, first = frame_lengths(data, at)
    return first + lengths[0]


def unpack_frames(data: Buffer) -> list[memoryview]:
    """Split what :func:`pack_frames` joined, without a copy."""
    view = memoryview(data)
    lengths, at = frame_lengths(view)
    frames = []
    for length in lengths:
        frames.append(view[at : at + length])
        at += length
    return frames


def encode_value(
    signer: Signer,
    oid: bytes,
    flags: int,
    payload: Sequence[Frame],
    actors: Sequence[bytes] = (),
    objects: Sequence[bytes] = (),
) -> bytes:
    """Sign and encode a value.

    :param payload: its parts.
    :param actors, objects: those inside it.
    """
    contains = b""
    if actors or objects:
        flags |= ValueFlag.CONTAINS
        contains = b"".join(
            (_COUNT.pack(len(actors)), *actors, _COUNT.pack(len(objects)), *objects)
        )
    head = bytes((flags,)) + contains
    return b"".join((signer.sign(_VALUE_KIND, oid, head, *payload), head, *payload))


def encode_plain_value(signer: Signer, oid: bytes, stream: Frame) -> bytes:
    """As :func:`encode_value`, of a short pickle stream with no handle or ref in it."""
    return b"".join(
        (signer.sign(_VALUE_KIND, b"".join((oid, _NO_FLAGS, stream))), _NO_FLAGS, stream)
    )


def decode_value(signer: Signer, oid: bytes, data: bytes) -> Value:
    """Verify a value that was stored under ``oid``.

    :raises TamperedError: altered, or stored under another id.
    """
    view = memoryview(data)
    signer.check(
        view[:SIGNATURE_BYTES], _VALUE_KIND, oid, view[SIGNATURE_BYTES:], what=f"object {oid.hex()}"
    )
    return read_value(data)


def read_value(data: bytes) -> Value:
    """Take a value apart whose signature, or that of a push around it, was checked."""
    view = memoryview(data)
    flags = data[SIGNATURE_BYTES]
    offset = SIGNATURE_BYTES + 1
    if not flags & ValueFlag.CONTAINS:
        return Value(flags, view[offset:], (), ())
    actors, offset = _ids(data, offset, 16)
    objects, offset = _ids(data, offset, OBJECT_BYTES)
    return Value(flags, view[offset:], actors, objects)


def _ids(data: bytes, offset: int, size: int) -> tuple[tuple[bytes, ...], int]:
    (count,) = _COUNT.unpack_from(data, offset)
    offset += 2
    end = offset + count * size
    return tuple(data[at : at + size] for at in range(offset, end, size)), end


def encode_push(
    signer: Signer,
    caller: bytes,
    actor: bytes,
    cursor: Cursor,
    results: Iterable[tuple[int, int, bytes | Copy | None]],
    memory: bytes = bytes(8),
    express: bytes = NO_INCARNATION,
) -> bytes:
    """Encode what a commit finished for one caller.

    :param results: the fields of a :class:`Pushed` each; copies at one place follow each other.
    """
    parts: list[bytes] = []
    pack = _PUSH_ITEM.pack
    count = 0
    places: list[Place] = []
    for task, index, value in results:
        count += 1
        if isinstance(value, bytes):
            parts += (pack(task, index, len(value)), value)
        elif value is None:
            parts.append(pack(task, index, _ANNOUNCED))
        else:
            if not places or value.place is not places[-1]:
                places.append(value.place)
            parts += (pack(task, index, _COPIED), _COPY.pack(len(places) - 1, *value[1:]))
    head = _PUSH_HEAD.pack(actor, memory, express, cursor.high, count)
    if cursor.unfinished:
        parts.append(Struct(f">{len(cursor.unfinished)}Q").pack(*cursor.unfinished))
    body = b"".join((head, bytes((len(places),)), *map(encode_place, places), *parts))
    return b"".join((_PUSH_MAGIC, signer.sign(_PUSH_KIND, caller, body), body))


def is_push(data: bytes) -> bool:
    """Whether a message on a caller's channel says that it is a push."""
    return data[: len(_PUSH_MAGIC)] == _PUSH_MAGIC


def decode_push(signer: Signer, caller: bytes, data: bytes) -> Push:
    """Verify and decode a push to ``caller``.

    :raises TamperedError: altered, or meant for another caller.
    """
    view = memoryview(data)
    if not is_push(data) or len(data) < _PUSH_AT + _PUSH_HEAD.size:
        raise TamperedError("a reply is not of this protocol")
    signer.check(view[4:_PUSH_AT], _PUSH_KIND, caller, view[_PUSH_AT:], what="a reply")
    actor, memory, express, high, count = _PUSH_HEAD.unpack_from(data, _PUSH_AT)
    offset = _PUSH_AT + _PUSH_HEAD.size
    places: list[Place] = []
    count_of_places, offset = data[offset], offset + 1
    for _ in range(count_of_places):
        place, offset = decode_place(data, offset)
        places.append(place)
    results: list[tuple[int, int, bytes | Copy | None]] = []
    unpack, size = _PUSH_ITEM.unpack_from, _PUSH_ITEM.size
    for _ in range(count):
        task, index, length = unpack(data, offset)
        offset += size
        if length < _COPIED:
            results.append((task, index, data[offset : offset + length]))
            offset += length
        elif length == _ANNOUNCED:
            results.append((task, index, None))
        else:
            number, *copy = _COPY.unpack_from(data, offset)
            results.append((task, index, Copy(places[number], *copy)))
            offset += _COPY.size
    unfinished: tuple[int, ...] = ()
    if offset < len(data):
        unfinished = unpack_from(f">{(len(data) - offset) // 8}Q", data, offset)
    return Push(actor, memory, express, Cursor(high, unfinished), results)

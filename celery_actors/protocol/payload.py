"""The payload of a call: its arguments.  Version 2, integers big-endian.  ::

    when OPTIONS:    2 length, then celery_actors.protocol.call_options
    when ARGUMENTS:  2 count, then for each ref argument at top level:
                     18 object id, 4 length, value (length 0xffffffff: the actor reads
                     it from the store; the caller has seen that it is there, or an
                     earlier call of the same caller to the same actor makes it)
    when HANDLES:    2 count, then 16 each: actors whose handles are inside
    1 form           PLAIN: the pickle stream of (args, kwargs)
                     FRAMES: packed frames (celery_actors.protocol.values)
                     STORED: 18 object id, then a stored value (large arguments)
                     APART: as FRAMES, but the buffers lie behind the message
                     (protocol.places); only between a caller's ring and an actor's intake

Ref arguments stand in args and kwargs as :class:`RefArgument`, by their place in the
table.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from celery_actors.flat import Frame
from celery_actors.ids import OBJECT_BYTES
from celery_actors.protocol.calls import CallFlag
from celery_actors.protocol.values import buffers_at, frame_lengths, packed_frames

__all__ = [
    "Form",
    "Payload",
    "RefArgument",
    "decode_payload",
    "encode_arguments",
    "encode_body",
    "encode_stored",
    "is_apart",
    "put_together",
    "set_apart",
    "split_stored",
]

_COUNT = Struct(">H")
_ARGUMENT = Struct(">18sI")
_TABLES = CallFlag.OPTIONS | CallFlag.ARGUMENTS | CallFlag.HANDLES
_IN_STORE = 0xFFFFFFFF


class Form:
    """How the arguments lie in the payload."""

    PLAIN = 0
    FRAMES = 1
    STORED = 2
    APART = 3


@dataclass(frozen=True, slots=True)
class RefArgument:
    """Stands for a ref at top level of the arguments: the ``index``-th in the table."""

    index: int


class Payload(NamedTuple):
    """A decoded payload; ``data`` is still pickled."""

    arguments: Sequence[tuple[bytes, bytes | None]]
    actors: Sequence[bytes]
    form: int
    data: memoryview


def encode_body(frames: Sequence[Frame], actors: Sequence[bytes]) -> bytes:
    """Encode pickled arguments (small ones) with the handles inside them."""
    head = _handles(actors)
    if len(frames) == 1:
        return b"".join((head, b"\0", frames[0]))
    return b"".join((head, b"\1", *packed_frames(frames)))


def encode_stored(oid: bytes, value: bytes, actors: Sequence[bytes]) -> bytes:
    """Encode large arguments that lie in shared memory."""
    return b"".join((_handles(actors), b"\2", oid, value))


def set_apart(payload: bytes, flags: int) -> tuple[bytes, memoryview] | None:
    """Split a payload into one of form APART and the buffers.

    :returns: ``None`` where it has none, or more in it than the frames.
    """
    if flags & _TABLES or payload[:1] != b"\1":  # empty: a call that was cancelled
        return None
    end = buffers_at(payload, 1)
    return b"\3" + payload[1:end], memoryview(payload)[end:]


def is_apart(payload: bytes, flags: int) -> bool:
    """Whether a call's buffers lie behind the message."""
    return payload[:1] == b"\3" and not flags & _TABLES


def put_together(payload: bytes, buffers: memoryview, at: int) -> tuple[bytes, int]:
    """Return a payload as it was before :func:`set_apart`, and where the next one's buffers begin.

    :param at: where its own begin.
    :raises ValueError: they aren't all there.
    """
    try:
        (_, *lengths), _ = frame_lengths(payload, 1)
    except struct.error as error:
        raise ValueError("the frames of a call's arguments are cut short") from error
    end = at + sum(lengths)
    if end > len(buffers):
        raise ValueError("the buffers of a call's arguments are cut short")
    return b"".join((b"\1", memoryview(payload)[1:], buffers[at:end])), end


def _handles(actors: Sequence[bytes]) -> bytes:
    return b"".join((_COUNT.pack(len(actors)), *actors)) if actors else b""


def encode_arguments(arguments: Sequence[tuple[bytes, bytes | None]]) -> bytes:
    """Encode the values of ref arguments, to stand before the body."""
    parts = [_COUNT.pack(len(arguments))]
    for oid, value in arguments:
        if value is None:
            parts.append(_ARGUMENT.pack(oid, _IN_STORE))
        else:
            parts += (_ARGUMENT.pack(oid, len(value)), value)
    return b"".join(parts)


def decode_payload(data: bytes, flags: int) -> Payload:
    """Split the payload of a verified call."""
    arguments: list[tuple[bytes, bytes | None]] = []
    actors: list[bytes] = []
    at = 0
    if flags & CallFlag.ARGUMENTS:
        (count,) = _COUNT.unpack_from(data)
        at = 2
        for _ in range(count):
            oid, length = _ARGUMENT.unpack_from(data, at)
            at += _ARGUMENT.size
            if length == _IN_STORE:
                arguments.append((oid, None))
            else:
                arguments.append((oid, data[at : at + length]))
                at += length
    if flags & CallFlag.HANDLES:
        (count,) = _COUNT.unpack_from(data, at)
        at += 2
        for _ in range(count):
            actors.append(data[at : at + 16])
            at += 16
    return Payload(arguments, actors, data[at], memoryview(data)[at + 1 :])


def split_stored(data: memoryview) -> tuple[bytes, bytes]:
    """Split the data of form STORED into object id and value."""
    return bytes(data[:OBJECT_BYTES]), bytes(data[OBJECT_BYTES:])

"""Where bytes lie in another process's ring (celery_actors.store.ring), and the notice of calls
that lie there.  Integers big-endian.

A *place*::

    1  length of the name   8 offset   8 serial   4 size   …  name (ASCII)

A *notice* stands in a mailbox for a message with calls (celery_actors.protocol.calls), which lies,
signed as always, at a place that the actor may read::

    0   4   b"CAN2"
    4   16  signature    over b"notice", the actor id and everything after it
    20  8   caller id
    28  8   sequence of its last call
    36  4   size of the message; behind it lie buffers of its calls, one after the other, which
            it says the lengths of (see protocol.payload, APART).  They are not signed: who can
            write to this memory is this user.
    40  …   place
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import NamedTuple

from celery_actors.exceptions import TamperedError
from celery_actors.ids import CALLER_BYTES
from celery_actors.protocol.signing import SIGNATURE_BYTES, Signer

__all__ = [
    "Notice",
    "Place",
    "decode_notice",
    "decode_place",
    "encode_notice",
    "encode_place",
    "is_notice",
]

_MAGIC = b"CAN2"
_KIND = b"notice"
_PLACE = Struct(">BQQI")
_BODY_AT = len(_MAGIC) + SIGNATURE_BYTES
_NOTICE = Struct(f">{CALLER_BYTES}sQI")
_PLACE_AT = _BODY_AT + _NOTICE.size


class Place(NamedTuple):
    """Where bytes lie.

    :ivar name: file name of the ring.
    :ivar offset: of the record, in bytes.
    :ivar serial: of the write; whatever else is there by now has another.
    :ivar size: bytes, without the record's head.
    """

    name: str
    offset: int
    serial: int
    size: int


class Notice(NamedTuple):
    """A message with calls lies in its caller's ring.

    :ivar last: sequence of its last call.
    :ivar size: bytes of the message; the buffers of its calls are behind it.
    """

    caller: bytes
    last: int
    size: int
    place: Place


def encode_place(place: Place) -> bytes:
    """Encode a place."""
    name = place.name.encode()
    return _PLACE.pack(len(name), place.offset, place.serial, place.size) + name


def decode_place(data: bytes, at: int) -> tuple[Place, int]:
    """Decode a place that begins at ``at``; returns it and where it ends.

    :raises struct.error, UnicodeDecodeError: it isn't one.
    """
    length, offset, serial, size = _PLACE.unpack_from(data, at)
    start = at + _PLACE.size
    name = data[start : start + length].decode("ascii")
    return Place(name, offset, serial, size), start + length


def encode_notice(signer: Signer, actor: bytes, notice: Notice) -> bytes:
    """Encode a notice to an actor."""
    body = _NOTICE.pack(*notice[:3]) + encode_place(notice.place)
    return b"".join((_MAGIC, signer.sign(_KIND, actor, body), body))


def is_notice(data: bytes) -> bool:
    """Whether a message says that it is a notice."""
    return data[: len(_MAGIC)] == _MAGIC


def decode_notice(signer: Signer, actor: bytes, data: bytes) -> Notice:
    """Verify and decode a notice.

    :raises TamperedError: altered, or meant for another actor.
    """
    what = f"a notice in the mailbox of actor {actor.hex()}"
    if not is_notice(data):
        raise TamperedError(f"{what} is not of this protocol (expected {_MAGIC!r})")
    signer.check(data[len(_MAGIC) : _BODY_AT], _KIND, actor, memoryview(data)[_BODY_AT:], what=what)
    try:
        caller, last, size = _NOTICE.unpack_from(data, _BODY_AT)
        place, _ = decode_place(data, _PLACE_AT)
    except (struct.error, UnicodeDecodeError) as error:
        raise TamperedError(f"{what} is cut short") from error
    return Notice(caller, last, size, place)

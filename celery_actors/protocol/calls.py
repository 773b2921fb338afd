"""The message with calls, as it lies in an actor's mailbox.  Version 3.

One AMQP message carries one or many calls of one caller to one actor, in order.
All integers are big-endian.  ::

    0   4   b"CAM4"                       magic and version
    4   16  signature                     over b"calls" and everything after it
    20  16  actor id
    36  8   caller id
    44  8   floor                         caller's lowest unresolved sequence here
    52  8   incarnation                   of the actor, to which the message went also by
                                          express (celery_actors.store.express), or zeros
    60  2   count
    62  …   count times a call:
            8  sequence   rises with each call of this caller to this actor
            8  previous   sequence of the caller's previous call to this actor, 0: none
            8  task       sequence in the task id (differs from ``sequence`` where a
                          task is tried again on another executor)
            1  flags      CallFlag
            2  returns    number of return values
            1  length of the method's name, 4 length of the payload
            …  method (UTF-8), payload (see celery_actors.protocol.values)

The AMQP header ``task`` is :data:`CALLS_TASK`, the content type :data:`CONTENT_TYPE`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

from celery_actors.exceptions import TamperedError
from celery_actors.ids import NO_INCARNATION
from celery_actors.protocol.signing import SIGNATURE_BYTES, Signer

__all__ = [
    "CALLS_TASK",
    "CONTENT_TYPE",
    "Call",
    "CallBatch",
    "CallFlag",
    "decode_calls",
    "decode_method",
    "encode_call",
    "encode_calls",
    "encode_method",
]

CALLS_TASK = "celery_actors.calls"
CONTENT_TYPE = "application/x-celery-actors"

_MAGIC = b"CAM4"
_KIND = b"calls"
_HEAD = Struct(">16s8sQ8sH")
_CALL = Struct(">QQQBHHI")
_MOST_NAME = 0xFFFF  # bytes
_BODY_AT = len(_MAGIC) + SIGNATURE_BYTES


class CallFlag:
    """What a call asks for beyond being run: bits of an int.

    Plain ints: :mod:`enum`'s operators cost a microsecond each, on every call.
    """

    NONE: Final = 0
    STORE_NOTHING: Final = 1  # the ref was dropped before the call was sent
    RELEASE: Final = 2  # not a call: the caller's hold goes, behind its last call
    ARGUMENTS: Final = 4  # the payload starts with values of ref arguments
    HANDLES: Final = 8  # the payload carries handles, whose holds move to the receiver
    OPTIONS: Final = 16  # the payload starts with options (protocol.call_options)
    CANCELLED: Final = 32  # it was cancelled before it was sent: only its place is taken
    RESENT: Final = 64  # it was sent before: an earlier incarnation may have begun it


class Call(NamedTuple):
    """One call as the actor sees it."""

    caller: bytes
    sequence: int
    previous: int
    task: int
    flags: int
    returns: int
    method: str
    payload: bytes


class CallBatch(NamedTuple):
    """The calls of one message.

    :ivar express: the incarnation to which it went by express, too.
    """

    actor: bytes
    caller: bytes
    floor: int
    express: bytes
    calls: Sequence[Call]


def encode_method(name: str) -> bytes:
    """Return a method's name as a call has it.

    :raises ValueError: it is too long.
    """
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) > _MOST_NAME:
        raise ValueError(
            f"the method's name has {len(encoded)} bytes and may have {_MOST_NAME}: {name[:50]}…"
        )
    return encoded


def decode_method(name: bytes) -> str:
    """Return the name that :func:`encode_method` encoded."""
    return name.decode("utf-8", "surrogatepass")


def encode_call(
    sequence: int,
    previous: int,
    task: int,
    flags: int,
    returns: int,
    method: bytes,
    payload: bytes,
) -> bytes:
    """Encode one call, ready to be joined with others by :func:`encode_calls`."""
    head = _CALL.pack(sequence, previous, task, flags, returns, len(method), len(payload))
    return b"".join((head, method, payload))


def encode_calls(
    signer: Signer,
    actor: bytes,
    caller: bytes,
    floor: int,
    calls: Sequence[bytes],
    express: bytes = NO_INCARNATION,
) -> bytes:
    """Return the message body with ``calls``, each encoded by :func:`encode_call`.

    :param express: the incarnation to which it goes by express, too.
    """
    body = b"".join((_HEAD.pack(actor, caller, floor, express, len(calls)), *calls))
    return b"".join((_MAGIC, signer.sign(_KIND, body), body))


def decode_calls(signer: Signer, actor: bytes, data: bytes) -> CallBatch:
    """Verify and decode a message body.

    :raises TamperedError: not such a message, altered, or meant for another actor.
        Nothing was unpickled.
    """
    what = f"a message in the mailbox of actor {actor.hex()}"
    if len(data) < _BODY_AT + _HEAD.size or data[:4] != _MAGIC:
        raise TamperedError(f"{what} is not of this protocol (expected {_MAGIC!r})")
    signer.check(data[4:_BODY_AT], _KIND, memoryview(data)[_BODY_AT:], what=what)
    meant_for, caller, floor, express, count = _HEAD.unpack_from(data, _BODY_AT)
    if meant_for != actor:
        raise TamperedError(f"{what} was signed for actor {meant_for.hex()}")
    try:
        return CallBatch(actor, caller, floor, express, _calls(data, caller, count))
    except struct.error as error:
        raise TamperedError(f"{what} is cut short") from error


def _calls(data: bytes, caller: bytes, count: int) -> list[Call]:
    offset = _BODY_AT + _HEAD.size
    unpack, size, make = _CALL.unpack_from, _CALL.size, tuple.__new__
    calls: list[Call] = []
    name, method = b"", ""
    for _ in range(count):
        sequence, previous, task, flags, returns, names, length = unpack(data, offset)
        offset += size
        if name != data[offset : offset + names]:  # mostly that of the call before
            name = data[offset : offset + names]
            method = decode_method(name)
        offset += names
        payload = data[offset : offset + length]
        offset += length
        fields = (caller, sequence, previous, task, flags, returns, method, payload)
        calls.append(make(Call, fields))  # half of what Call(…) costs
    return calls

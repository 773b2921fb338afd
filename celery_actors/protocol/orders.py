"""Orders: the few messages that are not calls, to a node worker or into a mailbox.

A body is ``b"CAO3"``, a 16-byte signature over ``b"order"``, the queue's name and the
rest, then the order as JSON.  Bound to the queue's name, an order can't be replayed to
another node or actor.  To repeat one in its own queue is harmless: orders only make
their receiver look at the record in Redis.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import Enum
from struct import Struct
from typing import NamedTuple

from celery_actors.exceptions import TamperedError
from celery_actors.ids import CALLER_BYTES
from celery_actors.protocol.signing import SIGNATURE_BYTES, Signer

__all__ = [
    "ORDER_TASK",
    "CancelledCall",
    "Order",
    "OrderKind",
    "decode_order",
    "encode_order",
    "is_order",
]

ORDER_TASK = "celery_actors.order"
_MAGIC = b"CAO3"
_KIND = b"order"
_CANCELLED = Struct(f">{CALLER_BYTES}sQQ")


class OrderKind(str, Enum):
    """What is asked."""

    START = "start"  # to a node: an actor was placed on you
    KILL = "kill"  # to a node: this actor's process must end
    STOP = "stop"  # into a mailbox: stop, if no hold is left, behind the calls before
    FETCH = "fetch"  # to a node: send an object of your shared memory
    CANCEL = "cancel"  # to an actor's process, past its mailbox: this call is not wanted
    WITHDRAW = "withdraw"  # to an executor, past its mailbox: begin none of this caller's tasks
    MARKER = "marker"  # into a mailbox, by its own actor: what was in front of this has come
    FREE = "free"  # to a node: an object of your shared memory is no longer needed


@dataclass(frozen=True, slots=True)
class Order:
    """One order.

    :ivar subject: the actor's id, the segment (FETCH, FREE), the call (CANCEL, see
        :class:`CancelledCall`) or the caller (WITHDRAW), in hex; a number (MARKER).
    :ivar incarnation: of the actor, where it matters.
    :ivar recursive: CANCEL also what that call has called.
    """

    kind: OrderKind
    subject: str
    incarnation: str = ""
    reply_to: str = ""
    recursive: bool = False


class CancelledCall(NamedTuple):
    """The call that a CANCEL is about: caller, sequence in the task id, sequence at the actor.

    These two differ for a task, which has its place in an executor only when it gets there.
    """

    caller: bytes
    task: int
    sequence: int

    def encode(self) -> bytes:
        """Return its 24 bytes."""
        return _CANCELLED.pack(*self)

    @classmethod
    def decode(cls, data: bytes) -> CancelledCall:
        """Return what :meth:`encode` made.

        :raises ValueError: it isn't that.
        """
        if len(data) != _CANCELLED.size:
            raise ValueError(f"{data.hex()} does not name a call")
        return cls._make(_CANCELLED.unpack(data))


def encode_order(signer: Signer, queue: str, order: Order) -> bytes:
    """Sign and encode ``order`` for ``queue``."""
    body = json.dumps(asdict(order), separators=(",", ":")).encode()
    return b"".join((_MAGIC, signer.sign(_KIND, queue.encode(), b"\0", body), body))


def is_order(data: bytes) -> bool:
    """Whether a message body claims to be an order."""
    return data[:4] == _MAGIC


def decode_order(signer: Signer, queue: str, data: bytes) -> Order:
    """Verify and decode an order found in ``queue``.

    :raises TamperedError: no order, altered, or written for another queue.
    """
    what = f"an order in queue {queue}"
    if not is_order(data):
        raise TamperedError(f"{what} is not of this protocol (expected {_MAGIC!r})")
    body = data[4 + SIGNATURE_BYTES :]
    signer.check(data[4 : 4 + SIGNATURE_BYTES], _KIND, queue.encode(), b"\0", body, what=what)
    fields = json.loads(body)
    return Order(
        OrderKind(fields["kind"]),
        fields["subject"],
        fields["incarnation"],
        fields["reply_to"],
        fields["recursive"],
    )

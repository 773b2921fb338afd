"""Identifiers: who called, in which order, and which value came of it.

==========  =====  ===================================================================
caller id   8 B    random, one a process; a forked child takes a new one
task id     16 B   caller id followed by the caller's rising sequence number (a valid
                   128-bit Celery task id that also says who and in which order)
object id   18 B   task id followed by the index of the return value; of what a generator
                   yields, the number of the 65,536s of its index stands, from 1 on, in the
                   sequence's upper 16 bits
actor id    16 B   random
==========  =====  ===================================================================

In Redis keys, queue names and log lines they are written in lower-case hex.
"""

from __future__ import annotations

import os
import re
import uuid
from struct import Struct

from typing_extensions import Self

__all__ = [
    "CALLER_BYTES",
    "NO_INCARNATION",
    "OBJECT_BYTES",
    "ActorID",
    "BaseID",
    "JobID",
    "NodeID",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
    "actor_hostname",
    "call_owner",
    "celery_id",
    "checked_id",
    "item_of_sequence",
    "item_sequence",
    "mailbox_name",
    "new_actor_id",
    "new_caller_id",
    "node_queue_name",
    "object_id",
    "safe_name",
    "split_object_id",
    "task_of_celery_id",
]

CALLER_BYTES = 8
OBJECT_BYTES = 18
GROUP_BYTES = 16
#: Stands where no incarnation of an actor (8 bytes, random) is meant.
NO_INCARNATION = bytes(8)
_MOST_SAFE = 64  # bytes: Celery makes names of 255 at most from it, as file systems do
_HEX = re.compile(r"[0-9a-f]+")
_OBJECT = Struct(">8sQH")
_TASK_BITS = 48


def new_caller_id() -> bytes:
    """Return a fresh caller id (8 random bytes)."""
    return os.urandom(CALLER_BYTES)


def new_actor_id() -> bytes:
    """Return a fresh actor id (16 random bytes)."""
    return os.urandom(16)


def object_id(caller: bytes, sequence: int, index: int = 0) -> bytes:
    """Return the id of return value ``index`` of the caller's call ``sequence``."""
    return _OBJECT.pack(caller, sequence, index)


def split_object_id(oid: bytes) -> tuple[bytes, int, int]:
    """Return ``(caller, sequence, index)`` of an object id."""
    caller, sequence, index = _OBJECT.unpack(oid)
    return caller, sequence, index


def item_sequence(task: int, index: int) -> tuple[int, int]:
    """Return sequence and index, in its object id, of the ``index``-th value of a generator."""
    return task | ((index >> 16) + 1) << _TASK_BITS, index & 0xFFFF


def item_of_sequence(sequence: int, place: int) -> tuple[int, int] | None:
    """Return task sequence and index of a generator's value; ``None``: it is no such value."""
    chunk = sequence >> _TASK_BITS
    if not chunk:
        return None
    return sequence & ((1 << _TASK_BITS) - 1), (chunk - 1) << 16 | place


def celery_id(caller: bytes, sequence: int) -> str:
    """Return the task id of a call as Celery writes it (a dashed UUID)."""
    return str(uuid.UUID(bytes=caller + sequence.to_bytes(8, "big")))


def task_of_celery_id(task_id: str) -> tuple[bytes, int]:
    """Return ``(caller, sequence)`` of a task id that Celery wrote.

    The ids that Celery makes for its own tasks are not among these: in a random UUID the bit
    that would be the sequence's highest is set (RFC 4122's variant).

    :raises ValueError: ``task_id`` is not the id of a call.
    """
    raw = uuid.UUID(str(task_id)).bytes
    sequence = int.from_bytes(raw[CALLER_BYTES:], "big")
    if sequence >> _TASK_BITS:
        raise ValueError(f"{task_id} is not the id of a call to an actor or of a task")
    return raw[:CALLER_BYTES], sequence


def call_owner(caller: str, sequence: int, actor: str) -> str:
    """Return the token under which a call holds the actors whose handles it carries.

    :param caller: who calls, in hex.
    :param sequence: of the call; the constructor is its creator's first call to an actor.
    :param actor: that is called, in hex.
    """
    return f"{caller}/c{sequence}:{actor}"


def actor_hostname(class_name: str, actor_id: str, host: str) -> str:
    """Return the name under which Celery's tools show an actor; its log file has it, too."""
    return f"{safe_name(class_name)}.{actor_id[:8]}@{host}"


def safe_name(name: str) -> str:
    """Return a name, of any characters and length, as a part of file, host and queue names.

    Letters and digits of all scripts stay; it is at most 64 bytes long.  Different names may
    become the same: something unique has to stand beside it.
    """
    safe = "".join(c if c.isalnum() and c.isprintable() else "_" for c in name) or "_"
    return safe.encode()[:_MOST_SAFE].decode(errors="ignore")


def checked_id(text: str) -> str:
    """Return an id that was read from a record and is about to become part of a path.

    :raises ValueError: it is not in lower-case hex.
    """
    if not _HEX.fullmatch(text):
        raise ValueError(f"a record has {text[:100]!r} where an id in hex belongs")
    return text


def mailbox_name(actor: bytes) -> str:
    """Return the name of the AMQP queue that is the actor's mailbox."""
    return f"actor.{actor.hex()}"


def control_queue_name(hostname: str) -> str:
    """Return the name of the AMQP queue on which an actor's process takes remote control.

    Whatever ``control_exchange`` its node's app has: callers may be of another app.
    """
    return f"{hostname}.celery.pidbox"


def node_queue_name(node_id: str) -> str:
    """Return the name of the AMQP queue through which a node is told to start actors."""
    return f"node.{node_id}"


class BaseID:
    """An id of a fixed length, with the methods of Ray's ids that programs use."""

    __slots__ = ("_raw",)

    SIZE = GROUP_BYTES

    def __init__(self, raw: bytes) -> None:
        if len(raw) != self.SIZE:
            raise ValueError(f"such an id has {self.SIZE} bytes, not {len(raw)}")
        self._raw = bytes(raw)

    @classmethod
    def size(cls) -> int:
        """Return how many bytes such an id has."""
        return cls.SIZE

    @classmethod
    def nil(cls) -> Self:
        """Return the id of nothing."""
        return cls(bytes(cls.SIZE))

    @classmethod
    def from_random(cls) -> Self:
        """Return an id that nobody else has."""
        return cls(os.urandom(cls.SIZE))

    @classmethod
    def from_binary(cls, raw: bytes) -> Self:
        """Return the id of these bytes.

        :raises ValueError: it is no id.
        """
        return cls(raw)

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Return the id written in hex.

        :raises ValueError: it is no id.
        """
        return cls(bytes.fromhex(text))

    def is_nil(self) -> bool:
        """Return whether it is the id of nothing."""
        return not any(self._raw)

    def binary(self) -> bytes:
        """Return the bytes."""
        return self._raw

    def hex(self) -> str:
        """Return it in hex."""
        return self._raw.hex()

    def __eq__(self, other: object) -> bool:
        return self._raw == other._raw if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._raw)

    def __reduce__(self) -> tuple[type[Self], tuple[bytes]]:
        return type(self), (self._raw,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"


class PlacementGroupID(BaseID):
    """The id of a placement group, all zero for none."""

    __slots__ = ()


class ActorID(BaseID):
    """The id of an actor."""

    __slots__ = ()


class TaskID(BaseID):
    """The id of a call."""

    __slots__ = ()


class NodeID(BaseID):
    """The id of a node."""

    __slots__ = ()


class JobID(BaseID):
    """The id of a job: the caller id of its driver."""

    __slots__ = ()

    SIZE = CALLER_BYTES

    @classmethod
    def from_int(cls, value: int) -> Self:
        """Return the id with that number.

        :raises OverflowError: the number is negative, or has more than 64 bits.
        """
        return cls(value.to_bytes(cls.SIZE, "big"))

    def int(self) -> int:
        """Return the id as a number."""
        return int.from_bytes(self._raw, "big")


class WorkerID(BaseID):
    """The id of a process that makes calls."""

    __slots__ = ()

    SIZE = CALLER_BYTES


class UniqueID(BaseID):
    """An id of anything else."""

    __slots__ = ()

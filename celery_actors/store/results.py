"""Results in Redis: where values lie, how they get there, and how they go.

Values of one caller lie in hashes of 64 sequences (``{prefix}r:{caller}:{block}``), the
callers' cursors at an actor in one hash (``{prefix}cur:{actor}``).  Few keys mean cheap
expiry: a hash lives for ``result_ttl`` after the last commit into it or the last
extension by somebody who still holds refs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from struct import Struct
from typing import Any, cast

import redis

from celery_actors.ids import CALLER_BYTES, split_object_id
from celery_actors.lua_parts import assemble
from celery_actors.protocol.cursors import Cursor

__all__ = ["BLOCK_BITS", "FIELD", "Result", "Results", "Unresolved", "script"]

Result = tuple[bytes, int, int, bytes, bool]
"""A return value: object id, task sequence, index, stored value, and whether it must be
pushed whatever its size."""

#: The name of a value in its hash: sequence and index.
FIELD = Struct(">QH")
#: So many of a sequence's last bits are of the values in one hash.
BLOCK_BITS = 6
_LAST = CALLER_BYTES + 7  # where the last byte of the sequence stands in an object id


@cache
def script(name: str) -> bytes:
    """Return the source of one of the store's scripts."""
    return assemble("celery_actors.store", name).encode()


@dataclass(frozen=True, slots=True)
class Unresolved:
    """What the store knows of a caller's unresolved calls at one actor."""

    cursor: Cursor
    values: Mapping[bytes, bytes]


class Results:
    """Reads and releases stored values."""

    def __init__(self, client: redis.Redis, prefix: str, ttl: float) -> None:
        self._redis = client
        self._prefix = prefix
        self.ttl_ms = int(ttl * 1000)
        self._lookup = client.register_script(script("lookup"))
        self._unwait = client.register_script(script("unwait"))
        self._settle = client.register_script(script("settle"))

    def block(self, caller: bytes, sequence: int) -> str:
        """Return the key of the hash that holds results of ``sequence``."""
        return f"{self._prefix}r:{caller.hex()}:{sequence >> BLOCK_BITS}"

    def waiters(self, caller: bytes) -> str:
        """Return the key of those who wait for values of ``caller``'s calls."""
        return f"{self._prefix}w:{caller.hex()}"

    def cursors(self, actor: bytes) -> str:
        """Return the key of the cursors at ``actor``."""
        return f"{self._prefix}cur:{actor.hex()}"

    def channel(self, caller: str) -> str:
        """Return the channel on which a caller (hex) gets its pushes."""
        return f"{self._prefix}p:{caller}"

    def fetch(self, oids: Sequence[bytes]) -> list[bytes | None]:
        """Return the stored values, ``None`` for each that is not there."""
        pipe = self._redis.pipeline(transaction=False)
        for oid in oids:
            caller, sequence, index = split_object_id(oid)
            pipe.hget(self.block(caller, sequence), cast(str, FIELD.pack(sequence, index)))
        return cast("list[bytes | None]", pipe.execute())

    def are_stored(self, oids: Sequence[bytes]) -> list[bool]:
        """Return of each object whether its value is there."""
        pipe = self._redis.pipeline(transaction=False)
        for oid in oids:
            caller, sequence, index = split_object_id(oid)
            pipe.hexists(self.block(caller, sequence), cast(str, FIELD.pack(sequence, index)))
        return list(map(bool, pipe.execute()))

    def fetch_or_wait(self, oid: bytes, caller: str) -> bytes | None:
        """Return the value, or register ``caller`` to be told when it is there.

        The owner is told that its object is waited for (see ``client/ownership.py``).
        """
        owner, sequence, index = split_object_id(oid)
        value = self._lookup(
            args=[
                self.block(owner, sequence),
                self.waiters(owner),
                FIELD.pack(sequence, index),
                self.channel(caller),
                oid.hex(),
                self.ttl_ms,
                self.channel(owner.hex()),
            ]
        )
        return cast("bytes | None", value)

    def stop_waiting(self, oids: Iterable[bytes], caller: str) -> None:
        """Take back what :meth:`fetch_or_wait` registered: nobody here wants the values now."""
        for oid in oids:
            owner, sequence, index = split_object_id(oid)
            field = FIELD.pack(sequence, index)
            self._unwait(args=[self.waiters(owner), field, self.channel(caller), oid.hex()])

    def unresolved(self, actor: bytes, caller: bytes, oids: Sequence[bytes]) -> Unresolved:
        """Read what is known of a caller's unresolved calls at an actor."""
        # The cursor is read first: a value committed between the two reads is then
        # found though the cursor doesn't cover it yet, never the other way round.
        cursor = self._redis.hget(self.cursors(actor), caller.hex())
        values = self.fetch(oids)
        return Unresolved(
            Cursor.parse(cast("bytes | None", cursor)),
            {oid: value for oid, value in zip(oids, values, strict=True) if value is not None},
        )

    def put(self, oid: bytes, value: bytes) -> None:
        """Store a value."""
        caller, sequence, index = split_object_id(oid)
        key = self.block(caller, sequence)
        pipe = self._redis.pipeline(transaction=False)
        pipe.hset(key, cast(str, FIELD.pack(sequence, index)), cast(str, value))
        pipe.pexpire(key, self.ttl_ms)
        pipe.execute()

    def settle(self, values: Mapping[bytes, bytes]) -> None:
        """Store values that no actor commits, unless there is one, and tell who waits for them.

        :param values: stored forms by object id; all are written in one exchange.
        """
        arguments: list[Any] = [self.ttl_ms]
        for oid, value in values.items():
            caller, sequence, index = split_object_id(oid)
            arguments += (
                self.block(caller, sequence),
                self.waiters(caller),
                FIELD.pack(sequence, index),
                value,
            )
        self._settle(args=arguments)

    def awaited(self, owner: bytes) -> list[bytes]:
        """Return the ids of the objects of ``owner`` that others wait for."""
        fields = cast("list[bytes]", self._redis.hkeys(self.waiters(owner)))
        return [owner + field for field in fields]

    def cancel(self, actor: bytes, call: bytes) -> None:
        """Note that a call is to be cancelled, for a process that can't be told yet.

        :param call: an encoded :class:`~celery_actors.protocol.orders.CancelledCall`.
        """
        key = self._cancelled(actor)
        pipe = self._redis.pipeline(transaction=False)
        pipe.sadd(key, call)
        pipe.pexpire(key, self.ttl_ms)
        pipe.execute()

    def cancelled(self, actor: bytes) -> set[bytes]:
        """Return the actor's calls that were to be cancelled, as :meth:`cancel` was given them."""
        return cast("set[bytes]", self._redis.smembers(self._cancelled(actor)))

    def ask_owner_to_cancel(self, owner: bytes, oid: bytes, force: bool, recursive: bool) -> None:
        """Ask the process that made a call to cancel it."""
        how = f"{force:d}{recursive:d}"
        self._redis.publish(self.channel(owner.hex()), f"K{oid.hex()}:{how}")

    def _cancelled(self, actor: bytes) -> str:
        return f"{self._prefix}x:{actor.hex()}"

    def give_credit(self, caller: bytes, task: int) -> None:
        """The consumer of a stream took a value: its producer may make another."""
        key = self._credits(caller, task)
        pipe = self._redis.pipeline(transaction=False)
        pipe.rpush(key, "1")
        pipe.pexpire(key, self.ttl_ms)
        pipe.execute()

    def take_credit(self, caller: bytes, task: int, timeout: float) -> bool:
        """Wait until the consumer of a stream takes a value, at most ``timeout`` seconds."""
        return self._redis.blpop([self._credits(caller, task)], timeout) is not None

    def _credits(self, caller: bytes, task: int) -> str:
        return f"{self._prefix}s:{caller.hex()}:{task}"

    def release(self, oids: Iterable[bytes]) -> None:
        """Delete values whose last ref is gone, in one exchange."""
        # By what the ids of one hash have in common: all but the last bits of the sequence.
        blocks: dict[tuple[bytes, int], list[bytes]] = {}
        for oid in oids:
            fields = blocks.setdefault((oid[:_LAST], oid[_LAST] >> BLOCK_BITS), [])
            fields.append(oid[CALLER_BYTES:])  # as FIELD packs sequence and index
        pipe = self._redis.pipeline(transaction=False)
        for (start, _), fields in blocks.items():
            sequence, _ = FIELD.unpack(fields[0])
            key = self.block(start[:CALLER_BYTES], sequence)
            pipe.hdel(key, *cast("list[str]", fields))
        pipe.execute()

    def extend(self, oids: Iterable[bytes]) -> None:
        """Keep the hashes of values that somebody still holds refs to."""
        keys = {self.block(caller, seq) for caller, seq, _ in map(split_object_id, oids)}
        pipe = self._redis.pipeline(transaction=False)
        for key in keys:
            pipe.pexpire(key, self.ttl_ms)
        pipe.execute()

    def forget_actor(self, actor: bytes) -> None:
        """Delete the cursors of a dead actor, after its lingering callers have read them."""
        self._redis.pexpire(self.cursors(actor), self.ttl_ms)
        self._redis.unlink(self._cancelled(actor))

    def delete_cursors(self, actors: Sequence[bytes]) -> None:
        """Delete the cursors of actors of whom nobody will ask any more."""
        if actors:
            self._redis.unlink(*map(self.cursors, actors), *map(self._cancelled, actors))

    def drop_cursor(self, actor: bytes, caller: str) -> None:
        """Drop the cursor of a caller that is gone."""
        self._redis.hdel(self.cursors(actor), caller)

    def forget_unkept(self, caller: str, kept: Callable[[Sequence[bytes]], Sequence[bool]]) -> None:
        """Delete the values of a caller that is gone, but those that others have refs to.

        The others go with their last ref, and those whose holders vanish after ``result_ttl``.

        :param kept: says of each object whether others keep it.
        """
        owner = bytes.fromhex(caller)
        for key in self._redis.scan_iter(match=f"{self._prefix}r:{caller}:*", count=1000):
            oids = [owner + field for field in cast("list[bytes]", self._redis.hkeys(key))]
            self.release(
                [oid for oid, is_kept in zip(oids, kept(oids), strict=True) if not is_kept]
            )
        self._delete(f"{self._prefix}s:{caller}:*")

    def forget_caller(self, caller: str) -> int:
        """Delete every value of a caller that is gone; returns how many hashes.

        Walks the keys of this cluster's prefix in the background (SCAN): used only when a
        process ended without saying so, and at the end of a job.
        """
        return self._delete(
            f"{self._prefix}r:{caller}:*",
            f"{self._prefix}s:{caller}:*",
            f"{self._prefix}w:{caller}",
        )

    def _delete(self, *patterns: str) -> int:
        gone = 0
        for pattern in patterns:
            keys = list(self._redis.scan_iter(match=pattern, count=1000))
            if keys:
                self._redis.unlink(*keys)
                gone += len(keys)
        return gone

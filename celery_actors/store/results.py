"""Results in Redis: where values lie, how they get there, and how they go.

Values of one caller lie in hashes of 64 sequences (``{prefix}r:{caller}:{block}``), the
callers' cursors at an actor in one hash (``{prefix}cur:{actor}``).  Few keys mean cheap
expiry: a hash lives for ``result_ttl`` after the last commit into it or the last
extension by somebody who still holds refs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from struct import Struct
from typing import Any, cast

import redis

from celery_actors.exceptions import ActorsError
from celery_actors.ids import CALLER_BYTES, split_object_id
from celery_actors.protocol.cursors import Cursor
from celery_actors.store.connection import RedisConnection

__all__ = ["Commit", "CommitRefused", "Committer", "Result", "Results", "Unresolved"]

Result = tuple[bytes, int, int, bytes, bool]
"""A return value: object id, task sequence, index, stored value, and whether it must be
pushed whatever its size."""

_FIELD = Struct(">QH")
_BLOCK_BITS = 6
_LAST = CALLER_BYTES + 7  # where the last byte of the sequence stands in an object id


class CommitRefused(ActorsError):
    """Another incarnation holds the actor's record: this process must exit."""


@cache
def _script(name: str) -> tuple[bytes, str]:
    source = (files("celery_actors.store") / "lua" / f"{name}.lua").read_bytes()
    return source, hashlib.sha1(source).hexdigest()


@dataclass(slots=True)
class Commit:
    """What one commit writes.

    :ivar results: caller id to the return values of its calls.
    :ivar cursors: caller id (hex) to the stored form of its cursor at the actor.
    :ivar pushes: caller id (hex) to the push.
    :ivar plain: Celery task id to the JSON result of a plain Celery client's call.
    """

    results: Mapping[bytes, Sequence[Result]] = field(default_factory=dict)
    cursors: dict[str, str] = field(default_factory=dict)
    pushes: list[tuple[str, bytes]] = field(default_factory=list)
    plain: list[tuple[str, bytes]] = field(default_factory=list)


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
        source, _ = _script("lookup")
        self._lookup = client.register_script(source)
        source, _ = _script("unwait")
        self._unwait = client.register_script(source)

    def block(self, caller: bytes, sequence: int) -> str:
        """Return the key of the hash that holds results of ``sequence``."""
        return f"{self._prefix}r:{caller.hex()}:{sequence >> _BLOCK_BITS}"

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
            pipe.hget(self.block(caller, sequence), cast(str, _FIELD.pack(sequence, index)))
        return cast("list[bytes | None]", pipe.execute())

    def fetch_or_wait(self, oid: bytes, caller: str) -> bytes | None:
        """Return the value, or register ``caller`` to be told when it is there."""
        owner, sequence, index = split_object_id(oid)
        value = self._lookup(
            args=[
                self.block(owner, sequence),
                self.waiters(owner),
                _FIELD.pack(sequence, index),
                self.channel(caller),
                oid.hex(),
                self.ttl_ms,
            ]
        )
        return cast("bytes | None", value)

    def stop_waiting(self, oids: Iterable[bytes], caller: str) -> None:
        """Take back what :meth:`fetch_or_wait` registered: nobody here wants the values now."""
        for oid in oids:
            owner, sequence, index = split_object_id(oid)
            field = _FIELD.pack(sequence, index)
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
        pipe.hset(key, cast(str, _FIELD.pack(sequence, index)), cast(str, value))
        pipe.pexpire(key, self.ttl_ms)
        pipe.execute()

    def tell_waiters(self, oid: bytes) -> None:
        """Tell those who wait for a value that :meth:`put` has stored it."""
        caller, sequence, index = split_object_id(oid)
        key, field = self.waiters(caller), cast(str, _FIELD.pack(sequence, index))
        waiting = cast("bytes | None", self._redis.hget(key, field))
        if waiting:
            words = waiting.decode().split()
            for channel, name in zip(words[::2], words[1::2], strict=True):
                self._redis.publish(channel, f"W{name}")
            self._redis.hdel(key, field)

    def cancel(self, actor: bytes, task_id: bytes) -> None:
        """Note that a call is to be cancelled, for a process that can't be told yet."""
        key = self._cancelled(actor)
        pipe = self._redis.pipeline(transaction=False)
        pipe.sadd(key, task_id)
        pipe.pexpire(key, self.ttl_ms)
        pipe.execute()

    def cancelled(self, actor: bytes) -> set[bytes]:
        """Return the task ids of the actor's calls that were to be cancelled."""
        return cast("set[bytes]", self._redis.smembers(self._cancelled(actor)))

    def ask_owner_to_cancel(self, owner: bytes, oid: bytes) -> None:
        """Ask the process that made a call to cancel it."""
        self._redis.publish(self.channel(owner.hex()), f"K{oid.hex()}")

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
            fields = blocks.setdefault((oid[:_LAST], oid[_LAST] >> _BLOCK_BITS), [])
            fields.append(oid[CALLER_BYTES:])  # as _FIELD packs sequence and index
        pipe = self._redis.pipeline(transaction=False)
        for (start, _), fields in blocks.items():
            sequence, _ = _FIELD.unpack(fields[0])
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

    def forget_caller(self, caller: str) -> int:
        """Delete every value of a caller that is gone; returns how many hashes.

        Walks the keys of this cluster's prefix in the background (SCAN): used only when a
        process ended without saying so, and at the end of a job.
        """
        gone = 0
        for pattern in (
            f"{self._prefix}r:{caller}:*",
            f"{self._prefix}s:{caller}:*",
            f"{self._prefix}w:{caller}",
        ):
            keys = list(self._redis.scan_iter(match=pattern, count=1000))
            if keys:
                self._redis.unlink(*keys)
                gone += len(keys)
        return gone


class Committer:
    """Sends an actor's commits over its own connection, one in flight at a time.

    Not thread-safe: the executor's commit lock is held around every method.
    """

    def __init__(
        self, results: Results, client: redis.Redis, record_key: str, actor: bytes, incarnation: str
    ) -> None:
        self._results = results
        self._connection = RedisConnection(client)
        self._source, self._sha = _script("commit")
        self._record_key = record_key
        self._actor = actor
        self._cursors = results.cursors(actor)
        self._incarnation = incarnation
        self._number = 0
        self._in_flight: tuple[Any, ...] | None = None

    @property
    def in_flight(self) -> bool:
        """Whether a commit was sent and its answer not yet read."""
        return self._in_flight is not None

    @property
    def ready(self) -> bool:
        """Whether :meth:`finish` would not wait."""
        try:
            return not self._connection.is_open or self._connection.readable()
        except OSError:
            return True

    def wait_for_answer(self) -> None:
        """Wait, with no lock held, until :meth:`finish` would not; another may finish first."""
        if self._in_flight is not None:
            try:
                self._connection.readable(None)
            except OSError:
                return  # finish() connects again

    def open(self) -> dict[bytes, Cursor]:
        """Connect; returns the callers' cursors that earlier incarnations left."""
        self._connection.open()
        self._connection.send("HGETALL", self._cursors)
        flat = self._connection.reply(timeout=10)
        stored = dict(zip(flat[::2], flat[1::2], strict=True))
        self._number = int(stored.pop(b"#", 0))
        return {bytes.fromhex(c.decode()): Cursor.parse(text) for c, text in stored.items()}

    def send(self, commit: Commit) -> None:
        """Send ``commit``; its answer is read by :meth:`finish`."""
        self._number += 1
        self._in_flight = self._command(commit)
        try:
            self._connection.send(*self._in_flight)
        except OSError:
            self._connection.close()  # finish() connects again and repeats it

    def finish(self) -> None:
        """Read the answer of the commit in flight; after a lost connection, repeat it.

        :raises CommitRefused: the record is another incarnation's, or the actor was killed.
        """
        command = self._in_flight
        if command is None:
            return
        while True:
            try:
                if not self._connection.is_open:
                    self._connection.open()
                    self._connection.send(*command)
                answer = self._connection.reply()
            except (OSError, redis.RedisError) as error:
                self._connection.close()
                if isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError)):
                    _wait_for_redis()
                    continue
                raise
            if answer == b"OK":
                self._in_flight = None
                return
            text = str(answer)
            if "NOSCRIPT" in text:
                command = ("EVAL", self._source, *command[2:])
                try:
                    self._connection.send(*command)
                except OSError:
                    self._connection.close()  # connect again and repeat it
                continue
            if "LOADING" in text or "MASTERDOWN" in text:
                self._connection.close()
                _wait_for_redis()
                continue
            self._in_flight = None
            raise CommitRefused(
                f"commit {self._number} of actor {self._actor.hex()} was refused: {text}"
            )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _command(self, commit: Commit) -> tuple[Any, ...]:
        results = self._results
        blocks: dict[tuple[bytes, int], list[bytes]] = {}
        pack = _FIELD.pack
        for caller, stored in commit.results.items():
            block, pairs = -1, []
            for _, sequence, index, value, _ in stored:
                if sequence >> _BLOCK_BITS != block:
                    block = sequence >> _BLOCK_BITS
                    pairs = blocks.setdefault((caller, block), [])
                pairs += (pack(sequence, index), value)
        arguments: list[Any] = []
        for (caller, block), pairs in blocks.items():
            arguments.append(results.block(caller, block << _BLOCK_BITS))
            arguments.append(results.waiters(caller))
            arguments.append(len(pairs) // 2)
            arguments.extend(pairs)
        for cursor in commit.cursors.items():
            arguments.extend(cursor)
        for channel, payload in commit.pushes:
            arguments.append(results.channel(channel))
            arguments.append(payload)
        for task_id, value in commit.plain:
            arguments += (f"celery-task-meta-{task_id}", results.ttl_ms // 1000, value)
        return (
            "EVALSHA",
            self._sha,
            0,
            self._record_key,
            self._incarnation,
            self._number,
            self._cursors,
            results.ttl_ms,
            len(blocks),
            len(commit.cursors),
            len(commit.pushes),
            len(commit.plain),
            *arguments,
        )


def _wait_for_redis() -> None:
    """Pause between attempts to reach a Redis that is away: it gives no signal."""
    import time

    time.sleep(0.1)

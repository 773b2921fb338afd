"""What the owner of objects tells the other processes that have refs to them.

The process that makes a call owns its results.  What the call's actor commits, everybody reads in
the store.  What will never be committed (the actor died, the call was cancelled before it ran) only
the owner knows: it settles the object as failed.  So that others get the same error, it stores
that error as it would store a value: of each object whose ref has left this process, as soon as it
has failed or, if it had failed before, as soon as its ref leaves.  The error goes with the
last ref, as a value does.

A process that waits for another's object asks the owner once (``store/lua/lookup.lua``).  This
covers what the owner could not know: refs that a fork has inherited, and objects that are gone.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

import redis

from celery_actors.client.objects import Entry, ObjectState
from celery_actors.exceptions import ObjectLostError

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = ["Ownership"]

logger = logging.getLogger(__name__)

_BATCH = 500  # objects whose errors are written in one exchange


class Ownership:
    """Answers for the objects of one process.  The background thread does the work."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._asked: set[bytes] = set()  # added to from any thread (set.add is atomic)

    def asked(self, oid: bytes) -> None:
        """Another process waits for an object of this one.  Any thread."""
        self._asked.add(oid)

    def look_for_waiters(self) -> None:
        """Answer also those who asked while this process could not hear them.

        :raises redis.RedisError: Redis is away.
        """
        self._asked.update(self._process.results.awaited(self._process.caller))

    def run(self) -> None:
        """Answer those who asked, and store the errors of what has failed.

        :raises redis.RedisError: Redis is away; what was not done is done later.
        """
        self.store_failures()  # first: what failed and has no ref here is in no table any more
        asked: set[bytes] = set()
        while self._asked:
            asked.add(self._asked.pop())
        if not asked:
            return
        try:
            self._answer(asked)
        except BaseException:
            self._asked |= asked
            raise
        self.store_failures()

    def _answer(self, oids: Iterable[bytes]) -> None:
        """Settle what others wait for and will not come by itself."""
        process = self._process
        settled: list[tuple[bytes, bytes | None]] = []  # with the value, where it is here
        with process.lock:
            for oid in oids:
                entry = process.objects.entries.get(oid)
                if entry is None:
                    settled.append((oid, None))
                elif not entry.foreign:
                    entry.escaped = True
                    if entry.state is ObjectState.FAILED:
                        process.objects.failed.append(entry)
                    elif not entry.pending:
                        settled.append((oid, entry.blob))
        if not settled:
            return
        stored = process.results.fetch([oid for oid, _ in settled])
        values: dict[bytes, bytes] = {}
        for (oid, known), blob in zip(settled, stored, strict=True):
            if blob is None:  # else who asked was told when it was stored
                values[oid] = known or process.codec.encode_error(oid, _lost(oid))
        if values:
            process.results.settle(values)

    def leave(self) -> None:
        """This process ends: store what is left to be stored, if Redis is there."""
        try:
            self.store_failures()
        except redis.RedisError as error:
            count = len(self._process.objects.failed)
            logger.warning("the errors of %d calls were not stored for others: %s", count, error)

    def store_failures(self) -> None:
        """Store the errors of objects that failed and whose refs have left this process.

        :raises redis.RedisError: Redis is away; what was not stored is stored later.
        """
        failed, codec = self._process.objects.failed, self._process.codec
        while failed:
            entries: list[Entry] = list(islice(failed, _BATCH))
            # One death fails many calls: its error is pickled once.
            errors = {id(entry.error): entry.error for entry in entries if entry.error is not None}
            dumped = {key: codec.dump_error(error) for key, error in errors.items()}
            values = {
                entry.oid: codec.encode_dumped_error(entry.oid, dumped[id(entry.error)])
                for entry in entries
            }
            self._process.results.settle(values)
            with contextlib.suppress(IndexError):  # shutdown() has cleared it meanwhile
                for _ in entries:
                    failed.popleft()


def _lost(oid: bytes) -> ObjectLostError:
    return ObjectLostError(
        f"object {oid.hex()} is no longer stored: the process that made it has released it. Keep a "
        "ref where it was made, or pass the ref on inside a value, which keeps the object"
    )

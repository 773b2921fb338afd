"""Values of objects, as this process gets them: waited for, found, unpickled.

A value is in its push, or in the ring of the actor that made it, or in the store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from copy import copy
from functools import partial
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from celery_actors.client.objects import Entry, ObjectState, Waiter, complete
from celery_actors.exceptions import GetTimeoutError, ObjectLostError
from celery_actors.store.outage import is_outage
from celery_actors.store.patience import at_most

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = ["Values"]

_PENDING = ObjectState.PENDING
_LOOK_SECONDS = 2.0  # for the store to answer before a wait; it is asked again meanwhile
_PATIENCE = 0.01  # a wait that is longer gives the call's CPU back


class Values:
    """Gets the values of one process's refs.  Any thread may use it."""

    def __init__(self, process: Process) -> None:
        self._p = process

    def get(self, entries: Sequence[Entry], timeout: float | None) -> list[Any]:
        """Return the values, in order.

        :raises GetTimeoutError: not all came within ``timeout`` seconds.
        """
        values: list[Any] = []
        deadline = None if timeout is None else monotonic() + timeout
        meanwhile = partial(self._load_ready, entries, values) if len(entries) > 1 else None
        if not self._wait(entries, len(entries), timeout, True, meanwhile):
            missing = [entry for entry in entries if entry.pending]
            raise GetTimeoutError(
                f"{len(missing)} of {len(entries)} objects were not there after {timeout:g} s; "
                f"the first is {missing[0].oid.hex()}"
                if missing
                else f"the objects were not there after {timeout:g} s"
            )
        left = entries[len(values) :]
        without = [entry for entry in left if not (entry.blob or self._take_in(entry))]
        if without:
            self._fetch(left, without, deadline)
        values += [self.load(entry) for entry in left]
        return values

    def load(self, entry: Entry) -> Any:
        """Return the value of a settled entry, or raise what getting it raises."""
        process = self._p
        if entry.state is ObjectState.FAILED:
            assert entry.error is not None
            # A copy: its traceback refers to frames, and these to refs, to this entry.
            raise copy(entry.error) from entry.error.__cause__
        blob = entry.blob or self._take_in(entry)
        if blob is None:
            blob = process.results.fetch([entry.oid])[0]
            if blob is None:
                raise ObjectLostError(
                    f"object {entry.oid.hex()} is no longer stored: it was released, or no "
                    f"process that holds a ref to it ran for {process.settings.result_ttl:g} s"
                )
        try:
            # Another thread may have found it in the ring meanwhile: that says nothing of this one.
            return process.codec.load(entry.oid, blob, entry.verified and blob is entry.blob)
        finally:
            process.keep_borrowed()

    def future(self, entry: Entry) -> Future[Any]:
        """Return a future of the value; the background thread completes it."""
        process = self._p
        future: Future[Any] = Future()
        with process.lock:
            entry.refs += 1  # the future holds a ref until it is done
            done = self._completion(future, entry)
            if entry.pending:
                if entry.on_settled is None:
                    entry.on_settled = []
                entry.on_settled.append(done)
            else:
                process.objects.after.append(done)
        process.flush()
        if entry.foreign and entry.pending:
            self._look_for([entry], None)
        process.run_after()
        process.listener.wake()
        return future

    def _completion(self, future: Future[Any], entry: Entry) -> Callable[[], None]:
        def done() -> None:
            complete(future, lambda: self.load(entry))
            entry.dropped_refs.append(entry)

        return done

    # -- finding -----------------------------------------------------------------

    def _load_ready(self, entries: Sequence[Entry], values: list[Any]) -> None:
        """Load values that are here and next in order, while the others are waited for."""
        for entry in islice(entries, len(values), None):
            if entry.state is _PENDING or not (entry.blob or self._take_in(entry)) or entry.failed:
                return
            values.append(self.load(entry))

    def _take_in(self, entry: Entry) -> bytes | None:
        """Take an announced value from its maker's ring, if its copy is still there."""
        known = entry.copy
        if known is None:
            return entry.blob
        found = self._p.segments.rings.read(known.place, known.at, known.size)
        with self._p.lock:
            entry.copy = None
            if entry.blob is None and found is not None and known.fits(found):
                entry.verified, entry.blob = True, found
            return entry.blob

    def _fetch(
        self, entries: Sequence[Entry], without: Sequence[Entry], deadline: float | None
    ) -> None:
        """Read from the store what is not here.

        :raises: what the first call that failed raised; others may then still be under way.
        :raises GetTimeoutError: the store could not be read until ``deadline``.
        """
        for entry in entries:
            if entry.failed:
                self.load(entry)
        stored = [entry for entry in without if entry.state is ObjectState.STORED]
        blobs = self._read([entry.oid for entry in stored], deadline)
        with self._p.lock:
            for entry, blob in zip(stored, blobs, strict=True):
                entry.blob = entry.blob or blob

    def _read(self, oids: Sequence[bytes], deadline: float | None) -> list[bytes | None]:
        while True:
            try:
                with at_most(math.inf if deadline is None else deadline - monotonic()):
                    return self._p.results.fetch(oids)
            except Exception as error:
                if not is_outage(error) or self._p.closed:
                    raise
                if deadline is not None and monotonic() >= deadline:
                    raise GetTimeoutError(
                        f"{len(oids)} objects are stored and could not be read in time: {error}"
                    ) from error

    # -- waiting -----------------------------------------------------------------

    def wait_for(self, entries: Sequence[Entry], count: int, timeout: float | None) -> bool:
        """Wait until ``count`` of the entries are settled; whether they are."""
        return self._wait(entries, count, timeout, fail_fast=False)

    def _wait(
        self,
        entries: Sequence[Entry],
        count: int,
        timeout: float | None,
        fail_fast: bool,
        meanwhile: Callable[[], None] | None = None,
    ) -> bool:
        process = self._p
        process.flush()
        foreign = [entry for entry in entries if entry.foreign and entry.pending]
        if foreign:
            self._look_for(foreign, timeout)
        with process.lock:
            waiter = process.objects.wait_for(entries, count, fail_fast)
        try:
            return waiter.remaining <= 0 or self.wait_blocked(waiter, timeout, meanwhile)
        finally:
            if waiter.remaining or count < len(entries):  # else all of them are settled
                with process.lock:
                    process.objects.forget(waiter, entries)

    def _look_for(self, entries: Sequence[Entry], timeout: float | None) -> None:
        """Settle others' objects that are stored, and have this process told of the rest."""
        recovery = self._p.recovery
        try:
            with at_most(_LOOK_SECONDS if timeout is None else min(timeout, _LOOK_SECONDS)):
                recovery.resolve_foreign(entries)
        except Exception as error:
            if not is_outage(error):
                raise
            recovery.resolve_later(entry.oid for entry in entries)

    def wait_blocked(
        self,
        waiter: Waiter,
        timeout: float | None,
        meanwhile: Callable[[], None] | None = None,
    ) -> bool:
        """Wait; a call that waits for long gives its CPU back meanwhile."""
        give_back, listener = self._p.on_blocked, self._p.listener
        if give_back is None:
            return listener.wait(waiter, timeout, meanwhile)
        first = _PATIENCE if timeout is None else min(_PATIENCE, timeout)
        if listener.wait(waiter, first, meanwhile):
            return True
        take_again = give_back()
        try:
            rest = None if timeout is None else timeout - first
            return listener.wait(waiter, rest, meanwhile)
        finally:
            take_again()

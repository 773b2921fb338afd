"""The objects that this process knows: a record each, and who waits for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from copy import copy
from enum import Enum
from typing import Any

from celery_actors.exceptions import SessionEndedError, carried_by_future
from celery_actors.protocol.signing import SIGNATURE_BYTES
from celery_actors.protocol.values import Copy, ValueFlag

__all__ = ["Entry", "ObjectState", "ObjectTable", "Waiter", "complete"]

_FLAGS_AT = SIGNATURE_BYTES


class ObjectState(Enum):
    """Where a value is."""

    PENDING = "pending"
    READY = "ready"  # its stored form is in this process
    STORED = "stored"  # announced: read it from the store
    FAILED = "failed"  # getting it raises ``error`` (the call never ran, the actor died)


_PENDING = ObjectState.PENDING
_ERROR = ValueFlag.ERROR


class Waiter:
    """Somebody who waits until ``remaining`` things have happened.

    Counted down under the process's lock; ``event`` exists while a thread sleeps on it.
    With ``fail_fast`` one error ends the wait (``get`` raises the first failure): ``remaining``
    is then negative, and some of the things may not have happened.
    """

    __slots__ = ("event", "fail_fast", "remaining")

    def __init__(self, remaining: int, fail_fast: bool = False) -> None:
        self.remaining = remaining
        self.fail_fast = fail_fast
        self.event: threading.Event | None = None

    def count_down(self) -> None:
        """One thing happened."""
        self.remaining -= 1
        if self.remaining <= 0 and self.event is not None:
            self.event.set()


class Entry:
    """One object.  Changed only under the process's lock."""

    __slots__ = (
        "blob",
        "carried",
        "copy",
        "dropped_refs",
        "error",
        "escaped",
        "foreign",
        "hold",
        "oid",
        "on_settled",
        "pinned",
        "producer",
        "refs",
        "state",
        "verified",
        "waiters",
    )

    def __init__(self, oid: bytes, dropped_refs: deque[Entry], foreign: bool) -> None:
        self.oid = oid
        self.state = _PENDING
        self.blob: bytes | None = None
        self.verified = False  # the blob came in a push, whose signature covers it
        self.error: Exception | None = None
        self.refs = 1  # the ObjectRef that is made from it
        self.escaped = False  # a ref was pickled: others may hold it
        self.foreign = foreign  # another process made the call
        self.carried = False  # its shared memory says that a call carries it
        self.hold: str | None = None  # the token under which this process keeps it stored
        self.pinned = False  # a ref was pickled by other means: who has it is not known
        self.copy: Copy | None = None  # announced: of its stored form, where it may still lie
        self.producer: bytes | None = None  # the actor that this process's call went to
        self.dropped_refs = dropped_refs
        self.waiters: list[Waiter] | None = None
        self.on_settled: list[Callable[[], None]] | None = None

    @property
    def pending(self) -> bool:
        """Whether the value is still to come."""
        return self.state is _PENDING

    @property
    def is_awaited(self) -> bool:
        """Whether somebody here waits for its value."""
        return self.pending and bool(self.waiters or self.on_settled)

    @property
    def failed(self) -> bool:
        """Whether getting it raises, as far as this process can tell."""
        blob = self.blob
        if blob is None:
            return self.state is ObjectState.FAILED
        return self.state is ObjectState.FAILED or bool(blob[_FLAGS_AT] & _ERROR)

    def refuse_if_ended(self) -> None:
        """Refuse to use an object of a session that is over.

        :raises SessionEndedError: it is.
        """
        if self.state is ObjectState.FAILED and isinstance(self.error, SessionEndedError):
            raise copy(self.error)

    @property
    def in_shared_memory(self) -> bool:
        """Whether its value is known to lie in shared memory."""
        return self.blob is not None and bool(self.blob[_FLAGS_AT] & ValueFlag.SHARED)

    @property
    def unwanted(self) -> bool:
        """Whether nobody, here or elsewhere, can have a ref to it."""
        return self.refs <= 0 and not self.escaped

    def __repr__(self) -> str:
        return f"<Entry {self.oid.hex()} {self.state.value} refs={self.refs}>"


class ObjectTable:
    """Entries by object id.  Every method is called under the process's lock.

    Refs drop at any time, in any thread, inside the garbage collector: their finalizer
    only appends the entry to :attr:`dropped`; :meth:`collect` does the rest.
    """

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.dropped: deque[Entry] = deque()
        self.after: deque[Callable[[], None]] = deque()
        """What to do once the lock is free: callbacks of futures, sending what waited."""
        self.failed: deque[Entry] = deque()
        """Failed objects of this process whose errors others may ask for (see
        :mod:`celery_actors.client.ownership`)."""

    def add(self, oid: bytes, foreign: bool = False) -> Entry:
        """Return a new entry."""
        entry = Entry(oid, self.dropped, foreign)
        self.entries[oid] = entry
        return entry

    def settle(
        self,
        entry: Entry,
        state: ObjectState,
        blob: bytes | None = None,
        error: Exception | None = None,
    ) -> None:
        """Give a pending entry its value; a second value is ignored (a repeat)."""
        if entry.state is not _PENDING:
            return
        entry.state = state
        entry.blob = blob
        entry.error = error
        if state is ObjectState.FAILED:
            self.tell_of_failure(entry)
        if entry.waiters is not None:
            failed = entry.failed
            for waiter in entry.waiters:
                if failed and waiter.fail_fast:
                    waiter.remaining = 0
                waiter.count_down()
            entry.waiters = None
        if entry.on_settled is not None:
            self.after.extend(entry.on_settled)
            entry.on_settled = None

    def end_session(self) -> None:
        """The session is over: nothing can be got any more, and nobody waits for it."""
        for entry in self.entries.values():
            error = SessionEndedError(
                f"object {entry.oid.hex()} is of a session that has ended: shutdown() was called, "
                "and with the session its objects went. Call again in the new session, and get "
                "values before shutdown() that are needed after it"
            )
            self.settle(entry, ObjectState.FAILED, error=error)
            entry.state, entry.error = ObjectState.FAILED, error  # also of what was there
            entry.blob = entry.copy = None
        self.failed.clear()

    def tell_of_failure(self, entry: Entry) -> None:
        """Have the error of a failed object stored, if others may have its ref.

        Done where it fails, and where its ref leaves this process: whichever comes last sees
        what the other has written first.  Any thread; needs no lock.
        """
        if entry.escaped and not entry.foreign and entry.state is ObjectState.FAILED:
            self.failed.append(entry)

    def collect(self) -> list[Entry]:
        """Count dropped refs down; return the entries whose last ref went."""
        gone: list[Entry] = []
        while self.dropped:
            entry = self.dropped.popleft()
            entry.refs -= 1
            if entry.refs == 0:
                gone.append(entry)
        return gone

    def wait_for(self, entries: Iterable[Entry], count: int, fail_fast: bool = False) -> Waiter:
        """Return a waiter for ``count`` of the entries."""
        waiter = Waiter(count, fail_fast)
        for entry in entries:
            if entry.state is not _PENDING:
                waiter.remaining -= 1
                if fail_fast and entry.failed:
                    waiter.remaining = -1
                    break
            elif entry.waiters is None:
                entry.waiters = [waiter]
            else:
                entry.waiters.append(waiter)
        return waiter

    def when_settled(self, entries: Iterable[Entry], action: Callable[[], None]) -> None:
        """Run ``action`` once all entries are settled (through :attr:`after`)."""
        awaited = [entry for entry in entries if entry.pending]
        left = len(awaited)
        if not left:
            self.after.append(action)
            return

        def one() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                action()

        for entry in awaited:
            if entry.on_settled is None:
                entry.on_settled = []
            entry.on_settled.append(one)

    def forget(self, waiter: Waiter, entries: Iterable[Entry]) -> None:
        """Take a waiter that waits no longer off the entries that are still pending."""
        for entry in entries:
            if entry.waiters is not None and waiter in entry.waiters:
                entry.waiters.remove(waiter)

    def statistics(self) -> dict[str, int]:
        """Return how many entries there are in each state."""
        counts = dict.fromkeys((state.value for state in ObjectState), 0)
        for entry in self.entries.values():
            counts[entry.state.value] += 1
        return counts


def complete(future: Future[Any], load: Callable[[], Any]) -> None:
    """Give a future its value or its error."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        value = load()
    except BaseException as error:  # noqa: BLE001 - the future carries it
        future.set_exception(carried_by_future(error))
    else:
        future.set_result(value)

"""The outbox: this process's calls to one actor, from submission until they are resolved.

Order: calls leave in the order of submission.  A call whose ref arguments are not there
yet holds back the later ones to the same actor (PROTOCOL, Ref arguments).  Calls to an asyncio
or threaded actor don't: such a call gets its sequence when its arguments are there, so that the
actor sees neither a gap nor a call out of order.

Exactly once: a call stays here until its result, or the caller's cursor at the actor,
says that it is finished.  What was lost on the way is sent again; the actor drops
repeats by (caller, sequence).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from time import monotonic
from typing import Any

from celery_actors.client.objects import Entry, ObjectState, ObjectTable, Waiter
from celery_actors.exceptions import ActorsError
from celery_actors.ids import NO_INCARNATION
from celery_actors.protocol.calls import CallFlag, encode_call
from celery_actors.protocol.cursors import Cursor
from celery_actors.protocol.payload import encode_arguments, set_apart

__all__ = ["Outbox", "PendingCall", "TaskWithdrawn"]

_PENDING = ObjectState.PENDING

_NOTHING = CallFlag.RELEASE | CallFlag.CANCELLED
_EMPTY = CallFlag.CANCELLED | CallFlag.STORE_NOTHING
_CALL_BYTES = 64  # what a call counts for in the window besides its payload
# How long nothing may move before a call is sent again, in seconds: while the actor has answered
# none (it may wait for its resources); after that; and at most.
_RESEND_UNKNOWN = 5.0
_RESEND_FIRST = 1.0
_RESEND_MOST = 30.0


class TaskWithdrawn(ActorsError):
    """An executor has not begun a task, and never will: another gets it.  Users don't see it."""


@dataclass(slots=True, eq=False)
class PendingCall:
    """A call that is not resolved.

    :ivar task: its sequence in the task id; ``sequence`` orders it at the actor.
    :ivar entries: the return values to come.
    :ivar arguments: ref arguments at top level, whose values it needs before it is sent.
    :ivar holding: the holds of handles inside its arguments are still being written.
    :ivar carried: actors whose handles are inside; the call has holds on them.
    :ivar kept: refs and holds of handles inside its arguments, alive until it's resolved.
    :ivar on_failed: takes the call back when its actor died (tasks are tried elsewhere).
    :ivar alone: a task that gets an executor for itself.
    :ivar cancelled: it was, after it had been sent: what getting it raises if it has not begun.
    :ivar asked_back: a task that its executor was asked not to begin.
    :ivar doubted: the answer to that may have been lost: passed over without a result, it may
        not have run.
    :ivar options: encoded options for the executor (see protocol.call_options).
    :ivar parent: the task id of the call that made this one, if a call did.
    """

    task: int
    method: bytes
    payload: bytes
    entries: tuple[Entry, ...]
    flags: int = 0
    returns: int = 1
    kept: Sequence[Any] = ()
    arguments: tuple[Entry, ...] = ()
    holding: bool = False
    carried: tuple[bytes, ...] = ()
    on_failed: Callable[[PendingCall, Exception], bool] | None = None
    on_done: Callable[[PendingCall], None] | None = None
    sequence: int = 0
    previous: int = 0
    sent: bool = False
    retries: int = 0
    alone: bool = False
    cancelled: ActorsError | None = None
    asked_back: bool = False
    doubted: bool = False
    options: bytes = b""
    parent: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes that it counts for in the window."""
        return len(self.payload) + _CALL_BYTES

    @property
    def is_unsettled(self) -> bool:
        """Whether no value of it is known."""
        return not self.entries or any(entry.pending for entry in self.entries)

    def _unwanted(self) -> bool:
        for entry in self.entries:  # noqa: SIM110 - on every call, and a generator costs twice
            if entry.refs > 0 or entry.escaped:
                return False
        return True

    def encode(self, apart: list[memoryview] | None = None, again: bool = True) -> bytes:
        """Return its encoded form; a call all of whose refs are gone stores nothing.

        :param apart: takes the buffers of its arguments, which are then not in it.
        :param again: if it counts as sent, it was.
        """
        flags = self.flags
        # A resent call may already have been stored, so it keeps the flags it had.
        if not self.sent and self.entries and self._unwanted():
            flags |= CallFlag.STORE_NOTHING
            self.flags = flags
        if self.sent and again:
            flags |= CallFlag.RESENT
        payload = self.payload
        if apart is not None and (split := set_apart(payload, flags)) is not None:
            payload, buffers = split
            apart.append(buffers)
        if self.arguments:
            payload = encode_arguments([(e.oid, e.blob) for e in self.arguments]) + payload
        if self.options:
            payload = self.options + payload
        return encode_call(
            self.sequence, self.previous, self.task, flags, self.returns, self.method, payload
        )


class Outbox:
    """Every method is called under the process's lock."""

    def __init__(self, actor: bytes, queue: str, objects: ObjectTable) -> None:
        self.actor = actor
        self.queue = queue
        self._objects = objects
        self.last_sequence = 0
        self.unresolved: dict[int, PendingCall] = {}
        self.unsent: deque[PendingCall] = deque()
        self.blocked: deque[PendingCall] = deque()
        self.late: dict[int, PendingCall] = {}
        """By task: calls to a concurrent actor that wait for their arguments, without a sequence
        yet."""
        self.has_been_late = False  # a call's sequence may differ from its task
        self.bytes = 0
        self.windows = 1
        self.dead: Exception | None = None
        self.ready = True  # False while the actor's own creation waits for ref arguments
        self.window_waiters: list[Waiter] = []
        self.constructing: PendingCall | None = None  # this process creates the actor
        self.kept: object = None  # an executor's hold, as long as it is leased
        self.next_resend = 0.0
        self.shares_memory = False  # the actor does, as its last push says
        self.avoids_ring = False
        self.express = NO_INCARNATION  # of the actor, if it reads what comes by express
        self.private = False  # no other process can call the actor
        self.last_taken = 0.0  # when the last batch was taken to be sent
        self.last_size = 0  # bytes of it
        self._resend_pause = _RESEND_UNKNOWN
        self.resends = 0  # since something has moved

    def add(self, call: PendingCall, sequence: int) -> None:
        """Take a call; it goes to :attr:`unsent` or, behind an unready one, to ``blocked``."""
        call.sequence = sequence
        call.previous = self.last_sequence
        self.last_sequence = sequence
        self.unresolved[sequence] = call
        self.bytes += len(call.payload) + _CALL_BYTES
        waits = call.holding or (call.arguments and self._held_back(call))
        if self.blocked or not self.ready or waits:
            self.blocked.append(call)
        else:
            self.unsent.append(call)

    def postpone(self, call: PendingCall) -> None:
        """Take a call that holds back no other: it is added when its arguments are there."""
        self.late[call.task] = call
        self.has_been_late = True
        self.bytes += call.size

    def is_postponed(self, call: PendingCall) -> bool:
        """Whether a call still waits without a sequence; then it does so no longer."""
        if self.late.pop(call.task, None) is None:
            return False
        self.bytes -= call.size
        return True

    def _held_back(self, call: PendingCall) -> bool:
        return call.holding or any(map(self._awaited, call.arguments))

    def _awaited(self, entry: Entry) -> bool:
        """Whether a ref argument must be waited for here.

        Values that this process's earlier calls to the same actor produce are there when
        the actor comes to the call.
        """
        return entry.pending and entry.producer != self.actor

    def unblock(self) -> bool:
        """Move calls whose arguments have arrived to ``unsent``; whether there were any."""
        moved = False
        while self.ready and self.blocked:
            call = self.blocked[0]
            if self._held_back(call):
                break
            self.unsent.append(self.blocked.popleft())
            moved = True
        return moved

    def take(self, calls: int, size: int) -> list[PendingCall]:
        """Take the next batch: at most that many calls and bytes, but one call at least."""
        batch: list[PendingCall] = []
        taken = 0
        while self.unsent and len(batch) < calls:
            following = self.unsent[0].size
            if batch and taken + following > size:
                break
            taken += following
            batch.append(self.unsent.popleft())
        if batch:
            self.last_taken, self.last_size = monotonic(), taken
            if not self.next_resend:
                self.next_resend = self.last_taken + self._resend_pause
        return batch

    @property
    def idle(self) -> bool:
        """Whether nothing was sent that is not resolved."""
        return len(self.unresolved) == len(self.unsent) + len(self.blocked)

    @property
    def near(self) -> bool:
        """Whether the actor can read this process's ring."""
        return self.shares_memory and not self.avoids_ring

    def may_go_by_express(self, batch: Sequence[PendingCall]) -> bool:
        """Whether a batch, just taken, may go to the actor past its mailbox (see client.express).

        It is one call, sent for the first time, to an actor that has all others.
        """
        if not self.private or self.express == NO_INCARNATION:
            return False
        if len(batch) != 1 or len(self.unresolved) != 1:
            return False
        return not batch[0].sent and not batch[0].flags & _NOTHING

    def needs(self, sequences: Iterable[int]) -> bool:
        """Whether one of these calls is unresolved: the actor may have to read it again."""
        return any(sequence in self.unresolved for sequence in sequences)

    @property
    def floor(self) -> int:
        """The lowest unresolved sequence."""
        return next(iter(self.unresolved), self.last_sequence + 1)

    def resolve_through(self, cursor: Cursor) -> list[PendingCall]:
        """Resolve all calls that ``cursor`` covers; returns them."""
        resolved: list[PendingCall] = []
        unresolved, high = self.unresolved, cursor.high
        if self.constructing is not None and self.constructing.sequence <= high:
            self.constructing = None  # lets go of the constructor's arguments
        if cursor.unfinished:
            running = frozenset(cursor.unfinished)
            covered = [s for s in takewhile(high.__ge__, unresolved) if s not in running]
        else:
            covered = list(takewhile(high.__ge__, unresolved))
        resolved.extend(filter(None, map(self._resolve, covered)))
        if resolved:
            self._progressed()
        return resolved

    def _resolve(self, sequence: int) -> PendingCall | None:
        call = self.unresolved.pop(sequence)
        self.bytes -= call.size
        if call.doubted and call.on_failed is not None and call.is_unsettled:
            call.on_failed(call, TaskWithdrawn("an executor passed over it"))
            return None
        for entry in call.entries:
            if entry.state is _PENDING:  # finished, but nothing was stored or its push was lost
                self._objects.settle(entry, ObjectState.STORED)
        if call.kept:
            call.kept = ()
        if call.arguments:
            call.arguments = ()
        if call.on_done is not None:
            call.on_done(call)
        return call

    def _progressed(self) -> None:
        self._resend_pause, self.resends = _RESEND_FIRST, 0
        self.next_resend = monotonic() + _RESEND_FIRST if self.unresolved else 0.0
        self.let_callers_go()

    def let_callers_go(self) -> None:
        """Wake those who wait for room in the window of unresolved calls."""
        waiters, self.window_waiters = self.window_waiters, []
        for waiter in waiters:
            waiter.count_down()

    def fail(self, error: Exception) -> list[PendingCall]:
        """The actor is dead: settle what is unresolved; later calls fail at once.

        :returns: what may not have run, the constructor too if that isn't known to have ended.
        """
        self.dead = error
        failed = [*self.unresolved.values(), *self.late.values()]
        if self.constructing is not None:
            failed.insert(0, self.constructing)
            self.constructing = None
        self.unresolved.clear()
        self.late.clear()
        self.unsent.clear()
        self.blocked.clear()
        self.bytes = 0
        for call in failed:
            if call.on_failed is not None and call.on_failed(call, error):
                continue
            for entry in call.entries:
                self._objects.settle(entry, ObjectState.FAILED, error=error)
            call.kept = ()
            call.arguments = ()
            if call.on_done is not None:
                call.on_done(call)
        self._progressed()
        return failed

    def withdraw(self, after: int, through: int) -> list[PendingCall]:
        """Take calls back that the other side says it will never begin; returns them.

        :param after, through: between these sequences, the second included.  Their places are
            still to be taken: what stands there instead asks for nothing.
        """
        taken: list[PendingCall] = []
        for sequence, call in self.unresolved.items():
            if after < sequence <= through and not call.flags & _NOTHING:
                taken.append(call)
        for call in taken:
            place = PendingCall(call.task, b"", b"", (), _EMPTY, returns=0)
            place.sequence, place.previous, place.sent = call.sequence, call.previous, True
            self.unresolved[call.sequence] = place
            self.bytes += place.size - call.size
        places = {id(call): self.unresolved[call.sequence] for call in taken}
        self.unsent = deque(places.get(id(call), call) for call in self.unsent)
        return taken

    def rewind(self) -> None:
        """Send all unresolved calls again, in order (the connection was lost)."""
        blocked = set(map(id, self.blocked))
        self.unsent = deque(c for c in self.unresolved.values() if id(c) not in blocked)
        self.next_resend = 0.0

    def rewind_from(self, sequence: int) -> None:
        """Send again from ``sequence`` on: the actor saw a gap there."""
        unsent = {id(call) for call in self.unsent} | {id(call) for call in self.blocked}
        again = [
            call
            for number, call in self.unresolved.items()
            if number >= sequence and id(call) not in unsent
        ]
        self.unsent.extendleft(reversed(again))

    def resend_due(self, now: float) -> PendingCall | None:
        """Return the call that was sent last if nothing has moved for long, and back off.

        It asks the actor whether all calls before it came: it lies behind them in the mailbox, is
        a repeat if they did, and shows a gap if some were lost, from which the actor has all sent
        again.
        """
        if not self.unresolved or not self.next_resend or now < self.next_resend:
            return None
        self._resend_pause = min(self._resend_pause * 2, _RESEND_MOST)
        self.next_resend = now + self._resend_pause
        self.resends += 1
        unsent = {id(call) for call in self.unsent} | {id(call) for call in self.blocked}
        for call in reversed(self.unresolved.values()):
            if call.sent and id(call) not in unsent:
                return call
        return None

    def is_full(self, calls: int, size: int) -> bool:
        """Whether the window of unresolved calls is full."""
        return len(self.unresolved) >= calls or self.bytes >= size

    def pending_oids(self) -> Sequence[bytes]:
        """Return the ids of all return values to come."""
        return [e.oid for call in self.unresolved.values() for e in call.entries if e.pending]

    def __repr__(self) -> str:
        return (
            f"<Outbox {self.queue} unresolved={len(self.unresolved)} unsent={len(self.unsent)} "
            f"blocked={len(self.blocked)}{' dead' if self.dead else ''}>"
        )

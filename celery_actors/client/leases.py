"""Which executor gets which task: the leases of one shape of tasks, and the tasks given to them.

An executor without a task gets one at once.  Where the last tasks were short, further ones
wait in its mailbox, about 20 ms of work, so that it need not wait for each one to be sent.
When the first of them takes longer than expected, or waits for something, those behind it are
taken back (see client.executors) and go elsewhere.

A task that may not be tried again is never behind another, nor another behind it; so it is
known whether it had begun when its executor died.  Nor is one that was with an executor that
died: what it does to the next one is then known to be its own doing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from celery_actors.client.outbox import PendingCall
from celery_actors.control import ANYWHERE, Target
from celery_actors.protocol.environment import NO_ENVIRONMENT, Environment

__all__ = ["LONG", "Lease", "Pool", "Shape"]

_SHORT = 0.005
#: Seconds after which a task counts as long.
LONG = 0.02
_WORK_AHEAD = 0.02
_MOST_AHEAD = 64
_PATIENCE = 0.02
_MOST_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What an executor is made of; tasks of equal shape share executors.

    :ivar resources: ``(name, units of 1/10000)`` pairs, sorted.
    :ivar sys_path: where the caller finds its own modules.
    :ivar target: where it may be placed.
    :ivar max_calls: the number of tasks after which an executor ends; 0: it does not.
    :ivar function: whose tasks these are, where there are most calls of one.
    :ivar captures: what its tasks create runs in their placement group as well.
    :ivar environment: the tasks' ``runtime_env``, together with what they inherit.
    """

    resources: tuple[tuple[str, int], ...]
    sys_path: tuple[str, ...] = ()
    environment: Environment = NO_ENVIRONMENT
    target: Target = ANYWHERE
    captures: bool = False
    max_calls: int = 0
    function: str = ""


@dataclass(slots=True, eq=False)
class Lease:
    """An executor that this process has.

    :ivar tasks: given to it and not resolved, in their order.
    :ivar since: when the first of them came to be first (monotonic seconds).
    :ivar calls: how many it has run.
    :ivar died: it has, and the task that it may have begun is known.
    :ivar ask_at: when those behind the first are to be asked for (again), if it is still first.
    :ivar pause: until they are asked for once more.
    """

    actor: bytes
    idle_since: float
    tasks: dict[PendingCall, None] = field(default_factory=dict)
    since: float = 0.0
    calls: int = 0
    died: bool = False
    ask_at: float = 0.0
    pause: float = _PATIENCE

    @property
    def held_up(self) -> bool:
        """Whether its first task takes long: it gets no more."""
        return self.pause > _PATIENCE

    def is_first(self, call: PendingCall) -> bool:
        """Whether it is the task that the executor may have begun."""
        return not self.died and next(iter(self.tasks), None) is call

    def _next_first(self, now: float) -> None:
        self.since, self.pause = now, _PATIENCE
        self.ask_at = now + _PATIENCE


@dataclass(slots=True, eq=False)
class Pool:
    """The executors and tasks of one shape.  Guarded by the process's lock.

    :ivar ready: tasks that no executor has.
    :ivar usual: average seconds of the last tasks, the way to the executor included.
    :ivar short: no node is large enough any more.
    """

    shape: Shape
    ready: deque[PendingCall] = field(default_factory=deque)
    leases: dict[bytes, Lease] = field(default_factory=dict)
    requested: dict[bytes, float] = field(default_factory=dict)
    unwanted_since: float = 0.0
    short: bool = False
    usual: float | None = None
    _holders: dict[PendingCall, Lease] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """How many tasks an executor may have at a time."""
        shape, usual = self.shape, self.usual
        if usual is None or usual > _SHORT or shape.max_calls or shape.target.spread:
            return 1
        return min(_MOST_AHEAD, int(_WORK_AHEAD / usual) + 1 if usual else _MOST_AHEAD)

    def give(self, now: float) -> Iterator[tuple[Lease, PendingCall]]:
        """Give ready tasks to executors, as long as one may have the next."""
        while self.ready:
            call = self.ready[0]
            lease = self._lease_for(call)
            if lease is None:
                return
            self.ready.popleft()
            if not lease.tasks:
                lease._next_first(now)
            lease.tasks[call] = None
            call.asked_back = call.doubted = False
            self._holders[call] = lease
            yield lease, call

    def _lease_for(self, call: PendingCall) -> Lease | None:
        leases = [lease for lease in self.leases.values() if not lease.died]
        idle = [lease for lease in leases if not lease.tasks]
        if idle:
            if self.shape.target.spread:  # the one that has run nothing for longest
                return min(idle, key=lambda lease: lease.idle_since)
            return idle[0]
        depth = self.depth
        if depth == 1 or _is_alone(call):
            return None
        open_ones = [
            lease
            for lease in leases
            if len(lease.tasks) < depth
            and lease.calls  # it has begun
            and not lease.held_up
            and not _is_alone(next(iter(lease.tasks)))
        ]
        return min(open_ones, key=lambda lease: len(lease.tasks)) if open_ones else None

    def holder(self, call: PendingCall) -> Lease | None:
        """Return the executor that a task was given to."""
        return self._holders.get(call)

    def done(self, call: PendingCall, now: float) -> Lease | None:
        """A task is resolved; returns the executor that had it."""
        lease = self._holders.pop(call, None)
        if lease is None:
            return None
        took, first = now - lease.since, lease.is_first(call)
        del lease.tasks[call]
        if first:
            lease._next_first(now)
        if lease.calls:  # the first one's time has the start of the process in it
            took = min(took, LONG)  # one that takes very long says no more than a long one
            self.usual = took if self.usual is None else self.usual + (took - self.usual) / 8
        lease.calls += 1
        if not lease.tasks:
            lease.idle_since = now
        return lease

    def take_back(self, call: PendingCall) -> None:
        """A task is no longer with its executor, and is to be given to another."""
        lease = self._holders.pop(call, None)
        if lease is not None:
            lease.tasks.pop(call, None)

    def overdue(self, now: float) -> list[Lease]:
        """Return the executors whose waiting tasks are to be asked for, and note that they are."""
        found = [e for e in self.leases.values() if len(e.tasks) > 1 and e.ask_at <= now]
        for lease in found:
            lease.pause = min(lease.pause * 2, _MOST_PATIENCE)
            lease.ask_at = now + lease.pause
            for call in islice(lease.tasks, 1, None):
                call.asked_back = True
        return found

    def doubt(self) -> None:
        """Answers of executors may have been lost."""
        for lease in self.leases.values():
            for call in lease.tasks:
                call.doubted = call.asked_back

    @property
    def next_due(self) -> float:
        """When :meth:`overdue` may find something (monotonic seconds).  Under the lock."""
        waiting = (lease.ask_at for lease in self.leases.values() if len(lease.tasks) > 1)
        return min(waiting, default=float("inf"))


def _is_alone(call: PendingCall) -> bool:
    """Whether a task has an executor for itself."""
    return call.alone or call.retries == 0

"""Stateless tasks: executors are leased, tasks go to those that are free.

An executor is a process like an actor's, with a mailbox of its own, that runs any
function.  This process asks for as many as it has tasks that are ready (their ref
arguments are there), gives each one task at a time, and returns those that idle.  So a
task that waits for arguments or for its turn holds no executor, exactly-once and order
come from the mailbox as for any call, and a task whose executor dies is tried on another.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from celery_actors.client.creation import create_actor, kill_actor
from celery_actors.client.objects import Entry, ObjectState
from celery_actors.client.outbox import PendingCall
from celery_actors.client.recovery import death_of
from celery_actors.control import (
    ANYWHERE,
    ActorSpec,
    CallerGone,
    InsufficientResources,
    Target,
)
from celery_actors.exceptions import (
    ActorsError,
    RuntimeEnvSetupError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from celery_actors.ids import new_actor_id, object_id
from celery_actors.protocol.calls import CallFlag
from celery_actors.protocol.creation import Creation, encode_creation
from celery_actors.protocol.environment import NO_ENVIRONMENT, Environment

if TYPE_CHECKING:
    from celery_actors.client.process import Process
    from celery_actors.serialization import Dumped

__all__ = ["Executors", "Shape"]

logger = logging.getLogger(__name__)

_LINGER = 1.0
_MOST_REQUESTS = 8
_CHECK_EVERY = 2.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What an executor is made of; tasks of equal shape share executors.

    :ivar resources: ``(name, units of 1/10000)`` pairs, sorted.
    :ivar sys_path: where the caller finds its own modules.
    :ivar target: where it may be placed.
    :ivar max_calls: after so many tasks an executor ends; 0: none does.
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
class _Lease:
    """An executor that this process has."""

    actor: bytes
    task: PendingCall | None = None
    idle_since: float = 0.0
    calls: int = 0


@dataclass(slots=True, eq=False)
class _Pool:
    """The executors and waiting tasks of one shape."""

    shape: Shape
    ready: deque[PendingCall] = field(default_factory=deque)
    leases: dict[bytes, _Lease] = field(default_factory=dict)
    requested: dict[bytes, float] = field(default_factory=dict)
    unwanted_since: float = 0.0
    short: bool = False  # no node is large enough any more


class Executors:
    """All pools of one process.  Its tables are guarded by the process's lock."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pools: dict[Shape, _Pool] = {}
        self._by_executor: dict[bytes, _Pool] = {}
        self._awaiting: dict[int, PendingCall] = {}  # tasks whose ref arguments are not there
        self._reclaim = False

    # -- submitting ------------------------------------------------------------------

    def submit(
        self,
        shape: Shape,
        function: str,
        dumped: Dumped,
        arguments: tuple[Entry, ...],
        returns: int,
        retries: int,
        options: bytes = b"",
    ) -> tuple[Entry, ...]:
        """Submit a task; returns the entries of its return values.

        :param retries: how often it is tried again when its executor dies, -1: always.
        :param options: encoded (see protocol.call_options).
        :raises InsufficientResources: no node is large enough for the shape.
        """
        process = self._process
        payload, flags, kept = process.sender.payload(dumped)
        if options:
            flags |= CallFlag.OPTIONS
        if arguments:
            flags |= CallFlag.ARGUMENTS
            process.recovery.resolve_foreign([e for e in arguments if e.foreign and e.pending])
        with process.lock:
            pool = self._pools.setdefault(shape, _Pool(shape))
            first = not pool.leases and not pool.requested
        if first:
            self._request(pool)
        with process.lock:
            sequence = process.next_sequence()
            entries = tuple(
                process.objects.add(object_id(process.caller, sequence, index))
                for index in range(returns)
            )
            call = PendingCall(
                task=sequence,
                method=function.encode(),
                payload=payload,
                entries=entries,
                flags=flags,
                returns=returns,
                arguments=arguments,
                kept=kept,
                retries=retries,
                options=options,
                parent=process.parent_task(),
            )
            call.on_done = lambda done: self._done(pool, done)
            call.on_failed = lambda failed, error: self._failed(pool, failed, error)
            awaited = [entry for entry in arguments if entry.pending]
        if dumped.actors:
            self._hold(call, dumped)
        with process.lock:
            if awaited:
                self._awaiting[call.task] = call
                process.objects.when_settled(awaited, lambda: self._make_ready(pool, call))
            else:
                pool.ready.append(call)
                self._dispatch(pool)
        process.run_after()
        process.flush()
        return entries

    def _hold(self, call: PendingCall, dumped: Dumped) -> None:
        """Keep the actors whose handles are inside alive until the task is resolved.

        The holds are this process's own: which executor will run the task is not known
        yet, and it may run more than once.
        """
        holds = [self._process.hold(actor) for actor in dumped.actors]
        call.kept.extend(hold for hold in holds if hold is not None)

    def _make_ready(self, pool: _Pool, call: PendingCall) -> None:
        process = self._process
        process.sender.settle_argument_errors(call.arguments)
        with process.lock:
            if self._awaiting.pop(call.task, None) is None:
                return  # it was cancelled meanwhile
            pool.ready.append(call)
            self._dispatch(pool)
        process.flush()
        process.listener.wake()

    # -- dispatching -------------------------------------------------------------------

    def _dispatch(self, pool: _Pool) -> None:
        """Give ready tasks to idle executors.  Under the lock."""
        process = self._process
        if not pool.ready:
            return
        idle = [lease for lease in pool.leases.values() if lease.task is None]
        if pool.shape.target.spread:  # the one that has run nothing for longest
            idle.sort(key=lambda lease: lease.idle_since)
        for lease in idle:
            call = pool.ready.popleft()
            lease.task = call
            box = process.outbox(lease.actor)
            call.sent = False
            box.add(call, process.next_sequence())
            process.dirty[box] = None
            if not pool.ready:
                return
        if len(pool.requested) < min(len(pool.ready), _MOST_REQUESTS):
            process.listener.wake()  # tick() asks for more

    def _done(self, pool: _Pool, call: PendingCall) -> None:
        """A task is resolved: its executor is free.  Under the lock."""
        for lease in pool.leases.values():
            if lease.task is call:
                lease.task = None
                lease.idle_since = monotonic()
                lease.calls += 1
                if lease.calls == pool.shape.max_calls:
                    self._return(lease, pool)
                break
        self._dispatch(pool)

    def _failed(self, pool: _Pool, call: PendingCall, error: Exception) -> bool:
        """A task's executor died: whether it is tried again.  Under the lock."""
        if isinstance(error, RuntimeEnvSetupError):  # it would fail for the next one too
            self._give_up(call, error)
            return False
        if call.retries == 0:
            crashed = WorkerCrashedError(
                f"the process that ran task {call.method.decode()} died and it may not be "
                f"retried (again): {error}"
            )
            crashed.__cause__ = error
            self._give_up(call, crashed)
            return False
        call.retries -= 1 if call.retries > 0 else 0
        pool.ready.appendleft(call)
        return True

    def _give_up(self, call: PendingCall, error: ActorsError) -> None:
        for entry in call.entries:
            self._process.objects.settle(entry, ObjectState.FAILED, error=error)

    def _fail_ready(self, pool: _Pool, error: ActorsError) -> None:
        ready = list(pool.ready)
        pool.ready.clear()
        for call in ready:
            self._give_up(call, error)
            call.kept.clear()
            call.arguments = ()
            for entry in call.entries:
                if entry.refs <= 0:
                    self._process.housekeeping.discard(entry)

    # -- leasing -------------------------------------------------------------------------

    def _request(self, pool: _Pool) -> None:
        process = self._process
        actor = new_actor_id()
        with process.lock:
            pool.requested[actor] = monotonic()
            self._by_executor[actor] = pool
        shape = pool.shape
        creation = Creation(
            "",
            "tasks",
            0,
            0,
            b"",
            shape.sys_path,
            environment=shape.environment,
            group=shape.target.group,
            captures=shape.captures,
        )
        spec = ActorSpec(
            actor_id=actor.hex(),
            job_id=process.job_id,
            caller_id=process.caller.hex(),
            kind="executor",
            class_name="tasks",
            resources=dict(shape.resources),
            blob=encode_creation(process.signer, actor, creation),
            target=shape.target,
        )
        try:
            create_actor(process, spec)
        except BaseException:
            with process.lock:
                pool.requested.pop(actor, None)
                self._by_executor.pop(actor, None)
            raise

    def placed(self, actor: bytes) -> None:
        """An executor that was asked for has its resources: it may be given tasks."""
        process = self._process
        with process.lock:
            pool = self._by_executor.get(actor)
            if pool is None or pool.requested.pop(actor, None) is None:
                return
            pool.leases[actor] = _Lease(actor, idle_since=monotonic())
            hold = process.holds.add(actor, f"{process.caller.hex()}/p")
            process.outbox(actor).kept = hold
            self._dispatch(pool)
        process.flush()

    def died(self, actor: bytes, error: ActorsError) -> None:
        """An actor is dead; if it was an executor, forget it and go on with others.

        Where it could not be set up, others of its shape can't be either: the tasks fail.
        """
        process = self._process
        with process.lock:
            pool = self._by_executor.pop(actor, None)
            if pool is None:
                return
            pool.requested.pop(actor, None)
            pool.leases.pop(actor, None)
            box = process.outboxes.pop(actor, None)
            if box is not None:
                box.kept = None
            if isinstance(error, RuntimeEnvSetupError):
                self._fail_ready(pool, error)
            self._dispatch(pool)
        process.run_after()
        process.listener.wake()

    def reclaim(self) -> None:
        """Somebody waits for resources: return idle executors at once."""
        self._reclaim = True

    @property
    def next_due(self) -> float:
        """When :meth:`tick` has something to do."""
        pools = [p for p in self._pools.values() if p.leases or p.requested or p.ready]
        return monotonic() + 0.25 if pools else float("inf")

    def tick(self, now: float) -> None:
        """Ask for executors that are wanted; return those that are not.  Background thread."""
        if self._process.closed:
            return
        reclaim, self._reclaim = self._reclaim, False
        for pool in list(self._pools.values()):
            self._request_wanted(pool)
            self._return_idle(pool, now, 0.0 if reclaim else _LINGER)
            self._cancel_unwanted(pool, now)
            self._check_requested(pool, now)

    def _request_wanted(self, pool: _Pool) -> None:
        try:
            while len(pool.requested) < min(len(pool.ready), _MOST_REQUESTS):
                self._request(pool)
        except CallerGone as error:  # the next renewal of the lease acts on it
            logger.debug("no executor was asked for: %s", error)
        except (TaskUnschedulableError, TaskPlacementGroupRemoved) as error:
            with self._process.lock:
                self._fail_ready(pool, error)
            self._process.run_after()
            self._process.listener.wake_all()
        except InsufficientResources as error:
            # There was a node when the tasks were submitted, and there may be again.
            if not pool.short:
                logger.warning("%d tasks wait for a node to come back: %s", len(pool.ready), error)
            pool.short = True
        else:
            pool.short = False

    def _return_idle(self, pool: _Pool, now: float, linger: float) -> None:
        process = self._process
        with process.lock:
            for lease in list(pool.leases.values()):
                if lease.task is None and not pool.ready and now - lease.idle_since >= linger:
                    self._return(lease, pool)
        process.flush()

    def _return(self, lease: _Lease, pool: _Pool) -> None:
        """Let an executor end.  Under the lock."""
        del pool.leases[lease.actor]
        self._by_executor.pop(lease.actor, None)
        self._process.outbox(lease.actor).kept = None  # its hold goes behind the tasks

    def _cancel_unwanted(self, pool: _Pool, now: float) -> None:
        """Withdraw requests that no task waits for any more."""
        process = self._process
        with process.lock:
            if pool.ready or not pool.requested:
                pool.unwanted_since = 0.0
                return
            if not pool.unwanted_since:
                pool.unwanted_since = now
                return
            if now - pool.unwanted_since < _LINGER:
                return
            unwanted = list(pool.requested)
            pool.requested.clear()
            for actor in unwanted:
                self._by_executor.pop(actor, None)
        for actor in unwanted:
            kill_actor(process, actor, "its caller no longer needs it")

    def _check_requested(self, pool: _Pool, now: float) -> None:
        """Look at requests whose answer may have been lost."""
        process = self._process
        for actor, since in list(pool.requested.items()):
            if now - since < _CHECK_EVERY:
                continue
            record = process.control.actor(actor.hex())
            if record is None or record.state == "DEAD":
                self.died(actor, death_of(process, actor, record))
            elif record.state != "PENDING":
                self.placed(actor)
            elif actor in pool.requested:
                pool.requested[actor] = now

    def leases(self, actor: bytes) -> bool:
        """Whether an actor is an executor that this process has.  Under the lock."""
        return actor in self._by_executor

    def take_waiting(self, task: int) -> PendingCall | None:
        """Take a task back that no executor has yet.  Under the lock."""
        awaiting = self._awaiting.pop(task, None)
        if awaiting is not None:
            return awaiting
        for pool in self._pools.values():
            for call in pool.ready:
                if call.task == task:
                    pool.ready.remove(call)
                    return call
        return None

    def waiting_children(self, parent: bytes) -> list[Entry]:
        """Return values of tasks that a call made and no executor has yet.  Under the lock."""
        waiting = [*self.awaiting, *self.ready]
        return [call.entries[0] for call in waiting if call.parent == parent and call.entries]

    @property
    def awaiting(self) -> list[PendingCall]:
        """Tasks whose ref arguments are not there.  Under the lock."""
        return list(self._awaiting.values())

    @property
    def ready(self) -> list[PendingCall]:
        """Tasks that wait for an executor.  Under the lock."""
        return [call for pool in self._pools.values() for call in pool.ready]

    @property
    def busy(self) -> bool:
        """Whether a task waits or runs.  Under the lock."""
        return bool(self._awaiting) or any(
            pool.ready or any(lease.task for lease in pool.leases.values())
            for pool in self._pools.values()
        )

    def statistics(self) -> Mapping[str, int]:
        """Return how many executors and ready tasks there are."""
        pools = self._pools.values()
        return {
            "leases": sum(len(pool.leases) for pool in pools),
            "requested": sum(len(pool.requested) for pool in pools),
            "ready": sum(len(pool.ready) for pool in pools),
        }

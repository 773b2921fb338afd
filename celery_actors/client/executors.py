"""Stateless tasks: executors are leased, tasks go to those that are free.

An executor is a process like an actor's, with a mailbox of its own, that runs any
function.  This process asks for as many as it has tasks that are ready (their ref
arguments are there), gives them tasks (see :mod:`celery_actors.client.leases`), and returns
those that idle.  So a task that waits for arguments or for its turn holds no executor,
exactly-once and order come from the mailbox as for any call, and a task whose executor dies
is tried on another.

Short tasks wait in a mailbox behind others.  When those take long, the executor is told not
to begin what waits; it answers which of them it never will, and these are given to others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from celery_actors.client.cancelling import withdraw_waiting
from celery_actors.client.creation import create_actor, kill_actor
from celery_actors.client.growth import Growth
from celery_actors.client.holds import Hold
from celery_actors.client.leases import Lease, Pool, Shape
from celery_actors.client.objects import Entry, ObjectState
from celery_actors.client.outbox import PendingCall, TaskWithdrawn
from celery_actors.client.recovery import death_of
from celery_actors.control import (
    ActorSpec,
    CallerGone,
    InsufficientResources,
)
from celery_actors.exceptions import (
    ActorsError,
    RuntimeEnvSetupError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from celery_actors.ids import new_actor_id, object_id
from celery_actors.protocol.calls import CallFlag, decode_method
from celery_actors.protocol.creation import Creation, encode_creation
from celery_actors.protocol.withdrawals import Withdrawal

if TYPE_CHECKING:
    from celery_actors.client.process import Process
    from celery_actors.serialization import Dumped

__all__ = ["Executors"]

logger = logging.getLogger(__name__)

_LINGER = 1.0
_CHECK_EVERY = 2.0
_CORES_EVERY = 10.0


class Executors:
    """All pools of one process.  Its tables are guarded by the process's lock."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pools: dict[Shape, Pool] = {}
        self._growth: dict[Pool, Growth] = {}
        self._cores = 1  # of the cluster's machines, looked up when executors are asked for
        self._cores_due = 0.0
        self._by_executor: dict[bytes, Pool] = {}
        self._awaiting: dict[int, PendingCall] = {}  # tasks whose ref arguments are not there
        self._reclaim = False
        self._taken_back = 0

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
        payload, flags, kept = process.sender.payload(dumped, b"")
        if options:
            flags |= CallFlag.OPTIONS
        if arguments:
            flags |= CallFlag.ARGUMENTS
            process.recovery.resolve_foreign([e for e in arguments if e.foreign and e.pending])
        if dumped.actors:
            kept = (*kept, *self._holds(dumped))
        with process.lock:
            pool = self._pool(shape)
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
        with process.lock:
            if awaited:
                self._awaiting[call.task] = call
                process.objects.when_settled(awaited, lambda: self._make_ready(pool, call))
                send = True
            else:
                pool.ready.append(call)
                send = self._dispatch(pool)
        process.run_after()
        if send:
            process.flush()
        return entries

    def _pool(self, shape: Shape) -> Pool:
        """Return the pool for tasks of that shape.  Under the lock."""
        pool = self._pools.get(shape)
        if pool is None:
            pool = self._pools[shape] = Pool(shape)
            self._growth[pool] = Growth(pool)
        return pool

    def _holds(self, dumped: Dumped) -> list[Hold]:
        """Return what keeps the actors whose handles are inside alive until a task is resolved.

        The holds are this process's own: which executor will run the task is not known
        yet, and it may run more than once.
        """
        holds = [self._process.hold(actor) for actor in dumped.actors]
        return [hold for hold in holds if hold is not None]

    def _make_ready(self, pool: Pool, call: PendingCall) -> None:
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

    def _dispatch(self, pool: Pool) -> bool:
        """Give ready tasks to executors; whether to send at once.  Under the lock."""
        if not pool.ready:
            return False
        process, send, now = self._process, False, monotonic()
        for lease, call in pool.give(now):
            box = process.outbox(lease.actor)
            call.sent = False
            send = process.sender.enqueue(box, call, process.next_sequence()) or send
            if len(lease.tasks) == 2:
                process.listener.wake()  # tick() sees to it that it does not wait for long
        growth = self._growth[pool]
        if growth.look_at <= now and growth.wanted(now, self._cores):
            process.listener.wake()  # tick() asks for more
        return send

    def _done(self, pool: Pool, call: PendingCall) -> None:
        """A task is resolved: its executor may have another.  Under the lock."""
        now, lease = monotonic(), pool.holder(call)
        if lease is not None:
            self._growth[pool].finished(call, lease, now)
        lease = pool.done(call, now)
        if lease is not None and lease.calls == pool.shape.max_calls:
            self._return(lease, pool)
        self._dispatch(pool)

    def _failed(self, pool: Pool, call: PendingCall, error: Exception) -> bool:
        """A task's executor died: whether it is tried again.  Under the lock."""
        lease = pool.holder(call)
        begun = lease is None or lease.is_first(call)
        pool.take_back(call)
        if isinstance(error, TaskWithdrawn):
            self._again(pool, [call])
            return True
        if lease is not None:
            lease.died = True
        if isinstance(error, RuntimeEnvSetupError):  # it would fail for the next one too
            self._give_up(call, error)
            return False
        if call.cancelled is not None:
            self._give_up(call, call.cancelled)
            return False
        if begun and call.retries == 0:
            crashed = WorkerCrashedError(
                f"the process that ran task {decode_method(call.method)} died and it may not be "
                f"retried (again): {error}"
            )
            crashed.__cause__ = error
            self._give_up(call, crashed)
            return False
        if begun and call.retries > 0:
            call.retries -= 1
        call.alone = True
        pool.ready.appendleft(call)
        return True

    def taken_back(self, withdrawal: Withdrawal) -> None:
        """An executor will not begin tasks that waited in it: others may."""
        actor, begun, taken = withdrawal
        process = self._process
        with process.lock:
            pool, box = self._by_executor.get(actor), process.outboxes.get(actor)
            if pool is None or box is None:
                return
            calls = box.withdraw(begun, taken)
            for call in calls:
                pool.take_back(call)
            self._taken_back += len(calls)
            self._again(pool, calls)
        process.flush()

    def _again(self, pool: Pool, calls: Sequence[PendingCall]) -> None:
        """Give tasks to others that an executor has not begun.  Under the lock."""
        for call in reversed(calls):
            if call.cancelled is None:
                pool.ready.appendleft(call)
            else:  # whether that executor was told in time or not
                self.drop(call, call.cancelled)
        self._dispatch(pool)

    def _give_up(self, call: PendingCall, error: ActorsError) -> None:
        for entry in call.entries:
            self._process.objects.settle(entry, ObjectState.FAILED, error=error)

    def drop(self, call: PendingCall, error: ActorsError) -> None:
        """Give up a task that no executor has.  Under the lock."""
        self._give_up(call, error)
        call.kept = ()
        call.arguments = ()
        for entry in call.entries:
            if entry.refs <= 0:
                self._process.housekeeping.discard(entry)

    def _fail_ready(self, pool: Pool, error: ActorsError) -> None:
        ready = list(pool.ready)
        pool.ready.clear()
        for call in ready:
            self.drop(call, error)

    # -- leasing -------------------------------------------------------------------------

    def _request(self, pool: Pool) -> None:
        process = self._process
        actor = new_actor_id()
        with process.lock:
            pool.requested[actor] = monotonic()
            self._by_executor[actor] = pool
        shape = pool.shape
        home, home_place = process.environments.home()
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
            home=home,
            home_place=home_place,
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
            pool.leases[actor] = Lease(actor, idle_since=monotonic())
            hold = process.holds.add(actor, f"{process.caller.hex()}/p")
            box = process.outbox(actor)
            box.kept, box.private = hold, True
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

    def doubt(self) -> None:
        """What executors said may have been lost."""
        with self._process.lock:
            for pool in self._pools.values():
                pool.doubt()

    def reclaim(self) -> None:
        """Somebody waits for resources: return idle executors at once."""
        self._reclaim = True

    @property
    def next_due(self) -> float:
        """When :meth:`tick` has something to do.  Under the lock."""
        pools = [p for p in self._pools.values() if p.leases or p.requested or p.ready]
        if not pools:
            return float("inf")
        due = (self._growth[pool].look_at for pool in pools if pool.ready)
        return min(monotonic() + 0.25, *(pool.next_due for pool in pools), *due)

    def tick(self, now: float) -> None:
        """Ask for executors that are wanted; return those that are not.  Background thread."""
        if self._process.closed:
            return
        reclaim, self._reclaim = self._reclaim, False
        for pool in list(self._pools.values()):
            self._request_wanted(pool, now)
            self._take_back_overdue(pool, now)
            self._return_idle(pool, now, 0.0 if reclaim else _LINGER)
            self._cancel_unwanted(pool, now)
            self._check_requested(pool, now)

    def _request_wanted(self, pool: Pool, now: float) -> None:
        if pool.ready:
            self._look_up_cores(now)
        with self._process.lock:
            wanted = self._growth[pool].wanted(now, self._cores)
        try:
            for _ in range(wanted):
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

    def _look_up_cores(self, now: float) -> None:
        if now < self._cores_due:
            return
        cores: dict[str, int] = {}
        for node in self._process.control.nodes():  # several may share a machine
            cores[node.host] = max(node.cores, cores.get(node.host, 1))
        self._cores, self._cores_due = max(1, sum(cores.values())), now + _CORES_EVERY

    def _take_back_overdue(self, pool: Pool, now: float) -> None:
        with self._process.lock:
            overdue = pool.overdue(now)
        for lease in overdue:
            withdraw_waiting(self._process, lease.actor)

    def _return_idle(self, pool: Pool, now: float, linger: float) -> None:
        process = self._process
        with process.lock:
            for lease in list(pool.leases.values()):
                if not lease.tasks and not pool.ready and now - lease.idle_since >= linger:
                    self._return(lease, pool)
        process.flush()

    def _return(self, lease: Lease, pool: Pool) -> None:
        """Let an executor end.  Under the lock."""
        del pool.leases[lease.actor]
        self._by_executor.pop(lease.actor, None)
        self._process.outbox(lease.actor).kept = None  # its hold goes behind the tasks

    def _cancel_unwanted(self, pool: Pool, now: float) -> None:
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

    def _check_requested(self, pool: Pool, now: float) -> None:
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
            pool.ready or any(lease.tasks for lease in pool.leases.values())
            for pool in self._pools.values()
        )

    def statistics(self) -> Mapping[str, int]:
        """Return how many executors and ready tasks there are, and how many were taken back."""
        with self._process.lock:
            pools = self._pools.values()
            return {
                "leases": sum(len(pool.leases) for pool in pools),
                "requested": sum(len(pool.requested) for pool in pools),
                "ready": sum(len(pool.ready) for pool in pools),
                "taken_back": self._taken_back,
            }

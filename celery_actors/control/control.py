"""Control: all that may be asked of, and done to, the cluster's records."""

from __future__ import annotations

from collections.abc import Sequence

import redis

from celery_actors.control.actors import Actors
from celery_actors.control.callers import Callers, Jobs
from celery_actors.control.groups import Groups
from celery_actors.control.holds import Holds
from celery_actors.control.nodes import Nodes
from celery_actors.control.observations import Observations
from celery_actors.control.packages import Packages
from celery_actors.control.records import (
    ActorRecord,
    ActorSpec,
    Creation,
    EndedCaller,
    Expired,
    GroupRecord,
    GroupRemoval,
    GroupSpec,
    JobMetrics,
    JobRecord,
    Killed,
    Missed,
    NamedActor,
    NodeRecord,
    NodeRemoval,
    NodeSpec,
    Placement,
    Reaped,
    StartOrder,
)
from celery_actors.control.scripts import Scripts


class Control:
    """The cluster's records.

    Guarantees: each method is one atomic step; each may be repeated (by a client that lost
    the answer, by a second janitor) and then does nothing more.  Lists that are lost with
    an answer are not lost for good: :meth:`missed` tells each node again what it has
    not acted on.  Methods that free resources return the placements that became possible;
    the caller passes these on to the nodes.

    Thread-safe.  Redis's errors pass through.
    """

    def __init__(self, redis: redis.Redis, prefix: str = "ca:") -> None:
        scripts = Scripts(redis, prefix)
        self._nodes = Nodes(scripts)
        self._callers = Callers(scripts)
        self._jobs = Jobs(scripts)
        self._actors = Actors(scripts)
        self._holds = Holds(scripts)
        self._groups = Groups(scripts)
        self._packages = Packages(scripts)
        self._observations = Observations(scripts)

    # Nodes

    def register_node(self, node: NodeSpec, lease: float) -> tuple[Placement, ...]:
        """Add a node; requests that waited may be placed on it.

        :raises NodeNameTaken: a node whose lease runs has that name.
        """
        return self._nodes.register(node, lease)

    def renew_node(self, node_id: str, lease: float) -> bool:
        """Renew a node's lease; False: the lease was lost and the record is gone."""
        return self._nodes.renew(node_id, lease)

    def missed(self, node_id: str) -> Missed:
        """Return what messages to a node may have been lost."""
        return self._nodes.missed(node_id)

    def remove_node(self, node_id: str, cause: str) -> NodeRemoval:
        """Take a node out, with its reservations, its actors and its processes as callers.

        What it had begun is dead of ``cause``; what it had only been given is placed anew.
        """
        return self._nodes.remove(node_id, cause)

    def nodes(self) -> list[NodeRecord]:
        """Return the nodes whose leases run, by name."""
        return self._nodes.all()

    def expired(self) -> Expired:
        """Return the nodes and callers whose leases have ended by Redis's clock."""
        return self._nodes.expired()

    # Jobs and callers

    def register_caller(
        self,
        caller_id: str,
        job_id: str,
        *,
        lease: float | None,
        node_id: str | None,
        driver: bool = False,
        namespace: str = "",
    ) -> None:
        """Add a process that makes calls: with a lease of its own, or ending with its node.

        A driver begins its job.

        :param namespace: of the job's names.
        :raises NodeGone: the node has been removed.
        """
        self._callers.register(caller_id, job_id, lease, node_id, driver, namespace)

    def renew_caller(self, caller_id: str, lease: float) -> bool:
        """Renew a caller's lease; False: the lease was lost and the record is gone."""
        return self._callers.renew(caller_id, lease)

    def caller_alive(self, caller_id: str) -> bool:
        """Return whether the caller is registered and was not ended."""
        return self._callers.is_alive(caller_id)

    def end_caller(self, caller_id: str) -> EndedCaller:
        """End a process's record, its holds, and with a driver its job.

        Handles inside calls that are yet to run keep their actors; calling again (see
        :meth:`lingering_callers`) releases those whose calls have run meanwhile.
        """
        return self._callers.end(caller_id)

    def settle_calls(self, caller_id: str, actor_id: str) -> EndedCaller:
        """Drop what a caller's calls to one actor hold: the actor has its last message."""
        return self._callers.settle_calls(caller_id, actor_id)

    def lingering_callers(self) -> list[str]:
        """Return the ended callers whose queued calls still hold actors."""
        return self._callers.lingering()

    def jobs(self) -> list[JobRecord]:
        """Return the jobs that run, and those ended and not yet forgotten."""
        return self._jobs.all()

    def job_actors(self, job_id: str) -> list[str]:
        """Return the job's actors that are not yet reaped."""
        return self._jobs.actors(job_id)

    def forget_job(self, job_id: str) -> None:
        """Delete what is left of a job: records of its dead actors, definitions, packages,
        indexes.

        With actors that are detached, or dead and not yet reaped, the job's definitions stay
        until the last of these is gone.
        """
        self._jobs.forget(job_id)

    def define(self, job_id: str, digest: str, blob: bytes) -> None:
        """Store a pickled class or function of a job, once."""
        self._jobs.define(job_id, digest, blob)

    def definition(self, job_id: str, digest: str) -> bytes | None:
        """Return a pickled class or function of a job."""
        return self._jobs.definition(job_id, digest)

    def store_package(self, job_id: str, digest: str, index: int, chunk: bytes) -> bool:
        """Store a chunk of a package for a job; False: the job is over."""
        return self._packages.store(job_id, digest, index, chunk)

    def complete_package(self, job_id: str, digest: str, count: int) -> bool:
        """Say that all chunks of a package are stored; False: the job is over."""
        return self._packages.complete(job_id, digest, count)

    def store_module(self, job_id: str, name: str, entry: bytes) -> bool:
        """Say once where a module of the job's driver is; False: the job is over."""
        return self._packages.store_module(job_id, name, entry)

    def module(self, job_id: str, name: str) -> bytes | None:
        """Return what is said of a module of the job's driver; None: nothing yet."""
        return self._packages.module(job_id, name)

    def package_chunks(self, job_id: str, digest: str) -> int | None:
        """Return the number of a package's chunks; None: it is not stored (completely)."""
        return self._packages.count(job_id, digest)

    def package_chunk(self, job_id: str, digest: str, index: int) -> bytes | None:
        """Return a chunk of a package."""
        return self._packages.chunk(job_id, digest, index)

    def keep_calls(self, job_id: str, rows: Sequence[str]) -> None:
        """Keep what an ended process tells of its calls, as long as the job's records.

        Of all the job's processes the last 5,000 are kept; of a job that is gone, none.
        """
        self._observations.keep_calls(job_id, rows)

    def kept_calls(self, job_id: str) -> list[bytes]:
        """Return what ended processes of the job have told, the oldest first."""
        return self._observations.kept_calls(job_id)

    def add_metrics(self, caller_id: str, number: int, what: str) -> None:
        """Write what a process has measured; a number that was written already is ignored.

        :param what: JSON: ``describe`` metrics by name, ``add`` to sums and ``set`` gauges,
            by series.
        """
        self._observations.add_metrics(caller_id, number, what)

    def metrics(self) -> list[JobMetrics]:
        """Return what the processes of each job have measured."""
        return self._observations.metrics()

    # Actors

    def create(self, spec: ActorSpec) -> Creation:
        """Create an actor, held by its caller; placed at once, or waiting in the line.

        Does nothing where an actor of that name lives; the answer says which.

        :raises InsufficientResources: no node has as much, even with nothing running.
        :raises CallerGone: the caller is not registered.
        :raises GroupRemoved: it is to run in a placement group that is no more.
        """
        return self._actors.create(spec)

    def provide(self, actor_id: str, blob: bytes) -> Creation:
        """Bring what an actor was created without: it is placed, or waits in the line.

        :raises GroupRemoved: it was to run in a placement group that is no more.
        """
        return self._actors.provide(actor_id, blob)

    def named_actor(self, namespace: str, name: str) -> NamedActor | None:
        """Return the living actor of that name.

        A name is free as soon as its actor is on its way out: dead, or without any hold.
        """
        return self._actors.named(namespace, name)

    def actor_names(self) -> list[tuple[str, str]]:
        """Return namespace and name of all actors that have a name."""
        return self._actors.names()

    def actor_handle(self, actor_id: str) -> bytes | None:
        """Return what was kept to make handles to an actor; None: unknown or dead."""
        return self._actors.handle(actor_id)

    def actor(self, actor_id: str) -> ActorRecord | None:
        """Return an actor's record; None when unknown, or dead for long."""
        return self._actors.read(actor_id)

    def actors(self, job_id: str | None = None) -> list[ActorRecord]:
        """Return the records of all actors, or of a job's."""
        return self._actors.all(job_id)

    def begin(
        self, actor_id: str, incarnation: str, node_id: str, caller_id: str
    ) -> StartOrder | None:
        """Claim a placement for its node (PLACED to STARTING); None: stale or claimed before.

        :param caller_id: under which the process will make calls.  With the same one it can be
            repeated until the process is there.
        """
        return self._actors.begin(actor_id, incarnation, node_id, caller_id)

    def alive(self, actor_id: str, incarnation: str, pid: int) -> bool:
        """Say that the constructor returned; False: no longer wanted, the process exits.

        True with a record that is STOPPING: all holds went meanwhile, it drains at once.
        """
        return self._actors.alive(actor_id, incarnation, pid)

    def failed(self, actor_id: str, incarnation: str, cause: str, error: bytes | None) -> bool:
        """An actor says of itself that it is over; resources stay reserved until reaped."""
        return self._actors.failed(actor_id, incarnation, cause, error)

    def kill(self, actor_id: str, cause: str, no_restart: bool = True) -> Killed:
        """Make an actor dead at once; resources of its process stay reserved until reaped.

        With ``no_restart=False`` one that may be begun again is not dead: only its process
        is to be killed.
        """
        return self._actors.kill(actor_id, cause, no_restart)

    def reaped(
        self,
        actor_id: str,
        incarnation: str,
        node_id: str,
        cause: str,
        interrupted: Sequence[str] = (),
    ) -> Reaped:
        """Say that the process is gone: resources are released; the actor waits to be begun
        again if it may be, and is dead if it was not.

        :param interrupted: ids of the calls that had started and were not committed.
        """
        return self._actors.reaped(actor_id, incarnation, node_id, cause, interrupted)

    def block(self, actor_id: str, incarnation: str) -> tuple[Placement, ...]:
        """Give the actor's CPUs back while a call in it waits."""
        return self._actors.block(actor_id, incarnation)

    def unblock(self, actor_id: str, incarnation: str) -> None:
        """Take the CPUs again, at once, even if others have them."""
        self._actors.unblock(actor_id, incarnation)

    def sweep_unstarted(self, older_than: float = 30.0) -> tuple[Placement, ...]:
        """Place anew, elsewhere if possible, what nodes were given and have not begun."""
        return self._actors.sweep_unstarted(older_than)

    def waiting(self) -> int:
        """Return how many requests wait for resources: actors and placement groups."""
        return self._actors.waiting()

    # Placement groups

    def create_group(self, spec: GroupSpec) -> None:
        """Create a placement group: all bundles are reserved at once, or it waits in the line.

        One that no nodes are large enough for waits, too: there may be others later.

        :raises GroupNameTaken: another group has the name.
        :raises CallerGone: the caller is not registered.
        """
        self._groups.create(spec)

    def group(self, group_id: str) -> GroupRecord | None:
        """Return a placement group; None when unknown, or removed for long."""
        return self._groups.read(group_id)

    def groups(self) -> list[GroupRecord]:
        """Return all placement groups, those removed a short while ago among them."""
        return self._groups.all()

    def named_group(self, namespace: str, name: str) -> str | None:
        """Return the id of the placement group of that name."""
        return self._groups.named(namespace, name)

    def remove_group(self, group_id: str, cause: str) -> GroupRemoval:
        """Remove a placement group; what runs in it, or waits for it, is dead of ``cause``.

        What nothing runs on is free at once, the rest when the processes are reaped.
        """
        return self._groups.remove(group_id, cause)

    # Holds

    def hold(self, actor_id: str, owner: str) -> bool:
        """Keep an actor alive; False: it stops, is dead or unknown, or the owner has ended."""
        return self._holds.write(actor_id, owner)

    def move_hold(self, actor_id: str, source: str, target: str) -> bool:
        """Pass a hold on, with no moment in between; False as :meth:`hold`, and nothing moved."""
        return self._holds.move(actor_id, source, target)

    def release_hold(self, actor_id: str, owner: str) -> bool:
        """Drop a hold; True: none is left, and the actor is to be told to drain."""
        return self._holds.release(actor_id, owner)

    def holds(self, actor_id: str) -> set[str]:
        """Return the owners' tokens."""
        return self._holds.of(actor_id)

    def borrow(self, objects: Sequence[str], owner: str) -> bool:
        """Keep objects of other processes stored; False: the owner has ended."""
        return self._holds.borrow(objects, owner)

    def give_back(self, objects: Sequence[str], owner: str) -> list[str]:
        """Drop what :meth:`borrow` wrote; who made them is told where nobody else has a hold.

        :returns: those that nobody keeps and whose maker has ended: they are to be released here.
        """
        return self._holds.give_back(objects, owner)

    def lent(self, objects: Sequence[str]) -> list[bool]:
        """Return for each object whether other processes or objects keep it."""
        return self._holds.lent(objects)

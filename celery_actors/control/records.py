"""What the control records hold, as frozen values.

Ids are lower-case hex; amounts of resources are integers of 1/10000; times are seconds of
Redis's clock since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from celery_actors.control.states import ActorState, GroupState, ray_name
from celery_actors.control.targets import ANYWHERE, LabelRule, Target

ActorKind = Literal["actor", "executor"]

WHOLE = 10_000
"""One of a resource."""

OWN_LABELS = "celery_actors/"
"""What the names of labels begin with that nodes give themselves, for placement alone."""


def amounts(units: Mapping[str, int]) -> dict[str, float]:
    """Return amounts of resources as people write them: ``{"CPU": 5000}`` is half a CPU."""
    return {name: amount / WHOLE for name, amount in units.items()}


# The fields of an actor's hash that a record is read from, in the order of `record.lua`.
RECORD_FIELDS = (
    "state",
    "kind",
    "class",
    "job",
    "caller",
    "node",
    "incarnation",
    "shape",
    "gpus",
    "cause",
    "error",
    "pid",
    "created",
    "since",
    "stopping",
    "detached",
    "name",
    "namespace",
    "restarts",
    "max_restarts",
)


# The same of a placement group.
GROUP_FIELDS = (
    "state",
    "name",
    "namespace",
    "job",
    "detached",
    "shape",
    "nodes",
    "created",
    "placed",
    "since",
    "attempts",
)

GroupStrategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node as it presents itself.

    :ivar gpus: the ids behind ``resources["GPU"]``.
    :ivar cores: that its processes may use, whatever CPUs it was declared to have.
    :ivar address: its IP address, as others see it.
    """

    node_id: str
    name: str
    host: str
    pid: int
    resources: Mapping[str, int]
    gpus: tuple[int, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    cores: int = 1
    address: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A live node.

    ``available`` may be below zero for CPU: calls that had given theirs back while they
    waited have taken them again.  ``free_gpus`` are those that nobody uses a part of.
    """

    node_id: str
    name: str
    host: str
    pid: int
    resources: Mapping[str, int]
    available: Mapping[str, int]
    gpus: tuple[int, ...]
    free_gpus: tuple[int, ...]
    gpu_used: Mapping[int, int]
    labels: Mapping[str, str]
    reservations: int
    joined_at: float
    lease_ends: float
    cores: int
    address: str

    @property
    def shown_labels(self) -> dict[str, str]:
        """The labels without those that serve placement alone."""
        return {k: v for k, v in self.labels.items() if not k.startswith(OWN_LABELS)}


@dataclass(frozen=True, slots=True)
class Placement:
    """An incarnation of an actor, and the node that is to run it (or runs it)."""

    actor_id: str
    incarnation: str
    node_id: str
    kind: ActorKind
    caller_id: str


@dataclass(frozen=True, slots=True)
class Missed:
    """What messages to a node may have been lost.

    ``unstarted`` placements to begin, ``stale`` processes to kill and report with ``reaped()``,
    ``stopping`` actors to be told to drain.
    """

    unstarted: tuple[Placement, ...] = ()
    stale: tuple[Placement, ...] = ()
    stopping: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EndedCaller:
    """What follows from the end of a caller.

    ``stopping`` actors lost their last hold: the reader sends them STOP.  ``stop``: processes
    to be killed on their nodes.  ``cancelled`` actors never ran; their mailboxes can go.
    """

    stopping: tuple[str, ...] = ()
    stop: tuple[Placement, ...] = ()
    cancelled: tuple[str, ...] = ()
    placements: tuple[Placement, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeRemoval:
    """What follows from the end of a node: else as :class:`EndedCaller`.

    ``dead`` actors, those that it had not reaped yet among them: their mailboxes can go.
    """

    dead: tuple[str, ...] = ()
    stopping: tuple[str, ...] = ()
    stop: tuple[Placement, ...] = ()
    cancelled: tuple[str, ...] = ()
    placements: tuple[Placement, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """A placement group to be created.

    :ivar creator_actor: the actor that creates it, if one does.
    :ivar bundles: what each reserves.
    :ivar labels: for each bundle what its node's labels must be; empty: nothing for any.
    :ivar name: unique in ``namespace`` among groups that are not removed; empty: none.
    """

    group_id: str
    job_id: str
    caller_id: str
    bundles: tuple[Mapping[str, int], ...]
    strategy: GroupStrategy = "PACK"
    labels: tuple[tuple[LabelRule, ...], ...] = ()
    name: str = ""
    namespace: str = ""
    detached: bool = False
    creator_actor: str = ""


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A placement group as the cluster knows it.

    :ivar node_ids: for each bundle its node; ``None``: it is not reserved (any more).
    :ivar placed_at: when all bundles were last reserved.
    :ivar attempts: how often its turn came to be placed.
    """

    group_id: str
    state: GroupState
    name: str
    namespace: str
    job_id: str
    detached: bool
    strategy: GroupStrategy
    bundles: tuple[Mapping[str, int], ...]
    node_ids: tuple[str | None, ...]
    created_at: float
    placed_at: float | None
    state_since: float
    attempts: int


@dataclass(frozen=True, slots=True)
class GroupRemoval:
    """What follows from the removal of a group: as :class:`EndedCaller`."""

    stop: tuple[Placement, ...] = ()
    cancelled: tuple[str, ...] = ()
    placements: tuple[Placement, ...] = ()


@dataclass(frozen=True, slots=True)
class Expired:
    """Ids whose leases have ended by Redis's clock."""

    nodes: tuple[str, ...]
    callers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A driver's job; ``ended_at`` is None while it runs, ``actors`` counts those not reaped."""

    job_id: str
    driver_id: str
    began_at: float
    ended_at: float | None
    actors: int


@dataclass(frozen=True, slots=True)
class JobMetrics:
    """What a job's processes have measured.

    ``sums`` has descriptions by the metric's name and sums by series; ``gauges`` those of
    each process by series.
    """

    job_id: str
    sums: Mapping[str, str]
    gauges: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """An actor to be created.

    :ivar blob: kept for its node, unread; ``None``: arguments are still being made, and
        :meth:`Control.provide` brings it.
    :ivar name: unique in ``namespace`` among actors that live; empty: none.
    :ivar max_restarts: how often it is begun again when its process is lost; -1: always.
    :ivar handle: what a process needs to make a handle to it, kept unread.
    """

    actor_id: str
    job_id: str
    caller_id: str
    kind: ActorKind
    class_name: str
    resources: Mapping[str, int]
    blob: bytes | None
    detached: bool = False
    name: str = ""
    namespace: str = ""
    max_restarts: int = 0
    handle: bytes = b""
    target: Target = ANYWHERE


@dataclass(frozen=True, slots=True)
class Creation:
    """``placed`` False: it waits for resources.

    ``existing``: nothing was created, since that actor has the name.
    """

    placed: bool
    placements: tuple[Placement, ...]
    existing: str | None = None


@dataclass(frozen=True, slots=True)
class ActorRecord:
    """An actor as the cluster knows it."""

    actor_id: str
    state: ActorState
    kind: ActorKind
    class_name: str
    job_id: str
    caller_id: str
    node_id: str | None
    incarnation: str | None
    resources: Mapping[str, int]
    gpu_ids: tuple[int, ...]
    cause: str
    error: bytes | None
    pid: int | None
    created_at: float
    state_since: float
    stopping: bool
    detached: bool
    holds: int
    name: str = ""
    namespace: str = ""
    restarts: int = 0
    max_restarts: int = 0

    @property
    def ray_state(self) -> str:
        """The state under Ray's name."""
        return ray_name(self.state, self.restarts)

    @property
    def waits(self) -> bool:
        """Whether no process of it has begun (again) yet."""
        return self.state in ("UNREADY", "PENDING", "PLACED")


@dataclass(frozen=True, slots=True)
class StartOrder:
    """A claimed placement: all that a node needs to start the process.

    :ivar namespace: the job's, in which the process looks names up.
    :ivar attempts: how often calls that the death of earlier processes interrupted were
        begun, by call id (hex of caller and sequence).
    :ivar unknown: the last process was lost with the record of what it had begun.
    """

    actor: ActorRecord
    blob: bytes
    gpu_ids: tuple[int, ...]
    namespace: str = ""
    attempts: Mapping[str, int] = field(default_factory=dict)
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Killed:
    """``node``: the process to be killed there, None when it has none."""

    node: Placement | None
    was_pending: bool
    already_dead: bool
    placements: tuple[Placement, ...] = ()


@dataclass(frozen=True, slots=True)
class Reaped:
    """``died_now``: the record learnt of the death from this.

    ``over``: the actor is dead, so that its mailbox can go; else it is (or was) begun again.
    """

    died_now: bool
    placements: tuple[Placement, ...]
    over: bool = True


@dataclass(frozen=True, slots=True)
class NamedActor:
    """An actor that was found by its name."""

    actor_id: str
    handle: bytes

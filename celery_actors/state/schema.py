"""What the state API returns: dataclasses under Ray's names, readable as mappings too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

__all__ = [
    "ActorState",
    "JobState",
    "NodeState",
    "PlacementGroupState",
    "StateSchema",
    "TaskState",
    "WorkerState",
]


# Of fields that are filled in only where details are asked for.
_DETAIL = {"detail": True}


class StateSchema:
    """What all have in common: ``state.node_id``, ``state["node_id"]``, ``state.get("node_id")``.

    Times are milliseconds since the epoch.
    """

    @classmethod
    def list_columns(cls, detail: bool = True) -> list[str]:
        """Return the names of the fields; with ``detail=False`` of those always filled in."""
        every = fields(cls)  # type: ignore[arg-type]  # subclasses are dataclasses
        return [column.name for column in every if detail or not column.metadata.get("detail")]

    def asdict(self) -> dict[str, Any]:
        """Return the fields as a dictionary."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    def get(self, key: str, default: Any = None) -> Any:
        """Return a field, or ``default`` where there is none of that name."""
        return getattr(self, key) if key in self.list_columns() else default

    def keys(self) -> list[str]:
        """Return the names of the fields."""
        return self.list_columns()

    def __getitem__(self, key: str) -> Any:
        if key not in self.list_columns():
            raise KeyError(key)
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        return key in self.list_columns()

    def __iter__(self) -> Iterator[str]:
        return iter(self.list_columns())


@dataclass
class ActorState(StateSchema):
    """An actor.

    :ivar state: ``DEPENDENCIES_UNREADY``: arguments of its constructor are not there;
        ``PENDING_CREATION``: it waits for resources or its constructor runs; ``ALIVE``;
        ``RESTARTING``; ``DEAD``.
    :ivar death_cause: of a dead one: ``{"actor_died_error_context": {"error_message": …}}``,
        or ``"creation_task_failure_context"`` where its constructor raised.
    :ivar is_detached: whether it outlives its handles and its driver.
    """

    actor_id: str
    class_name: str
    state: str
    job_id: str
    name: str | None
    node_id: str | None
    pid: int | None
    ray_namespace: str | None
    required_resources: Mapping[str, float] | None = field(default=None, metadata=_DETAIL)
    gpu_ids: list[int] | None = field(default=None, metadata=_DETAIL)
    death_cause: dict[str, Any] | None = field(default=None, metadata=_DETAIL)
    is_detached: bool | None = field(default=None, metadata=_DETAIL)
    num_restarts: int | None = field(default=None, metadata=_DETAIL)
    start_time_ms: int | None = field(default=None, metadata=_DETAIL)
    end_time_ms: int | None = field(default=None, metadata=_DETAIL)


@dataclass
class TaskState(StateSchema):
    """A call of an actor's method, the making of an actor, or a task.

    :ivar task_id: as ``ref.task_id()`` and Celery's tools have it.
    :ivar state: ``PENDING_ARGS_AVAIL``: ref arguments are not there;
        ``PENDING_NODE_ASSIGNMENT``: it has no process yet; ``SUBMITTED_TO_WORKER``: it is in
        the mailbox; ``RUNNING``; ``FINISHED``; ``FAILED``.
    :ivar type: ``ACTOR_TASK``, ``ACTOR_CREATION_TASK`` or ``NORMAL_TASK``.
    :ivar actor_id: of an actor's calls.
    :ivar error_type: ``TASK_EXECUTION_EXCEPTION``, ``TASK_CANCELLED`` or ``ACTOR_UNAVAILABLE``.
    """

    task_id: str
    attempt_number: int
    name: str
    state: str
    job_id: str
    actor_id: str | None
    type: str
    func_or_class_name: str
    parent_task_id: str | None
    node_id: str | None
    worker_id: str | None
    worker_pid: int | None
    error_type: str | None
    start_time_ms: int | None = field(default=None, metadata=_DETAIL)
    end_time_ms: int | None = field(default=None, metadata=_DETAIL)
    error_message: str | None = field(default=None, metadata=_DETAIL)


@dataclass
class NodeState(StateSchema):
    """A node.

    :ivar node_ip: the name of its host, as it gave it itself.
    :ivar is_head_node: no node is.
    """

    node_id: str
    node_ip: str
    is_head_node: bool
    state: str
    state_message: str | None
    node_name: str
    resources_total: Mapping[str, float]
    labels: Mapping[str, str]
    resources_available: Mapping[str, float] | None = field(default=None, metadata=_DETAIL)
    pid: int | None = field(default=None, metadata=_DETAIL)
    start_time_ms: int | None = field(default=None, metadata=_DETAIL)
    end_time_ms: int | None = field(default=None, metadata=_DETAIL)


@dataclass
class PlacementGroupState(StateSchema):
    """A placement group.

    :ivar state: ``PENDING``, ``CREATED``, ``RESCHEDULING`` (a node of it was lost), ``REMOVED``.
    :ivar bundles: of each the index, the node (``None``: not reserved) and the resources.
    """

    placement_group_id: str
    name: str
    creator_job_id: str
    state: str
    strategy: str
    bundles: list[dict[str, Any]] | None = field(default=None, metadata=_DETAIL)
    is_detached: bool | None = field(default=None, metadata=_DETAIL)


@dataclass
class JobState(StateSchema):
    """A driver's job.

    :ivar status: ``RUNNING``, or ``SUCCEEDED`` once its driver is gone, however it went.
    :ivar actors: how many of its actors and executors are not gone.
    """

    job_id: str
    type: str
    status: str
    driver_info: dict[str, Any] | None
    actors: int
    start_time: int | None
    end_time: int | None


@dataclass
class WorkerState(StateSchema):
    """A process: an actor's, an executor's of tasks, or a driver."""

    worker_id: str
    is_alive: bool
    worker_type: str
    job_id: str
    node_id: str | None
    pid: int | None
    actor_id: str | None = field(default=None, metadata=_DETAIL)
    class_name: str | None = field(default=None, metadata=_DETAIL)

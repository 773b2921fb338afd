"""The state API: what there is in the cluster, and how it does."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TypeVar

from celery_actors.control import ActorRecord, GroupRecord, JobRecord, NodeRecord, amounts
from celery_actors.state.filters import Filter, check_filters, matching
from celery_actors.state.schema import (
    ActorState,
    JobState,
    NodeState,
    PlacementGroupState,
    TaskState,
    WorkerState,
)
from celery_actors.state.source import Source, open_source
from celery_actors.state.tasks import milliseconds, task_states

__all__ = [
    "DEFAULT_LIMIT",
    "DEFAULT_TIMEOUT",
    "get_actor",
    "get_job",
    "get_node",
    "get_placement_group",
    "get_task",
    "get_worker",
    "list_actors",
    "list_jobs",
    "list_nodes",
    "list_placement_groups",
    "list_tasks",
    "list_workers",
]

DEFAULT_LIMIT = 100
DEFAULT_TIMEOUT = 30
_EVERYTHING = 1_000_000

_T = TypeVar("_T")


def list_actors(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[ActorState]:
    """Return the actors, also those that died within the last ten minutes, the newest first.

    :param address: of the cluster; ``None``: this program's, else the one that is found.  No
        cluster is started to be looked at.
    :param filters: ``(field, "=" or "!=", value)``, all of which must hold.
    :param limit: return at most so many.
    :param timeout: seconds; accepted here, needed where processes are asked.
    :param detail: fill in also the fields that are shown with details only.
    :param raise_on_missing_output: see :func:`list_tasks`.
    :raises ValueError: there is no such field or predicate.
    :raises ConnectionFailed: there is no cluster, or it can't be reached.

    Example::

        list_actors(filters=[("state", "=", "ALIVE"), ("class_name", "=", "Counter")])
    """
    del timeout, raise_on_missing_output
    checked = check_filters(ActorState, filters)
    with open_source(address) as source:
        records = [r for r in source.control.actors() if r.kind == "actor"]
    states = [_actor(record) for record in sorted(records, key=lambda r: -r.created_at)]
    return matching(states, checked, limit, detail)


def list_tasks(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[TaskState]:
    """Return calls and tasks: what waits, what runs, and then what ended, the last first.

    Every process is asked.  It knows the last 1,000 calls that it ran, and what it waits for
    itself; other drivers than this one can't be asked.  Of processes that ended the last
    5,000 calls of a job are known, but nothing of those that were killed.

    :param timeout: seconds to wait at most for all to answer.
    :param raise_on_missing_output: False returns what the others told when one did not.
    :raises ActorsError: a process did not answer in time.

    For the rest see :func:`list_actors`.
    """
    checked = check_filters(TaskState, filters)
    most = _EVERYTHING if checked else limit
    with open_source(address) as source:
        states = _tasks(source, most, timeout, raise_on_missing_output)
    return matching(states, checked, limit, detail)


def list_nodes(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[NodeState]:
    """Return the nodes that are alive, by name.  See :func:`list_actors`."""
    del timeout, raise_on_missing_output
    checked = check_filters(NodeState, filters)
    with open_source(address) as source:
        states = [_node(record) for record in source.control.nodes()]
    return matching(states, checked, limit, detail)


def list_jobs(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[JobState]:
    """Return the jobs that run, and ended ones of which something is left, the newest first.

    See :func:`list_actors`.
    """
    del timeout, raise_on_missing_output
    checked = check_filters(JobState, filters)
    with open_source(address) as source:
        records = sorted(source.control.jobs(), key=lambda record: -record.began_at)
    return matching([_job(record) for record in records], checked, limit, detail)


def list_placement_groups(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[PlacementGroupState]:
    """Return the placement groups, also those removed a short while ago, the newest first.

    See :func:`list_actors`.
    """
    del timeout, raise_on_missing_output
    checked = check_filters(PlacementGroupState, filters)
    with open_source(address) as source:
        records = sorted(source.control.groups(), key=lambda record: -record.created_at)
    return matching([_group(record) for record in records], checked, limit, detail)


def list_workers(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[WorkerState]:
    """Return the processes: drivers, actors' and executors'.  See :func:`list_tasks`."""
    checked = check_filters(WorkerState, filters)
    with open_source(address) as source:
        states = [
            WorkerState(job.driver_id, True, "DRIVER", job.job_id, None, None)
            for job in source.control.jobs()
            if job.ended_at is None
        ]
        reports = source.reports(source.control.actors(), 0, timeout, raise_on_missing_output)
        states += [
            WorkerState(
                worker_id=report.worker_id,
                is_alive=True,
                worker_type="WORKER",
                job_id=report.job_id,
                node_id=report.node_id,
                pid=report.pid,
                actor_id=report.actor_id if report.kind == "actor" else None,
                class_name=report.class_name,
            )
            for report in reports
            if report.kind != "driver"
        ]
    return matching(states, checked, limit, detail)


def get_actor(
    id: str,  # noqa: A002 - Ray's name
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> ActorState | None:
    """Return an actor with all details; ``None``: there is none, or it died long ago."""
    return _only(list_actors(address, [("actor_id", "=", id)], timeout=timeout, detail=True))


def get_node(
    id: str,  # noqa: A002 - Ray's name
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> NodeState | None:
    """Return a node with all details; ``None``: there is none that is alive."""
    return _only(list_nodes(address, [("node_id", "=", id)], timeout=timeout, detail=True))


def get_job(
    id: str,  # noqa: A002 - Ray's name
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> JobState | None:
    """Return a job; ``None``: there is none, or it is over and forgotten."""
    return _only(list_jobs(address, [("job_id", "=", id)], timeout=timeout, detail=True))


def get_placement_group(
    id: str,  # noqa: A002 - Ray's name
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> PlacementGroupState | None:
    """Return a placement group; ``None``: there is none, or it was removed long ago."""
    found = list_placement_groups(
        address, [("placement_group_id", "=", id)], timeout=timeout, detail=True
    )
    return _only(found)


def get_worker(
    id: str,  # noqa: A002 - Ray's name
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> WorkerState | None:
    """Return a process with all details; ``None``: there is none that is alive."""
    return _only(list_workers(address, [("worker_id", "=", id)], timeout=timeout, detail=True))


def get_task(
    id: str,  # noqa: A002 - Ray's name
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> TaskState | list[TaskState] | None:
    """Return a call with all details; ``None``: nobody knows of it (any more).

    :param id: ``ref.task_id()``, with or without its dashes.
    :returns: of a call that was tried several times a list, one for each attempt.
    """
    try:
        wanted = str(uuid.UUID(id))
    except ValueError:
        return None
    found = list_tasks(address, [("task_id", "=", wanted)], timeout=timeout, detail=True)
    return found if len(found) > 1 else _only(found)


# -- records to states ----------------------------------------------------------------------


def _only(states: list[_T]) -> _T | None:
    return states[0] if states else None


def _tasks(source: Source, most: int, timeout: float, all_needed: bool) -> list[TaskState]:
    actors = source.control.actors()
    jobs = [job.job_id for job in source.control.jobs()]
    # Asked after them: who ends meanwhile has left its calls by the time that it is missed.
    reports = source.reports(actors, most, timeout, all_needed)
    reports = [*source.ended(jobs), *reports]
    return task_states(reports, {actor.actor_id: actor for actor in actors})


def _actor(record: ActorRecord) -> ActorState:
    dead = record.state == "DEAD"
    return ActorState(
        actor_id=record.actor_id,
        class_name=record.class_name,
        state=record.ray_state,
        job_id=record.job_id,
        name=record.name or None,
        node_id=record.node_id,
        pid=record.pid,
        ray_namespace=record.namespace or None,
        required_resources=amounts(record.resources),
        gpu_ids=list(record.gpu_ids),
        death_cause=_death_cause(record) if dead else None,
        is_detached=record.detached,
        num_restarts=record.restarts,
        start_time_ms=milliseconds(record.created_at),
        end_time_ms=milliseconds(record.state_since) if dead else None,
    )


def _death_cause(record: ActorRecord) -> dict[str, dict[str, object]]:
    context: dict[str, object] = {
        "error_message": record.cause,
        "actor_id": record.actor_id,
        "class_name": record.class_name,
        "node_id": record.node_id,
        "pid": record.pid,
    }
    failed = "creation_task_failure_context" if record.error else "actor_died_error_context"
    return {failed: context}


def _group(record: GroupRecord) -> PlacementGroupState:
    return PlacementGroupState(
        placement_group_id=record.group_id,
        name=record.name,
        creator_job_id=record.job_id,
        state=record.state,
        strategy=record.strategy,
        bundles=[
            {"bundle_index": index, "node_id": node, "unit_resources": amounts(bundle)}
            for index, (bundle, node) in enumerate(
                zip(record.bundles, record.node_ids, strict=True)
            )
        ],
        is_detached=record.detached,
    )


def _node(record: NodeRecord) -> NodeState:
    return NodeState(
        node_id=record.node_id,
        node_ip=record.host,
        is_head_node=False,
        state="ALIVE",
        state_message=None,
        node_name=record.name,
        resources_total=amounts(record.resources),
        labels=record.shown_labels,
        resources_available=amounts(record.available),
        pid=record.pid,
        start_time_ms=milliseconds(record.joined_at),
    )


def _job(record: JobRecord) -> JobState:
    return JobState(
        job_id=record.job_id,
        type="DRIVER",
        status="RUNNING" if record.ended_at is None else "SUCCEEDED",
        driver_info={"id": record.driver_id},
        actors=record.actors,
        start_time=milliseconds(record.began_at),
        end_time=milliseconds(record.ended_at),
    )

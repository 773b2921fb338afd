"""How many actors and calls there are, by class or function and by state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from celery_actors.protocol.reports import ACTOR_CALL, CREATION, TASK
from celery_actors.state.listing import DEFAULT_TIMEOUT, list_actors, list_tasks
from celery_actors.state.schema import ActorState, TaskState

__all__ = ["summarize_actors", "summarize_tasks", "summary_of_actors", "summary_of_tasks"]

_EVERYTHING = 1_000_000


def summarize_actors(
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    raise_on_missing_output: bool = True,
) -> dict[str, Any]:
    """Count the actors by class and state (as Ray's ``summarize_actors``).

    :returns: ``{"cluster": {"summary": {class: {"class_name": …, "state_counts": …}},
        "total_actors": …, "summary_by": "class"}}``.

    For the arguments and what is raised see :func:`list_actors`.
    """
    del raise_on_missing_output
    return {"cluster": summary_of_actors(list_actors(address, None, _EVERYTHING, timeout))}


def summarize_tasks(
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    raise_on_missing_output: bool = True,
) -> dict[str, Any]:
    """Count the calls that :func:`list_tasks` knows by function and state.

    :returns: ``{"cluster": {"summary": {name: {"func_or_class_name": …, "type": …,
        "state_counts": …}}, "total_tasks": …, "total_actor_tasks": …,
        "total_actor_scheduled": …, "summary_by": "func_name"}}``.
    """
    tasks = list_tasks(address, None, _EVERYTHING, timeout, False, raise_on_missing_output)
    return {"cluster": summary_of_tasks(tasks)}


def summary_of_actors(actors: Iterable[ActorState]) -> dict[str, Any]:
    """Count actors that were listed."""
    summary: dict[str, dict[str, Any]] = {}
    total = 0
    for actor in actors:
        total += 1
        name = actor.class_name
        of_class = summary.setdefault(name, {"class_name": name, "state_counts": Counter()})
        of_class["state_counts"][actor.state] += 1
    return {"summary": _plain(summary), "total_actors": total, "summary_by": "class"}


def summary_of_tasks(tasks: Iterable[TaskState]) -> dict[str, Any]:
    """Count calls that were listed."""
    summary: dict[str, dict[str, Any]] = {}
    totals: Counter[str] = Counter()
    for task in tasks:
        totals[task.type] += 1
        of_name = summary.setdefault(
            task.name,
            {"func_or_class_name": task.name, "type": task.type, "state_counts": Counter()},
        )
        of_name["state_counts"][task.state] += 1
    return {
        "summary": _plain(summary),
        "total_tasks": totals[TASK],
        "total_actor_tasks": totals[ACTOR_CALL],
        "total_actor_scheduled": totals[CREATION],
        "summary_by": "func_name",
    }


def _plain(summary: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {**fields, "state_counts": dict(fields["state_counts"])}
        for name, fields in summary.items()
    }

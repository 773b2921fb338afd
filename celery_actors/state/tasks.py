"""Calls, as the processes that run them and those that wait for them tell of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from celery_actors.control import ActorRecord
from celery_actors.protocol.reports import ACTOR_CALL, TASK, CallReport, ProcessReport
from celery_actors.state.schema import TaskState

__all__ = ["milliseconds", "task_states"]


def milliseconds(seconds: float | None) -> int | None:
    """Return a time in the state API's unit."""
    return None if seconds is None else round(seconds * 1000)


def task_states(
    reports: Iterable[ProcessReport], actors: Mapping[str, ActorRecord]
) -> list[TaskState]:
    """Merge what processes tell: what waits first, then what runs, then the last that ended.

    A call that its caller waits for and its actor knows is as its actor says.

    :param actors: the records, by id.
    """
    reports = list(reports)
    known: dict[tuple[str, int], TaskState] = {}
    for report in reports:
        for call in report.calls:
            known[call.task_id, call.attempt] = _executed(report, call)
    ids = {task_id for task_id, _ in known}
    waiting: dict[str, TaskState] = {}
    for report in reports:
        for call in report.pending:
            if call.task_id not in ids:
                waiting[call.task_id] = _waiting(report, call, actors)
    executed = sorted(known.values(), key=_order)
    return [*waiting.values(), *executed]


def _order(state: TaskState) -> tuple[int, int]:
    if state.end_time_ms is None:
        return 0, state.start_time_ms or 0
    return 1, -state.end_time_ms


def _executed(report: ProcessReport, call: CallReport) -> TaskState:
    return TaskState(
        task_id=call.task_id,
        attempt_number=call.attempt,
        name=call.name or call.function,
        state=call.state,
        job_id=report.job_id,
        actor_id=None if call.kind == TASK else call.actor_id,
        type=call.kind,
        func_or_class_name=call.function,
        parent_task_id=call.parent,
        node_id=report.node_id,
        worker_id=report.worker_id,
        worker_pid=report.pid,
        error_type=call.error_type,
        start_time_ms=milliseconds(call.start),
        end_time_ms=milliseconds(call.end),
        error_message=call.error_message,
    )


def _waiting(
    report: ProcessReport, call: CallReport, actors: Mapping[str, ActorRecord]
) -> TaskState:
    actor = actors.get(call.actor_id or "")
    function, state = call.function, call.state
    if call.kind == ACTOR_CALL and actor is not None:
        function = f"{actor.class_name}.{function}"
        if state == "SUBMITTED_TO_WORKER" and actor.state in ("PENDING", "PLACED"):
            state = "PENDING_NODE_ASSIGNMENT"  # the mailbox has it, but there is no process
    if call.kind != ACTOR_CALL and actor is not None and actor.state == "STARTING":
        state = "RUNNING" if call.kind != TASK else state
    return TaskState(
        task_id=call.task_id,
        attempt_number=0,
        name=call.name or function,
        state=state,
        job_id=report.job_id,
        actor_id=None if call.kind == TASK else call.actor_id,
        type=call.kind,
        func_or_class_name=function,
        parent_task_id=call.parent,
        node_id=actor.node_id if actor is not None else None,
        worker_id=None,
        worker_pid=None,
        error_type=None,
    )

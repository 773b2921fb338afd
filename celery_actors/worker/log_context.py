"""Where a line of a log is written: in which job, process, actor and call."""

from __future__ import annotations

from celery_actors.client.current import inherited_process
from celery_actors.worker.context import current_assignment

__all__ = ["log_context"]


def log_context() -> dict[str, str]:
    """Return what there is of it, by Ray's names; nothing before ``init()``.

    Ids are those of :class:`~celery_actors.runtime_context.RuntimeContext`.  A child that user code
    forked has its parent's: to log is no reason to connect to the servers.
    """
    process, assignment = inherited_process(), current_assignment()
    if process is None:
        return {}
    found = {
        "job_id": process.job_id,
        "worker_id": process.caller.hex(),
        "node_id": process.node_id or process.beside,
        "actor_id": assignment.actor_id,
        "actor_name": assignment.actor_name,
    }
    if assignment.node_id is not None:  # a driver runs no calls, and does not load what runs them
        from celery_actors.worker.runner import current_run

        run = current_run.get()
        if run is not None:
            found["task_id"] = run.task_id
            found["task_name"] = run.options.name or run.function
            found["task_func_name"] = run.function
    return {name: value for name, value in found.items() if value}

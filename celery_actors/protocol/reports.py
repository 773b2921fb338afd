"""What a process tells those who ask what it runs: as JSON, through Celery's remote control.

Nothing of it is trusted or unpickled: ids, names, times and the texts of errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["CallReport", "ProcessReport", "decode_report", "encode_report"]

ACTOR_CALL, CREATION, TASK = "ACTOR_TASK", "ACTOR_CREATION_TASK", "NORMAL_TASK"


class CallReport(NamedTuple):
    """One call, as the process that runs it or made it knows it.

    :ivar task_id: as Celery writes it.
    :ivar kind: ``ACTOR_TASK``, ``ACTOR_CREATION_TASK`` or ``NORMAL_TASK`` (Ray's names).
    :ivar function: ``"Counter.increment"``, ``"f"``; of an actor's call that waits at its
        caller the method alone.
    :ivar name: the option of that name.
    :ivar state: under Ray's name.
    :ivar start, end: seconds since the epoch.
    :ivar actor_id: the actor that runs it, or will; of a task its executor.
    :ivar parent: the task id of the call that made it, where known.
    """

    task_id: str
    kind: str
    function: str
    name: str | None
    state: str
    attempt: int = 0
    start: float | None = None
    end: float | None = None
    error_type: str | None = None
    error_message: str | None = None
    actor_id: str | None = None
    parent: str | None = None


class ProcessReport(NamedTuple):
    """A process and its calls.

    :ivar worker_id: its caller id, hex.
    :ivar class_name: of its actor; ``"tasks"`` for an executor.
    :ivar pending: calls that it made and whose results it waits for.
    """

    worker_id: str
    job_id: str
    node_id: str | None
    pid: int
    kind: str
    actor_id: str | None
    class_name: str
    calls: tuple[CallReport, ...] = ()
    pending: tuple[CallReport, ...] = ()


def encode_report(report: ProcessReport) -> dict[str, Any]:
    """Return the report in a form that JSON can carry."""
    return report._asdict()


def decode_report(fields: Mapping[str, Any]) -> ProcessReport:
    """Read a report that came as JSON.

    :raises TypeError, KeyError: it is none.
    """
    calls = {name: tuple(CallReport(*row) for row in fields[name]) for name in ("calls", "pending")}
    return ProcessReport(**{**fields, **calls})

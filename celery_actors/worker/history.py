"""What this process runs and ran lately, for the state API and the timeline.

The executors pay for it with one append to a deque a call (see
:attr:`Activity.recent <celery_actors.worker.activity.Activity.recent>`); everything else
is done for those who ask: in the consumer's thread, through Celery's remote control.  A
process that ends of itself leaves its last calls with the job's records.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from celery.worker.control import inspect_command

from celery_actors.client.pending import pending_calls
from celery_actors.ids import celery_id
from celery_actors.protocol.reports import (
    ACTOR_CALL,
    CREATION,
    TASK,
    CallReport,
    ProcessReport,
    encode_report,
)
from celery_actors.worker.activity import Activity, failure_of

if TYPE_CHECKING:
    from celery_actors.client.process import Process
    from celery_actors.worker.launch import Launch

__all__ = ["History"]


class History:
    """Reads what :class:`Activity` keeps.  Any thread, but for ``constructed``: the main one."""

    def __init__(self, process: Process, launch: Launch, activity: Activity) -> None:
        self._process = process
        self._launch = launch
        self._activity = activity
        self._kind = TASK if launch.kind == "executor" else ACTOR_CALL
        self._creation: CallReport | None = None

    def constructing(self, creator: bytes, sequence: int) -> None:
        """The constructor begins: it is its creator's first call (an executor has none)."""
        if not sequence:
            return
        launch = self._launch
        self._creation = CallReport(
            task_id=celery_id(creator, sequence),
            kind=CREATION,
            function=f"{launch.class_name}.__init__",
            name=None,
            state="RUNNING",
            attempt=launch.restarts,
            start=time.time(),
            actor_id=launch.actor_id,
        )

    def constructed(self, error: BaseException | None) -> None:
        """The constructor is over."""
        if self._creation is not None:
            self._creation = self._creation._replace(end=time.time(), **_outcome(failure_of(error)))

    def report(self, most: int) -> ProcessReport:
        """Return this process with up to ``most`` of its calls, those that run and the last."""
        launch = self._launch
        return ProcessReport(
            worker_id=launch.caller_id,
            job_id=launch.job_id,
            node_id=launch.node_id,
            pid=os.getpid(),
            kind=launch.kind,
            actor_id=launch.actor_id,
            class_name=launch.class_name,
            calls=tuple(islice(self._calls(), most)),
            pending=pending_calls(self._process, most),
        )

    def leave(self) -> None:
        """Leave the calls that are over to those who ask when this process is gone."""
        report = self.report(self._activity.recent.maxlen or 0)
        about = report._replace(calls=(), pending=())
        over = [call for call in report.calls if call.end is not None]
        rows = [json.dumps([about, call], separators=(",", ":")) for call in reversed(over)]
        if rows:
            self._process.control.keep_calls(report.job_id, rows)

    def _calls(self) -> Iterator[CallReport]:
        """Those that run, then those that are over, the last one first."""
        activity = self._activity
        if self._creation is not None and self._creation.end is None:
            yield self._creation
        for call, since in list(activity.running.values()):
            task_id, function = activity.identity(call)
            yield self._call(task_id, function, None, 0, since)
        for task_id, function, name, attempt, since, end, failure in activity.ended():
            begun = self._call(task_id, function, name, attempt, since)
            yield begun._replace(end=end, **_outcome(failure))
        if self._creation is not None and self._creation.end is not None:
            yield self._creation

    def _call(
        self, task_id: str, function: str, name: str | None, attempt: int, since: float
    ) -> CallReport:
        return CallReport(
            task_id=task_id,
            kind=self._kind,
            function=function,
            name=name,
            state="RUNNING",
            attempt=attempt,
            start=since,
            actor_id=self._launch.actor_id,
        )


def _outcome(failure: tuple[str, str] | None) -> dict[str, Any]:
    if failure is None:
        return {"state": "FINISHED"}
    return {"state": "FAILED", "error_type": failure[0], "error_message": failure[1]}


@inspect_command(args=[("most", int)], signature="[most]")  # type: ignore[untyped-decorator]
def actors_calls(state: Any, most: int = 1000) -> dict[str, Any]:
    """Tell what this actor runs and ran lately, and what it waits for."""
    history: History = state.consumer.controller.history
    return encode_report(history.report(most))

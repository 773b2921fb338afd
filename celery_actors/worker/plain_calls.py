"""Calls of plain Celery clients: JSON in, JSON out, in the form of Celery's own backend."""

from __future__ import annotations

import json
import time
from collections.abc import Container
from typing import Any

from celery_actors.error_copies import state_of
from celery_actors.protocol.concurrency import DEFAULT_GROUP
from celery_actors.tracebacks import formatted, name_of, text_of
from celery_actors.worker.activity import Activity
from celery_actors.worker.commits import Commits
from celery_actors.worker.instance import Instance
from celery_actors.worker.intake import PLAIN_CALLER, PlainCall
from celery_actors.worker.raised import is_a
from celery_actors.worker.runner import Runner

__all__ = ["PlainCalls"]


class PlainCalls:
    """Runs the calls of plain Celery clients.  Used by the executor's threads."""

    def __init__(
        self, instance: Instance, commits: Commits, activity: Activity, runner: Runner
    ) -> None:
        self._instance = instance
        self._commits = commits
        self._activity = activity
        self._runner = runner

    def run(self, call: PlainCall) -> None:
        """Run one call in this thread."""
        observed, started = self.begin(call)
        value: Any = None
        error: BaseException | None = None
        try:
            value = self.invoke(call)
        except BaseException as raised:  # noqa: BLE001 - see worker.raised
            error = raised
        self.end(call, value, error, time.monotonic() - started if observed else None)

    def begin(self, call: PlainCall) -> tuple[bool, float]:
        """A call starts; whether it is observed, and when it started."""
        return self._activity.begin(call), time.monotonic()

    def group(self, call: PlainCall, groups: Container[str]) -> str:
        """Return the concurrency group in which a call runs."""
        try:
            group = self._instance.group_of(call.name)
        except BaseException:  # noqa: BLE001 - of a user's descriptor: the call itself raises it
            return DEFAULT_GROUP
        return group if group is not None and group in groups else DEFAULT_GROUP

    def invoke(self, call: PlainCall) -> Any:
        """Call the method; of an ``async def`` one, returns the coroutine.

        :raises NotImplementedError: the message asks for what an actor doesn't do.
        :raises AttributeError: there is no such public method.
        """
        if call.refusal is not None:
            raise NotImplementedError(call.refusal)
        return self._instance.public_method(call.name)(*call.args, **call.kwargs)

    def end(
        self, call: PlainCall, value: Any, error: BaseException | None, runtime: float | None
    ) -> None:
        """A call is over: have its result committed.

        :param error: what user code raised.
        """
        if error is not None and is_a(error, SystemExit):
            error = self._runner.exited(error, self._instance.describe(call.name))
        if self._runner.crashed:
            return  # as if the process had died by now
        if error is None:
            try:
                text = json.dumps(_result(call.task_id, "SUCCESS", value, None))
            except BaseException as raised:  # noqa: BLE001 - see worker.raised
                error = raised
        if error is not None:
            text = json.dumps(_result(call.task_id, "FAILURE", _exception(error), formatted(error)))
        self._activity.end(call, error, runtime)
        plain = None if call.ignore_result else (call.task_id, text.encode())
        self._commits.add(PLAIN_CALLER, call.sequence, [], plain)


def _exception(error: BaseException) -> dict[str, Any]:
    """The form in which Celery's own backend stores an exception."""
    args = [text_of(arg) for arg in state_of(error).args]
    module = type(error).__module__
    return {"exc_type": name_of(error), "exc_message": args, "exc_module": module}


def _result(task_id: str, status: str, result: Any, trace: str | None) -> dict[str, Any]:
    """The form in which Celery's own backend stores a result."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    return {
        "status": status,
        "result": result,
        "traceback": trace,
        "children": [],
        "date_done": now,
        "task_id": task_id,
    }

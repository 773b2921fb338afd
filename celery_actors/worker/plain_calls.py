"""Calls of plain Celery clients: JSON in, JSON out, in the form of Celery's own backend."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Container
from typing import Any

from celery_actors.protocol.concurrency import DEFAULT_GROUP
from celery_actors.worker.activity import Activity
from celery_actors.worker.commits import Commits
from celery_actors.worker.instance import Instance
from celery_actors.worker.intake import PLAIN_CALLER, PlainCall

__all__ = ["PlainCalls"]


class PlainCalls:
    """Runs the calls of plain Celery clients.  Used by the executor's threads."""

    def __init__(self, instance: Instance, commits: Commits, activity: Activity) -> None:
        self._instance = instance
        self._commits = commits
        self._activity = activity

    def run(self, call: PlainCall) -> None:
        """Run one call in this thread."""
        observed, started = self.begin(call)
        try:
            value, error = self.invoke(call), None
        except Exception as raised:  # noqa: BLE001 - user code raises anything; the getter gets it
            value, error = None, raised
        self.end(call, value, error, time.monotonic() - started if observed else None)

    def begin(self, call: PlainCall) -> tuple[bool, float]:
        """A call starts; whether it is observed, and when it started."""
        return self._activity.begin(call), time.monotonic()

    def group(self, call: PlainCall, groups: Container[str]) -> str:
        """Return the concurrency group in which a call runs."""
        group = self._instance.group_of(call.name)
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
        self, call: PlainCall, value: Any, error: Exception | None, runtime: float | None
    ) -> None:
        """A call is over: have its result committed."""
        try:
            if error is not None:
                raise error
            text = json.dumps(_result(call.task_id, "SUCCESS", value, None))
        except Exception as raised:  # noqa: BLE001 - user code raises anything; the getter gets it
            shown = {
                "exc_type": type(raised).__name__,
                "exc_message": [str(arg) for arg in raised.args],
                "exc_module": type(raised).__module__,
            }
            trace = "".join(traceback.format_exception(raised))
            text = json.dumps(_result(call.task_id, "FAILURE", shown, trace))
            error = raised
        self._activity.end(call, error, runtime)
        plain = None if call.ignore_result else (call.task_id, text.encode())
        self._commits.add(PLAIN_CALLER, call.sequence, [], plain)


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

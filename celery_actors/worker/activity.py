"""What Celery's tools see of an actor: events, counts, the call that runs now, the last ones.

Events are off until ``-E`` or a monitor turns them on.  They are complete up to
:data:`MOST_A_SECOND` calls a second an actor; beyond that a sample is sent (the counts
stay exact).  The executors only append to a deque; the consumer's thread sends.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from celery.worker import state as worker_state

from celery_actors.exceptions import (
    ActorUnavailableError,
    TaskCancelledError,
    TaskError,
    told_by,
)
from celery_actors.ids import celery_id
from celery_actors.protocol.calls import Call
from celery_actors.tracebacks import formatted, name_of, shown, text_of
from celery_actors.worker.plain_messages import PlainCall

__all__ = ["MOST_A_SECOND", "Activity", "failure_of"]

MOST_A_SECOND = 1000
_RECENT = 1000
_SHOWN = 500  # characters of an error's text


class _CurrentCall:
    """The call that runs now, in the form that ``celery inspect active`` shows."""

    def __init__(self, activity: Activity, call: Call | PlainCall, since: float) -> None:
        self._activity = activity
        self._since = since
        self.id, self.name = activity.identity(call)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Return what a monitor is told; arguments are opaque to it."""
        del safe
        return {
            "id": self.id,
            "name": self.name,
            "type": self.name,
            "args": [],
            "kwargs": {},
            "hostname": self._activity.hostname,
            "time_start": self._since,
            "acknowledged": False,
            "delivery_info": {"routing_key": self._activity.queue},
            "worker_pid": self._activity.pid,
        }


class _ActiveCalls:
    """Stands in for Celery's set of active requests: read now and then, never filled."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    def __iter__(self) -> Iterator[_CurrentCall]:
        for call, since in list(self._activity.running.values()):
            yield _CurrentCall(self._activity, call, since)

    def __len__(self) -> int:
        return len(self._activity.running)

    def __contains__(self, request: object) -> bool:
        return False

    def discard(self, request: object) -> None:
        """Nothing is in it that could be taken out."""


class Activity:
    """Written by the executor's threads, read by the consumer's.

    :ivar running: the calls that run, by :func:`id`, and since when (seconds of the epoch).
    :ivar recent: the last calls that ended; read them with :meth:`ended`.
    """

    def __init__(self, hostname: str, queue: str, pid: int, describe: Callable[[str], str]) -> None:
        self.hostname = hostname
        self.queue = queue
        self.pid = pid
        self.describe = describe
        self.running: dict[int, tuple[Call | PlainCall, float]] = {}
        # Caller (of a plain client ``None``), task, method, name, attempt, start, end, failure.
        # Not the call itself: it would keep its arguments.
        self.recent: deque[tuple[Any, ...]] = deque(maxlen=_RECENT)
        self.executed = 0
        self.sampled_out = 0
        self.events_on = False
        self.events: deque[tuple[str, dict[str, Any]]] = deque()
        self.wake: Callable[[], None] = lambda: None
        self._second = 0
        self._sent = 0

    def install(self) -> None:
        """Show the current call to ``celery inspect active``."""
        worker_state.active_requests = _ActiveCalls(self)

    def identity(self, call: Call | PlainCall) -> tuple[str, str]:
        """Return the task id and the name under which monitors see a call."""
        if isinstance(call, PlainCall):
            return call.task_id, self.describe(call.name)
        return celery_id(call.caller, call.task), self.describe(call.method)

    def begin(self, call: Call | PlainCall) -> bool:
        """A call starts; whether events are sent of it."""
        now = time.time()
        self.running[id(call)] = (call, now)
        self.executed += 1
        if not self.events_on:
            return False
        second = int(now)
        if second != self._second:
            self._second, self._sent = second, 0
        if self._sent >= MOST_A_SECOND:
            self.sampled_out += 1
            return False
        self._sent += 1
        uuid, name = self.identity(call)
        self.events.append(
            (
                "task-received",
                {
                    "uuid": uuid,
                    "name": name,
                    "args": "()",
                    "kwargs": "{}",
                    "root_id": uuid,
                    "parent_id": None,
                    "retries": 0,
                    "eta": None,
                    "expires": None,
                },
            )
        )
        self.events.append(("task-started", {"uuid": uuid}))
        self.wake()
        return True

    def revoked(self, call: PlainCall, expired: bool) -> None:
        """A call is not run, since it expired or a client took it back."""
        if self.events_on:
            fields = {"uuid": call.task_id, "terminated": False, "signum": None, "expired": expired}
            self.events.append(("task-revoked", fields))
            self.wake()

    def ended(
        self,
    ) -> Iterator[tuple[str, str, str | None, int, float, float, tuple[str, str] | None]]:
        """Return the last calls that ended, the last one first.

        :returns: task id, function, name, attempt, start, end, and why it failed.
        """
        for caller, task, method, *rest in reversed(_copied(self.recent)):
            task_id = task if caller is None else celery_id(caller, task)
            yield task_id, self.describe(method), *rest

    def end(
        self,
        call: Call | PlainCall,
        error: BaseException | None,
        runtime: float | None,
        attempt: int = 0,
        name: str | None = None,
    ) -> None:
        """A call is over.

        :param runtime: in seconds, of a call of which events are sent, else ``None``.
        :param name: under which tools show it, if it has one of its own.
        """
        _, since = self.running.pop(id(call), (call, 0.0))
        failure = None if error is None else failure_of(error)
        now = time.time()
        if isinstance(call, Call):
            self.recent.append(
                (call.caller, call.task, call.method, name, attempt, since, now, failure)
            )
        else:
            self.recent.append((None, call.task_id, call.name, name, attempt, since, now, failure))
        if runtime is None:
            return
        uuid, name = self.identity(call)
        # The name once more: before a function's first call in this process it is not known.
        fields: dict[str, Any] = {"uuid": uuid, "name": name, "runtime": runtime}
        if error is None:
            self.events.append(("task-succeeded", fields | {"result": ""}))
        else:
            raised = _raised(error)
            fields |= {"exception": shown(raised)[:500], "traceback": formatted(raised)[-4000:]}
            self.events.append(("task-failed", fields))
        self.wake()


def failure_of(error: BaseException | None) -> tuple[str, str] | None:
    """Return the type of an error, under Ray's name, and its text; of none nothing."""
    if error is None:
        return None
    kind, raised = "TASK_EXECUTION_EXCEPTION", _raised(error)
    if issubclass(type(raised), TaskCancelledError):
        kind = "TASK_CANCELLED"
    elif issubclass(type(raised), ActorUnavailableError):
        kind = "ACTOR_UNAVAILABLE"
    return kind, f"{name_of(raised)}: {text_of(raised)}"[:_SHOWN]


def _raised(error: BaseException) -> BaseException:
    """Return what user code raised, of what getters get."""
    if not issubclass(type(error), TaskError):
        return error
    assert isinstance(error, TaskError)
    cause = told_by(error).cause
    return error if cause is None else cause  # not `or`: a user's class may have a `__bool__`


def _copied(ring: deque[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    while True:
        try:
            return list(ring)
        except RuntimeError:  # an executor's thread appended meanwhile
            continue

"""Calls of plain Celery clients: JSON in, results in the form of the app's own backend."""

from __future__ import annotations

import time
from collections.abc import Container
from datetime import datetime, timezone
from typing import Any

from celery import states
from celery.exceptions import TaskRevokedError
from celery.utils.time import maybe_iso8601
from celery.worker import state as worker_state

from celery_actors.protocol.concurrency import DEFAULT_GROUP
from celery_actors.worker.activity import Activity
from celery_actors.worker.commits import Commits
from celery_actors.worker.forked import leave_child
from celery_actors.worker.instance import Instance
from celery_actors.worker.plain_messages import PLAIN_CALLER, PlainCall, values_of
from celery_actors.worker.plain_results import PlainResults
from celery_actors.worker.raised import is_a
from celery_actors.worker.runner import Runner

__all__ = ["PlainCalls"]


class PlainCalls:
    """Runs the calls of plain Celery clients.  Used by the executor's threads."""

    def __init__(
        self,
        instance: Instance,
        commits: Commits,
        activity: Activity,
        results: PlainResults,
        runner: Runner,
    ) -> None:
        self._instance = instance
        self._commits = commits
        self._activity = activity
        self._results = results
        self._runner = runner

    def run(self, call: PlainCall) -> None:
        """Run one call in this thread."""
        if self.is_withdrawn(call):
            return
        observed, started = self.begin(call)
        value: Any = None
        error: BaseException | None = None
        try:
            value = self.invoke(call)
        except BaseException as raised:  # noqa: BLE001 - see worker.raised
            error = raised
        self.end(call, value, error, time.monotonic() - started if observed else None)

    def is_withdrawn(self, call: PlainCall) -> bool:
        """Whether a call has expired or was revoked: then its result says so, and it is over."""
        expired = _has_expired(call)
        if not expired and not _is_revoked(call):
            return False
        error = TaskRevokedError("expired" if expired else "revoked")
        self._activity.revoked(call, expired)
        self._results.tell_dependents(call, states.REVOKED, error)
        ignored = call.ignore_result
        stored = None if ignored else self._results.encode_failure(call, states.REVOKED, error)
        self._commits.add(PLAIN_CALLER, call.sequence, [], stored)
        return True

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
        if self._runner.is_child:
            leave_child(error)
        if error is not None and is_a(error, SystemExit):
            error = self._runner.exited(error, self._instance.describe(call.name))
        if self._runner.crashed:
            return  # as if the process had died by now
        if call.refusal is not None and error is not None:
            self._results.tell_dependents(call, states.FAILURE, error)
        stored = None
        if error is None and not call.ignore_result:
            try:
                stored = self._results.encode(call, value)
            except BaseException as raised:  # noqa: BLE001 - see worker.raised
                error = raised
        if error is not None and not call.ignore_result:
            stored = self._results.encode_failure(call, states.FAILURE, error)
        self._activity.end(call, error, runtime)
        self._commits.add(PLAIN_CALLER, call.sequence, [], stored)


def _has_expired(call: PlainCall) -> bool:
    """Whether the client no longer wants a call to run."""
    wanted = call.request.get("expires")
    if not wanted:
        return False
    try:
        until = maybe_iso8601(wanted)
    except (TypeError, ValueError, AttributeError):  # not in Celery's form: it never expires
        return False
    # Without a zone it is in UTC, as Celery's message protocol 1 has it.
    aware = until if until.tzinfo is not None else until.replace(tzinfo=timezone.utc)
    return bool(datetime.now(timezone.utc) > aware)


def _is_revoked(call: PlainCall) -> bool:
    """Whether ``revoke`` or ``revoke_by_stamped_headers`` named a call."""
    if call.task_id in worker_state.revoked:
        return True
    revoked = worker_state.revoked_stamps
    return any(values & values_of(revoked.get(name)) for name, values in call.stamps.items())

"""The executor: runs an actor's calls, one after another, in the process's main thread.

User code stays in one thread for the actor's whole life (signal handlers, simulators and
GUI libraries want the main one); heartbeats, control commands and acknowledgements live
in the consumer's thread and are never blocked by it.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from celery_actors import serialization
from celery_actors.client.process import Process
from celery_actors.exceptions import ActorsError, SerializationError, TaskError
from celery_actors.ids import object_id
from celery_actors.protocol.calls import Call, CallFlag
from celery_actors.serialization import Dumped
from celery_actors.worker.acks import Acknowledgements
from celery_actors.worker.activity import Activity
from celery_actors.worker.commits import Commits
from celery_actors.worker.instance import Instance
from celery_actors.worker.intake import PLAIN_CALLER, PlainCall, StopCheck

__all__ = ["Executor", "task_error"]

logger = logging.getLogger(__name__)

_ACK_AFTER = 0.02
_COLLECT_EVERY = 1.0
_SYSTEM_METHODS: dict[str, Callable[..., Any]] = {
    "__ray_ready__": lambda _object: True,
    "__ray_call__": lambda object_, function, *args, **kwargs: function(object_, *args, **kwargs),
}

Result = tuple[bytes, int, int, bytes, bool]


def task_error(name: str, error: BaseException) -> TaskError:
    """Return the error that getters of a failed call get; our own frames are left out."""
    if isinstance(error, TaskError):  # of a ref argument, or of a nested get
        cause = error.cause if error.cause is not None else error
        return TaskError(error.function_name, error.remote_traceback, cause)
    trace = error.__traceback__
    here = str(Path(__file__).parent)
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(here):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    return TaskError(name, text, error)


class Executor:
    """Runs calls from the inbox until told to stop."""

    def __init__(
        self,
        process: Process,
        instance: Instance,
        inbox: SimpleQueue[Any],
        commits: Commits,
        acks: Acknowledgements,
        activity: Activity,
        request_acks: Callable[[], None],
        many_unacked: int,
    ) -> None:
        self._process = process
        self._instance = instance
        self._inbox = inbox
        self._commits = commits
        self._acks = acks
        self._activity = activity
        self._request_acks = request_acks
        self._many_unacked = many_unacked
        self._stop: str | None = None

    def run(self) -> str:
        """Run until the actor is over; returns why."""
        while self._stop is None:
            self._run_one(self._next())
        self._commits.settle()
        self._request_acks()
        return self._stop

    def finish_construction(self, creator: bytes, sequence: int) -> None:
        """The constructor counts as its creator's call: commit its place."""
        self._commits.add(creator, sequence, [])
        self._commits.settle()

    def _next(self) -> Any:
        """Return the next item of the inbox; tidy up while there is none."""
        inbox = self._inbox
        if len(self._acks) >= self._many_unacked:
            self._request_acks()
        try:
            return inbox.get_nowait()
        except Empty:
            self._commits.settle()
        if len(self._acks):
            try:
                return inbox.get(timeout=_ACK_AFTER)
            except Empty:
                self._request_acks()
        store = self._process.segments.store
        while store.owns_files:  # others release them by a mark, which wakes nobody
            try:
                return inbox.get(timeout=_COLLECT_EVERY)
            except Empty:
                store.collect()
        return inbox.get()

    def _run_one(self, item: Any) -> None:
        if isinstance(item, list):
            for call in item:
                self._call(call)
                if self._stop is not None:
                    return
        elif isinstance(item, PlainCall):
            self._plain_call(item)
        elif isinstance(item, StopCheck):
            self._stop_check(item)
        elif isinstance(item, str):  # the process itself says that it is over
            self._stop = item

    # -- calls of this package's clients -------------------------------------------

    def _call(self, call: Call) -> None:
        if call.flags & CallFlag.RELEASE:
            self._release(call)
            return
        activity, name = self._activity, call.method
        observed = activity.begin(call)
        started = time.monotonic() if observed else 0.0
        error: BaseException | None = None
        values: Sequence[Any] = ()
        try:
            values = self._values(call, self._invoke(call))
        except SystemExit:
            error = self._exited(call)
        except Exception as raised:  # noqa: BLE001 - user code raises anything; the getter gets it
            error = raised
        if call.flags & CallFlag.STORE_NOTHING:
            results: list[Result] = []
            if error is not None:
                logger.info("a call whose result nobody holds failed: %s: %s", name, error)
        elif error is None:
            results, error = self._results(call, values)
        else:
            results = self._errors(call, error)
        del values
        activity.current = None
        if observed:
            activity.end(call, error, time.monotonic() - started)
        self._commits.add(call.caller, call.sequence, results)

    def _invoke(self, call: Call) -> Any:
        instance, process = self._instance, self._process
        source = f"{call.caller.hex()}/c{call.sequence}:{process.actor_hex}"
        args, kwargs = instance.arguments(call.payload, call.flags, source)
        if call.method in _SYSTEM_METHODS:
            return _SYSTEM_METHODS[call.method](instance.object, *args, **kwargs)
        return instance.target(call.method)(*args, **kwargs)

    def _values(self, call: Call, value: Any) -> Sequence[Any]:
        if call.returns == 1:
            return (value,)
        if call.returns == 0:
            return ()
        try:
            values = tuple(value)
        except TypeError:
            values = (value,)
        if len(values) != call.returns:
            raise ValueError(
                f"{self._instance.describe(call.method)} was called with num_returns="
                f"{call.returns} and returned {len(values)} value(s): return a tuple or list of "
                f"exactly {call.returns}"
            )
        return values

    def _results(
        self, call: Call, values: Sequence[Any]
    ) -> tuple[list[Result], BaseException | None]:
        results: list[Result] = []
        try:
            for index, value in enumerate(values):
                dumped = serialization.dumps(
                    value, lambda: f"the result of {self._instance.describe(call.method)}"
                )
                results.append(self._result(call, index, dumped))
        except (SerializationError, ActorsError, OSError) as error:
            return self._errors(call, error), error
        return results, None

    def _result(self, call: Call, index: int, dumped: Dumped) -> Result:
        oid = object_id(call.caller, call.task, index)
        for actor in dumped.actors:
            # The stored object holds the actor before this process may let it go.
            self._process.control.hold(actor.hex(), f"{call.caller.hex()}/o{call.task}.{index}")
        blob = self._process.codec.encode(oid, dumped)
        return oid, call.task, index, blob, bool(dumped.actors or dumped.objects)

    def _errors(self, call: Call, error: BaseException) -> list[Result]:
        wrapped = (
            error
            if isinstance(error, ActorsError) and not isinstance(error, TaskError)
            else task_error(self._instance.describe(call.method), error)
        )
        results = []
        for index in range(call.returns):
            oid = object_id(call.caller, call.task, index)
            blob = self._process.codec.encode_error(oid, wrapped)
            results.append((oid, call.task, index, blob, False))
        return results

    def _exited(self, call: Call) -> ActorsError:
        from celery_actors.exceptions import ActorDiedError

        self._stop = f"it called sys.exit() in {self._instance.describe(call.method)}"
        return ActorDiedError(
            f"actor {self._process.actor_hex} ended: {self._stop}", self._process.actor_hex
        )

    def _release(self, call: Call) -> None:
        """The caller's hold goes, behind its last call."""
        control, actor = self._process.control, self._process.actor_hex
        if control.release_hold(actor, call.payload.decode()):
            self._stop = "no handle to it is left"
        self._commits.add(call.caller, call.sequence, [])

    def _stop_check(self, item: StopCheck) -> None:
        self._acks.finished[PLAIN_CALLER] = item.sequence
        record = self._process.control.actor(self._process.actor_hex)
        if record is None or record.state in ("STOPPING", "DEAD"):
            self._stop = "no handle to it is left"

    # -- calls of plain Celery clients ----------------------------------------------

    def _plain_call(self, call: PlainCall) -> None:
        activity = self._activity
        observed = activity.begin(call)
        started = time.monotonic()
        failure: Exception | None = None
        try:
            if call.refusal is not None:
                raise NotImplementedError(call.refusal)
            value = self._instance.public_method(call.name)(*call.args, **call.kwargs)
            body = _plain_result(call.task_id, "SUCCESS", value, None)
            text = json.dumps(body)
        except Exception as error:  # noqa: BLE001 - user code raises anything; the getter gets it
            shown = {
                "exc_type": type(error).__name__,
                "exc_message": [str(arg) for arg in error.args],
                "exc_module": type(error).__module__,
            }
            trace = "".join(traceback.format_exception(error))
            text = json.dumps(_plain_result(call.task_id, "FAILURE", shown, trace))
            failure = error
        activity.current = None
        if observed:
            activity.end(call, failure, time.monotonic() - started)
        plain = None if call.ignore_result else (call.task_id, text.encode())
        self._commits.add(PLAIN_CALLER, call.sequence, [], plain)


def _plain_result(task_id: str, status: str, result: Any, trace: str | None) -> dict[str, Any]:
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

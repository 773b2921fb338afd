"""The calls that this process made and whose results it waits for, for the state API."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from celery_actors.client.outbox import Outbox, PendingCall
from celery_actors.ids import celery_id
from celery_actors.protocol.call_options import decode_options, split_options
from celery_actors.protocol.calls import CallFlag, decode_method
from celery_actors.protocol.reports import ACTOR_CALL, CREATION, TASK, CallReport

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = ["pending_calls"]

_NO_CALLS = CallFlag.RELEASE | CallFlag.CANCELLED

# Ray's names: the arguments are not there; it has no process yet; it is on its way.
_ARGUMENTS, _PLACE, _SUBMITTED = (
    "PENDING_ARGS_AVAIL",
    "PENDING_NODE_ASSIGNMENT",
    "SUBMITTED_TO_WORKER",
)


def pending_calls(process: Process, most: int) -> tuple[CallReport, ...]:
    """Return up to ``most`` unresolved calls of this process."""
    with process.lock:
        return tuple(islice(_all(process), most))


def _all(process: Process) -> Iterator[CallReport]:
    for call in process.executors.awaiting:
        yield _task(process, call, _ARGUMENTS, None)
    for call in process.executors.ready:
        yield _task(process, call, _PLACE, None)
    for box in process.outboxes.values():
        constructing = box.constructing
        if constructing is not None:
            state = _PLACE if box.ready else _ARGUMENTS
            yield _report(process, constructing, CREATION, state, box.actor.hex())
        leased = process.executors.leases(box.actor)
        for call in box.unresolved.values():
            if call.flags & _NO_CALLS:
                continue
            state = _state(box, call)
            if leased:
                yield _task(process, call, state, box.actor.hex())
            else:
                yield _report(process, call, ACTOR_CALL, state, box.actor.hex())
        for call in box.late.values():
            yield _report(process, call, ACTOR_CALL, _ARGUMENTS, box.actor.hex())


def _state(box: Outbox, call: PendingCall) -> str:
    if call.sent:
        return _SUBMITTED
    if any(entry.pending and entry.producer != box.actor for entry in call.arguments):
        return _ARGUMENTS
    return _PLACE


def _task(process: Process, call: PendingCall, state: str, actor_id: str | None) -> CallReport:
    report = _report(process, call, TASK, state, actor_id)
    digest = report.function
    return report._replace(function=process.definition_names.get(digest, f"task {digest[:8]}"))


def _report(
    process: Process, call: PendingCall, kind: str, state: str, actor_id: str | None
) -> CallReport:
    options = decode_options(split_options(call.options)[0]) if call.options else None
    return CallReport(
        task_id=celery_id(process.caller, call.task),
        kind=kind,
        function=decode_method(call.method),
        name=options.name if options is not None else None,
        state=state,
        actor_id=actor_id,
        parent=celery_id(call.parent[:8], int.from_bytes(call.parent[8:], "big"))
        if call.parent
        else None,
    )

"""Cancelling calls, from the process that wants it to the one that runs them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from celery_actors.client.creation import kill_actor
from celery_actors.client.objects import Entry, ObjectState
from celery_actors.client.outbox import Outbox, PendingCall
from celery_actors.exceptions import TaskCancelledError, WorkerCrashedError
from celery_actors.ids import actor_hostname, mailbox_name, split_object_id
from celery_actors.protocol.calls import CallFlag
from celery_actors.protocol.orders import CancelledCall, Order, OrderKind

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = ["cancel", "cancel_as_owner", "cancel_children"]

logger = logging.getLogger(__name__)

_WITHDRAWN = TaskCancelledError("the call was cancelled before it ran")
_KILLED = WorkerCrashedError("the task was cancelled with force=True: its process was killed")


def cancel(process: Process, entry: Entry, force: bool, recursive: bool) -> None:
    """Cancel the call that produces an object.

    :param force: kill the process of a task that runs; getting it raises
        ``WorkerCrashedError`` (as Ray).
    :param recursive: also what the call has called.
    :raises ValueError: ``force`` of an actor's call.
    """
    if not entry.pending:
        return
    caller, task, _ = split_object_id(entry.oid)
    if entry.foreign:
        process.results.ask_owner_to_cancel(caller, entry.oid, force, recursive)
        return
    with process.lock:
        tell = _cancel(process, task, force, recursive)
    process.run_after()
    process.listener.wake_all()
    tell()


def _cancel(process: Process, task: int, force: bool, recursive: bool) -> Callable[[], object]:
    """Cancel a call as far as this process can; returns how it tells others.

    Under the lock, all of it: a task that its executor gives back goes to the next, unless it is
    cancelled by then.
    """
    found = _find(process, task)
    if found is None:
        waiting = process.executors.take_waiting(task)
        if waiting is not None:
            process.executors.drop(waiting, _WITHDRAWN)
        return lambda: None
    box, call = found
    if force and not process.executors.leases(box.actor):
        raise ValueError(
            "cancel(force=True) kills the process, which an actor's other calls would not "
            "survive: use kill(actor) to end the actor, or cancel() without force"
        )
    if not call.sent:
        _withdraw(process, box, call)
        return lambda: process.sender.unblock(box)
    call.retries = 0
    call.cancelled = _KILLED if force else _WITHDRAWN
    if force:
        # It fails once nothing more can be committed: a value that was is the one that counts.
        cause = "the task that it ran was cancelled with force=True"
        return lambda: _kill(process, box.actor, cause)
    wanted = CancelledCall(process.caller, task, call.sequence)
    return lambda: _tell(process, box.actor, wanted, recursive)


def cancel_children(process: Process, parent: bytes) -> None:
    """Cancel what a call (by its task id) has called from this process."""
    with process.lock:
        entries = [
            call.entries[0]
            for box in process.outboxes.values()
            for call in (*box.unresolved.values(), *box.late.values())
            if call.parent == parent and call.entries
        ]
        entries += process.executors.waiting_children(parent)
    for entry in entries:
        cancel(process, entry, force=False, recursive=True)


def _find(process: Process, task: int) -> tuple[Outbox, PendingCall] | None:
    for box in process.outboxes.values():
        call = box.late.get(task) or box.unresolved.get(task)
        if call is not None and call.task == task and call.entries:
            return box, call
        renumbers = box.has_been_late or process.executors.leases(box.actor)
        for other in box.unresolved.values() if renumbers else ():
            # One without return values stands where a task was that was taken back.
            if other.task == task and other.entries:
                return box, other
    return None


def _kill(process: Process, executor: bytes, cause: str) -> None:
    kill_actor(process, executor, cause)
    process.recovery.check_later(executor.hex())


def _withdraw(process: Process, box: Outbox, call: PendingCall) -> None:
    """Empty a call that was not sent; its place in the order must still be taken."""
    for entry in call.entries:
        process.objects.settle(entry, ObjectState.FAILED, error=_WITHDRAWN)
    process.housekeeping.calls_failed(box, [call])
    call.kept = ()
    if box.is_postponed(call):  # it has no place yet
        return
    call.flags = call.flags & CallFlag.STORE_NOTHING | CallFlag.CANCELLED
    call.payload, call.options, call.arguments, call.carried = b"", b"", (), ()
    call.holding = False


def withdraw_waiting(process: Process, executor: bytes) -> None:
    """Ask an executor not to begin the tasks of this process that wait in it.

    It answers with a hint that says which: see :meth:`Executors.taken_back`.
    """
    _send(process, executor, Order(OrderKind.WITHDRAW, process.caller.hex()))


def _tell(process: Process, actor: bytes, wanted: CancelledCall, recursive: bool) -> None:
    """Tell the actor's process; what it can't be told yet, it finds noted when it begins."""
    process.results.cancel(actor, wanted.encode())
    process.flush()
    _send(process, actor, Order(OrderKind.CANCEL, wanted.encode().hex(), recursive=recursive))


def _send(process: Process, actor: bytes, order: Order) -> None:
    """Send an order to an actor's process, past its mailbox; none, if there is no process."""
    record = process.control.actor(actor.hex())
    if record is None or record.node_id is None:
        return
    host = next((n.host for n in process.control.nodes() if n.node_id == record.node_id), None)
    if host is None:
        return
    hostname = actor_hostname(record.class_name, record.actor_id, host)
    process.publish(lambda mailbox: mailbox.cancel(hostname, mailbox_name(actor), order))


def cancel_as_owner(process: Process, oid: bytes, force: bool, recursive: bool) -> None:
    """Another process asks to cancel a call of this one."""
    with process.lock:
        entry = process.objects.entries.get(oid)
    if entry is None or entry.foreign:
        return
    try:
        cancel(process, entry, force, recursive)
    except ValueError as error:  # who asked can't know that it is an actor's call
        logger.warning("object %s is cancelled without force: %s", oid.hex(), error)
        cancel(process, entry, force=False, recursive=recursive)

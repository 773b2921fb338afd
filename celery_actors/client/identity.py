"""A process's identity: taking a new caller id after a fork, or when the lease was lost.

PROTOCOL, Callers and sequences: after ``fork`` the child takes a new id, an empty outbox,
fresh locks and its own holds, and abandons (never closes) inherited sockets.  A caller
that finds its own lease lost fails its unresolved calls and takes a new id.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from celery_actors.client.holds import HoldTable
from celery_actors.client.objects import ObjectState, ObjectTable
from celery_actors.exceptions import ActorUnavailableError
from celery_actors.ids import new_caller_id

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = ["after_fork", "lease_lost"]

logger = logging.getLogger(__name__)


def after_fork(process: Process) -> None:
    """In a forked child: become another caller than the parent.

    Inherited refs and handles stay valid: to this process the objects are another's, and
    it takes holds of its own on the actors.
    """
    process.pid = os.getpid()
    process.renew_locks()  # a thread of the parent may hold the inherited ones
    process.replies.abandon()
    process.mailbox.abandon()
    process.sender.express.abandon()
    process.redis.connection_pool.reset()
    held = [hold.actor for hold in process.holds.all()]
    _rename(process)
    process.driver, process.leads_job = True, False
    # A child of an actor process is not that actor: it calls it as anybody does.
    process.actor_id, process.actor_hex, process.on_blocked = None, "", None
    process.parent_task = lambda: None
    process.segments.reopen(f"{process.job_id}.{process.caller.hex()}")
    process.make_parts()
    _register(process)
    process.connect()
    _hold_again(process, held)


def lease_lost(process: Process) -> None:
    """The lease ran out: this process was stopped, or cut off, for too long.

    To the cluster its job has ended.  Runs in the background thread, which connects again
    afterwards.
    """
    error = ActorUnavailableError(
        f"this process (caller {process.caller.hex()}) did not renew its lease of "
        f"{process.settings.lease:g} s, so the cluster gave it up: its unresolved calls are lost "
        "and its actors were ended. Was it stopped, or cut off from Redis?"
    )
    logger.warning("%s", error)
    process.replies.close()
    process.connected = False
    with process.lock:
        for box in process.outboxes.values():
            box.fail(error)
        for entry in process.objects.entries.values():
            if entry.pending and not entry.foreign:  # a task that waited for an executor
                process.objects.settle(entry, ObjectState.FAILED, error=error)
        held = [hold.actor for hold in process.holds.all()]
        if process.leads_job:
            process.job_id = new_caller_id().hex()
        _rename(process)
    process.make_parts(keep_listener=True)
    with process.mailbox.lock:  # nobody writes into the old ring meanwhile
        process.segments.reopen(f"{process.job_id}.{process.caller.hex()}")
    _register(process)
    _hold_again(process, held)
    process.listener.wake_all()


def _rename(process: Process) -> None:
    """Take a new id, with empty tables; refs that exist are another's objects from now on."""
    old, after = process.objects.entries, process.objects.after
    process.caller = new_caller_id()
    process.objects = ObjectTable()
    process.objects.after = after  # futures that were settled just now
    process.holds = HoldTable(process.caller.hex())
    process.outboxes, process.dirty, process.shared, process.sequence = {}, {}, {}, 0
    process.streams.abandon()
    for entry in old.values():
        entry.foreign, entry.escaped, entry.hold = True, True, None
        entry.dropped_refs = process.objects.dropped
        process.objects.entries[entry.oid] = entry


def _register(process: Process) -> None:
    process.control.register_caller(
        process.caller.hex(),
        process.job_id,
        lease=process.settings.lease,
        node_id=None,
        driver=process.leads_job,
        namespace=process.namespace,
    )


def _hold_again(process: Process, actors: Iterable[bytes]) -> None:
    """Hold what the inherited handles refer to, as long as this process lives."""
    process.inherited = [process.hold(actor) for actor in actors]

"""Before a process ends by itself: it waits for what would be lost with it.

A task may be on its way to an executor that this process leases, a call may wait here for its
arguments, or for an actor that has not begun (and that would be cancelled with its last holder),
and an actor may still wait for the arguments of its constructor.  Calls that lie in the mailbox of
a running actor need this process only where another one has a ref to their results: should they
fail, it is the one to say so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import redis

from celery_actors.client.objects import Waiter
from celery_actors.protocol.calls import CallFlag

if TYPE_CHECKING:
    from celery_actors.client.outbox import Outbox
    from celery_actors.client.process import Process

__all__ = ["drain"]

logger = logging.getLogger(__name__)

_LOOK_EVERY = 0.1


def drain(process: Process, before_waiting: Callable[[], object], has_only_cpus: bool) -> None:
    """Wait until this process may end without taking anything along.

    :param before_waiting: called once, if there is something to wait for.
    :param has_only_cpus: of resources, which it gives back while it waits.  Else it does not wait
        for calls whose results others await: they get ``OwnerDiedError`` for those that fail.
    """
    waited = False
    while not process.closed and _unfinished(process, has_only_cpus):
        if not waited:
            before_waiting()
            waited = True
        process.listener.wait(Waiter(1), _LOOK_EVERY)


def _unfinished(process: Process, has_only_cpus: bool) -> bool:
    process.flush()
    process.sender.express.settle()
    if process.mailbox.is_behind or process.mailbox.has_postponed:
        return True
    with process.lock:
        if process.executors.busy:
            return True
        boxes = [box for box in process.outboxes.values() if _has_calls(box)]
        if any(box.unsent or box.blocked or box.late for box in boxes):
            return True
        creates = any(not box.ready and box.dead is None for box in process.outboxes.values())
        if creates or process.objects.failed:
            return True
        awaited = [
            entry.oid.hex()
            for box in boxes
            for call in box.unresolved.values()
            for entry in call.entries
            if has_only_cpus and entry.escaped and entry.pending
        ]
    try:
        records = [process.control.actor(box.actor.hex()) for box in boxes]
        lent = process.control.lent(awaited) if awaited else []
    except redis.RedisError as error:
        logger.debug("looking at actors that have calls of ours: %s", error)
        return True
    return any(lent) or any(record and record.waits for record in records)


def _has_calls(box: Outbox) -> bool:
    return bool(box.late) or any(
        not call.flags & CallFlag.RELEASE for call in box.unresolved.values()
    )

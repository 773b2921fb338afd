"""When something is lost: connections, pushes, actors, callers.

A push or hint is never relied upon.  After every (re)connection, and when an actor or a
caller is said to be gone, the store is read first; what it holds settles calls; only the
rest is sent again or fails.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING

import redis

from celery_actors.client.broker import LOST
from celery_actors.client.cancelling import cancel_as_owner
from celery_actors.client.creation import remove_lost_node
from celery_actors.client.identity import lease_lost
from celery_actors.client.objects import Entry, ObjectState
from celery_actors.client.outbox import Outbox
from celery_actors.control import ActorRecord
from celery_actors.exceptions import (
    ActorDiedError,
    ActorsError,
    OwnerDiedError,
    RuntimeEnvSetupError,
    TaskError,
    told_by,
)
from celery_actors.ids import CALLER_BYTES, object_id
from celery_actors.protocol.withdrawals import decode_withdrawal
from celery_actors.store.outage import is_outage

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = ["Recovery", "death_of"]

logger = logging.getLogger(__name__)

_AWAY_TOO: tuple[type[Exception], ...] = (ActorsError, *LOST)
_AWAY: tuple[type[Exception], ...] = (redis.RedisError, *_AWAY_TOO)


def death_of(process: Process, actor: bytes, record: ActorRecord | None) -> ActorsError:
    """Return the error that calls to a dead actor raise, with its cause.

    As Ray's, it is a RuntimeEnvSetupError where the actor's process could not be set up.
    """
    if record is None:
        return ActorDiedError(
            f"actor {actor.hex()} is dead: its record is gone (it ended long ago, or its job is "
            "over)",
            actor.hex(),
        )
    error = ActorDiedError(
        f"actor {record.class_name} ({actor.hex()}) is dead: {record.cause or 'it ended'}",
        actor.hex(),
    )
    if record.error:
        try:
            process.codec.load(object_id(actor[:CALLER_BYTES], 0), record.error)
        except RuntimeEnvSetupError as cause:
            who = "" if record.kind == "executor" else f"actor {record.class_name}: "
            return RuntimeEnvSetupError(f"{who}{cause}")
        except Exception as cause:  # noqa: BLE001 - the user's own exception becomes the cause
            if isinstance(cause, TaskError):
                told = f"{error.args[0]}\n{told_by(cause).remote_traceback.rstrip()}"
                error = ActorDiedError(told, actor.hex())
            error.__cause__ = cause
    return error


class Recovery:
    """What one process does about losses.  Runs in its background thread."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._failures = 0
        # Actors to look at, by id in hex; added to from any thread (set.add is atomic).
        self._checks: set[str] = set()
        self._ready: set[bytes] = set()
        self._unwanted: set[tuple[bytes, bool, bool]] = set()  # objects whose calls others cancel
        self._orphans: dict[bytes, float] = {}  # when each is given up; guarded by process.lock
        self._nodes_changed = False
        self._gaps: dict[bytes, int] = {}

    # -- hints -------------------------------------------------------------------

    def on_hint(self, channel: bytes, payload: bytes) -> None:
        """Take in what is not a push; the background thread acts on it."""
        process = self._process
        kind, text = payload[:1], payload[1:].decode("ascii", "replace")
        to_us = channel == process.replies.caller_channel
        if self._on_own_hint(kind, text) if to_us else self._on_cluster_hint(kind, text):
            process.listener.wake()

    def _on_own_hint(self, kind: bytes, text: str) -> bool:
        """Take in what this process alone is told; whether there is something to do."""
        process = self._process
        if kind == b"L":  # an executor has its resources
            process.executors.placed(bytes.fromhex(text))
        elif kind == b"B":  # an executor will not begin tasks that waited in it
            process.executors.taken_back(decode_withdrawal(process.signer, process.caller, text))
        elif kind == b"I":  # a process on another machine imports a module
            process.modules.wanted(text)
        elif kind == b"W":  # a value that was waited for is there
            self._ready.add(bytes.fromhex(text))
        elif kind == b"A":  # another process waits for an object of this one
            process.ownership.asked(bytes.fromhex(text))
        elif kind == b"K":  # somebody cancels a call of this process
            oid, _, how = text.partition(":")
            self._unwanted.add((bytes.fromhex(oid), how[:1] == "1", how[1:] == "1"))
        elif kind == b"F":  # nobody else keeps an object of this process
            process.housekeeping.returned(bytes.fromhex(text))
        elif kind in (b"G", b"M"):  # the actor saw a gap, or can't read this process's ring
            actor, _, sequence = text.partition(":")
            self._gaps[bytes.fromhex(actor)] = int(sequence)
            if kind == b"M":
                self._process.sender.avoid_ring(bytes.fromhex(actor))
        else:
            return False
        return True

    def _on_cluster_hint(self, kind: bytes, text: str) -> bool:
        """Take in what all processes are told; whether there is something to do."""
        process = self._process
        if kind == b"D":  # an actor is dead
            process.kept_for_restarts.pop(bytes.fromhex(text), None)
            if bytes.fromhex(text) not in process.outboxes:
                return False
            self._checks.add(text)
        elif kind == b"C":  # a caller has ended
            self._owner_ended(bytes.fromhex(text))
        elif kind == b"P":  # a placement group has changed
            process.groups.changed(text)
        elif kind == b"R":  # somebody waits for resources
            process.executors.reclaim()
        elif kind == b"N" and process.driver and process.beside is None:  # a node came or went
            self._nodes_changed = True
        else:
            return False
        return True

    def check_later(self, actor: str) -> None:
        """Have the background thread look at the record of an actor."""
        self._checks.add(actor)
        self._process.listener.wake()

    def run(self) -> None:
        """Act on the hints that came.

        :raises redis.RedisError, LOST: a broker is away; what was not done is done later.
        """
        process = self._process
        acted = False
        if self._nodes_changed:  # one may share this machine's memory
            process.settle_down()
            self._nodes_changed = False
        if self._checks:
            self._check_actors()
            acted = True
        while self._gaps:
            actor_id, sequence = self._gaps.popitem()
            with process.lock:
                box = process.outboxes.get(actor_id)
                if box is not None:
                    box.rewind_from(sequence)
                    if box.unsent:
                        process.dirty[box] = None
            process.flush()
        while self._unwanted:
            unwanted = self._unwanted.pop()
            try:
                cancel_as_owner(process, *unwanted)
            except _AWAY:
                self._unwanted.add(unwanted)
                raise
            acted = True
        while self._ready:
            oid = self._ready.pop()
            acted = True
            with process.lock:
                entry = process.objects.entries.get(oid)
            try:
                self.resolve_foreign([] if entry is None else [entry])
            except _AWAY:
                self._ready.add(oid)
                raise
        if self._orphans:
            acted = self._fail_orphans() or acted
        if acted:
            process.run_after()
            process.listener.wake_all()

    # -- other processes' objects --------------------------------------------------

    def resolve_foreign(self, entries: Iterable[Entry]) -> None:
        """Settle the entries whose values are stored; be told of the others."""
        process = self._process
        for entry in entries:
            if not entry.pending:
                continue
            blob = process.results.fetch_or_wait(entry.oid, process.caller.hex())
            with process.lock:
                if blob is not None:
                    process.objects.settle(entry, ObjectState.READY, blob)
                    self._orphans.pop(entry.oid, None)
                    continue
            owner = entry.oid[:CALLER_BYTES]
            if owner != process.caller and not process.control.caller_alive(owner.hex()):
                with process.lock:
                    self._orphans.setdefault(entry.oid, monotonic() + process.settings.lease)
        process.run_after()

    def resolve_later(self, oids: Iterable[bytes]) -> None:
        """Have the background thread do :meth:`resolve_foreign`.  Any thread."""
        for oid in oids:
            self._ready.add(oid)
        self._process.listener.wake()

    def _owner_ended(self, owner: bytes) -> None:
        process = self._process
        due = monotonic() + process.settings.lease
        with process.lock:
            for entry in process.objects.entries.values():
                if entry.pending and entry.foreign and entry.oid.startswith(owner):
                    self._orphans.setdefault(entry.oid, due)

    @property
    def next_due(self) -> float:
        """When the next orphaned object is to be given up.  Under the lock."""
        return min(self._orphans.values(), default=float("inf"))

    def _fail_orphans(self) -> bool:
        """Give up objects whose owner is gone; a call that it had sent may still have run."""
        now = monotonic()
        process = self._process
        with process.lock:  # threads that meet further ones add them
            due = [oid for oid, when in self._orphans.items() if when <= now]
        for oid in due:
            self._fail_orphan(oid)
            with process.lock:  # only now: what Redis could not do is done again
                self._orphans.pop(oid, None)
        return bool(due)

    def _fail_orphan(self, oid: bytes) -> None:
        process = self._process
        with process.lock:
            entry = process.objects.entries.get(oid)
        if entry is None or not entry.pending:
            return
        process.results.stop_waiting([oid], process.caller.hex())
        blob = process.results.fetch([oid])[0]
        with process.lock:
            if blob is not None:
                process.objects.settle(entry, ObjectState.READY, blob)
                return
            error = OwnerDiedError(
                f"object {oid.hex()} will not come: the process that made the call "
                f"(caller {oid[:CALLER_BYTES].hex()}) is gone, and its call has stored no value"
            )
            process.objects.settle(entry, ObjectState.FAILED, error=error)

    # -- actors --------------------------------------------------------------------

    def _check_actors(self) -> None:
        while self._checks:
            actor = self._checks.pop()
            try:
                self._check_actor(bytes.fromhex(actor))
            except Exception as error:
                if is_outage(error) or isinstance(error, _AWAY_TOO):
                    self._checks.add(actor)
                    raise
                # It would fail again, and keep this thread from all that comes after it.
                logger.exception("actor %s could not be looked at", actor)

    def _check_actor(self, actor: bytes) -> None:
        process = self._process
        with process.lock:
            box = process.outboxes.get(actor)
        if box is None:
            return
        record = process.control.actor(actor.hex())
        if record is not None and record.state != "DEAD":
            # Alive, yet a message came back: its queue is gone (a broker that lost its
            # data).  The actor declares it again when it reconnects; so do we, and send.
            if not process.mailbox.connected:
                return
            process.publish(lambda mailbox: mailbox.declare(box.queue))
            self.sync(box)
            with process.lock:
                box.rewind()
                if box.unsent:
                    process.dirty[box] = None
            process.flush()
            return
        if (
            process.driver
            and not process.closed
            and not process.control.renew_caller(process.caller.hex(), process.settings.lease)
        ):
            lease_lost(process)  # the actor ended because this process was given up
            return
        self.sync(box)
        error = death_of(process, actor, record)
        with process.lock:
            process.housekeeping.calls_failed(box, box.fail(error))
            process.dirty.pop(box, None)
            if process.holds.get(actor) is None:
                process.outboxes.pop(actor, None)
        process.executors.died(actor, error)

    def check_if_dead(self, box: Outbox) -> None:
        """Settle what the store knows; fail the rest if the actor is dead."""
        process = self._process
        record = process.control.actor(box.actor.hex())
        if record is None or record.state == "DEAD":
            self._check_actor(box.actor)
        elif record.node_id and record.node_id in process.control.expired().nodes:
            # Other nodes do this with each renewal.  Where the lost node was the only one,
            # nobody is left to, and nothing may hang for that.
            remove_lost_node(process, record.node_id)
            self._check_actor(box.actor)
        else:
            self.sync(box)

    def sync(self, box: Outbox) -> None:
        """Settle the unresolved calls of which the store knows the outcome."""
        process = self._process
        with process.lock:
            oids = box.pending_oids()
            if not box.unresolved:
                return
        known = process.results.unresolved(box.actor, process.caller, oids)
        with process.lock:
            for oid, blob in known.values.items():
                entry = process.objects.entries.get(oid)
                if entry is not None:
                    process.objects.settle(entry, ObjectState.READY, blob)
            process.housekeeping.calls_resolved(box.resolve_through(known.cursor))

    # -- connections -----------------------------------------------------------------

    def reconnect(self) -> bool:
        """Connect both sockets again, read the store, send the rest again, in order."""
        process = self._process
        if process.closed:
            return False
        try:
            process.executors.doubt()
            process.replies.open()
            with process.mailbox.lock:
                if not process.mailbox.connected:
                    process.mailbox.connect()
                process.mailbox.catch_up()
            with process.lock:
                boxes = [box for box in process.outboxes.values() if box.unresolved]
                foreign = [
                    entry
                    for entry in process.objects.entries.values()
                    if entry.foreign and entry.pending
                ]
            for box in boxes:
                self.sync(box)
                self._checks.add(box.actor.hex())
            self.resolve_foreign(foreign)
            process.ownership.look_for_waiters()
        except _AWAY as error:
            self._failures += 1
            if self._failures in (1, 10) or self._failures % 100 == 0:
                logger.warning("a broker is away (attempt %d): %s", self._failures, error)
            with process.mailbox.lock:
                process.mailbox.drop()
            process.replies.close()
            return False
        self._failures = 0
        with process.lock:
            for box in boxes:
                box.rewind()
                if box.unsent:
                    process.dirty[box] = None
        process.connected = True
        process.flush()
        process.run_after()
        process.listener.wake_all()
        return True

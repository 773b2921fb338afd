"""Sending: from a call to the message that carries it.

An idle outbox sends at once from the calling thread.  Calls made while others are under
way gather until a batch is full, the last one left a while ago, somebody waits for a
result, or the background thread comes to send them, whichever is first: nobody waits for a
fixed time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from celery_actors.client.broker import LOST
from celery_actors.client.express import Express
from celery_actors.client.objects import Entry, ObjectState, Waiter
from celery_actors.client.outbox import Outbox, PendingCall
from celery_actors.exceptions import (
    PendingCallsLimitExceeded,
    SessionEndedError,
    TamperedError,
)
from celery_actors.ids import call_owner, object_id
from celery_actors.protocol.calls import CallFlag, encode_calls, encode_method
from celery_actors.protocol.payload import encode_body, encode_stored
from celery_actors.protocol.places import Notice, encode_notice
from celery_actors.serialization import Dumped
from celery_actors.store.outage import is_outage
from celery_actors.store.patience import at_most

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = ["Sender"]

_MOST_WINDOWS = 64
_REOPEN = 0.75
_RING_FROM = 16 * 1024  # shorter messages go to RabbitMQ as they are
_RING_BYTES = 1 << 20  # of calls, that one message in the ring has
_WINDOW_PATIENCE = 2.0
_HOLD_SECONDS = 2.0  # for Redis to write a call's holds, before the background thread does
_GATHER = 0.004  # a thread that submits call after call sends so often at least


class Sender:
    """Submits and sends the calls of one process.  Any thread may use it."""

    def __init__(self, process: Process) -> None:
        self._p = process
        self.express = Express(process)

    def payload(
        self, dumped: Dumped, receiver: bytes, inline: bool = False
    ) -> tuple[bytes, int, Sequence[Any]]:
        """Return the payload for pickled arguments, its flags, and what it keeps alive.

        :param receiver: the actor that they go to; empty: an executor of this process.
        :param inline: not by way of shared memory, however large: it has to outlive nodes.
        """
        frames = dumped.frames
        if len(frames) == 1 and not dumped.kept and not dumped.actors:
            stream = frames[0]
            if isinstance(stream, bytes) and len(stream) <= self._p.settings.shared_memory_limit:
                return b"\0" + stream, CallFlag.NONE, ()  # as encode_body would
        actors = tuple(dumped.actors)
        flags = CallFlag.HANDLES if actors else CallFlag.NONE
        kept = tuple(dumped.kept)
        if inline or dumped.nbytes <= self._p.settings.shared_memory_limit:
            return encode_body(dumped.frames, actors), flags, kept
        # Large arguments lie in shared memory until the call is resolved.
        plain = Dumped(frames=dumped.frames)
        entry = self._p.put_arguments(plain, receiver)
        assert entry.blob is not None
        return encode_stored(entry.oid, entry.blob, actors), flags, (*kept, _Pinned(entry))

    def call(
        self,
        actor: bytes,
        method: str,
        dumped: Dumped,
        arguments: Sequence[Entry],
        returns: int,
        limit: int = -1,
        options: bytes = b"",
        any_order: bool = False,
    ) -> tuple[Entry, ...]:
        """Submit a call to an actor; returns the entries of its return values.

        :param arguments: entries of the ref arguments at top level, in the order of their
            :class:`~celery_actors.protocol.payload.RefArgument`.
        :param limit: ``max_pending_calls`` of the handle, -1: none.
        :param options: encoded (see protocol.call_options).
        :param any_order: arguments that are still to come hold back this call alone: the actor
            runs several calls at a time.
        :raises PendingCallsLimitExceeded: too many calls wait unresolved.
        """
        payload, flags, kept = self.payload(dumped, actor)
        if options:
            flags |= CallFlag.OPTIONS
        if arguments:
            flags |= CallFlag.ARGUMENTS
            foreign = [entry for entry in arguments if entry.foreign and entry.pending]
            if foreign:
                self._p.recovery.resolve_foreign(foreign)
        self._await_window(actor, method, limit)
        process = self._p
        carried = dumped.actors
        parent = process.parent_task()
        name = encode_method(method)
        with process.lock:
            process.sequence = sequence = process.sequence + 1
            add, caller = process.objects.add, process.caller
            if returns == 1:
                entry = add(object_id(caller, sequence))
                entry.producer = actor
                entries: tuple[Entry, ...] = (entry,)
            else:
                entries = tuple(add(object_id(caller, sequence, i)) for i in range(returns))
                for entry in entries:
                    entry.producer = actor
            call = PendingCall(sequence, name, payload, entries, flags, returns, kept)
            if arguments:
                call.arguments = tuple(arguments)
            if carried:
                call.carried, call.holding = tuple(carried), True
            if options:
                call.options = options
            call.parent = parent
            box = process.outboxes.get(actor) or process.outbox(actor)
            send = (
                self._postpone(box, call, dumped)
                if any_order and box.dead is None and any(entry.pending for entry in arguments)
                else self._submit(box, call, sequence)
            )
        if call.carried:
            self._hold_for(call, actor, dumped)
            send = True
        if send:
            self.flush()
        return entries

    def _submit(self, box: Outbox, call: PendingCall, sequence: int) -> bool:
        if box.dead is not None:
            call.sequence = sequence
            box.unresolved[sequence] = call
            box.bytes += call.size
            self._p.housekeeping.calls_failed(box, box.fail(box.dead))
            return False
        return self.enqueue(box, call, sequence)

    def _postpone(self, box: Outbox, call: PendingCall, dumped: Dumped) -> bool:
        """Submit a call once its arguments are there; it holds back no other.  Under the lock.

        Until it is resolved it keeps this process's hold on the actor: a release that went
        before it would end the actor.  The holds of handles inside it are written when it has
        its sequence, which is part of their names; meanwhile this process keeps the handles.

        :returns: that nothing is to be sent now.
        """
        process = self._p
        call.carried, call.holding = (), False
        hold = process.holds.get(box.actor)
        if hold is not None:
            call.kept = (*call.kept, hold)
        box.postpone(call)

        def submit() -> None:
            self.settle_argument_errors(call.arguments)
            with process.lock:
                if not box.is_postponed(call):  # cancelled, or the actor is dead
                    return
                if dumped.actors:
                    call.carried, call.holding = tuple(dumped.actors), True
                send = self._submit(box, call, process.next_sequence())
            if call.holding:
                self._hold_for(call, box.actor, dumped)
                send = True
            if send:
                self.flush()

        process.objects.when_settled(call.arguments, submit)
        return False

    def enqueue(self, box: Outbox, call: PendingCall, sequence: int) -> bool:
        """Add a call to its outbox; whether the calling thread should send.  Under the lock.

        An idle outbox sends at once from the calling thread.  Calls made while others are
        under way gather until a batch is full, the last one left a while ago, somebody
        waits, or the background thread comes to send them, whichever is first.
        """
        process = self._p
        idle = box.idle
        box.add(call, sequence)
        if not box.private:
            process.shared[box] = None
        if call.arguments and box.blocked:
            for entry in call.arguments:
                if entry.pending:
                    if entry.on_settled is None:
                        entry.on_settled = []
                    entry.on_settled.append(lambda: self.unblock(box))
        if not box.unsent:
            return False
        if not process.dirty and not idle:
            process.listener.wake()
        process.dirty[box] = None
        if idle or len(box.unsent) >= process.settings.batch_calls:
            return True
        return monotonic() - box.last_taken > _GATHER

    def _hold_for(self, call: PendingCall, actor: bytes, dumped: Dumped) -> None:
        """Write the holds that the call has on the handles inside it, then let it go.

        Without Redis it waits, and others behind it: they are written once that is back.
        """
        owner = call_owner(self._p.caller.hex(), call.sequence, actor.hex())
        try:
            with at_most(_HOLD_SECONDS):
                for held in dumped.actors:
                    self._p.control.hold(held.hex(), owner)
        except Exception as error:
            if not is_outage(error) or self._p.closed:
                raise
            self._p.housekeeping.try_again(lambda: self._hold_for(call, actor, dumped))
            return
        with self._p.lock:
            call.holding = False
        box = self._p.outboxes.get(actor)
        if box is not None:
            self.unblock(box)

    def _await_window(self, actor: bytes, method: str, limit: int) -> None:
        """Wait while too many calls to the actor are unresolved (back-pressure)."""
        settings = self._p.settings
        box = self._p.outboxes.get(actor)
        if box is None:
            self._p.refuse_former(actor)
            return
        if box.dead is not None:
            return
        if limit > 0 and len(box.unresolved) + len(box.late) >= limit:
            raise PendingCallsLimitExceeded(
                f"{len(box.unresolved) + len(box.late)} calls to actor {actor.hex()} are "
                f"unresolved and its handle allows max_pending_calls={limit}: wait for some "
                "results first"
            )
        if not box.is_full(
            box.windows * settings.window_calls, box.windows * settings.window_bytes
        ):
            return
        share = 1.0
        while box.is_full(
            int(share * box.windows * settings.window_calls),
            int(share * box.windows * settings.window_bytes),
        ):
            # Once full, it is let drain a little: else each call would leave in a message of
            # its own, as soon as one is resolved.
            share = _REOPEN
            if actor == self._p.actor_id or asyncio._get_running_loop() is not None:
                return
            if self._p.closed:
                raise SessionEndedError(f"call {method!r}: shutdown() has ended the session")
            waiter = Waiter(1)
            with self._p.lock:
                box.window_waiters.append(waiter)
            self.flush()
            if self._p.values.wait_blocked(waiter, _WINDOW_PATIENCE):
                continue
            if box.windows >= _MOST_WINDOWS:
                raise PendingCallsLimitExceeded(
                    f"call {method!r}: {len(box.unresolved)} calls to actor {actor.hex()} wait "
                    "unresolved and none has finished for long. If that actor waits for calls "
                    "to this one, the two wait for each other: let one of them not wait"
                )
            box.windows += 1

    def settle_argument_errors(self, arguments: Sequence[Entry]) -> None:
        """Give failed ref arguments the stored form of their error: it goes to the actor,
        whose call then raises it."""
        for entry in arguments:
            if entry.state is ObjectState.FAILED and entry.blob is None:
                assert entry.error is not None
                entry.blob = self._p.codec.encode_error(entry.oid, entry.error)

    def mark_carried(self, arguments: Iterable[Entry]) -> None:
        """Keep the shared memory of ref arguments, should this process end before the call runs."""
        codec = self._p.codec
        for entry in arguments:
            blob = entry.blob
            if blob is None or entry.carried or not entry.in_shared_memory:
                continue
            entry.carried = True
            with contextlib.suppress(TamperedError):  # the call will raise it
                segment = codec.segment(codec.verify(entry.oid, blob))
                if segment is not None:
                    self._p.segments.store.mark_carried(segment)

    def unblock(self, box: Outbox) -> None:
        """Send what no longer waits for its arguments."""
        for call in list(box.blocked):
            self.settle_argument_errors(call.arguments)
        with self._p.lock:
            if box.unblock():
                self._p.dirty[box] = None
        self.flush()

    def flush(self) -> None:
        """Send what waits in the outboxes, unless another thread is at it."""
        mailbox = self._p.mailbox
        while self._p.dirty and self._p.connected and not mailbox.is_behind:
            if not mailbox.lock.acquire(blocking=False):
                return  # its holder looks at `dirty` again after it lets the lock go
            try:
                self._send_dirty()
            except LOST as error:
                self._p.on_mailbox_lost(error)
            finally:
                mailbox.lock.release()
        if mailbox.is_behind:
            self._p.listener.watch_broker()

    def _send_dirty(self) -> None:
        settings = self._p.settings
        while not self._p.mailbox.is_behind:
            with self._p.lock:
                self._p.housekeeping.collect()
                box = next(iter(self._p.dirty), None)
                if box is None:
                    return
                size = _RING_BYTES if box.near else settings.batch_bytes
                batch = box.take(settings.batch_calls, size)
                if not box.unsent:
                    del self._p.dirty[box]
                if not batch:
                    continue
                floor = box.floor
                # What is sent again may have been lost on just that way.
                first = not batch[0].sent
                by_ring = first and box.near and box.last_size > _RING_FROM
                apart: list[memoryview] | None = [] if by_ring else None
                by_express = (
                    not by_ring
                    and settings.express
                    and box.may_go_by_express(batch)
                    and not self._shared_under_way()
                )
                encoded = [call.encode(apart) for call in batch]
                arguments: list[Entry] = []
                is_executor = box.kept is not None  # it ends with this process
                for call in batch:
                    call.sent = True
                    if call.arguments:
                        arguments += call.arguments
                caller = self._p.caller  # others take a new one with new outboxes, under the lock
            if arguments and not is_executor:
                self.mark_carried(arguments)
            signer = self._p.signer
            if by_express and self.express.send(box, caller, floor, encoded[0]):
                continue
            self.express.publish(box)
            message = encode_calls(signer, box.actor, caller, floor, encoded)
            if apart is not None:
                sequences = tuple(call.sequence for call in batch)
                notice = self._by_ring(box, caller, sequences, (message, *apart))
                if notice is None:  # no room: in one piece
                    encoded = [call.encode(again=False) for call in batch]
                    message = encode_calls(signer, box.actor, caller, floor, encoded)
                else:
                    message = notice
            self._p.mailbox.publish(box.queue, message)

    def _shared_under_way(self) -> bool:
        """Whether a call is under way to an actor that others can call, too.  Under the lock.

        Who learns of it, by a call that went by express, could be there before it.
        """
        shared = self._p.shared
        while shared:
            box = next(iter(shared))
            if box.unresolved:
                return True
            del shared[box]
        return False

    def avoid_ring(self, actor: bytes) -> None:
        """Send nothing more to an actor by this process's ring: it can't read it."""
        with self._p.lock:
            box = self._p.outboxes.get(actor)
            if box is not None:
                box.avoids_ring = True

    def leave_ring(self) -> None:
        """Send again by RabbitMQ what actors may not have read yet: the ring is going."""
        if not self._p.segments.rings.carries_calls:
            return
        with self._p.lock:
            for box in self._p.outboxes.values():
                box.avoids_ring = True
                if box.unresolved:
                    box.rewind_from(box.floor)
                    self._p.dirty[box] = None
        self.flush()

    def _by_ring(
        self,
        box: Outbox,
        caller: bytes,
        sequences: tuple[int, ...],
        parts: tuple[bytes | memoryview, ...],
    ) -> bytes | None:
        """Leave a message in this process's ring, and return the notice that is sent instead.

        :param sequences: of its calls.
        :param parts: the message, and the buffers of its calls.
        :returns: ``None`` where there is no room.
        """
        process = self._p

        def needed() -> bool:
            with process.lock:
                return box.needs(sequences)

        place = process.segments.rings.write_calls(parts, needed)
        if place is None:
            return None
        notice = Notice(caller, sequences[-1], len(parts[0]), place)
        return encode_notice(process.signer, box.actor, notice)


class _Pinned:
    """Keeps an entry's value until this object goes."""

    __slots__ = ("_entry",)

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def __del__(self) -> None:
        self._entry.dropped_refs.append(self._entry)

"""The strategy: what the consumer does with each message of the mailbox.

Runs in the thread that reads the mailbox's socket, under its lock (see
celery_actors.worker.inbox).  It verifies, drops repeats, notices gaps, and hands the rest
to the executor's inbox.  It stands in for Celery's ``Task.Strategy``, so that a
message with 64 calls costs one dispatch instead of 64 requests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from celery_actors.exceptions import TamperedError
from celery_actors.ids import NO_INCARNATION, mailbox_name
from celery_actors.protocol.calls import (
    CONTENT_TYPE,
    Call,
    CallBatch,
    CallFlag,
    decode_calls,
)
from celery_actors.protocol.cursors import Cursor
from celery_actors.protocol.orders import Order, OrderKind, decode_order, is_order
from celery_actors.protocol.payload import is_apart, put_together
from celery_actors.protocol.places import Notice, Place, decode_notice, is_notice
from celery_actors.protocol.signing import Signer
from celery_actors.worker.acks import Acknowledgements
from celery_actors.worker.departures import Departures
from celery_actors.worker.plain_messages import PLAIN_CALLER, decode_plain

if TYPE_CHECKING:
    from queue import SimpleQueue

    from celery_actors.worker.inbox import Inbox

__all__ = ["Intake", "StopCheck"]

logger = logging.getLogger(__name__)

_GAP_EVERY = 1.0
_REJECTED = (TamperedError, ValueError, KeyError, TypeError)
"""What a message that is none of ours, or not for us, may raise."""


class StopCheck(NamedTuple):
    """Stop, if no hold is left, behind the calls before."""

    sequence: int


class Intake:
    """Verifies and orders what arrives.

    :ivar accepted: per caller, the highest sequence that went to the inbox.  It survives
        reconnections: what is redelivered is then known as a repeat.  A repeat is
        acknowledged only once the call it repeats is committed.
    :ivar attempts: how often calls were begun by earlier incarnations, by caller and sequence.
    :param ask_again: has a caller send again, from a sequence on; whether it may use its ring.
    :param on_rejected: has a message rejected: its channel and delivery tag.
    :param read_place: reads what lies in a caller's ring.
    :param incarnation: of the actor, which this process is.
    """

    def __init__(
        self,
        actor: bytes,
        signer: Signer,
        inbox: Inbox | SimpleQueue[Any],
        acks: Acknowledgements,
        ask_again: Callable[[bytes, int, bool], None],
        departures: Departures,
        allow_plain: bool,
        class_name: str,
        on_rejected: Callable[[Any, int], None],
        read_place: Callable[[Place], bytes | None],
        incarnation: bytes,
    ) -> None:
        self._actor = actor
        self._queue = mailbox_name(actor)
        self._signer = signer
        self._inbox = inbox
        self._acks = acks
        self._ask_again = ask_again
        self._departures = departures
        self._allow_plain = allow_plain
        self._class_name = class_name
        self._on_rejected = on_rejected
        self._read_place = read_place
        self._incarnation = incarnation
        self.accepted: dict[bytes, int] = {}
        self.attempts: dict[tuple[bytes, int], int] = {}
        self._before: dict[bytes, Cursor] = {}
        self._most_suspects = 0
        self._suspects = 0  # how many that come again are still to be suspected
        self._resent: dict[bytes, int] = {}  # the same of what a caller sends again
        self._asked: dict[bytes, float] = {}
        self._missing: set[bytes] = set()  # callers of whom a message in the ring was lost
        self._local_sequence = 0
        self.rejected = 0
        self.repeats = 0
        self.gaps = 0
        self.expressed = 0
        self.stopping = False

    def __call__(
        self, message: Any, _payload: Any, _ack: Any, _reject: Any, _callbacks: Any
    ) -> None:
        """Take one message.  Never raises: an exception here would kill the worker."""
        if self.stopping:  # basic.cancel can still deliver; unacknowledged, it goes back
            return
        try:
            self._take(message)
        except _REJECTED as error:
            self._reject(message.channel, message.delivery_tag, error)

    def take_calls(self, channel: Any, tag: int, redelivered: bool, body: bytes) -> None:
        """Take one message with calls.  Never raises, as above."""
        if self.stopping:
            return
        try:
            self._take_calls(tag, body, redelivered)
        except _REJECTED as error:
            self._reject(channel, tag, error)

    def take_express(self, body: bytes) -> None:
        """Take a message that came by express, while the actor is idle.

        Whatever is to be said of a call but that it is the next of its caller is left to the
        message in the mailbox.  Never raises, as above.
        """
        if self.stopping:
            return
        try:
            batch = decode_calls(self._signer, self._actor, body)
        except _REJECTED as error:
            self.rejected += 1
            logger.error("dropped what came to %s by express: %s", self._class_name, error)
            return
        caller, accepted = batch.caller, self.accepted.get(batch.caller)
        if accepted is None or batch.express != self._incarnation or len(batch.calls) != 1:
            return
        (call,) = batch.calls
        if call.sequence <= accepted or accepted < call.previous >= batch.floor:
            return
        self.expressed += 1
        self._missing.discard(caller)
        self.accepted[caller] = call.sequence
        self._inbox.put([call])

    def _reject(self, channel: Any, tag: int, error: Exception) -> None:
        self.rejected += 1
        logger.error("rejected a message in the mailbox of %s: %s", self._class_name, error)
        self._on_rejected(channel, tag)

    def _take(self, message: Any) -> None:
        body = message.body
        if isinstance(body, str):
            body = body.encode()
        elif not isinstance(body, bytes):
            body = bytes(body)
        if message.content_type != CONTENT_TYPE:
            self._take_plain(message, body)
        elif is_order(body):
            self._take_order(message, body)
        else:
            redelivered = bool(message.delivery_info.get("redelivered"))
            self._take_calls(message.delivery_tag, body, redelivered)

    def _from_ring(self, tag: int, body: bytes) -> CallBatch | None:
        """Return what a notice stands for; ``None``: it is not to be had."""
        notice = decode_notice(self._signer, self._actor, body)
        found = self._read_place(notice.place)
        if found is None:
            self._lost(tag, notice)
            return None
        batch = decode_calls(self._signer, self._actor, found[: notice.size])
        if batch.caller != notice.caller:
            raise TamperedError("a notice stands for a message of another caller")
        buffers = memoryview(found)[notice.size :]
        return batch._replace(calls=_with_buffers(batch.calls, buffers))

    def _take_calls(self, tag: int, body: bytes, redelivered: bool) -> None:
        if is_notice(body):
            found = self._from_ring(tag, body)
            if found is None:
                return
            batch = found
        else:
            batch = decode_calls(self._signer, self._actor, body)
        caller, floor = batch.caller, batch.floor
        accepted = self.accepted.get(caller, 0)
        before = self._before.get(caller)
        fresh: list[Call] = []
        taken: list[int] = []
        for call in batch.calls:
            sequence = call.sequence
            if sequence <= accepted:
                if batch.express != self._incarnation:  # else it was here before, by express
                    self.repeats += 1
                self._departures.came_again(caller)
                taken.append(sequence)
                continue
            if (
                call.previous > accepted
                and call.previous >= floor
                # Those between may be finished and acknowledged: they don't come again.
                and not (before is not None and before.covers_from(accepted, call.previous))
                and self._is_gap(caller)
            ):
                # Nothing is held back: the caller sends again, in order, from the gap.
                self.gaps += 1
                self._departures.came_again(caller)
                self._ask(caller, accepted, by_ring=True)
                break
            accepted = sequence
            taken.append(sequence)
            self._missing.discard(caller)
            if before is not None and before.covers(accepted):  # an earlier incarnation did it
                self.repeats += 1
            else:
                fresh.append(call)
        if fresh and self._most_suspects:
            self._suspect(fresh, redelivered, batch.express)
        # Before the inbox: the executor may finish the calls at once.
        self._acks.add(tag, caller, taken, [call.sequence for call in fresh])
        if caller not in self.accepted:
            self._departures.caller_came(self.accepted, self._acks.waits_for)
        self.accepted[caller] = accepted
        self._inbox.put(fresh)  # none, too: an executor that waits has something to acknowledge

    def _lost(self, tag: int, notice: Notice) -> None:
        """What a notice stood for is not to be had here: the caller sends it by RabbitMQ.

        This incarnation may be on another machine than the one that the caller knew.  Or the
        notice comes again, and its calls are resolved, so that the caller has written them over.
        """
        caller = notice.caller
        accepted = self.accepted.setdefault(caller, 0)
        self._departures.came_again(caller)
        if notice.last <= accepted:
            self.repeats += 1
            self._acks.add(tag, caller, [notice.last], [])
            return
        self.gaps += 1
        self._acks.add(tag, caller, [], [])
        self._missing.add(caller)
        if self._departures.caller_alive(caller):
            self._ask(caller, accepted, by_ring=False)

    def resume(self, cursors: Mapping[bytes, Cursor], suspects: int) -> None:
        """Go on where an earlier incarnation ended; called before anything arrives.

        :param suspects: how many of the calls that come again may have been begun: more than
            0 where that incarnation was lost with the record of what it had begun.
        """
        self._before = dict(cursors)
        self._most_suspects = self._suspects = suspects
        for caller, cursor in cursors.items():
            # What ran when it ended comes again, and is the first that does.
            self.accepted[caller] = min((cursor.high + 1, *cursor.unfinished)) - 1
        # What comes again and is finished may be acknowledged at once.
        self._acks.committed((caller, cursor.high) for caller, cursor in cursors.items())

    def _suspect(self, calls: Iterable[Call], redelivered: bool, express: bytes) -> None:
        """Count calls as begun that the lost incarnation may have had.

        The broker redelivers those in the order of the mailbox.  It may still hold them back,
        for a connection that it does not know to be lost; their callers then send them again,
        each on its own.  And what came to that incarnation by express, one call of a caller,
        the broker need not have had at all.
        """
        for call in calls:
            if express not in (NO_INCARNATION, self._incarnation):
                self._suspects -= 1
                self._resent[call.caller] = 0
            elif redelivered:
                if self._suspects <= 0:
                    return
                self._suspects -= 1
            elif call.flags & CallFlag.RESENT:
                left = self._resent.get(call.caller, self._most_suspects)
                if left <= 0:
                    return
                self._resent[call.caller] = left - 1
            else:  # never sent before, nor is what its caller sends behind it
                self._resent[call.caller] = 0
                continue
            begun = call.caller, call.sequence
            self.attempts[begun] = self.attempts.get(begun, 0) + 1

    def _take_marker(self, tag: int, order: Order) -> None:
        """What the actor wrote into its own mailbox, behind what departed callers had sent."""
        self._acks.add(tag, PLAIN_CALLER, [], [])
        self._inbox.put([])  # an executor that waits has something to acknowledge
        if order.incarnation != self._incarnation.hex():
            return
        for caller in self._departures.marker_came(int(order.subject), self.accepted):
            del self.accepted[caller]
            self._before.pop(caller, None)
            self._asked.pop(caller, None)
            self._resent.pop(caller, None)
            self._missing.discard(caller)

    def _is_gap(self, caller: bytes) -> bool:
        """A gap whose caller is gone is skipped: nobody will fill it.

        An exception is a gap of messages that lay in the caller's ring.  A caller that ends sends
        these again through RabbitMQ (see client.sender), behind its later messages.
        """
        return caller in self._missing or self._departures.caller_alive(caller)

    def _ask(self, caller: bytes, accepted: int, by_ring: bool) -> None:
        now = monotonic()
        if now - self._asked.get(caller, -_GAP_EVERY) >= _GAP_EVERY:
            self._asked[caller] = now
            self._ask_again(caller, accepted + 1, by_ring)

    def _local(self) -> int:
        self._local_sequence += 1
        return self._local_sequence

    def _take_order(self, message: Any, body: bytes) -> None:
        order = decode_order(self._signer, self._queue, body)
        if order.kind is OrderKind.MARKER:
            self._take_marker(message.delivery_tag, order)
            return
        if order.kind is not OrderKind.STOP:
            raise ValueError(f"an order to {order.kind.value} is for a node, not for an actor")
        sequence = self._local()
        self._acks.add(message.delivery_tag, PLAIN_CALLER, [sequence], [sequence])
        self._inbox.put(StopCheck(sequence))

    def _take_plain(self, message: Any, body: bytes) -> None:
        """A plain Celery message: JSON only, public methods only, in order of arrival."""
        if not self._allow_plain:
            raise TamperedError("unsigned messages are turned off (actors_allow_plain=False)")
        call = decode_plain(message, body, self._local_sequence + 1)
        sequence = self._local()
        self._acks.add(message.delivery_tag, PLAIN_CALLER, [sequence], [sequence])
        self._inbox.put(call)

    def stop(self) -> None:
        """The consumer stops: what still comes is left to the queue."""
        self.stopping = True


def _with_buffers(calls: Sequence[Call], buffers: memoryview) -> list[Call]:
    """Put the buffers that lay behind a message into the calls that they belong to."""
    whole, at = [], 0
    for call in calls:
        if is_apart(call.payload, call.flags):
            payload, at = put_together(call.payload, buffers, at)
            whole.append(Call._make((*call[:-1], payload)))
        else:
            whole.append(call)
    return whole

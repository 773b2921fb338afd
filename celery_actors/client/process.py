"""A process's own client: it makes calls, waits for their results, keeps its refs alive.

The way of a call: the :class:`~celery_actors.client.sender.Sender` gives it its id, appends it
to the actor's :class:`~celery_actors.client.outbox.Outbox`, and hands batches to the
:class:`~celery_actors.client.mailbox.Mailbox`; the
:class:`~celery_actors.client.listener.Listener` brings the replies back, and
:class:`~celery_actors.client.values.Values` gets what they say is there.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, cast

from celery_actors.client.broker import LOST, Broker, explain_amqp
from celery_actors.client.current import closing
from celery_actors.client.environments import Environments
from celery_actors.client.executors import Executors
from celery_actors.client.groups import Groups
from celery_actors.client.holds import Hold, HoldTable
from celery_actors.client.housekeeping import Housekeeping
from celery_actors.client.identity import after_fork
from celery_actors.client.lease import LeaseKeeper
from celery_actors.client.listener import Listener
from celery_actors.client.mailbox import Mailbox
from celery_actors.client.modules import Modules
from celery_actors.client.objects import Entry, ObjectState, ObjectTable
from celery_actors.client.outbox import Outbox
from celery_actors.client.ownership import Ownership
from celery_actors.client.recovery import Recovery
from celery_actors.client.replies import Replies
from celery_actors.client.sender import Sender
from celery_actors.client.stores import Stores
from celery_actors.client.streams import Streams
from celery_actors.client.values import Values
from celery_actors.config import Settings
from celery_actors.control import Control
from celery_actors.exceptions import ActorsError, SessionEndedError, TamperedError
from celery_actors.ids import NO_INCARNATION, mailbox_name, object_id, split_object_id
from celery_actors.protocol.orders import Order, OrderKind
from celery_actors.protocol.signing import Signer
from celery_actors.protocol.values import Copy, decode_push, is_push
from celery_actors.serialization import Dumped
from celery_actors.store.codec import Codec
from celery_actors.store.outage import is_outage
from celery_actors.store.patience import Patience
from celery_actors.store.segments import Segments
from celery_actors.store.shm import Segment
from celery_actors.store.whereabouts import node_beside

__all__ = ["Process"]

logger = logging.getLogger(__name__)

# How long a driver repeats a command to Redis in an outage, in seconds: usually; while it begins;
# while it closes.  An actor's process repeats it without end: its callers see a delay.
_PATIENCE, _PATIENCE_FIRST, _PATIENCE_LAST = 30.0, 4.0, 3.0

_PENDING = ObjectState.PENDING


class Process:
    """One process in the cluster, with its own caller id.

    :ivar lock: guards the tables of objects, outboxes, holds and executors and everything
        in them.  Held for short stretches of Python only: never across I/O, never while
        waiting.  Taken after ``mailbox.lock`` where both are needed, never before it.
    :ivar former_actors: to which the program's earlier sessions had handles, and it may still.
    """

    former_actors: AbstractSet[bytes] = frozenset()

    def __init__(
        self,
        settings: Settings,
        stores: Stores,
        *,
        caller: bytes,
        job_id: str,
        node_id: str | None,
        driver: bool,
        actor_id: bytes | None = None,
        creator_id: str = "",
        namespace: str = "",
    ) -> None:
        self.settings = settings
        self.pid = os.getpid()
        self.caller = caller
        self.job_id = job_id
        self.node_id = node_id
        self.beside: str | None = None  # the node that shares memory with this driver
        self.driver = driver  # renews a lease of its own
        self.leads_job = driver
        self.ends_cluster = False  # the cluster is private to this process
        self.actor_id = actor_id
        self.actor_hex = actor_id.hex() if actor_id is not None else ""
        self.creator_id = creator_id
        self.namespace = namespace
        self.started = False
        self.signer = Signer(settings.key)
        self.redis = stores.redis
        self.redis.set_retry(Patience(settings.result_backend, self._patience))
        self.control = stores.control
        self.results = stores.results
        self.segments = Segments(
            self.redis,
            settings,
            node=node_id or "",
            owner=f"{job_id}.{caller.hex()}",
            order=self.order,
        )
        self.codec = Codec(
            self.signer, self.segments.write, settings.shared_memory_limit, self._read_segment
        )
        self.lock = threading.Lock()
        self.objects = ObjectTable()
        self.holds = HoldTable(caller.hex())
        self.outboxes: dict[bytes, Outbox] = {}
        self.streams = Streams(self)
        self.dirty: dict[Outbox, None] = {}
        # With calls to actors that others can call as well, or until lately.
        self.shared: dict[Outbox, None] = {}
        self.definition_names: dict[str, str] = {}  # of classes and functions, by digest
        self.sequence = 0
        self.lost_lease = ""  # the caller id whose lease was lost last
        self.connected = False
        self.closed = False
        self.broker = Broker.of(settings)
        self.mailbox = Mailbox(self.broker, self.signer, self._on_return)
        self.sender = Sender(self)
        self.environments = Environments(self)
        self.modules = Modules(self)
        self.make_parts()
        self._borrowed: list[Entry] = []  # refs that have come and are not kept yet
        # Held while holds for them are written, so that nobody takes them for kept before.
        # Taken before `lock`.
        self._borrowing = threading.Lock()
        self.inherited: list[Hold | None] = []
        self.kept_for_restarts: dict[bytes, Sequence[Any]] = {}
        """By actor: what the arguments of its constructor keep alive, which may run again."""
        self.on_blocked: Callable[[], Callable[[], None]] | None = None
        """Set in actor processes: gives the CPU back while a call waits in ``get``."""
        self.on_shared: Callable[[], None] = lambda: None
        """Set in actor processes: others than its creator, or it itself, may call that actor."""
        self.parent_task: Callable[[], bytes | None] = lambda: None
        """Set in actor processes: says which call, by its task id, makes a call."""

    # -- lifecycle ---------------------------------------------------------------

    def make_parts(self, keep_listener: bool = False) -> None:
        """Make the parts that belong to the present caller id."""
        channel = self.results.channel(self.caller.hex())
        self.replies = Replies(self.redis, channel, f"{self.settings.prefix}cluster")
        self.values = Values(self)
        self.executors = Executors(self)
        self.groups = Groups(self)
        self.recovery = Recovery(self)
        self.ownership = Ownership(self)
        self.housekeeping = Housekeeping(self)
        if not keep_listener:
            self.listener = Listener(self)
            self.lease = LeaseKeeper(self.settings, self._renew_lease, self.listener.wake)

    def connect(self, wait: bool = True) -> None:
        """Open both connections and start the background thread.

        :param wait: while a broker is away calls wait for it; False: that is an error.
        :raises LOST, redis.RedisError: a broker can't be reached.
        """
        self.connected = False
        try:
            self.replies.open()
            with self.mailbox.lock:
                self.mailbox.connect()
            self.connected = True
        except Exception as error:
            if not wait or not (is_outage(error) or isinstance(error, LOST)):
                raise
            logger.warning("a broker is away, and is waited for: %s", error)
        self.started = True
        if self.driver:
            self.lease.start()
        self.listener.start()

    def settle_down(self) -> None:
        """Find the node that shares memory with this driver, for its large values."""
        beside = self.beside = node_beside(self.settings, self.control.nodes())
        self.codec.shares = beside is not None
        if beside is not None:
            self.segments.belongs_to(beside)

    def close(self) -> None:
        """Send what is left, then close."""
        closing(self)
        self.closed = True
        if not self.leads_job:  # a job's end has done it (see end_job)
            self.sender.leave_ring()
        self.flush()
        self.lease.close()
        if self.leads_job:
            self.end_objects()
        self.listener.close()
        if not self.leads_job:  # nobody asks for objects of a job that has ended
            self.ownership.leave()
        self.sender.express.close()
        with self.mailbox.lock:
            self.mailbox.disconnect()
        self.replies.close()
        if self.leads_job:
            self.segments.close()
        else:
            self.segments.leave()
        self.redis.close()

    def _patience(self) -> float:
        """For how long a command to Redis is repeated in an outage, in seconds."""
        if not self.driver:
            return float("inf")
        if not self.started:
            return _PATIENCE_FIRST
        return _PATIENCE_LAST if self.closed else _PATIENCE

    def _renew_lease(self, control: Control) -> bool:
        """Renew this driver's lease; False: it was lost.  Called in the lease's thread."""
        caller = self.caller.hex()
        renewed = control.renew_caller(caller, self.settings.lease)
        # Who ends the job says that it is closed before the lease goes.
        if not renewed and not self.closed:
            self.lost_lease = caller
            return False
        return True

    def renew_locks(self) -> None:
        """In a forked child: take locks that no thread of the parent can hold."""
        self.lock, self._borrowing = threading.Lock(), threading.Lock()

    def after_fork(self) -> None:
        """In a forked child: become another caller than the parent."""
        after_fork(self)

    # -- objects -----------------------------------------------------------------

    def next_sequence(self) -> int:
        """Return the next sequence.  Called under the lock."""
        self.sequence += 1
        return self.sequence

    def put(self, dumped: Dumped) -> Entry:
        """Store a pickled value under a new id."""
        return self._put_value(dumped, True, b"")

    def put_arguments(self, dumped: Dumped, receiver: bytes) -> Entry:
        """Write a call's large arguments, under a new id; the call alone says where they lie.

        :param receiver: the actor that the call goes to; empty: an executor, which ends with
            this process.
        """
        return self._put_value(dumped, False, receiver)

    def _put_value(self, dumped: Dumped, stored: bool, receiver: bytes) -> Entry:
        with self.lock:
            entry = self.objects.add(object_id(self.caller, self.next_sequence()))

        def encode() -> bytes:
            if self.codec.shared(dumped):
                self.housekeeping.free_shared_memory()
            return self.codec.encode(entry.oid, dumped, receiver=receiver)

        return self._put(entry, encode, stored, dumped)

    def put_failure(self, failure: ActorsError) -> Entry:
        """Store an error under a new id: getting it raises."""
        with self.lock:
            entry = self.objects.add(object_id(self.caller, self.next_sequence()))
        return self._put(entry, lambda: self.codec.encode_error(entry.oid, failure), True)

    def _put(
        self,
        entry: Entry,
        encode: Callable[[], bytes],
        stored: bool,
        contents: Dumped | None = None,
    ) -> Entry:
        blob: bytes | None = None
        try:
            blob = encode()
            if contents is not None:
                caller, sequence, index = split_object_id(entry.oid)
                self.hold_contents(contents, f"{caller.hex()}/o{sequence}.{index}")
            if stored:
                self.results.put(entry.oid, blob)
        except BaseException:
            with self.lock:  # what was written of it goes as any value does
                self.objects.settle(entry, ObjectState.READY, blob)
                self.housekeeping.discard(entry)
            raise
        with self.lock:
            self.objects.settle(entry, ObjectState.READY, blob)
        return entry

    def _read_segment(self, segment: Segment) -> list[memoryview]:
        """Map a large value; those dropped before can be written over by whoever made them."""
        self.housekeeping.free_shared_memory()
        return self.segments.read(segment)

    def borrow(self, oid: bytes) -> Entry:
        """Return the entry of an object whose ref came here from elsewhere."""
        with self.lock:
            entry = self.objects.entries.get(oid)
            if entry is not None:
                entry.refs += 1
                return entry
            entry = self.objects.add(oid, foreign=oid[:8] != self.caller)
            entry.escaped = True
            if entry.foreign:
                self._borrowed.append(entry)
            else:  # its last ref here went, while others kept it
                self.objects.settle(entry, ObjectState.STORED)
            return entry

    def end_objects(self) -> None:
        """The session ends: whoever waits for something here is told, and nobody begins to."""
        with self.lock:
            self.objects.end_session()
            for box in self.outboxes.values():
                box.let_callers_go()
        self.run_after()
        self.listener.wake_all()

    def ref_of_failed_leaves(self, entry: Entry) -> None:
        """A ref to a failed object is pickled: whoever gets it learns the error from the store.

        :raises SessionEndedError: the object was of a session that is over.
        """
        entry.refuse_if_ended()
        self.objects.tell_of_failure(entry)
        self.listener.wake()

    def keep_borrowed(self) -> None:
        """Keep the objects stored whose refs have just come here.

        Called after whatever carried the refs was unpickled, and before it is let go of: it
        keeps them until then.
        """
        if not self._borrowed:
            return
        with self._borrowing:
            with self.lock:
                borrowed = list(self._borrowed)
                owner = self.holds.new_owner()
                kept = [e for e in borrowed if self.objects.entries.get(e.oid) is e]
                for entry in kept:
                    entry.hold = owner
            if kept:
                self.control.borrow([entry.oid.hex() for entry in kept], owner)
            with self.lock:  # only now: another thread whose refs these are must wait for it
                del self._borrowed[: len(borrowed)]

    def hold_contents(self, dumped: Dumped, owner: str) -> None:
        """Keep what is inside a value that is about to be stored, under the value's token."""
        for actor in dumped.actors:
            self.control.hold(actor.hex(), owner)
        if dumped.objects:
            self.control.borrow([oid.hex() for oid in dumped.objects], owner)

    # -- calls -------------------------------------------------------------------

    def outbox(self, actor: bytes) -> Outbox:
        """Return the outbox to ``actor``.  Called under the lock."""
        box = self.outboxes.get(actor)
        if box is None:
            box = self.outboxes[actor] = Outbox(actor, mailbox_name(actor), self.objects)
        return box

    def share(self, actor: bytes) -> None:
        """A handle leaves this process: others may call that actor from now on."""
        if actor == self.actor_id:
            self.on_shared()
        box = self.outboxes.get(actor)
        if box is not None and box.private:
            with self.lock:
                box.private = False
                self.shared[box] = None
            self.sender.express.settle()

    def share_all(self) -> None:
        """This process is about to fork: its child has its handles and refs."""
        with self.lock:
            for entry in self.objects.entries.values():
                entry.escaped = True
                self.objects.tell_of_failure(entry)
            for box in self.outboxes.values():
                box.private = box.private and box.kept is not None  # executors stay this process's
                if not box.private:
                    self.shared[box] = None
        self.sender.express.settle()

    def flush(self) -> None:
        """Send what waits in the outboxes, unless another thread is at it."""
        if self.dirty:
            self.sender.flush()

    def order(self, queue: str, order: Order) -> None:
        """Publish an order to a node or into a mailbox; without RabbitMQ, once it is back."""
        self.publish(lambda mailbox: mailbox.order(queue, order))

    def publish(self, action: Callable[[Mailbox], None]) -> None:
        """Do something else than sending calls over the mailbox's connection.

        Without RabbitMQ it is done once that is back, before the calls that wait: ``action`` may
        be done more than once.

        :raises ConnectionFailed: RabbitMQ is away and this process closes.
        """
        with self.mailbox.lock:
            try:
                self.mailbox.perform(action)
            except LOST as error:
                self.on_mailbox_lost(error)
            if self.closed and self.mailbox.has_postponed:  # it would be done no more
                raise explain_amqp(self.broker, ConnectionResetError("not connected"))
        # Whoever wanted to send meanwhile found the lock taken and relies on its holder.
        self.flush()

    def send_stop(self, actor: bytes) -> None:
        """Tell an actor, behind the calls in its mailbox, to stop if no hold is left."""
        self.order(mailbox_name(actor), Order(OrderKind.STOP, actor.hex()))

    # -- replies -----------------------------------------------------------------

    def read_pushes(self) -> None:
        """Take in what has arrived on the push socket.

        Called by the leader, which calls :meth:`run_after` once it leads no more.
        """
        try:
            messages = self.replies.read()
        except OSError as error:
            logger.debug("the push socket was lost: %s", error)
            self.on_lost()
            return
        for channel, payload in messages:
            try:
                if is_push(payload):
                    self._on_push(payload)
                else:
                    self.recovery.on_hint(channel, payload)
            except (TamperedError, ValueError) as error:
                logger.warning("ignored a message on channel %r: %s", channel, error)
        if self.dirty:  # an executor is free, and was given the next task
            self.flush()

    def _on_push(self, data: bytes) -> None:
        push = decode_push(self.signer, self.caller, data)
        caller, entries, objects = self.caller, self.objects.entries, self.objects
        with self.lock:
            box = self.outboxes.get(push.actor)
            for task, index, found in push.results:
                entry = entries.get(object_id(caller, task, index))
                value = found if type(found) is bytes else None
                state = ObjectState.STORED if value is None else ObjectState.READY
                if entry is None:
                    self.streams.arrived(task, index, state, value)
                    continue
                if entry.state is _PENDING:
                    if value is not None:
                        entry.verified = True
                    else:
                        entry.copy = cast("Copy | None", found)
                    objects.settle(entry, state, value)
                if entry.refs <= 0:
                    self.housekeeping.discard(entry)
            if box is not None:
                box.shares_memory = self.segments.rings.are_read_by(push.memory)
                box.express = push.express if box.shares_memory else NO_INCARNATION
                self.housekeeping.calls_resolved(box.resolve_through(push.cursor))

    def run_after(self) -> None:
        """Run what had to wait for the lock to be free.  No lock is held: user code is among it."""
        after = self.objects.after
        while after:
            try:
                action = after.popleft()
            except IndexError:
                break
            action()
        if self.objects.failed:
            self.listener.wake()  # the background thread stores their errors

    # -- what the listener asks for ----------------------------------------------

    def tick(self) -> float:
        """Do what is due; returns when to come again (monotonic seconds)."""
        return self.housekeeping.tick()

    def reconnect(self) -> bool:
        """Connect again after a loss; whether it succeeded."""
        return self.recovery.reconnect()

    def on_lost(self) -> None:
        """The push socket is lost: the background thread connects again."""
        self.connected = False
        self.listener.wake()

    def on_mailbox_lost(self, error: BaseException) -> None:
        """The AMQP connection is lost.  Called with ``mailbox.lock`` held."""
        logger.debug("the connection to RabbitMQ was lost: %s", error)
        self.mailbox.drop()
        self.on_lost()

    def _on_return(self, queue: str) -> None:
        """The broker returned a message: the actor's queue is not there."""
        self.recovery.check_later(queue.removeprefix("actor."))

    # -- handles -----------------------------------------------------------------

    def hold(self, actor: bytes) -> Hold | None:
        """Take (or share) this process's hold on an actor.

        :returns: ``None`` when the actor is stopping or dead: no hold is given any more.
        """
        with self.lock:
            hold = self.holds.get(actor)
            if hold is not None:
                return hold
            owner = self.holds.new_owner()
        if not self.control.hold(actor.hex(), owner):
            return None
        with self.lock:
            return self.holds.add(actor, owner)

    def refuse_former(self, actor: bytes) -> None:
        """Refuse to use an actor that an earlier session of this program took along.

        :raises SessionEndedError: it did.
        """
        if actor not in self.former_actors:
            return
        record = self.control.actor(actor.hex())
        if record is None or record.state == "DEAD":
            raise SessionEndedError(
                f"actor {actor.hex()} is of a session that has ended: shutdown() was called, and "
                "with the session its actors went (but detached ones). Create it again"
            )

    def admit(self, source: str, actors: Sequence[bytes]) -> list[Hold]:
        """Take over the holds of a call's handles: from the call to this process."""
        taken = []
        for actor in actors:
            if actor != self.actor_id:
                hold = self._take_over(actor, source)
                if hold is not None:
                    taken.append(hold)
            elif self.control.release_hold(actor.hex(), source):  # its handle to itself is weak
                self.send_stop(actor)
        return taken

    def _take_over(self, actor: bytes, source: str) -> Hold | None:
        """Move a hold here, in one script; ``None``: the actor is stopping or dead."""
        with self.lock:
            hold = self.holds.get(actor)
            owner = self.holds.new_owner() if hold is None else hold.owner
        if hold is not None or not self.control.move_hold(actor.hex(), source, owner):
            self.control.release_hold(actor.hex(), source)
            return hold
        with self.lock:
            return self.holds.add(actor, owner)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "connected" if self.connected else "reconnecting"
        return f"<Process {self.caller.hex()} job={self.job_id} {state}>"

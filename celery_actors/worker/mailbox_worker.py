"""The Celery worker in an actor process: it consumes one queue, the actor's mailbox.

A real ``WorkController``, so that ``celery inspect``, ``celery control`` and Flower see
each actor as a worker.  Its loop runs in a thread of its own; the pool is the executor in
the main thread, which the strategy feeds directly.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import ChainMap
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from queue import SimpleQueue
from typing import Any, ClassVar

from amqp.basic_message import Message
from celery import Celery, bootsteps
from celery.concurrency.base import BasePool
from celery.events.dispatcher import EventDispatcher
from celery.worker import WorkController
from celery.worker import state as worker_state
from celery.worker.consumer import Consumer
from celery.worker.consumer.connection import Connection
from celery.worker.consumer.consumer import Evloop
from celery.worker.consumer.control import Control
from celery.worker.consumer.heart import Heart
from celery.worker.consumer.tasks import Tasks
from celery.worker.control import control_command
from celery.worker.state import maybe_shutdown
from kombu import Queue

from celery_actors.client.broker import Broker, BrokerConnection
from celery_actors.config import Settings
from celery_actors.exceptions import TamperedError
from celery_actors.protocol.calls import CONTENT_TYPE
from celery_actors.protocol.orders import ORDER_TASK
from celery_actors.worker.acks import Acknowledgements
from celery_actors.worker.activity import Activity
from celery_actors.worker.buffered import BufferedConnection, read_when_readable
from celery_actors.worker.history import History
from celery_actors.worker.inbox import Inbox, MailboxReader
from celery_actors.worker.intake import Intake

__all__ = ["MailboxWorker"]

logger = logging.getLogger(__name__)

PREFETCH = 64
_HEARTBEAT = 8.0
_WORKER_HEARTBEAT = 30.0
_TIDY_EVERY = 30.0
_NOBODY = "actor@localhost"

_ONE_MAILBOX = "an actor consumes its own mailbox and nothing else"
_NO_POOL = "an actor is one process and has no pool: its size can't be changed"
_REFUSED = {
    "add_consumer": _ONE_MAILBOX,
    "cancel_consumer": f"{_ONE_MAILBOX}: to end it, kill the actor",
    "pool_grow": _NO_POOL,
    "pool_shrink": _NO_POOL,
    "pool_restart": _NO_POOL,
    "autoscale": _NO_POOL,
}
"""Remote-control commands that would make it something else than one actor with one mailbox."""


class _EveryName(dict[str, Any]):
    """Celery looks strategies up by task name: here every name has the same."""

    def __init__(self, strategy: Any) -> None:
        super().__init__()
        self._strategy = strategy

    def __missing__(self, _name: str) -> Any:
        return self._strategy


class _Groups(set[str]):
    """The event groups; turns the dispatcher on when a monitor asks for tasks."""

    def __init__(self, turn_on: Callable[[], None]) -> None:
        super().__init__({"worker"})
        self._turn_on = turn_on

    def add(self, group: str) -> None:
        super().add(group)
        self._turn_on()


class _Dispatcher(EventDispatcher):  # type: ignore[misc]  # untyped base
    """Opens its connection only when events are first wanted.

    A thousand idle actors then cost a thousand connections, not two thousand.
    """

    def enable(self) -> None:
        if self.connection is None:
            self.connection: Any = self.app.connection_for_write(heartbeat=0)
        super().enable()


class _Events(bootsteps.StartStopStep):  # type: ignore[misc]
    """Makes the (lazy) event dispatcher."""

    requires = (Connection,)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        c.event_dispatcher = None
        super().__init__(c, **kwargs)

    def start(self, c: Any) -> None:
        self._close(c)
        worker: MailboxWorker = c.controller
        dispatcher = _Dispatcher(
            None,
            hostname=c.hostname,
            app=c.app,
            enabled=False,
            buffer_group=["task"],
            on_send_buffered=c.on_send_event_buffered,
        )
        dispatcher.groups = _Groups(lambda: worker.turn_events_on(dispatcher))
        c.event_dispatcher = dispatcher
        if worker.send_events:
            dispatcher.groups.add("task")

    def _close(self, c: Any) -> None:
        dispatcher, c.event_dispatcher = c.event_dispatcher, None
        if dispatcher is not None and dispatcher.connection is not None:
            connection = dispatcher.connection
            dispatcher.disable()
            connection.release()

    def shutdown(self, c: Any) -> None:
        worker: MailboxWorker = c.controller
        worker.send_waiting_events(c)
        self._close(c)


# Celery's own steps require each other, down to Mingle, which asks all other workers for
# their state and waits a second for answers.  These stand on ours instead.
class _Heart(Heart):  # type: ignore[misc]
    requires = (_Events,)


class _Tasks(Tasks):  # type: ignore[misc]
    requires = (_Events,)

    def start(self, c: Any) -> None:
        """Consume the mailbox; declare it before where it may have been deleted."""
        worker: MailboxWorker = c.controller
        if worker.mailbox.no_declare:  # it was declared here before
            worker.mailbox.no_declare = not worker.is_wanted()
        super().start(c)


class _Control(Control):  # type: ignore[misc]
    requires = (_Tasks,)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        node = self.box.node
        own: dict[str, Any] = {name: partial(_refuse, name, why) for name, why in _REFUSED.items()}
        own["revoke"] = _revoke
        # In front of the panel, which all workers of a process share.
        node.handlers = ChainMap(own, node.handlers)
        self.start = self._start

    def _start(self, c: Any) -> None:
        node = self.box.node
        self.box.hostname = node.hostname = node.state.hostname = c.hostname
        self.box.start(c)


def _refuse(command: str, why: str, _state: Any, **_arguments: Any) -> dict[str, str]:
    """Answer a remote-control command that an actor does not obey."""
    logger.warning("refused %s: %s", command, why)
    return {"error": why}


class _Consuming(BrokerConnection):
    """The connection on which a mailbox is consumed, at whatever address."""

    def create_transport(self) -> Any:
        transport = super().create_transport()
        transport.Connection, transport.on_readable = BufferedConnection, read_when_readable
        return transport


def _revoke(
    _state: Any, task_id: str | list[str], terminate: bool = False, **_arguments: Any
) -> dict[str, str]:
    """Note which calls of plain clients are not to be run; what runs goes on.

    Celery's own command would look each id up in the result backend, in every actor, and
    terminate the process that runs the call: that is the actor.
    """
    ids = [task_id] if isinstance(task_id, str) else list(task_id or ())
    worker_state.revoked.update(ids)
    if terminate:
        return {"ok": "terminate: a call that runs in an actor is not terminated"}
    return {"ok": f"tasks {ids} flagged as revoked"}


class _MailboxConsumer(Consumer):  # type: ignore[misc]
    """Consumes the mailbox; every message goes to the intake."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        default_steps: ClassVar[list[Any]] = [
            Connection,
            _Events,
            _Heart,
            _Tasks,
            _Control,
            Evloop,
        ]

    def serve(self, hostname: str, prefetch: int) -> None:
        """Be the consumer of an actor: what Celery's constructors were told without knowing it."""
        self.hostname = hostname
        self.pid = os.getpid()
        self.initial_prefetch_count = self.prefetch_multiplier = prefetch

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """Open the connection on which the mailbox is consumed."""
        broker = Broker.to_read(self.controller.settings)
        return self.ensure_connected(broker.connection(heartbeat=_HEARTBEAT, kind=_Consuming))

    def ensure_connected(self, conn: Any) -> Any:
        """Connect; a broker that restarts is tried often, not every 2, 4, 6… seconds."""
        return conn.ensure_connection(
            lambda error, _interval: logger.warning("the broker is away: %s", error),
            max_retries=None,
            interval_start=0.1,
            interval_step=0.2,
            interval_max=2.0,
            callback=maybe_shutdown,
        )

    def update_strategies(self) -> None:
        """Called on every (re)connection."""
        self.strategies = _EveryName(self.controller.intake)

    def on_ready(self) -> None:
        """The mailbox is consumed: messages with calls may go to the intake directly."""
        channel = self.task_consumer.channel
        connection = channel.connection
        if isinstance(connection, BufferedConnection):  # of a broker's substitute it is kombu's
            connection.calls_channel = channel.channel_id
            connection.on_calls = partial(self.controller.intake.take_calls, channel)
            # Messages may have come together with the answer that was waited for last.
            self.hub.call_soon(connection.read_what_came)
            self.controller.share_socket(connection)
        self.timer.call_repeatedly(_TIDY_EVERY, self.controller.tidy)  # on_close() ends it
        super().on_ready()

    def on_close(self) -> None:
        """The connection is lost or closed: its delivery tags are void."""
        self.controller.keep_socket()
        self.controller.acks.reset()
        self.controller.mailbox.no_declare = True
        super().on_close()


class _ExecutorPool(BasePool):  # type: ignore[misc]
    """The executor, as Celery's tools are shown it.  Nothing is ever applied to it."""

    task_join_will_block = False
    body_can_be_buffer = True


class MailboxWorker(WorkController):  # type: ignore[misc]
    """The worker of one actor process.

    Made before the process forks and anybody's worker by then (see worker.prepared): nothing is
    connected and no thread runs until :meth:`serve` has said whose it is.
    """

    class Blueprint(bootsteps.Blueprint):  # type: ignore[misc]  # noqa: D106 - Celery's hook
        name = "Worker"
        default_steps: ClassVar[set[str]] = {
            "celery.worker.components:Hub",
            "celery.worker.components:Pool",
            "celery.worker.components:Timer",
            "celery.worker.components:Consumer",
        }

    def __init__(self, app: Celery, settings: Settings) -> None:
        self.settings = settings
        super().__init__(
            app=app,
            hostname=_NOBODY,
            pool_cls=_ExecutorPool,
            consumer_cls=_MailboxConsumer,
            concurrency=1,
            heartbeat_interval=_WORKER_HEARTBEAT,
            loglevel=logging.WARNING,
            ready_callback=lambda _consumer: self.ready.set(),
        )
        # Its descriptors are of the process that forks; it makes others when it starts.
        self.hub.close()

    def serve(
        self,
        hostname: str,
        queue: str,
        intake: Intake,
        inbox: Inbox | SimpleQueue[Any],
        acks: Acknowledgements,
        activity: Activity,
        send_events: bool,
        prefetch: int,
        on_stopped: Callable[[], None],
        on_cancel: Callable[[bytes], str],
        history: History,
        tidy: Callable[[], None],
        is_wanted: Callable[[], bool],
    ) -> None:
        """Be the worker of an actor; in its process, once, before :meth:`run`.

        :param is_wanted: whether this incarnation is still the actor.
        """
        self.hostname = hostname
        self.startup_time = datetime.now(timezone.utc)
        self.intake = intake
        self._inbox = inbox
        self.acks = acks
        self.activity = activity
        self.send_events = self.task_events = send_events
        self._told_stopped = on_stopped
        self.cancel_call = on_cancel
        self.history = history
        self.tidy = tidy
        self.is_wanted = is_wanted
        self.ready = threading.Event()
        self._ack_promise = self._ack
        self._events_promise = lambda: self.send_waiting_events(self.consumer)
        activity.wake = self._wake_events
        # Declared here too, as its creator does (see client.mailbox), without an exchange of
        # its own: a busy broker may come to the creator's declaration after this process.
        # On later connections only while the actor lives: the mailbox of a dead one is deleted.
        mailbox = self.mailbox = Queue(queue, routing_key=queue, durable=True)
        self.app.amqp.queues.select_add(mailbox)
        self.app.amqp.queues.select([queue])
        self.consumer.serve(hostname, prefetch)

    def run(self) -> None:
        """Run the consumer's loop until the worker stops."""
        try:
            self.start()
        finally:
            self.ready.set()  # who waits for that goes on, and finds that it is over
            self._told_stopped()

    def share_socket(self, connection: BufferedConnection) -> None:
        """Let the executor read the mailbox's socket while it waits.  Consumer's thread."""
        inbox, epoll = self._inbox, getattr(self.hub.poller, "_epoll", None)
        if isinstance(inbox, Inbox) and epoll is not None and connection.in_memory:
            inbox.reader = MailboxReader(connection, epoll, self.hub.call_soon, inbox.wake)
            inbox.wake()

    def keep_socket(self) -> None:
        """Let nobody but this loop read the socket.  Consumer's thread."""
        inbox = self._inbox
        if isinstance(inbox, Inbox) and inbox.reader is not None:
            inbox.reader.close()

    def reject(self, channel: Any, tag: int) -> None:
        """Have the consumer's thread reject a message.  Any thread may call it."""
        self.hub.call_soon(_reject, channel, tag)

    def request_acks(self) -> None:
        """Have the consumer's thread acknowledge what is finished.  Any thread may call it.

        The hub's set of callbacks is unordered, so there is one callback, and it
        acknowledges up to the highest finished tag.
        """
        self.hub.call_soon(self._ack_promise)

    def _ack(self) -> None:
        due = self.acks.due()
        if due and self.consumer.task_consumer is not None:
            channel = self.consumer.task_consumer.channel
            for tag, multiple in due:
                channel.basic_ack(tag, multiple=multiple)

    def publish_to_mailbox(self, order: bytes) -> None:
        """Have the consumer's thread write an order into the mailbox.  Any thread may call it.

        On the channel of the acknowledgements and behind those that are due, so that the broker
        has processed these when the order comes.
        """
        self.hub.call_soon(self._publish, order)

    def _publish(self, order: bytes) -> None:
        self._ack()
        if (
            self.consumer.task_consumer is not None
        ):  # else: not connected; the next sweep asks again
            message = Message(
                order, content_type=CONTENT_TYPE, application_headers={"task": ORDER_TASK}
            )
            queue = self.mailbox.name
            self.consumer.task_consumer.channel.basic_publish(message, "", queue)

    def turn_events_on(self, dispatcher: Any) -> None:
        """A monitor wants events (or -E was given)."""
        if not dispatcher.enabled:
            dispatcher.enable()
        self.activity.events_on = True

    def _wake_events(self) -> None:
        self.hub.call_soon(self._events_promise)

    def send_waiting_events(self, consumer: Any) -> None:
        """Send the events that the executor has left.  Consumer's thread."""
        dispatcher, events = consumer.event_dispatcher, self.activity.events
        if dispatcher is None or not dispatcher.enabled:
            events.clear()
            return
        while events:
            kind, fields = events.popleft()
            dispatcher.send(kind, **fields)
        dispatcher.flush()

    def stats(self) -> dict[str, Any]:
        """What ``celery inspect stats`` shows, with what came into the mailbox beside calls."""
        intake = self.intake
        shown: dict[str, Any] = super().stats()
        shown["mailbox"] = {
            "executed": self.activity.executed,
            "rejected": intake.rejected,
            "repeats": intake.repeats,
            "gaps": intake.gaps,
            "express": intake.expressed,
        }
        return shown

    def finish(self) -> None:
        """Stop consuming and close the connection.  Any thread may call it; returns at once."""
        self.intake.stop()
        self.hub.call_soon(self._stop_now)

    def _stop_now(self) -> None:
        from celery.exceptions import WorkerShutdown

        self._ack()
        raise WorkerShutdown(0)


def _reject(channel: Any, tag: int) -> None:
    if channel.is_open:  # else the message comes again, on another connection
        channel.basic_reject(tag, requeue=False)


@control_command(args=[("order", str)], signature="[order]")  # type: ignore[untyped-decorator]
def actors_cancel(state: Any, order: str) -> dict[str, str]:
    """Cancel a call, or take waiting tasks back: an order in hex (see client.cancelling)."""
    worker: MailboxWorker = state.consumer.controller
    try:
        return {"ok": worker.cancel_call(bytes.fromhex(order))}
    except (TamperedError, ValueError) as error:
        logger.error("refused an order to cancel a call: %s", error)
        return {"error": str(error)}

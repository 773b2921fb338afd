"""The process's only publisher: an AMQP connection, and what is sent over it.

Publishing writes prebuilt frames to py-amqp's transport: the method and header frames of
a call to a given queue differ from message to message only in the body's length.
No write blocks for long, also where the broker reads nothing (see
celery_actors.client.transport).
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from struct import pack
from typing import Any

import amqp
from amqp.exceptions import ChannelError

from celery_actors.client.broker import LOST, Broker, BrokerConnection
from celery_actors.client.transport import PublishingConnection
from celery_actors.exceptions import ConfigurationError
from celery_actors.ids import control_queue_name
from celery_actors.protocol.calls import CALLS_TASK, CONTENT_TYPE
from celery_actors.protocol.orders import ORDER_TASK, Order, encode_order
from celery_actors.protocol.signing import Signer

__all__ = ["Mailbox"]

logger = logging.getLogger(__name__)

_HEARTBEAT = 10.0
_LEAST_HEARTBEAT = 6.0  # it is sent every 2.5 s at the most (see client.housekeeping)
_MOST_SWITCHES = 20
_ANSWER = 5.0  # seconds that the broker may take to answer
_LAST_WRITE = 2.0  # and to read what is left when the connection is closed
_FRAME_END = b"\xce"


class _Publishing(BrokerConnection):
    def create_transport(self) -> Any:
        transport = super().create_transport()
        transport.Connection = PublishingConnection
        return transport


def _connect(client: BrokerConnection, addresses: int) -> Any:
    """Connect at the first of the addresses that answers, each being tried once."""
    errors: dict[tuple[Any, ...], Exception] = {}
    for _ in range(addresses * _MOST_SWITCHES):  # a strategy may name one again and again
        address = (client.hostname, client.port, client.virtual_host, client.userid)
        if address not in errors:
            try:
                return client.transport.establish_connection()
            except LOST as error:
                errors[address] = error
            except (TypeError, ValueError) as error:
                raise ConfigurationError(
                    f"RabbitMQ can't be connected to as configured: {error} (broker_use_ssl, "
                    "broker_transport_options, broker_login_method)"
                ) from error
            if len(errors) == addresses:
                break
        client.maybe_switch_next()
    client.maybe_switch_next()
    raise next(iter(errors.values()))


class Mailbox:
    """Publishes calls and orders, declares and deletes actors' queues.

    :ivar lock: guards the connection and what is postponed.  Held while a batch is taken from
        its outbox and written, so that batches leave in the order in which they were taken;
        every wait under it for the broker has a time limit.
    """

    def __init__(
        self,
        broker: Broker,
        signer: Signer,
        on_return: Callable[[str], None],
    ) -> None:
        self._broker = broker
        self._signer = signer
        self._on_return = on_return
        # At the address that answered last: what is lost is tried there first.
        self._kombu: BrokerConnection | None = None
        self._connection: Any = None
        self._channel: Any = None
        self._postponed: deque[Callable[[Mailbox], None]] = deque()
        self._heads: dict[tuple[str, str], bytes] = {}
        self._properties: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.messages = 0
        """How many messages were published (for tests and statistics)."""

    @property
    def is_behind(self) -> bool:
        """Whether the broker reads too slowly: nothing should be sent but what is small."""
        return self._connection is not None and self._connection.is_behind

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._channel is not None

    def fileno(self) -> int:
        """Return the socket's file descriptor, -1 without a connection."""
        try:
            return int(self._connection.sock.fileno()) if self._connection is not None else -1
        except (AttributeError, OSError):
            return -1

    def connect(self) -> None:
        """Connect, trying each address of the broker once.  Called with :attr:`lock` held.

        :raises OSError, AMQPError: no broker, or it refuses; of several the first one's error.
        """
        self.disconnect()
        client = self._kombu
        if client is None:
            client = self._kombu = self._broker.connection(
                heartbeat=_HEARTBEAT, least=_LEAST_HEARTBEAT, kind=_Publishing
            )
        connection = self._connection = _connect(client, len(self._broker.urls))
        with connection.transport.having_timeout(_ANSWER):
            channel = connection.channel()
        channel.events["basic_return"].add(self._returned)
        self._channel = channel
        self._heads.clear()

    def publish(self, queue: str, body: bytes, task: str = CALLS_TASK) -> None:
        """Write one message.  Called with :attr:`lock` held.

        It is *mandatory*: the broker returns it when the queue is not there.

        :raises: one of :data:`LOST` when the connection is lost.
        """
        channel = self._channel
        if channel is None:
            raise ConnectionResetError("not connected to RabbitMQ")
        head = self._heads.get((queue, task))
        if head is None:
            head = self._heads[queue, task] = self._head(channel.channel_id, queue)
        properties = self._properties.get(task)
        if properties is None:
            message = amqp.Message(
                "",
                content_type=CONTENT_TYPE,
                delivery_mode=1,
                application_headers={"task": task},
            )
            properties = self._properties[task] = message._serialize_properties()
        number, size = channel.channel_id, len(body)
        parts = [
            head,
            pack(">BHIHHQ", 2, number, 12 + len(properties), 60, 0, size),
            properties,
            _FRAME_END,
        ]
        limit = self._connection.frame_max - 8
        for at in range(0, size, limit):
            chunk = body[at : at + limit] if size > limit else body
            parts += (pack(">BHI", 3, number, len(chunk)), chunk, _FRAME_END)
        self._connection.transport.write(b"".join(parts))
        self.messages += 1

    def perform(self, action: Callable[[Mailbox], None]) -> None:
        """Do something over the connection; without one, once there is one again.

        What is postponed is done in its order, and perhaps more than once.  Called with
        :attr:`lock` held.

        :raises: one of :data:`LOST` when the connection is lost.
        """
        self.postpone(action)
        self.catch_up()

    def postpone(self, action: Callable[[Mailbox], None]) -> None:
        """Have :meth:`catch_up` do something.  Called with :attr:`lock` held."""
        self._postponed.append(action)

    def catch_up(self) -> None:
        """Do what was postponed.  Called with :attr:`lock` held.

        :raises: one of :data:`LOST` when the connection is lost.
        """
        while self._postponed and self.connected:
            try:
                self._postponed[0](self)
            except ChannelError as error:  # the broker refuses it, and would again
                logger.error("RabbitMQ refuses what was to be done: %s", error)
                self._postponed.popleft()
                raise
            self._postponed.popleft()

    @property
    def has_postponed(self) -> bool:
        """Whether something waits for a connection."""
        return bool(self._postponed)

    def order(self, queue: str, order: Order) -> None:
        """Publish an order.  Called with :attr:`lock` held."""
        self.publish(queue, encode_order(self._signer, queue, order), ORDER_TASK)

    def cancel(self, hostname: str, queue: str, order: Order) -> None:
        """Tell an actor's process past its mailbox, through Celery's remote control.

        Called with :attr:`lock` held.  The order is signed for the mailbox, as others are.
        """
        body = {
            "method": "actors_cancel",
            "arguments": {"order": encode_order(self._signer, queue, order).hex()},
            "destination": [hostname],
        }
        message = amqp.Message(
            json.dumps(body), content_type="application/json", content_encoding="utf-8"
        )
        # To the one worker's own queue, not to the exchange that all of them listen on.
        channel = self._need_channel()
        channel.basic_publish(message, exchange="", routing_key=control_queue_name(hostname))

    def declare(self, queue: str) -> None:
        """Declare an actor's queue, without waiting.  Called with :attr:`lock` held.

        It is declared as Celery's own ``Queues.new_missing`` would, so that a plain
        client's ``send_task(queue=…)`` finds equal arguments.
        """
        self._need_channel().queue_declare(queue, durable=True, auto_delete=False, nowait=True)

    def delete(self, queue: str) -> None:
        """Delete an actor's queue, and the exchange that plain clients make beside it.

        Called with :attr:`lock` held.
        """
        channel = self._need_channel()
        channel.queue_delete(queue, nowait=True)
        channel.exchange_delete(queue, nowait=True)

    def barrier(self) -> None:
        """Wait until the broker has done all that was sent.  Called with :attr:`lock` held.

        :raises: one of :data:`LOST`, also when the broker does not answer in time.
        """
        channel = self._need_channel()
        if not self._connection.catch_up(_ANSWER):
            raise TimeoutError("RabbitMQ reads nothing")
        with self._connection.transport.having_timeout(_ANSWER):
            channel.basic_qos(0, 0, False)

    def service(self) -> None:
        """Write what is left; read returned messages, heartbeats, a closed channel.

        Called with :attr:`lock` held, when the socket is ready for either.
        """
        connection = self._connection
        if connection is None:
            return
        connection.catch_up()
        try:
            while True:
                connection.drain_events(timeout=0)
        except TimeoutError:
            return

    def heartbeat(self) -> None:
        """Send a heartbeat if one is due.  Called with :attr:`lock` held.

        :raises: one of :data:`LOST` when the broker missed too many.
        """
        if self._connection is not None:
            self._connection.heartbeat_tick(rate=2)

    def disconnect(self) -> None:
        """Close the connection.  Called with :attr:`lock` held."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            try:
                if not connection.catch_up(_LAST_WRITE):
                    raise TimeoutError("RabbitMQ reads nothing")
                with connection.transport.having_timeout(_LAST_WRITE):
                    connection.close()
            except LOST:
                connection.collect()

    def drop(self) -> None:
        """Forget a lost connection.  Called with :attr:`lock` held."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            try:
                connection.collect()
            except LOST:
                return

    def abandon(self) -> None:
        """Forget a connection that belongs to the parent of this fork, without closing it."""
        sock = getattr(getattr(self._connection, "transport", None), "sock", None)
        if sock is not None:
            sock.detach()
        self._connection = self._channel = None
        self._postponed.clear()
        self.lock = threading.Lock()

    def _need_channel(self) -> Any:
        if self._channel is None:
            raise ConnectionResetError("not connected to RabbitMQ")
        return self._channel

    def _returned(self, _error: Any, _exchange: str, routing_key: str, _message: Any) -> None:
        self._on_return(routing_key)

    @staticmethod
    def _head(number: int, queue: str) -> bytes:
        name = queue.encode()
        # basic.publish: class 60, method 40, reserved, exchange "", key, mandatory
        payload = pack(">HHHBB", 60, 40, 0, 0, len(name)) + name + b"\x01"
        return pack(">BHI", 1, number, len(payload)) + payload + _FRAME_END

"""The node worker's own publisher: orders to nodes and mailboxes, and dead mailboxes' end."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable
from time import monotonic, sleep

from celery_actors.client.broker import LOST, Broker
from celery_actors.client.mailbox import Mailbox
from celery_actors.config import Settings
from celery_actors.control import Placement
from celery_actors.ids import mailbox_name, node_queue_name
from celery_actors.protocol.orders import Order, OrderKind
from celery_actors.protocol.signing import Signer
from celery_actors.store.connection import open_redis

__all__ = ["Postman"]

logger = logging.getLogger(__name__)

_CONNECT_EVERY = 1.0  # while RabbitMQ is away, in seconds


class Postman:
    """Publishes for a node worker; connects (again) whenever it has something to send.

    What can't be sent, since RabbitMQ is away, is sent later, in its order.

    Used by the agent's thread, but for :meth:`wait_for_broker`.
    """

    def __init__(self, settings: Settings) -> None:
        self.broker = Broker.of(settings)
        self.redis = open_redis(settings)
        self._mailbox = Mailbox(
            self.broker,
            Signer(settings.key),
            lambda _queue: None,  # an order to a queue that is gone has nobody to act on it
        )
        self._there = threading.Event()
        self._connect_at = 0.0  # not before, while RabbitMQ is away (monotonic seconds)

    def reachable(self) -> bool:
        """Whether a port of RabbitMQ accepts connections."""
        if self._there.is_set():
            return True
        for address in self.broker.addresses():
            try:
                socket.create_connection(address, timeout=5).close()
            except OSError:
                continue
            self._there.set()
            return True
        return False

    def wait_for_broker(self, interrupted: Callable[[], bool]) -> None:
        """Return when the broker is there.  A port gives no signal: it is tried often."""
        while not interrupted() and not self.reachable():
            sleep(0.05)

    def _publish(self, action: Callable[[Mailbox], None]) -> None:
        """Do something now or, while RabbitMQ is away, once it is back."""
        with self._mailbox.lock:
            self._mailbox.postpone(action)
        self.catch_up()

    @property
    def is_behind(self) -> bool:
        """Whether something waits for RabbitMQ."""
        return self._mailbox.has_postponed or self._mailbox.is_behind

    def catch_up(self) -> None:
        """Do what was postponed, if RabbitMQ is there."""
        mailbox, now = self._mailbox, monotonic()
        with mailbox.lock:
            if not self.is_behind or now < self._connect_at:
                return
            try:
                if mailbox.connected:
                    try:
                        mailbox.service()
                    except LOST:
                        mailbox.drop()
                if not mailbox.connected:
                    self._connect_at = now + _CONNECT_EVERY
                    mailbox.connect()
                    self._connect_at = 0.0
                mailbox.catch_up()
            except LOST as error:
                logger.warning("orders wait for RabbitMQ: %s", error)
                mailbox.drop()

    def order(self, queue: str, order: Order) -> None:
        """Publish an order."""
        self._publish(lambda mailbox: mailbox.order(queue, order))

    def starts(self, placements: Iterable[Placement]) -> None:
        """Tell nodes what was placed on them."""
        for placement in placements:
            order = Order(OrderKind.START, placement.actor_id, placement.incarnation)
            self.order(node_queue_name(placement.node_id), order)

    def kill(self, placement: Placement) -> None:
        """Tell a node to kill a process."""
        order = Order(OrderKind.KILL, placement.actor_id, placement.incarnation)
        self.order(node_queue_name(placement.node_id), order)

    def stop_actor(self, actor_id: str) -> None:
        """Tell an actor, behind the calls in its mailbox, to stop if no hold is left."""
        self.order(mailbox_name(bytes.fromhex(actor_id)), Order(OrderKind.STOP, actor_id))

    def declare(self, queue: str) -> None:
        """Declare a queue, and wait until it is there.

        :raises: one of :data:`~celery_actors.client.mailbox.LOST` without a broker.
        """
        with self._mailbox.lock:
            if not self._mailbox.connected:
                self._mailbox.connect()
            try:
                self._mailbox.declare(queue)
                self._mailbox.barrier()
            except LOST:
                self._mailbox.drop()
                raise

    def delete(self, queue: str) -> None:
        """Delete a queue."""
        self._publish(lambda mailbox: mailbox.delete(queue))

    def heartbeat(self) -> None:
        """Keep the connection, if there is one; do what was postponed."""
        self.catch_up()
        with self._mailbox.lock:
            if not self._mailbox.connected:
                return
            try:
                self._mailbox.service()
                self._mailbox.heartbeat()
            except LOST:
                self._mailbox.drop()

    def close(self) -> None:
        """Close both connections; what was sent has reached the broker."""
        with self._mailbox.lock:
            if self._mailbox.connected:
                try:
                    self._mailbox.barrier()
                except LOST:
                    self._mailbox.drop()
            self._mailbox.disconnect()
        self.redis.close()

"""The node worker's own publisher: orders to nodes and mailboxes, and dead mailboxes' end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from time import sleep

from celery_actors.client.broker import LOST, Broker
from celery_actors.client.mailbox import Mailbox
from celery_actors.config import Settings
from celery_actors.control import Placement
from celery_actors.ids import mailbox_name, node_queue_name
from celery_actors.protocol.orders import Order, OrderKind
from celery_actors.protocol.signing import Signer
from celery_actors.store.connection import open_redis

__all__ = ["Postman"]


class Postman:
    """Publishes for a node worker; connects (again) whenever it has something to send.

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
        mailbox = self._mailbox
        with mailbox.lock:
            if mailbox.connected:
                try:
                    mailbox.service()
                    action(mailbox)
                    return
                except LOST:
                    mailbox.drop()
            mailbox.connect()
            action(mailbox)

    def order(self, queue: str, order: Order) -> None:
        """Publish an order.

        :raises: one of :data:`~celery_actors.client.mailbox.LOST` without a broker.
        """
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
        """Declare a queue, and wait until it is there."""

        def declare(mailbox: Mailbox) -> None:
            mailbox.declare(queue)
            mailbox.barrier()

        self._publish(declare)

    def delete(self, queue: str) -> None:
        """Delete a queue."""
        self._publish(lambda mailbox: mailbox.delete(queue))

    def heartbeat(self) -> None:
        """Keep the connection, if there is one."""
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

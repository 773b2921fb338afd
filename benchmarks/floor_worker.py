"""The other process of the benchmark's floor (see ``systems.floor``).

    python benchmarks/floor_worker.py QUEUE

A message is ``b"1"``: one call; or ``b"<n>:<bytes>"``: n calls, whose bytes are echoed.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp
import hiredis
import redis

EXPIRE_SECONDS = 60


class Wire:
    """A process's connections: to RabbitMQ, and bare sockets to Redis."""

    def __init__(self, timeout: float) -> None:
        broker = urlsplit(os.environ["CELERY_BROKER_URL"])
        self.connection = amqp.Connection(
            host=f"{broker.hostname}:{broker.port or 5672}",
            userid=unquote(broker.username or "guest"),
            password=unquote(broker.password or "guest"),
            virtual_host=unquote(broker.path[1:]) or "/",
        )
        self.connection.connect()
        self.channel: Any = self.connection.channel()
        self.redis = redis.Redis.from_url(os.environ["CELERY_RESULT_BACKEND"])
        self._logged_in = self.redis.connection_pool.make_connection()
        self._logged_in.connect()
        self.socket = self._logged_in._sock
        self.socket.settimeout(timeout)
        self._reader = hiredis.Reader()
        self._key = ""

    def publish(self, queue: str, body: bytes) -> None:
        """Send one message, without confirmation."""
        self.channel._basic_publish(amqp.Message(body), "", queue)

    def subscribe(self, channel: str) -> None:
        """Listen; from now on the bare socket is for replies only."""
        self.socket.sendall(hiredis.pack_command(("SUBSCRIBE", channel)))
        self.read()

    def reply(self) -> bytes:
        """Wait for the next reply."""
        return bytes(self.read()[2])

    def read(self) -> Any:
        """Read one answer from the bare socket."""
        while (answer := self._reader.gets()) is False:
            data = self.socket.recv(1 << 18)
            if not data:
                raise ConnectionError("Redis closed the connection")
            self._reader.feed(data)
        return answer

    def close(self) -> None:
        """Close all."""
        self.connection.close()
        self._logged_in.disconnect()
        self.redis.close()


def main() -> int:
    queue = sys.argv[1]
    wire = Wire(60.0)
    replies = f"{queue}.replies"
    value = 0

    def on_message(message: Any) -> None:
        nonlocal value
        amount, _, echoed = bytes(message.body).partition(b":")
        commands = bytearray()
        pack = hiredis.pack_command
        count = int(amount)
        size = len(echoed) // count
        fields: list[Any] = []
        for index in range(count):
            value += 1
            fields += (value, echoed[index * size : (index + 1) * size] if size else value)
        # The results of one message are one hash.
        commands += pack(("HSET", f"{queue}.{value}", *fields))
        commands += pack(("EXPIRE", f"{queue}.{value}", EXPIRE_SECONDS))
        commands += pack(("PUBLISH", replies, echoed or value))
        wire.socket.sendall(commands)
        for _ in range(3):
            wire.read()
        message.channel.basic_ack(message.delivery_tag)

    wire.channel.basic_qos(0, 1000, False)
    wire.channel.basic_consume(queue, callback=on_message)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        wire.connection.drain_events()


if __name__ == "__main__":
    sys.exit(main())

"""A caller made by hand: it writes the messages that it likes into a real mailbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
from waiting import wait_until

from celery_actors import serialization
from celery_actors.client.current import require_process
from celery_actors.client.mailbox import Mailbox
from celery_actors.handle import ActorHandle, actor_id_of
from celery_actors.ids import mailbox_name, new_caller_id
from celery_actors.protocol.calls import encode_call, encode_calls
from celery_actors.protocol.payload import encode_body
from celery_actors.protocol.values import Push, decode_push, is_push

Item = tuple[int, int, str, tuple[Any, ...]]
"""Sequence, previous sequence, method, arguments."""


class RawCaller:
    """Registered like any process; what it sends is the test's to choose."""

    def __init__(self, actor: ActorHandle[Any]) -> None:
        process = require_process()
        self.process = process
        self.actor = actor_id_of(actor)
        self.caller = new_caller_id()
        process.control.register_caller(
            self.caller.hex(), process.job_id, lease=300, node_id=None, driver=False
        )
        self._mailbox = Mailbox(process.broker, process.signer, lambda _queue: None)
        with self._mailbox.lock:
            self._mailbox.connect()
            # The broker may come to this connection before it does to that of the creator.
            self._mailbox.declare(mailbox_name(self.actor))
        self._pubsub = process.redis.pubsub()  # type: ignore[no-untyped-call]
        self._pubsub.subscribe(process.results.channel(self.caller.hex()))
        self.hints: list[str] = []
        self.pushes: list[tuple[Push, int]] = []

    def send(self, *items: Item, floor: int = 1) -> None:
        """Publish one message with these calls."""
        calls = [
            encode_call(seq, previous, seq, 0, 1, method.encode(), self._payload(arguments))
            for seq, previous, method, arguments in items
        ]
        body = encode_calls(self.process.signer, self.actor, self.caller, floor, calls)
        with self._mailbox.lock:
            self._mailbox.publish(mailbox_name(self.actor), body)

    @staticmethod
    def _payload(arguments: Sequence[Any]) -> bytes:
        dumped = serialization.dumps((tuple(arguments), {}), lambda: "arguments")
        return encode_body(dumped.frames, ())

    def add(self, *numbers: int, floor: int = 1) -> None:
        """Send calls of ``add`` in one message, each behind the number before it."""
        self.send(*((n, n - 1, "add", ("raw", n)) for n in numbers), floor=floor)

    @property
    def cursor(self) -> int:
        """The stored cursor of this caller at the actor."""
        key = self.process.results.cursors(self.actor)
        return int(self.process.redis.hget(key, self.caller.hex()) or 0)

    def wait_for(self, sequence: int) -> None:
        """Wait until the actor has committed the call."""
        wait_until(lambda: self.cursor >= sequence, f"call {sequence} committed")

    def listen(self) -> list[str]:
        """Take in what was published to this caller; returns all hints so far."""
        self._pubsub.ping()
        while True:
            message = self._pubsub.get_message(timeout=60)
            assert message is not None, "Redis did not answer for 60 s"
            if message["type"] == "pong":
                break
            if message["type"] != "message":  # it says that it has subscribed
                continue
            data: bytes = message["data"]
            if is_push(data):
                push = decode_push(self.process.signer, self.caller, data)
                self.pushes.append((push, len(data)))
            else:
                self.hints.append(data.decode())
        return self.hints

    def values(self) -> int:
        """How many of its results are stored."""
        keys = list(self.process.redis.scan_iter(f"ca:r:{self.caller.hex()}:*"))
        return sum(self.process.redis.hlen(key) for key in keys)

    def end(self) -> None:
        """Its lease ends."""
        self.process.control.end_caller(self.caller.hex())

    def close(self) -> None:
        """Leave nothing."""
        self.end()
        self.process.results.forget_caller(self.caller.hex())
        self._pubsub.close()
        with self._mailbox.lock:
            self._mailbox.disconnect()

    def __enter__(self) -> RawCaller:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        except redis.RedisError:
            return

"""The work of a call, counted: time can't be compared between machines, this can.

Each bound is what was measured, and about a third more: a loss of batching, a round trip to
Redis that is added to each call or a fatter message breaks it; the weather doesn't.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psutil
import pytest

import celery_actors as ray
from celery_actors.client.current import require_process

pytestmark = pytest.mark.usefixtures("cluster")

SECONDS = 60
TCP_INFO_BYTES_ACKED = 120  # in Linux's struct tcp_info


@ray.remote
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def increment(self) -> int:
        self.value += 1
        return self.value


@ray.remote
def successor(number: int) -> int:
    return number + 1


@dataclass
class Work:
    """What was done between two moments.

    :ivar messages: published by this program.
    :ivar to_broker, to_redis: bytes that this program has sent.
    :ivar commands: of everybody, by name; those that scripts run are among them.
    """

    messages: int = 0
    to_broker: int = 0
    to_redis: int = 0
    commands: dict[str, int] = field(default_factory=dict)

    @property
    def round_trips(self) -> int:
        """Commands that processes sent to Redis, each script as one."""
        inside = {"hset", "hdel", "hget", "hmget", "hexists", "expire", "del", "unlink", "exists"}
        return sum(n for name, n in self.commands.items() if name not in inside)


@contextmanager
def counted() -> Iterator[Work]:
    """Count the work of a ``with`` block."""
    work = Work()
    process = require_process()
    settings = process.settings
    before = process.redis.info("commandstats")
    messages = process.mailbox.messages
    to_broker = bytes_sent_to(settings.broker_url)
    to_redis = bytes_sent_to(settings.result_backend)
    yield work
    work.to_redis = bytes_sent_to(settings.result_backend) - to_redis
    work.to_broker = bytes_sent_to(settings.broker_url) - to_broker
    work.messages = process.mailbox.messages - messages
    after = process.redis.info("commandstats")
    for name, stats in after.items():
        calls = stats["calls"] - before.get(name, {"calls": 0})["calls"]
        if calls:
            work.commands[name.removeprefix("cmdstat_")] = calls
    work.commands.pop("info", None)


def bytes_sent_to(url: str) -> int:
    """Bytes that the other side has received over this program's connections."""
    port = urlsplit(url).port
    total = 0
    for connection in psutil.Process().net_connections("tcp"):
        if connection.raddr and connection.raddr.port == port and connection.fd >= 0:
            with socket.socket(fileno=os.dup(connection.fd)) as copy:
                info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            (acknowledged,) = struct.unpack_from("=Q", info, TCP_INFO_BYTES_ACKED)
            total += acknowledged
    return total


def test_pipelined_calls() -> None:
    counter = Counter.remote()
    assert ray.get(counter.increment.remote(), timeout=SECONDS) == 1
    bursts, size = 5, 1000
    for _ in range(2):
        with counted() as work:
            for _ in range(bursts):
                first = ray.get(counter.increment.remote())
                values = ray.get([counter.increment.remote() for _ in range(size)], timeout=SECONDS)
                assert values == list(range(first + 1, first + 1 + size))
        print("pipelined", bursts * size, work, work.round_trips)


def test_synchronous_calls() -> None:
    counter = Counter.remote()
    assert ray.get(counter.increment.remote(), timeout=SECONDS) == 1
    for _ in range(2):
        with counted() as work:
            for _ in range(200):
                ray.get(counter.increment.remote(), timeout=SECONDS)
        print("sync", 200, work, work.round_trips)


def test_tasks() -> None:
    assert ray.get(successor.remote(1), timeout=SECONDS) == 2
    for _ in range(2):
        with counted() as work:
            refs = [successor.remote(number) for number in range(100)]
            assert ray.get(refs, timeout=SECONDS) == list(range(1, 101))
        print("tasks", 100, work, work.round_trips)

"""What calls cost in work: CPU by process, messages, commits; and what a bare exchange takes."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from time import perf_counter_ns
from typing import Any

import redis
from anatomy_stamps import Spread
from cluster_processes import cluster_processes, tree_of
from idle_actors import cpu_seconds
from kombu import Connection

from celery_actors.client.current import require_process
from celery_actors.config import Settings
from celery_actors.store.connection import RedisConnection

ROUND_TRIPS = 2000
SHOWN = {"driver": "driver", "actor Counter": "actor", "RabbitMQ": "RabbitMQ", "Redis": "Redis"}
OTHERS = "others"

# A process that sleeps in recv() until something comes, and sends it back.
ECHO = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := sock.recv(4096):
        sock.sendall(data)
"""


@dataclass(frozen=True)
class Work:
    """What calls cost in work.

    :ivar cpu: microseconds of CPU a call, by process.
    """

    calls: int
    seconds: float
    cpu: dict[str, float]
    messages: int
    commits: int

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds


class Meter:
    """Reads what the cluster's processes have used, and what the servers were asked."""

    def __init__(self, session_dir: str) -> None:
        self._processes = tree_of(cluster_processes(session_dir))
        self.client: redis.Redis = redis.Redis.from_url(require_process().settings.result_backend)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def read(self, calls: int, action: Callable[[], None]) -> Work:
        """Do something that makes so many calls; returns what they cost."""
        mailbox = require_process().mailbox
        before, messages, commits = self._cpu(), mailbox.messages, self._commits()
        begun = time.perf_counter()
        action()
        seconds = time.perf_counter() - begun
        after = self._cpu()
        return Work(
            calls,
            seconds,
            {name: (after[name] - before[name]) / calls * 1e6 for name in after},
            mailbox.messages - messages,
            self._commits() - commits,
        )

    def _cpu(self) -> dict[str, float]:
        used = dict.fromkeys((*SHOWN.values(), OTHERS), 0.0)
        for kind, group in self._processes.items():
            used[SHOWN.get(kind, OTHERS)] += cpu_seconds(group)
        return used

    def _commits(self) -> int:
        commands: Any = self.client.info("commandstats")
        return int(commands.get("cmdstat_evalsha", {}).get("calls", 0))


def bare_hop() -> Spread:
    """Return what a message and a wake-up cost by themselves: half of a round trip over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        with subprocess.Popen([sys.executable, "-c", ECHO, port]) as echo:
            with server.accept()[0] as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                lengths = []
                for _ in range(ROUND_TRIPS):
                    begin = perf_counter_ns()
                    sock.sendall(b"x" * 200)
                    sock.recv(4096)
                    lengths.append((perf_counter_ns() - begin) / 2)
            echo.wait(timeout=10)
    return Spread.of(lengths)


def redis_exchange(client: redis.Redis) -> Spread:
    """Return the least that an exchange with Redis takes, over a bare socket as the package's."""
    connection = RedisConnection(client)
    connection.open()
    lengths = []
    for _ in range(ROUND_TRIPS):
        begin = perf_counter_ns()
        connection.send("PING")
        connection.reply()
        lengths.append(perf_counter_ns() - begin)
    connection.close()
    return Spread.of(lengths)


def machine(client: redis.Redis, settings: Settings) -> str:
    """Say in words what it ran on."""
    with Connection(settings.broker_url) as connection:
        broker: Any = connection.connection.server_properties
        rabbitmq = broker["version"]
    server: Any = client.info("server")
    return (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, RabbitMQ {rabbitmq}, "
        f"Redis {server['redis_version']}, Celery {version('celery')}"
    )

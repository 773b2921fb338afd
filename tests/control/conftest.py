"""A private Redis for these tests, and a cluster's records in it, empty for each test."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from celery_actors.control import Control

from .cluster import Cluster


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def redis_server() -> Iterator[redis.Redis]:
    """A redis-server of our own; another port is tried when one was taken meanwhile."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail("redis-server is not installed (Debian package redis-server)")
    with tempfile.TemporaryDirectory() as folder:
        client, server = _start(program, folder)
        try:
            yield client
        finally:
            client.close()
            server.terminate()
            server.wait(10)


def _start(program: str, folder: str) -> tuple[redis.Redis, subprocess.Popen[bytes]]:
    for _ in range(5):
        port = _free_port()
        server = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        client = redis.Redis(port=port, socket_timeout=10)
        if _answers(client, server):
            return client, server
        client.close()
        server.kill()
        server.wait()
    pytest.fail("redis-server did not start")


def _answers(client: redis.Redis, server: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and server.poll() is None:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            time.sleep(0.02)
    return False


@pytest.fixture
def client(redis_server: redis.Redis) -> redis.Redis:
    """The Redis, empty."""
    redis_server.flushall()
    return redis_server


@pytest.fixture
def control(client: redis.Redis) -> Control:
    """The records of a cluster without anything."""
    return Control(client)


@pytest.fixture
def cluster(control: Control, client: redis.Redis) -> Cluster:
    """The same with one driver, and short words for common steps."""
    return Cluster(control, client)


@pytest.fixture
def heard(client: redis.Redis) -> Iterator[Callable[[], list[tuple[str, str]]]]:
    """What was published since the last look: channel and text."""
    listener = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    listener.psubscribe("ca:*")
    listener.get_message(timeout=1)

    def look() -> list[tuple[str, str]]:
        # The server sends what was published before its answer to this.
        listener.ping()
        found: list[tuple[str, str]] = []
        while (message := listener.get_message(timeout=1)) is not None:
            if message["type"] == "pong":
                break
            found.append((message["channel"].decode(), message["data"].decode()))
        return found

    look()
    yield look
    listener.close()

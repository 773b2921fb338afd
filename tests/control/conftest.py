"""A private Redis for these tests, and a cluster's records in it, empty for each test."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from celery_actors.control import Control

from .cluster import Cluster

_SECONDS = 60.0
"""For what takes milliseconds on an idle machine: only a hang runs into it."""


@pytest.fixture(scope="session")
def redis_server() -> Iterator[redis.Redis]:
    """A redis-server of our own.  It has no port, which another could take before it."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail("redis-server is not installed (Debian package redis-server)")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/redis.sock"
        server = subprocess.Popen(
            [program, "--port", "0", "--unixsocket", path, "--save", ""],
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        client = redis.Redis(unix_socket_path=path, socket_timeout=_SECONDS)
        try:
            _wait_until_it_answers(client, server)
            yield client
        finally:
            client.close()
            server.terminate()
            server.wait(_SECONDS)


def _wait_until_it_answers(client: redis.Redis, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            client.ping()
            return
        except redis.ConnectionError:
            assert server.poll() is None, "redis-server did not start"
            assert time.monotonic() < deadline, "redis-server did not answer"
            time.sleep(0.02)  # bounded polling of another process


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
    listener = client.pubsub()  # type: ignore[no-untyped-call]
    listener.psubscribe("ca:*")

    def look() -> list[tuple[str, str]]:
        # The server sends what was published before its answer to this.
        listener.ping()
        found: list[tuple[str, str]] = []
        while True:
            message = listener.get_message(timeout=_SECONDS)
            assert message is not None, "Redis did not answer"
            if message["type"] == "pong":
                return found
            if message["type"] == "pmessage":  # else it says that it has subscribed
                found.append((message["channel"].decode(), message["data"].decode()))

    look()
    yield look
    listener.close()

"""kill -9 of RabbitMQ and Redis, and connections that are cut: exactly once, in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from chaos_actors import Log, Streamer
from faults import (
    check_streams,
    close_amqp_connections,
    cut_redis,
    kill_server,
    supervisorctl,
    unacknowledged,
    wait_restarted,
)
from waiting import wait_for_state, wait_until

import celery_actors as ray
from celery_actors.exceptions import ActorsError
from celery_actors.ids import mailbox_name
from celery_actors.local import PrivateCluster

AFTER = 90.0
"""A broker's start (about 8 s) and the longest pause between attempts; the rest is for a busy
machine."""
OUTAGE = 8.0
"""Longer than redis-py tries again by itself (about 4 s), shorter than a lease."""


class Streams:
    """Four actors and this process that call one log until stopped."""

    def __init__(self, stop: Path) -> None:
        self.log = Log.remote()
        self._stop = stop
        self._streamers: Sequence[Any] = [Streamer.remote() for _ in range(4)]
        ray.get([streamer.pid.remote() for streamer in self._streamers])
        self._refs = [
            streamer.stream.remote(self.log, f"s{i}", str(stop))
            for i, streamer in enumerate(self._streamers)
        ]
        self._mine = 0
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def _call(self) -> None:
        try:
            while not self._stop.exists():  # one call at a time: each is waited for
                assert ray.get(self.log.add.remote("me", self._mine), timeout=AFTER) == self._mine
                self._mine += 1
        except (AssertionError, ActorsError) as error:  # shown in the test's own thread
            self._error = error

    @property
    def mine(self) -> int:
        """How many calls this process has had answered."""
        if self._error is not None:
            raise self._error
        return self._mine

    def go_on(self, what: str, calls: int = 50) -> None:
        """Wait until so many more calls have run."""
        mine = self.mine
        wait_until(lambda: self.mine >= mine + calls, what, AFTER)

    def finish(self) -> None:
        """Stop all, and check what ran."""
        self._stop.touch()
        self._thread.join(AFTER)
        counts = dict(
            zip((f"s{i}" for i in range(4)), ray.get(self._refs, timeout=AFTER), strict=True)
        )
        counts["me"] = self.mine
        check_streams(ray.get(self.log.all.remote(), timeout=AFTER), counts)


@pytest.fixture
def streams(mortal: PrivateCluster, tmp_path: Path) -> Iterator[Streams]:
    streams = Streams(tmp_path / "stop")
    yield streams
    (tmp_path / "stop").touch()
    streams._thread.join(AFTER)


@pytest.fixture
def redis_client(mortal: PrivateCluster) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(mortal.address.result_backend) as client:
        yield client


def test_kill_of_rabbitmq(streams: Streams, mortal: PrivateCluster) -> None:
    idle = Log.remote()
    assert ray.get(idle.add.remote("me", 0)) == 0
    streams.go_on("calls before the fault")
    old = kill_server(mortal, "rabbitmq")
    wait_restarted(mortal, "rabbitmq", old)
    streams.go_on("calls after the broker's restart")
    assert ray.get(idle.add.remote("me", 1), timeout=AFTER) == 1
    assert ray.get(Log.remote().add.remote("new", 1), timeout=AFTER) == 1
    streams.finish()


def test_kill_of_redis(streams: Streams, mortal: PrivateCluster) -> None:
    streams.go_on("calls before the fault")
    old = kill_server(mortal, "redis")
    wait_restarted(mortal, "redis", old)
    streams.go_on("calls after Redis's restart")
    old = kill_server(mortal, "redis")
    wait_restarted(mortal, "redis", old)
    streams.go_on("calls after Redis's second restart")
    assert ray.get(Log.remote().add.remote("new", 1), timeout=AFTER) == 1
    streams.finish()


def test_redis_away_for_longer_than_clients_try(mortal: PrivateCluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    keeper, dropped, log = Log.remote(), Log.remote(), Log.remote()
    refs = [actor.hold.remote(str(tmp_path / "started"), str(gate)) for actor in (keeper, dropped)]
    assert ray.get(log.add.remote("me", 0)) == 0
    kept = keeper.keep.remote(log)  # writes a hold where it arrives
    actor = dropped._celery_actor.hex()
    mailboxes = [mailbox_name(each._celery_actor) for each in (keeper, dropped)]
    del dropped  # its release waits in the mailbox
    wait_until(
        lambda: all(unacknowledged(mortal, mailbox) == 2 for mailbox in mailboxes),
        "both messages to arrive in both",
    )
    supervisorctl(mortal, "stop", "redis")
    try:
        gate.touch()
        time.sleep(OUTAGE)
    finally:
        supervisorctl(mortal, "start", "redis")
    assert ray.get([*refs, kept], timeout=AFTER) == [str(gate), str(gate), None]
    assert ray.get(keeper.ask_kept.remote(5), timeout=AFTER) == 5
    assert "no handle" in wait_for_state(actor, "DEAD").cause


def test_connections_closed_under_load(
    streams: Streams, mortal: PrivateCluster, redis_client: redis.Redis
) -> None:
    for _ in range(3):
        streams.go_on("calls between faults")
        close_amqp_connections(mortal)
        streams.go_on("calls after the broker closed all connections")
        for kind in ("normal", "pubsub"):
            # Those of other processes that are on their way back would be spared.
            wait_until(
                lambda kind=kind: len(redis_client.client_list(_type=kind)) >= 5,  # type: ignore[misc]
                "the sockets of all five processes",
            )
        assert cut_redis(redis_client, "normal") >= 5
        streams.go_on("calls after Redis closed the command sockets")
        wait_until(
            lambda: len(redis_client.client_list(_type="pubsub")) >= 5,
            "the push sockets of all five processes",
        )
        assert cut_redis(redis_client, "pubsub") >= 5
        streams.go_on("calls after Redis closed the push sockets")
    streams.finish()


@pytest.mark.parametrize("what", ["amqp", "normal", "pubsub"])
def test_a_waiting_get_is_woken(
    mortal: PrivateCluster, redis_client: redis.Redis, tmp_path: Path, what: str
) -> None:
    actor = Log.remote()
    started, gate = tmp_path / "started", tmp_path / "gate"
    ref = actor.hold.remote(str(started), str(gate))
    wait_until(started.exists, "the call to run")
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(ray.get(ref, timeout=60)))
    thread.start()
    if what == "amqp":
        close_amqp_connections(mortal)
    else:
        assert cut_redis(redis_client, what) >= 1
    gate.touch()
    thread.join(60)
    assert found == [str(gate)]


@ray.remote(num_cpus=0)
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def increment(self, _carried: object = None) -> int:
        self.value += 1
        return self.value


def test_connections_that_come_and_go_all_the_time(mortal: PrivateCluster) -> None:
    """Single calls, and bursts by way of shared memory, while RabbitMQ closes all connections."""
    counters, made = [Counter.remote() for _ in range(3)], 0

    def close_again_and_again() -> None:
        for _ in range(12):
            close_amqp_connections(mortal)
            time.sleep(0.5)  # in which all connect again, and some calls are made

    closed = threading.Thread(target=close_again_and_again)
    closed.start()
    while closed.is_alive() or made <= 31:  # twice at least
        refs = [counter.increment.remote() for counter in counters]
        made += 1
        assert ray.get(refs, timeout=AFTER) == [made] * 3
        refs = [c.increment.remote(bytes(8000)) for c in counters for _ in range(30)]
        values = ray.get(refs, timeout=AFTER)
        for index in range(3):
            wanted = list(range(made + 1, made + 31))
            assert values[30 * index : 30 * index + 30] == wanted
        made += 30
    closed.join()

"""What strangers put into an actor's mailbox: rejected, counted, and the actor lives on."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import amqp
import kombu
import pytest
from celery import Celery
from waiting import record_of, wait_until, wait_until_alive

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.handle import actor_id_of
from celery_actors.ids import actor_hostname, mailbox_name
from celery_actors.local import PrivateCluster
from celery_actors.protocol.calls import CALLS_TASK, CONTENT_TYPE, encode_call, encode_calls
from celery_actors.protocol.orders import ORDER_TASK, Order, OrderKind, encode_order
from celery_actors.protocol.payload import encode_body
from celery_actors.protocol.signing import Signer
from celery_actors.store.connection import RedisConnection

pytestmark = pytest.mark.usefixtures("cluster")

CALLER = b"stranger"


@ray.remote
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def increment(self) -> int:
        self.value += 1
        return self.value


class Evil:
    """Runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def channel(brokers: PrivateCluster) -> Iterator[Any]:
    with kombu.Connection(brokers.address.broker_url) as connection:
        yield connection.default_channel
    process = require_process()
    process.results.forget_caller(CALLER.hex())  # no process, so no lease whose end would do it


@pytest.fixture
def inspect(brokers: PrivateCluster) -> Iterator[Any]:
    app = Celery("monitor", broker=brokers.address.broker_url, set_as_current=False)

    def mailbox(actor: Any) -> dict[str, int] | None:
        record = wait_until_alive(actor)
        host = next(n["NodeManagerHostname"] for n in ray.nodes() if n["NodeID"] == record.node_id)
        name = actor_hostname(record.class_name, record.actor_id, host)
        answers = app.control.inspect(destination=[name], timeout=2).stats() or {}
        counts: dict[str, int] | None = answers.get(name, {}).get("mailbox")
        return counts

    yield mailbox
    app.close()


def publish(
    channel: Any, actor: Any, body: bytes, task: str = CALLS_TASK, **properties: Any
) -> None:
    message = amqp.Message(
        body,
        content_type=properties.pop("content_type", CONTENT_TYPE),
        application_headers={"task": task, **properties.pop("headers", {})},
        **properties,
    )
    channel.basic_publish(message, "", mailbox_name(actor_id_of(actor)))


def increment(signer: Signer, actor: Any, sequence: int = 1, payload: bytes | None = None) -> bytes:
    import pickle

    if payload is None:
        payload = encode_body([pickle.dumps(([], {}), protocol=5)], ())
    call = encode_call(sequence, 0, sequence, 0, 1, b"increment", payload)
    return encode_calls(signer, actor_id_of(actor), CALLER, sequence, [call])


def test_what_is_not_signed_with_the_key_is_rejected(
    channel: Any, inspect: Any, tmp_path: Path
) -> None:
    import pickle

    actor, other = Counter.remote(), Counter.remote()
    assert ray.get(actor.increment.remote()) == 1
    ours, theirs = require_process().signer, Signer(b"another cluster's key")
    evil = encode_body([pickle.dumps(Evil(tmp_path / "ran"), protocol=5)], ())
    good = increment(ours, actor)
    bad = [
        b"",
        b"\x80\x05garbage",
        os.urandom(300),
        good[:30],
        good[:-1],
        good + b"x",
        b"CAM1" + good[4:],
        bytes([*good[:60], good[60] ^ 1, *good[61:]]),
        increment(theirs, actor),
        increment(theirs, actor, payload=evil),
        increment(ours, other),
        b"CAO3" + bytes(40),
        encode_order(theirs, mailbox_name(actor_id_of(actor)), Order(OrderKind.STOP, "")),
        encode_order(ours, mailbox_name(actor_id_of(other)), Order(OrderKind.STOP, "")),
    ]
    for body in bad:
        publish(channel, actor, body)
    publish(
        channel,
        actor,
        pickle.dumps(Evil(tmp_path / "ran")),
        content_type="application/x-python-serialize",
    )
    publish(channel, actor, b"{", content_type="application/json")
    publish(channel, actor, b'"text"', content_type="application/json")
    publish(channel, actor, b"{}", content_type="application/json")
    publish(channel, actor, json.dumps([1, 2, 3]).encode(), content_type="application/json")
    count = len(bad) + 5
    wait_until(lambda: (inspect(actor) or {}).get("rejected") == count, f"{count} rejected")
    assert not (tmp_path / "ran").exists()
    assert ray.get(actor.increment.remote()) == 2, "it lives, and none of them ran"
    publish(channel, actor, good)
    wait_until(lambda: ray.get(actor.increment.remote()) >= 4, "the effect of the good one")


def test_a_stop_order_does_not_stop_an_actor_that_is_held(channel: Any) -> None:
    """Repeating an order in its own queue is harmless: it makes the actor look, no more."""
    actor = Counter.remote()
    ray.get(actor.increment.remote())
    queue = mailbox_name(actor_id_of(actor))
    body = encode_order(
        require_process().signer, queue, Order(OrderKind.STOP, record_of(actor).actor_id)
    )
    publish(channel, actor, body, ORDER_TASK)
    assert ray.get(actor.increment.remote()) == 2
    assert record_of(actor).state == "ALIVE"


def test_a_repeat_of_a_signed_message_runs_once(channel: Any, inspect: Any) -> None:
    actor = Counter.remote()
    wait_until_alive(actor)  # its queue is there: this connection is not the one that made it
    body = increment(require_process().signer, actor)
    for _ in range(3):
        publish(channel, actor, body)
    wait_until(lambda: (inspect(actor) or {}).get("repeats") == 2, "two repeats")
    assert ray.get(actor.increment.remote()) == 2


def test_garbage_in_a_processs_channel_is_ignored(brokers: PrivateCluster) -> None:
    """A forged reply neither settles a ref nor ends the thread that reads replies."""
    process = require_process()
    actor = Counter.remote()
    assert ray.get(actor.increment.remote()) == 1
    channel = process.results.channel(process.caller.hex())
    for garbage in (
        b"",
        b"CAR4",
        b"CAR4" + bytes(100),
        b"G",
        b"Gzz:x",
        b"Mzz:x",
        b"L0",
        b"W!",
        os.urandom(50),
    ):
        for name in (channel, f"{process.settings.prefix}cluster"):
            process.redis.publish(name, garbage)
    assert [ray.get(actor.increment.remote()) for _ in range(5)] == [2, 3, 4, 5, 6]
    assert ray.get(ray.remote(lambda: 1).remote()) == 1


def test_a_process_connects_to_redis_as_often_as_need_be() -> None:
    process = require_process()
    for _ in range(150):  # more than redis-py's pools make of their own accord
        connection = RedisConnection(process.redis)
        connection.open()
        connection.send("PING")
        assert connection.reply(timeout=10) == b"PONG"
        connection.close()


def test_many_threads_ask_redis_at_a_time() -> None:
    process, threads = require_process(), 150
    together = threading.Barrier(threads)

    def ask(_: int) -> object:
        with process.redis.client() as client:
            together.wait(60)
            return client.ping()

    with ThreadPoolExecutor(threads) as pool:
        assert all(pool.map(ask, range(threads)))


def test_a_forged_value_is_not_unpickled(tmp_path: Path) -> None:
    import pickle

    process = require_process()
    ref = ray.put(["something"])
    entry = ref.entry
    entry.blob = None
    forged = bytes(16) + b"\0" + pickle.dumps(Evil(tmp_path / "ran"))
    process.results.put(entry.oid, forged)
    with pytest.raises(ray.exceptions.TamperedError, match="not unpickled"):
        ray.get(ref)
    assert not (tmp_path / "ran").exists()


def test_calls_that_came_together_run_without_a_pause_between_them() -> None:
    @ray.remote
    class Slow:
        def work(self, seconds: float) -> tuple[float, float]:
            begun = time.monotonic()
            time.sleep(seconds)
            return begun, time.monotonic()

    for _ in range(4):
        slow = Slow.remote()
        ray.get(slow.work.remote(0))
        times = ray.get([slow.work.remote(0.2) for _ in range(3)])
        pauses = [begun - ended for (_, ended), (begun, _) in pairwise(times)]
        assert max(pauses) < 2.0, "a heartbeat is due every four seconds"

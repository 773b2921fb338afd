"""A process that user code forks within a call is no actor."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator

from celery import Celery

import celery_actors as ray
from celery_actors.handle import actor_id_of
from celery_actors.ids import mailbox_name
from celery_actors.local import PrivateCluster


class Forker:
    """Forks, and has its children leave the call in every way."""

    def __init__(self) -> None:
        self.calls = 0

    def count(self) -> int:
        self.calls += 1
        return self.calls

    def fork(self, way: str) -> int:
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if way == "exits":
            sys.exit(6)
        if way == "says why":
            sys.exit("for a reason")
        if way == "raises":
            raise ValueError("in the child")
        return -1

    def stream(self, way: str) -> Iterator[int]:
        pid = os.fork()
        if pid:
            yield os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            yield self.count()
        elif way == "raises":
            raise ValueError("in the child")
        elif way == "yields":
            yield -1


class AsyncForker:
    """Forks in a generator on an event loop."""

    async def stream(self, way: str) -> AsyncIterator[int]:
        pid = os.fork()
        if pid:
            yield os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        elif way == "raises":
            raise ValueError("in the child")
        elif way == "yields":
            yield -1


WAYS = {"exits": 6, "says why": 1, "raises": 1, "returns": 0}


def test_a_forked_child_that_leaves_its_call_ends(cluster: object) -> None:
    actor = ray.remote(Forker).remote()
    assert ray.get(actor.count.remote()) == 1
    found = {way: ray.get(actor.fork.remote(way), timeout=60) for way in WAYS}
    assert found == WAYS
    assert ray.get(actor.count.remote()) == 2, "the actor is what it was"


STREAMS = {"raises": 1, "yields": 0, "returns": 0}


def test_a_forked_child_that_leaves_a_generator_ends(cluster: object) -> None:
    actor, other = ray.remote(Forker).remote(), ray.remote(AsyncForker).remote()
    for calls, (way, status) in enumerate(STREAMS.items(), 1):
        stream = actor.stream.options(num_returns="streaming").remote(way)
        assert [ray.get(ref, timeout=60) for ref in stream] == [status, calls]
        stream = other.stream.options(num_returns="streaming").remote(way)
        assert [ray.get(ref, timeout=60) for ref in stream] == [status]
    assert ray.get(actor.count.remote()) == len(STREAMS) + 1


def test_a_forked_child_that_leaves_a_plain_clients_call_ends(
    cluster: object, brokers: PrivateCluster
) -> None:
    actor = ray.remote(Forker).remote()
    address = brokers.address
    app = Celery(broker=address.broker_url, backend=address.result_backend, set_as_current=False)
    queue = mailbox_name(actor_id_of(actor))
    for way, status in WAYS.items():
        sent = app.send_task("fork", (way,), queue=queue)
        assert sent.get(timeout=60) == status
        sent.forget()
    assert ray.get(actor.count.remote()) == 1
    app.close()


def test_a_tasks_forked_child_is_not_retried(cluster: object) -> None:
    @ray.remote(max_retries=3, retry_exceptions=True)
    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            raise ValueError("in the child")
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert ray.get(fork.remote(), timeout=60) == 1

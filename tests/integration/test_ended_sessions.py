"""Refs and handles of a session that shutdown() has ended: an error at once, in every use."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fixture_types import StartNode
from waiting import wait_until

import celery_actors as ray
from celery_actors.exceptions import SessionEndedError
from celery_actors.local import PrivateCluster

LIMIT = 30.0


@ray.remote(num_cpus=0)
class Worker:
    def forever(self) -> None:
        time.sleep(1000)

    def one(self) -> int:
        return 1

    def numbers(self) -> Any:
        yield 1
        yield 2


@ray.remote(num_cpus=0)
def same(value: Any) -> Any:
    return value


@pytest.fixture(scope="module")
def node(brokers: PrivateCluster, start_node: StartNode) -> None:
    start_node("one", num_cpus=2)


@pytest.fixture(scope="module")
def old(brokers: PrivateCluster, node: None) -> Iterator[SimpleNamespace]:
    """What is left of a session that has ended."""
    ray.init(brokers.address, log_to_driver=False)
    wait_until(ray.nodes, "the node")
    actor = Worker.remote()
    got = actor.one.remote()
    assert ray.get(got) == 1
    kept = SimpleNamespace(
        actor=actor,
        got=got,
        put=ray.put("value"),
        generator=actor.numbers.remote(),
        pending=actor.forever.remote(),
        task=same.remote(1),
    )
    ray.get(kept.task)
    detached = Worker.options(name="stays", lifetime="detached").remote()
    kept.detached = detached
    ray.get(detached.one.remote())
    ray.shutdown()
    yield kept
    assert not ray.is_initialized()
    ray.init(brokers.address, log_to_driver=False)
    ray.kill(detached)
    ray.shutdown()


async def _await(ref: Any) -> Any:
    return await ref


OF_REFS: dict[str, Callable[[Any], object]] = {
    "get": lambda ref: ray.get(ref, timeout=LIMIT),
    "get a list": lambda ref: ray.get([ref], timeout=LIMIT),
    "wait": lambda ref: ray.wait([ref], timeout=LIMIT),
    "await": lambda ref: asyncio.run(_await(ref)),
    "future": lambda ref: ref.future().result(LIMIT),
    "pickle": pickle.dumps,
    "cancel": ray.cancel,
}
OF_REFS_IN_CALLS: dict[str, Callable[[Any], object]] = {
    "argument": same.remote,
    "inside an argument": lambda ref: same.remote([ref]),
    "inside a value": lambda ref: ray.put([ref]),
}
OF_HANDLES: dict[str, Callable[[Any], object]] = {
    "call": lambda actor: actor.one.remote(),
    "argument": same.remote,
    "inside a value": lambda actor: ray.put([actor]),
    "kill": ray.kill,
}


@pytest.mark.parametrize("use", OF_REFS)
@pytest.mark.parametrize("kind", ["got", "put", "pending", "task"])
def test_a_ref_without_a_session(old: SimpleNamespace, kind: str, use: str) -> None:
    with pytest.raises(SessionEndedError, match="session that has ended"):
        OF_REFS[use](getattr(old, kind))
    assert not ray.is_initialized()  # none was begun, to say that it doesn't know the ref


@pytest.mark.parametrize("use", ["call", "kill"])
def test_a_handle_without_a_session(old: SimpleNamespace, use: str) -> None:
    for actor in (old.actor, old.detached):
        with pytest.raises(SessionEndedError, match="session that has ended"):
            OF_HANDLES[use](actor)
        assert not ray.is_initialized()  # no cluster was begun, to say that it doesn't know it


@pytest.fixture
def session(old: SimpleNamespace, brokers: PrivateCluster) -> Iterator[None]:
    """A later session of the same program, with the same cluster."""
    ray.init(brokers.address, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize("kind", ["got", "put", "pending", "task"])
def test_a_ref_in_a_later_session(old: SimpleNamespace, session: None, kind: str) -> None:
    for use in (*OF_REFS.values(), *OF_REFS_IN_CALLS.values()):
        with pytest.raises(SessionEndedError, match="session that has ended"):
            use(getattr(old, kind))
    assert ray.get(same.remote(2), timeout=LIMIT) == 2


def test_a_handle_in_a_later_session(old: SimpleNamespace, session: None) -> None:
    for use in OF_HANDLES.values():
        with pytest.raises(SessionEndedError, match="session that has ended"):
            use(old.actor)
    # A detached actor belongs to no session: it is there, and so is the handle to it.
    assert ray.get(old.detached.one.remote(), timeout=LIMIT) == 1


def test_a_generator_of_an_ended_session(old: SimpleNamespace) -> None:
    with pytest.raises(SessionEndedError):
        next(old.generator)
    with pytest.raises(SessionEndedError):
        ray.get(old.generator.completed(), timeout=LIMIT)


def test_who_waits_when_the_session_ends_is_told(old: SimpleNamespace, session: None) -> None:
    actor = Worker.remote()
    ray.get(actor.one.remote())
    # Both before any thread waits: on a slow machine a thread may come to run behind the end.
    ref, behind = actor.forever.remote(), actor.one.remote()
    waits: dict[str, Callable[[], object]] = {
        "get": lambda: ray.get(ref),
        "get with others": lambda: ray.get([ref, behind]),
        "wait": lambda: ray.wait([ref]),
        "future": lambda: ref.future().result(LIMIT),
        "await": lambda: asyncio.run(_await(ref)),
    }
    told: dict[str, BaseException] = {}

    def run(name: str) -> None:
        try:
            waits[name]()
        except BaseException as error:  # noqa: BLE001 - it is looked at below
            told[name] = error

    threads = [threading.Thread(target=run, args=(name,), name=name) for name in waits]
    for thread in threads:
        thread.start()
    assert ray.wait([ref], timeout=0.5)[0] == []  # so that they wait
    ray.shutdown()
    for thread in threads:
        thread.join(LIMIT)
    assert [thread.name for thread in threads if thread.is_alive()] == []
    assert {name: type(error) for name, error in told.items()} == dict.fromkeys(
        waits, SessionEndedError
    )

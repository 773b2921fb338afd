"""Refs that travel inside values: the object stays while anybody anywhere has one, no longer."""

from __future__ import annotations

import gc
import os
import signal
import threading
from typing import Any

import numpy as np
import pytest
from fixture_types import StartNode
from waiting import wait_for_state, wait_until

import celery_actors as ray
from celery_actors.client.current import require_process

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Keeper:
    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, inside: list[Any]) -> None:
        self.kept += inside

    def values(self) -> list[Any]:
        return ray.get(self.kept)

    def give(self) -> list[Any]:
        return self.kept

    def make(self) -> list[Any]:
        return [ray.put("made")]

    def drop(self) -> None:
        self.kept.clear()
        gc.collect()

    def pid(self) -> int:
        return os.getpid()


@ray.remote
class Target:
    def touch(self) -> int:
        return 1


def is_stored(oid: bytes) -> bool:
    return require_process().results.fetch([oid])[0] is not None


def wait_released(oid: bytes) -> None:
    wait_until(lambda: not is_stored(oid), f"the release of object {oid.hex()}")


def settled() -> None:
    """Let this process's background thread come to what was dropped."""
    marker = ray.put("marker").binary()
    wait_released(marker)


def test_it_stays_while_another_process_has_a_ref() -> None:
    keeper = Keeper.remote()
    ref = ray.put("kept")
    oid = ref.binary()
    ray.get(keeper.keep.remote([ref]))
    del ref
    settled()
    assert is_stored(oid)
    assert ray.get(keeper.values.remote()) == ["kept"]
    ray.get(keeper.drop.remote())
    wait_released(oid)


def test_it_stays_while_a_call_that_carries_it_waits() -> None:
    keeper, other = Keeper.remote(), Keeper.remote()
    ref = ray.put("kept")
    oid = ref.binary()
    ray.get(keeper.keep.remote([ref]))
    other.keep.remote([ref])
    del ref
    assert ray.get(other.values.remote()) == ["kept"]
    ray.get(keeper.drop.remote())
    settled()
    assert is_stored(oid)
    assert ray.get(other.values.remote()) == ["kept"]
    ray.get(other.drop.remote())
    wait_released(oid)


def test_from_one_borrower_to_another_and_back() -> None:
    first, second = Keeper.remote(), Keeper.remote()
    ref = ray.put("far")
    oid = ref.binary()
    ray.get(first.keep.remote([ref]))
    del ref
    ray.get(second.keep.remote(ray.get(first.give.remote())))
    ray.get(first.drop.remote())
    settled()
    assert ray.get(second.values.remote()) == ["far"]
    back = ray.get(second.give.remote())
    ray.get(second.drop.remote())
    assert ray.get(back[0]) == "far"
    assert is_stored(oid)
    del back
    wait_released(oid)


def test_an_object_made_by_an_actor_and_returned() -> None:
    keeper = Keeper.remote()
    inner = ray.get(keeper.make.remote())[0]
    oid = inner.binary()
    settled()
    assert ray.get(inner) == "made"
    del inner
    wait_released(oid)


def test_objects_inside_objects_go_one_after_another() -> None:
    innermost = ray.put("innermost")
    inner = ray.put([innermost])
    outer = ray.put({"deep": inner})
    oids = [innermost.binary(), inner.binary(), outer.binary()]
    del innermost, inner
    settled()
    assert all(map(is_stored, oids))
    assert ray.get(ray.get(ray.get(outer)["deep"])[0]) == "innermost"
    del outer
    for oid in oids:
        wait_released(oid)


def test_a_handle_inside_goes_with_its_object() -> None:
    keeper = Keeper.remote()
    target = Target.remote()
    ref = ray.put([target])
    ray.get(keeper.keep.remote([ref]))
    weak = ray.ActorHandle(target._celery_actor, target._celery_description, None)
    del target, ref
    settled()
    assert ray.get(weak.touch.remote()) == 1
    ray.get(keeper.drop.remote())
    wait_for_state(weak, "DEAD")


def test_what_is_inside_goes_though_the_ref_had_come_back_to_its_maker() -> None:
    keeper = Keeper.remote()
    target = Target.remote()
    ref = ray.put([target])
    ray.get(keeper.keep.remote([ref]))
    weak = ray.ActorHandle(target._celery_actor, target._celery_description, None)
    del target, ref
    settled()
    back = ray.get(keeper.give.remote())  # nobody reads it
    del back
    settled()
    assert ray.get(weak.touch.remote()) == 1
    ray.get(keeper.drop.remote())
    wait_for_state(weak, "DEAD")


def test_values_beside_one_that_cannot_be_pickled_keep_nothing() -> None:
    @ray.remote
    class Maker:
        @ray.method(num_returns=2)
        def make(self, target: list[Any]) -> tuple[Any, Any]:
            return target[0], threading.Lock()

    maker = Maker.remote()
    target = Target.remote()
    weak = ray.ActorHandle(target._celery_actor, target._celery_description, None)
    for ref in maker.make.remote([target]):
        with pytest.raises(ray.exceptions.SerializationError, match="can't be pickled"):
            ray.get(ref, timeout=60)
    del target
    wait_for_state(weak, "DEAD")


def test_shared_memory_goes_with_the_last_ref() -> None:
    keeper = Keeper.remote()
    wait_until(lambda: require_process().beside, "the node beside this driver")
    store = require_process().segments.store
    ref = ray.put(np.zeros(1_000_000))
    oid = ref.binary()
    ray.get(keeper.keep.remote([ref]))
    del ref
    settled()
    assert " live=1 " in repr(store)
    assert ray.get(keeper.values.remote())[0].shape == (1_000_000,)
    ray.get(keeper.drop.remote())
    wait_released(oid)
    wait_until(lambda: " live=0 " in repr(store), "the memory to be free for others")


def test_a_borrower_that_dies_keeps_nothing(start_node: StartNode) -> None:
    keeper = Keeper.remote()
    ref = ray.put("kept")
    oid = ref.binary()
    ray.get(keeper.keep.remote([ref]))
    del ref
    settled()
    assert is_stored(oid)
    os.kill(ray.get(keeper.pid.remote()), signal.SIGKILL)
    wait_released(oid)


def test_a_ref_in_a_closure_stays_with_the_function() -> None:
    ref = ray.put("closed over")
    oid = ref.binary()

    @ray.remote
    def read() -> Any:
        return ray.get(ref)

    assert ray.get(read.remote()) == "closed over"
    settled()
    assert is_stored(oid)

"""Handles that travel at random between twenty processes: nobody ends too early, all end."""

from __future__ import annotations

import random
from typing import Any

import pytest
from waiting import record_of, wait_until

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.handle import actor_id_of

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(600)]

TARGETS = 5
CARRIERS = 15
STEPS = 400


class Target:
    def __init__(self) -> None:
        self.calls = 0

    def touch(self) -> int:
        self.calls += 1
        return self.calls


class Carrier:
    """Keeps, passes on, returns, puts and drops handles."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, *handles: Any) -> None:
        self.kept.extend(handles)

    def keep_nested(self, inside: dict[str, list[Any]]) -> None:
        self.kept.extend(inside["handles"])

    def keep_from_object(self, ref: list[Any]) -> None:
        """Take handles out of an object that somebody has put."""
        self.kept.extend(ray.get(ref[0]))

    def give(self) -> list[Any]:
        return list(self.kept)

    def put(self) -> list[Any]:
        return [ray.put(list(self.kept))]

    def pass_on(self, other: Any, way: int) -> None:
        if way == 0:
            other.keep.remote(*self.kept)
        elif way == 1:
            other.keep_nested.remote({"handles": list(self.kept)})
        else:
            other.keep_from_object.remote([ray.put(list(self.kept))])

    def cycle(self, me: Any) -> None:
        """Hold oneself: weak, as every handle to oneself."""
        self.kept.append(me)

    def call_all(self) -> int:
        kept = [handle for handle in self.kept if hasattr(handle, "touch")]
        return len(ray.get([handle.touch.remote() for handle in kept], timeout=60))

    def drop(self, count: int) -> None:
        del self.kept[:count]


@ray.remote(num_cpus=0.1)
def through_a_task(handles: list[Any], other: Any) -> list[Any]:
    ray.get([handle.touch.remote() for handle in handles], timeout=60)
    other.keep.remote(*handles)
    return handles


def all_ended(actors: list[str]) -> list[str]:
    """Return the actors that live; their holds say who keeps them."""
    control = require_process().control
    return [a for a in actors if (r := control.actor(a)) is not None and r.state != "DEAD"]


@pytest.mark.parametrize("seed", [1, 2])
def test_random_traffic_ends_at_zero(seed: int) -> None:
    choose = random.Random(seed)
    targets = [ray.remote(Target).remote() for _ in range(TARGETS)]  # type: ignore[attr-defined]
    carriers = [ray.remote(Carrier).remote() for _ in range(CARRIERS)]  # type: ignore[attr-defined]
    ids = [actor_id_of(handle).hex() for handle in (*targets, *carriers)]
    mine = list(targets)
    waiting: list[Any] = []
    for step in range(STEPS):
        carrier, other = choose.sample(carriers, 2)
        some = choose.sample(mine, min(2, len(mine)))
        match choose.randrange(10):
            case 0:
                carrier.keep.remote(*some)
            case 1:
                carrier.keep_nested.remote({"handles": some})
            case 2:
                carrier.keep_from_object.remote([ray.put(some)])
            case 3 | 4:
                carrier.pass_on.remote(other, choose.randrange(3))
            case 5:
                waiting.append(through_a_task.remote(some, carrier))
            case 6:
                waiting.append(carrier.call_all.remote())
            case 7:
                carrier.drop.remote(choose.randrange(20))
            case 8:
                carrier.cycle.remote(carrier)
            case 9 if step > STEPS // 4:
                mine[:] = ray.get(carrier.give.remote(), timeout=60)[:10]
                mine[:] = [handle for handle in mine if handle in targets] or list(targets)
    results = ray.get(waiting, timeout=120)
    assert all(result is not None for result in results)
    # Nobody who is held anywhere has ended.
    assert ray.get([handle.touch.remote() for handle in targets], timeout=60)
    assert all_ended(ids) == ids
    # The driver lets go; what the carriers hold keeps the targets...
    keeper = ray.remote(Carrier).remote()  # type: ignore[attr-defined]
    ray.get(keeper.keep.remote(*targets), timeout=60)
    keeper_id = actor_id_of(keeper).hex()
    del results, waiting, mine, targets, carriers, carrier, other, some
    kept = ids[:TARGETS]
    wait_until(lambda: all_ended(ids) == kept, "the end of all but those that are kept", 120)
    assert ray.get(keeper.call_all.remote(), timeout=60) == TARGETS
    # ... until they go too.
    del keeper
    wait_until(lambda: not all_ended([*ids, keeper_id]), "the end of all", 120)
    control = require_process().control
    assert [control.holds(actor) for actor in (*ids, keeper_id)] == [set()] * (len(ids) + 1)
    assert {record_of(actor).cause for actor in ids} == {"no handle to it is left"}

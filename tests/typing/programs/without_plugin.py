# checkers: mypy without its plugin
"""Without the plugin mypy lets pass what it can't know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from typing_extensions import assert_type

import celery_actors as ray
from celery_actors import ActorHandle, ObjectRef
from celery_actors.actor import ActorClass, ActorProxy

T = TypeVar("T")


@ray.remote
def scale(value: float, factor: int = 2) -> float:
    return value * factor


@ray.remote(num_cpus=2)
def count(limit: int) -> Iterator[int]:
    yield from range(limit)


@ray.remote
def same(value: T) -> T:
    return value


class PlainCounter:
    def __init__(self, value: int = 0) -> None:
        self.value = value

    @ray.method
    def increment(self, by: int) -> int:
        return self.value + by

    @ray.method(num_returns=2)
    def pair(self) -> tuple[int, int]:
        return self.increment(1), self.increment(2)

    def plain(self, by: int) -> int:
        return self.value + by


Counter = ray.remote(PlainCounter)
same_class: ActorClass[PlainCounter] = ray.remote(PlainCounter)
number: ObjectRef[int] = ray.put(1)

assert_type(scale.remote(1.5), Any)
assert_type(scale.remote(number, factor=number), Any)
assert_type(scale.options(num_cpus=1).remote(number), Any)
assert_type(count.remote(3), Any)
assert_type(same.remote(3), Any)
assert_type(Counter.remote(3), ActorHandle[PlainCounter])
assert_type(Counter.remote(value=number), ActorHandle[PlainCounter])
assert_type(same_class.options(num_cpus=1).remote(3), ActorHandle[PlainCounter])
assert_type(PlainCounter().increment(3), int)


def use(handle: ActorHandle[PlainCounter], proxy: ActorProxy[PlainCounter]) -> None:
    assert_type(handle.plain.remote(3), Any)
    assert_type(handle.increment.remote(number), Any)
    assert_type(proxy.increment.remote(3), Any)
    assert_type(ray.get(handle.increment.remote(3)), Any)
    ray.kill(handle)
    ray.kill(proxy)


use(Counter.remote(), Counter.remote())

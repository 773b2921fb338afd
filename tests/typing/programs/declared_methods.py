# checkers: mypy, pyright
"""Methods under ``@method``, through ``ActorProxy``: the same for every checker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

from typing_extensions import assert_type

import celery_actors as ray
from celery_actors import ObjectRef, ObjectRefGenerator
from celery_actors.actor import ActorProxy

T = TypeVar("T")


class PlainCounter:
    def __init__(self, value: int = 0) -> None:
        self.value = value

    @ray.method
    def increment(self, by: int, *, times: int = 1) -> int:
        self.value += by * times
        return self.value

    @ray.method(concurrency_group="io")
    def twice(self, by: int) -> int:
        # Inside the class it is a method as any other.
        return self.increment(by) + self.increment(by, times=2)

    @ray.method(num_returns=2)
    def pair(self) -> tuple[int, str]:
        return self.value, ""

    @ray.method(num_returns=0)
    def forget(self) -> None: ...

    @ray.method
    async def later(self, text: str) -> str:
        return text

    @ray.method
    def each(self, limit: int) -> Iterator[int]:
        yield from range(limit)

    @ray.method
    async def each_later(self, limit: int) -> AsyncIterator[str]:
        for i in range(limit):
            yield str(i)

    @ray.method
    def same(self, value: T) -> T:
        return value


Counter = ray.remote(PlainCounter)
number: ObjectRef[int] = ray.put(1)
text: ObjectRef[str] = ray.put("a")


class Keeper:
    counter: ActorProxy[PlainCounter]

    def __init__(self) -> None:
        self.counter = Counter.remote()
        self.all: list[ActorProxy[PlainCounter]] = [Counter.remote(i) for i in range(3)]

    def run(self) -> None:
        assert_type(self.counter.increment.remote(3), ObjectRef[int])
        assert_type(self.all[0].increment.remote(3), ObjectRef[int])


def make() -> ActorProxy[PlainCounter]:
    return Counter.remote(3)


def use(counter: ActorProxy[PlainCounter]) -> None:
    assert_type(counter.increment.remote(3), ObjectRef[int])
    assert_type(counter.increment.remote(number), ObjectRef[int])
    assert_type(counter.increment.remote(by=3, times=2), ObjectRef[int])
    assert_type(counter.twice.remote(3), ObjectRef[int])
    assert_type(counter.pair.remote(), list[ObjectRef[Any]])
    assert_type(counter.forget.remote(), None)
    assert_type(counter.later.remote("a"), ObjectRef[str])
    assert_type(counter.each.remote(3), ObjectRefGenerator[int])
    assert_type(counter.each_later.remote(3), ObjectRefGenerator[str])
    assert_type(counter.same.remote("a"), ObjectRef[str])
    assert_type(counter.increment.options(name="adding").remote(3), ObjectRef[int])
    assert_type(counter.increment.options(num_returns=2).remote(3), list[ObjectRef[Any]])
    counter.increment.remote("a")  # error
    counter.increment.remote(text)  # error
    counter.increment.remote()  # error
    counter.increment.remote(1, tims=2)  # error
    counter.later.remote(1)  # error
    counter.each.remote("a")  # error
    counter.decrement.remote(1)  # error
    counter.increment(1)  # error
    ray.kill(counter)


use(Counter.remote())
use(make())
assert_type(make().increment.remote(3), ObjectRef[int])
PlainCounter().increment("a")  # error
PlainCounter().twice(3)

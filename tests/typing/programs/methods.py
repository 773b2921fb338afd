# checkers: mypy
"""Methods of handles, without any declaration: the plugin finds them in the class."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from typing import Any, Generic, TypeVar, overload

from typing_extensions import Self, assert_type

import celery_actors as ray
from celery_actors import ActorHandle, DynamicObjectRefGenerator, ObjectRef, ObjectRefGenerator

T = TypeVar("T")
K = TypeVar("K")


class Base:
    def inherited(self, value: int) -> int:
        return value


@ray.remote
class Worker(Base):
    limit = 3

    def __init__(self) -> None:
        self.state = 0
        self.callback = len

    def add(self, amount: int, *, times: int = 1) -> int:
        return amount * times

    def nothing(self) -> None: ...

    async def later(self, value: str) -> str:
        await asyncio.sleep(1)
        return value

    def awaitable(self) -> Awaitable[str]:
        return self.later("a")

    def each(self, limit: int) -> Iterator[int]:
        yield from range(limit)

    def each_as_iterable(self, limit: int) -> Iterable[int]:
        yield from range(limit)

    def a_list(self, limit: int) -> Iterable[int]:
        return list(range(limit))

    async def each_later(self, limit: int) -> AsyncIterator[str]:
        for i in range(limit):
            yield str(i)

    @ray.method(num_returns=2)
    def pair(self) -> tuple[int, str]:
        return 1, "a"

    @ray.method(num_returns=0)
    def forget(self) -> int:
        return 1

    @ray.method(concurrency_group="io")
    def in_group(self, value: int) -> str:
        return str(value)

    @ray.method
    def declared(self, value: int) -> str:
        return str(value)

    def same(self, value: K) -> K:
        return value

    def me(self) -> Self:
        return self

    def all_of(self, *values: int, **named: str) -> int:
        return len(values)

    @classmethod
    def of_class(cls, value: int) -> int:
        return value

    @staticmethod
    def static(value: int) -> int:
        return value

    @property
    def size(self) -> int:
        return 1

    @overload
    def either(self, value: int) -> int: ...
    @overload
    def either(self, value: str) -> str: ...
    def either(self, value: Any) -> Any:
        return value

    def untyped(self, value):  # type: ignore[no-untyped-def]
        return value

    def __len__(self) -> int:
        return 1

    def meet(self, other: ActorHandle[Worker]) -> int:
        return ray.get(other.add.remote(1))


class PlainBox(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value

    def put(self, value: T) -> None:
        self.value = value

    def get(self) -> T:
        return self.value


Box = ray.remote(PlainBox)

worker = Worker.remote()
number: ObjectRef[int] = ray.put(1)
text: ObjectRef[str] = ray.put("a")

assert_type(worker, ActorHandle[Worker])
assert_type(worker.add.remote(1), ObjectRef[int])
assert_type(worker.add.remote(1, times=2), ObjectRef[int])
assert_type(worker.add.remote(number, times=number), ObjectRef[int])
assert_type(worker.add.remote(amount=number), ObjectRef[int])
assert_type(worker.nothing.remote(), ObjectRef[None])
assert_type(worker.later.remote("a"), ObjectRef[str])
assert_type(worker.awaitable.remote(), ObjectRef[str])
assert_type(worker.each.remote(3), ObjectRefGenerator[int])
assert_type(worker.each_as_iterable.remote(3), ObjectRefGenerator[int])
assert_type(worker.a_list.remote(3), ObjectRef[Iterable[int]])
assert_type(worker.each_later.remote(3), ObjectRefGenerator[str])
assert_type(worker.pair.remote(), list[ObjectRef[Any]])
assert_type(worker.forget.remote(), None)
assert_type(worker.in_group.remote(1), ObjectRef[str])
assert_type(worker.declared.remote(1), ObjectRef[str])
assert_type(worker.same.remote("a"), ObjectRef[str])
assert_type(worker.same.remote(number), ObjectRef[int])
assert_type(worker.me.remote(), ObjectRef[Worker])
assert_type(worker.all_of.remote(1, number, a="b", c=text), ObjectRef[int])
assert_type(worker.of_class.remote(1), ObjectRef[int])
assert_type(worker.static.remote(1), ObjectRef[int])
assert_type(worker.inherited.remote(1), ObjectRef[int])
assert_type(worker.either.remote(1), Any)
assert_type(worker.untyped.remote(1), ObjectRef[Any])
assert_type(worker.__len__.remote(), ObjectRef[int])
assert_type(worker.__ray_ready__.remote(), ObjectRef[Any])
assert_type(worker.__ray_call__.remote(lambda self, by: self.add(by), 2), ObjectRef[int])
assert_type(worker.add.options(name="adding").remote(1), ObjectRef[int])
assert_type(worker.add.options(num_returns=2).remote(1), list[ObjectRef[Any]])
assert_type(worker.pair.options(num_returns=1).remote(), ObjectRef[Any])
assert_type(worker.each.options(num_returns="streaming").remote(3), ObjectRefGenerator[Any])
assert_type(
    worker.each.options(num_returns="dynamic").remote(3), ObjectRef[DynamicObjectRefGenerator[Any]]
)
add = worker.add
assert_type(add.remote(1), ObjectRef[int])


def through_parameters(
    first: ActorHandle[Worker],
    second: ActorHandle[PlainBox[str]],
    maybe: ActorHandle[Worker] | None,
    either: ActorHandle[Worker] | ActorHandle[PlainBox[str]],
    anything: ActorHandle[Any],
    bare: ActorHandle,  # type: ignore[type-arg]
) -> None:
    assert_type(first.add.remote(1), ObjectRef[int])
    assert_type(second.get.remote(), ObjectRef[str])
    second.put.remote(text)
    second.put.remote(3)  # error
    assert_type(anything.whatever.remote(1), Any)
    assert_type(bare.whatever.remote(1), Any)
    maybe.add.remote(1)  # error
    if maybe is not None:
        assert_type(maybe.add.remote(1), ObjectRef[int])
        maybe.add.remote("a")  # error
    either.add.remote(1)  # error


def of_any_kind(handle: ActorHandle[T], value: T) -> None:
    handle.method.remote(value)


class Keeper:
    def __init__(self) -> None:
        self.workers = [Worker.remote() for _ in range(3)]

    def run(self) -> list[int]:
        return ray.get([worker.add.remote(1) for worker in self.workers])


worker.add.remote("a")  # error
worker.add.remote(text)  # error
worker.add.remote()  # error
worker.add.remote(1, 2)  # error
worker.add.remote(1, tims=2)  # error
worker.add.options(name="adding").remote("a")  # error
add.remote("a")  # error
worker.nothing.remote(1)  # error
worker.later.remote(1)  # error
worker.each.remote("a")  # error
worker.pair.remote(1)  # error
worker.in_group.remote("a")  # error
worker.of_class.remote("a")  # error
worker.static.remote("a")  # error
worker.inherited.remote("a")  # error
worker.all_of.remote("a")  # error
worker.meet.remote(worker)
worker.meet.remote(3)  # error
worker.ad.remote(1)  # error
worker.size.remote()  # error
worker.state.remote()  # error
worker.callback.remote("a")  # error
worker.limit  # error  # noqa: B018
worker.__init__.remote()  # error
worker.add(1)  # error
worker.limit = 3  # error
wrong: ObjectRef[str] = worker.add.remote(1)  # error


def local_classes_too() -> None:
    @ray.remote
    class Local:
        def __init__(self, start: int) -> None:
            self.start = start

        def value(self) -> int:
            return self.start

    assert_type(Local.remote(1).value.remote(), ObjectRef[int])
    Local.remote("a")  # error
    Local.options(num_cpus=1).remote("a")  # error

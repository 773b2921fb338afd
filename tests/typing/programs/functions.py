# checkers: mypy, pyright
"""Remote functions: parameters and results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from typing_extensions import assert_type

import celery_actors as ray
from celery_actors import DynamicObjectRefGenerator, ObjectRef, ObjectRefGenerator

T = TypeVar("T")


@ray.remote
def scale(value: float, factor: int = 2, *, label: str = "") -> float:
    return value * factor


@ray.remote(num_cpus=2, max_retries=5)
def name_of(value: int) -> str:
    return str(value)


@ray.remote
def count(limit: int) -> Iterator[int]:
    yield from range(limit)


@ray.remote(num_gpus=1)
def count_with_gpu(limit: int) -> Iterator[int]:
    yield from range(limit)


@ray.remote
def same(value: T) -> T:
    return value


@ray.remote
def total(*values: int) -> int:
    return sum(values)


@ray.remote
def nothing() -> None:
    return None


@ray.remote(num_returns=2)
def pair(value: int) -> tuple[int, str]:
    return value, str(value)


@ray.remote(num_returns=0)
def forget(value: int) -> int:
    return value


number: ObjectRef[int] = ray.put(1)
text: ObjectRef[str] = ray.put("a")

assert_type(scale.remote(1.5), ObjectRef[float])
assert_type(scale.remote(1.5, 3, label="a"), ObjectRef[float])
assert_type(scale.remote(value=1.5, factor=3), ObjectRef[float])
assert_type(name_of.remote(1), ObjectRef[str])
assert_type(count.remote(3), ObjectRefGenerator[int])
assert_type(count_with_gpu.remote(3), ObjectRefGenerator[int])
assert_type(same.remote("a"), ObjectRef[str])
assert_type(total.remote(1, 2, 3), ObjectRef[int])
assert_type(nothing.remote(), ObjectRef[None])
assert_type(pair.remote(1), list[ObjectRef[Any]])
assert_type(forget.remote(1), None)
assert_type(ray.remote(len).remote("four"), ObjectRef[int])

# A parameter takes a value, or a ref to one.
assert_type(scale.remote(number, number), ObjectRef[float])
assert_type(scale.remote(1.5, number, label="a"), ObjectRef[float])
assert_type(scale.remote(number, factor=3), ObjectRef[float])
assert_type(name_of.remote(number), ObjectRef[str])
assert_type(name_of.options(num_cpus=1).remote(number), ObjectRef[str])
assert_type(total.remote(number, 2, number), ObjectRef[int])

# Options keep the types; `num_returns` changes the result.
assert_type(scale.options(num_cpus=3).remote(1.5), ObjectRef[float])
assert_type(scale.options(num_returns=0).remote(1.5), None)
assert_type(pair.options(num_returns=1).remote(1), ObjectRef[Any])
assert_type(scale.options(num_returns=3).remote(1.5), list[ObjectRef[Any]])
assert_type(count.options(num_returns="streaming").remote(3), ObjectRefGenerator[Any])
assert_type(
    count.options(num_returns="dynamic").remote(3), ObjectRef[DynamicObjectRefGenerator[Any]]
)

scale.remote("a")  # error
scale.remote(text)  # error
scale.remote()  # error
scale.remote(1.5, 2, "label")  # error
scale.remote(1.5, faktor=2)  # error
scale.remote(number, text)  # error
name_of.remote("a")  # error
name_of.options(num_cpus=1).remote("a")  # error
count.remote("a")  # error
total.remote(1, "a")  # error
nothing.remote(1)  # error
pair.remote("a")  # error
scale(1.5)  # error
scale.remotely(1.5)  # error
wrong: ObjectRef[int] = name_of.remote(1)  # error

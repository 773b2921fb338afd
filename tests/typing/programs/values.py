# checkers: mypy, pyright
"""Refs and what comes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future

from typing_extensions import assert_type

import celery_actors as ray
from celery_actors import ObjectRef, ObjectRefGenerator


@ray.remote
def number() -> int:
    return 1


@ray.remote
def text() -> str:
    return "a"


@ray.remote
def count(limit: int) -> Iterator[int]:
    yield from range(limit)


refs = [number.remote() for _ in range(3)]
assert_type(refs, list[ObjectRef[int]])
assert_type(ray.get(refs), list[int])
assert_type(ray.get(refs[0]), int)
assert_type(ray.get(refs[0], timeout=1), int)
assert_type(ray.get(tuple(refs)), list[int])
assert_type(ray.put({"a": 1}), ObjectRef[dict[str, int]])
assert_type(ray.get(ray.put([1])), list[int])
assert_type(refs[0].future(), Future[int])
assert_type(refs[0].hex(), str)

ready, rest = ray.wait(refs, num_returns=2, timeout=1)
assert_type(ready, list[ObjectRef[int]])
assert_type(ray.get(rest), list[int])

for ref in count.remote(3):
    assert_type(ref, ObjectRef[int])
    assert_type(ray.get(ref), int)


async def main() -> None:
    assert_type(await number.remote(), int)
    assert_type(await asyncio.gather(number.remote(), text.remote()), tuple[int, str])
    generator = count.remote(3)
    assert_type(generator, ObjectRefGenerator[int])
    async for ref in generator:
        assert_type(await ref, int)


ray.cancel(refs[0])
ray.cancel(count.remote(3))

ray.get(3)  # error
ray.get([1, 2])  # error
ray.wait(refs[0])  # error
ray.wait(refs, 2)  # error
ray.cancel("a")  # error
number.remote() + 1  # error
wrong: str = ray.get(number.remote())  # error

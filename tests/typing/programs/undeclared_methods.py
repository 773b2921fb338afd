# checkers: pyright
"""Methods without ``@method``: pyright can't map them to remote ones, and lets them pass."""

from __future__ import annotations

from typing import Any

from typing_extensions import assert_type

import celery_actors as ray
from celery_actors import ActorHandle, ObjectRef
from celery_actors.actor import ActorMethod


@ray.remote
class Counter:
    def __init__(self, value: int = 0) -> None:
        self.value = value

    def increment(self, by: int) -> int:
        self.value += by
        return self.value


class PlainCounter:
    def increment(self, by: int) -> int:
        return by


counter = Counter.remote(3)
assert_type(counter.increment, ActorMethod[..., Any])
assert_type(counter.increment.remote(3), Any)
assert_type(counter.increment.options(name="adding").remote(3), Any)
assert_type(ray.get(counter.increment.remote(3)), Any)
assert_type(ray.get([counter.increment.remote(3)]), list[Any])
counter.increment(3)  # error
counter.value = 3  # error


def through_a_parameter(first: ActorHandle[Counter], second: ActorHandle[PlainCounter]) -> None:
    assert_type(first.increment.remote(3), Any)
    assert_type(second.increment.remote(3), Any)
    # Any function can be run in the actor; a method of a class that has a name is one.
    assert_type(second.__ray_call__.remote(PlainCounter.increment, 3), ObjectRef[int])
    second.__ray_call__.remote(PlainCounter.increment, "a")  # error


through_a_parameter(counter, ray.remote(PlainCounter).remote())

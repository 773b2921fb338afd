# checkers: mypy, pyright
"""Actor classes: constructors, options, annotations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from typing_extensions import assert_type

import celery_actors as ray
from celery_actors import ActorHandle, ObjectRef
from celery_actors.actor import ActorClass


@ray.remote
class Counter:
    def __init__(self, start: int = 0, *, step: int = 1) -> None:
        self.value = start
        self.step = step

    def increment(self) -> int:
        self.value += self.step
        return self.value

    def join(self, other: ActorHandle[Counter]) -> None: ...

    def another(self) -> ActorHandle[Counter]:
        return Counter.remote(self.value)


@ray.remote(num_gpus=1, max_restarts=3)
class Net:
    def __init__(self, layers: list[int]) -> None:
        self.layers = layers


@ray.remote
class Empty: ...


class Shape(ABC):
    def __init__(self, sides: int) -> None:
        self.sides = sides

    @abstractmethod
    def area(self) -> float: ...


class PlainSquare(Shape):
    def area(self) -> float:
        return 1.0


Square = ray.remote(PlainSquare)
typed_square: ActorClass[PlainSquare] = ray.remote(PlainSquare)
start: ObjectRef[int] = ray.put(3)
text: ObjectRef[str] = ray.put("a")


def use(counter: ActorHandle[Counter], another: ActorHandle[Counter] | None = None) -> None:
    ray.kill(counter)


def use_square(square: ActorHandle[PlainSquare]) -> None:
    ray.kill(square)


def use_any(actor: ActorHandle[Any]) -> None:
    ray.kill(actor)


def build(kind: ActorClass[Counter]) -> ActorHandle[Counter]:
    return kind.remote(3)


def build_square(kind: ActorClass[PlainSquare]) -> ActorHandle[PlainSquare]:
    return kind.remote(4)


use(Counter.remote())
use(Counter.remote(3, step=2), Counter.remote(start=3))
use(Counter.options(name="visits", lifetime="detached").remote(3))
use(Counter.remote(start), Counter.remote(start, step=2))
use(build(Counter))
use(build(Counter.options(num_cpus=1)))
use_any(Counter.remote())
use_any(Net.remote([3, 4]))
use_any(Net.options(num_gpus=2).remote([3, 4]))
use_any(Empty.remote())
use_square(Square.remote(4))
use_square(Square.options(num_cpus=1).remote(start))
use_square(typed_square.remote(4))
use_square(build_square(Square))
assert_type(typed_square.remote(4), ActorHandle[PlainSquare])
assert_type(typed_square.options(num_cpus=1).remote(4), ActorHandle[PlainSquare])

counter: ActorHandle[Counter] = Counter.remote()
counters: list[ActorHandle[Counter]] = [Counter.remote(i) for i in range(3)]
names: dict[ActorHandle[Counter], str] = {counter: "first"}

Counter.remote("a")  # error
Counter.remote(text)  # error
Counter.remote(1, 2)  # error
Counter.remote(1, stepp=2)  # error
Counter.options(num_cpus=1).remote("a")  # error
Net.remote()  # error
Net.remote([3], 4)  # error
Net.options(num_cpus=1).remote(3)  # error
Empty.remote(1)  # error: mypy
Square.remote()  # error
Square.remote("a")  # error
typed_square.remote("a")  # error
Counter()  # error
Net([3])  # error
Counter.nothing()  # error
use_square(Counter.remote())  # error
use(3)  # error
ray.kill("counter")  # error

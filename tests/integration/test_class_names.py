"""An actor class under its own name, and methods of unusual make and name."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import celery_actors as ray
from celery_actors.actor import ActorClass, ActorClassInheritanceException
from celery_actors.util import ActorGroup

pytestmark = pytest.mark.usefixtures("cluster")


class Base:
    origin = "base"

    def greet(self) -> str:
        return "base"


@ray.remote
class Child(Base):
    """A child."""

    LIMIT = 7
    made = 0
    _kind = "mine"
    _options = "mine"

    class Inner:
        VALUE = 3

    def __init__(self) -> None:
        Child.made += 1

    @staticmethod
    def double(value: int) -> int:
        return 2 * value

    @classmethod
    def tag(cls, text: str) -> str:
        return f"{cls.__name__}:{text}"

    def greet(self) -> str:
        return "child+" + Base.greet(self)

    def by_name(self) -> list[Any]:
        own: Any = Child
        return [
            own.LIMIT,
            own.origin,
            own.double(2),
            own.tag("x"),
            own.Inner.VALUE,
            own.made,
            self.made,
            own.greet(self),
            (own.__name__, own.__doc__, own.__qualname__),
            isinstance(self, own),
            issubclass(type(self), own),
            "LIMIT" in dir(own),
            (own._kind, own._options),
        ]

    def another(self) -> str:
        return ray.get(Child.remote().greet.remote())

    def instance(self) -> Any:
        own: Any = Child
        return own()


_EXPECTED = [7, "base", 4, "Child:x", 3, 1, 1, "child+base", ("Child", "A child.", "Child")]


def test_the_class_s_attributes_in_its_methods() -> None:
    child = Child.remote()
    assert ray.get(child.by_name.remote()) == [*_EXPECTED, True, True, True, ("mine", "mine")]
    assert ray.get(child.another.remote()) == "child+base"
    with pytest.raises(TypeError, match="cannot be instantiated directly"):
        ray.get(child.instance.remote())


def test_the_class_s_attributes_in_the_driver() -> None:
    own: Any = Child
    assert (own.LIMIT, own.origin, own.Inner.VALUE, own._options) == (7, "base", 3, "mine")
    assert (own.double(3), own.tag("y")) == (6, "Child:y")
    assert own.options(num_cpus=0).LIMIT == 7
    assert isinstance(own, ActorClass)
    assert issubclass(own, Base)
    assert not isinstance(3, own)
    assert {"LIMIT", "double", "remote", "options"} <= set(dir(own))
    with pytest.raises(AttributeError, match="Child has no attribute 'absent'"):
        own.absent  # noqa: B018
    with pytest.raises(TypeError, match="cannot be instantiated directly"):
        own()


def test_what_is_set_is_the_class_s() -> None:
    class Plain:
        limit = 1

        def read(self) -> int:
            return self.limit

    remote: Any = ray.remote(Plain)
    remote.limit = 2
    assert Plain.limit == 2
    assert ray.get(remote.remote().read.remote()) == 2
    del remote.limit
    assert not hasattr(Plain, "limit")


def test_no_class_inherits_from_it() -> None:
    with pytest.raises(ActorClassInheritanceException, match="not supported"):

        class _Heir(Child):
            pass


def test_names_that_a_handle_or_an_actor_class_uses_itself() -> None:
    @ray.remote
    class Names:
        def remote(self) -> str:
            return "remote"

        def options(self) -> str:
            return "options"

        def _actor(self) -> str:
            return "_actor"

        def _actor_id(self) -> str:
            return "_actor_id"

        def _hold(self) -> str:
            return "_hold"

        def _description(self) -> str:
            return "_description"

        def __ray_ready__(self) -> str:
            return "mine"

        def parameters(
            self, args: int, kwargs: int, function: int, options: int, method: int, name: int
        ) -> list[int]:
            return [args, kwargs, function, options, method, name]

        @staticmethod
        def loose(self: int) -> int:  # noqa: PLW0211 - that is the point
            return self

    names: Any = Names.remote()
    for name in ("remote", "options", "_actor", "_actor_id", "_hold", "_description"):
        assert ray.get(getattr(names, name).remote()) == name
    assert ray.get(names.__ray_ready__.remote()) is True
    given = {"args": 1, "kwargs": 2, "function": 3, "options": 4, "method": 5, "name": 6}
    assert ray.get(names.parameters.remote(**given)) == [1, 2, 3, 4, 5, 6]
    assert ray.get(names.loose.remote(self=7)) == 7

    def read(_object: Any, function: int) -> int:
        return function

    assert ray.get(names.__ray_call__.remote(read, function=8)) == 8
    task: Any = ray.remote(lambda self, args, kwargs: [self, args, kwargs])
    assert ray.get(task.remote(self=1, args=2, kwargs=3)) == [1, 2, 3]


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class _OnInstances:
    def __get__(self, instance: Any, owner: Any = None) -> int:
        if instance is None:
            raise RuntimeError("works on instances only")
        return 5


class _Bound:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self.function if instance is None else functools.partial(self.function, instance)


class PlainWrapped:
    five = _OnInstances()

    def add(self, a: int, b: int = 2) -> int:
        return a + b

    add_ten = functools.partialmethod(add, 10)
    bound = _Bound(add)

    @_wrapped
    def count(self) -> Iterator[int]:
        yield 1
        yield 2

    @ray.method(num_returns=2)
    @_wrapped
    def two(self) -> tuple[int, int]:
        return self.five, 6

    @_wrapped
    @ray.method(num_returns=2)
    def two_inside(self) -> tuple[int, int]:
        return 7, 8

    @_wrapped
    async def later(self) -> int:
        await asyncio.sleep(0)
        return 9

    @_wrapped
    async def stream(self) -> AsyncIterator[int]:
        yield 3


class AsyncWrapped(PlainWrapped):
    async def own(self) -> None: ...


@pytest.mark.parametrize("kind", [PlainWrapped, AsyncWrapped])
@pytest.mark.parametrize("options", [{}, {"max_concurrency": 2}])
def test_methods_under_wrappers(kind: type, options: dict[str, Any]) -> None:
    actor: Any = ray.remote(kind).options(**options).remote()
    assert [ray.get(ref) for ref in actor.count.remote()] == [1, 2]
    assert [ray.get(ref) for ref in actor.stream.remote()] == [3]
    assert ray.get(actor.later.remote()) == 9
    assert ray.get(actor.two.remote()) == [5, 6]
    assert ray.get(actor.two_inside.remote()) == [7, 8]
    assert ray.get(actor.add_ten.remote(5)) == 15
    assert ray.get(actor.bound.remote(1)) == 3
    with pytest.raises(TypeError, match="too many positional"):
        actor.add_ten.remote(1, 2)


def test_rays_older_names() -> None:
    @ray.remote(num_cpus=4)
    class Actor:
        def __init__(self, a: int, b: int = 0) -> None:
            self.sum = a + b

        def two(self, by: int = 1) -> tuple[int, int]:
            return self.sum, self.sum * by

    kind: Any = Actor
    actor: Any = kind._remote([1], {"b": 2}, num_cpus=0, name="older")
    assert ray.get(ray.get_actor("older").two.remote()) == (3, 3)
    assert ray.get(actor.two._remote(kwargs={"by": 2}, num_returns=2)) == [3, 6]
    task: Any = ray.remote(max)
    assert ray.get(task._remote(args=(1, 5), num_cpus=0, max_retries=None)) == 5

    async def await_older() -> object:
        return await actor.two.remote().as_future()

    assert asyncio.run(await_older()) == (3, 3)


def test_an_actor_group() -> None:
    class Member:
        def __init__(self, start: int) -> None:
            self.value = start

        def add(self, by: int) -> int:
            self.value += by
            return self.value

        def get_actor_metadata(self) -> str:
            return f"from {self.value}"

    group = ActorGroup(Member, 2, num_cpus_per_actor=0, init_args=(1,))
    assert ray.get(group.add.remote(by=2)) == [3, 3]
    assert group.actor_metadata == ["from 1", "from 1"]
    group.add_actors(1)
    assert (len(group), ray.get(group.add.remote(1))) == (3, [4, 4, 2])
    group.remove_actors([0])
    assert ray.get(group[1].actor.add.remote(1)) == 3
    group.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        group.add.remote(1)
    with pytest.raises(ValueError, match="num_actors"):
        ActorGroup(Member, 0)

"""The name of an actor class, methods of unusual make, and names that Ray's programs use."""

from __future__ import annotations

import asyncio
import functools

from conformance.case import case
from conformance.checks import raises, submodule


def _classes(ray):
    class Base:
        ORIGIN = "base"

        def greet(self):
            return "base"

    @ray.remote
    class Child(Base):
        LIMIT = 7
        cache = {}

        class Inner:
            VALUE = 3

        @staticmethod
        def double(value):
            return 2 * value

        @classmethod
        def tag(cls, text):
            return "t" + text

        def greet(self):
            return "child+" + super().greet()

        def limits(self):
            return Child.LIMIT, Child.ORIGIN, Child.Inner.VALUE

        def called(self, value):
            return Child.double(value), Child.tag(str(value))

        def bump(self):
            Child.cache["n"] = Child.cache.get("n", 0) + 1
            return Child.cache["n"], self.cache["n"]

        def listed(self):
            return {"LIMIT", "double", "remote"} <= set(dir(Child))

        def another(self):
            return ray.get(Child.remote().greet.remote())

        def instance(self):
            return Child()

        def name(self):
            return Child.__name__

        def is_mine(self):
            return isinstance(self, Child), Child.greet(self)

    return Base, Child


@case("Class.CONSTANT, inherited and nested names are read in the driver from the actor class")
def attributes_in_the_driver(ray):
    _, child = _classes(ray)
    assert (child.LIMIT, child.ORIGIN, child.Inner.VALUE) == (7, "base", 3)


@case("Static and class methods of an actor class can be called in the driver")
def static_in_the_driver(ray):
    _, child = _classes(ray)
    assert (child.double(3), child.tag("x")) == (6, "tx")


@case("dir() of an actor class lists what the class has, and remote and options")
def dir_of_a_class(ray):
    _, child = _classes(ray)
    assert {"LIMIT", "double", "greet", "remote", "options"} <= set(dir(child))


@case("ray.actor.ActorClass is the class of actor classes, for isinstance()")
def class_of_classes(ray):
    _, child = _classes(ray)
    assert isinstance(child, ray.actor.ActorClass)


@case("A method finds the class's constants under the class's own name")
def attributes_in_a_method(ray):
    _, child = _classes(ray)
    assert ray.get(child.remote().limits.remote()) == (7, "base", 3)


@case("A method calls static and class methods under the class's own name")
def static_in_a_method(ray):
    _, child = _classes(ray)
    assert ray.get(child.remote().called.remote(4)) == (8, "t4")


@case("What a method changes under the class's name, its object sees")
def shared_with_the_object(ray):
    _, child = _classes(ray)
    actor = child.remote()
    assert [ray.get(actor.bump.remote()) for _ in range(2)] == [(1, 1), (2, 2)]


@case("A method creates further actors under the class's own name; dir() is whole there")
def remote_in_a_method(ray):
    _, child = _classes(ray)
    actor = child.remote()
    assert ray.get(actor.another.remote()) == "child+base"
    assert ray.get(actor.listed.remote())


@case("A method that instantiates its own actor class gets the TypeError that says how")
def instance_in_a_method(ray):
    _, child = _classes(ray)
    with raises(TypeError, match="cannot be instantiated directly"):
        ray.get(child.remote().instance.remote())


@case(
    "An actor class has its name, and isinstance(), unbound methods work with it",
    deviates="Ray's actor class is an object without __name__ that isinstance() refuses",
)
def names_in_a_method(ray):
    base, child = _classes(ray)
    assert child.__name__ == "Child"
    assert issubclass(child, base)
    actor = child.remote()
    assert ray.get(actor.name.remote()) == "Child"
    assert ray.get(actor.is_mine.remote()) == (True, "child+base")


@case("Inheriting from an actor class raises ray.actor.ActorClassInheritanceException, a TypeError")
def inheritance(ray):
    _, child = _classes(ray)
    assert issubclass(ray.actor.ActorClassInheritanceException, TypeError)
    with raises(ray.actor.ActorClassInheritanceException):

        class _Heir(child):
            pass


@case("Calling a method or a function without .remote() says that it cannot be called directly")
def called_directly(ray):
    _, child = _classes(ray)
    with raises(TypeError, match="cannot be called directly"):
        child.remote().greet()
    with raises(TypeError, match="cannot be called directly"):
        ray.remote(lambda: 1)()


@case("ActorClass._remote(args, kwargs, **options) creates an actor with options")
def remote_of_a_class(ray):
    @ray.remote
    class Actor:
        def __init__(self, a, b=0):
            self.sum = a + b

        def get(self):
            return self.sum

    actor = Actor._remote([1], {"b": 2}, name="older name", num_cpus=0)
    assert ray.get(ray.get_actor("older name").get.remote()) == 3
    assert ray.get(actor.get._remote()) == 3


@case("RemoteFunction._remote and ActorMethod._remote take args, kwargs and options")
def remote_of_functions(ray):
    @ray.remote
    def divide(a, b=1):
        return divmod(a, b)

    assert ray.get(divide._remote(args=(7,), kwargs={"b": 2}, num_returns=2)) == [3, 1]

    @ray.remote
    class Actor:
        def divide(self, a, b=1):
            return divmod(a, b)

    actor = Actor.remote()
    assert ray.get(actor.divide._remote([7], {"b": 2}, num_returns=2)) == [3, 1]


@case("ObjectRef.as_future() gives a future of the running loop")
def as_future(ray):
    ref = ray.put(5)

    async def main():
        future = ref.as_future()
        assert isinstance(future, asyncio.Future)
        return await future

    assert asyncio.run(main()) == 5


@case("util.actor_group.ActorGroup calls a method of all its actors")
def actor_group(ray):
    class Member:
        def __init__(self, start):
            self.value = start

        def add(self, by):
            self.value += by
            return self.value

    group = submodule(ray, "util.actor_group").ActorGroup(
        Member, num_actors=2, num_cpus_per_actor=0, init_args=(1,)
    )
    assert ray.get(group.add.remote(by=2)) == [3, 3]
    group.add_actors(1)
    assert len(group) == 3
    group.remove_actors([0])
    assert ray.get(group[0].actor.add.remote(1)) == 4
    group.shutdown()
    with raises(RuntimeError):
        group.add.remote(1)


@case("Parameters of a method may be called args, kwargs, function, options, method and name")
def parameter_names(ray):
    @ray.remote
    class Actor:
        def __init__(self, args, kwargs=1, cls=2):
            self.given = [args, kwargs, cls]

        def get(self, args, kwargs, function, options, method, name):
            return [*self.given, args, kwargs, function, options, method, name]

    actor = Actor.remote(args=1, kwargs=2, cls=3)
    given = {"args": 4, "kwargs": 5, "function": 6, "options": 7, "method": 8, "name": 9}
    assert ray.get(actor.get.remote(**given)) == list(range(1, 10))


@case("Parameters of a remote function may be called self, args, kwargs and function")
def parameter_names_of_functions(ray):
    @ray.remote
    def get(self, args, kwargs, function):
        return [self, args, kwargs, function]

    assert ray.get(get.remote(self=1, args=2, kwargs=3, function=4)) == [1, 2, 3, 4]


@case("__ray_call__ passes on a keyword argument called function")
def ray_call_function(ray):
    @ray.remote
    class Actor:
        pass

    def read(_object, function):
        return function

    assert ray.get(Actor.remote().__ray_call__.remote(read, function=3)) == 3


@case("Methods may be called remote, options and name")
def method_names(ray):
    @ray.remote
    class Actor:
        def remote(self):
            return "remote"

        def options(self):
            return "options"

        def name(self):
            return "name"

        def _hold(self):
            return "_hold"

    actor = Actor.remote()
    for name in ("remote", "options", "name", "_hold"):
        assert ray.get(getattr(actor, name).remote()) == name


def _wrapped(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@case("A partialmethod is a remote method")
def partial_method(ray):
    @ray.remote
    class Actor:
        def add(self, a, b):
            return a + b

        add_ten = functools.partialmethod(add, 10)

    assert ray.get(Actor.remote().add_ten.remote(5)) == 15


@case("A generator method under functools.wraps streams")
def wrapped_generator(ray):
    @ray.remote
    class Actor:
        @_wrapped
        def count(self):
            yield 1
            yield 2

    assert [ray.get(ref) for ref in Actor.remote().count.remote()] == [1, 2]


@case("@method keeps its options under another decorator that uses functools.wraps")
def wrapped_method_options(ray):
    @ray.remote
    class Actor:
        @_wrapped
        @ray.method(num_returns=2)
        def two(self):
            return 1, 2

    assert ray.get(Actor.remote().two.remote()) == [1, 2]


@case(
    "A coroutine method under functools.wraps returns its value",
    deviates="Ray takes the wrapper as a plain method and can't pickle the coroutine",
)
def wrapped_coroutine(ray):
    @ray.remote
    class Actor:
        @_wrapped
        async def later(self):
            return 4

    assert ray.get(Actor.remote().later.remote()) == 4


@case("@remote on an async function is refused: ValueError that says how")
def async_function(ray):
    async def function():
        pass

    with raises(ValueError, match="async def"):
        ray.remote(function)


# Of actors and of tasks.
_OPTIONS = (
    "runtime_env",
    "num_cpus",
    "num_gpus",
    "memory",
    "resources",
    "label_selector",
    "scheduling_strategy",
)


@case("None for an option of an actor is its default")
def none_of_actors(ray):
    class Actor:
        def get(self):
            return 1

    for name in (*_OPTIONS, "name", "namespace", "lifetime", "max_concurrency"):
        assert ray.get(ray.remote(**{name: None})(Actor).remote().get.remote()) == 1, name
        assert ray.get(ray.remote(Actor).options(**{name: None}).remote().get.remote()) == 1, name


@case("None for an option of a task is its default")
def none_of_tasks(ray):
    def function():
        return 1

    for name in _OPTIONS:
        assert ray.get(ray.remote(**{name: None})(function).remote()) == 1, name
        assert ray.get(ray.remote(function).options(**{name: None}).remote()) == 1, name

"""@remote, its options, signatures, and what the classes may look like."""

from __future__ import annotations

import time

from conformance.case import case
from conformance.checks import raises


@case("@remote without parentheses makes a class an actor class")
def decorated_class(ray):
    @ray.remote
    class Actor:
        def one(self):
            return 1

    assert ray.get(Actor.remote().one.remote()) == 1


@case("remote(Class) is the same as the decorator, and leaves the class usable as it was")
def remote_as_a_function(ray):
    class Plain:
        def one(self):
            return 1

    Actor = ray.remote(Plain)
    assert ray.get(Actor.remote().one.remote()) == 1
    assert Plain().one() == 1


@case("remote(option=…)(Class) is the decorator with options")
def remote_with_options_as_a_function(ray):
    class Plain:
        def gpus(self):
            return len(ray.get_gpu_ids())

    Actor = ray.remote(num_gpus=1)(Plain)
    assert ray.get(Actor.remote().gpus.remote()) == 1


@case("A remote function takes a lambda")
def lambda_function(ray):
    double = ray.remote(lambda x: 2 * x)
    assert ray.get(double.remote(4)) == 8


@case("An actor class can't be instantiated directly: TypeError that names .remote()")
def class_called_directly(ray):
    @ray.remote
    class Actor:
        pass

    with raises(TypeError, match="remote"):
        Actor()


@case("A remote function can't be called directly: TypeError that names .remote()")
def function_called_directly(ray):
    @ray.remote
    def work():
        pass

    with raises(TypeError, match="remote"):
        work()


@case("@remote on something that is neither a class nor a function is refused")
def remote_on_a_value(ray):
    with raises(TypeError, AssertionError):
        ray.remote(3)


@case("Constructor arguments: positional, by keyword, defaults, * and **")
def constructor_arguments(ray):
    @ray.remote
    class Actor:
        def __init__(self, a, b=2, *rest, c=3, **more):
            self.got = (a, b, rest, c, more)

        def read(self):
            return self.got

    assert ray.get(Actor.remote(1).read.remote()) == (1, 2, (), 3, {})
    actor = Actor.remote(1, 9, 8, 7, c=6, d=5)
    assert ray.get(actor.read.remote()) == (1, 9, (8, 7), 6, {"d": 5})


@case("Method arguments: positional, by keyword, defaults, * and **")
def method_arguments(ray):
    @ray.remote
    class Actor:
        def read(self, a, b=2, *rest, c=3, **more):
            return (a, b, rest, c, more)

    actor = Actor.remote()
    assert ray.get(actor.read.remote(a=1)) == (1, 2, (), 3, {})
    assert ray.get(actor.read.remote(1, 9, 8, 7, c=6, d=5)) == (1, 9, (8, 7), 6, {"d": 5})


@case("Function arguments: positional, by keyword, defaults, * and **")
def function_arguments(ray):
    @ray.remote
    def read(a, b=2, *rest, c=3, **more):
        return (a, b, rest, c, more)

    assert ray.get(read.remote(a=1)) == (1, 2, (), 3, {})
    assert ray.get(read.remote(1, 9, 8, 7, c=6, d=5)) == (1, 9, (8, 7), 6, {"d": 5})


@case("Wrong constructor arguments raise TypeError at .remote()")
def wrong_constructor_arguments(ray):
    @ray.remote
    class Actor:
        def __init__(self, a):
            pass

    with raises(TypeError):
        Actor.remote()
    with raises(TypeError):
        Actor.remote(1, 2)
    with raises(TypeError):
        Actor.remote(b=1)


@case("Arguments for a class without __init__ raise TypeError at .remote()")
def arguments_without_constructor(ray):
    @ray.remote
    class Actor:
        pass

    with raises(TypeError):
        Actor.remote(1)


@case("Wrong method arguments raise TypeError at .remote()")
def wrong_method_arguments(ray):
    @ray.remote
    class Actor:
        def work(self, a, *, b=1):
            pass

    actor = Actor.remote()
    for args, kwargs in (((), {}), ((1, 2), {}), ((1,), {"c": 1})):
        with raises(TypeError):
            actor.work.remote(*args, **kwargs)


@case("Wrong function arguments raise TypeError at .remote()")
def wrong_function_arguments(ray):
    @ray.remote
    def work(a):
        pass

    with raises(TypeError):
        work.remote()
    with raises(TypeError):
        work.remote(1, 2)


@case("An unknown option of a class raises ValueError that names it")
def unknown_class_option(ray):
    with raises(ValueError, match="no_such_option"):

        @ray.remote(no_such_option=1)
        class Actor:
            pass


@case("An unknown option in Class.options() raises ValueError that names it")
def unknown_option_in_options(ray):
    @ray.remote
    class Actor:
        pass

    with raises(ValueError, match="no_such_option"):
        Actor.options(no_such_option=1).remote()


@case("An option of tasks is none of actors, and the other way round")
def options_of_the_other_kind(ray):
    with raises(ValueError, match="max_retries"):

        @ray.remote(max_retries=1)
        class Actor:
            pass

    with raises(ValueError, match="max_restarts"):

        @ray.remote(max_restarts=1)
        def work():
            pass


@case("@remote with empty parentheses is refused")
def empty_parentheses(ray):
    with raises(Exception, match="@ray.remote|@remote"):

        @ray.remote()
        class Actor:
            pass


@case("Negative amounts of resources raise ValueError")
def negative_resources(ray):
    for options in ({"num_cpus": -1}, {"num_gpus": -1}, {"resources": {"disk": -1}}):
        with raises(ValueError):

            @ray.remote(**options)
            class Actor:
                pass


@case("CPU and GPU inside resources raise ValueError")
def cpu_in_resources(ray):
    for name in ("CPU", "GPU"):
        with raises(ValueError, match="num_"):

            @ray.remote(resources={name: 1})
            class Actor:
                pass


@case("More than one GPU must be a whole number: ValueError, before anything runs")
def broken_gpus(ray):
    with raises(ValueError):

        @ray.remote(num_gpus=1.5)
        class Actor:
            pass

        Actor.remote()


@case("max_restarts and max_task_retries below -1 raise ValueError")
def bad_counts(ray):
    for options in ({"max_restarts": -2}, {"max_task_retries": -2}):
        with raises(ValueError):

            @ray.remote(**options)
            class Actor:
                pass


@case("max_retries of a task below -1 raises ValueError")
def bad_max_retries(ray):
    with raises(ValueError):

        @ray.remote(max_retries=-2)
        def work():
            pass


@case("A negative num_returns raises ValueError")
def bad_num_returns(ray):
    with raises(ValueError):

        @ray.remote(num_returns=-1)
        def work():
            pass


@case("lifetime must be None or 'detached' (or 'non_detached'): ValueError")
def bad_lifetime(ray):
    with raises(ValueError):

        @ray.remote(lifetime="eternal")
        class Actor:
            pass

        Actor.remote()


@case("An empty name raises ValueError, one that is no string TypeError")
def bad_names(ray):
    @ray.remote
    class Actor:
        pass

    with raises(ValueError):
        Actor.options(name="").remote()
    with raises(TypeError):
        Actor.options(name=3).remote()


@case("get_if_exists without a name raises ValueError")
def get_if_exists_without_name(ray):
    @ray.remote
    class Actor:
        pass

    with raises(ValueError):
        Actor.options(get_if_exists=True).remote()


@case("An unknown scheduling_strategy raises ValueError")
def bad_strategy(ray):
    with raises(ValueError):

        @ray.remote(scheduling_strategy="NOWHERE")
        class Actor:
            pass

        Actor.remote()


@case("Class.options() leaves the class's own options as they were")
def options_make_a_copy(ray):
    @ray.remote(num_gpus=1)
    class Actor:
        def gpus(self):
            return len(ray.get_gpu_ids())

    assert ray.get(Actor.options(num_gpus=2).remote().gpus.remote()) == 2
    assert ray.get(Actor.remote().gpus.remote()) == 1


@case("An option given in .options() goes before that of the decorator")
def options_override(ray):
    @ray.remote(num_returns=1)
    def work():
        return 1, 2

    first, second = work.options(num_returns=2).remote()
    assert ray.get([first, second]) == [1, 2]
    assert ray.get(work.remote()) == (1, 2)


@case("Class.options() can be called in a chain; the last one goes before the others")
def options_of_options(ray):
    @ray.remote
    class Actor:
        def gpus(self):
            return len(ray.get_gpu_ids())

    Two = Actor.options(num_gpus=1)
    assert ray.get(Two.remote().gpus.remote()) == 1
    assert ray.get(Actor.remote().gpus.remote()) == 0


@case("num_returns=n of a function gives n refs")
def function_num_returns(ray):
    @ray.remote(num_returns=3)
    def work():
        return "a", "b", "c"

    refs = work.remote()
    assert isinstance(refs, list)
    assert ray.get(refs) == ["a", "b", "c"]


@case("num_returns=0 gives None, and the call runs all the same")
def no_returns(ray):
    @ray.remote
    class Actor:
        def __init__(self):
            self.ran = 0

        def work(self):
            self.ran += 1

        def count(self):
            return self.ran

    actor = Actor.remote()
    assert actor.work.options(num_returns=0).remote() is None
    assert ray.get(actor.count.remote()) == 1


@case("@method(num_returns=2) gives two refs")
def method_num_returns(ray):
    @ray.remote
    class Actor:
        @ray.method(num_returns=2)
        def pair(self, a, b):
            return a, b

    one, two = Actor.remote().pair.remote(1, "x")
    assert ray.get([one, two]) == [1, "x"]


@case("method.options(num_returns=…) goes before @method")
def method_options_override(ray):
    @ray.remote
    class Actor:
        @ray.method(num_returns=2)
        def pair(self):
            return 1, 2

    actor = Actor.remote()
    assert ray.get(actor.pair.options(num_returns=1).remote()) == (1, 2)
    one, two = actor.pair.remote()
    assert ray.get([one, two]) == [1, 2]


@case("Another number of values than num_returns says raises ValueError at get()")
def wrong_number_of_values(ray):
    @ray.remote(num_returns=3)
    def work():
        return 1, 2

    with raises(ValueError):
        ray.get(work.remote())


@case("An unknown option of a method raises")
def unknown_method_option(ray):
    @ray.remote
    class Actor:
        def work(self):
            pass

    with raises(TypeError, ValueError):
        Actor.remote().work.options(no_such_option=1).remote()
    with raises(TypeError, ValueError, AssertionError):

        class Other:
            @ray.method(no_such_option=1)
            def work(self):
                pass


@case("Methods of plain base classes are methods of the actor; super() works")
def inheritance(ray):
    class Base:
        def __init__(self, x):
            self.x = x

        def base(self):
            return self.x

        def both(self):
            return ["base"]

    @ray.remote
    class Child(Base):
        def __init__(self, x):
            super().__init__(x + 1)

        def both(self):
            return [*super().both(), "child"]

    child = Child.remote(1)
    assert ray.get(child.base.remote()) == 2
    assert ray.get(child.both.remote()) == ["base", "child"]


@case("A constructor of a base class is used where the class has none")
def inherited_constructor(ray):
    class Base:
        def __init__(self, x):
            self.x = x

    @ray.remote
    class Child(Base):
        def read(self):
            return self.x

    assert ray.get(Child.remote(4).read.remote()) == 4
    with raises(TypeError):
        Child.remote()


@case("Multiple inheritance and abstract bases work as in Python")
def multiple_inheritance(ray):
    import abc

    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self):
            """The area."""

    class Named:
        name = "square"

        def called(self):
            return self.name

    @ray.remote
    class Square(Named, Shape):
        def area(self):
            return 4

    square = Square.remote()
    assert ray.get([square.called.remote(), square.area.remote()]) == ["square", 4]


@case("A class can't inherit from an actor class: TypeError")
def inherit_from_actor_class(ray):
    @ray.remote
    class Base:
        pass

    with raises(TypeError):

        class Child(Base):
            pass


@case("Class methods can be called on a handle")
def class_method(ray):
    @ray.remote
    class Actor:
        factor = 3

        @classmethod
        def times(cls, x):
            return cls.factor * x

    assert ray.get(Actor.remote().times.remote(2)) == 6


@case("Static methods can be called on a handle")
def static_method(ray):
    @ray.remote
    class Actor:
        @staticmethod
        def add(a, b):
            return a + b

    assert ray.get(Actor.remote().add.remote(1, b=2)) == 3


@case("Methods with a leading underscore can be called as well")
def private_method(ray):
    @ray.remote
    class Actor:
        def _hidden(self):
            return "found"

    assert ray.get(Actor.remote()._hidden.remote()) == "found"


@case("A property is no remote method; a method reads it")
def property_is_no_method(ray):
    @ray.remote
    class Actor:
        @property
        def value(self):
            return 3

        def read(self):
            return self.value

    actor = Actor.remote()
    with raises(AttributeError, TypeError):
        actor.value.remote()
    assert ray.get(actor.read.remote()) == 3


@case("__call__ of the class can be called as a remote method")
def dunder_call(ray):
    @ray.remote
    class Adder:
        def __call__(self, x):
            return x + 1

    assert ray.get(Adder.remote().__call__.remote(1)) == 2


@case("A dataclass can be an actor class")
def dataclass_actor(ray):
    import dataclasses

    @ray.remote
    @dataclasses.dataclass
    class Point:
        x: int
        y: int = 5

        def total(self):
            return self.x + self.y

    assert ray.get(Point.remote(1).total.remote()) == 6
    with raises(TypeError):
        Point.remote()


@case("A class with __slots__ can be an actor class")
def slots_actor(ray):
    @ray.remote
    class Slotted:
        __slots__ = ("x",)

        def set(self, x):
            self.x = x
            return self.x

    assert ray.get(Slotted.remote().set.remote(3)) == 3


@case("The same class can be made an actor class more than once, with other options")
def one_class_two_actor_classes(ray):
    class Plain:
        def gpus(self):
            return len(ray.get_gpu_ids())

    Without, With = ray.remote(Plain), ray.remote(num_gpus=1)(Plain)
    got = ray.get([Without.remote().gpus.remote(), With.remote().gpus.remote()])
    assert got == [0, 1]


@case("Class attributes are there in the actor, and are its process's own")
def class_attributes(ray):
    @ray.remote
    class Actor:
        shared = []

        def add(self, x):
            self.shared.append(x)
            return list(self.shared)

    one, other = Actor.remote(), Actor.remote()
    assert ray.get(one.add.remote(1)) == [1]
    assert ray.get(other.add.remote(2)) == [2]


@case("A remote function sees its module's globals and what it closes over")
def closures(ray):
    offset = 10

    @ray.remote
    def work(x):
        return _double(x) + offset

    assert ray.get(work.remote(2)) == 14


def _double(x):
    return 2 * x


@case("A remote function can call itself remotely")
def recursion(ray):
    @ray.remote
    def factorial(n):
        return 1 if n == 0 else n * ray.get(factorial.remote(n - 1))

    assert ray.get(factorial.remote(4)) == 24


@case("The name of a task can be set by .options(name=…), and the task sees it")
def task_name(ray):
    @ray.remote
    def work():
        return ray.get_runtime_context().get_task_name()

    assert ray.get(work.options(name="special").remote()) == "special"


@case("An actor class can be passed to a task, which creates actors of it")
def class_as_argument(ray):
    @ray.remote
    class Actor:
        def one(self):
            return 1

    @ray.remote
    def use(kind):
        return ray.get(kind.remote().one.remote())

    assert ray.get(use.remote(Actor)) == 1


@case("A remote function can be passed to a task, which calls it")
def function_as_argument(ray):
    @ray.remote
    def inner():
        return "inner"

    @ray.remote
    def use(function):
        return ray.get(function.remote())

    assert ray.get(use.remote(inner)) == "inner"


@case("Creating an actor does not wait for its constructor")
def creation_does_not_wait(ray):
    @ray.remote
    class Slow:
        def __init__(self):
            time.sleep(1.5)

        def one(self):
            return 1

    begun = time.monotonic()
    slow = Slow.remote()
    ref = slow.one.remote()
    assert time.monotonic() - begun < 1.2
    assert ray.get(ref) == 1


@case("An actor holds no CPU while it runs, by default: many more than CPUs fit")
def no_cpu_by_default(ray):
    @ray.remote
    class Actor:
        def one(self):
            return 1

    actors = [Actor.remote() for _ in range(6)]
    assert ray.get([a.one.remote() for a in actors], timeout=14) == [1] * 6


@case("enable_task_events is an option of classes and functions")
def enable_task_events(ray):
    @ray.remote(enable_task_events=False)
    class Actor:
        def one(self):
            return 1

    assert ray.get(Actor.remote().one.remote()) == 1


@case("max_calls ends a task's worker process after so many calls")
def max_calls(ray):
    import os

    @ray.remote(max_calls=1)
    def pid():
        return os.getpid()

    assert ray.get(pid.remote()) != ray.get(pid.remote())

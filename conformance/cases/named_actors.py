"""Names, namespaces, get_if_exists and detached actors."""

from __future__ import annotations

import time
import uuid

from conformance.case import case
from conformance.checks import raises, run_driver, submodule, wait_until


def _fresh():
    return f"name-{uuid.uuid4().hex[:8]}"


def _counter(ray):
    @ray.remote
    class Counter:
        def __init__(self, start=0):
            self.value = start

        def increment(self):
            self.value += 1
            return self.value

    return Counter


def _gone(ray, name, **where):
    def gone():
        try:
            ray.get_actor(name, **where)
        except ValueError:
            return True
        return False

    return gone


@case("get_actor() finds an actor by its name")
def get_actor(ray):
    name = _fresh()
    counter = _counter(ray).options(name=name).remote()
    ray.get(counter.increment.remote())
    again = ray.get_actor(name)
    assert again == counter
    assert ray.get(again.increment.remote()) == 2


@case("A name can be given in the decorator")
def name_in_the_decorator(ray):
    @ray.remote(name="named-by-the-decorator")
    class Actor:
        def one(self):
            return 1

    actor = Actor.remote()
    assert ray.get(ray.get_actor("named-by-the-decorator").one.remote()) == 1
    del actor


@case("get_actor() of a name that nobody has raises ValueError that says it")
def unknown_name(ray):
    with raises(ValueError, match="no-such-actor"):
        ray.get_actor("no-such-actor")


@case("get_actor() of an empty name raises ValueError")
def empty_name(ray):
    with raises(ValueError):
        ray.get_actor("")


@case("get_actor() works right after .remote(), before the constructor has run")
def at_once(ray):
    @ray.remote
    class Slow:
        def __init__(self):
            time.sleep(1)

        def one(self):
            return 1

    name = _fresh()
    slow = Slow.options(name=name).remote()
    assert ray.get(ray.get_actor(name).one.remote()) == 1
    del slow


@case("get_actor() works in a task and in an actor of the same job")
def in_a_task(ray):
    name = _fresh()
    counter = _counter(ray).options(name=name).remote()

    @ray.remote
    def use():
        return ray.get(ray.get_actor(name).increment.remote())

    @ray.remote
    class User:
        def use(self):
            return ray.get(ray.get_actor(name).increment.remote())

    assert ray.get(use.remote()) == 1
    assert ray.get(User.remote().use.remote()) == 2
    del counter


@case("A name that is taken raises ValueError at .remote()")
def duplicate(ray):
    name = _fresh()
    Counter = _counter(ray)
    first = Counter.options(name=name).remote()
    with raises(ValueError, match=name):
        Counter.options(name=name).remote()
    assert ray.get(first.increment.remote()) == 1


@case("The error of a taken name is ActorAlreadyExistsError")
def duplicate_error(ray):
    name = _fresh()
    Counter = _counter(ray)
    first = Counter.options(name=name).remote()
    with raises(ray.exceptions.ActorAlreadyExistsError):
        Counter.options(name=name).remote()
    del first


@case("A name is free again after its actor was killed")
def free_after_kill(ray):
    name = _fresh()
    Counter = _counter(ray)
    first = Counter.options(name=name).remote()
    ray.get(first.increment.remote())
    ray.kill(first)
    wait_until(_gone(ray, name), "the name to be free")
    second = Counter.options(name=name).remote()
    assert ray.get(second.increment.remote()) == 1


@case("A name is free again after its actor's last handle has gone")
def free_after_the_last_handle(ray):
    name = _fresh()
    Counter = _counter(ray)
    first = Counter.options(name=name).remote()
    ray.get(first.increment.remote())
    del first
    wait_until(_gone(ray, name), "the name to be free")
    second = Counter.options(name=name).remote()
    assert ray.get(second.increment.remote()) == 1


@case("A handle from get_actor() does not keep a named actor alive")
def weak_handle(ray):
    name = _fresh()
    counter = _counter(ray).options(name=name).remote()
    ray.get(counter.increment.remote())
    weak = ray.get_actor(name)
    del counter
    wait_until(_gone(ray, name), "the actor's end")

    def dead():
        try:
            ray.get(weak.increment.remote())
        except ray.exceptions.RayActorError:
            return True
        return False

    wait_until(dead, "the calls to fail")


@case("get_if_exists=True creates the actor where there is none")
def get_if_exists_creates(ray):
    name = _fresh()
    counter = _counter(ray).options(name=name, get_if_exists=True).remote(4)
    assert ray.get(counter.increment.remote()) == 5


@case("get_if_exists=True returns the one that is there; its constructor does not run again")
def get_if_exists_gets(ray):
    name = _fresh()
    Counter = _counter(ray)
    first = Counter.options(name=name, get_if_exists=True).remote(4)
    second = Counter.options(name=name, get_if_exists=True).remote(40)
    assert second == first
    assert ray.get(first.increment.remote()) == 5
    assert ray.get(second.increment.remote()) == 6


@case("get_if_exists=True from many tasks at the same time makes one actor")
def get_if_exists_race(ray):
    name = _fresh()
    Counter = _counter(ray)
    keeper = []

    @ray.remote(num_cpus=0.5)
    def use():
        counter = Counter.options(name=name, get_if_exists=True, lifetime="detached").remote()
        return ray.get(counter.increment.remote())

    try:
        assert sorted(ray.get([use.remote() for _ in range(4)])) == [1, 2, 3, 4]
    finally:
        keeper.append(ray.get_actor(name))
        ray.kill(keeper[0])


@case("The same name in two namespaces is two actors")
def two_namespaces(ray):
    name = _fresh()
    Counter = _counter(ray)
    one = Counter.options(name=name, namespace="ns-one").remote(10)
    two = Counter.options(name=name, namespace="ns-two").remote(20)
    assert ray.get(ray.get_actor(name, namespace="ns-one").increment.remote()) == 11
    assert ray.get(ray.get_actor(name, namespace="ns-two").increment.remote()) == 21
    del one, two


@case("get_actor() looks in the job's own namespace, not in others")
def other_namespace_is_not_seen(ray):
    name = _fresh()
    counter = _counter(ray).options(name=name, namespace="elsewhere").remote()
    with raises(ValueError):
        ray.get_actor(name)
    assert ray.get_actor(name, namespace="elsewhere") == counter


@case("A job without a namespace has one of its own: others don't see its names")
def anonymous_namespaces(ray):
    name = _fresh()
    counter = _counter(ray).options(name=name).remote()
    ray.get(counter.increment.remote())
    said = run_driver(
        ray,
        f"""
ray.init(log_to_driver=False)
try:
    ray.get_actor({name!r})
    print("found")
except ValueError:
    print("not found")
""",
    )
    assert said.split() == ["not", "found"]


@case("init(namespace=…) is the namespace of the job's names")
def namespace_of_init(ray):
    name = _fresh()
    counter = _counter(ray).options(name=name, namespace="shared-ns").remote()
    ray.get(counter.increment.remote())
    said = run_driver(
        ray,
        f"""
ray.init(namespace="shared-ns", log_to_driver=False)
print(ray.get_runtime_context().namespace)
print(ray.get(ray.get_actor({name!r}).increment.remote()))
""",
    )
    assert said.split() == ["shared-ns", "2"]


@case("A detached actor outlives the program that made it, and another finds it by name")
def detached(ray):
    name = _fresh()
    said = run_driver(
        ray,
        f"""
ray.init(namespace="detached-ns", log_to_driver=False)

@ray.remote
class Counter:
    def __init__(self):
        self.value = 0
    def increment(self):
        self.value += 1
        return self.value

counter = Counter.options(name={name!r}, lifetime="detached").remote()
print(ray.get(counter.increment.remote()))
""",
    )
    assert said.split() == ["1"]
    counter = ray.get_actor(name, namespace="detached-ns")
    assert ray.get(counter.increment.remote()) == 2
    ray.kill(counter)


@case("An actor that is not detached ends with the program that made it")
def not_detached(ray):
    name = _fresh()
    run_driver(
        ray,
        f"""
ray.init(namespace="short-ns", log_to_driver=False)

@ray.remote
class Actor:
    def one(self):
        return 1

actor = Actor.options(name={name!r}).remote()
print(ray.get(actor.one.remote()))
""",
    )
    wait_until(_gone(ray, name, namespace="short-ns"), "the actor's end", 15)


@case("A detached actor stays when its handles are gone, until kill()")
def detached_without_handles(ray):
    name = _fresh()
    counter = _counter(ray).options(name=name, lifetime="detached").remote()
    ray.get(counter.increment.remote())
    del counter
    time.sleep(0.8)
    counter = ray.get_actor(name)
    assert ray.get(counter.increment.remote()) == 2
    ray.kill(counter)
    wait_until(_gone(ray, name), "its end")


@case("util.list_named_actors() lists the names of the job's namespace")
def list_named_actors(ray):
    util = submodule(ray, "util")
    name, other = _fresh(), _fresh()
    Counter = _counter(ray)
    actors = [Counter.options(name=name).remote()]
    actors.append(Counter.options(name=other, namespace="far").remote())
    ray.get([a.increment.remote() for a in actors])
    assert name in util.list_named_actors()
    assert other not in util.list_named_actors()


@case("util.list_named_actors(all_namespaces=True) lists name and namespace of all")
def list_all_named_actors(ray):
    util = submodule(ray, "util")
    name = _fresh()
    actor = _counter(ray).options(name=name, namespace="far").remote()
    ray.get(actor.increment.remote())
    assert {"name": name, "namespace": "far"} in util.list_named_actors(all_namespaces=True)


@case(
    "An actor whose constructor raised leaves its name when its handle goes",
    better="The name is free as soon as the constructor has raised.",
)
def failed_constructor(ray):
    name = _fresh()
    broken = _break(ray, name)
    del broken
    wait_until(_gone(ray, name), "the name to be free")


@failed_constructor.ours
def failed_constructor_frees_at_once(ray):
    name = _fresh()
    broken = _break(ray, name)
    wait_until(_gone(ray, name), "the name to be free", 3)
    del broken


def _break(ray, name):
    @ray.remote
    class Broken:
        def __init__(self):
            raise ValueError("no")

        def one(self):
            return 1

    broken = Broken.options(name=name).remote()
    ray.wait([broken.one.remote()])
    return broken


@case("The actor sees its own name and namespace in its runtime context")
def sees_its_name(ray):
    @ray.remote
    class Actor:
        def mine(self):
            context = ray.get_runtime_context()
            return context.get_actor_name(), context.namespace

    name = _fresh()
    actor = Actor.options(name=name).remote()
    assert ray.get(actor.mine.remote()) == (name, ray.get_runtime_context().namespace)


@case("A named actor's handle has the methods of its class, also in another program")
def methods_of_a_found_actor(ray):
    name = _fresh()
    counter = _counter(ray).options(name=name, namespace="shared-ns").remote()
    ray.get(counter.increment.remote())
    said = run_driver(
        ray,
        f"""
ray.init(namespace="shared-ns", log_to_driver=False)
counter = ray.get_actor({name!r})
print("increment" in dir(counter))
try:
    counter.decrement.remote()
except AttributeError:
    print("AttributeError")
""",
    )
    assert said.split() == ["True", "AttributeError"]

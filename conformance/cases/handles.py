"""Actor handles: what they show, how they travel, in which order their calls run."""

from __future__ import annotations

from conformance.case import case
from conformance.checks import raises, wait_until


def _counter(ray):
    @ray.remote
    class Counter:
        def __init__(self, start=0):
            self.value = start

        def increment(self, by=1):
            self.value += by
            return self.value

        def read(self):
            return self.value

    return Counter


@case("The calls of one caller run in the order in which it made them")
def order_of_one_caller(ray):
    @ray.remote
    class Log:
        def __init__(self):
            self.seen = []

        def add(self, x):
            self.seen.append(x)

        def all(self):
            return self.seen

    log = Log.remote()
    for x in range(200):
        log.add.remote(x)
    assert ray.get(log.all.remote()) == list(range(200))


@case("Ten counters count each for itself, in parallel")
def ten_counters(ray):
    counters = [_counter(ray).remote() for _ in range(10)]
    assert ray.get([c.increment.remote() for c in counters]) == [1] * 10
    assert ray.get([counters[0].increment.remote() for _ in range(5)]) == [2, 3, 4, 5, 6]


@case("An actor keeps its state from call to call")
def state_is_kept(ray):
    counter = _counter(ray).remote(10)
    ray.get(counter.increment.remote(by=5))
    assert ray.get(counter.read.remote()) == 15


@case("A handle can be given to a task, which calls the same actor")
def into_a_task(ray):
    @ray.remote
    def add(counter):
        return ray.get(counter.increment.remote())

    counter = _counter(ray).remote()
    assert sorted(ray.get([add.remote(counter) for _ in range(4)])) == [1, 2, 3, 4]
    assert ray.get(counter.read.remote()) == 4


@case("A handle can be given to another actor's method and kept there")
def into_an_actor(ray):
    @ray.remote
    class Holder:
        def keep(self, counter):
            self.counter = counter

        def use(self):
            return ray.get(self.counter.increment.remote())

    counter = _counter(ray).remote()
    holder = Holder.remote()
    ray.get(holder.keep.remote(counter))
    assert ray.get([holder.use.remote(), holder.use.remote()]) == [1, 2]


@case("A handle can be an argument of another actor's constructor")
def into_a_constructor(ray):
    @ray.remote
    class Holder:
        def __init__(self, counter, *, other):
            self.counters = [counter, other]

        def use(self):
            return ray.get([c.increment.remote() for c in self.counters])

    Counter = _counter(ray)
    holder = Holder.remote(Counter.remote(), other=Counter.remote(5))
    assert ray.get(holder.use.remote()) == [1, 6]


@case("Handles travel inside lists, dicts and objects")
def inside_containers(ray):
    class Box:
        def __init__(self, content):
            self.content = content

    @ray.remote
    def use(in_list, in_dict, box):
        counters = [in_list[0], in_dict["a"]["b"], box.content]
        return ray.get([c.increment.remote() for c in counters])

    counter = _counter(ray).remote()
    done = use.remote([counter], {"a": {"b": counter}}, Box(counter))
    assert ray.get(done) == [1, 2, 3]


@case("A task can create an actor and return its handle")
def returned_by_a_task(ray):
    Counter = _counter(ray)

    @ray.remote
    def make():
        return Counter.remote(7)

    counter = ray.get(make.remote())
    assert ray.get(counter.increment.remote()) == 8


@case("A method can return a handle, also inside a container")
def returned_by_a_method(ray):
    Counter = _counter(ray)

    @ray.remote
    class Factory:
        def __init__(self):
            self.made = {}

        def make(self, name):
            self.made[name] = Counter.remote()
            return {"name": name, "handle": self.made[name]}

    factory = Factory.remote()
    made = ray.get(factory.make.remote("x"))
    assert made["name"] == "x"
    assert ray.get(made["handle"].increment.remote()) == 1


@case("put() of a handle gives a ref whose value is a handle to the same actor")
def put_a_handle(ray):
    counter = _counter(ray).remote()
    again = ray.get(ray.put(counter))
    assert ray.get(again.increment.remote()) == 1
    assert ray.get(counter.increment.remote()) == 2


@case("A ref to a handle as an argument arrives as the handle")
def ref_to_a_handle(ray):
    @ray.remote
    def use(counter):
        return ray.get(counter.increment.remote())

    assert ray.get(use.remote(ray.put(_counter(ray).remote(3)))) == 4


@case("Handles to one actor are equal and hash alike, to different actors not")
def equality(ray):
    Counter = _counter(ray)
    one, other = Counter.remote(), Counter.remote()
    again = ray.get(ray.put(one))
    assert again == one
    assert hash(again) == hash(one)
    assert one != other
    assert len({one, again, other}) == 2
    assert one != 3


@case("A method that the class does not have raises AttributeError at once")
def unknown_method(ray):
    counter = _counter(ray).remote()
    with raises(AttributeError, match="no_such_method"):
        counter.no_such_method.remote()
    assert not hasattr(counter, "another_one")


@case("dir() of a handle lists the class's methods")
def dir_lists_methods(ray):
    counter = _counter(ray).remote()
    assert {"increment", "read"} <= set(dir(counter))


@case("Fields of the instance are not fields of the handle")
def no_fields(ray):
    counter = _counter(ray).remote()
    ray.get(counter.read.remote())
    with raises(AttributeError):
        counter.value  # noqa: B018 - looking it up is what is tested


@case("A method can't be called without .remote(): TypeError that says so")
def direct_call(ray):
    counter = _counter(ray).remote()
    with raises(TypeError, match="remote"):
        counter.increment()


@case("repr() of a handle names the class and the actor's id")
def shown(ray):
    @ray.remote
    class Known:
        def mine(self):
            return ray.get_runtime_context().get_actor_id()

    known = Known.remote()
    text = repr(known)
    assert "Known" in text
    assert ray.get(known.mine.remote()) in text


@case("ray.actor.ActorHandle is the class of handles, for isinstance()")
def class_of_handles(ray):
    assert isinstance(_counter(ray).remote(), ray.actor.ActorHandle)


@case("A handle's _actor_id is the id that its actor sees")
def id_of_a_handle(ray):
    @ray.remote
    class Actor:
        def mine(self):
            return ray.get_runtime_context().get_actor_id()

    actor = Actor.remote()
    assert ray.get(actor.mine.remote()) == actor._actor_id.hex()


@case("__ray_ready__ is there once the constructor has run")
def ray_ready(ray):
    @ray.remote
    class Slow:
        def __init__(self, counter):
            ray.get(counter.increment.remote())

    counter = _counter(ray).remote()
    slow = Slow.remote(counter)
    ray.get(slow.__ray_ready__.remote())
    assert ray.get(counter.read.remote()) == 1


@case("__ray_call__ runs any function on the actor's instance")
def ray_call(ray):
    counter = _counter(ray).remote(4)

    def double(self, times):
        self.value *= times
        return self.value

    assert ray.get(counter.__ray_call__.remote(double, 3)) == 12
    assert ray.get(counter.read.remote()) == 12


@case("A remote method can be kept in a variable and called later")
def bound_method(ray):
    increment = _counter(ray).remote().increment
    refs = [increment.remote() for _ in range(3)]
    assert ray.get(refs) == [1, 2, 3]


@case("A chain: an actor's result is the argument of the next call without get()")
def results_as_arguments(ray):
    Counter = _counter(ray)
    one, other = Counter.remote(), Counter.remote()
    ref = one.increment.remote(by=5)
    for _ in range(3):
        ref = other.increment.remote(by=ref)
        ref = one.increment.remote(by=ref)
    assert ray.get(ref) > 5
    assert ray.get(one.read.remote()) == ray.get(ref)


@case("Two callers each see their own calls in order; together they lose none")
def two_callers(ray):
    @ray.remote
    class Log:
        def __init__(self):
            self.seen = []

        def add(self, who, x):
            self.seen.append((who, x))

        def all(self):
            return self.seen

    @ray.remote
    def write(log, who):
        ray.get([log.add.remote(who, x) for x in range(50)])

    log = Log.remote()
    ray.get([write.remote(log, "a"), write.remote(log, "b")])
    seen = ray.get(log.all.remote())
    assert [x for who, x in seen if who == "a"] == list(range(50))
    assert [x for who, x in seen if who == "b"] == list(range(50))


@case("A handle works from a thread of the driver")
def from_threads(ray):
    import threading

    counter = _counter(ray).remote()
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(ray.get(counter.increment.remote())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [1, 2, 3, 4]


@case("An actor can hand out a handle to itself with get_runtime_context().current_actor")
def handle_to_itself(ray):
    @ray.remote
    class Actor:
        def __init__(self):
            self.value = 1

        def me(self):
            return ray.get_runtime_context().current_actor

        def read(self):
            return self.value

    actor = Actor.remote()
    me = ray.get(actor.me.remote())
    assert me == actor
    assert ray.get(me.read.remote()) == 1


@case("An actor may call itself through its handle; the call waits its turn")
def calls_itself(ray):
    @ray.remote
    class Actor:
        def __init__(self):
            self.order = []

        def start(self):
            me = ray.get_runtime_context().current_actor
            me.step.remote("later")
            self.order.append("first")

        def step(self, x):
            self.order.append(x)

        def seen(self):
            return self.order

    actor = Actor.remote()
    ray.get(actor.start.remote())
    seen = wait_until(lambda: ray.get(actor.seen.remote())[1:], "the call to itself")
    assert seen == ["later"]


@case("max_pending_calls bounds a handle's calls: PendingCallsLimitExceeded beyond")
def max_pending_calls(ray):
    import time

    @ray.remote(max_pending_calls=3)
    class Slow:
        def work(self, seconds):
            time.sleep(seconds)

    slow = Slow.remote()
    ray.get(slow.work.remote(0))
    refs = [slow.work.remote(0.3) for _ in range(3)]
    with raises(ray.exceptions.PendingCallsLimitExceeded):
        slow.work.remote(0)
    ray.get(refs)
    ray.get(slow.work.remote(0))


@case("A tree of actors: parents create and call their children")
def tree(ray):
    @ray.remote
    class Node:
        def __init__(self, depth):
            Same = ray.remote(type(self))
            self.children = [Same.remote(depth - 1) for _ in range(2)] if depth else []

        def size(self):
            return 1 + sum(ray.get([c.size.remote() for c in self.children]))

    assert ray.get(Node.remote(1).size.remote()) == 3

"""Actors with async methods."""

from __future__ import annotations

import asyncio
import threading
import time

from conformance.case import case
from conformance.checks import raises, wait_until


@case("Async methods of one actor run concurrently: a later call can release an earlier one")
def concurrent(ray):
    @ray.remote
    class Gate:
        def __init__(self):
            self.event = asyncio.Event()

        async def wait(self):
            await self.event.wait()
            return "through"

        async def open(self):
            self.event.set()

    gate = Gate.remote()
    refs = [gate.wait.remote() for _ in range(3)]
    ray.get(gate.open.remote())
    assert ray.get(refs) == ["through"] * 3


@case("An asyncio actor runs up to 1000 calls at the same time, by default")
def default_concurrency(ray):
    @ray.remote
    class Crowd:
        def __init__(self):
            self.inside = 0
            self.most = 0

        async def enter(self):
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(1.5)
            self.inside -= 1

        async def peak(self):
            return self.most

    crowd = Crowd.remote()
    ray.get(crowd.peak.remote())
    refs = [crowd.enter.remote() for _ in range(300)]
    ray.get(refs)
    assert ray.get(crowd.peak.remote()) > 100


@case("max_concurrency bounds how many async calls run at the same time")
def bounded(ray):
    @ray.remote(max_concurrency=2)
    class Crowd:
        def __init__(self):
            self.inside = 0
            self.most = 0

        async def enter(self):
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0.1)
            self.inside -= 1
            return self.most

    crowd = Crowd.remote()
    assert max(ray.get([crowd.enter.remote() for _ in range(6)])) == 2


@case("max_concurrency=1 makes an asyncio actor run one call after another")
def one_at_a_time(ray):
    @ray.remote(max_concurrency=1)
    class Actor:
        def __init__(self):
            self.log = []

        async def work(self, n):
            self.log.append(("in", n))
            await asyncio.sleep(0.05)
            self.log.append(("out", n))

        async def read(self):
            return self.log

    actor = Actor.remote()
    ray.get([actor.work.remote(n) for n in range(3)])
    log = ray.get(actor.read.remote())
    assert [what for what, _ in log] == ["in", "out"] * 3
    assert all(log[i][1] == log[i + 1][1] for i in (0, 2, 4))


@case(
    "Every call of an asyncio actor starts; Ray guarantees no order for them",
    better="Calls of one caller start in the order of their submission.",
)
def all_start(ray):
    assert sorted(_started(ray)) == list(range(50))


@all_start.ours
def start_in_order(ray):
    for _ in range(3):
        assert _started(ray) == list(range(50))


def _started(ray):
    @ray.remote
    class Actor:
        def __init__(self):
            self.started = []

        async def work(self, n):
            self.started.append(n)
            await asyncio.sleep(0.01)

        async def read(self):
            return self.started

    actor = Actor.remote()
    ray.get([actor.work.remote(n) for n in range(50)])
    return ray.get(actor.read.remote())


@case("Calls finish in any order: a fast one does not wait for a slow one")
def finish_in_any_order(ray):
    @ray.remote
    class Actor:
        async def work(self, seconds):
            await asyncio.sleep(seconds)
            return seconds

    actor = Actor.remote()
    slow, fast = actor.work.remote(3), actor.work.remote(0)
    ready, rest = ray.wait([slow, fast], timeout=10)
    assert ready == [fast]
    assert rest == [slow]


@case("An async method can await an ObjectRef")
def await_a_ref(ray):
    @ray.remote
    def add(a, b):
        return a + b

    @ray.remote
    class Actor:
        async def work(self):
            return await add.remote(1, await add.remote(2, 3))

    assert ray.get(Actor.remote().work.remote()) == 6


@case("An async method can gather the results of many calls")
def gather_in_an_actor(ray):
    @ray.remote
    class Leaf:
        async def square(self, x):
            return x * x

    @ray.remote
    class Root:
        def __init__(self):
            self.leaves = [Leaf.remote() for _ in range(2)]

        async def work(self, n):
            refs = [self.leaves[x % 2].square.remote(x) for x in range(n)]
            return sum(await asyncio.gather(*refs))

    assert ray.get(Root.remote().work.remote(5)) == 30


@case("While one call awaits another actor, the actor serves further calls")
def serves_meanwhile(ray):
    @ray.remote
    class Slow:
        def work(self):
            time.sleep(1)
            return "slow"

    @ray.remote
    class Front:
        def __init__(self):
            self.slow = Slow.remote()

        async def through(self):
            return await self.slow.work.remote()

        async def ping(self):
            return "pong"

    front = Front.remote()
    ray.get(front.ping.remote())
    ref = front.through.remote()
    assert ray.get(front.ping.remote(), timeout=5) == "pong"
    assert ray.wait([ref], timeout=0)[0] == []
    assert ray.get(ref) == "slow"


@case("All async methods of an actor run in one event loop")
def one_loop(ray):
    @ray.remote
    class Actor:
        async def loop(self):
            return id(asyncio.get_running_loop()), threading.get_ident()

    actor = Actor.remote()
    assert len(set(ray.get([actor.loop.remote() for _ in range(4)]))) == 1


@case("A plain method of an asyncio actor runs as a call of its own and sees the same state")
def plain_method(ray):
    @ray.remote
    class Actor:
        def __init__(self):
            self.value = 0

        async def increment(self):
            self.value += 1

        def read(self):
            return self.value

    actor = Actor.remote()
    ray.get([actor.increment.remote() for _ in range(3)])
    assert ray.get(actor.read.remote()) == 3


@case("Only one call's code runs at a time: no locks are needed between awaits")
def no_locks_needed(ray):
    @ray.remote
    class Actor:
        def __init__(self):
            self.value = 0

        async def increment(self):
            before = self.value
            for _ in range(200):
                pass
            self.value = before + 1
            await asyncio.sleep(0)

        async def read(self):
            return self.value

    actor = Actor.remote()
    ray.get([actor.increment.remote() for _ in range(100)])
    assert ray.get(actor.read.remote()) == 100


@case("An error in an async method is raised by get() as its own class; the actor lives on")
def error(ray):
    @ray.remote
    class Actor:
        async def fail(self):
            await asyncio.sleep(0)
            raise LookupError("in async")

        async def one(self):
            return 1

    actor = Actor.remote()
    with raises(LookupError, match="in async"):
        ray.get(actor.fail.remote())
    assert ray.get(actor.one.remote()) == 1


@case("A background task of an actor's loop goes on between calls")
def background_task(ray):
    @ray.remote
    class Ticker:
        def __init__(self):
            self.ticks = 0

        async def start(self):
            self.task = asyncio.create_task(self.run())

        async def run(self):
            while True:
                self.ticks += 1
                await asyncio.sleep(0.01)

        async def read(self):
            return self.ticks

    ticker = Ticker.remote()
    ray.get(ticker.start.remote())
    wait_until(lambda: ray.get(ticker.read.remote()) > 5, "ticks")


@case("asyncio primitives made in the constructor belong to the actor's loop")
def primitives_in_the_constructor(ray):
    @ray.remote
    class Store:
        def __init__(self):
            self.queue = asyncio.Queue(maxsize=1)
            self.lock = asyncio.Lock()

        async def put(self, x):
            await self.queue.put(x)

        async def get(self):
            async with self.lock:
                return await self.queue.get()

    store = Store.remote()
    taken = [store.get.remote() for _ in range(3)]
    ray.get([store.put.remote(x) for x in range(3)])
    assert sorted(ray.get(taken)) == [0, 1, 2]


@case("An async method may create actors and return their handles")
def creates_actors(ray):
    @ray.remote
    class Child:
        async def hello(self):
            return "hello"

    @ray.remote
    class Parent:
        async def make(self):
            child = Child.remote()
            return child, await child.hello.remote()

    child, said = ray.get(Parent.remote().make.remote())
    assert said == "hello"
    assert ray.get(child.hello.remote()) == "hello"


@case("await asyncio.wait_for() of a ref in an actor raises TimeoutError in time")
def wait_for_in_an_actor(ray):
    @ray.remote
    class Slow:
        def work(self):
            time.sleep(2)

    @ray.remote
    class Actor:
        async def work(self, slow):
            try:
                await asyncio.wait_for(slow.work.remote(), timeout=0.2)
            except asyncio.TimeoutError:
                return "in time"

    slow = Slow.remote()
    begun = time.monotonic()
    assert ray.get(Actor.remote().work.remote(slow)) == "in time"
    assert time.monotonic() - begun < 4


@case("One async method anywhere among the bases makes an asyncio actor")
def inherited_async(ray):
    class Base:
        async def wait(self):
            while not self.open:
                await asyncio.sleep(0.01)
            return True

    @ray.remote
    class Child(Base):
        def __init__(self):
            self.open = False

        async def set(self):
            self.open = True

    child = Child.remote()
    ref = child.wait.remote()
    ray.get(child.set.remote())
    assert ray.get(ref) is True


@case("async with and async for work inside of methods")
def async_syntax(ray):
    @ray.remote
    class Actor:
        async def numbers(self):
            for n in range(3):
                yield n
                await asyncio.sleep(0)

        async def total(self):
            return sum([n async for n in self._own()])

        async def _own(self):
            for n in range(4):
                yield n

    assert ray.get(Actor.remote().total.remote()) == 6


@case("Two asyncio actors that await each other do not block")
def await_each_other(ray):
    @ray.remote
    class Player:
        async def meet(self, other):
            self.other = other

        async def hit(self, n):
            return n if n == 0 else await self.other.hit.remote(n - 1)

    one, two = Player.remote(), Player.remote()
    ray.get([one.meet.remote(two), two.meet.remote(one)])
    assert ray.get(one.hit.remote(6)) == 0


@case("An actor may await its own calls without a deadlock")
def await_itself(ray):
    @ray.remote
    class Actor:
        async def outer(self):
            return await ray.get_runtime_context().current_actor.inner.remote() + 1

        async def inner(self):
            return 1

    assert ray.get(Actor.remote().outer.remote()) == 2


@case("The driver can await an actor's calls in its own loop, many at a time")
def driver_awaits(ray):
    @ray.remote
    class Actor:
        async def work(self, x):
            await asyncio.sleep(0.01)
            return x

    actor = Actor.remote()

    async def main():
        return await asyncio.gather(*[actor.work.remote(x) for x in range(100)])

    assert asyncio.run(main()) == list(range(100))


@case("Context variables set in one call are not seen in another")
def context_variables(ray):
    @ray.remote
    class Actor:
        def __init__(self):
            import contextvars

            self.variable = contextvars.ContextVar("variable", default="unset")

        async def set(self):
            self.variable.set("set")
            await asyncio.sleep(0.01)
            return self.variable.get()

        async def read(self):
            return self.variable.get()

    actor = Actor.remote()
    assert ray.get(actor.set.remote()) == "set"
    assert ray.get(actor.read.remote()) == "unset"

"""Threaded actors and concurrency groups."""

from __future__ import annotations

import asyncio
import threading
import time

from conformance.case import case
from conformance.checks import raises


@case("A plain actor runs one call at a time")
def one_at_a_time(ray):
    @ray.remote
    class Actor:
        def __init__(self):
            self.inside = 0
            self.most = 0

        def work(self):
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.05)
            self.inside -= 1
            return self.most

    actor = Actor.remote()
    assert max(ray.get([actor.work.remote() for _ in range(5)])) == 1


@case("max_concurrency=n runs n calls of a plain actor at the same time, in threads")
def threads(ray):
    @ray.remote(max_concurrency=3)
    class Meeting:
        def __init__(self):
            self.barrier = threading.Barrier(3)

        def meet(self):
            self.barrier.wait(timeout=10)
            return "met"

    meeting = Meeting.remote()
    assert ray.get([meeting.meet.remote() for _ in range(3)]) == ["met"] * 3


@case("No more than max_concurrency calls of a threaded actor run at the same time")
def threads_bounded(ray):
    @ray.remote(max_concurrency=2)
    class Crowd:
        def __init__(self):
            self.lock = threading.Lock()
            self.inside = 0
            self.most = 0

        def enter(self):
            with self.lock:
                self.inside += 1
                self.most = max(self.most, self.inside)
            time.sleep(0.1)
            with self.lock:
                self.inside -= 1
            return self.most

    crowd = Crowd.remote()
    assert max(ray.get([crowd.enter.remote() for _ in range(8)])) == 2


@case("max_concurrency can be set by Class.options()")
def threads_by_options(ray):
    @ray.remote
    class Meeting:
        def __init__(self):
            self.barrier = threading.Barrier(2)

        def meet(self):
            self.barrier.wait(timeout=10)
            return "met"

    meeting = Meeting.options(max_concurrency=2).remote()
    assert ray.get([meeting.meet.remote() for _ in range(2)]) == ["met"] * 2


@case("A threaded actor answers while one of its threads works")
def answers_meanwhile(ray):
    @ray.remote(max_concurrency=2)
    class Worker:
        def __init__(self):
            self.progress = 0

        def work(self):
            for _ in range(10):
                self.progress += 1
                time.sleep(0.1)
            return self.progress

        def read(self):
            return self.progress

    worker = Worker.remote()
    ray.get(worker.read.remote())
    ref = worker.work.remote()
    time.sleep(0.3)
    assert 0 < ray.get(worker.read.remote()) < 10
    assert ray.get(ref) == 10


@case("Methods of a threaded actor may call get() at the same time")
def get_in_threads(ray):
    @ray.remote
    def echo(x):
        return x

    @ray.remote(max_concurrency=4)
    class Actor:
        def work(self, x):
            return ray.get(echo.remote(x))

    actor = Actor.remote()
    assert ray.get([actor.work.remote(x) for x in range(6)]) == list(range(6))


@case("An error in one thread reaches its caller only")
def error_in_a_thread(ray):
    @ray.remote(max_concurrency=2)
    class Actor:
        def work(self, x):
            time.sleep(0.1)
            if x == 1:
                raise KeyError(x)
            return x

    actor = Actor.remote()
    refs = [actor.work.remote(x) for x in range(3)]
    assert ray.get(refs[0]) == 0
    assert ray.get(refs[2]) == 2
    with raises(KeyError):
        ray.get(refs[1])


@case("A method may start threads of its own that call actors")
def own_threads(ray):
    @ray.remote
    class Counter:
        def __init__(self):
            self.value = 0

        def increment(self):
            self.value += 1
            return self.value

    @ray.remote
    class Starter:
        def work(self, counter):
            got = []
            threads = [
                threading.Thread(target=lambda: got.append(ray.get(counter.increment.remote())))
                for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return sorted(got)

    assert ray.get(Starter.remote().work.remote(Counter.remote())) == [1, 2, 3]


@case("Groups run apart: a full group does not hold up the methods of another")
def groups_apart(ray):
    @ray.remote(concurrency_groups={"io": 1, "compute": 1})
    class Actor:
        def __init__(self):
            self.event = threading.Event()

        @ray.method(concurrency_group="io")
        def wait(self):
            return self.event.wait(timeout=10)

        @ray.method(concurrency_group="compute")
        def release(self):
            self.event.set()

    actor = Actor.remote()
    ref = actor.wait.remote()
    ray.get(actor.release.remote(), timeout=8)
    assert ray.get(ref) is True


@case("A group runs as many calls at the same time as it says, and no more")
def group_limit(ray):
    @ray.remote(concurrency_groups={"io": 2})
    class Actor:
        def __init__(self):
            self.lock = threading.Lock()
            self.inside = 0
            self.most = 0

        @ray.method(concurrency_group="io")
        def enter(self):
            with self.lock:
                self.inside += 1
                self.most = max(self.most, self.inside)
            time.sleep(0.2)
            with self.lock:
                self.inside -= 1
            return self.most

    actor = Actor.remote()
    assert max(ray.get([actor.enter.remote() for _ in range(6)])) == 2


@case("Methods without a group run in the default one, beside the groups")
def default_group(ray):
    @ray.remote(concurrency_groups={"io": 1})
    class Actor:
        def __init__(self):
            self.event = threading.Event()

        @ray.method(concurrency_group="io")
        def wait(self):
            return self.event.wait(timeout=10)

        def release(self):
            self.event.set()
            return "released"

    actor = Actor.remote()
    ref = actor.wait.remote()
    assert ray.get(actor.release.remote(), timeout=8) == "released"
    assert ray.get(ref) is True


@case("The default group runs one call at a time unless max_concurrency says more")
def default_group_limit(ray):
    @ray.remote(concurrency_groups={"io": 1})
    class Actor:
        def __init__(self):
            self.inside = 0
            self.most = 0

        def enter(self):
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.05)
            self.inside -= 1
            return self.most

    actor = Actor.remote()
    assert max(ray.get([actor.enter.remote() for _ in range(4)])) == 1


@case("max_concurrency beside groups is the default group's limit")
def default_group_with_max_concurrency(ray):
    @ray.remote(concurrency_groups={"io": 1}, max_concurrency=2)
    class Actor:
        def __init__(self):
            self.barrier = threading.Barrier(2)

        def meet(self):
            self.barrier.wait(timeout=10)
            return "met"

    actor = Actor.remote()
    assert ray.get([actor.meet.remote() for _ in range(2)]) == ["met"] * 2


@case("method.options(concurrency_group=…) runs a call in another group than the method's")
def group_of_a_call(ray):
    @ray.remote(concurrency_groups={"io": 1, "compute": 1})
    class Actor:
        def __init__(self):
            self.event = threading.Event()

        @ray.method(concurrency_group="io")
        def wait(self):
            return self.event.wait(timeout=10)

        @ray.method(concurrency_group="io")
        def release(self):
            self.event.set()

    actor = Actor.remote()
    ref = actor.wait.remote()
    ray.get(actor.release.options(concurrency_group="compute").remote(), timeout=8)
    assert ray.get(ref) is True


@case("Groups of an asyncio actor bound its async methods")
def async_groups(ray):
    @ray.remote(concurrency_groups={"io": 2, "compute": 4})
    class Actor:
        def __init__(self):
            self.inside = {"io": 0, "compute": 0}
            self.most = {"io": 0, "compute": 0}

        async def _enter(self, group):
            self.inside[group] += 1
            self.most[group] = max(self.most[group], self.inside[group])
            await asyncio.sleep(0.2)
            self.inside[group] -= 1

        @ray.method(concurrency_group="io")
        async def io(self):
            await self._enter("io")

        @ray.method(concurrency_group="compute")
        async def compute(self):
            await self._enter("compute")

        async def read(self):
            return self.most

    actor = Actor.remote()
    ray.get([getattr(actor, name).remote() for name in ["io"] * 6 + ["compute"] * 6])
    assert ray.get(actor.read.remote()) == {"io": 2, "compute": 4}


@case("An async method waits in its group while others of the actor run")
def async_groups_apart(ray):
    @ray.remote(concurrency_groups={"io": 1})
    class Actor:
        def __init__(self):
            self.opened = False

        @ray.method(concurrency_group="io")
        async def wait(self):
            while not self.opened:
                await asyncio.sleep(0.02)
            return "through"

        async def release(self):
            self.opened = True

    actor = Actor.remote()
    refs = [actor.wait.remote(), actor.wait.remote()]
    ray.get(actor.release.remote(), timeout=8)
    assert ray.get(refs, timeout=8) == ["through"] * 2


@case("A handle that travelled knows the groups of its methods")
def groups_travel(ray):
    @ray.remote(concurrency_groups={"io": 1})
    class Actor:
        def __init__(self):
            self.event = threading.Event()

        @ray.method(concurrency_group="io")
        def wait(self):
            return self.event.wait(timeout=10)

        def release(self):
            self.event.set()

    @ray.remote
    def wait_by(actor):
        return ray.get(actor.wait.remote())

    actor = Actor.remote()
    ref = wait_by.remote(actor)
    time.sleep(0.3)
    ray.get(actor.release.remote(), timeout=8)
    assert ray.get(ref) is True


@case(
    "A call in a group that the actor does not have fails",
    better="It fails at .remote() (or .options()), with the groups that there are.",
)
def unknown_group(ray):
    @ray.remote(concurrency_groups={"io": 1})
    class Actor:
        def work(self):
            return 1

    actor = Actor.remote()
    with raises(ValueError, ray.exceptions.RayError, TypeError):
        ray.get(actor.work.options(concurrency_group="nowhere").remote(), timeout=5)


@unknown_group.ours
def unknown_group_at_once(ray):
    @ray.remote(concurrency_groups={"io": 1})
    class Actor:
        def work(self):
            return 1

    actor = Actor.remote()
    with raises(ValueError, match="io"):
        actor.work.options(concurrency_group="nowhere").remote()


@case("Calls of one caller to a threaded actor all run, though in no promised order")
def all_run(ray):
    @ray.remote(max_concurrency=4)
    class Actor:
        def __init__(self):
            self.lock = threading.Lock()
            self.seen = []

        def add(self, x):
            with self.lock:
                self.seen.append(x)

        def read(self):
            return sorted(self.seen)

    actor = Actor.remote()
    ray.get([actor.add.remote(x) for x in range(40)])
    assert ray.get(actor.read.remote()) == list(range(40))


@case("An async method that blocks its thread leaves the methods of another group free")
def blocked_loop(ray):
    @ray.remote(concurrency_groups={"io": 1, "health": 1})
    class Server:
        def __init__(self):
            self.gate = threading.Event()

        async def compute(self):
            return self.gate.wait(20)

        @ray.method(concurrency_group="io")
        async def read(self):
            return self.gate.wait(20)

        @ray.method(concurrency_group="health")
        def open(self):
            self.gate.set()

    server = Server.remote()
    blocked = [server.compute.remote(), server.read.remote()]
    assert ray.wait(blocked, timeout=0.3)[0] == []
    ray.get(server.open.remote(), timeout=20)
    assert ray.get(blocked, timeout=20) == [True, True]


@case("Each group of an asyncio actor has an event loop and a thread of its own")
def loops_of_groups(ray):
    @ray.remote(concurrency_groups={"io": 2})
    class Server:
        async def where(self):
            return threading.get_ident(), id(asyncio.get_running_loop())

        @ray.method(concurrency_group="io")
        async def where_io(self):
            return threading.get_ident(), id(asyncio.get_running_loop())

    server = Server.remote()
    default, io, again = ray.get(
        [server.where.remote(), server.where_io.remote(), server.where_io.remote()]
    )
    assert io == again
    assert default[0] != io[0]
    assert default[1] != io[1]


def _late(ray, kind, **options):
    @ray.remote(num_cpus=0)
    class Gate:
        def __init__(self):
            self.event = asyncio.Event()

        async def value(self):
            await self.event.wait()
            return "late"

        async def open(self):
            self.event.set()

    gate, actor = Gate.remote(), ray.remote(kind).options(**options).remote()
    late = actor.echo.remote(gate.value.remote())
    assert ray.get(actor.echo.remote(1), timeout=20) == 1
    assert ray.wait([late], timeout=0.1)[0] == []
    gate.open.remote()
    assert ray.get(late, timeout=20) == "late"


@case("A call to a threaded actor whose argument is late holds back no later call")
def late_argument_of_threads(ray):
    class Echo:
        def echo(self, value):
            return value

    _late(ray, Echo, max_concurrency=2)


@case("A call to an asyncio actor whose argument is late holds back no later call")
def late_argument_of_asyncio(ray):
    class Echo:
        async def echo(self, value):
            return value

    _late(ray, Echo)
    _late(ray, Echo, max_concurrency=2)


@case("A call to a plain actor whose argument is late holds back the later ones: order stays")
def late_argument_of_a_plain_actor(ray):
    @ray.remote(num_cpus=0)
    def slowly():
        time.sleep(0.5)
        return "late"

    @ray.remote
    class Log:
        def __init__(self):
            self.seen = []

        def add(self, value):
            self.seen.append(value)

        def all(self):
            return self.seen

    log = Log.remote()
    log.add.remote(slowly.remote())
    log.add.remote(1)
    assert ray.get(log.all.remote(), timeout=20) == ["late", 1]

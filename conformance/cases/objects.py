"""get, put, wait and ObjectRefs."""

from __future__ import annotations

import asyncio
import time

from conformance.case import case
from conformance.checks import raises, wait_until


def _sleeper(ray):
    @ray.remote
    class Sleeper:
        def work(self, seconds, value=None):
            time.sleep(seconds)
            return value

    return Sleeper


@case("get() of a list returns the values in the list's order")
def get_keeps_order(ray):
    actors = [_sleeper(ray).remote() for _ in range(2)]
    refs = [actors[0].work.remote(0.3, "slow"), actors[1].work.remote(0, "fast")]
    assert ray.get(refs) == ["slow", "fast"]


@case("get() of an empty list is an empty list")
def get_nothing(ray):
    assert ray.get([]) == []


@case("get() of the same ref twice, also in one list, gives the value each time")
def get_twice(ray):
    ref = ray.put({"a": 1})
    assert ray.get(ref) == {"a": 1}
    assert ray.get([ref, ref]) == [{"a": 1}, {"a": 1}]


@case("get(timeout=…) raises GetTimeoutError when the value is not there in time")
def get_timeout(ray):
    ref = _sleeper(ray).remote().work.remote(3)
    begun = time.monotonic()
    with raises(ray.exceptions.GetTimeoutError):
        ray.get(ref, timeout=0.2)
    assert time.monotonic() - begun < 2


@case("GetTimeoutError is also a TimeoutError")
def get_timeout_is_a_timeout_error(ray):
    ref = _sleeper(ray).remote().work.remote(2)
    with raises(TimeoutError):
        ray.get(ref, timeout=0.1)


@case("After a timeout the value can still be had")
def get_after_timeout(ray):
    ref = _sleeper(ray).remote().work.remote(0.5, 8)
    with raises(ray.exceptions.GetTimeoutError):
        ray.get(ref, timeout=0.01)
    assert ray.get(ref) == 8


@case("get(timeout=0) returns at once what is there")
def get_timeout_zero_ready(ray):
    ref = ray.put(5)
    assert ray.get(ref, timeout=0) == 5


@case("get(timeout=0) raises GetTimeoutError when the value is not there, without waiting")
def get_timeout_zero(ray):
    ref = _sleeper(ray).remote().work.remote(2)
    begun = time.monotonic()
    with raises(ray.exceptions.GetTimeoutError):
        ray.get(ref, timeout=0)
    assert time.monotonic() - begun < 1


@case("get() of something that is no ref raises")
def get_no_ref(ray):
    with raises(ValueError, TypeError):
        ray.get(3)
    with raises(ValueError, TypeError):
        ray.get([ray.put(1), 3])


@case("get() of a list raises the error of the one that failed")
def get_raises_one_of_many(ray):
    @ray.remote
    def fail(x):
        if x == 1:
            raise KeyError(x)
        return x

    with raises(KeyError):
        ray.get([fail.remote(x) for x in range(3)])


@case("put() and get() give an equal value back")
def put_get(ray):
    value = {"list": [1, 2, (3, "x")], "none": None, "set": {1, 2}}
    assert ray.get(ray.put(value)) == value


@case("put() stores a copy: later changes of the original are not seen")
def put_copies(ray):
    value = [1, 2]
    ref = ray.put(value)
    value.append(3)
    assert ray.get(ref) == [1, 2]


@case("A value from get() is a copy: changing it does not change the stored one")
def get_copies(ray):
    ref = ray.put([1, 2])
    ray.get(ref).append(3)
    assert ray.get(ref) == [1, 2]


@case("put() of a ref raises TypeError")
def put_a_ref(ray):
    with raises(TypeError):
        ray.put(ray.put(1))


@case("A container with refs can be put; the refs inside stay refs and keep their values alive")
def put_refs_inside(ray):
    outer = ray.put([ray.put("inner")])
    (inner,) = ray.get(outer)
    assert isinstance(inner, ray.ObjectRef)
    assert ray.get(inner) == "inner"


@case("A ref as an argument is replaced by its value before the call runs")
def argument_is_resolved(ray):
    @ray.remote
    def add(a, b):
        return a + b

    assert ray.get(add.remote(ray.put(1), b=ray.put(2))) == 3


@case("A ref inside a container argument stays a ref")
def nested_argument_is_not_resolved(ray):
    @ray.remote
    def look(items):
        return type(items[0]).__name__, ray.get(items[0])

    name, value = ray.get(look.remote([ray.put("x")]))
    assert "ObjectRef" in name
    assert value == "x"


@case("A call starts only when all its ref arguments are there")
def waits_for_arguments(ray):
    slow = _sleeper(ray).remote().work.remote(0.6, time.time())

    @ray.remote
    def after(value):
        return time.time()

    begun = time.time()
    assert ray.get(after.remote(slow)) - begun > 0.4


@case("An argument that failed makes the call fail with the same error, without running")
def failed_argument(ray):
    @ray.remote
    def fail():
        raise ZeroDivisionError("upstream")

    @ray.remote
    class Actor:
        def __init__(self):
            self.ran = 0

        def use(self, x):
            self.ran += 1

        def count(self):
            return self.ran

    actor = Actor.remote()
    with raises(ZeroDivisionError, match="upstream"):
        ray.get(actor.use.remote(fail.remote()))
    assert ray.get(actor.count.remote()) == 0


@case("A task may return a ref; get() gives the ref, not its value")
def returned_ref(ray):
    @ray.remote
    def make():
        return ray.put("inside")

    inner = ray.get(make.remote())
    assert isinstance(inner, ray.ObjectRef)
    assert ray.get(inner) == "inside"


@case("A method may start further calls and return their refs in a list")
def returned_refs(ray):
    @ray.remote
    def square(x):
        return x * x

    @ray.remote
    class Actor:
        def start(self, n):
            return [square.remote(x) for x in range(n)]

    actor = Actor.remote()
    refs = ray.get(actor.start.remote(4))
    assert ray.get(refs) == [0, 1, 4, 9]


@case("One put value may be the argument of many calls")
def shared_argument(ray):
    @ray.remote
    def total(values, n):
        return sum(values) + n

    ref = ray.put(list(range(1000)))
    assert ray.get([total.remote(ref, n) for n in range(4)]) == [499500 + n for n in range(4)]


@case("A value of several megabytes passes put, argument and result")
def large_values(ray):
    @ray.remote
    class Actor:
        def length(self, data):
            return len(data)

        def make(self, n):
            return b"x" * n

    actor = Actor.remote()
    data = b"y" * 5_000_000
    assert ray.get(actor.length.remote(ray.put(data))) == 5_000_000
    assert ray.get(actor.length.remote(data)) == 5_000_000
    assert len(ray.get(actor.make.remote(5_000_000))) == 5_000_000


@case("wait() returns when one is ready, by default, and splits the list in two")
def wait_one(ray):
    actors = [_sleeper(ray).remote() for _ in range(2)]
    ray.get([a.work.remote(0) for a in actors])
    slow, fast = actors[0].work.remote(5), actors[1].work.remote(0)
    ready, rest = ray.wait([slow, fast])
    assert ready == [fast]
    assert rest == [slow]


@case("wait() returns two lists")
def wait_returns_lists(ray):
    ready, rest = ray.wait([ray.put(1)])
    assert isinstance(ready, list)
    assert isinstance(rest, list)


@case("wait(num_returns=n) waits for n, and never returns more as ready")
def wait_several(ray):
    refs = [ray.put(x) for x in range(5)]
    ready, rest = ray.wait(refs, num_returns=3)
    assert len(ready) == 3
    assert len(rest) == 2
    assert set(ready) | set(rest) == set(refs)


@case("wait() keeps the order of the list in both of its results")
def wait_keeps_order(ray):
    refs = [ray.put(x) for x in range(6)]
    ready, rest = ray.wait(refs, num_returns=6)
    assert ready == refs
    assert rest == []
    ready, rest = ray.wait(refs, num_returns=2)
    assert [refs.index(r) for r in rest] == sorted(refs.index(r) for r in rest)


@case("wait(timeout=…) returns what is ready after that time")
def wait_timeout(ray):
    slow = _sleeper(ray).remote().work.remote(5)
    there = ray.put(1)
    begun = time.monotonic()
    ready, rest = ray.wait([slow, there], num_returns=2, timeout=0.3)
    assert 0.2 < time.monotonic() - begun < 3
    assert ready == [there]
    assert rest == [slow]


@case("wait(timeout=0) looks and returns at once")
def wait_timeout_zero(ray):
    slow = _sleeper(ray).remote().work.remote(3)
    begun = time.monotonic()
    assert ray.wait([slow], timeout=0) == ([], [slow])
    assert time.monotonic() - begun < 1


@case("wait() of a single ref that is not in a list raises TypeError")
def wait_bare_ref(ray):
    with raises(TypeError):
        ray.wait(ray.put(1))


@case("wait() of something that holds no refs raises TypeError")
def wait_no_refs(ray):
    with raises(TypeError):
        ray.wait([1, 2])


@case("wait() of a list with one ref twice raises ValueError")
def wait_duplicates(ray):
    ref = ray.put(1)
    with raises(ValueError, match="(?i)unique|twice|duplicate"):
        ray.wait([ref, ref])


@case("wait(num_returns=0) raises ValueError")
def wait_num_returns_zero(ray):
    with raises(ValueError):
        ray.wait([ray.put(1)], num_returns=0)


@case("wait() for more than there are raises ValueError")
def wait_too_many(ray):
    with raises(ValueError):
        ray.wait([ray.put(1)], num_returns=2)


@case("wait() of no refs returns two empty lists")
def wait_nothing(ray):
    assert ray.wait([]) == ([], [])


@case("wait() with a negative timeout raises ValueError")
def wait_negative_timeout(ray):
    with raises(ValueError):
        ray.wait([ray.put(1)], timeout=-1)


@case("A call that failed counts as ready in wait()")
def wait_failed(ray):
    @ray.remote
    def fail():
        raise ValueError

    ref = fail.remote()
    ready, _ = ray.wait([ref], timeout=15)
    assert ready == [ref]


@case("wait(fetch_local=False) also says when the value exists")
def wait_fetch_local(ray):
    ref = _sleeper(ray).remote().work.remote(0.1, 3)
    ready, _ = ray.wait([ref], fetch_local=False, timeout=15)
    assert ray.get(ready) == [3]


@case("Work goes through wait() in a loop as it is finished")
def wait_loop(ray):
    @ray.remote
    def work(x):
        time.sleep(0.05 * (x % 3))
        return x

    left = [work.remote(x) for x in range(6)]
    got = []
    while left:
        ready, left = ray.wait(left)
        got += ray.get(ready)
    assert sorted(got) == list(range(6))


@case("Refs to one object are equal and hash alike wherever they come from")
def ref_equality(ray):
    ref = ray.put(1)

    @ray.remote
    def back(refs):
        return refs[0]

    again = ray.get(back.remote([ref]))
    assert again == ref
    assert hash(again) == hash(ref)
    assert len({ref, again}) == 1
    assert ref != ray.put(1)


@case("ObjectRef.hex() is a hexadecimal text of the id, which repr() shows")
def ref_hex(ray):
    ref = ray.put(1)
    assert bytes.fromhex(ref.hex()) == ref.binary()
    assert ref.hex() in repr(ref)
    assert ref.hex() != ray.put(1).hex()


@case("await of a ref in the driver's event loop gives its value")
def await_ref(ray):
    async def main():
        return await _sleeper(ray).remote().work.remote(0.1, 9)

    assert asyncio.run(main()) == 9


@case("asyncio.gather() over refs gives all values in order")
def gather_refs(ray):
    @ray.remote
    def square(x):
        return x * x

    async def main():
        return await asyncio.gather(*[square.remote(x) for x in range(4)])

    assert asyncio.run(main()) == [0, 1, 4, 9]


@case("await of a failed ref raises the user's error")
def await_failed(ray):
    @ray.remote
    def fail():
        raise LookupError("gone")

    async def main():
        with raises(LookupError, match="gone"):
            await fail.remote()

    asyncio.run(main())


@case("asyncio.wait_for() around a ref times out while the call goes on")
def wait_for_ref(ray):
    ref = _sleeper(ray).remote().work.remote(1.0, "done")

    async def short():
        with raises(asyncio.TimeoutError):
            await asyncio.wait_for(ref, timeout=0.1)

    asyncio.run(short())
    assert ray.get(ref) == "done"


@case("asyncio.wait() takes refs wrapped in tasks, and says which is first")
def asyncio_wait(ray):
    actors = [_sleeper(ray).remote() for _ in range(2)]
    ray.get([a.work.remote(0) for a in actors])

    async def main():
        slow = asyncio.ensure_future(_awaited(actors[0].work.remote(3, "slow")))
        fast = asyncio.ensure_future(_awaited(actors[1].work.remote(0, "fast")))
        done, pending = await asyncio.wait([slow, fast], return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return [task.result() for task in done]

    assert asyncio.run(main()) == ["fast"]


async def _awaited(ref):
    return await ref


@case("ObjectRef.future() is a concurrent.futures.Future with the value")
def ref_future(ray):
    import concurrent.futures

    futures = [ray.put(x).future() for x in (1, 2)]
    assert all(isinstance(f, concurrent.futures.Future) for f in futures)
    done, _ = concurrent.futures.wait(futures, timeout=10)
    assert sorted(f.result() for f in done) == [1, 2]


@case("ObjectRef.future() carries the error of a failed call")
def ref_future_error(ray):
    @ray.remote
    def fail():
        raise IndexError("far")

    error = fail.remote().future().exception(timeout=15)
    assert isinstance(error, IndexError)


@case("A ref that a finished task returned can be got by another task later")
def ref_outlives_its_task(ray):
    @ray.remote
    def make():
        return {"made": True}

    @ray.remote
    def read(refs):
        return ray.get(refs[0])

    ref = make.remote()
    ray.get(ref)
    assert ray.get(read.remote([ref])) == {"made": True}


@case("Refs kept in an actor can be read through it after the maker forgot them")
def ref_kept_by_an_actor(ray):
    @ray.remote
    class Shelf:
        def keep(self, refs):
            self.refs = refs

        def read(self):
            return ray.get(self.refs)

    shelf = Shelf.remote()
    refs = [ray.put("kept")]
    ray.get(shelf.keep.remote(refs))
    del refs
    assert ray.get(shelf.read.remote()) == ["kept"]


@case("put() inside an actor gives a ref that others can read")
def put_in_an_actor(ray):
    @ray.remote
    class Actor:
        def make(self):
            self.ref = ray.put([1, 2])
            return [self.ref]

    actor = Actor.remote()
    (ref,) = ray.get(actor.make.remote())
    assert ray.get(ref) == [1, 2]


@case("None, and falsy values, are values like others")
def falsy_values(ray):
    @ray.remote
    class Echo:
        def say(self, x):
            return x

    echo = Echo.remote()
    values = [None, 0, "", [], False]
    assert ray.get([echo.say.remote(v) for v in values]) == values
    ready, _ = ray.wait([echo.say.remote(None)], timeout=10)
    assert ray.get(ready[0]) is None


@case("get() in a task waits for another task without taking its CPU for ever")
def get_in_a_task(ray):
    @ray.remote
    def inner(x):
        return x + 1

    @ray.remote
    def outer(x):
        return ray.get(inner.remote(x))

    # More outer tasks than there are CPUs.
    assert ray.get([outer.remote(x) for x in range(6)]) == list(range(1, 7))


@case("ray.ObjectRef is the class of what .remote() and put() return")
def class_of_refs(ray):
    assert isinstance(ray.put(1), ray.ObjectRef)
    assert isinstance(_sleeper(ray).remote().work.remote(0), ray.ObjectRef)


@case("A finished value is ready for wait() without get(), soon after it was made")
def ready_without_get(ray):
    ref = _sleeper(ray).remote().work.remote(0)
    wait_until(lambda: ray.wait([ref], timeout=0)[0], "the value")

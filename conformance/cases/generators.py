"""Streaming generators: tasks and methods that yield."""

from __future__ import annotations

import asyncio
import time

from conformance.case import case
from conformance.checks import raises, wait_until


def _count(ray):
    @ray.remote
    def count(n):
        for x in range(n):
            yield x

    return count


@case("A generator function gives an ObjectRefGenerator, whose items are refs")
def items_are_refs(ray):
    generator = _count(ray).remote(3)
    assert isinstance(generator, ray.ObjectRefGenerator)
    refs = list(generator)
    assert all(isinstance(ref, ray.ObjectRef) for ref in refs)
    assert ray.get(refs) == [0, 1, 2]


@case("A generator method of an actor streams too, and shares the actor's state")
def method(ray):
    @ray.remote
    class Actor:
        def __init__(self):
            self.yielded = 0

        def count(self, n):
            for x in range(n):
                self.yielded += 1
                yield x

        def read(self):
            return self.yielded

    actor = Actor.remote()
    assert [ray.get(ref) for ref in actor.count.remote(4)] == [0, 1, 2, 3]
    assert ray.get(actor.read.remote()) == 4


@case("An async generator method streams")
def async_method(ray):
    @ray.remote
    class Actor:
        async def count(self, n):
            for x in range(n):
                await asyncio.sleep(0.01)
                yield x

    assert [ray.get(ref) for ref in Actor.remote().count.remote(3)] == [0, 1, 2]


@case("A value is there as soon as it is yielded, before the generator ends")
def streams(ray):
    @ray.remote
    class Gate:
        def __init__(self):
            self.opened = False

        def open(self):
            self.opened = True

        def is_open(self):
            return self.opened

    @ray.remote
    def steps(gate):
        yield "before"
        while not ray.get(gate.is_open.remote()):
            time.sleep(0.02)
        yield "after"

    gate = Gate.remote()
    generator = steps.remote(gate)
    assert ray.get(next(generator), timeout=10) == "before"
    ray.get(gate.open.remote())
    assert ray.get(next(generator), timeout=10) == "after"


@case("next() past the end raises StopIteration, again and again")
def stop_iteration(ray):
    generator = _count(ray).remote(1)
    ray.get(next(generator))
    for _ in range(2):
        with raises(StopIteration):
            next(generator)


@case("A generator that yields nothing is empty")
def empty(ray):
    assert list(_count(ray).remote(0)) == []


@case("What a generator raises is raised by get() of its last item, after those before")
def raises_in_the_middle(ray):
    @ray.remote
    def broken():
        yield 1
        yield 2
        raise ValueError("no third")

    refs = list(broken.remote())
    assert ray.get(refs[:2]) == [1, 2]
    assert len(refs) == 3
    with raises(ValueError, match="no third"):
        ray.get(refs[2])


@case("A generator method that raises leaves its actor alive")
def actor_lives_on(ray):
    @ray.remote
    class Actor:
        def broken(self):
            yield 1
            raise KeyError("k")

        def one(self):
            return 1

    actor = Actor.remote()
    refs = list(actor.broken.remote())
    with raises(KeyError):
        ray.get(refs[-1])
    assert ray.get(actor.one.remote()) == 1


@case("async for goes through a generator's refs")
def async_for(ray):
    async def main():
        return [await ref async for ref in _count(ray).remote(4)]

    assert asyncio.run(main()) == [0, 1, 2, 3]


@case("An async method can read another actor's stream")
def async_reader(ray):
    @ray.remote
    class Source:
        async def count(self, n):
            for x in range(n):
                yield x

    @ray.remote
    class Sink:
        async def total(self, source):
            total = 0
            async for ref in source.count.remote(5):
                total += await ref
            return total

    assert ray.get(Sink.remote().total.remote(Source.remote())) == 10


@case("completed() is a ref that is ready when the generator has ended")
def completed(ray):
    @ray.remote
    def slow():
        yield 1
        time.sleep(1)
        yield 2

    generator = slow.remote()
    done = generator.completed()
    assert isinstance(done, ray.ObjectRef)
    assert ray.wait([done], timeout=0)[0] == []
    assert ray.wait([done], timeout=10)[0] == [done]


@case("completed() is ready as well when the generator raised")
def completed_after_an_error(ray):
    @ray.remote
    def broken():
        yield 1
        raise ValueError("ended badly")

    done = broken.remote().completed()
    assert ray.wait([done], timeout=10)[0] == [done]


@case("wait() takes generators: ready when the next item is there")
def wait_for_a_generator(ray):
    @ray.remote
    def slow():
        time.sleep(1.2)
        yield 1

    fast, late = _count(ray).remote(1), slow.remote()
    ready, rest = ray.wait([late, fast], timeout=10)
    assert ready == [fast]
    assert rest == [late]
    assert ray.get(next(fast)) == 0


@case("wait() takes generators and refs together")
def wait_for_both(ray):
    generator, ref = _count(ray).remote(2), ray.put(5)
    ready, rest = ray.wait([generator, ref], num_returns=2, timeout=10)
    assert set(ready) == {generator, ref}
    assert rest == []


@case("is_finished() says whether all items were taken")
def is_finished(ray):
    generator = _count(ray).remote(1)
    assert not generator.is_finished()
    list(generator)
    assert generator.is_finished()


@case("next_ready() says whether next() would return at once")
def next_ready(ray):
    @ray.remote
    def slow():
        time.sleep(0.8)
        yield 1

    generator = slow.remote()
    assert generator.next_ready() is False
    wait_until(generator.next_ready, "the first item")
    assert ray.get(next(generator)) == 1


@case("num_returns='streaming' says the same about a function that yields")
def streaming_by_option(ray):
    @ray.remote(num_returns="streaming")
    def count():
        yield 1
        yield 2

    assert [ray.get(ref) for ref in count.remote()] == [1, 2]


@case("num_returns=n makes a generator function return n refs, one for each yield")
def fixed_number(ray):
    @ray.remote(num_returns=3)
    def three():
        for x in range(3):
            yield x * 10

    refs = three.remote()
    assert isinstance(refs, list)
    assert ray.get(refs) == [0, 10, 20]


@case("A generator with num_returns=n that raises: what it yielded before stays")
def fixed_number_that_raises(ray):
    @ray.remote(num_returns=4)
    def breaks():
        yield "a"
        yield "b"
        raise KeyError("c")

    first, second, *rest = breaks.remote()
    assert ray.get([first, second], timeout=12) == ["a", "b"]
    for ref in rest:
        with raises(KeyError):
            ray.get(ref, timeout=12)


@case("A generator with num_returns=n that goes on: its first n values are there")
def fixed_number_of_more(ray):
    @ray.remote
    class Actor:
        @ray.method(num_returns=2)
        def count(self):
            yield from range(5)

    actor = Actor.remote()
    assert ray.get(actor.count.remote(), timeout=12) == [0, 1]
    assert ray.get(actor.count.options(num_returns=3).remote(), timeout=12) == [0, 1, 2]


@case("A generator with num_returns=n that yields fewer: the refs without a value raise")
def fixed_number_of_fewer(ray):
    @ray.remote(num_returns=3)
    def one():
        yield "only"

    first, *rest = one.remote()
    assert ray.get(first, timeout=12) == "only"
    for ref in rest:
        with raises(ValueError):
            ray.get(ref, timeout=12)


@case("num_returns='dynamic': the one value is a list of refs, which others can get, too")
def dynamic(ray):
    @ray.remote(num_returns="dynamic")
    def halves(number):
        while number:
            yield number
            number //= 2

    @ray.remote
    def add(refs):
        return len(refs), sum(ray.get(list(refs)))

    ref = halves.remote(12)
    assert ray.get(add.remote(ref), timeout=12) == (4, 22)
    found = ray.get(ref, timeout=12)
    assert isinstance(found, ray.DynamicObjectRefGenerator)
    assert ray.get(add.remote(found), timeout=12) == (4, 22)
    assert [ray.get(each, timeout=12) for each in ray.get(ref)] == [12, 6, 3, 1]


@case("num_returns='dynamic' of a generator that raises: the last ref raises it")
def dynamic_that_raises(ray):
    @ray.remote
    class Actor:
        def breaks(self):
            yield 1
            raise KeyError("two")

    ref = Actor.remote().breaks.options(num_returns="dynamic").remote()
    first, second = ray.get(ref, timeout=12)
    assert ray.get(first, timeout=12) == 1
    with raises(KeyError):
        ray.get(second, timeout=12)


@case("method.options(num_returns='streaming') is accepted for a generator method")
def streaming_by_method_option(ray):
    @ray.remote
    class Actor:
        def count(self):
            yield "a"
            yield "b"

    generator = Actor.remote().count.options(num_returns="streaming").remote()
    assert [ray.get(ref) for ref in generator] == ["a", "b"]


@case("Backpressure: the generator waits while too many items were not taken")
def backpressure(ray):
    @ray.remote
    class Board:
        def __init__(self):
            self.n = 0

        def note(self):
            self.n += 1

        def read(self):
            return self.n

    @ray.remote
    def produce(board):
        for x in range(10):
            ray.get(board.note.remote())
            yield x

    board = Board.remote()
    generator = produce.options(_generator_backpressure_num_objects=2).remote(board)
    wait_until(lambda: ray.get(board.read.remote()) >= 2, "the first items")
    time.sleep(0.5)
    assert ray.get(board.read.remote()) <= 3
    assert [ray.get(ref) for ref in generator] == list(range(10))


@case("Items may be large: they pass one by one")
def large_items(ray):
    @ray.remote
    def blocks(n):
        for x in range(n):
            yield bytes([x]) * 500_000

    sizes = [(len(block), block[0]) for block in map(ray.get, blocks.remote(4))]
    assert sizes == [(500_000, x) for x in range(4)]


@case("An item's ref can be given to a task before the generator ends")
def items_as_arguments(ray):
    @ray.remote
    def double(x):
        return 2 * x

    refs = [double.remote(ref) for ref in _count(ray).remote(3)]
    assert ray.get(refs) == [0, 2, 4]


@case("A generator can't be pickled into a task: it belongs to its caller")
def does_not_travel(ray):
    @ray.remote
    def use(generator):
        return list(generator)

    with raises(Exception, match="(?i)generator|pickle|serializ"):
        ray.get(use.remote(_count(ray).remote(1)), timeout=10)


@case("Items keep their values after the generator and its actor are gone")
def items_outlive(ray):
    @ray.remote
    class Actor:
        def count(self):
            yield "kept"

    actor = Actor.remote()
    generator = actor.count.remote()
    (ref,) = list(generator)
    assert ray.get(ref) == "kept"
    del generator
    ray.kill(actor)
    assert ray.get(ref) == "kept"


@case("cancel() of a running generator ends its stream with TaskCancelledError")
def cancelled(ray):
    @ray.remote
    class Actor:
        async def forever(self):
            x = 0
            while True:
                yield x
                x += 1
                await asyncio.sleep(0.05)

    generator = Actor.remote().forever.remote()
    assert ray.get(next(generator)) == 0
    ray.cancel(generator)
    with raises(ray.exceptions.TaskCancelledError):
        for ref in generator:
            ray.get(ref)


@case("When the actor dies in the middle, the stream ends with its error")
def actor_dies(ray):
    @ray.remote
    class Actor:
        def forever(self):
            x = 0
            while True:
                yield x
                x += 1
                time.sleep(0.05)

    actor = Actor.remote()
    generator = actor.forever.remote()
    assert ray.get(next(generator)) == 0
    ray.kill(actor)
    with raises(ray.exceptions.RayActorError):
        for ref in generator:
            ray.get(ref)


@case("A generator can be made by a task inside an actor and read there")
def read_in_an_actor(ray):
    count = _count(ray)

    @ray.remote
    class Reader:
        def total(self, n):
            return sum(ray.get(ref) for ref in count.remote(n))

    assert ray.get(Reader.remote().total.remote(5)) == 10


@case(
    "A generator may hand over to another one, or any iterable, with yield from",
    deviates="2.60 fails where what follows `yield from` is no generator",
)
def yield_from(ray):
    @ray.remote
    def count():
        yield from [1, 2]
        yield from (x for x in (3, 4))

    assert [ray.get(ref) for ref in count.remote()] == [1, 2, 3, 4]


@case("A streaming method that raises is called again; what it has yielded is not repeated")
def method_retried(ray):
    class Mine(Exception):
        pass

    @ray.remote(max_task_retries=3)
    class Stream:
        def __init__(self):
            self.attempts = 0

        @ray.method(num_returns="streaming", retry_exceptions=[Mine])
        def give(self):
            self.attempts += 1
            yield 1
            if self.attempts < 3:
                raise Mine
            yield 2

        def count(self):
            return self.attempts

    stream = Stream.remote()
    assert [ray.get(ref, timeout=20) for ref in stream.give.remote()] == [1, 2]
    assert ray.get(stream.count.remote()) == 3


@case("A streaming task that raises is called again with retry_exceptions")
def task_retried(ray):
    @ray.remote(num_cpus=0)
    class Count:
        def __init__(self):
            self.n = 0

        def up(self):
            self.n += 1
            return self.n

    @ray.remote(max_retries=2, retry_exceptions=True)
    def give(count):
        n = ray.get(count.up.remote())
        yield 1
        if n < 3:
            raise ValueError
        yield 2

    count = Count.remote()
    assert [ray.get(ref, timeout=20) for ref in give.remote(count)] == [1, 2]
    assert ray.get(count.up.remote()) == 4

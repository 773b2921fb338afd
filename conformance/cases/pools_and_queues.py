"""ray.util: ActorPool, Queue, as_completed and map_unordered."""

from __future__ import annotations

import asyncio
import time

from conformance.case import case
from conformance.checks import raises, submodule, wait_until


def _pool(ray, size=2):
    @ray.remote
    class Worker:
        def double(self, x):
            return 2 * x

        def slow(self, x):
            time.sleep(x)
            return x

        def fail(self, x):
            if x == 1:
                raise KeyError(x)
            return x

    workers = [Worker.remote() for _ in range(size)]
    return submodule(ray, "util").ActorPool(workers), workers


def _double(actor, x):
    return actor.double.remote(x)


def _slow(actor, x):
    return actor.slow.remote(x)


@case("ActorPool.map() gives the results in the order of the values")
def pool_map(ray):
    pool, _ = _pool(ray)
    assert list(pool.map(_double, [1, 2, 3, 4])) == [2, 4, 6, 8]


@case("ActorPool.map() takes more values than it has actors, and can be used again")
def pool_map_twice(ray):
    pool, _ = _pool(ray)
    for _ in range(2):
        assert list(pool.map(_double, range(7))) == [2 * x for x in range(7)]


@case("ActorPool.map_unordered() gives each result as it is there")
def pool_map_unordered(ray):
    pool, workers = _pool(ray)
    ray.get([w.double.remote(0) for w in workers])
    assert list(pool.map_unordered(_slow, [0.8, 0.0])) == [0.0, 0.8]


@case("ActorPool.submit() and get_next() give results in the order of submission")
def pool_get_next(ray):
    pool, workers = _pool(ray)
    ray.get([w.double.remote(0) for w in workers])
    pool.submit(_slow, 0.5)
    pool.submit(_slow, 0.0)
    assert [pool.get_next(), pool.get_next()] == [0.5, 0.0]


@case("ActorPool.get_next_unordered() gives whichever is there first")
def pool_get_next_unordered(ray):
    pool, workers = _pool(ray)
    ray.get([w.double.remote(0) for w in workers])
    pool.submit(_slow, 0.8)
    pool.submit(_slow, 0.0)
    assert [pool.get_next_unordered(), pool.get_next_unordered()] == [0.0, 0.8]


@case("ActorPool.has_next() says whether results are still to come")
def pool_has_next(ray):
    pool, _ = _pool(ray)
    assert not pool.has_next()
    pool.submit(_double, 1)
    assert pool.has_next()
    assert pool.get_next() == 2
    assert not pool.has_next()


@case("ActorPool.get_next() without anything submitted raises StopIteration")
def pool_get_next_nothing(ray):
    pool, _ = _pool(ray, 1)
    with raises(StopIteration):
        pool.get_next()
    with raises(StopIteration):
        pool.get_next_unordered()


@case("ActorPool.get_next(timeout=…) raises TimeoutError, and the result can be had later")
def pool_timeout(ray):
    pool, _ = _pool(ray, 1)
    pool.submit(_slow, 1.0)
    with raises(TimeoutError):
        pool.get_next(timeout=0.1)
    assert pool.get_next() == 1.0


@case("ActorPool.has_free() says whether an actor is idle and nothing waits")
def pool_has_free(ray):
    pool, _ = _pool(ray, 1)
    assert pool.has_free()
    pool.submit(_double, 1)
    assert not pool.has_free()
    pool.get_next()
    assert pool.has_free()


@case("What is submitted to a busy pool waits for an actor")
def pool_waits(ray):
    pool, _ = _pool(ray, 1)
    for x in range(4):
        pool.submit(_double, x)
    assert [pool.get_next() for _ in range(4)] == [0, 2, 4, 6]


@case("ActorPool.pop_idle() takes an idle actor out, None when all are busy; push() adds one")
def pool_push_and_pop(ray):
    pool, workers = _pool(ray, 1)
    idle = pool.pop_idle()
    assert idle == workers[0]
    assert not pool.has_free()
    assert pool.pop_idle() is None
    pool.push(idle)
    assert pool.has_free()
    assert list(pool.map(_double, [5])) == [10]


@case("ActorPool.push() of an actor that is in the pool raises ValueError")
def pool_push_twice(ray):
    pool, workers = _pool(ray, 1)
    with raises(ValueError):
        pool.push(workers[0])
    pool.submit(_double, 1)
    with raises(ValueError):
        pool.push(workers[0])


@case("An error in a pool's actor is raised by get_next(), and the actor works on")
def pool_error(ray):
    pool, _ = _pool(ray, 1)
    for x in range(3):
        pool.submit(lambda actor, value: actor.fail.remote(value), x)
    assert pool.get_next() == 0
    with raises(KeyError):
        pool.get_next()
    assert pool.get_next() == 2


@case("util.queue.Queue gives items back in the order in which they were put")
def queue_order(ray):
    queue = submodule(ray, "util.queue").Queue()
    for x in range(5):
        queue.put(x)
    assert [queue.get() for _ in range(5)] == list(range(5))


@case("Queue.size(), qsize(), len(), empty() and full() tell how many are in it")
def queue_sizes(ray):
    queue = submodule(ray, "util.queue").Queue(maxsize=2)
    assert (queue.size(), queue.empty(), queue.full()) == (0, True, False)
    queue.put(1)
    assert (queue.qsize(), len(queue), queue.empty(), queue.full()) == (1, 1, False, False)
    queue.put(2)
    assert queue.full()


@case("Queue.get_nowait() of an empty queue raises Empty")
def queue_empty(ray):
    module = submodule(ray, "util.queue")
    queue = module.Queue()
    with raises(module.Empty):
        queue.get_nowait()
    with raises(module.Empty):
        queue.get(block=False)


@case("Queue.put_nowait() into a full queue raises Full")
def queue_full(ray):
    module = submodule(ray, "util.queue")
    queue = module.Queue(maxsize=1)
    queue.put_nowait(1)
    with raises(module.Full):
        queue.put_nowait(2)
    with raises(module.Full):
        queue.put(2, block=False)


@case("Queue.get(timeout=…) and put(timeout=…) raise Empty and Full after that time")
def queue_timeouts(ray):
    module = submodule(ray, "util.queue")
    queue = module.Queue(maxsize=1)
    begun = time.monotonic()
    with raises(module.Empty):
        queue.get(timeout=0.2)
    queue.put(1)
    with raises(module.Full):
        queue.put(2, timeout=0.2)
    assert time.monotonic() - begun > 0.4


@case("A negative timeout of a queue raises ValueError")
def queue_negative_timeout(ray):
    queue = submodule(ray, "util.queue").Queue()
    with raises(ValueError):
        queue.get(timeout=-1)
    with raises(ValueError):
        queue.put(1, timeout=-1)


@case("Empty and Full of util.queue are those of the standard library's queue, or derive")
def queue_errors(ray):
    import queue as standard

    module = submodule(ray, "util.queue")
    assert issubclass(module.Empty, standard.Empty)
    assert issubclass(module.Full, standard.Full)


@case("Queue.get() waits for an item that another process puts")
def queue_waits(ray):
    queue = submodule(ray, "util.queue").Queue()

    @ray.remote
    def produce(queue):
        time.sleep(0.5)
        queue.put("late")

    ref = produce.remote(queue)
    assert queue.get(timeout=12) == "late"
    ray.get(ref)


@case("Queue.put() waits while the queue is full")
def queue_put_waits(ray):
    queue = submodule(ray, "util.queue").Queue(maxsize=1)
    queue.put(0)

    @ray.remote
    def produce(queue):
        queue.put(1)
        return "put"

    ref = produce.remote(queue)
    assert ray.wait([ref], timeout=1.0)[0] == []
    assert queue.get() == 0
    assert ray.get(ref, timeout=10) == "put"
    assert queue.get() == 1


@case("A queue is shared: producers and consumers in several tasks lose nothing")
def queue_shared(ray):
    queue = submodule(ray, "util.queue").Queue(maxsize=4)

    @ray.remote(num_cpus=0.5)
    def produce(queue, base):
        for x in range(5):
            queue.put(base + x)

    @ray.remote(num_cpus=0.5)
    def consume(queue):
        return [queue.get() for _ in range(5)]

    produced = [produce.remote(queue, base) for base in (0, 100)]
    consumed = [consume.remote(queue) for _ in range(2)]
    ray.get(produced, timeout=14)
    got = sorted(x for part in ray.get(consumed, timeout=14) for x in part)
    assert got == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]


@case("put_nowait_batch() and get_nowait_batch() move several items")
def queue_batches(ray):
    queue = submodule(ray, "util.queue").Queue()
    queue.put_nowait_batch([1, 2, 3])
    assert queue.get_nowait_batch(2) == [1, 2]
    assert queue.size() == 1


@case("A batch that is too large, either way, raises and moves nothing")
def queue_batch_too_large(ray):
    module = submodule(ray, "util.queue")
    queue = module.Queue(maxsize=2)
    with raises(module.Full):
        queue.put_nowait_batch([1, 2, 3])
    assert queue.size() == 0
    queue.put(1)
    with raises(module.Empty):
        queue.get_nowait_batch(2)
    assert queue.size() == 1


@case("put_async() and get_async() are awaited")
def queue_async(ray):
    module = submodule(ray, "util.queue")
    queue = module.Queue(maxsize=1)

    async def main():
        await queue.put_async("a")
        with raises(module.Full):
            await queue.put_async("b", block=False)
        got = await queue.get_async()
        with raises(module.Empty):
            await queue.get_async(timeout=0.1)
        return got

    assert asyncio.run(main()) == "a"


@case("Queue.shutdown() ends the queue's actor")
def queue_shutdown(ray):
    queue = submodule(ray, "util.queue").Queue()
    queue.put(1)
    queue.shutdown()

    def ended():
        try:
            queue.actor.qsize.remote()
            queue.qsize()
        except (ray.exceptions.RayActorError, AttributeError):
            return True
        return False

    wait_until(ended, "the queue's end")


@case("Queue(actor_options=…) are options of the queue's actor")
def queue_actor_options(ray):
    queue = submodule(ray, "util.queue").Queue(actor_options={"name": "a-queue-with-a-name"})
    queue.put(1)
    assert ray.get_actor("a-queue-with-a-name") is not None


@case("Items of a queue may be any value, also handles and refs")
def queue_items(ray):
    queue = submodule(ray, "util.queue").Queue()

    @ray.remote
    class Actor:
        def one(self):
            return 1

    actor = Actor.remote()
    queue.put({"handle": actor, "refs": [ray.put("x")]})
    item = queue.get()
    assert ray.get(item["handle"].one.remote()) == 1
    assert ray.get(item["refs"]) == ["x"]


@case("util.as_completed(chunk_size=1) yields each value when it is there")
def as_completed(ray):
    util = submodule(ray, "util")
    pool, workers = _pool(ray)
    ray.get([w.double.remote(0) for w in workers])
    refs = [workers[0].slow.remote(0.8), workers[1].slow.remote(0.0)]
    assert list(util.as_completed(refs, chunk_size=1)) == [0.0, 0.8]
    del pool


@case("util.as_completed() yields all values, or their refs with yield_obj_refs=True")
def as_completed_refs(ray):
    util = submodule(ray, "util")

    @ray.remote
    def double(x):
        return 2 * x

    refs = [double.remote(x) for x in range(4)]
    assert sorted(util.as_completed(refs)) == [0, 2, 4, 6]
    assert set(util.as_completed(refs, yield_obj_refs=True)) == set(refs)


@case("util.map_unordered() maps a remote function and yields values as they are finished")
def map_unordered(ray):
    util = submodule(ray, "util")

    @ray.remote
    def double(x):
        return 2 * x

    assert sorted(util.map_unordered(double, range(5))) == [0, 2, 4, 6, 8]

"""ActorPool, Queue, as_completed and map_unordered on a real cluster."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import pytest
from waiting import wait_for_state

import celery_actors as ray
from celery_actors.session import SessionInfo
from celery_actors.util import ActorPool, as_completed, get_node_ip_address, map_unordered
from celery_actors.util.queue import Empty, Full, Queue


@ray.remote
class Worker:
    """Calls of `wait_for` end when another process says so, through the event's actor."""

    def double(self, value: int) -> int:
        return 2 * value

    def two(self, value: int) -> tuple[int, int]:
        return value, -value

    def after(self, gate: Any, value: int) -> int:
        ray.get(gate.wait.remote())
        return value

    def refuse(self, value: int) -> int:
        raise ValueError(f"no {value}")


@ray.remote
class Gate:
    """Lets calls through once it is opened."""

    def __init__(self) -> None:
        self.opened = False

    async def wait(self) -> None:
        import asyncio

        while not self.opened:
            await asyncio.sleep(0.005)

    async def open(self) -> None:
        self.opened = True


@ray.remote
def double(value: int) -> int:
    return 2 * value


@ray.remote
def after(gate: Any, value: int) -> int:
    ray.get(gate.wait.remote())
    return value


@pytest.fixture
def workers(cluster: SessionInfo) -> list[Any]:
    return [Worker.remote() for _ in range(2)]


# -- ActorPool ---------------------------------------------------------------------------


def test_a_pool_maps_in_order_with_fewer_actors_than_values(workers: list[Any]) -> None:
    pool = ActorPool(workers)
    assert list(pool.map(lambda a, v: a.double.remote(v), range(7))) == [0, 2, 4, 6, 8, 10, 12]
    assert not pool.has_next()
    assert pool.has_free()


def test_a_pool_yields_what_is_ready_first(workers: list[Any]) -> None:
    gate = Gate.remote()
    pool = ActorPool(workers)

    def work(actor: Any, value: int) -> Any:
        return actor.after.remote(gate, 0) if value == 0 else actor.double.remote(value)

    results = pool.map_unordered(work, range(4))
    assert [next(results) for _ in range(3)] == [2, 4, 6]
    gate.open.remote()
    assert next(results) == 0
    assert list(results) == []


def test_submit_and_get_next(workers: list[Any]) -> None:
    pool = ActorPool(workers)
    for value in range(4):
        pool.submit(lambda a, v: a.double.remote(v), value)
    assert pool.has_next()
    assert not pool.has_free()
    assert pool.pop_idle() is None
    assert [pool.get_next() for _ in range(4)] == [0, 2, 4, 6]
    with pytest.raises(StopIteration):
        pool.get_next()
    with pytest.raises(StopIteration):
        pool.get_next_unordered()


@pytest.mark.parametrize("method", ["get_next", "get_next_unordered"])
def test_a_result_that_is_late_stays_or_is_dropped(workers: list[Any], method: str) -> None:
    gate = Gate.remote()
    pool = ActorPool(workers[:1])
    pool.submit(lambda a, v: a.after.remote(gate, v), 1)
    get_next = getattr(pool, method)
    with pytest.raises(TimeoutError, match=r"not there after 0\.05 s"):
        get_next(timeout=0.05)
    assert pool.has_next()
    with pytest.raises(TimeoutError, match="will not be returned"):
        get_next(timeout=0, ignore_if_timedout=True)
    assert not pool.has_next()
    assert pool.has_free()
    pool.submit(lambda a, v: a.double.remote(v), 4)
    gate.open.remote()
    assert get_next(timeout=60) == 8


def test_what_a_call_raises_leaves_its_actor_in_the_pool(workers: list[Any]) -> None:
    pool = ActorPool(workers)
    for value in range(4):
        pool.submit(lambda a, v: (a.refuse if v == 1 else a.double).remote(v), value)
    assert pool.get_next() == 0
    with pytest.raises(ValueError, match="no 1"):
        pool.get_next()
    assert [pool.get_next(), pool.get_next()] == [4, 6]
    assert pool.pop_idle() in workers
    assert pool.pop_idle() in workers


def test_an_actor_that_died_leaves_the_pool(workers: list[Any]) -> None:
    pool = ActorPool(workers)
    ray.kill(workers[1])
    wait_for_state(workers[1], "DEAD")
    results = []
    died = 0
    for value in range(6):
        pool.submit(lambda a, v: a.double.remote(v), value)
    while pool.has_next():
        try:
            results.append(pool.get_next())
        except ray.exceptions.ActorDiedError:
            died += 1
    assert died == 1
    assert len(results) == 5
    assert pool.pop_idle() == workers[0]
    assert pool.pop_idle() is None


def test_several_return_values_and_both_orders(workers: list[Any]) -> None:
    pool = ActorPool(workers)
    for value in range(3):
        pool.submit(lambda a, v: a.two.options(num_returns=2).remote(v), value)
    assert pool.get_next_unordered() in ([0, 0], [1, -1])
    left = [pool.get_next(), pool.get_next()]
    assert [2, -2] in left


def test_push_and_pop_idle(workers: list[Any]) -> None:
    pool = ActorPool(workers[:1])
    with pytest.raises(ValueError, match="in the pool already"):
        pool.push(workers[0])
    pool.submit(lambda a, v: a.double.remote(v), 1)
    pool.submit(lambda a, v: a.double.remote(v), 2)
    with pytest.raises(ValueError, match="in the pool already"):
        pool.push(workers[0])
    pool.push(workers[1])  # takes what waited
    assert not pool.has_free()
    assert [pool.get_next(), pool.get_next()] == [2, 4]


def test_map_forgets_what_was_submitted_before(workers: list[Any]) -> None:
    gate = Gate.remote()
    pool = ActorPool(workers)
    for value in range(3):
        pool.submit(lambda a, v: a.after.remote(gate, v), value)
    results = pool.map(lambda a, v: a.double.remote(v), [10, 20])
    gate.open.remote()
    assert list(results) == [20, 40]


# -- Queue -------------------------------------------------------------------------------


def test_a_queue_keeps_order_and_counts(cluster: SessionInfo) -> None:
    items = Queue()
    assert items.empty()
    for number in range(5):
        items.put(number)
    assert (items.size(), items.qsize(), len(items)) == (5, 5, 5)
    assert not items.full()
    assert [items.get() for _ in range(5)] == [0, 1, 2, 3, 4]
    assert items.empty()
    items.shutdown()


def test_a_full_queue_and_an_empty_one_say_so(cluster: SessionInfo) -> None:
    items = Queue(maxsize=1)
    for ask in (items.get_nowait, lambda: items.get(timeout=0.05), lambda: items.get(timeout=0)):
        with pytest.raises(Empty) as empty:
            ask()
        assert isinstance(empty.value, queue.Empty)
    items.put("one", timeout=0)
    assert items.full()
    for put in (
        lambda: items.put_nowait("two"),
        lambda: items.put("two", timeout=0.05),
        lambda: items.put("two", block=False),
    ):
        with pytest.raises(Full) as full:
            put()
        assert isinstance(full.value, queue.Full)
    assert items.get(timeout=0) == "one"
    with pytest.raises(ValueError, match="negative"):
        items.get(timeout=-1)
    with pytest.raises(ValueError, match="negative"):
        items.put(1, timeout=-1)


def test_batches_go_whole_or_not_at_all(cluster: SessionInfo) -> None:
    items = Queue(maxsize=3)
    items.put_nowait_batch(iter(range(2)))
    with pytest.raises(Full, match="2 items don't fit"):
        items.put_nowait_batch([2, 3])
    with pytest.raises(Empty, match="holds 2 items, not 3"):
        items.get_nowait_batch(3)
    assert items.get_nowait_batch(2) == [0, 1]
    assert items.get_nowait_batch(0) == []
    for wrong, error in (("2", TypeError), (-1, ValueError)):
        with pytest.raises(error):
            items.get_nowait_batch(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="iterable"):
        items.put_nowait_batch(3)  # type: ignore[arg-type]


def test_get_waits_for_a_put_and_put_for_room(cluster: SessionInfo) -> None:
    items = Queue(maxsize=1)
    got: list[Any] = []
    getter = threading.Thread(target=lambda: got.append(items.get(timeout=60)))
    getter.start()
    items.put("first")
    getter.join(60)
    assert got == ["first"]
    items.put("second")
    putter = threading.Thread(target=lambda: items.put("third", timeout=60))
    putter.start()
    assert items.get(timeout=60) == "second"
    putter.join(60)
    assert items.get(timeout=60) == "third"


@ray.remote
def produce(items: Queue, number: int) -> None:
    for value in range(number):
        items.put(value)


@ray.remote
class Consumer:
    def __init__(self, box: dict[str, Queue]) -> None:
        self.items = box["items"]

    async def take(self, number: int) -> list[int]:
        taken = [await self.items.get_async(timeout=60) for _ in range(number)]
        await self.items.put_async("done")
        with pytest.raises(Empty):
            await Queue().get_async(block=False)
        return taken


def test_a_queue_travels_into_tasks_and_actors(cluster: SessionInfo) -> None:
    items = Queue(actor_options={"num_cpus": 0})
    consumer = Consumer.remote({"items": items})
    taken = consumer.take.remote(20)
    ray.get(produce.remote(items, 20))
    assert ray.get(taken) == list(range(20))
    assert items.get(timeout=60) == "done"


@pytest.mark.parametrize("force", [True, False])
def test_shutdown_ends_the_actor(cluster: SessionInfo, force: bool) -> None:
    items = Queue()
    items.put(1)
    actor = items.actor
    items.shutdown(force=force, grace_period_s=30)
    wait_for_state(actor, "DEAD")
    items.shutdown()
    with pytest.raises(ray.exceptions.RayActorError, match="shut down"):
        items.put(2)


# -- as_completed, map_unordered ------------------------------------------------------------


def test_as_completed_yields_what_is_ready_first(cluster: SessionInfo) -> None:
    gate = Gate.remote()
    slow = after.remote(gate, -1)
    results = as_completed([slow, double.remote(1), double.remote(2)], chunk_size=1)
    assert {next(results), next(results)} == {2, 4}
    gate.open.remote()
    assert list(results) == [-1]


def test_as_completed_can_yield_refs(cluster: SessionInfo) -> None:
    refs = [double.remote(number) for number in range(25)]
    found = list(as_completed(refs, yield_obj_refs=True))
    assert set(found) == set(refs)
    assert sorted(as_completed(refs)) == [2 * number for number in range(25)]
    assert list(as_completed([])) == []


def test_as_completed_refuses_a_chunk_of_nothing(cluster: SessionInfo) -> None:
    with pytest.raises(ValueError, match="chunk_size"):
        as_completed([], chunk_size=0)
    with pytest.raises(ValueError, match="chunk_size"):
        map_unordered(double, [], chunk_size=0)
    with pytest.raises(ValueError, match="backpressure_size"):
        map_unordered(double, [], backpressure_size=0)


def test_map_unordered_takes_no_more_items_than_it_may(cluster: SessionInfo) -> None:
    taken: list[int] = []

    def items() -> Any:
        for number in range(30):
            taken.append(number)
            yield number

    results = map_unordered(double, items(), backpressure_size=4, chunk_size=1)
    assert taken == []
    first = next(results)
    assert len(taken) == 4
    assert sorted([first, *results]) == [2 * number for number in range(30)]


def test_map_unordered_over_an_actors_method(workers: list[Any]) -> None:
    method = workers[0].double
    assert sorted(map_unordered(method, range(5), backpressure_size=None)) == [0, 2, 4, 6, 8]
    with pytest.raises(ValueError, match="no 3"):
        list(map_unordered(workers[0].refuse, [3]))


def test_the_nodes_address_is_one_of_this_machine() -> None:
    parts = get_node_ip_address().split(".")
    assert len(parts) == 4
    assert all(0 <= int(part) < 256 for part in parts)
    assert get_node_ip_address("no-such-host.invalid:53") == "127.0.0.1"


def test_a_blocked_get_holds_nobody_else_up(cluster: SessionInfo) -> None:
    items = Queue()
    waiting = [items.actor.get.remote(60) for _ in range(20)]
    started = time.monotonic()
    assert items.size() == 0
    assert time.monotonic() - started < 30
    items.put_nowait_batch(list(range(20)))
    assert sorted(ray.get(waiting)) == list(range(20))

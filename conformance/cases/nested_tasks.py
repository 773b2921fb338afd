"""Tasks: remote functions that call each other, and how many run at the same time."""

from __future__ import annotations

import os
import time

from conformance.case import case
from conformance.checks import raises


@case("A task runs in another process")
def other_process(ray):
    @ray.remote
    def pid():
        return os.getpid()

    assert ray.get(pid.remote()) != os.getpid()


@case("Tasks run at the same time, as many as there are CPUs")
def parallel(ray):
    @ray.remote
    def work():
        begun = time.time()
        time.sleep(1.0)
        return begun, time.time()

    ray.get([work.remote() for _ in range(2)])  # processes are there
    spans = ray.get([work.remote() for _ in range(2)])
    assert max(begun for begun, _ in spans) < min(ended for _, ended in spans)


@case("A task holds one CPU: no more run at the same time than there are")
def bounded_by_cpus(ray):
    @ray.remote(num_cpus=2)
    def work():
        begun = time.time()
        time.sleep(0.4)
        return begun, time.time()

    spans = ray.get([work.remote() for _ in range(4)])
    events = sorted([(b, 1) for b, _ in spans] + [(e, -1) for _, e in spans])
    inside = most = 0
    for _, step in events:
        inside += step
        most = max(most, inside)
    assert most <= 2


@case("Tasks that call tasks and wait do not use up the CPUs: no deadlock at any depth")
def nested_without_deadlock(ray):
    @ray.remote
    def down(depth):
        return 1 if depth == 0 else 1 + ray.get(down.remote(depth - 1))

    assert ray.get(down.remote(7)) == 8


@case("A task that fans out more tasks than there are CPUs, and waits, ends")
def fan_out(ray):
    @ray.remote
    def leaf(x):
        return x

    @ray.remote
    def root(n):
        return sum(ray.get([leaf.remote(x) for x in range(n)]))

    assert ray.get([root.remote(6) for _ in range(2)]) == [15, 15]


@case("wait() in a task works as in a driver")
def wait_in_a_task(ray):
    @ray.remote
    def leaf(x):
        return x

    @ray.remote
    def root():
        left, got = [leaf.remote(x) for x in range(4)], []
        while left:
            ready, left = ray.wait(left)
            got += ray.get(ready)
        return sorted(got)

    assert ray.get(root.remote()) == [0, 1, 2, 3]


@case("A chain of tasks: each gets the result of the one before, without get()")
def chain(ray):
    @ray.remote
    def step(x):
        return x + 1

    ref = 0
    for _ in range(6):
        ref = step.remote(ref)
    assert ray.get(ref) == 6


@case("A task can have the results of many as arguments")
def many_arguments(ray):
    @ray.remote
    def leaf(x):
        return x

    @ray.remote
    def total(*values):
        return sum(values)

    assert ray.get(total.remote(*[leaf.remote(x) for x in range(8)])) == 28


@case("An error in a chain goes through to its end")
def error_in_a_chain(ray):
    @ray.remote
    def fail():
        raise ArithmeticError("first step")

    @ray.remote
    def step(x):
        return x

    with raises(ArithmeticError, match="first step"):
        ray.get(step.remote(step.remote(fail.remote())))


@case("A task may create actors and use them")
def actors_in_a_task(ray):
    @ray.remote
    class Counter:
        def __init__(self):
            self.value = 0

        def increment(self):
            self.value += 1
            return self.value

    @ray.remote
    def use():
        counters = [Counter.remote() for _ in range(2)]
        return ray.get([c.increment.remote() for c in counters])

    assert ray.get(use.remote()) == [1, 1]


@case("An actor may call tasks")
def tasks_in_an_actor(ray):
    @ray.remote
    def square(x):
        return x * x

    @ray.remote
    class Actor:
        def work(self, n):
            return sum(ray.get([square.remote(x) for x in range(n)]))

    assert ray.get(Actor.remote().work.remote(4)) == 14


@case("put() in a task gives a ref that the caller can get after the task is over")
def put_in_a_task(ray):
    @ray.remote
    def make():
        return [ray.put("made in the task")]

    assert ray.get(ray.get(make.remote())) == ["made in the task"]


@case("A task returns refs of tasks that still run; their values come later")
def returned_running(ray):
    @ray.remote
    def slow():
        time.sleep(0.7)
        return "slow"

    @ray.remote
    def start():
        return [slow.remote()]

    assert ray.get(ray.get(start.remote())) == ["slow"]


@case("Several values: num_returns gives a ref each, and each can be an argument")
def several_returns(ray):
    @ray.remote(num_returns=2)
    def split(values):
        return values[:1], values[1:]

    @ray.remote
    def join(a, b):
        return b + a

    head, tail = split.remote([1, 2, 3])
    assert ray.get(join.remote(head, tail)) == [2, 3, 1]


@case("A task without a return value gives None")
def returns_none(ray):
    @ray.remote
    def work():
        pass

    assert ray.get(work.remote()) is None


@case("A task with num_cpus=0 runs while all CPUs are held")
def zero_cpus(ray):
    @ray.remote(num_cpus=4)
    class Holder:
        def one(self):
            return 1

    holder = Holder.remote()
    ray.get(holder.one.remote())

    @ray.remote(num_cpus=0)
    def free():
        return "ran"

    @ray.remote
    def bound():
        return "ran"

    assert ray.get(free.remote(), timeout=12) == "ran"
    ref = bound.remote()
    assert ray.wait([ref], timeout=0.5)[0] == []
    ray.kill(holder)
    assert ray.get(ref, timeout=12) == "ran"


@case("A tree reduction over tasks gives the right sum")
def tree_reduction(ray):
    @ray.remote
    def add(a, b):
        return a + b

    values = list(range(8))
    while len(values) > 1:
        values = [add.remote(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
    assert ray.get(values[0]) == 28


@case("The driver may submit tasks from several threads")
def from_threads(ray):
    from concurrent.futures import ThreadPoolExecutor

    @ray.remote
    def double(x):
        return 2 * x

    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda x: ray.get(double.remote(x)), range(8)))
    assert got == [2 * x for x in range(8)]


@case("A global changed in the driver after the function was sent is not seen by it")
def globals_are_copied(ray):
    box = {"value": 1}

    @ray.remote
    def read():
        return box["value"]

    assert ray.get(read.remote()) == 1
    box["value"] = 2
    assert ray.get(read.remote()) == 1


@case("What a task put, and what it called, can be got long after the task has ended")
def objects_of_a_task_that_is_over(ray):
    @ray.remote(num_cpus=0)
    def one():
        return 1

    @ray.remote(num_cpus=0)
    def makes():
        return [ray.put("put"), one.remote()]

    refs = ray.get(makes.remote(), timeout=20)
    time.sleep(3)  # its process is given back by now
    assert ray.get(refs, timeout=20) == ["put", 1]

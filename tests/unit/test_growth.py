"""How many executors the tasks of one shape get, on a simulated machine."""

from __future__ import annotations

from itertools import count

import pytest

from celery_actors.client.growth import Growth
from celery_actors.client.leases import Lease, Pool, Shape
from celery_actors.client.outbox import PendingCall

CORES = 2
START = 0.06  # seconds that an executor takes to start, on a core of its own
STEP = 0.0005


class Machine:
    """Runs tasks in executors that share some cores, in simulated time.

    :ivar most: executors that were there at a time.
    """

    def __init__(self, cores: int = CORES, allowed: int = 1000) -> None:
        self.now, self.cores, self.allowed = 100.0, cores, allowed
        self.pool = Pool(Shape(()))
        self.growth = Growth(self.pool)
        self.most = 0
        self._left: dict[bytes, float] = {}  # seconds of a core that an executor's start takes
        self._ids = count()
        self._numbers = count()

    def run(self, tasks: int, seconds: float, *, cpu: bool, name: bytes = b"f") -> float:
        """Run a number of tasks of one function; returns how long they took, in seconds."""
        self.pool.ready.extend(
            PendingCall(next(self._numbers), name, b"", (), retries=3) for _ in range(tasks)
        )
        began, todo = self.now, tasks
        work: dict[PendingCall, float] = {}
        while todo:
            self._ask()
            for _, call in self.pool.give(self.now):
                work.setdefault(call, seconds)
            todo -= self._step(work, cpu=cpu)
            assert self.now - began < 600, "the tasks come to no end"
        return self.now - began

    def _ask(self) -> None:
        pool = self.pool
        if self.growth.look_at <= self.now and pool.ready:
            for _ in range(self.growth.wanted(self.now, self.cores)):
                pool.requested[next(self._ids).to_bytes(16, "big")] = self.now
        for actor in list(pool.requested):
            if len(pool.leases) < self.allowed:
                del pool.requested[actor]
                pool.leases[actor] = Lease(actor, idle_since=self.now)
                self._left[actor] = START
        self.most = max(self.most, len(pool.leases))
        for lease in pool.overdue(self.now):  # what waits behind a long task goes elsewhere
            for call in list(lease.tasks)[1:]:
                pool.take_back(call)
                pool.ready.append(call)

    def _step(self, work: dict[PendingCall, float], *, cpu: bool) -> int:
        """Let a moment pass; returns how many tasks ended."""
        pool, ended = self.pool, 0
        starting = [actor for actor, left in self._left.items() if left > 0]
        running = [
            lease for lease in pool.leases.values() if lease.tasks and lease.actor not in starting
        ]
        users = len(starting) + (len(running) if cpu else 0)
        share = STEP * min(1.0, self.cores / max(users, 1))
        self.now += STEP
        for actor in starting:
            self._left[actor] -= share
            if self._left[actor] <= 0:
                del self._left[actor]
        for lease in running:
            left = share if cpu else STEP
            while lease.tasks and left > 0:
                call = next(iter(lease.tasks))
                spent = min(left, work[call])
                work[call] -= spent
                left -= spent
                if work[call] > 1e-9:
                    break
                del work[call]
                self.growth.finished(call, lease, self.now)
                pool.done(call, self.now)
                ended += 1
        return ended

    def let_idle_ones_go(self) -> None:
        """A pause in which executors without tasks are returned."""
        self.now += 5
        self.pool.leases.clear()
        self.pool.requested.clear()


@pytest.mark.parametrize("cores", [1, 2, 8])
@pytest.mark.parametrize("seconds", [0.00005, 0.0005, 0.003])
def test_short_tasks_get_an_executor_for_each_core_and_one_trial_of_more(
    cores: int, seconds: float
) -> None:
    machine = Machine(cores)
    for _ in range(2):
        machine.run(2000, seconds, cpu=True)
        assert machine.most <= (2 if seconds > 0.0001 else 1) * cores


def test_long_tasks_get_an_executor_each() -> None:
    machine = Machine()
    assert machine.run(64, 5.0, cpu=False) < 5 + 64 * START / CORES + 1.0
    assert machine.most == 64


def test_long_tasks_that_are_known_get_theirs_at_once() -> None:
    machine = Machine()
    machine.run(64, 5.0, cpu=False)
    machine.let_idle_ones_go()
    assert machine.run(64, 5.0, cpu=False) < 5 + 64 * START / CORES + 0.2


def test_a_long_function_is_not_taken_for_a_short_one_of_the_same_shape() -> None:
    machine = Machine()
    machine.run(2000, 0.0001, cpu=True, name=b"short")
    assert machine.run(32, 5.0, cpu=False, name=b"long") < 5 + 32 * START / CORES + 1.0
    assert machine.most == 32


def test_tasks_that_wait_get_more_than_there_are_cores() -> None:
    machine = Machine()
    assert machine.run(100, 0.1, cpu=False) < 100 * 0.1 / CORES / 2, "twice as fast as with two"
    assert CORES < machine.most < 50


def test_tasks_that_use_the_cores_get_no_more_where_more_are_no_faster() -> None:
    machine = Machine()
    alone = 1000 * 0.02 / CORES
    assert machine.run(1000, 0.02, cpu=True) < 1.3 * alone
    assert machine.most <= 4 * CORES


def test_no_more_than_tasks_wait_and_no_more_than_the_resources_allow() -> None:
    machine = Machine(cores=8)
    machine.run(3, 1.0, cpu=False)
    assert machine.most == 3
    machine = Machine(cores=8, allowed=4)
    machine.run(50, 0.2, cpu=False)
    assert machine.most == 4
    assert len(machine.pool.requested) <= 8, "what waits for resources"

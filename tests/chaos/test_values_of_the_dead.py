"""Large values of processes that were killed: what somebody may want stays, the rest goes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chaos_actors import wait_for_file
from faults import DETECTION, LEASE, Program
from leftovers import SHARED_MEMORY, shared_memory_files
from waiting import wait_until

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.handle import actor_id_of
from celery_actors.local import PrivateCluster
from celery_actors.store.segment import held_value, is_ring

pytestmark = pytest.mark.usefixtures("cluster")

SWEPT = 2 * LEASE / 3 + DETECTION
"""Of a process that is gone, files are looked at twice, a third of a lease apart."""

SIZES = PUT, LENT, RESULT, ARGUMENT, CARRIED = tuple(n * 600_000 for n in range(1, 6))


def array(size: int) -> Any:
    return np.full(size, 7, dtype=np.uint8)


@ray.remote(num_cpus=0)
class Maker:
    """Puts values and keeps them, lends them, returns them, calls others with them."""

    def __init__(self) -> None:
        self.kept = ray.put(array(PUT))

    def pid(self) -> int:
        return os.getpid()

    def lend(self) -> list[Any]:
        return [ray.put(array(LENT))]

    def make(self) -> Any:
        return array(RESULT)

    def call(self, taker: Any) -> None:
        take = taker.take.options(num_returns=0)  # nobody is left to release what they return
        take.remote(array(ARGUMENT))
        take.remote(ray.put(array(CARRIED)))
        process = require_process()
        box = process.outboxes[actor_id_of(taker)]
        wait_until(lambda: all(call.sent for call in box.unresolved.values()), "its calls sent")

    def crash(self) -> None:
        os._exit(1)


@ray.remote(num_cpus=0)
class Taker:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def hold(self, started: str, gate: str) -> None:
        Path(started).touch()
        wait_for_file(gate)

    def take(self, value: Any) -> None:
        assert value.min() == value.max() == 7
        self.sizes.append(len(value))

    def taken(self) -> list[int]:
        return self.sizes


class Files:
    """The values in shared memory that are new since this was made, by their sizes."""

    def __init__(self, brokers: PrivateCluster) -> None:
        self._brokers = brokers
        self._before = set(shared_memory_files(brokers))

    def sizes(self) -> set[int]:
        found = set()
        for name in set(shared_memory_files(self._brokers)) - self._before:
            if is_ring(Path(name).name):
                continue
            try:
                size = (SHARED_MEMORY / name).stat().st_size
            except FileNotFoundError:
                continue
            found |= {known for known in SIZES if known < size < known + 200_000}
        return found

    def wait(self, sizes: set[int], what: str) -> None:
        try:
            wait_until(lambda: self.sizes() == sizes, what, SWEPT)
        except AssertionError as error:
            raise AssertionError(f"{error}; there are values of {self.sizes()} bytes") from None


def kill_process(maker: Any) -> None:
    os.kill(ray.get(maker.pid.remote()), signal.SIGKILL)


def crash(maker: Any) -> None:
    maker.crash.remote()


@pytest.mark.parametrize("end", [kill_process, ray.kill, crash])
def test_what_only_a_killed_actor_had_goes_and_what_others_hold_stays(
    brokers: PrivateCluster, end: Callable[[Any], None]
) -> None:
    files = Files(brokers)
    maker = Maker.remote()
    (lent,), result = ray.get(maker.lend.remote()), maker.make.remote()
    ray.wait([result])
    files.wait({PUT, LENT, RESULT}, "the actor's values")
    end(maker)
    files.wait({LENT, RESULT}, "what others hold, without what only the actor had put")
    assert [ray.get(ref).sum() for ref in (lent, result)] == [7 * LENT, 7 * RESULT]
    del lent, result
    files.wait(set(), "nothing of the actor")


@ray.remote(max_retries=0, num_cpus=0)
def puts_and_dies() -> None:
    kept = ray.put(array(PUT)), size_of.remote(array(ARGUMENT))
    os.kill(os.getpid(), signal.SIGKILL)
    del kept


@ray.remote(num_cpus=0)
def size_of(value: Any) -> int:
    return len(value)


def test_what_a_killed_task_had_put_goes(brokers: PrivateCluster) -> None:
    files = Files(brokers)
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(puts_and_dies.remote())
    files.wait(set(), "nothing of the task")


def test_arguments_of_a_killed_actors_calls_are_there_when_these_run(
    brokers: PrivateCluster, tmp_path: Path
) -> None:
    files = Files(brokers)
    started, gate = tmp_path / "started", tmp_path / "gate"
    taker, maker = Taker.remote(), Maker.remote()
    holds = taker.hold.remote(str(started), str(gate))
    wait_until(started.exists, "the call that the others wait for")
    ray.get(maker.call.remote(taker))
    files.wait({PUT, ARGUMENT, CARRIED}, "the actor's values")
    kill_process(maker)
    files.wait({ARGUMENT, CARRIED}, "what its calls carry, without what it had put")
    gate.touch()
    ray.get(holds)
    assert ray.get(taker.taken.remote()) == [ARGUMENT, CARRIED]
    del taker, holds
    files.wait({CARRIED}, "no arguments for an actor that is gone")


DRIVER = """
import sys
import celery_actors as ray
from chaos_actors import Log
ray.init(namespace="of the dead")
log = Log.options(name="log", lifetime="detached", num_cpus=0).remote()
log.hold.options(num_returns=0).remote(*sys.argv[1:])
log.keep.options(num_returns=0).remote(bytes(2_400_000))
kept = ray.put(bytes(600_000))
print("ready")
sys.stdin.readline()
"""


def test_arguments_of_a_killed_driver_s_call_to_a_detached_actor_are_there(
    brokers: PrivateCluster, tmp_path: Path
) -> None:
    files = Files(brokers)
    started, gate = tmp_path / "started", tmp_path / "gate"
    with Program(DRIVER, brokers, str(started), str(gate)) as program:
        program.hear("that it has called")
        wait_until(started.exists, "the call that the other waits for")
        files.wait({PUT, ARGUMENT}, "the driver's values")
        program.signal(signal.SIGKILL)
        program.wait()
    wait_until(lambda: PUT not in files.sizes(), "what it had put to go", LEASE + SWEPT)
    log = ray.get_actor("log", namespace="of the dead")
    gate.touch()
    kept = ray.get(log.__ray_call__.remote(lambda self: len(self.kept)))
    ray.kill(log)
    assert kept == ARGUMENT
    files.wait(set(), "nothing of the driver")


@ray.remote(num_cpus=0)
class NeverMade:
    def __init__(self, size: int) -> None:
        raise ValueError("x" * size)

    def ask(self) -> None:
        """Nobody does."""


@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_why_a_constructor_failed_outlives_its_process(brokers: PrivateCluster, size: int) -> None:
    before = set(shared_memory_files(brokers))
    actor = NeverMade.remote(size)
    with pytest.raises(ray.exceptions.ActorDiedError) as raised:
        ray.get(actor.ask.remote(), timeout=60)
    cause = raised.value.__cause__
    assert isinstance(cause, ray.exceptions.RayTaskError)
    assert "NeverMade.__init__" in str(cause)
    assert isinstance(cause, ValueError) == (size < 1_000_000), "a record is not made as large"
    new = [SHARED_MEMORY / name for name in set(shared_memory_files(brokers)) - before]
    assert not [file for file in new if file.is_file() and held_value(file)], "it is in the record"

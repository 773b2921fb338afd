"""Actors that are begun again after the loss of their process, and what becomes of calls."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest
from waiting import record_of, wait_until, wait_until_alive

import celery_actors as ray
from celery_actors.exceptions import ActorDiedError, ActorUnavailableError, TaskError

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote(max_restarts=1)
class Worker:
    def __init__(self, log: str = "", start: int = 0) -> None:
        self.log = log
        self.value = start

    def pid(self) -> int:
        return os.getpid()

    def note(self, word: str) -> str:
        with Path(self.log).open("a") as file:
            file.write(word + "\n")
        return word

    def die_in(self, word: str) -> str:
        """Die the first time that it runs."""
        first = word not in Path(self.log).read_text().split()
        self.note(word)
        if first:
            os.kill(os.getpid(), signal.SIGKILL)
        return word

    def increment(self) -> int:
        self.value += 1
        return self.value

    def reconstructed(self) -> bool:
        return ray.get_runtime_context().was_current_actor_reconstructed

    def wait_for(self, path: str) -> str:
        while not Path(path).exists():
            time.sleep(0.01)
        return "done"

    def leave(self) -> None:
        ray.actor.exit_actor()

    def fail(self, path: str, times: int) -> int:
        with Path(path).open("a") as file:
            file.write("x")
        tried = len(Path(path).read_text())
        if tried <= times:
            raise KeyError(f"try {tried}")
        return tried

    def kill_self(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def kill_process(actor: ray.ActorHandle[Worker]) -> int:
    pid = ray.get(actor.pid.remote())
    os.kill(pid, signal.SIGKILL)
    return int(pid)


def test_a_lost_actor_is_begun_again_with_a_new_state() -> None:
    actor = Worker.remote(start=10)
    assert ray.get(actor.increment.remote()) == 11
    assert ray.get(actor.reconstructed.remote()) is False
    old = kill_process(actor)
    assert ray.get(actor.increment.remote(), timeout=60) == 11
    assert ray.get(actor.pid.remote()) != old
    assert ray.get(actor.reconstructed.remote()) is True
    assert record_of(actor).restarts == 1


def test_it_is_dead_when_no_restart_is_left() -> None:
    actor = Worker.remote()
    kill_process(actor)
    kill_process(actor)
    with pytest.raises(ActorDiedError, match="SIGKILL"):
        ray.get(actor.pid.remote(), timeout=60)


def test_restarts_without_end() -> None:
    actor = Worker.options(max_restarts=-1).remote()
    pids = {kill_process(actor) for _ in range(4)}
    assert len(pids) == 4
    assert ray.get(actor.increment.remote(), timeout=60) == 1
    ray.kill(actor)
    with pytest.raises(ActorDiedError, match="killed with kill"):
        ray.get(actor.pid.remote(), timeout=60)


def test_the_interrupted_call_raises_and_those_behind_it_run_in_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    actor = Worker.remote(str(log))
    # Committed before the death: what ran after the last commit would count as interrupted too.
    assert ray.get([actor.note.remote(f"a{i}") for i in range(5)]) == [f"a{i}" for i in range(5)]
    interrupted = actor.die_in.remote("boom")
    after = [actor.note.remote(f"b{i}") for i in range(200)]
    with pytest.raises(ActorUnavailableError, match=r"Worker\.die_in was interrupted"):
        ray.get(interrupted, timeout=60)
    assert ray.get(after, timeout=60) == [f"b{i}" for i in range(200)]
    assert log.read_text().split() == [
        *(f"a{i}" for i in range(5)),
        "boom",
        *(f"b{i}" for i in range(200)),
    ]


def test_with_retries_it_runs_again_in_its_place(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    actor = Worker.options(max_task_retries=1).remote(str(log))
    assert ray.get(actor.note.remote("a")) == "a"  # committed: else it would run again, too
    interrupted = actor.die_in.remote("boom")
    after = [actor.note.remote(f"b{i}") for i in range(100)]
    assert ray.get([interrupted, *after], timeout=60) == ["boom", *(f"b{i}" for i in range(100))]
    assert log.read_text().split() == ["a", "boom", "boom", *(f"b{i}" for i in range(100))]


def test_a_methods_own_retries_go_before_the_actors(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    actor = Worker.options(max_task_retries=-1).remote(str(log))
    with pytest.raises(ActorUnavailableError):
        ray.get(actor.die_in.options(max_task_retries=0).remote("x"), timeout=60)


def test_retries_end(tmp_path: Path) -> None:
    actor = Worker.options(max_restarts=-1, max_task_retries=2).remote(str(tmp_path / "log"))
    call = actor.kill_self.remote()
    with pytest.raises(ActorUnavailableError, match="attempt 3"):
        ray.get(call, timeout=60)
    assert record_of(actor).restarts == 3
    assert ray.get(actor.increment.remote()) == 1


def test_kill_may_leave_restarts_be(tmp_path: Path) -> None:
    actor = Worker.options(max_task_retries=1).remote()
    pid = ray.get(actor.pid.remote())
    running = actor.wait_for.remote(str(tmp_path / "gate"))
    behind = actor.pid.remote()
    ray.kill(actor, no_restart=False)
    # It asks for the end and does not wait for it: what runs may still finish before.
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), f"the end of process {pid}")
    (tmp_path / "gate").touch()
    assert ray.get(running, timeout=60) == "done"
    assert ray.get(behind, timeout=60) != pid
    ray.kill(actor)
    with pytest.raises(ActorDiedError):
        ray.get(actor.pid.remote(), timeout=60)


def test_without_restarts_kill_is_the_end() -> None:
    actor = Worker.options(max_restarts=0).remote()
    ray.get(actor.pid.remote())
    ray.kill(actor, no_restart=False)
    with pytest.raises(ActorDiedError):
        ray.get(actor.pid.remote(), timeout=60)


def test_who_leaves_is_not_begun_again() -> None:
    actor = Worker.options(max_restarts=-1).remote()
    before = actor.increment.remote()
    leaving = actor.leave.remote()
    after = actor.increment.remote()
    assert ray.get(before, timeout=60) == 1
    for ref in (leaving, after):
        with pytest.raises(ActorDiedError, match="exit_actor"):
            ray.get(ref, timeout=60)


def test_a_constructor_that_raises_is_not_begun_again() -> None:
    @ray.remote(max_restarts=5)
    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("no")

        def method(self) -> None:
            """Never runs."""

    actor = Broken.remote()
    with pytest.raises(ActorDiedError, match="its constructor raised RuntimeError: no"):
        ray.get(actor.method.remote(), timeout=60)
    assert record_of(actor).restarts == 0


def test_a_constructor_that_dies_is_begun_again(tmp_path: Path) -> None:
    @ray.remote(max_restarts=1)
    class Fragile:
        def __init__(self, path: str) -> None:
            if not Path(path).exists():
                Path(path).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            self.value = 0

        def increment(self) -> int:
            self.value += 1
            return self.value

    actor = Fragile.remote(str(tmp_path / "mark"))
    assert ray.get([actor.increment.remote() for _ in range(3)], timeout=60) == [1, 2, 3]


def test_the_constructors_arguments_outlive_their_refs() -> None:
    import numpy as np

    @ray.remote(max_restarts=-1)
    class Holder:
        def __init__(self, array: object, small: int, other: ray.ActorHandle[Worker]) -> None:
            self.array = np.asarray(array)
            self.small = small
            self.other = other

        def total(self) -> float:
            return float(self.array.sum()) + self.small + ray.get(self.other.increment.remote())

        def pid(self) -> int:
            return os.getpid()

    other = Worker.remote()
    array = ray.put(np.ones(300_000))
    holder = Holder.remote(array, ray.put(5), other)
    assert ray.get(holder.total.remote()) == 300_006.0
    del array, other
    for expected in (300_007.0, 300_008.0):
        os.kill(ray.get(holder.pid.remote()), signal.SIGKILL)
        assert ray.get(holder.total.remote(), timeout=60) == expected


def test_exceptions_are_retried_in_place(tmp_path: Path) -> None:
    actor = Worker.options(max_task_retries=3).remote(str(tmp_path / "log"))
    call = actor.fail.options(retry_exceptions=True).remote(str(tmp_path / "a"), 3)
    behind = actor.note.remote("behind")
    assert ray.get(call, timeout=60) == 4
    assert ray.get(behind) == "behind"
    with pytest.raises(KeyError, match="try 4"):
        ray.get(actor.fail.options(retry_exceptions=True).remote(str(tmp_path / "b"), 9))
    with pytest.raises(TaskError, match="try 1"):
        ray.get(actor.fail.options(retry_exceptions=[ValueError]).remote(str(tmp_path / "c"), 9))
    only = actor.fail.options(retry_exceptions=[KeyError], max_task_retries=1)
    with pytest.raises(KeyError, match="try 2"):
        ray.get(only.remote(str(tmp_path / "d"), 9))


def test_many_callers_keep_their_order_across_restarts(tmp_path: Path) -> None:
    log, enough = tmp_path / "log", tmp_path / "enough"
    log.touch()
    actor = Worker.options(max_restarts=-1, max_task_retries=-1).remote(str(log))

    @ray.remote(num_cpus=0.5)
    def call_often(actor: ray.ActorHandle[Worker], name: str) -> int:
        calls = 0
        while not enough.exists():
            ray.get([actor.note.remote(f"{name}-{calls + i}") for i in range(50)])
            calls += 50
        return calls

    callers = [call_often.remote(actor, f"c{n}") for n in range(4)]
    for _ in range(3):
        pid = wait_until_alive(actor).pid
        size = log.stat().st_size
        wait_until(lambda size=size: log.stat().st_size > size + 200, "calls to go on")  # type: ignore[misc]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: record_of(actor).pid != pid, "the loss to be noticed")  # type: ignore[misc]
    enough.touch()
    calls = ray.get(callers, timeout=60)
    words = log.read_text().split()
    for n in range(4):
        seen = [int(w.partition("-")[2]) for w in words if w.startswith(f"c{n}-")]
        # What had run and was not committed at a death runs again, from its first call on.
        assert list(dict.fromkeys(seen)) == list(range(calls[n]))
        assert sum(later < earlier for earlier, later in pairwise(seen)) <= 3


def test_what_goes_on_for_ever_holds_up_no_call_behind_it() -> None:
    @ray.remote(max_restarts=1, max_task_retries=-1)
    class Server:
        def __init__(self) -> None:
            self.value = 0

        async def serve(self) -> None:
            while True:
                await asyncio.sleep(0.05)

        async def increment(self) -> int:
            self.value += 1
            return self.value

        async def pid(self) -> int:
            return os.getpid()

    actor = Server.remote()
    serving = actor.serve.remote()
    # Finished and acknowledged, behind a call that is neither: only that one comes again.
    assert ray.get([actor.increment.remote() for _ in range(3)], timeout=60) == [1, 2, 3]
    os.kill(ray.get(actor.pid.remote()), signal.SIGKILL)
    assert ray.get([actor.increment.remote() for _ in range(3)], timeout=60) == [1, 2, 3]
    assert ray.wait([serving], timeout=0) == ([], [serving])

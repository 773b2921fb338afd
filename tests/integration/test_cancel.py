"""Cancelling calls and tasks: waiting, running, on event loops, with their children."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

import celery_actors as ray
from celery_actors.exceptions import TaskCancelledError, TaskError, WorkerCrashedError

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Worker:
    def __init__(self) -> None:
        self.ran: list[int] = []

    def wait_for(self, path: str) -> str:
        while not Path(path).exists():
            time.sleep(0.01)
        return "done"

    def note(self, number: int) -> None:
        self.ran.append(number)

    def noted(self) -> list[int]:
        return self.ran

    def until_cancelled(self, path: str) -> str:
        Path(path).touch()
        context = ray.get_runtime_context()
        while not context.is_canceled():
            time.sleep(0.01)
        return "saw it"


@ray.remote
class AsyncWorker:
    def __init__(self) -> None:
        self.cancelled = 0
        self.started = 0

    async def forever(self) -> None:
        self.started += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def counts(self) -> tuple[int, int]:
        return self.started, self.cancelled

    async def parent(self, other: Any) -> None:
        await other.forever.remote()


@ray.remote
def sleep(path: str) -> None:
    Path(path).touch()
    time.sleep(100)


@ray.remote
def add(a: int, b: int) -> int:
    return a + b


@ray.remote
def parent(path: str) -> None:
    ray.get(sleep.remote(path))


def test_a_waiting_call_is_not_run(tmp_path: Path) -> None:
    actor = Worker.remote()
    gate = tmp_path / "gate"
    first = actor.wait_for.remote(str(gate))
    calls = [actor.note.remote(i) for i in range(10)]
    ray.wait([first], timeout=0.2)
    ray.cancel(calls[3])
    with pytest.raises(TaskCancelledError):
        ray.get(calls[3], timeout=60)  # at once, not when the actor comes to it
    gate.touch()
    assert ray.get(first) == "done"
    assert ray.get(actor.noted.remote()) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    with pytest.raises(TaskCancelledError):
        ray.get(calls[3])


def test_a_call_that_waits_for_its_arguments(tmp_path: Path) -> None:
    actor = Worker.remote()
    gate = tmp_path / "gate"
    other = Worker.remote()
    argument = other.wait_for.remote(str(gate))
    call = actor.note.remote(argument)
    later = actor.note.remote(2)
    ray.cancel(call)
    with pytest.raises(TaskCancelledError):
        ray.get(call, timeout=60)
    ray.get(later, timeout=60)  # held back by the other, no longer
    gate.touch()
    assert ray.get(actor.noted.remote()) == [2]


def test_a_running_coroutine_is_cancelled() -> None:
    actor = AsyncWorker.remote()
    calls = [actor.forever.remote() for _ in range(5)]
    wait_until(lambda: ray.get(actor.counts.remote())[0] == 5, "the calls to run")
    for call in calls[:3]:
        ray.cancel(call)
    for call in calls[:3]:
        with pytest.raises(TaskCancelledError, match="forever was cancelled"):
            ray.get(call, timeout=60)
    assert ray.get(actor.counts.remote()) == (5, 3)
    assert ray.wait(calls[3:], timeout=0.1)[0] == []
    ray.kill(actor)


@ray.remote
class Stubborn:
    def __init__(self) -> None:
        self.begun = 0

    async def returns_all_the_same(self) -> str:
        self.begun += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "caught"
        return "slept"

    async def count(self) -> int:
        return self.begun


def test_a_cancelled_coroutine_raises_a_task_error_even_if_it_returns() -> None:
    actor = Stubborn.remote()
    call = actor.returns_all_the_same.remote()
    wait_until(lambda: ray.get(actor.count.remote()) == 1, "the call to run")
    ray.cancel(call)
    with pytest.raises(TaskError) as raised:
        ray.get(call, timeout=60)
    assert isinstance(raised.value, TaskCancelledError)
    assert isinstance(raised.value.cause, TaskCancelledError)


def test_a_running_method_sees_that_it_is_cancelled(tmp_path: Path) -> None:
    actor = Worker.remote()
    started = tmp_path / "started"
    call = actor.until_cancelled.remote(str(started))
    wait_until(started.exists, "the call to run")
    ray.cancel(call)
    with pytest.raises(TaskCancelledError):
        ray.get(call, timeout=60)
    assert ray.get(actor.noted.remote()) == []


def test_what_is_over_stays_as_it_is() -> None:
    actor = Worker.remote()
    call = actor.noted.remote()
    assert ray.get(call) == []
    ray.cancel(call)
    assert ray.get(call) == []
    value = ray.put(3)
    ray.cancel(value)
    assert ray.get(value) == 3


def test_a_running_task_is_interrupted(tmp_path: Path) -> None:
    started = tmp_path / "started"
    task = sleep.remote(str(started))
    wait_until(started.exists, "the task to run")
    ray.cancel(task)
    with pytest.raises(TaskCancelledError):
        ray.get(task, timeout=60)
    assert ray.get(add.remote(1, 2), timeout=60) == 3


def test_a_task_that_waits_for_its_arguments_or_for_its_turn(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    slow = Worker.remote().wait_for.remote(str(gate))
    waits = add.remote(slow, 1)
    queued = [sleep.remote(str(tmp_path / f"task {i}")) for i in range(8)]  # on four CPUs
    for task in (waits, *queued):
        ray.cancel(task)
    for task in (waits, *queued):
        with pytest.raises(TaskCancelledError):
            ray.get(task, timeout=60)


def test_tasks_whose_executors_are_just_starting(tmp_path: Path) -> None:
    """Each in one of its own, at all moments of its start: before it can be told, and after."""
    for number in range(100):
        task = sleep.options(num_cpus=0.001 * (number + 1)).remote(str(tmp_path / f"{number}"))
        time.sleep(number % 20 * 0.002)
        ray.cancel(task)
        with pytest.raises(TaskCancelledError):
            ray.get(task, timeout=60)


def test_force_kills_the_process_of_a_task_and_of_no_actor(tmp_path: Path) -> None:
    started = tmp_path / "started"

    @ray.remote(max_retries=3)
    def stubborn(path: str) -> None:
        Path(path).write_text(str(os.getpid()))
        while True:
            try:
                threading.Event().wait(100)
            except KeyboardInterrupt:
                continue

    task = stubborn.remote(str(started))
    wait_until(lambda: started.exists() and started.read_text(), "the task to run")
    pid = int(started.read_text())
    ray.cancel(task, force=True)
    with pytest.raises(WorkerCrashedError):
        ray.get(task, timeout=60)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the process to be gone")
    actor = AsyncWorker.remote()
    call = actor.forever.remote()
    with pytest.raises(ValueError, match="use kill"):
        ray.cancel(call, force=True)
    ray.kill(actor)


def test_children_are_cancelled_too(tmp_path: Path) -> None:
    started = tmp_path / "started"
    task = parent.remote(str(started))
    wait_until(started.exists, "the child to run")
    ray.cancel(task)
    with pytest.raises(TaskCancelledError):
        ray.get(task, timeout=60)
    one, two = AsyncWorker.remote(), AsyncWorker.remote()
    call = one.parent.remote(two)
    wait_until(lambda: ray.get(two.counts.remote())[0] == 1, "the child to run")
    ray.cancel(call)
    wait_until(lambda: ray.get(two.counts.remote()) == (1, 1), "the child to be cancelled")


def test_without_recursive_children_go_on() -> None:
    one, two = AsyncWorker.remote(), AsyncWorker.remote()
    call = one.parent.remote(two)
    wait_until(lambda: ray.get(two.counts.remote())[0] == 1, "the child to run")
    ray.cancel(call, recursive=False)
    with pytest.raises(TaskCancelledError):
        ray.get(call, timeout=60)
    assert ray.get(two.counts.remote()) == (1, 0)
    ray.kill(two)


def test_a_borrower_cancels_through_the_owner() -> None:
    actor = AsyncWorker.remote()
    call = actor.forever.remote()
    wait_until(lambda: ray.get(actor.counts.remote())[0] == 1, "the call to run")

    @ray.remote
    def cancel(refs: list[Any]) -> None:
        ray.cancel(refs[0])

    ray.get(cancel.remote([call]))
    with pytest.raises(TaskCancelledError):
        ray.get(call, timeout=60)


def test_what_cancel_takes() -> None:
    with pytest.raises(TypeError, match="cancel\\(\\) takes an ObjectRef"):
        ray.cancel("call")  # type: ignore[arg-type]


def test_a_call_to_an_actor_that_has_not_begun(tmp_path: Path) -> None:
    log = tmp_path / "log"

    @ray.remote(num_cpus=4)
    class Whole:
        def write(self, text: str) -> None:
            with log.open("a") as file:
                file.write(text)

    first = Whole.remote()
    ray.get(first.write.remote("a"))
    second = Whole.remote()  # waits for the CPUs
    refs = [second.write.remote("b"), second.write.remote("c")]
    ray.cancel(refs[0])
    ray.kill(first)
    ray.get(refs[1], timeout=60)
    with pytest.raises(TaskCancelledError):
        ray.get(refs[0], timeout=60)
    assert log.read_text() == "ac"

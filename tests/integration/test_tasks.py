"""Tasks: nested, many, waiting for their arguments, and tried again when their process dies."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from fixture_types import StartNode
from waiting import wait_until

import celery_actors as ray
from celery_actors.exceptions import TaskError, WorkerCrashedError
from celery_actors.session import SessionInfo


@pytest.fixture(scope="module", autouse=True)
def small_node(driver: SessionInfo, start_node: StartNode) -> None:
    """One node of one CPU: whatever waits must let others run."""
    start_node("small", num_cpus=1)
    wait_until(ray.nodes, "the node")


def idle() -> bool:
    return ray.available_resources() == ray.cluster_resources()


@ray.remote
def add(a: int, b: int = 0) -> int:
    return a + b


@ray.remote
def when(path: str) -> str:
    """Return once the file exists."""
    while not Path(path).exists():
        time.sleep(0.01)
    return "done"


def test_a_task_with_keywords_and_defaults() -> None:
    assert ray.get([add.remote(1), add.remote(1, 2), add.remote(1, b=3)]) == [1, 3, 4]


def test_two_hundred_tasks() -> None:
    assert ray.get([add.remote(i, i) for i in range(200)]) == [2 * i for i in range(200)]


def test_a_chain_of_tasks_through_refs() -> None:
    value = add.remote(0, 1)
    for _ in range(20):
        value = add.remote(value, 1)
    assert ray.get(value) == 21


def test_a_tree_of_tasks() -> None:
    values = [add.remote(i) for i in range(8)]
    while len(values) > 1:
        values = [add.remote(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
    assert ray.get(values[0]) == 28


def test_nested_tasks_three_deep_on_one_cpu() -> None:
    @ray.remote
    def leaf(value: int) -> int:
        return value

    @ray.remote
    def middle(value: int) -> int:
        return sum(ray.get([leaf.remote(value), leaf.remote(value)]))

    @ray.remote
    def top(value: int) -> int:
        ready, _ = ray.wait([middle.remote(value), middle.remote(value + 1)], num_returns=2)
        return sum(ray.get(ready))

    assert ray.get([top.remote(1), top.remote(2)], timeout=90) == [6, 10]


def test_a_task_uses_an_actor_that_wants_its_cpu() -> None:
    @ray.remote(num_cpus=1)
    class Inner:
        def value(self) -> int:
            return 1

    @ray.remote(num_cpus=1)
    class Outer:
        def value(self) -> int:
            inner = Inner.remote()
            return 1 + ray.get(inner.value.remote())

    @ray.remote
    def task() -> int:
        outer = Outer.remote()
        return 1 + ray.get(outer.value.remote())

    assert ray.get(task.remote(), timeout=90) == 3
    wait_until(idle, "the actors' CPUs back")


def test_a_constructor_that_waits_gives_its_cpu_back() -> None:
    @ray.remote(num_cpus=1)
    class Inner:
        def value(self) -> int:
            return 1

    @ray.remote(num_cpus=1)
    class Outer:
        def __init__(self) -> None:
            self.inner = Inner.remote()
            self.value_ = ray.get(self.inner.value.remote())

        def value(self) -> int:
            return self.value_

    assert ray.get(Outer.remote().value.remote(), timeout=90) == 1


def test_a_task_that_waits_for_its_arguments_holds_no_cpu(tmp_path: Path) -> None:
    wait_until(idle, "an idle cluster")
    gate = tmp_path / "gate"
    late = when.options(num_cpus=0).remote(str(gate))
    waiting = ray.remote(lambda *_: "ran").remote(late)
    assert ray.get(add.remote(1, 1)) == 2, "the only CPU is free for another task"
    wait_until(idle, "a CPU that nobody holds")
    assert ray.wait([waiting], timeout=0)[0] == []
    gate.touch()
    assert ray.get(waiting) == "ran"


def test_tasks_without_cpus_run_beside_each_other(tmp_path: Path) -> None:
    @ray.remote(num_cpus=0)
    def meet(mine: str, other: str) -> bool:
        Path(mine).touch()
        while not Path(other).exists():
            time.sleep(0.01)
        return True

    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert ray.get([meet.remote(a, b), meet.remote(b, a)], timeout=60) == [True, True]


def test_num_returns() -> None:
    @ray.remote(num_returns=2)
    def two() -> tuple[int, int]:
        return 1, 2

    @ray.remote(num_returns=0)
    def none(path: str) -> None:
        Path(path).touch()

    one, other = two.remote()
    assert ray.get([other, one]) == [2, 1]
    assert ray.get(two.options(num_returns=1).remote()) == (1, 2)
    with pytest.raises(ValueError, match="num_returns=3 and returned 2"):
        ray.get(two.options(num_returns=3).remote()[0])


def test_a_task_without_return_value_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    @ray.remote(num_returns=0)
    def touch() -> None:
        marker.touch()

    assert touch.remote() is None
    wait_until(marker.exists, "the task's file")


def test_a_task_whose_ref_is_dropped_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    ray.remote(lambda path: path.touch()).remote(marker)
    wait_until(marker.exists, "the task's file")


def test_an_exception_in_a_task() -> None:
    @ray.remote
    def fails(value: int) -> int:
        return {}[value]  # type: ignore[no-any-return]

    with pytest.raises(KeyError) as caught:
        ray.get(fails.remote(5))
    assert isinstance(caught.value, TaskError)
    assert "return {}[value]" in str(caught.value)
    with pytest.raises(KeyError):
        ray.get(add.remote(fails.remote(5)))


# -- processes that die -------------------------------------------------------------------


@ray.remote
def dies(marker: str, times: int) -> int:
    """End the process, so many times; then return how often it was started."""
    with Path(marker).open("a") as file:
        file.write("x")
    started = len(Path(marker).read_text())
    if started <= times:
        os._exit(7)
    return started


def test_a_task_whose_process_dies_is_tried_again(tmp_path: Path) -> None:
    assert ray.get(dies.remote(str(tmp_path / "once"), 1), timeout=60) == 2
    assert ray.get(dies.remote(str(tmp_path / "thrice"), 3), timeout=60) == 4


def test_a_task_that_keeps_dying_fails(tmp_path: Path) -> None:
    with pytest.raises(WorkerCrashedError, match="exited with status 7"):
        ray.get(dies.options(max_retries=1).remote(str(tmp_path / "a"), 9), timeout=60)
    assert len((tmp_path / "a").read_text()) == 2
    with pytest.raises(WorkerCrashedError, match="exited with status 7"):
        ray.get(dies.options(max_retries=0).remote(str(tmp_path / "b"), 9), timeout=60)
    assert len((tmp_path / "b").read_text()) == 1
    assert ray.get(add.remote(1, 1)) == 2, "others still run"


def test_sys_exit_in_a_task_is_an_error_of_that_task_only() -> None:
    with pytest.raises(ray.exceptions.ActorsError):
        ray.get(ray.remote(lambda: exit(3)).options(max_retries=0).remote(), timeout=60)
    assert ray.get(add.remote(1, 1), timeout=60) == 2


def test_tasks_submitted_in_tasks_outlive_the_task_that_submitted_them(tmp_path: Path) -> None:
    @ray.remote
    def outer(path: str) -> Any:
        return [when.options(num_cpus=0).remote(path)]

    gate = tmp_path / "gate"
    (inner,) = ray.get(outer.remote(str(gate)), timeout=60)
    gate.touch()
    assert ray.get(inner, timeout=60) == "done"


def test_everything_is_given_back() -> None:
    wait_until(idle, "all CPUs back")

"""Actors as a program uses them: created, called, inherited from, failed in, killed."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from fixture_types import RunScript
from waiting import record_of, wait_until

import celery_actors as ray
from celery_actors.exceptions import ActorDiedError

pytestmark = pytest.mark.usefixtures("cluster")


class PlainCounter:
    """Counts from a start."""

    def __init__(self, start: int = 0, *, step: int = 1) -> None:
        self.value = start
        self.step = step

    def increment(self, times: int = 1) -> int:
        self.value += times * self.step
        return self.value


@ray.remote
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def increment(self) -> int:
        self.value += 1
        return self.value


# -- the document's programs -------------------------------------------------------------


def test_counters_run_in_parallel_and_each_in_series() -> None:
    counters = [Counter.remote() for _ in range(10)]
    assert ray.get([c.increment.remote() for c in counters]) == [1] * 10
    assert ray.get([counters[0].increment.remote() for _ in range(5)]) == [2, 3, 4, 5, 6]


def test_a_method_call_returns_before_the_method_does() -> None:
    @ray.remote
    class Gate:
        def through(self, path: str) -> str:
            while not Path(path).exists():
                threading.Event().wait(0.01)
            return "through"

    gate = Gate.remote()
    path = f"/tmp/ca-test-gate-{os.getpid()}"
    ref = gate.through.remote(path)
    assert ray.wait([ref], timeout=0) == ([], [ref])
    Path(path).touch()
    try:
        assert ray.get(ref) == "through"
    finally:
        Path(path).unlink()


DOCUMENT = """
import celery_actors as ray
ray.init()

@ray.remote
class Counter(object):
    def __init__(self):
        self.counter = 0

    def inc(self):
        self.counter += 1

    def get_counter(self):
        return self.counter

@ray.remote
def f(counter):
    while True:
        counter.inc.remote()

counter = Counter.remote()
[f.remote(counter) for _ in range(4)]
for _ in range(10):
    print(ray.get(counter.get_counter.remote()))
while ray.get(counter.get_counter.remote()) == 0:
    pass
print(ray.get(counter.get_counter.remote()))
"""


def test_tasks_that_loop_for_ever_with_a_handle(run_script: RunScript) -> None:
    done = run_script(DOCUMENT)
    readings = [int(line) for line in done.stdout.split()]
    assert len(readings) == 11
    assert readings == sorted(readings)
    assert readings[-1] > 0
    assert done.stderr == ""
    wait_until(
        lambda: ray.available_resources() == ray.cluster_resources(),
        "the end of the tasks that looped",
    )


# -- ways to make an actor class ----------------------------------------------------------


def test_remote_is_a_decorator_with_and_without_options_and_a_function() -> None:
    bare = ray.remote(PlainCounter)
    with_options = ray.remote(num_cpus=0.5)(PlainCounter)
    for kind in (bare, with_options):
        counter = kind.remote(10, step=2)
        assert ray.get(counter.increment.remote(times=3)) == 16
    assert PlainCounter(1).increment() == 2, "the plain class is still one"
    assert bare.__name__ == "PlainCounter"
    assert bare.__doc__ == "Counts from a start."


def test_options_change_a_copy_of_the_class() -> None:
    kind = ray.remote(num_cpus=1)(PlainCounter)
    idle, busy = kind.options(num_cpus=0).remote(), kind.remote()
    ray.get([idle.increment.remote(), busy.increment.remote()])
    assert record_of(idle).resources == {}
    assert record_of(busy).resources == {"CPU": 10_000}


# -- return values ---------------------------------------------------------------------------


@ray.remote
class Splitter:
    @ray.method(num_returns=3)
    def three(self) -> tuple[int, str, list[int]]:
        return 1, "two", [3]

    @ray.method(num_returns=0)
    def none(self) -> str:
        self.ran = True
        return "nobody gets it"

    def has_run(self) -> bool:
        return self.ran

    def as_many(self, count: int) -> list[int]:
        return list(range(count))


def test_a_method_with_several_return_values() -> None:
    splitter = Splitter.remote()
    first, second, third = splitter.three.remote()
    assert ray.get(third) == [3]
    assert ray.get([second, first]) == ["two", 1]
    assert ray.get(splitter.as_many.options(num_returns=2).remote(2)) == [0, 1]


def test_a_method_without_return_value_runs_and_returns_none() -> None:
    splitter = Splitter.remote()
    assert splitter.none.remote() is None
    assert ray.get(splitter.has_run.remote()) is True


def test_a_wrong_number_of_return_values_is_an_error_of_each() -> None:
    refs = Splitter.remote().as_many.options(num_returns=3).remote(2)
    for ref in refs:
        with pytest.raises(ValueError, match=r"num_returns=3 and returned 2"):
            ray.get(ref)


def test_thousands_of_return_values() -> None:
    refs = Splitter.remote().as_many.options(num_returns=5000).remote(5000)
    assert ray.get(refs) == list(range(5000))


# -- classes ----------------------------------------------------------------------------------


class Base:
    def __init__(self, name: str) -> None:
        self.name = name

    def greet(self) -> str:
        return f"I am {self.name}"

    @classmethod
    def kind(cls) -> str:
        return cls.__name__

    @staticmethod
    def double(value: int) -> int:
        return 2 * value

    @property
    def loud(self) -> str:
        return self.name.upper()

    def _hidden(self) -> str:
        return "private by convention only"


@ray.remote
class Child(Base):
    limit = 7

    def __init__(self, name: str) -> None:
        super().__init__(name + "!")

    def greet(self) -> str:
        return super().greet() + f", {self.loud}"

    def __call__(self, value: int) -> int:
        return value + 1

    def __len__(self) -> int:
        return 3


def test_inheritance_super_class_and_static_methods() -> None:
    child = Child.remote("x")
    assert ray.get(child.greet.remote()) == "I am x!, X!"
    assert ray.get(child.kind.remote()) == "Child"
    assert ray.get(child.double.remote(4)) == 8
    assert ray.get(child._hidden.remote()) == "private by convention only"
    assert ray.get(child.__call__.remote(1)) == 2
    assert ray.get(child.__len__.remote()) == 3


def test_properties_and_attributes_are_not_readable_from_afar() -> None:
    child = Child.remote("x")
    for name in ("loud", "limit", "name", "absent"):
        with pytest.raises(AttributeError, match=name):
            getattr(child, name)
    with pytest.raises(AttributeError, match="state is in the actor"):
        child.name = "y"


def test_dir_lists_the_methods() -> None:
    listed = dir(Child.remote("x"))
    assert {"greet", "kind", "double", "_hidden", "__call__"} <= set(listed)
    assert not {"loud", "limit", "name", "__init__"} & set(listed)


def test_handles_compare_and_hash_by_actor() -> None:
    @ray.remote
    def same(handle: Any) -> Any:
        return handle

    one, other = Counter.remote(), Counter.remote()
    back = ray.get(same.remote(one))
    assert back == one
    assert hash(back) == hash(one)
    assert one != other
    assert one != "a handle"
    assert len({one, back, other}) == 2
    assert "Counter" in repr(one)


def test_user_code_runs_in_the_main_thread() -> None:
    @ray.remote
    class Signals:
        def main(self) -> bool:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # allowed in the main thread only
            return threading.current_thread() is threading.main_thread()

    assert ray.get(Signals.remote().main.remote()) is True


def test_ready_and_call_as_in_ray() -> None:
    counter = ray.remote(PlainCounter).remote(5)
    assert ray.get(counter.__ray_ready__.remote()) is True
    assert ray.get(counter.__ray_call__.remote(lambda self, by: self.value + by, 2)) == 7


# -- constructors with refs ---------------------------------------------------------------


def test_a_constructor_gets_the_values_of_refs() -> None:
    counter = ray.remote(PlainCounter).remote(ray.put(20), step=ray.put(2))
    assert ray.get(counter.increment.remote()) == 22


def test_a_constructor_with_a_ref_to_come_does_not_block(tmp_path: Path) -> None:
    marker = tmp_path / "go"

    @ray.remote
    def late(path: str) -> int:
        while not Path(path).exists():
            threading.Event().wait(0.01)
        return 40

    @ray.remote(num_cpus=0)
    def calls(counter: Any) -> int:
        value: int = ray.get(counter.increment.remote())
        return value

    counter = ray.remote(PlainCounter).remote(late.remote(str(marker)))
    call = counter.increment.remote(2)
    elsewhere = calls.remote(counter)
    assert ray.wait([call, elsewhere], timeout=0)[0] == []
    marker.touch()
    assert sorted(ray.get([call, elsewhere])) in ([41, 43], [42, 43])


# -- kill -------------------------------------------------------------------------------------


def test_kill_ends_the_process_and_fails_the_calls() -> None:
    @ray.remote
    class Sleeper:
        def sleep(self) -> None:
            threading.Event().wait()

    sleeper = Sleeper.remote()
    assert ray.get(sleeper.__ray_ready__.remote())
    pid = record_of(sleeper).pid
    assert pid is not None
    running, queued = sleeper.sleep.remote(), sleeper.sleep.remote()
    ray.kill(sleeper)
    for ref in (running, queued):
        with pytest.raises(ActorDiedError, match="killed with kill"):
            ray.get(ref, timeout=60)
    with pytest.raises(ActorDiedError, match="killed with kill"):
        ray.get(sleeper.sleep.remote(), timeout=60)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), f"the end of process {pid}")
    ray.kill(sleeper)  # once more does nothing


def test_kill_of_something_else_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="handle is expected"):
        ray.kill("actor")  # type: ignore[arg-type]

"""Names of actors: one living actor a name and namespace, found from anywhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fixture_types import RunScript
from waiting import wait_for_state, wait_until

import celery_actors as ray
from celery_actors.exceptions import ActorAlreadyExistsError, ActorDiedError, InsufficientResources
from celery_actors.session import SessionInfo

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    def increment(self) -> int:
        self.value += 1
        return self.value

    def name(self) -> str | None:
        return ray.get_runtime_context().get_actor_name()


@ray.remote
def increment_by_name(name: str) -> int:
    value: int = ray.get(ray.get_actor(name).increment.remote())
    return value


def test_found_by_its_name_from_everywhere() -> None:
    counter = Counter.options(name="visits").remote()
    assert ray.get(ray.get_actor("visits").increment.remote()) == 1
    assert ray.get(increment_by_name.remote("visits")) == 2
    assert ray.get(counter.increment.remote()) == 3
    assert ray.get_actor("visits") == counter
    assert ray.get(counter.name.remote()) == "visits"
    assert ray.get(Counter.remote().name.remote()) == ""


def test_unknown_and_senseless_names() -> None:
    with pytest.raises(ValueError, match="no living actor is named 'nobody'"):
        ray.get_actor("nobody")
    with pytest.raises(ValueError, match="takes the name"):
        ray.get_actor("")
    with pytest.raises(TypeError, match="name must be a string"):
        Counter.options(name=7)


def test_a_name_is_for_one_living_actor() -> None:
    first = Counter.options(name="only").remote()
    with pytest.raises(ActorAlreadyExistsError, match="'only' lives in namespace") as raised:
        Counter.options(name="only").remote()
    assert isinstance(raised.value, ValueError)
    other = Counter.options(name="only", namespace="elsewhere").remote()
    assert ray.get_actor("only") == first
    assert ray.get_actor("only", namespace="elsewhere") == other
    ray.kill(first)
    second = Counter.options(name="only").remote(5)
    assert ray.get(ray.get_actor("only").increment.remote()) == 6
    del second


def test_a_duplicate_is_refused_also_while_arguments_are_made() -> None:
    _alive = Counter.options(name="early").remote()

    @ray.remote
    def never() -> int:
        import time

        time.sleep(100)
        return 1

    slow = never.remote()
    with pytest.raises(ActorAlreadyExistsError):
        Counter.options(name="early").remote(slow)
    waits = Counter.options(name="late").remote(slow)
    assert ray.get_actor("late") == waits
    with pytest.raises(ActorAlreadyExistsError):
        Counter.options(name="late").remote()
    with pytest.raises(InsufficientResources):
        Counter.options(name="large", num_gpus=100).remote(slow)
    with pytest.raises(ValueError, match="no living actor"):
        ray.get_actor("large")
    ray.cancel(slow, force=True)
    with pytest.raises(ActorDiedError, match="its constructor raised"):
        ray.get(waits.increment.remote(), timeout=60)


def test_a_name_is_free_once_no_handle_is_left() -> None:
    counter = Counter.options(name="brief").remote()
    assert ray.get(counter.increment.remote()) == 1
    del counter

    def free() -> bool:
        try:
            ray.get_actor("brief")
        except ValueError:
            return True
        return False

    wait_until(free, "the name to be free")
    again = Counter.options(name="brief").remote(10)
    assert ray.get(again.increment.remote()) == 11


def test_a_weak_handle_keeps_nobody_alive() -> None:
    counter = Counter.options(name="weak").remote()
    ray.get(counter.increment.remote())
    weak = ray.get_actor("weak")
    del counter
    wait_for_state(weak, "DEAD")
    with pytest.raises(ray.exceptions.ActorDiedError, match="no handle to it is left"):
        ray.get(weak.increment.remote(), timeout=60)


def test_get_if_exists_in_a_race_of_fifty_makes_one() -> None:
    made = Counter.options(name="raced", get_if_exists=True)
    with ThreadPoolExecutor(50) as pool:
        handles = list(pool.map(lambda _: made.remote(), range(50)))
    assert len(set(handles)) == 1
    assert sorted(ray.get([h.increment.remote() for h in handles])) == list(range(1, 51))
    first, *others = handles
    handles.clear()
    del first  # whoever created it: the others keep it too
    assert ray.get(others[0].increment.remote()) == 51


@ray.remote
def take(name: str) -> int:
    counter = Counter.options(name=name, get_if_exists=True).remote()
    value: int = ray.get(counter.increment.remote())
    return value


def test_get_if_exists_from_many_processes() -> None:
    keeper = Counter.options(name="shared", get_if_exists=True).remote()
    values = ray.get([take.options(num_cpus=0.5).remote("shared") for _ in range(20)])
    assert sorted(values) == list(range(1, 21))
    assert ray.get(keeper.increment.remote()) == 21


def test_get_if_exists_needs_a_name() -> None:
    with pytest.raises(ValueError, match="needs a name"):
        Counter.options(get_if_exists=True)


_DETACH = """
import celery_actors as ray
@ray.remote
class Counter:
    def __init__(self):
        self.value = 0
    def increment(self):
        self.value += 1
        return self.value
ray.init(namespace="prod")
counter = Counter.options(name="stays", lifetime="detached").remote()
Counter.options(name="goes").remote()
keep = Counter.options(name="goes2").remote()
print(ray.get(counter.increment.remote()))
"""

_FIND = """
import celery_actors as ray
ray.init(namespace="prod")
print(ray.get(ray.get_actor("stays").increment.remote()))
try:
    ray.get_actor("goes2")
except ValueError:
    print("gone")
ray.kill(ray.get_actor("stays"))
"""


def test_a_detached_actor_outlives_its_driver(driver: SessionInfo, run_script: RunScript) -> None:
    assert run_script(_DETACH).stdout.split() == ["1"]
    counter = ray.get_actor("stays", namespace="prod")
    assert ray.get(counter.increment.remote()) == 2
    assert run_script(_FIND).stdout.split() == ["3", "gone"]
    wait_for_state(counter, "DEAD")


def test_a_namespace_is_the_jobs_own_unless_said_otherwise(run_script: RunScript) -> None:
    _mine: Any = Counter.options(name="mine").remote()
    program = """
import celery_actors as ray
ray.init()
try:
    ray.get_actor("mine")
except ValueError as error:
    print("not seen")
"""
    assert run_script(program).stdout.strip() == "not seen"

"""Classes and functions work wherever they were written: scripts, notebooks, functions, modules."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fixture_types import RunScript

import celery_actors as ray
from celery_actors.exceptions import SerializationError

pytestmark = pytest.mark.usefixtures("cluster")

IN_MAIN = """
import celery_actors as ray

FACTOR = 10

class TooMuch(Exception):
    pass

class Base:
    def factor(self):
        return FACTOR

@ray.remote
class Scaled(Base):
    def scale(self, value):
        if value > 9:
            raise TooMuch(value)
        return helper(value) * super().factor()

def helper(value):
    return value + 1

@ray.remote
def through_a_task(value):
    return ray.get(Scaled.remote().scale.remote(value))

if __name__ == "__main__":
    ray.init()
    scaled = Scaled.remote()
    print(ray.get(scaled.scale.remote(1)))
    print(ray.get(through_a_task.remote(2)))
    try:
        ray.get(scaled.scale.remote(10))
    except TooMuch as error:
        print("caught", error.args)
"""

BY_THE_DRIVERS_PATH = """
import sys
sys.path.insert(0, sys.argv[1])
import celery_actors as ray
from remote_shop import Shop, Point, where, move

ray.init()
shop = Shop.remote(Point(1, 2))
print(ray.get(shop.total.remote()))
moved = ray.get(move.remote(Point(5, 6)))
print(type(moved) is Point, moved.x, moved.y)
print(ray.get(ray.put([Point(7, 8)]))[0].x)
"""

SHOP = """
import celery_actors as ray
from remote_prices import price

class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y

@ray.remote
class Shop:
    def __init__(self, point):
        self.point = point

    def total(self):
        return price(self.point.x) + price(self.point.y)

def where():
    return __file__

@ray.remote
def move(point):
    return Point(point.y, point.x)
"""

NOTEBOOK = """
import sys, types
# What a notebook does: __main__ has no file, and every cell is compiled by itself.
main = types.ModuleType("__main__")
sys.modules["__main__"] = main
CELLS = [
    "import celery_actors as ray; ray.init()",
    "start = 5",
    '''
@ray.remote
class Counter:
    def __init__(self):
        self.value = start
    def increment(self):
        self.value += step()
        return self.value
''',
    "def step(): return 2",
    "counter = Counter.remote()",
    "print(ray.get(counter.increment.remote()))",
    "def step(): return 100",
    "print(ray.get(Counter.remote().increment.remote()))",
    "print(ray.get(counter.increment.remote()))",
]
for number, cell in enumerate(CELLS):
    exec(compile(cell, f"<ipython-input-{number}>", "exec"), main.__dict__)
"""


def test_in_the_script_that_is_run(run_script: RunScript) -> None:
    assert run_script(IN_MAIN).stdout.splitlines() == ["20", "30", "caught (10,)"]


def test_in_a_module_that_the_worker_cannot_import(run_script: RunScript, tmp_path: Path) -> None:
    (tmp_path / "remote_shop.py").write_text(SHOP)
    (tmp_path / "remote_prices.py").write_text("def price(value):\n    return 100 * value\n")
    done = run_script(BY_THE_DRIVERS_PATH, str(tmp_path))
    assert done.stdout.splitlines() == ["300", "True 6 5", "7"]


def test_in_a_module_that_is_gone_when_the_worker_wants_it(
    run_script: RunScript, tmp_path: Path
) -> None:
    folder = tmp_path / "short_lived"
    folder.mkdir()
    (folder / "remote_shop.py").write_text(SHOP)
    (folder / "remote_prices.py").write_text("def price(value):\n    return 100 * value\n")
    program = BY_THE_DRIVERS_PATH.replace(
        "ray.init()", "import shutil; shutil.rmtree(sys.argv[1]); ray.init()"
    )
    assert run_script(program, str(folder)).stdout.splitlines() == ["300", "True 6 5", "7"]


def test_in_a_module_whose_globals_do_not_pickle(run_script: RunScript, tmp_path: Path) -> None:
    (tmp_path / "locked.py").write_text(
        "import threading\n"
        "import celery_actors as ray\n"
        "LOCK = threading.Lock()\n"
        "@ray.remote\n"
        "class Locked:\n"
        "    def locked(self):\n"
        "        with LOCK:\n"
        "            return 'locked'\n"
    )
    done = run_script(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import celery_actors as ray\n"
        "from locked import Locked\n"
        "ray.init()\n"
        "print(ray.get(Locked.remote().locked.remote()))\n",
        str(tmp_path),
    )
    assert done.stdout == "locked\n"


def test_in_a_notebook(run_script: RunScript) -> None:
    done = run_script(NOTEBOOK)
    # A class is sent as it is at its first use; an actor keeps what it was made of.
    lines = done.stdout.split()
    assert lines[0] == "7"
    assert lines[1] in ("105", "7")
    assert lines[2] == "9"


def test_in_a_function() -> None:
    bonus = 3

    @ray.remote
    class Local:
        def add(self, value: int) -> int:
            return value + bonus

    assert ray.get(Local.remote().add.remote(1)) == 4


def test_lambdas_and_closures_as_tasks_and_arguments() -> None:
    def adder(by: int) -> Callable[[int], int]:
        return lambda value: value + by

    @ray.remote
    def apply(function: Callable[[int], int], value: int) -> Callable[[], int]:
        result = function(value)
        return lambda: result

    assert ray.get(ray.remote(lambda: 11).remote()) == 11
    assert ray.get(ray.remote(adder(2)).remote(3)) == 5
    assert ray.get(apply.remote(adder(4), 5))() == 9


def test_a_recursive_function_and_one_that_calls_another_task() -> None:
    @ray.remote
    def factorial(value: int) -> int:
        return 1 if value < 2 else value * ray.get(factorial.remote(value - 1))

    assert ray.get(factorial.remote(4)) == 24


def test_a_class_with_an_unpicklable_closure_names_it() -> None:
    lock = threading.Lock()

    @ray.remote
    class Closed:
        def locked(self) -> bool:
            return lock.locked()

    with pytest.raises(SerializationError, match=r"the definition of Closed.*closure lock"):
        Closed.remote()

"""A module of the user's is the same one everywhere: its classes, its members and its state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fixture_types import RunScript

pytestmark = pytest.mark.usefixtures("cluster")

SHOP = """
import dataclasses, enum, functools, threading
_lock = threading.Lock()  # nothing of the module could go by value
level = 0
class Kind(enum.Enum):
    A = 1
class Empty(Exception):
    pass
@dataclasses.dataclass
class Order:
    n: int
def check(order):
    with _lock:
        return isinstance(order, Order)
def set_level(n):
    global level
    level = n
def get_level():
    return level
def fail():
    raise Empty("nothing")
@functools.lru_cache
def token():
    return object()
"""

PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import celery_actors as ray
import shop_one
from shop_one import Kind, Order, get_level

@ray.remote
class Shop:
    def check(self, order):
        return shop_one.check(order)
    def give(self):
        return Order(3), Kind.A, Order, get_level
    def pass_on(self, other, order):
        return ray.get(other.check.remote(order)), ray.get(other.check.remote(Order(4)))
    def same(self, kind):
        return kind is shop_one.Kind.A, {Kind.A: 1}[kind]
    def level(self):
        import shop_one as again
        shop_one.set_level(5)
        return shop_one.level, get_level(), again.level, again is shop_one
    def token(self):
        return shop_one.token() is shop_one.token()
    def fail(self):
        shop_one.fail()
    def catch(self, other):
        try:
            ray.get(other.fail.remote())
        except shop_one.Empty:
            return True

@ray.remote
def check(order):
    import shop_one as inside
    return isinstance(order, inside.Order), inside.check(order)

def caught(ref):
    try:
        ray.get(ref)
    except shop_one.Empty as error:
        return isinstance(error, ray.exceptions.TaskError)

ray.init()
one, two = Shop.remote(), Shop.remote()
order, kind, order_class, function = ray.get(one.give.remote())
print(json.dumps({
    "argument": ray.get(one.check.remote(Order(1))),
    "argument of a task": ray.get(check.remote(Order(1))),
    "result": [shop_one.check(order), order == Order(3)],
    "enum": [kind is Kind.A, *ray.get(one.same.remote(Kind.A))],
    "class and function": [order_class is Order, function is get_level],
    "from actor to actor": ray.get(one.pass_on.remote(two, Order(1))),
    "stored": ray.get(ray.put([Kind.A]))[0] is Kind.A,
    "state": ray.get(one.level.remote()),
    "a state for each": ray.get(two.__ray_call__.remote(lambda self: shop_one.get_level())),
    "cache": ray.get(one.token.remote()),
    "raised": [caught(one.fail.remote()), caught(ray.remote(shop_one.fail).remote())],
    "raised to an actor": ray.get(one.catch.remote(two)),
}))
"""


def outcome(run_script: RunScript, program: str, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_script(program, *arguments).stdout)
    return found


def test_a_module_is_the_same_in_every_direction(run_script: RunScript, tmp_path: Path) -> None:
    (tmp_path / "shop_one.py").write_text(SHOP)
    assert outcome(run_script, PROGRAM, str(tmp_path)) == {
        "argument": True,
        "argument of a task": [True, True],
        "result": [True, True],
        "enum": [True, True, 1],
        "class and function": [True, True],
        "from actor to actor": [True, True],
        "stored": True,
        "state": [5, 5, 5, True],
        "a state for each": 0,
        "cache": True,
        "raised": [True, True],
        "raised to an actor": True,
    }


def test_classes_under_remote_in_a_module_of_the_users(
    run_script: RunScript, tmp_path: Path
) -> None:
    (tmp_path / "counters.py").write_text(
        "import celery_actors as ray\n"
        "made = []\n"
        "@ray.remote\n"
        "class Counter:\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        made.append(self)\n"
        "    def made(self):\n"
        "        import counters\n"
        "        return len(counters.made), counters.Counter.__wrapped__ is type(self)\n"
        "    def another(self):\n"
        "        return Counter.remote()\n"
        "@ray.remote\n"
        "def count():\n"
        "    return ray.get(Counter.remote().made.remote())\n"
    )
    program = (
        "import json, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import celery_actors as ray\n"
        "from counters import Counter, count\n"
        "ray.init()\n"
        "counter = Counter.remote()\n"
        "other = ray.get(counter.another.remote())\n"
        "made = [counter.made.remote(), other.made.remote(), count.remote()]\n"
        "print(json.dumps({'made': ray.get(made)}))\n"
    )
    assert outcome(run_script, program, str(tmp_path)) == {"made": [[1, True]] * 3}


def test_a_module_that_was_made_at_run_time(run_script: RunScript) -> None:
    program = (
        "import json, sys, types\n"
        "import celery_actors as ray\n"
        "made = types.ModuleType('made_at_run_time')\n"
        "exec('class Thing:\\n    n = 7\\ndef thing(): return Thing()', made.__dict__)\n"
        "sys.modules['made_at_run_time'] = made\n"
        "ray.init()\n"
        "@ray.remote\n"
        "def n(thing): return thing.n, made.thing().n\n"
        "print(json.dumps({'n': ray.get(n.remote(made.Thing()))}))\n"
    )
    assert outcome(run_script, program) == {"n": [7, 7]}


def test_the_main_module_of_a_package(run_script: RunScript, tmp_path: Path) -> None:
    package = tmp_path / "pack_m"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "prices.py").write_text("class Price:\n    n = 4\n")
    (package / "main.py").write_text(
        "import celery_actors as ray\n"
        "from . import prices\n"
        "class Local:\n"
        "    n = 3\n"
        "@ray.remote\n"
        "def both(local, price):\n"
        "    from .prices import Price\n"
        "    return type(local) is Local, type(price) is Price is prices.Price, type(local)\n"
        "if __name__ == '__main__':\n"
        "    ray.init()\n"
        "    first, second, kind = ray.get(both.remote(Local(), prices.Price()))\n"
        "    print(first, second, kind is Local)\n"
    )
    done = run_script(
        "import os, sys\n"
        "os.chdir(sys.argv[1])\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'pack_m.main'])\n",
        str(tmp_path),
    )
    assert done.stdout.split() == ["True", "True", "True"]


def test_a_module_comes_from_where_the_program_would_import_it(
    run_script: RunScript, tmp_path: Path
) -> None:
    """Directories before and after the interpreter's own keep their places."""
    for name in ("first", "last"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "numpy_helper.py").write_text(f"WHERE = '{name}'\n")
    # A module of the standard library that no process of ours has imported.
    (tmp_path / "last" / "wave.py").write_text("raise ImportError('not this one')\n")
    program = (
        "import json, sys\n"
        "sys.path.insert(0, sys.argv[1]); sys.path.append(sys.argv[2])\n"
        "import celery_actors as ray\n"
        "import numpy_helper\n"
        "ray.init()\n"
        "@ray.remote\n"
        "def where():\n"
        "    import wave\n"
        "    return numpy_helper.WHERE, hasattr(wave, 'Wave_read')\n"
        "print(json.dumps({'where': ray.get(where.remote())}))\n"
    )
    found = outcome(run_script, program, str(tmp_path / "first"), str(tmp_path / "last"))
    assert found == {"where": ["first", True]}


def test_packages_that_are_installed_anywhere_go_by_name(
    run_script: RunScript, tmp_path: Path
) -> None:
    """As with `pip --target`, `--user` or a `.pth` file."""
    (tmp_path / "target_one").mkdir()
    (tmp_path / "target_one" / "__init__.py").write_text("class Part:\n    pass\n")
    (tmp_path / "target_one-1.0.dist-info").mkdir()
    program = (
        "import json, sys\n"
        "sys.path.append(sys.argv[1])\n"
        "import celery_actors as ray\n"
        "from celery_actors import serialization\n"
        "from target_one import Part\n"
        "ray.init()\n"
        "@ray.remote\n"
        "def known(part):\n"
        "    import target_one\n"
        "    return type(part) is target_one.Part\n"
        "pickled = serialization.dumps([Part()], lambda: 'a part').frames[0]\n"
        "print(json.dumps({'bytes': len(pickled) < 100, 'known': ray.get(known.remote(Part()))}))\n"
    )
    assert outcome(run_script, program, str(tmp_path)) == {"bytes": True, "known": True}


def test_the_node_workers_own_directory_is_none_of_an_actors(run_script: RunScript) -> None:
    program = (
        "import json, os, sys\n"
        "import celery_actors as ray\n"
        "os.chdir('/')\n"
        "ray.init()\n"
        "@ray.remote\n"
        "def paths():\n"
        "    return os.getcwd(), sys.path\n"
        "here, paths = ray.get(paths.remote())\n"
        "print(json.dumps({'known': here in paths, 'empty': '' in paths}))\n"
    )
    assert outcome(run_script, program) == {"known": False, "empty": False}

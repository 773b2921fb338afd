"""init, shutdown, and programs that share a cluster."""

from __future__ import annotations

from conformance.case import case
from conformance.checks import raises, run_driver


@case("is_initialized() is true after init() and false after shutdown()")
def is_initialized(ray):
    assert ray.is_initialized() is True
    said = run_driver(
        ray,
        """
print(ray.is_initialized())
ray.init(log_to_driver=False)
print(ray.is_initialized())
ray.shutdown()
print(ray.is_initialized())
""",
    )
    assert said.split() == ["False", "True", "False"]


@case("A second init() raises RuntimeError")
def init_twice(ray):
    with raises(RuntimeError):
        ray.init()


@case("init(ignore_reinit_error=True) is no error, and changes nothing")
def ignore_reinit_error(ray):
    before = ray.get_runtime_context().get_job_id()
    ray.init(ignore_reinit_error=True)
    assert ray.get_runtime_context().get_job_id() == before


@case("shutdown() twice is no error")
def shutdown_twice(ray):
    said = run_driver(
        ray,
        """
ray.init(log_to_driver=False)
ray.shutdown()
ray.shutdown()
print("fine")
""",
    )
    assert said.split() == ["fine"]


@case("After shutdown() a program can init() again and go on")
def init_again(ray):
    said = run_driver(
        ray,
        """
@ray.remote
class Actor:
    def one(self):
        return 1

for _ in range(2):
    ray.init(log_to_driver=False)
    print(ray.get(Actor.remote().one.remote()))
    ray.shutdown()
""",
    )
    assert said.split() == ["1", "1"]


@case("The first call of a program that did not init() does it with the defaults")
def automatic_init(ray):
    said = run_driver(
        ray,
        """
@ray.remote
def one():
    return 1

ref = one.remote()
print(ray.is_initialized(), ray.get(ref))
""",
    )
    assert said.split() == ["True", "1"]


@case("Decorators and options need no init()")
def decorators_without_init(ray):
    said = run_driver(
        ray,
        """
@ray.remote(num_cpus=1)
class Actor:
    pass

Actor.options(num_cpus=2)
print(ray.is_initialized())
""",
    )
    assert said.split() == ["False"]


@case("Classes and functions of a program's __main__ work in its actors and tasks")
def main_module(ray):
    said = run_driver(
        ray,
        """
import collections
Pair = collections.namedtuple("Pair", "left right")

class Plain:
    def __init__(self, x):
        self.x = x

def double(x):
    return 2 * x

@ray.remote
class Actor:
    def work(self, plain):
        return Pair(plain.x, double(plain.x))

ray.init(log_to_driver=False)
pair = ray.get(Actor.remote().work.remote(Plain(3)))
print(type(pair) is Pair, pair.left, pair.right)
""",
    )
    assert said.split() == ["True", "3", "6"]


@case("A program's module beside it is found by its actors, as its own import finds it")
def module_beside(ray):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "cf_beside.py").write_text("VALUE = 11\n")
        said = run_driver(
            ray,
            f"""
import sys
sys.path.insert(0, {folder!r})
import cf_beside

@ray.remote
class Actor:
    def read(self):
        return cf_beside.VALUE

ray.init(runtime_env={{"env_vars": {{"PYTHONPATH": {folder!r}}}}}, log_to_driver=False)
print(ray.get(Actor.remote().read.remote()))
""",
        )
    assert said.split() == ["11"]


@case("Two programs on one cluster don't see each other's actors by default")
def programs_apart(ray):
    said = run_driver(
        ray,
        """
ray.init(log_to_driver=False)
print(ray.util.list_named_actors())
""",
    )
    assert said.split() == ["[]"]


@case("What an actor prints reaches the driver's output")
def log_to_driver(ray):
    said = run_driver(
        ray,
        """
import time

@ray.remote
class Talker:
    def talk(self):
        print("said by the actor", flush=True)

ray.init(log_to_driver=True)
talker = Talker.remote()
ray.get(talker.talk.remote())
time.sleep(2)
""",
        with_errors=True,
    )
    assert "said by the actor" in said


@case("The package has a version")
def version(ray):
    assert isinstance(ray.__version__, str)
    assert ray.__version__[0].isdigit()


@case("A ref of a session that has ended raises an error in get() and wait(), at once")
def ref_of_an_ended_session(ray):
    said = run_driver(
        ray,
        """
@ray.remote
def one():
    return 1
ray.init(log_to_driver=False)
ref = one.remote()
ray.get(ref)
ray.shutdown()
ray.init(log_to_driver=False)
for use in (lambda: ray.get(ref, timeout=10), lambda: ray.wait([ref], timeout=10)):
    try:
        use()
    except ValueError:
        print("ValueError")
print(ray.get(one.remote()))
""",
    )
    assert said.split() == ["ValueError", "ValueError", "1"]

"""Whatever user code raises, and wherever: the getter gets it, and the actor lives on."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_for_state, wait_until

import celery_actors as ray
from celery_actors.exceptions import (
    ActorDiedError,
    RayActorError,
    TaskCancelledError,
    TaskError,
    WorkerCrashedError,
)
from celery_actors.handle import actor_id_of

pytestmark = pytest.mark.usefixtures("cluster")

SECONDS = 60.0


class Stop(BaseException):
    pass


class RudeToPickle:
    def __reduce__(self) -> Any:
        raise Stop("in __reduce__")


class RudeToUnpickle:
    def __reduce__(self) -> Any:
        return _stop, ()


def _stop() -> None:
    raise Stop("in unpickling")


class RudeToIterate:
    def __iter__(self) -> Any:
        raise Stop("in __iter__")

    def __len__(self) -> int:
        raise Stop("in __len__")


class Hostile(Exception):
    def __getattr__(self, name: str) -> Any:
        raise Stop(f"in __getattr__ of {name}")

    def __str__(self) -> str:
        raise Stop("in __str__")

    def __repr__(self) -> str:
        raise Stop("in __repr__")

    def __reduce__(self) -> Any:
        raise Stop("in __reduce__")


RAISED: list[type[BaseException]] = [
    Stop,
    KeyboardInterrupt,
    GeneratorExit,
    asyncio.CancelledError,
    StopIteration,
    StopAsyncIteration,
    Hostile,
]


class Raising:
    def fail(self, kind: type[BaseException]) -> None:
        raise kind("x")

    def rude(self, kind: type) -> Any:
        return kind()

    def take(self, _value: Any) -> None:
        pass

    def count(self, kind: type[BaseException]) -> Any:
        yield 1
        raise kind("x")

    def ok(self) -> str:
        return "ok"


@ray.remote
class Serial(Raising):
    pass


@ray.remote(max_concurrency=2)
class Threaded(Raising):
    pass


@ray.remote
class OnLoop(Raising):
    async def fail_late(self, kind: type[BaseException]) -> None:
        await asyncio.sleep(0)
        raise kind("x")

    async def fail_beside(self, kind: type[BaseException]) -> None:
        await asyncio.gather(self.fail_late(kind), asyncio.sleep(0.01))

    async def get(self, refs: list[Any]) -> Any:
        return await refs[0]


KINDS: list[Any] = [Serial, Threaded, OnLoop]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=["serial", "threaded", "asyncio"])


def fails_with(ref: Any, text: str) -> TaskError:
    """Get a ref whose call raised; return the error."""
    with pytest.raises(TaskError, match=text) as caught:
        ray.get(ref, timeout=SECONDS)
    return caught.value


@each_kind
def test_any_exception_is_the_calls_result(kind: Any) -> None:
    actor = kind.remote()
    for raised in RAISED * 2:  # more often than a threaded actor has threads
        error = fails_with(actor.fail.remote(raised), raised.__name__)
        if raised not in (KeyboardInterrupt, Hostile):
            assert isinstance(error, raised)
    assert ray.get(actor.ok.remote(), timeout=SECONDS) == "ok"


@each_kind
def test_what_is_raised_around_the_call_is_its_result(kind: Any) -> None:
    actor = kind.remote()
    fails_with(actor.rude.remote(RudeToPickle), "in __reduce__")
    fails_with(actor.rude.options(num_returns=2).remote(RudeToIterate)[1], "in __iter__")
    fails_with(actor.take.remote(RudeToUnpickle()), "in unpickling")
    assert ray.get(actor.ok.remote(), timeout=SECONDS) == "ok"


@each_kind
def test_a_generators_exception_is_its_last_value(kind: Any) -> None:
    actor = kind.remote()
    for raised in (Stop, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, Hostile):
        stream = actor.count.options(num_returns="streaming").remote(raised)
        assert ray.get(next(stream), timeout=SECONDS) == 1
        fails_with(next(stream), raised.__name__)
    assert ray.get(actor.ok.remote(), timeout=SECONDS) == "ok"


@each_kind
def test_an_actor_that_raised_ends_when_nobody_holds_it(kind: Any) -> None:
    actor = kind.remote()
    fails_with(actor.fail.remote(Stop), "Stop")
    actor_id = actor_id_of(actor).hex()
    del actor
    wait_for_state(actor_id, "DEAD")


def test_a_coroutine_and_its_own_tasks_raise_anything() -> None:
    actor = OnLoop.remote()
    for raised in (Stop, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, Hostile):
        fails_with(actor.fail_late.remote(raised), raised.__name__)
    for raised in (Stop, KeyboardInterrupt):
        fails_with(actor.fail_beside.remote(raised), raised.__name__)
    assert ray.get(actor.ok.remote(), timeout=SECONDS) == "ok"


def test_awaiting_what_raised_raises() -> None:
    actor, awaiting = Serial.remote(), OnLoop.remote()
    for raised in RAISED:
        ref = actor.fail.remote(raised)
        fails_with(awaiting.get.remote([ref]), raised.__name__)
    assert ray.get(awaiting.ok.remote(), timeout=SECONDS) == "ok"


def test_a_task_that_raises_is_not_run_again(tmp_path: Path) -> None:
    @ray.remote
    def fail(kind: type[BaseException], log: str) -> None:
        with Path(log).open("a") as file:
            file.write("x")
        raise kind("x")

    for raised in (Stop, KeyboardInterrupt, GeneratorExit, StopIteration, Hostile):
        log = tmp_path / raised.__name__
        error = fails_with(fail.remote(raised, str(log)), raised.__name__)
        assert log.read_text() == "x"
        assert isinstance(error, TaskCancelledError) is (raised is KeyboardInterrupt)


def test_a_constructor_that_raises_is_not_tried_again(tmp_path: Path) -> None:
    @ray.remote(max_restarts=3)
    class Fails:
        def __init__(self, kind: type[BaseException], log: str) -> None:
            with Path(log).open("a") as file:
                file.write("x")
            raise kind("in init")

        def ok(self) -> None:
            pass

    for raised in (Stop, KeyboardInterrupt, asyncio.CancelledError, Hostile):
        log = tmp_path / raised.__name__
        with pytest.raises(ActorDiedError, match=raised.__name__):
            ray.get(Fails.remote(raised, str(log)).ok.remote(), timeout=SECONDS)
        assert log.read_text() == "x"


def test_a_shutdown_hook_that_raises_ends_the_actor() -> None:
    @ray.remote
    class Hooked:
        def __ray_shutdown__(self) -> None:
            raise Stop("in the hook")

    actor = Hooked.remote()
    assert ray.get(actor.__ray_ready__.remote(), timeout=SECONDS)
    actor_id = actor_id_of(actor).hex()
    del actor
    assert "no handle" in wait_for_state(actor_id, "DEAD").cause


# -- sys.exit() and exit_actor() ------------------------------------------------------


class Exiting:
    def bad(self, log: str) -> str:
        path = Path(log)
        path.write_text(path.read_text() + "x" if path.exists() else "x")
        if len(path.read_text()) < 3:
            raise SystemExit(7)
        return "done"

    def good(self) -> None:
        raise SystemExit

    def swallow(self) -> str:
        try:
            ray.actor.exit_actor()
        except BaseException:  # noqa: BLE001 - what this is about
            return "not an end"
        return ""

    def from_thread(self) -> str:
        thread = threading.Thread(target=self.swallow)
        thread.start()
        thread.join()
        return "told"

    def ok(self) -> str:
        return "ok"


@ray.remote(max_restarts=3, max_task_retries=3)
class SerialExits(Exiting):
    pass


@ray.remote(max_restarts=3, max_task_retries=3, max_concurrency=2)
class ThreadedExits(Exiting):
    pass


@ray.remote(max_restarts=3, max_task_retries=3)
class OnLoopExits(Exiting):
    async def nothing(self) -> None:
        pass


each_exit = pytest.mark.parametrize(
    "kind", [SerialExits, ThreadedExits, OnLoopExits], ids=["serial", "threaded", "asyncio"]
)


@each_exit
def test_sys_exit_with_a_status_is_a_crash(kind: Any, tmp_path: Path) -> None:
    actor = kind.remote()
    assert ray.get(actor.bad.remote(str(tmp_path / "log")), timeout=SECONDS) == "done"
    assert ray.get(actor.ok.remote(), timeout=SECONDS) == "ok"


@ray.remote(num_cpus=0)
class AnyStatus:
    def exit(self, status: int) -> None:
        raise SystemExit(status)

    def exit_at_once(self, status: int) -> None:
        os._exit(status)


@pytest.mark.parametrize("status", [1, 70, 71, 75, 76, 77])
def test_a_status_of_user_code_is_read_as_nothing_else(status: int) -> None:
    with pytest.raises(ActorDiedError) as caught:
        ray.get(AnyStatus.remote().exit_at_once.remote(status), timeout=SECONDS)
    cause = f"its process exited with status {status}"
    assert str(caught.value).count("its process") == 1
    assert cause in str(caught.value)
    assert "itself" not in str(caught.value)
    actor = AnyStatus.remote()
    with pytest.raises(ActorDiedError):
        ray.get(actor.exit.remote(status), timeout=SECONDS)
    assert wait_for_state(actor, "DEAD").cause == (
        f"{cause}: it called sys.exit({status}) in AnyStatus.exit"
    )


def test_a_task_that_exits_is_told_from_one_whose_process_does() -> None:
    @ray.remote(max_retries=0, num_cpus=0)
    def leave(at_once: bool) -> None:
        if at_once:
            os._exit(76)
        raise SystemExit

    with pytest.raises(WorkerCrashedError, match=r"called sys\.exit\(\) in .*leave"):
        ray.get(leave.remote(at_once=False), timeout=SECONDS)
    with pytest.raises(WorkerCrashedError, match=r"exited with status 76$"):
        ray.get(leave.remote(at_once=True), timeout=SECONDS)


@each_exit
@pytest.mark.parametrize("method", ["good", "swallow"])
def test_an_exit_that_is_meant_ends_the_actor(kind: Any, method: str) -> None:
    actor = kind.remote()
    with pytest.raises(RayActorError, match="exit"):
        ray.get(getattr(actor, method).remote(), timeout=SECONDS)
    assert wait_for_state(actor, "DEAD").restarts == 0
    with pytest.raises(ActorDiedError):
        ray.get(actor.ok.remote(), timeout=SECONDS)


@each_exit
def test_exit_actor_in_a_thread_of_the_actors_own_ends_it(kind: Any) -> None:
    actor = kind.remote()
    assert ray.get(actor.from_thread.remote(), timeout=SECONDS) == "told"
    assert wait_for_state(actor, "DEAD").restarts == 0


def test_exit_actor_in_a_constructor_ends_the_actor(tmp_path: Path) -> None:
    @ray.remote(max_restarts=2)
    class Leaves:
        def __init__(self, log: str, swallows: bool) -> None:
            with Path(log).open("a") as file:
                file.write("x")
            try:
                ray.actor.exit_actor()
            except SystemExit:
                if not swallows:
                    raise

        def ok(self) -> None:
            pass

    for swallows in (False, True):
        log = tmp_path / str(swallows)
        with pytest.raises(ActorDiedError, match="exit_actor"):
            ray.get(Leaves.remote(str(log), swallows).ok.remote(), timeout=SECONDS)
        assert log.read_text() == "x"


def test_a_task_that_exits_crashes_its_process(tmp_path: Path) -> None:
    @ray.remote(max_retries=1)
    def leave(status: int, log: str) -> None:
        with Path(log).open("a") as file:
            file.write("x")
        raise SystemExit(status)

    for status in (0, 3):
        log = tmp_path / str(status)
        with pytest.raises(WorkerCrashedError):
            ray.get(leave.remote(status, str(log)), timeout=SECONDS)
        assert log.read_text() == "xx"


def test_the_end_of_an_actor_is_an_interpreters(tmp_path: Path) -> None:
    @ray.remote
    class Leaves:
        def __init__(self, directory: str) -> None:
            import atexit
            import concurrent.futures
            import logging.handlers
            import tempfile
            import time
            import weakref

            self.directory = at = Path(directory)
            atexit.register((at / "atexit").touch)
            self.pool = concurrent.futures.ThreadPoolExecutor(1)
            self.pool.submit(lambda: (time.sleep(0.3), (at / "executor").touch()))
            threading.Thread(target=lambda: (time.sleep(0.3), (at / "thread").touch())).start()
            self.file = (at / "file").open("w")
            self.file.write("written")
            self.temporary = tempfile.TemporaryDirectory(dir=at, prefix="temporary")
            self.token = type("Token", (), {})()
            weakref.finalize(self.token, (at / "finalizer").touch)
            self.memory = logging.handlers.MemoryHandler(
                1000, target=logging.FileHandler(at / "log")
            )
            self.memory.emit(logging.makeLogRecord({"msg": "logged", "levelno": logging.INFO}))

        def __del__(self) -> None:
            (self.directory / "del").touch()

        def leave(self) -> None:
            ray.actor.exit_actor()

    for number, end in enumerate(("leave", "__ray_terminate__", "")):
        at = tmp_path / str(number)
        at.mkdir()
        actor = Leaves.remote(str(at))
        ray.get(actor.__ray_ready__.remote(), timeout=SECONDS)
        actor_id = actor_id_of(actor).hex()
        if end:
            getattr(actor, end).remote()
        del actor
        pid = wait_for_state(actor_id, "DEAD").pid
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "its process to be gone")
        made = {path.name for path in at.iterdir()}
        assert made >= {"atexit", "executor", "thread", "finalizer", "del"}
        assert (at / "file").read_text() == "written"
        assert (at / "log").read_text() == "logged\n"
        assert not [name for name in made if name.startswith("temporary")]

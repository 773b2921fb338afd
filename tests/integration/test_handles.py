"""Handles and lifetime: handles go anywhere, and an actor lives while one of them does."""

from __future__ import annotations

import copy
import gc
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import record_of, wait_for_state, wait_until, wait_until_alive

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.exceptions import ActorAlreadyExistsError, ActorDiedError, InsufficientResources
from celery_actors.handle import actor_id_of

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Log:
    """Writes what it is told to a file of its own."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def write(self, text: str) -> int:
        with self.path.open("a") as file:
            file.write(text + "\n")
        return os.getpid()

    def slowly(self, text: str, gate: str) -> None:
        while not Path(gate).exists():
            pass
        self.write(text)


@ray.remote
class Keeper:
    """Keeps what it is given."""

    def __init__(self, *kept: Any) -> None:
        self.kept: Any = list(kept)

    def keep(self, value: Any) -> None:
        self.kept.append(value)

    def use(self, text: str) -> int:
        pid: int = ray.get(self.kept[0].write.remote(text))
        return pid

    def give(self) -> Any:
        return self.kept[0]

    def drop(self) -> None:
        self.kept.clear()
        gc.collect()

    def exit(self) -> None:
        os._exit(5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def log(path: Path) -> Callable[[], Any]:
    """Makes the actor: a fixture's value would be a handle that pytest holds."""
    return lambda: Log.remote(str(path))


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def actor_hex(handle: Any) -> str:
    return actor_id_of(handle).hex()


# -- the end of an actor --------------------------------------------------------------------


def test_a_dropped_handle_ends_the_actor_after_all_calls_before(
    log: Callable[[], Any], path: Path, tmp_path: Path
) -> None:
    actor, gate = log(), tmp_path / "gate"
    actor_id = actor_hex(actor)
    actor.slowly.remote("0", str(gate))
    for number in range(1, 100):
        actor.write.remote(str(number))
    del actor
    gate.touch()
    record = wait_for_state(actor_id, "DEAD")
    assert record.cause == "no handle to it is left"
    assert lines(path) == [str(number) for number in range(100)]


def test_an_actor_that_is_never_called_ends_too(log: Callable[[], Any]) -> None:
    actor = log()
    actor_id = actor_hex(actor)
    wait_until_alive(actor)
    del actor
    wait_for_state(actor_id, "DEAD")


def test_a_result_can_be_got_after_the_handle_is_gone(log: Callable[[], Any]) -> None:
    ref = log().write.remote("x")
    assert ray.get(ref) > 0
    pid = ray.get(ref)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), f"the end of process {pid}")


def test_many_handles_in_one_process_are_one_hold(log: Callable[[], Any]) -> None:
    actor = log()
    actor_id = actor_hex(actor)
    wait_until_alive(actor)
    others = ray.get([ray.put(actor) for _ in range(5)])
    assert all(other == actor for other in others)
    assert len(require_process().holds) >= 1
    mine = {h for h in require_process().control.holds(actor_id) if "/p" in h}
    assert len(mine) == 1
    del others
    gc.collect()
    ray.get(actor.write.remote("still here"))
    del actor
    wait_for_state(actor_id, "DEAD")


def test_actors_that_were_not_made_keep_nobody_alive(log: Callable[[], Any]) -> None:
    made = Keeper.options(name="made").remote()
    actors = [log() for _ in range(4)]
    ids = [actor_hex(actor) for actor in actors]
    assert Keeper.options(name="made", get_if_exists=True).remote(actors[0]) == made
    with pytest.raises(ActorAlreadyExistsError):
        Keeper.options(name="made").remote(actors[1])
    with pytest.raises(InsufficientResources):
        Keeper.options(num_gpus=100).remote(actors[2])
    busy = Keeper.options(num_cpus=4).remote()
    wait_until_alive(busy)
    waiting = Keeper.options(num_cpus=4).remote(actors[3])
    assert record_of(waiting).state == "PENDING"
    ray.kill(waiting)
    actors.clear()
    del waiting
    for actor_id in ids:
        assert wait_for_state(actor_id, "DEAD").cause == "no handle to it is left"


# -- where handles go -------------------------------------------------------------------------


def test_into_a_task_after_the_driver_dropped_its_own(log: Callable[[], Any], path: Path) -> None:
    @ray.remote
    def use(handle: Any, nested: dict[str, Any]) -> bool:
        ray.get([handle.write.remote("a"), nested["handles"][0].write.remote("b")])
        return bool(handle == nested["handles"][0])

    actor = log()
    actor_id = actor_hex(actor)
    done = use.remote(actor, {"handles": [actor]})
    del actor
    assert ray.get(done) is True
    assert lines(path) == ["a", "b"]
    del done
    wait_for_state(actor_id, "DEAD")


def test_into_an_actor_that_keeps_it(log: Callable[[], Any], path: Path) -> None:
    keeper, actor = Keeper.remote(), log()
    actor_id = actor_hex(actor)
    keeper.keep.remote(actor)
    del actor
    gc.collect()
    pid = ray.get(keeper.use.remote("kept"))
    assert record_of(actor_id).state == "ALIVE"
    assert record_of(actor_id).pid == pid
    ray.get(keeper.drop.remote())
    wait_for_state(actor_id, "DEAD")
    assert lines(path) == ["kept"]


def test_into_a_constructor(log: Callable[[], Any], path: Path) -> None:
    actor = log()
    actor_id = actor_hex(actor)
    keeper = Keeper.remote(actor)
    del actor
    ray.get(keeper.use.remote("from the constructor"))
    del keeper
    wait_for_state(actor_id, "DEAD")


def test_out_of_a_task(path: Path) -> None:
    @ray.remote
    def make(where: str) -> Any:
        return Log.remote(where)

    actor = ray.get(make.remote(str(path)))
    actor_id = actor_hex(actor)
    ray.get(actor.write.remote("made in a task"))
    del actor
    wait_for_state(actor_id, "DEAD")


def test_out_of_a_method_and_nested(log: Callable[[], Any], path: Path) -> None:
    actor = log()
    actor_id = actor_hex(actor)
    keeper = Keeper.remote([{"actor": actor}])
    del actor
    back = ray.get(keeper.give.remote())[0]["actor"]
    del keeper
    ray.get(back.write.remote("out again"))
    del back
    wait_for_state(actor_id, "DEAD")
    assert lines(path) == ["out", "again"]


def test_put_and_got(log: Callable[[], Any]) -> None:
    actor = log()
    actor_id = actor_hex(actor)
    stored = ray.put({"actor": actor})
    del actor
    gc.collect()
    for _ in range(2):
        actor = ray.get(stored)["actor"]
        ray.get(actor.write.remote("x"))
        del actor
        gc.collect()
    assert record_of(actor_id).state == "ALIVE"
    del stored
    wait_for_state(actor_id, "DEAD")


def test_a_result_that_nobody_gets_keeps_nothing(log: Callable[[], Any]) -> None:
    actor = log()
    actor_id = actor_hex(actor)
    keeper = Keeper.remote(actor)
    del actor
    ref = keeper.give.remote()
    ray.wait([ref])
    ray.get(keeper.drop.remote())
    del ref
    wait_for_state(actor_id, "DEAD")


def test_from_a_task_to_another_task(log: Callable[[], Any], path: Path) -> None:
    @ray.remote
    def last(handle: Any) -> int:
        pid: int = ray.get(handle.write.remote("last"))
        return pid

    @ray.remote
    def first(handle: Any) -> list[Any]:
        return [last.remote(handle)]

    actor = log()
    actor_id = actor_hex(actor)
    ref = first.remote(actor)
    del actor
    (inner,) = ray.get(ref)
    ray.get(inner)
    assert lines(path) == ["last"]
    del ref, inner
    wait_for_state(actor_id, "DEAD")


def test_a_call_to_another_actor_carries_it(log: Callable[[], Any], path: Path) -> None:
    """The handle travels in a call that waits in a queue, with no other handle anywhere."""
    actor, keeper = log(), Keeper.remote()
    gate = path.with_name("gate")
    actor_id = actor_hex(actor)
    blocker = log().slowly.remote("gate", str(gate))
    keeper.keep.remote(actor)
    keeper.keep.remote(blocker)
    del actor
    gc.collect()
    gate.touch()
    ray.get(keeper.use.remote("carried"))
    ray.kill(keeper)
    wait_for_state(actor_id, "DEAD")


# -- weak handles, processes that die -------------------------------------------------------


def test_a_handle_to_itself_is_weak() -> None:
    @ray.remote
    class Selfish:
        def know(self, me: Any) -> None:
            self.me = me

        def call_myself(self) -> Any:
            return [self.me.value.remote()]

        def value(self) -> int:
            return 7

    actor = Selfish.remote()
    actor_id = actor_hex(actor)
    ray.get(actor.know.remote(actor))
    (ref,) = ray.get(actor.call_myself.remote())
    assert ray.get(ref) == 7
    del actor, ref
    wait_for_state(actor_id, "DEAD")


def test_the_holds_of_a_process_that_dies_go(log: Callable[[], Any]) -> None:
    actor, keeper = log(), Keeper.remote()
    actor_id = actor_hex(actor)
    ray.get(keeper.keep.remote(actor))
    del actor
    ray.get(keeper.use.remote("x"))
    keeper.exit.remote()
    wait_for_state(actor_id, "DEAD")


def test_a_handle_pickled_by_other_means_is_weak(
    log: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    actor = log()
    actor_id = actor_hex(actor)
    with caplog.at_level(logging.WARNING, logger="celery_actors"):
        weak = pickle.loads(pickle.dumps(actor))
    assert "weak handle" in caplog.text
    assert weak == actor
    ray.get(weak.write.remote("x"))
    del actor
    wait_for_state(actor_id, "DEAD")
    with pytest.raises(ActorDiedError, match="no handle to it is left"):
        ray.get(weak.write.remote("y"))


def test_a_copy_of_a_handle_in_this_process_keeps_the_actor(log: Callable[[], Any]) -> None:
    actor = log()
    actor_id = actor_hex(actor)
    box = copy.copy([actor])
    del actor
    gc.collect()
    ray.get(box[0].write.remote("x"))
    assert record_of(actor_id).state == "ALIVE"


def test_a_bound_method_keeps_the_actor(log: Callable[[], Any]) -> None:
    write = log().write
    gc.collect()
    assert ray.get(write.remote("a")) == ray.get(write.remote("b"))

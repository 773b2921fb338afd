"""A ref that another process has, of a call that fails: whoever asks is told, before and after."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_for_state, wait_until

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.exceptions import (
    ActorDiedError,
    ObjectLostError,
    OwnerDiedError,
    TaskCancelledError,
    WorkerCrashedError,
)
from celery_actors.ids import CALLER_BYTES

pytestmark = pytest.mark.usefixtures("cluster")

LIMIT = 60.0
"""Seconds: only a process that is never told runs into it."""


@ray.remote
class Worker:
    def __init__(self) -> None:
        self.mine: list[Any] = []

    def forever(self) -> None:
        time.sleep(1000)

    def ready(self) -> None:
        pass

    def pid(self) -> int:
        return os.getpid()

    def numbers(self) -> Any:
        yield 1
        time.sleep(1000)

    def call(self, other: Any) -> list[Any]:
        """Call another actor; the ref is this actor's, and its caller gets it in a list."""
        self.mine = [other.forever.remote()]
        return self.mine

    def late(self, path: str) -> list[Any]:
        """Call a task that waits for a file; the ref is this actor's."""
        self.mine = [name_when.remote(path)]
        return self.mine


@ray.remote
class Awaiter:
    async def outcome(self, refs: list[Any]) -> str:
        try:
            await asyncio.wait_for(asyncio.ensure_future(_await(refs[0])), LIMIT)
        except Exception as error:  # noqa: BLE001 - its class is what is asked for
            return type(error).__name__
        return "a value"


async def _await(ref: Any) -> Any:
    return await ref


@ray.remote(num_cpus=0)
def outcomes(refs: list[Any], began: str = "") -> dict[str, int]:
    """Get each of the refs that come inside a list; returns how often each error came."""
    if began:
        Path(began).touch()
    seen: Counter[str] = Counter()
    for ref in refs:
        try:
            ray.get(ref, timeout=LIMIT)
        except Exception as error:  # noqa: BLE001 - its class is what is asked for
            seen[type(error).__name__] += 1
        else:
            seen["a value"] += 1
    return dict(seen)


@ray.remote(num_cpus=0)
def count_ready(refs: list[Any], began: str) -> int:
    Path(began).touch()
    return len(ray.wait(refs, num_returns=len(refs), timeout=LIMIT)[0])


@ray.remote(num_cpus=0, max_retries=0)
def dies_when(path: str) -> None:
    sleep_until(path)
    os._exit(1)


@ray.remote(num_cpus=0)
def sleeps(began: str) -> None:
    Path(began).touch()
    time.sleep(1000)


@ray.remote(num_cpus=0)
def calls(actor: Any) -> list[Any]:
    return [actor.forever.remote()]


@ray.remote(num_cpus=0)
def passes_on(refs: list[Any]) -> str:
    """Give a ref to a task of its own as an argument."""
    try:
        ray.get(takes.remote(refs[0]), timeout=LIMIT)
    except Exception as error:  # noqa: BLE001 - its class is what is asked for
        return type(error).__name__
    return "a value"


@ray.remote(num_cpus=0)
def takes(value: Any) -> Any:
    return value


@ray.remote(num_cpus=0)
def cancels(refs: list[Any], force: bool) -> None:
    ray.cancel(refs[0], force=force)


def is_stored(oid: bytes) -> bool:
    return require_process().results.fetch([oid])[0] is not None


def told_before_and_after(ref: Any, fail: Callable[[], object], path: Path) -> set[str]:
    """Fail a call while a task waits for it; returns what that task and a later one got."""
    began = path / "waits"
    waiting = outcomes.remote([ref], str(began))
    wait_until(began.exists, "the task that waits")
    assert ray.wait([waiting], timeout=0.3)[0] == []
    fail()
    before = ray.get(waiting, timeout=2 * LIMIT)
    after = ray.get(outcomes.remote([ref]), timeout=2 * LIMIT)
    return {*before, *after}


def test_a_task_whose_process_died(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ref = dies_when.remote(str(gate))
    assert told_before_and_after(ref, gate.touch, tmp_path) == {"WorkerCrashedError"}


def test_a_call_of_an_actor_that_was_killed(tmp_path: Path) -> None:
    actor = Worker.remote()
    ref = actor.forever.remote()
    assert told_before_and_after(ref, lambda: ray.kill(actor), tmp_path) == {"ActorDiedError"}


def test_a_task_that_was_cancelled_by_force(tmp_path: Path) -> None:
    began = tmp_path / "began"
    ref = sleeps.remote(str(began))
    wait_until(began.exists, "the task")
    told = told_before_and_after(ref, lambda: ray.cancel(ref, force=True), tmp_path)
    assert told == {"WorkerCrashedError"}
    with pytest.raises(WorkerCrashedError, match="force=True"):
        ray.get(ref, timeout=LIMIT)


def test_a_task_that_was_cancelled_before_it_had_a_process(tmp_path: Path) -> None:
    hogs = [takes.options(num_cpus=4).remote(sleep_cpus.remote(str(tmp_path / "gate")))]
    queued = takes.options(num_cpus=4).remote(hogs[0])
    told = told_before_and_after(queued, lambda: ray.cancel(queued), tmp_path)
    (tmp_path / "gate").touch()
    assert told == {"TaskCancelledError"}


@ray.remote(num_cpus=0)
def sleep_cpus(path: str) -> None:
    sleep_until(path)


def test_a_ref_that_leaves_after_its_call_has_failed() -> None:
    actor = Worker.remote()
    ray.get(actor.ready.remote())
    refs = [actor.forever.remote(), actor.forever.remote()]
    ray.kill(actor)
    with pytest.raises(ActorDiedError):
        ray.get(refs[0], timeout=LIMIT)
    refs.append(actor.ready.remote())  # it never leaves this process
    assert ray.get(outcomes.remote(refs), timeout=2 * LIMIT) == {"ActorDiedError": 3}


def test_of_refs_that_never_left_nothing_is_written_and_the_others_are_released() -> None:
    actor = Worker.remote()
    kept = [actor.forever.remote() for _ in range(20)]
    shared = [actor.forever.remote() for _ in range(1000)]
    waiting = outcomes.remote(shared)
    ray.kill(actor)
    assert ray.get(waiting, timeout=2 * LIMIT) == {"ActorDiedError": 1000}
    assert not any(is_stored(ref.binary()) for ref in kept)
    stored = [ref.binary() for ref in shared]
    assert all(map(is_stored, stored))
    del shared, waiting
    wait_until(lambda: not any(map(is_stored, stored)), "the release of the errors")


def test_wait_and_await_and_arguments(tmp_path: Path) -> None:
    actor, awaiter = Worker.remote(), Awaiter.remote()
    refs = [actor.forever.remote() for _ in range(3)]
    began = tmp_path / "began"
    counted, awaited = count_ready.remote(refs, str(began)), awaiter.outcome.remote(refs)
    passed = passes_on.remote(refs)
    wait_until(began.exists, "the task that waits")
    ray.kill(actor)
    assert ray.get(counted, timeout=2 * LIMIT) == 3
    assert ray.get(awaited, timeout=2 * LIMIT) == "ActorDiedError"
    assert ray.get(passed, timeout=2 * LIMIT) != "a value"
    assert ray.get(awaiter.outcome.remote(refs), timeout=2 * LIMIT) == "ActorDiedError"


def test_refs_of_a_generator() -> None:
    actor = Worker.remote()
    generator = actor.numbers.remote()
    first = next(generator)
    waiting = outcomes.remote([first, generator.completed()])
    ray.kill(actor)
    assert ray.get(waiting, timeout=2 * LIMIT) == {"a value": 1, "ActorDiedError": 1}
    failed = next(generator)
    assert ray.get(outcomes.remote([failed]), timeout=2 * LIMIT) == {"ActorDiedError": 1}


def test_the_owner_is_a_task_that_is_over() -> None:
    actor = Worker.remote()
    ref = ray.get(calls.remote(actor))[0]
    # Its executor has nothing more to do for longer than it is kept without tasks.
    assert ray.wait([ref], timeout=2.5)[0] == []
    ray.kill(actor)
    with pytest.raises(ActorDiedError):
        ray.get(ref, timeout=LIMIT)
    assert ray.get(outcomes.remote([ref]), timeout=2 * LIMIT) == {"ActorDiedError": 1}


@ray.remote(num_cpus=0)
def makes() -> list[Any]:
    """Return refs that this task owns, one of them inside a value."""
    return [ray.put("made"), takes.remote("called"), ray.put([ray.put("inside"), Worker.remote()])]


def test_objects_outlive_the_task_that_made_them(tmp_path: Path) -> None:
    made, called, nested = ray.get(makes.remote())
    owner = made.hex()[:16]
    control = require_process().control
    wait_until(lambda: not control.caller_alive(owner), "the end of the task's process")
    assert ray.get([made, called], timeout=LIMIT) == ["made", "called"]
    inside, worker = ray.get(nested, timeout=LIMIT)
    assert ray.get(inside, timeout=LIMIT) == "inside"
    ray.get(worker.ready.remote(), timeout=LIMIT)
    stored = [ref.binary() for ref in (made, called, nested, inside)]
    del made, called, nested, inside
    wait_until(lambda: not any(map(is_stored, stored)), "the release by the last that had a ref")
    weak = ray.ActorHandle(worker._celery_actor, worker._celery_description, None)
    del worker
    wait_for_state(weak, "DEAD")


@ray.remote
class Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def get(self) -> str:
        return self.name


@ray.remote(num_cpus=0)
def creates(refs: list[Any]) -> Any:
    return Named.remote(refs[0])


@ray.remote
class Creator:
    def create(self, refs: list[Any]) -> list[Any]:
        self.mine = Named.remote(refs[0])
        return [self.mine]


@ray.remote(num_cpus=0)
def name_when(path: str) -> str:
    sleep_until(path)
    return "late"


def sleep_until(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


def test_an_actor_whose_creator_is_over_before_its_arguments_come(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    named = ray.get(creates.remote([name_when.remote(str(gate))]))
    called = named.get.remote()
    # Its creator's executor has nothing to do for longer than it is kept without tasks.
    assert ray.wait([called], timeout=2.5)[0] == []
    gate.touch()
    assert ray.get(called, timeout=LIMIT) == "late"


def test_an_actor_whose_creator_was_killed_before_its_arguments_came(tmp_path: Path) -> None:
    creator, gate = Creator.remote(), tmp_path / "gate"
    named = ray.get(creator.create.remote([name_when.remote(str(gate))]))[0]
    called = named.get.remote()
    ray.kill(creator)
    with pytest.raises(ActorDiedError, match="its creator ended"):
        ray.get(called, timeout=LIMIT)
    gate.touch()


def test_who_waits_for_longer_than_results_are_kept_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among those who wait for a value a place is kept no longer than a value is."""
    process, kept, gate = require_process(), 1.5, tmp_path / "gate"
    monkeypatch.setattr(process, "settings", replace(process.settings, result_ttl=kept))
    monkeypatch.setattr(process.results, "ttl_ms", int(1000 * kept))
    monkeypatch.setattr(process.housekeeping, "_extend_due", 0.0)
    owner = Worker.remote()
    ref = ray.get(owner.late.remote(str(gate)))[0]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ray.get, ref, timeout=LIMIT)
        place = process.results.waiters(ref.binary()[:CALLER_BYTES])
        wait_until(lambda: process.redis.hlen(place), "the place of who waits")
        time.sleep(2 * kept)
        gate.touch()
        assert waiting.result() == "late"


def test_the_owner_was_killed() -> None:
    owner, actor = Worker.remote(), Worker.remote()
    ref = ray.get(owner.call.remote(actor))[0]
    waiting = outcomes.remote([ref])
    ray.kill(owner)
    assert ray.get(waiting, timeout=2 * LIMIT) == {"OwnerDiedError": 1}
    with pytest.raises(OwnerDiedError):
        ray.get(ref, timeout=LIMIT)


def test_an_object_that_is_gone_is_an_error_at_once() -> None:
    ref = ray.put("gone")
    text = ref.hex()
    del ref
    wait_until(lambda: not is_stored(bytes.fromhex(text)), "the release")

    @ray.remote(num_cpus=0)
    def asks() -> str:
        try:
            ray.get(ray.ObjectRef.from_hex(text), timeout=LIMIT)
        except ObjectLostError as error:
            return str(error)
        return "no error"

    assert "no longer stored" in ray.get(asks.remote(), timeout=2 * LIMIT)


@pytest.mark.parametrize("force", [False, True])
def test_who_borrowed_a_ref_cancels(tmp_path: Path, force: bool) -> None:
    began = tmp_path / "began"
    ref = sleeps.remote(str(began))
    wait_until(began.exists, "the task")
    ray.get(cancels.remote([ref], force))
    with pytest.raises(WorkerCrashedError if force else TaskCancelledError):
        ray.get(ref, timeout=LIMIT)


def test_force_of_an_actors_call_by_who_borrowed_it_leaves_the_actor_alive() -> None:
    awaiter, worker = Awaiter.remote(), Worker.remote()
    ref = awaiter.outcome.remote([worker.forever.remote()])
    ray.get(cancels.remote([ref], True))
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=LIMIT)
    assert ray.get(awaiter.outcome.remote([ray.put(1)]), timeout=LIMIT) == "a value"


def test_a_forked_child_is_told_of_what_it_inherited() -> None:
    actor = Worker.remote()
    ray.get(actor.ready.remote())
    ref = actor.forever.remote()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ray.get(ref, timeout=LIMIT)
        except BaseException as error:  # noqa: BLE001 - the parent looks at it
            caller = require_process().caller.hex()
            os.write(writing, f"{type(error).__name__} {caller}".encode())
        os._exit(0)
    ray.kill(actor)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told, caller = pipe.read().decode().split()
    assert told == "ActorDiedError"
    require_process().control.end_caller(caller)  # at once, not when its lease has ended

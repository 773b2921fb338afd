"""Actors that run several calls at a time: asyncio, threads, concurrency groups."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.exceptions import ActorDiedError, TaskError
from celery_actors.protocol.cursors import Cursor

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Signals:
    """An asyncio actor: calls wait for others."""

    async def __init__(self, log: str | None = None) -> None:  # type: ignore[misc]
        self.loop = asyncio.get_running_loop()
        self.events: dict[str, asyncio.Event] = {}
        self.running = 0
        self.most = 0
        self.log = log

    def _event(self, name: str) -> asyncio.Event:
        return self.events.setdefault(name, asyncio.Event())

    async def wait(self, name: str = "one") -> str:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._event(name).wait()
        finally:
            self.running -= 1
        return name

    async def set(self, name: str = "one") -> None:
        self._event(name).set()

    def seen(self) -> tuple[int, int, bool]:
        return self.running, self.most, asyncio.get_running_loop() is self.loop

    async def double(self, value: int) -> int:
        await asyncio.sleep(0)
        return 2 * value

    async def twice(self, other: Any, value: int) -> int:
        return int(await other.double.remote(value))

    async def fail(self) -> None:
        raise KeyError("not here")

    async def __ray_shutdown__(self) -> None:
        if self.log is not None:
            Path(self.log).write_text("shut down")


@ray.remote
class Meeting:
    """A threaded actor: three calls meet."""

    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties)
        self.gate = threading.Event()

    def meet(self) -> int:
        self.barrier.wait(20)
        return threading.get_ident()

    def wait(self) -> str:
        assert self.gate.wait(20)
        return "waited"

    def open(self) -> None:
        self.gate.set()


@ray.remote(concurrency_groups={"io": 1, "compute": 2})
class Grouped:
    def __init__(self) -> None:
        self.gate = threading.Event()
        self.order: list[int] = []

    @ray.method(concurrency_group="io")
    def wait(self) -> str:
        assert self.gate.wait(20)
        return "waited"

    @ray.method(concurrency_group="compute")
    def open(self) -> str:
        self.gate.set()
        return threading.current_thread().name

    def note(self, number: int) -> None:
        self.order.append(number)

    def noted(self) -> list[int]:
        return self.order


def test_a_thousand_calls_are_in_flight_and_a_plain_method_runs_on_the_loop() -> None:
    actor = Signals.remote()
    waiting = [actor.wait.remote() for _ in range(999)]
    wait_until(lambda: ray.get(actor.seen.remote())[0] == 999, "all calls to run")
    assert ray.get(actor.seen.remote()) == (999, 999, True)
    actor.set.remote()
    assert ray.get(waiting) == ["one"] * 999


def test_max_concurrency_bounds_an_asyncio_actor() -> None:
    actor = Signals.options(max_concurrency=3).remote()
    waiting = [actor.wait.remote(name) for name in ("a", "b")]
    others = [actor.double.remote(i) for i in range(10)]
    assert ray.get(others) == [2 * i for i in range(10)]
    more = [actor.wait.remote("c"), actor.double.remote(5)]
    ready, rest = ray.wait(more, num_returns=1, timeout=0.3)
    assert (ready, rest) == ([], more)  # a, b and c fill it
    ray.kill(actor)
    with pytest.raises(ActorDiedError):
        ray.get(waiting)


def test_finished_calls_are_resolved_behind_one_that_runs_on() -> None:
    actor = Signals.remote()
    first = actor.wait.remote()
    process = require_process()
    # More than the window of unresolved calls: the caller would be held back.
    for _ in range(30):
        assert ray.get([actor.double.remote(i) for i in range(100)]) == list(range(0, 200, 2))
    box = process.outboxes[actor._celery_actor]
    wait_until(lambda: len(box.unresolved) == 1, "all but the first to be resolved")
    stored: Any = process.redis.hget(
        process.results.cursors(actor._celery_actor), process.caller.hex()
    )
    cursor = Cursor.parse(stored)
    assert cursor.unfinished == tuple(box.unresolved)
    actor.set.remote()
    assert ray.get(first) == "one"
    wait_until(lambda: not box.unresolved, "nothing to be unresolved")


def test_actors_await_each_other() -> None:
    one, two = Signals.remote(), Signals.remote()
    assert ray.get([one.twice.remote(two, i) for i in range(50)]) == list(range(0, 100, 2))


def test_awaiting_refs_in_the_driver() -> None:
    actor = Signals.remote()

    async def main() -> list[int]:
        return list(await asyncio.gather(*(actor.double.remote(i) for i in range(20))))

    assert asyncio.run(main()) == list(range(0, 40, 2))


def test_an_exception_of_a_coroutine_is_its_callers() -> None:
    actor = Signals.remote()
    with pytest.raises(KeyError, match="not here") as raised:
        ray.get(actor.fail.remote())
    assert isinstance(raised.value, TaskError)
    assert ray.get(actor.double.remote(1)) == 2


def test_an_asyncio_actor_runs_what_was_submitted_and_shuts_down(tmp_path: Path) -> None:
    log = tmp_path / "log"
    actor = Signals.remote(str(log))
    refs = [actor.double.remote(i) for i in range(100)]
    del actor
    assert ray.get(refs) == list(range(0, 200, 2))
    wait_until(log.exists, "the hook to run")
    assert log.read_text() == "shut down"


def test_threads_run_calls_at_the_same_time() -> None:
    actor = Meeting.options(max_concurrency=3).remote(3)
    threads = ray.get([actor.meet.remote() for _ in range(3)], timeout=30)
    assert len(set(threads)) == 3


def test_a_threaded_actor_ends_after_what_was_submitted() -> None:
    actor = Meeting.options(max_concurrency=2).remote(1)
    waiting = [actor.wait.remote(), actor.wait.remote()]  # all threads are taken
    later = [actor.meet.remote() for _ in range(20)]
    handle_id = actor._celery_actor
    assert ray.wait(waiting + later, timeout=0.2)[0] == []
    ray.kill(actor)
    with pytest.raises(ActorDiedError):
        ray.get(waiting)
    second = Meeting.options(max_concurrency=2).remote(1)
    refs = [second.meet.remote() for _ in range(200)]
    del second
    assert len(ray.get(refs)) == 200
    assert handle_id


def test_a_blocked_group_holds_back_no_other() -> None:
    actor = Grouped.remote()
    blocked = [actor.wait.remote() for _ in range(3)]
    for number in range(50):
        actor.note.remote(number)
    assert ray.get(actor.noted.remote()) == list(range(50))  # the default group: one at a time
    assert "compute" in ray.get(actor.open.remote())
    assert ray.get(blocked) == ["waited"] * 3


def test_the_group_of_a_call_goes_before_that_of_its_method() -> None:
    actor = Grouped.remote()
    assert "-io-" in ray.get(actor.open.options(concurrency_group="io").remote())
    with pytest.raises(ValueError, match="no concurrency group 'disk': it has compute, io"):
        actor.open.options(concurrency_group="disk")


def test_an_unknown_group_of_a_method_is_refused() -> None:
    @ray.remote
    class Wrong:
        @ray.method(concurrency_group="nowhere")
        def run(self) -> None: ...

    with pytest.raises(ValueError, match="no concurrency group 'nowhere': it has none"):
        Wrong.remote()


def test_a_concurrent_actor_calls_itself() -> None:
    @ray.remote
    class Sums:
        async def down(self, me: Any, number: int) -> int:
            return 0 if number == 0 else number + int(await me.down.remote(me, number - 1))

    actor = Sums.remote()
    assert ray.get(actor.down.remote(actor, 50), timeout=30) == 1275


def test_calls_begin_in_the_order_of_their_submission() -> None:
    @ray.remote
    class Order:
        def __init__(self) -> None:
            self.begun: list[int] = []

        async def begin(self, number: int) -> None:
            self.begun.append(number)
            await asyncio.sleep(0.001 * (number % 3))

        def all(self) -> list[int]:
            return self.begun

    actor = Order.remote()
    ray.get([actor.begin.remote(i) for i in range(500)])
    assert ray.get(actor.all.remote()) == list(range(500))


def test_the_loop_goes_on_while_a_call_sleeps() -> None:
    @ray.remote
    class Sleeper:
        async def sleep(self) -> float:
            await asyncio.sleep(0.05)
            return time.monotonic()

    actor = Sleeper.remote()
    ends = ray.get([actor.sleep.remote() for _ in range(100)])
    assert max(ends) - min(ends) < 100 * 0.05 / 2  # one after another it would be 5 s

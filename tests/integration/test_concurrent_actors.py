"""Actors that run several calls at a time: asyncio, threads, concurrency groups."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_for_state, wait_until

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.exceptions import (
    ActorDiedError,
    PendingCallsLimitExceeded,
    TaskCancelledError,
    TaskError,
)
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
        self.barrier.wait(60)
        return threading.get_ident()

    def wait(self) -> str:
        assert self.gate.wait(60)
        return "waited"

    def open(self) -> None:
        self.gate.set()


@ray.remote(concurrency_groups={"io": 2, "health": 2})
class Loops:
    """An asyncio actor whose groups block their threads."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.blocks = False

    def _where(self) -> tuple[int, int]:
        return threading.get_ident(), id(asyncio.get_running_loop())

    async def block(self) -> str:
        assert self.gate.wait(60)
        return "default"

    @ray.method(concurrency_group="io")
    async def block_io(self) -> str:
        assert self.gate.wait(60)
        return "io"

    @ray.method(concurrency_group="health")
    def open(self) -> None:
        self.gate.set()

    async def block_shortly(self) -> str:
        threading.Timer(0.5, self.gate.set).start()
        self.blocks = True
        return await self.block()

    @ray.method(concurrency_group="health")
    def is_blocked(self) -> bool:
        return self.blocks

    async def where(self) -> tuple[int, int]:
        return self._where()

    @ray.method(concurrency_group="io")
    def where_io(self) -> tuple[int, int]:
        return self._where()

    @ray.method(concurrency_group="io")
    async def sleep(self) -> None:
        await asyncio.sleep(60)

    @ray.method(concurrency_group="io")
    async def name(self) -> tuple[str, str]:
        before = ray.get_runtime_context().get_task_id()
        await asyncio.sleep(0.01)
        return before, ray.get_runtime_context().get_task_id()

    @ray.method(concurrency_group="io")
    async def count(self) -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(0)
            yield number

    @ray.method(concurrency_group="io")
    async def exit(self) -> None:
        ray.actor.exit_actor()

    @ray.method(concurrency_group="health")
    async def call(self, me: Any) -> str:
        await me.open.remote()
        return "called itself"


@ray.remote(concurrency_groups={"io": 1, "compute": 2})
class Grouped:
    def __init__(self) -> None:
        self.gate = threading.Event()
        self.order: list[int] = []

    @ray.method(concurrency_group="io")
    def wait(self) -> str:
        assert self.gate.wait(60)
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
    wait_until(lambda: log.exists() and log.read_text() == "shut down", "the hook to have run")


def test_threads_run_calls_at_the_same_time() -> None:
    actor = Meeting.options(max_concurrency=3).remote(3)
    threads = ray.get([actor.meet.remote() for _ in range(3)], timeout=60)
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
    assert ray.get(actor.down.remote(actor, 50), timeout=60) == 1275


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
        def __init__(self) -> None:
            self.asleep = 0

        async def sleep_until(self, asleep: int) -> None:
            """One after another, none would see the others begin."""
            self.asleep += 1
            while self.asleep < asleep:
                await asyncio.sleep(0.05)

    actor = Sleeper.remote()
    ray.get([actor.sleep_until.remote(100) for _ in range(100)], timeout=60)


# -- a loop for each group ------------------------------------------------------------------


def test_groups_of_an_asyncio_actor_have_loops_and_threads_of_their_own() -> None:
    actor = Loops.remote()
    (default, default_loop), (io, io_loop) = ray.get(
        [actor.where.remote(), actor.where_io.remote()]
    )
    assert default != io
    assert default_loop != io_loop
    assert ray.get(actor.where_io.remote()) == (io, io_loop)
    assert ray.get(actor.where.options(concurrency_group="io").remote()) == (io, io_loop)


def test_a_group_that_blocks_its_thread_holds_up_no_other() -> None:
    actor = Loops.remote()
    blocked = [actor.block.remote(), actor.block_io.remote()]
    behind = [actor.where.remote(), actor.where_io.remote()]
    assert ray.wait(blocked + behind, timeout=0.3)[0] == []
    ray.get(actor.open.remote(), timeout=60)
    assert ray.get(blocked, timeout=60) == ["default", "io"]
    assert len(ray.get(behind, timeout=60)) == 2


def test_calls_of_a_group_s_loop_know_their_own_context_and_stream() -> None:
    actor = Loops.remote()
    refs = [actor.name.remote() for _ in range(10)]
    for before, after in ray.get(refs):
        assert before == after
    assert len({before for before, _ in ray.get(refs)}) == 10
    assert [ray.get(ref) for ref in actor.count.remote()] == [0, 1, 2]


def test_a_call_of_a_group_s_loop_is_cancelled() -> None:
    actor = Loops.remote()
    sleeping = [actor.sleep.remote(), actor.sleep.remote()]
    waiting = actor.where_io.remote()  # the group is full
    assert ray.wait([*sleeping, waiting], timeout=0.3)[0] == []
    ray.cancel(sleeping[0])
    with pytest.raises(TaskCancelledError):
        ray.get(sleeping[0], timeout=60)
    assert len(ray.get(waiting, timeout=60)) == 2


def test_an_actor_with_several_loops_ends_when_its_calls_are_done() -> None:
    actor = Loops.remote()
    blocked = [actor.block.remote(), actor.block_io.remote()]
    calling = actor.call.remote(actor)
    actor_id = actor._celery_actor.hex()
    del actor
    assert ray.get([*blocked, calling], timeout=60) == ["default", "io", "called itself"]
    wait_for_state(actor_id, "DEAD")


def test_an_actor_with_several_loops_ends_itself() -> None:
    actor = Loops.remote()
    blocked = actor.block_shortly.remote()
    wait_until(lambda: ray.get(actor.is_blocked.remote()), "the default group to be blocked")
    over = actor.exit.remote()
    with pytest.raises(ActorDiedError):
        ray.get(over, timeout=60)
    assert ray.get(blocked, timeout=60) == "default", "what runs ends first"
    with pytest.raises(ActorDiedError):
        ray.get(actor.where.remote(), timeout=60)


# -- arguments that are late ----------------------------------------------------------------


@ray.remote(num_cpus=0)
class Gate:
    """Gives its values out when told so."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def value(self, value: Any) -> Any:
        await self.event.wait()
        if isinstance(value, Exception):
            raise value
        return value

    async def open(self) -> None:
        self.event.set()


class Echo:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def echo(self, value: Any, _other: Any = None) -> Any:
        self.seen.append(value)
        return value

    def all(self) -> list[Any]:
        return self.seen

    def ask(self, other: Any, number: int) -> Any:
        return ray.get(other[0].echo.remote(number))

    def wait(self, event: Any = None) -> None:
        time.sleep(60)


class AsyncEcho(Echo):
    async def own(self) -> None: ...


concurrent = pytest.mark.parametrize(
    ("kind", "options"), [(Echo, {"max_concurrency": 2}), (AsyncEcho, {})]
)


@concurrent
def test_a_late_argument_holds_back_no_later_call(kind: type, options: dict[str, Any]) -> None:
    gate, actor = Gate.remote(), ray.remote(kind).options(**options).remote()
    late = actor.echo.remote(gate.value.remote("late"))
    later = actor.echo.remote(late)  # also one that waits for that
    assert ray.get([actor.echo.remote(number) for number in range(3)], timeout=60) == [0, 1, 2]
    assert ray.wait([late, later], timeout=0.1)[0] == []
    gate.open.remote()
    assert ray.get([late, later], timeout=60) == ["late", "late"]
    assert sorted(map(str, ray.get(actor.all.remote()))) == ["0", "1", "2", "late", "late"]


def test_a_serial_actor_keeps_the_order_behind_a_late_argument() -> None:
    gate, actor = Gate.remote(), ray.remote(Echo).remote()
    late = [actor.echo.remote(gate.value.remote("late")), actor.echo.remote(1)]
    assert ray.wait(late, timeout=0.3)[0] == []
    gate.open.remote()
    ray.get(late, timeout=60)
    assert ray.get(actor.all.remote()) == ["late", 1]


@concurrent
def test_a_call_with_a_late_argument_keeps_its_actor(kind: type, options: dict[str, Any]) -> None:
    gate, actor = Gate.remote(), ray.remote(kind).options(**options).remote()
    late = actor.echo.remote(gate.value.remote("late"))
    actor_id = actor._celery_actor.hex()
    del actor
    ray.get([Gate.remote().open.remote() for _ in range(2)])  # the release would be sent by now
    gate.open.remote()
    assert ray.get(late, timeout=60) == "late"
    wait_for_state(actor_id, "DEAD")


@concurrent
def test_a_handle_beside_a_late_argument_arrives(kind: type, options: dict[str, Any]) -> None:
    gate, actor = Gate.remote(), ray.remote(kind).options(**options).remote()
    inside = ray.remote(Echo).remote()
    asked = actor.ask.remote([inside], gate.value.remote(5))
    del inside
    gate.open.remote()
    assert ray.get(asked, timeout=60) == 5


@concurrent
def test_a_late_argument_that_fails(kind: type, options: dict[str, Any]) -> None:
    gate, actor = Gate.remote(), ray.remote(kind).options(**options).remote()
    late = actor.echo.remote(gate.value.remote(KeyError("none")))
    gate.open.remote()
    with pytest.raises(KeyError, match="none"):
        ray.get(late, timeout=60)
    assert ray.get(actor.all.remote()) == []


@concurrent
def test_a_call_with_a_late_argument_is_cancelled(kind: type, options: dict[str, Any]) -> None:
    gate, actor = Gate.remote(), ray.remote(kind).options(**options).remote()
    late = actor.echo.remote(gate.value.remote("late"))
    ray.cancel(late)
    with pytest.raises(TaskCancelledError):
        ray.get(late, timeout=60)
    gate.open.remote()
    assert ray.get(actor.echo.remote(1), timeout=60) == 1
    assert ray.get(actor.all.remote()) == [1]


def test_a_call_that_was_late_is_cancelled_while_it_runs() -> None:
    @ray.remote
    class Sleeper:
        async def sleep(self, event: Any) -> None:
            await asyncio.sleep(60)

    gate, actor = Gate.remote(), Sleeper.remote()
    late = actor.sleep.remote(gate.value.remote("late"))
    ray.get(gate.open.remote())
    wait_until(
        lambda: not require_process().outboxes[actor._celery_actor].late, "the call to be sent"
    )
    ray.cancel(late)
    with pytest.raises(TaskCancelledError):
        ray.get(late, timeout=60)


@concurrent
def test_a_call_with_a_late_argument_fails_with_its_actor(
    kind: type, options: dict[str, Any]
) -> None:
    gate, actor = Gate.remote(), ray.remote(kind).options(**options).remote()
    late = actor.echo.remote(gate.value.remote("late"))
    ray.get(actor.all.remote())
    ray.kill(actor)
    gate.open.remote()
    with pytest.raises(ActorDiedError):
        ray.get(late, timeout=60)


def test_calls_with_late_arguments_count_as_pending() -> None:
    gate = Gate.remote()
    actor = ray.remote(Echo).options(max_concurrency=2, max_pending_calls=2).remote()
    late = [actor.echo.remote(gate.value.remote(number)) for number in range(2)]
    with pytest.raises(PendingCallsLimitExceeded, match="2 calls"):
        actor.echo.remote(2)
    gate.open.remote()
    assert ray.get(late, timeout=60) == [0, 1]

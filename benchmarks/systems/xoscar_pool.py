"""xoscar: actors in processes of one pool, over sockets of their own; its API is asyncio's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version
from typing import Any

import xoscar

from systems.base import WAIT_SECONDS, Call, Peer, expect_rising

PROCESSES = 8  # four callers and four actors, each in one


class Counter(xoscar.Actor):
    """A counter; an actor of xoscar may have plain and asyncio methods."""

    def __init__(self) -> None:
        self.value = 0

    def increment(self) -> int:
        """Count."""
        self.value += 1
        return self.value

    def echo(self, value: Any) -> Any:
        """Return what came."""
        return value


class AsyncCounter(xoscar.Actor):
    """The same with a coroutine."""

    def __init__(self) -> None:
        self.value = 0

    async def increment(self) -> int:
        """Count."""
        self.value += 1
        return self.value


class Caller(xoscar.Actor):
    """Calls counters from a process of its own."""

    async def drive(self, actors: list[Any], count: int) -> int:
        """Make ``count`` calls at once, to each actor in turn."""
        n = len(actors)
        values = await asyncio.gather(*[actors[i % n].increment() for i in range(count)])
        for index in range(n):
            expect_rising(values[index::n], "a caller's calls")
        return len(values)


CLASSES = {"counter": Counter, "async_counter": AsyncCounter, "caller": Caller}


class Xoscar(Peer):
    """A pool whose main process is this one."""

    workloads = (
        "sync",
        "pipelined",
        "eight_kb",
        "one_to_four",
        "four_to_one",
        "four_to_four",
        "async_actor",
    )

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pool: Any = None
        self._created = 0

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(coroutine, WAIT_SECONDS))

    def start(self) -> None:
        """Start the pool's processes."""

        async def begin() -> Any:
            return await xoscar.create_actor_pool("127.0.0.1:0", n_process=PROCESSES)

        self._pool = self._run(begin())

    def create(self, kind: str = "counter") -> Any:
        """Create an actor in the pool's next process."""
        strategy = xoscar.allocate_strategy.ProcessIndex(1 + self._created % PROCESSES)
        self._created += 1
        return self._run(
            xoscar.create_actor(
                CLASSES[kind],
                address=self._pool.external_address,
                allocate_strategy=strategy,
            )
        )

    def one_by_one(
        self, target: Any, method: str, arguments: Callable[[int], tuple[Any, ...]], seconds: float
    ) -> tuple[list[Any], list[float]]:
        """Await one call after another, in one coroutine."""
        values: list[Any] = []
        latencies: list[float] = []
        clock = time.perf_counter

        async def go() -> None:
            begun = before = clock()
            while before - begun < seconds:
                values.append(await getattr(target, method)(*arguments(len(values))))
                now = clock()
                latencies.append(now - before)
                before = now

        self._run(go())
        return values, latencies

    def burst(self, calls: Sequence[Call]) -> list[Any]:
        """Await all calls at once."""

        async def go() -> list[Any]:
            return await asyncio.gather(*[getattr(to, method)(*args) for to, method, args in calls])

        values: list[Any] = self._run(go())
        return values

    def announce(self) -> dict[str, Any]:
        """Return the version."""
        return {"version": version("xoscar")}

    def stop(self) -> None:
        """End the pool."""
        if self._pool is not None:
            self._run(self._pool.stop())
        self._loop.close()

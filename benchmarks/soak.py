"""Mixed work for a long time, and what is left of it each time when all of it is over.

    python benchmarks/soak.py [--minutes 30] [--seed 1]

One round does a bit of everything: actors that are born and end in every way (their handle is
dropped, they are killed, their process is killed, they exit, they raise in their constructor),
tasks inside tasks, arrays through shared memory, streams that are read whole or in part, errors,
cancelled calls, asyncio and threaded actors, named actors, pools.  Every result is checked.  After
each round the program waits until no actor is left and samples everything that could grow:
processes, zombies, descriptors, threads, memory, keys, queues, files.  The status is 1 where
something grows, a result is wrong, a round's actors do not end, or a log tells of an error of
this package.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import re
import signal
import sys
import time
from collections import Counter as Counts
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis
from broker_node import queues_and_exchanges
from cluster_processes import cluster_processes, leftovers, log_problems
from counter_loop import MB, Series, summarise, table_of, write
from rich.console import Console

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.util import ActorPool
from celery_actors.util.queue import Queue
from celery_actors.util.state import list_actors

# What RabbitMQ says of processes that were killed, which is what this program does.
_KILLED = re.compile(r"closing AMQP connection|client unexpectedly closed")
# What this package says of its own faults.
_OWN_FAULT = re.compile(r"an error in the background thread|an error of celery_actors itself")
WAIT_SECONDS = 120.0
REST_SECONDS = 60.0
LASTING = ("driver", "guardian", "supervisord", "node worker", "fork server", "RabbitMQ", "Redis")


class Boom(Exception):
    """What the failing calls raise."""


@ray.remote(num_cpus=0)
class Cell:
    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, number: int) -> int:
        self.value += number
        return self.value

    def echo(self, value: Any) -> Any:
        return value

    def total(self, array: Any) -> int:
        return int(array.sum())

    def array(self, size: int) -> Any:
        return np.ones(size, dtype=np.uint8)

    def boom(self) -> None:
        raise Boom("as it was told to")

    def count_to(self, number: int) -> Iterator[int]:
        yield from range(number)

    def pid(self) -> int:
        return os.getpid()

    def sleep(self) -> None:
        time.sleep(WAIT_SECONDS)

    def leave(self) -> None:
        ray.actor.exit_actor()


@ray.remote(num_cpus=0)
class Broken:
    def __init__(self) -> None:
        raise Boom("no such actor")

    def call(self) -> None: ...


@ray.remote(num_cpus=0)
class Loop:
    async def echo(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    async def count_to(self, number: int) -> Any:
        for value in range(number):
            yield value


@ray.remote
def successor(number: int) -> int:
    return number + 1


@ray.remote
def tree(depth: int) -> int:
    if not depth:
        return 1
    return sum(ray.get([tree.remote(depth - 1) for _ in range(2)]))


@ray.remote
def fails() -> None:
    raise Boom("a task")


@ray.remote
def counts(number: int) -> Iterator[int]:
    yield from range(number)


@ray.remote
def sleeps() -> None:
    time.sleep(WAIT_SECONDS)


def expect(found: Any, wanted: Any) -> None:
    """Raise where a result isn't the right one."""
    if found != wanted:
        raise RuntimeError(f"got {found!r:.200}, expected {wanted!r:.200}")


def get(refs: Any) -> Any:
    return ray.get(refs, timeout=WAIT_SECONDS)


def raises(kind: type[BaseException] | tuple[type[BaseException], ...], ref: Any) -> None:
    """Get what must raise."""
    try:
        value = get(ref)
    except kind:
        return
    raise RuntimeError(f"got {value!r:.200} where it should have raised {kind}")


class Mix:
    """The kinds of work; each may be done at any time, any number of times."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.done: Counts[str] = Counts()
        self._number = 0

    def round(self) -> None:
        """Do every kind of work once, in a random order."""
        kinds: list[Callable[[], None]] = [
            self.dropped, self.killed, self.process_killed, self.restarted, self.exits,
            self.constructor_fails, self.tasks, self.nested, self.arrays, self.streams,
            self.errors, self.cancelled, self.loops, self.threads, self.named, self.pools,
        ]  # fmt: skip
        self.random.shuffle(kinds)
        for kind in kinds:
            kind()
            self.done[kind.__name__] += 1

    def dropped(self) -> None:
        cells = [Cell.remote(n) for n in range(4)]
        expect(get([c.add.remote(1) for c in cells for _ in range(25)])[24::25], [25, 26, 27, 28])

    def killed(self) -> None:
        cell = Cell.remote()
        expect(get(cell.add.remote(1)), 1)
        waiting = cell.sleep.remote()
        ray.kill(cell)
        raises(ray.exceptions.RayActorError, waiting)

    def process_killed(self) -> None:
        cell = Cell.remote()
        os.kill(get(cell.pid.remote()), signal.SIGKILL)
        raises(ray.exceptions.RayActorError, cell.add.remote(1))

    def restarted(self) -> None:
        cell = Cell.options(max_restarts=1, max_task_retries=1).remote(7)
        expect(get(cell.add.remote(1)), 8)
        os.kill(get(cell.pid.remote()), signal.SIGKILL)
        expect(get(cell.add.remote(1)), 8)

    def exits(self) -> None:
        cell = Cell.remote()
        raises(ray.exceptions.RayActorError, cell.leave.remote())

    def constructor_fails(self) -> None:
        raises(ray.exceptions.RayActorError, Broken.remote().call.remote())

    def tasks(self) -> None:
        expect(get([successor.remote(n) for n in range(300)]), list(range(1, 301)))

    def nested(self) -> None:
        expect(get(tree.remote(3)), 8)

    def arrays(self) -> None:
        cell, size = Cell.remote(), self.random.choice((10_000, 200_000, 4_000_000))
        ref = ray.put(np.ones(size, dtype=np.uint8))
        expect(get([cell.total.remote(ref), cell.total.remote(get(ref))]), [size, size])
        for _ in range(3):
            expect(len(get(cell.array.remote(size))), size)
        expect(get(Cell.remote().total.remote(cell.array.remote(size))), size)

    def streams(self) -> None:
        cell, loop = Cell.remote(), Loop.remote()
        for made in (
            cell.count_to.options(num_returns="streaming"),
            loop.count_to.options(num_returns="streaming"),
            counts.options(num_returns="streaming"),
        ):
            expect([get(ref) for ref in made.remote(20)], list(range(20)))
            expect(get(next(made.remote(200))), 0)  # the rest is dropped

    def errors(self) -> None:
        cell = Cell.remote()
        for _ in range(5):
            raises(Boom, cell.boom.remote())
            raises(Boom, fails.remote())

    def cancelled(self) -> None:
        refs = [sleeps.options(num_cpus=0).remote() for _ in range(2)]
        time.sleep(self.random.random() / 5)  # any moment of its life
        ray.cancel(refs[0])
        ray.cancel(refs[1], force=True)
        for ref in refs:
            raises((ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError), ref)

    def loops(self) -> None:
        loop = Loop.remote()
        expect(get([loop.echo.remote(n) for n in range(100)]), list(range(100)))

    def threads(self) -> None:
        cell = Cell.options(max_concurrency=4).remote()
        expect(sorted(get([cell.echo.remote(n) for n in range(50)])), list(range(50)))

    def named(self) -> None:
        self._number += 1
        name = f"cell {self._number}"
        keeper = Cell.options(name=name, lifetime="detached").remote(5)
        expect(get(ray.get_actor(name).add.remote(1)), 6)
        ray.kill(keeper)

    def pools(self) -> None:
        pool = ActorPool([Cell.remote() for _ in range(2)])
        expect(list(pool.map(lambda cell, n: cell.echo.remote(n), range(20))), list(range(20)))
        queue = Queue()
        queue.put_nowait_batch(list(range(10)))
        expect(queue.get_nowait_batch(10), list(range(10)))
        queue.shutdown(force=True)


class Samples:
    """What could grow, sampled while nothing is under way."""

    def __init__(self, session_dir: str) -> None:
        self._session = Path(session_dir)
        self._client = redis.Redis.from_url(require_process().settings.result_backend)
        self._began = time.monotonic()
        self.series: dict[str, Series] = {}

    def take(self) -> None:
        """Sample everything once."""
        processes = cluster_processes(str(self._session))
        zombies = 0
        kinds: Counts[str] = Counts()
        for one in processes:
            with SuppressGone():
                if one.process.status() == psutil.STATUS_ZOMBIE:
                    zombies += 1
                    continue
                kinds[one.kind] += 1
                if one.kind in LASTING:
                    self._process(one.kind, one.process)
        self._add("processes", "", sum(kinds.values()))
        self._add("zombies", "", zombies)
        self._add("Redis, used_memory", "MB", self._client.info("memory")["used_memory"] / MB)
        keyspace = self._client.info("keyspace").get("db0", {"keys": 0, "expires": 0})
        self._add("Redis, keys that stay", "", keyspace["keys"] - keyspace["expires"])
        # Records of dead actors are kept for ten minutes: as many as this program has made in them.
        self._add("Redis, keys that expire", "", keyspace["expires"], limited=False)
        queues, exchanges = queues_and_exchanges(self._session)
        self._add("queues", "", len(queues))
        self._add("exchanges", "", len(exchanges))
        self._add("files in shared memory", "", _files(Path("/dev/shm") / self._session.name))
        process = require_process()
        with process.lock:
            self._add("driver, objects", "", len(process.objects.entries))
            self._add("driver, outboxes", "", len(process.outboxes))

    def _process(self, kind: str, process: psutil.Process) -> None:
        self._add(f"{kind}, RSS", "MB", process.memory_info().rss / MB)
        self._add(f"{kind}, descriptors", "", process.num_fds())
        self._add(f"{kind}, threads", "", process.num_threads())

    def _add(self, name: str, unit: str, value: float, limited: bool = True) -> None:
        one = self.series.setdefault(name, Series(name, unit, limited))
        one.add(time.monotonic() - self._began, value)


class SuppressGone:
    """A process that ended while it was looked at is no longer of interest."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        return kind is not None and issubclass(kind, psutil.NoSuchProcess)


def _files(directory: Path) -> int:
    return sum(path.is_file() for path in directory.rglob("*")) if directory.exists() else 0


def rest() -> list[str]:
    """Wait until no actor or executor is left; returns those that are."""
    gc.collect()
    deadline = time.monotonic() + REST_SECONDS
    while True:
        executors = require_process().executors.statistics()
        left = [
            f"{actor.class_name} {actor.actor_id} is {actor.state}"
            for actor in list_actors(limit=1000)
            if actor.state != "DEAD"
        ]
        if executors["leases"] or executors["requested"]:
            left.append(f"executors: {executors}")
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)  # bounded polling of what other processes do


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 130)
    session = ray.init("local", num_cpus=4, log_to_driver=False)
    assert session.session_dir is not None
    mix, samples, left = Mix(options.seed), Samples(session.session_dir), []
    ends = time.monotonic() + options.minutes * 60
    rounds = 0
    while time.monotonic() < ends and not left:
        mix.round()
        rounds += 1
        left = rest()
        samples.take()
    problems = [line for line in log_problems(session.session_dir) if not _KILLED.search(line)]
    ray.shutdown()
    left += leftovers(session.session_dir)
    return report(console, options, rounds, samples, mix, left, problems)


def report(
    console: Console,
    options: argparse.Namespace,
    rounds: int,
    samples: Samples,
    mix: Mix,
    left: list[str],
    problems: list[str],
) -> int:
    """Print and write what was found; returns the status."""
    # Records of dead actors live for ten minutes: until then their number rises.
    warm_up = options.minutes * 60 * 0.4
    rows = [summarise(one, warm_up) for one in samples.series.values()]
    console.print(table_of(rows, warm_up, f"{rounds} rounds of mixed work, seed {options.seed}"))
    flat = all(row.flat for row in rows if row.flat is not None)
    faults = [problem for problem in problems if _OWN_FAULT.search(problem)]
    zombies = max(samples.series["zombies"].values)
    console.print(f"done: {dict(mix.done)}")
    console.print(f"flat: {'yes' if flat else 'NO'}; most zombies at a time: {zombies:g}")
    console.print(f"left: {left or 'nothing'}")
    for problem in problems:
        console.print(f"log: {problem}", highlight=False, markup=False)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    summary = {
        "when": stamp, "minutes": options.minutes, "seed": options.seed, "rounds": rounds,
        "done": mix.done, "flat": flat, "rows": [asdict(row) for row in rows],
        "series": [asdict(one) for one in samples.series.values()], "left": left, "log": problems,
    }  # fmt: skip
    write(f"soak-{stamp}", summary)
    return 0 if flat and not left and not zombies and not faults else 1


if __name__ == "__main__":
    sys.exit(main())

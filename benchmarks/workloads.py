"""The workloads, the same for every peer.

Runs with the interpreter of the peer's own virtual environment, so it needs nothing but the
standard library and the peer.  Prints one JSON object a line:

    {"workload": "sync", "value": 1234.5, "unit": "calls/s", "samples": [...], "details": {...}}

A result is printed only when every value that came back was right.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

HERE = Path(__file__).resolve().parent
CPUS = 2
SETTLE_SECONDS = 1.0
WAIT_SECONDS = 60.0


class WrongResultError(Exception):
    """A peer returned something else than the workload computes."""


@dataclass(frozen=True)
class Amount:
    """How much of everything is measured."""

    next_actors: int = 10
    many_actors: int = 30
    seconds: float = 2.0
    in_flight: int = 1000
    warm_up: int = 200


QUICK = Amount(next_actors=3, seconds=0.5, warm_up=50)


@dataclass
class Measured:
    """One result: ``value`` is what is compared, ``samples`` is what it comes from."""

    value: float
    unit: str
    samples: list[float] = field(default_factory=list)
    details: dict[str, float] = field(default_factory=dict)


class Peer(Protocol):
    """What a workload asks of the system under test.  Actors count up, from 1."""

    workloads: tuple[str, ...]

    def start(self) -> None: ...
    def create(self) -> Any: ...
    def call(self, actor: Any) -> Any: ...
    def call_task(self, number: int) -> Any: ...
    def get(self, ref: Any) -> Any: ...
    def get_all(self, refs: list[Any]) -> list[Any]: ...
    def announce(self) -> dict[str, Any]: ...
    def stop(self) -> None: ...


class RayLike:
    """Ray and this package: they have the same API."""

    workloads: tuple[str, ...] = (
        "init",
        "first_actor",
        "next_actor",
        "many_actors",
        "sync",
        "pipelined",
        "tasks_sync",
    )

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self._class: Any = None
        self._task: Any = None

    def start(self) -> None:
        self._initialise()

        class Counter:
            def __init__(self) -> None:
                self.value = 0

            def increment(self) -> int:
                self.value += 1
                return self.value

        def successor(number: int) -> int:
            return number + 1

        self._class = self.ray.remote(num_cpus=0)(Counter)
        self._task = self.ray.remote(successor)

    def _initialise(self) -> None:
        raise NotImplementedError

    def create(self) -> Any:
        return self._class.remote()

    def call(self, actor: Any) -> Any:
        return actor.increment.remote()

    def call_task(self, number: int) -> Any:
        return self._task.remote(number)

    def get(self, ref: Any) -> Any:
        return self.ray.get(ref, timeout=WAIT_SECONDS)

    def get_all(self, refs: list[Any]) -> list[Any]:
        values: list[Any] = self.ray.get(refs, timeout=WAIT_SECONDS)
        return values

    def announce(self) -> dict[str, Any]:
        return {"version": self.ray.__version__}

    def stop(self) -> None:
        self.ray.shutdown()


class Ours(RayLike):
    """This package, on a private cluster of its own."""

    def __init__(self) -> None:
        import celery_actors

        super().__init__(celery_actors)
        self._session_dir = ""

    def _initialise(self) -> None:
        info = self.ray.init("local", num_cpus=CPUS)
        self._session_dir = info.session_dir

    def announce(self) -> dict[str, Any]:
        """Beside the version, where stock Celery finds the same brokers."""
        from celery_actors.client.current import require_process

        settings = require_process().settings
        return {
            **super().announce(),
            "session_dir": self._session_dir,
            "brokers": {
                "CELERY_BROKER_URL": settings.broker_url,
                "CELERY_RESULT_BACKEND": settings.result_backend,
            },
        }


class Ray(RayLike):
    """Ray, without its dashboard."""

    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray

        super().__init__(ray)
        # A short path of our own: Ray leaves its session's files where they are.
        self._directory = tempfile.mkdtemp(prefix="bench-ray-")

    def _initialise(self) -> None:
        self.ray.init(num_cpus=CPUS, include_dashboard=False, _temp_dir=self._directory)

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self._directory, ignore_errors=True)


class StockCelery:
    """One solo worker with a counter in its memory; what Celery has instead of an actor."""

    workloads: tuple[str, ...] = ("sync", "pipelined")

    def __init__(self) -> None:
        import stock_celery

        self._app = stock_celery.app
        self._increment = stock_celery.increment
        self._worker: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["-m", "celery", "-A", "stock_celery", "worker", "--pool", "solo"]
        self._worker = subprocess.Popen(
            [sys.executable, *command, "--loglevel", "WARNING", "--hostname", "bench-stock@%h"],
            cwd=HERE,
            stdin=subprocess.DEVNULL,
        )

    def create(self) -> Any:
        return self._increment

    def call(self, actor: Any) -> Any:
        return actor.delay()

    def call_task(self, number: int) -> Any:
        raise NotImplementedError

    def get(self, ref: Any) -> Any:
        return ref.get(timeout=WAIT_SECONDS)

    def get_all(self, refs: list[Any]) -> list[Any]:
        return [ref.get(timeout=WAIT_SECONDS) for ref in refs]

    def announce(self) -> dict[str, Any]:
        import celery

        return {"version": celery.__version__}

    def stop(self) -> None:
        self._app.close()
        if self._worker is not None:
            self._worker.terminate()
            try:
                self._worker.wait(10)
            except subprocess.TimeoutExpired:
                self._worker.kill()
                self._worker.wait()


PEERS: dict[str, Callable[[], Peer]] = {"ours": Ours, "ray": Ray, "celery": StockCelery}


# -- the workloads ---------------------------------------------------------------------------


def expect(found: Any, wanted: Any, what: str) -> None:
    if found != wanted:
        raise WrongResultError(f"{what}: got {found!r:.200}, expected {wanted!r:.200}")


def make_one(peer: Peer) -> tuple[Any, float]:
    """Create an actor; returns it and the seconds until its first call's result was here."""
    begun = time.perf_counter()
    actor = peer.create()
    value = peer.get(peer.call(actor))
    seconds = time.perf_counter() - begun
    expect(value, 1, "the first call of a new actor")
    return actor, seconds


def measure_next_actor(peer: Peer, amount: Amount) -> Measured:
    kept, samples = [], []
    for _ in range(amount.next_actors):
        actor, seconds = make_one(peer)
        kept.append(actor)
        samples.append(seconds)
    return Measured(statistics.median(samples), "s", samples)


def measure_many_actors(peer: Peer, amount: Amount) -> Measured:
    begun = time.perf_counter()
    actors = [peer.create() for _ in range(amount.many_actors)]
    values = peer.get_all([peer.call(actor) for actor in actors])
    seconds = time.perf_counter() - begun
    expect(values, [1] * len(actors), "the first call of each of many actors")
    details = {"actors": len(actors), "actors_per_second": len(actors) / seconds}
    return Measured(seconds, "s", [seconds], details)


def measure_one_by_one(call: Callable[[int], int], amount: Amount, first: int) -> Measured:
    """Call, wait for the result, call again; ``call(n)`` must return n + 1."""
    for number in range(first, first + amount.warm_up):
        expect(call(number), number + 1, "a call")
    number = first + amount.warm_up
    latencies: list[float] = []
    begun = before = time.perf_counter()
    while before - begun < amount.seconds:
        value = call(number)
        now = time.perf_counter()
        latencies.append(now - before)
        before = now
        number += 1
        expect(value, number, "a call")
    latencies.sort()
    details = {
        "calls": len(latencies),
        "p50_us": latencies[len(latencies) // 2] * 1e6,
        "p99_us": latencies[int(len(latencies) * 0.99)] * 1e6,
    }
    rate = len(latencies) / (before - begun)
    return Measured(rate, "calls/s", [rate], details)


def measure_sync(peer: Peer, amount: Amount, actor: Any) -> Measured:
    first = peer.get(peer.call(actor))
    return measure_one_by_one(lambda _: int(peer.get(peer.call(actor))), amount, first)


def measure_tasks_sync(peer: Peer, amount: Amount) -> Measured:
    return measure_one_by_one(lambda number: int(peer.get(peer.call_task(number))), amount, 0)


def measure_pipelined(peer: Peer, amount: Amount, actor: Any) -> Measured:
    """Submit a window of calls, then get all of their results; at least three windows."""
    value = peer.get(peer.call(actor))
    rates: list[float] = []
    spent = 0.0
    for window in range(1000):
        begun = time.perf_counter()
        values = peer.get_all([peer.call(actor) for _ in range(amount.in_flight)])
        seconds = time.perf_counter() - begun
        wanted = list(range(value + 1, value + 1 + amount.in_flight))
        if values != wanted:
            wrong = next(
                i for i, pair in enumerate(zip(values, wanted, strict=True)) if len(set(pair)) > 1
            )
            raise WrongResultError(
                f"result {wrong} of a window: {values[wrong]}, not {wanted[wrong]}"
            )
        value = values[-1]
        if window == 0:  # a warm-up
            continue
        rates.append(amount.in_flight / seconds)
        spent += seconds
        if len(rates) >= 3 and spent >= amount.seconds:
            break
    rate = amount.in_flight * len(rates) / spent
    return Measured(rate, "calls/s", rates, {"windows": len(rates), "in_flight": amount.in_flight})


def run(peer: Peer, wanted: Sequence[str], amount: Amount, emit: Callable[[Any], None]) -> None:
    """Run the wanted workloads in an order in which none disturbs the next."""

    def report(name: str, result: Measured) -> None:
        if name in wanted:
            emit({"workload": name, **vars(result)})

    begun = time.perf_counter()
    peer.start()
    started = time.perf_counter() - begun
    if "init" in peer.workloads:
        report("init", Measured(started, "s", [started]))
    if "first_actor" in peer.workloads:
        actor, first = make_one(peer)
        report("first_actor", Measured(first, "s", [first]))
    else:
        actor = peer.create()
        peer.get(peer.call(actor))  # until the worker is up
    steps: list[tuple[str, Callable[[], Measured]]] = [
        ("sync", lambda: measure_sync(peer, amount, actor)),
        ("pipelined", lambda: measure_pipelined(peer, amount, actor)),
        ("tasks_sync", lambda: measure_tasks_sync(peer, amount)),
        ("next_actor", lambda: measure_next_actor(peer, amount)),
        ("many_actors", lambda: measure_many_actors(peer, amount)),
    ]
    for name, measure in steps:
        if name in wanted and name in peer.workloads:
            report(name, measure())
            time.sleep(SETTLE_SECONDS)  # actors whose handles are gone end meanwhile


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=sorted(PEERS), required=True)
    parser.add_argument("--workloads", required=True, help="names, separated by commas")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--hold", action="store_true", help="stay up until standard input ends")
    options = parser.parse_args()

    # What peers and their actors print must not come between our lines.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def emit(line: Any) -> None:
        lines.write(json.dumps(line) + "\n")

    peer = PEERS[options.peer]()
    amount = QUICK if options.quick else Amount()
    try:
        run(peer, options.workloads.split(","), amount, emit)
        emit({"announce": peer.announce()})
        if options.hold:
            sys.stdin.read()
    finally:
        peer.stop()
    emit({"stopped": True})
    return 0


if __name__ == "__main__":
    sys.exit(main())

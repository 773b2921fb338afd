"""How each series of ``growth.py`` is measured, point by point, in a cluster of its own.

A point is handed out only when every result that came back was right.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from counter_loop import Add, Series, sampled
from measures import QUICK, Amount, Measured, expect_all, make_one, percentiles, windows
from rich.console import Console
from systems.base import expect
from systems.raylike import Ours

from celery_actors.ids import mailbox_name

MB = 1e6
FEWEST_LATENCIES = 5
BYTES_IN_FLIGHT = 40_000_000
FEWEST_IN_FLIGHT = 4
# The steady load of each second, while the cluster ages.
LOAD_CALLS = 1000
LOAD_SYNCHRONOUS = 50
LOAD_PAYLOADS = 50
LOAD_BYTES = 8_000


@dataclass(frozen=True)
class Extent:
    """How far each series goes."""

    amount: Amount = field(default_factory=lambda: Amount(seconds=3.0, windows=3))
    actors: tuple[int, ...] = (1, 10, 100, 300)
    callers: tuple[int, ...] = (1, 2, 4, 8, 16)
    payloads: tuple[int, ...] = (0, 1_000, 8_000, 64_000, 1_000_000, 10_000_000)
    depths: tuple[int, ...] = (0, 100, 1_000, 10_000, 100_000)
    minutes: float = 5.0


COARSE = Extent(
    amount=replace(QUICK, seconds=0.4),
    actors=(1, 10, 50),
    callers=(1, 2, 4, 8),
    depths=(0, 100, 1_000, 10_000),
    minutes=0.2,
)


@dataclass(frozen=True)
class Point:
    """What was measured at one size.

    :ivar figures: by the names of the lines that they belong to.
    :ivar samples: what those come from, where it is more than one value.
    """

    at: int
    figures: dict[str, float]
    samples: dict[str, list[float]] = field(default_factory=dict)


# -- calls, against how many actors or callers there are, and how large a call is --------------


class Counters:
    """Counting actors, and what each must return next: a lost or repeated call shows."""

    def __init__(self, peer: Ours) -> None:
        self._peer = peer
        self._actors: list[Any] = []
        self._last: list[int] = []

    def grow_to(self, count: int) -> None:
        """Create actors until there are so many, and wait until each has answered."""
        new = [self._peer.create() for _ in range(count - len(self._actors))]
        values = self._peer.burst([(actor, "increment", ()) for actor in new])
        expect_all(values, [1] * len(new), "first calls")
        self._actors += new
        self._last += values

    def pipelined(self, amount: Amount, to: int) -> Measured:
        """Windows of calls to the first ``to`` actors in turn."""
        each = max(1, amount.in_flight // to)
        calls = [(actor, "increment", ()) for actor in self._actors[:to]] * each

        def one() -> None:
            values = self._peer.burst(calls)
            wanted = [last + 1 + turn for turn in range(each) for last in self._last[:to]]
            expect_all(values, wanted, "a window of calls")
            self._last[:to] = values[-to:]

        return windows(amount, len(calls), one)

    def latencies(self, amount: Amount, to: int) -> dict[str, float]:
        """Call one after another of the first ``to`` actors, each time waiting for the result."""
        made = 0

        def call() -> None:
            nonlocal made
            index = made % to
            value = self._peer.get(self._peer.submit(self._actors[index], "increment"))
            self._last[index] += 1
            made += 1
            expect(value, self._last[index], "a synchronous call")

        return latencies_of(call, amount)


def latencies_of(call: Callable[[], None], amount: Amount) -> dict[str, float]:
    """Return percentiles of a call that is made again and again, in microseconds."""
    clock = time.perf_counter
    begun = clock()
    while clock() - begun < amount.warm_up_seconds:
        call()
    found: list[float] = []
    begun = before = clock()
    while before - begun < amount.seconds or len(found) < FEWEST_LATENCIES:
        call()
        now = clock()
        found.append(now - before)
        before = now
    return percentiles(sorted(found))


def actors(peer: Ours, extent: Extent) -> Iterator[Point]:
    """Living actors; calls go to one of them, and to all in turn."""
    counters = Counters(peer)
    for count in extent.actors:
        counters.grow_to(count)
        figures, samples = {}, {}
        for whom, to in (("one", 1), ("all", count)):
            rate = counters.pipelined(extent.amount, to)
            latency = counters.latencies(extent.amount, to)
            figures[f"to {whom}"] = statistics.median(rate.samples)
            figures[f"p50, to {whom}"] = latency["p50_us"]
            figures[f"p99, to {whom}"] = latency["p99_us"]
            samples[f"to {whom}"] = rate.samples
        yield Point(count, figures, samples)


def callers(peer: Ours, extent: Extent) -> Iterator[Point]:
    """Actors that all call one target, each with windows of its own."""
    target, made = make_one(peer)[0], 1
    processes: list[Any] = []
    each = extent.amount.in_flight
    for count in extent.callers:
        processes += [peer.create("caller") for _ in range(count - len(processes))]
        calls = [(caller, "drive", ([target], each)) for caller in processes]

        def one(calls: list[Any] = calls) -> None:
            nonlocal made
            expect_all(peer.burst(calls), [each] * len(calls), "the callers' numbers of calls")
            made += len(calls) * each + 1
            expect(peer.burst([(target, "increment", ())]), [made], "the target's counter")

        rate = windows(extent.amount, count * each, one)
        together = statistics.median(rate.samples)
        figures = {"all callers": together, "a caller": together / count}
        yield Point(count, figures, {"all callers": rate.samples})


def payload(peer: Ours, extent: Extent) -> Iterator[Point]:
    """Bytes as the argument, whose length comes back."""
    actor, _ = make_one(peer)
    for size in extent.payloads:
        data = b"x" * size
        most = BYTES_IN_FLIGHT // max(size, 1)
        in_flight = max(FEWEST_IN_FLIGHT, min(extent.amount.in_flight, most))
        burst = [(actor, "size_of", (data,))] * in_flight

        def one(burst: list[Any] = burst, size: int = size) -> None:
            expect_all(peer.burst(burst), [size] * len(burst), "lengths of a window of calls")

        def call(data: bytes = data) -> None:
            expect(peer.get(peer.submit(actor, "size_of", data)), len(data), "a length")

        rate = windows(extent.amount, in_flight, one)
        latency = latencies_of(call, extent.amount)
        calls = statistics.median(rate.samples)
        figures = {
            "calls": calls,
            "p50": latency["p50_us"],
            "p99": latency["p99_us"],
            "MB/s": calls * size / MB,
        }
        yield Point(size, figures, {"calls": rate.samples})


# -- a cluster's age ---------------------------------------------------------------------------


def age(peer: Ours, extent: Extent, console: Console) -> list[Series]:
    """The same load every second, from this program and from an actor, while memory is sampled."""
    counter, value = make_one(peer)[0], 1
    caller = peer.create("caller")
    burst = [(counter, "increment", ())] * LOAD_CALLS
    data = b"x" * LOAD_BYTES
    lengths = [(counter, "size_of", (data,))] * LOAD_PAYLOADS

    def load(add: Add) -> None:
        nonlocal value
        begun = time.perf_counter()
        values = peer.burst(burst)
        add("pipelined calls", "/s", LOAD_CALLS / (time.perf_counter() - begun))
        expect_all(values, list(range(value + 1, value + 1 + LOAD_CALLS)), "a window of calls")
        value += LOAD_CALLS
        found = peer.burst([(caller, "drive", ([counter], LOAD_CALLS))])
        expect(found, [LOAD_CALLS], "the caller's number of calls")
        value += LOAD_CALLS
        expect_all(peer.burst(lengths), [LOAD_BYTES] * LOAD_PAYLOADS, "lengths")
        taken = []
        for _ in range(LOAD_SYNCHRONOUS):
            begun = time.perf_counter()
            now = peer.get(peer.submit(counter, "increment"))
            taken.append(time.perf_counter() - begun)
            value += 1
            expect(now, value, "a synchronous call")
        add("a synchronous call, median", "µs", statistics.median(taken) * 1e6)

    session_dir = peer.announce()["session_dir"]
    mailbox = mailbox_name(counter._celery_actor)
    return sampled(session_dir, extent.minutes * 60, console, mailbox, load)

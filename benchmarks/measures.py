"""How each workload is measured: the same functions for every peer.

A value is returned only when every result that came back was right.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from systems.base import FREE, FuturePeer, Peer, WrongResultError, expect
from systems.raylike import Ours, RayLike

BURST = 5000  # tasks
PUTS = 10  # objects put in a row
BIG = 100_000_000
EIGHT_KB = 1024  # numbers of eight bytes
IDLE_SECONDS = 2.0


@dataclass(frozen=True)
class Amount:
    """How much of everything is measured; seconds are of each timed part."""

    next_actors: int = 10
    many_actors: int = 300
    idle_actors: int = 10
    seconds: float = 1.2
    in_flight: int = 1000
    warm_up_seconds: float = 0.3
    warm_inits: int = 3
    objects: int = 5
    windows: int = 1


QUICK = Amount(
    next_actors=3,
    many_actors=30,
    idle_actors=5,
    seconds=0.5,
    warm_up_seconds=0.1,
    warm_inits=1,
    objects=3,
    windows=1,
)


@dataclass
class Measured:
    """One result: ``value`` is what is compared, ``samples`` is what it comes from."""

    value: float
    unit: str
    samples: list[float] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


# -- actors come to be -----------------------------------------------------------------------


def make_one(peer: Peer) -> tuple[Any, float]:
    """Create an actor; returns it and the seconds until its first call's result was here."""
    begun = time.perf_counter()
    actor = peer.create()
    values = peer.burst([(actor, "increment", ())])
    seconds = time.perf_counter() - begun
    expect(values, [1], "the first call of a new actor")
    return actor, seconds


def next_actor(peer: Peer, amount: Amount) -> Measured:
    """One more actor, while the others live."""
    kept, samples = [], []
    for _ in range(amount.next_actors):
        actor, seconds = make_one(peer)
        kept.append(actor)
        samples.append(seconds)
    return Measured(statistics.median(samples), "s", samples)


def many_actors(peer: RayLike, amount: Amount) -> Measured:
    """Many at once, each called once: how many a second."""
    # Ray's 300 take 14 GB: it gets as many as the machine has room for.
    count = min(amount.many_actors, _available_bytes() // peer.actor_bytes)
    begun = time.perf_counter()
    actors = [peer.create() for _ in range(count)]
    values = peer.burst([(actor, "increment", ()) for actor in actors])
    seconds = time.perf_counter() - begun
    expect(values, [1] * count, "the first call of each of many actors")
    return Measured(count / seconds, "actors/s", [count / seconds], {"actors": count})


def idle_memory(peer: Peer, amount: Amount) -> Measured:
    """Private memory of an actor that was called and waits: what one more costs."""
    actors = [peer.create() for _ in range(amount.idle_actors)]
    values = peer.burst([(actor, "increment", ()) for actor in actors])
    expect(values, [1] * len(actors), "the first call of each of the idle actors")
    pids = peer.burst([(actor, "pid", ()) for actor in actors])
    expect(len(set(pids)), len(actors), "the number of the actors' processes")
    time.sleep(IDLE_SECONDS)  # idling is what is measured
    samples = [_private_bytes(pid) / 1e6 for pid in pids]
    return Measured(statistics.median(samples), "MB", samples, {"highest": max(samples)})


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


def _private_bytes(pid: int) -> int:
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1]) * 1024
    return total


# -- calls -----------------------------------------------------------------------------------


def no_arguments(_: int) -> tuple[Any, ...]:
    """Return the arguments of ``increment``."""
    return ()


def one_by_one(
    peer: Peer, amount: Amount, target: Any, arguments: Callable[[int], tuple[Any, ...]]
) -> Measured:
    """Call, wait, call again.  Both a counter and ``successor(n)`` must return rising numbers."""
    warm, _ = peer.one_by_one(target, "increment", arguments, amount.warm_up_seconds)
    values, latencies = peer.one_by_one(target, "increment", arguments, amount.seconds)
    first = 0 if target is None else warm[-1]
    wanted = list(range(first + 1, first + 1 + len(values)))
    expect_all(values, wanted, "calls one by one")
    ordered = sorted(latencies)
    rate = len(latencies) / sum(latencies)
    details = {"calls": len(latencies), **percentiles(ordered)}
    return Measured(rate, "calls/s", [rate], details)


def by_mailbox(peer: Ours, amount: Amount, target: Any) -> Measured:
    """The same, each call by way of RabbitMQ alone."""
    with peer.without_express():
        return one_by_one(peer, amount, target, no_arguments)


def percentiles(ordered: list[float]) -> dict[str, float]:
    """Return percentiles of seconds that are in order, in microseconds."""
    return {
        name: ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1e6
        for name, share in (("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999))
    }


def expect_all(values: list[Any], wanted: list[Any], what: str) -> None:
    """Raise, and say which is the first that is wrong, where results aren't the right ones."""
    if values == wanted:
        return
    expect(len(values), len(wanted), f"{what}, number of results")
    wrong = next(i for i, value in enumerate(values) if value != wanted[i])
    raise WrongResultError(f"{what}, result {wrong}: {values[wrong]}, not {wanted[wrong]}")


def windows(
    amount: Amount, calls: int, one: Callable[[], None], details: dict[str, Any] | None = None
) -> Measured:
    """Time windows of so many calls, after one as a warm-up, until there are enough."""
    one()
    rates: list[float] = []
    spent = 0.0
    while len(rates) < amount.windows or spent < amount.seconds:
        begun = time.perf_counter()
        one()
        seconds = time.perf_counter() - begun
        rates.append(calls / seconds)
        spent += seconds
    rate = calls * len(rates) / spent
    return Measured(rate, "calls/s", rates, {"calls_a_window": calls, **(details or {})})


def pipelined(peer: Peer, amount: Amount, actor: Any, ordered: bool | None = None) -> Measured:
    """Submit a window of calls, then get all of their results."""
    (last,) = peer.burst([(actor, "increment", ())])
    calls = [(actor, "increment", ())] * amount.in_flight
    in_order = peer.ordered if ordered is None else ordered

    def one() -> None:
        nonlocal last
        values = peer.burst(calls)
        wanted = list(range(last + 1, last + 1 + len(calls)))
        expect_all(values if in_order else sorted(values), wanted, "a window of calls")
        last += len(calls)

    return windows(amount, len(calls), one)


def tasks_pipelined(peer: Peer, amount: Amount) -> Measured:
    """The same with a stateless function."""
    calls = [(None, "increment", (number,)) for number in range(amount.in_flight)]
    wanted = list(range(1, len(calls) + 1))

    def one() -> None:
        expect_all(peer.burst(calls), wanted, "a window of tasks")

    return windows(amount, len(calls), one)


def tasks_burst(peer: Peer, amount: Amount, target: Any = FREE) -> Measured:
    """Many short tasks that ask for no CPU, at a time when no process is there to run them."""
    calls = [(target, "increment", (number,)) for number in range(BURST)]
    wanted = list(range(1, BURST + 1))
    rates = []
    for _ in range(amount.objects):
        time.sleep(IDLE_SECONDS)  # those of the burst before end
        begun = time.perf_counter()
        values = peer.burst(calls)
        rates.append(BURST / (time.perf_counter() - begun))
        expect_all(values, wanted, "a burst of tasks")
    return Measured(statistics.median(rates), "calls/s", rates, {"tasks": BURST})


def tasks_burst_share(peer: Peer, amount: Amount) -> Measured:
    """The same beside tasks that ask for one CPU each, where there are two."""
    free, two = tasks_burst(peer, amount), tasks_burst(peer, amount, None)
    return Measured(free.value / two.value, "x", [], {"free": free.value, "two": two.value})


def eight_kb(peer: Peer, amount: Amount, actor: Any) -> Measured:
    """Pipelined calls with an array of 8 KB as argument and as result."""
    import numpy

    count = amount.in_flight // 2
    array = numpy.arange(EIGHT_KB, dtype="int64")
    calls = [(actor, "echo", (array,))] * count

    def one() -> None:
        values = peer.burst(calls)
        expect(len(values), count, "number of arrays that came back")
        for value in values:
            if value.dtype != array.dtype or not numpy.array_equal(value, array):
                raise WrongResultError(f"an array came back as {value!r:.200}")

    return windows(amount, count, one, {"bytes": array.nbytes})


def fan(peer: Peer, amount: Amount, callers: int, actors: int) -> Measured:
    """So many callers, each with calls to all actors in turn; one caller is this program."""
    targets = [peer.create() for _ in range(actors)]
    expect(peer.burst([(actor, "increment", ()) for actor in targets]), [1] * actors, "first calls")
    made = 1
    count = amount.in_flight
    if callers == 1:
        calls = [(targets[i % actors], "increment", ()) for i in range(count)]

        def one() -> None:
            nonlocal made
            values = peer.burst(calls)
            rows = count // actors
            wanted = [made + 1 + i // actors for i in range(count)]
            for index in range(actors):
                row = values[index::actors]
                expect_all(
                    row if peer.ordered else sorted(row), wanted[index::actors], "a window of calls"
                )
            made += rows
    else:
        processes = [peer.create("caller") for _ in range(callers)]
        calls = [(caller, "drive", (targets, count)) for caller in processes]

        def one() -> None:
            nonlocal made
            expect(peer.burst(calls), [count] * callers, "the callers' numbers of calls")
            made += callers * count // actors + 1
            values = peer.burst([(actor, "increment", ()) for actor in targets])
            expect(values, [made] * actors, "the counters after all callers' calls")

    return windows(amount, callers * count, one, {"callers": callers, "actors": actors})


def async_actor(peer: Peer, amount: Amount) -> Measured:
    """Pipelined calls of a coroutine; which of those under way returns first is not said."""
    return pipelined(peer, amount, peer.create("async_counter"), ordered=False)


# -- objects ---------------------------------------------------------------------------------


def put(peer: RayLike, amount: Amount, nbytes: int) -> Measured:
    """Put an array; each time a new object, the one before is released."""
    array = _array(nbytes)
    samples = []
    for _ in range(_times(amount, nbytes) + 1):
        begun = time.perf_counter()
        ref = peer.put(array)
        samples.append(time.perf_counter() - begun)
        _expect_array(peer.get(ref), nbytes)
        del ref
    return Measured(statistics.median(samples[1:]), "s", samples[1:], {"bytes": nbytes})


def put_in_a_loop(peer: RayLike, amount: Amount) -> Measured:
    """Put 100 MB again and again into one variable: each new object drops the one before."""
    array = _array(BIG)
    ref = peer.put(array)
    samples = []
    for _ in range(amount.objects):
        begun = time.perf_counter()
        for _ in range(PUTS):
            ref = peer.put(array)
        samples.append(PUTS * BIG / 1e9 / (time.perf_counter() - begun))
        _expect_array(peer.get(ref), BIG)
    return Measured(statistics.median(samples), "GB/s", samples, {"bytes": BIG})


def pass_after_puts(peer: RayLike, amount: Amount) -> Measured:
    """Call an actor with the ref of the last of several objects of 100 MB put in a row."""
    array = _array(BIG)
    actor = peer.create()
    expect(peer.burst([(actor, "increment", ())]), [1], "the first call")
    samples = []
    for _ in range(amount.objects + 1):
        for _ in range(PUTS):
            ref = peer.put(array)
        begun = time.perf_counter()
        (found,) = peer.burst([(actor, "size_of", (ref,))])
        samples.append(time.perf_counter() - begun)
        expect(found, BIG, "the length that the actor saw")
    return Measured(statistics.median(samples[1:]), "s", samples[1:], {"bytes": BIG})


def get(peer: RayLike, amount: Amount, nbytes: int) -> Measured:
    """Get what was put, in the program that put it."""
    array = _array(nbytes)
    samples = []
    for _ in range(_times(amount, nbytes) + 1):
        ref = peer.put(array)
        begun = time.perf_counter()
        value = peer.get(ref)
        samples.append(time.perf_counter() - begun)
        _expect_array(value, nbytes)
        del ref, value
    return Measured(statistics.median(samples[1:]), "s", samples[1:], {"bytes": nbytes})


def pass_ref(peer: RayLike, amount: Amount) -> Measured:
    """Call an actor with the ref of 100 MB: a new object each time, put beforehand."""
    array = _array(BIG)
    actor = peer.create()
    expect(peer.burst([(actor, "increment", ())]), [1], "the first call")
    samples = []
    for _ in range(amount.objects + 1):
        ref = peer.put(array)
        begun = time.perf_counter()
        (found,) = peer.burst([(actor, "size_of", (ref,))])
        samples.append(time.perf_counter() - begun)
        expect(found, BIG, "the length that the actor saw")
        del ref
    return Measured(statistics.median(samples[1:]), "s", samples[1:], {"bytes": BIG})


def _times(amount: Amount, nbytes: int) -> int:
    return amount.objects * (20 if nbytes <= 1_000_000 else 1)


def _array(nbytes: int) -> Any:
    import numpy

    array = numpy.ones(nbytes, dtype="uint8")
    array[-1] = 7
    return array


def _expect_array(value: Any, nbytes: int) -> None:
    expect((len(value), int(value[0]), int(value[-1])), (nbytes, 1, 7), "an array that was put")


# -- what else is compared -------------------------------------------------------------------


def init_warm(peer: RayLike, amount: Amount) -> Measured:
    """``init()`` of a fresh program against a cluster begun by hand."""
    found = peer.warm_inits(amount.warm_inits)
    samples = [one["init"] for one in found]
    imports = [one["import"] for one in found]
    return Measured(statistics.median(samples), "s", samples, {"imports": imports})


def events(peer: Ours, amount: Amount) -> Measured:
    """Pipelined calls with task events on, as a share of those with events off."""
    actor, _ = make_one(peer)
    off, on = [], []
    for _ in range(2):
        off.append(pipelined(peer, amount, actor).value)
        with peer.task_events() as monitor:
            on.append(pipelined(peer, amount, actor).value)
            came = monitor.count
        if not came:
            raise WrongResultError("no task events came while they were on")
    share = statistics.mean(on) / statistics.mean(off)
    return Measured(share, "x", [share], {"on": on, "off": off, "events": came})


def latency(peer: FuturePeer, amount: Amount, actor: Any) -> Measured:
    """Latencies at 10, 50 and 90 % of the highest rate; the value is p99 at 50 %, in seconds.

    One thread calls at fixed times, another gets the results; a latency counts from the time at
    which the call was due.
    """
    highest, _ = _paced(peer, actor, None, amount)
    details: dict[str, Any] = {"highest": highest}
    for share in (10, 50, 90):
        rate, latencies = _paced(peer, actor, highest * share / 100, amount)
        details[f"at_{share}_percent"] = {"rate": rate, **percentiles(sorted(latencies))}
    value = details["at_50_percent"]["p99_us"] / 1e6
    return Measured(value, "s", [value], details)


def _paced(
    peer: FuturePeer, actor: Any, rate: float | None, amount: Amount
) -> tuple[float, list[float]]:
    (last,) = peer.burst([(actor, "increment", ())])
    sent: deque[tuple[float, Any]] = deque()
    free = threading.Semaphore(amount.in_flight)
    waiting = threading.Semaphore(0)
    failed: list[BaseException] = []
    clock = time.perf_counter

    def call() -> None:
        try:
            begun = clock()
            number = 0
            while (now := clock()) - begun < amount.seconds:
                if rate is not None and (ahead := begun + number / rate - now) > 0:
                    time.sleep(ahead)  # the pace is what is asked for
                free.acquire()
                due = now if rate is None else begun + number / rate
                sent.append((due, peer.submit(actor, "increment")))
                waiting.release()
                number += 1
        except BaseException as error:  # noqa: BLE001  # raised in the other thread
            failed.append(error)
        sent.append((0.0, None))
        waiting.release()

    caller = threading.Thread(target=call)
    latencies: list[float] = []
    begun = clock()
    caller.start()
    while waiting.acquire():
        due, ref = sent.popleft()
        if ref is None:
            break
        value = peer.get(ref)
        latencies.append(clock() - due)
        free.release()
        last += 1
        expect(value, last, "a call at a fixed rate")
    caller.join()
    if failed:
        raise failed[0]
    return len(latencies) / (clock() - begun), latencies

"""Stamps along the way of a call: where they are put, and what they tell of each call.

Functions of the package are wrapped while it is measured, in the driver and in the actor's
process alike; nothing in the package knows of it.  ``time.perf_counter_ns()`` is one clock for
all processes of a machine.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from statistics import quantiles
from time import perf_counter_ns
from typing import Any

Times = dict[str, list[int]]
"""When each point was passed, in nanoseconds, by the point's name."""


@dataclass(frozen=True)
class Probe:
    """A function to be wrapped.

    :ivar owner: its class, if it has one.
    :ivar entry: the point at which it is entered, if that is to be known.
    :ivar exit: the same of its end.
    """

    module: str
    owner: str | None
    function: str
    entry: str | None = None
    exit: str | None = None


@dataclass(frozen=True)
class Step:
    """A stretch of the way, from the end of the step before to a point."""

    stage: str
    name: str
    where: str
    until: str


IN_DRIVER = (
    Probe("celery_actors.client.mailbox", "Mailbox", "publish", "publish", "published"),
    Probe("celery_actors.client.listener", "Listener", "_spin", entry="driver waits"),
    Probe("celery_actors.client.process", "Process", "read_pushes", "pushed", "settled"),
    Probe("celery_actors.client.replies", "Replies", "read", exit="push read"),
)
IN_ACTOR = (
    Probe("celery_actors.worker.buffered", "_BufferedTransport", "fill", "arrived", "read"),
    Probe("celery_actors.worker.intake", "Intake", "_take_calls", exit="taken"),
    Probe("celery_actors.worker.executor", "Executor", "_call", entry="call"),
    Probe("celery_actors.store.committer", "Committer", "send", "commit", "committed"),
    Probe("hiredis", None, "pack_command", exit="packed"),
    Probe("celery_actors.store.committer", "Committer", "finish", exit="answered"),
)
# Of calls that go by express: in place of those of the same points above.
BY_EXPRESS = (
    Probe("celery_actors.store.express", "ExpressSender", "send", "publish", "published"),
    Probe("celery_actors.store.express", "ExpressSocket", "receive", "arrived", "read"),
    Probe("celery_actors.worker.inbox", "MailboxReader", "take_express", exit="taken"),
)
#: Points of the benchmark's own: in the driver's loop, and around the user's method.
BEGIN, RETURNED, END = "begin", "ref returned", "end"
METHOD = ("method", "method done")

DRIVER, BROKER, ACTOR, STORE = "driver", "RabbitMQ", "actor", "Redis"
STEPS = (
    Step("submit", "id, entry, outbox, encode, sign", DRIVER, "publish"),
    Step("publish", "frames, send()", DRIVER, "published"),
    Step("RabbitMQ, wake the actor", "sockets, queue, wake-ups", BROKER, "arrived"),
    Step("verify, take", "recv()", ACTOR, "read"),
    Step("verify, take", "parse, verify, order, into the inbox", ACTOR, "taken"),
    Step("verify, take", "to the executor", ACTOR, "call"),
    Step("run", "begin, find the method", ACTOR, "method"),
    Step("run", "the method itself", ACTOR, "method done"),
    Step("encode, commit", "encode and sign result and push", ACTOR, "commit"),
    Step("encode, commit", "pack the command", ACTOR, "packed"),
    # With send(): it wakes Redis, and may return after the driver has the answer.
    Step("Redis, wake the driver", "send(), script, push, wake-ups", STORE, "pushed"),
    Step("read, settle", "recv(), parse", DRIVER, "push read"),
    Step("read, settle", "verify, settle, resolve the call", DRIVER, "settled"),
    Step("load", "verify and unpickle, return", DRIVER, END),
)
EXPRESS_STEPS = tuple(
    {
        "published": Step("send", "the datagram", DRIVER, "published"),
        "arrived": Step("wake the actor", "wake-up", ACTOR, "arrived"),
    }.get(step.until, step)
    for step in STEPS
)
#: Stamps that lie on the way: what they cost is in the figures.
ON_THE_WAY = len({step.until for step in STEPS} - {END})


def probes_of(probes: Sequence[Probe], express: bool) -> Sequence[Probe]:
    """Return a process's probes: of calls by express, those on their way instead."""
    if not express:
        return probes
    instead = {probe.exit: probe for probe in BY_EXPRESS}
    return [instead.get(probe.exit, probe) for probe in probes]


class Stamps:
    """The wrapped functions of one process, and the times that they noted."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self._probes = probes
        self._undo: list[Callable[[], None]] = []
        self.times: Times = {}

    def put(self) -> None:
        """Wrap the functions."""
        for probe in self._probes:
            module = import_module(probe.module)
            owner = module if probe.owner is None else getattr(module, probe.owner)
            self.wrap(owner, probe.function, probe.entry, probe.exit)

    def wrap(self, owner: Any, function: str, entry: str | None, exit_: str | None) -> None:
        """Wrap one function of a module, a class or an object."""
        original = getattr(owner, function)
        own = vars(owner).get(function)
        setattr(owner, function, _stamped(original, self._notes(entry), self._notes(exit_)))
        self._undo.append(
            (lambda: delattr(owner, function))
            if own is None
            else (lambda: setattr(owner, function, own))
        )

    def take_away(self) -> None:
        """Put the functions back as they were."""
        while self._undo:
            self._undo.pop()()

    def _notes(self, point: str | None) -> Callable[[int], None] | None:
        return None if point is None else self.times.setdefault(point, []).append


def _stamped(
    function: Callable[..., Any],
    entered: Callable[[int], None] | None,
    left: Callable[[int], None] | None,
) -> Callable[..., Any]:
    """Return the function with one or two stamps; three forms, since each must be cheap."""
    now = perf_counter_ns
    if left is None:
        assert entered is not None

        def at_entry(*args: Any, **options: Any) -> Any:
            entered(now())
            return function(*args, **options)

        return at_entry
    if entered is None:

        def at_exit(*args: Any, **options: Any) -> Any:
            value = function(*args, **options)
            left(now())
            return value

        return at_exit

    def at_both(*args: Any, **options: Any) -> Any:
        entered(now())
        value = function(*args, **options)
        left(now())
        return value

    return at_both


def cost_of_a_stamp(times: int = 2000, rounds: int = 50) -> float:
    """Return how many nanoseconds a stamp adds to what is measured: one at entry of a method."""

    class Bare:
        def method(self, _argument: int) -> None:
            return None

    def run() -> int:
        method, begun = bare.method, perf_counter_ns()
        for number in range(times):
            method(number)
        return perf_counter_ns() - begun

    bare = Bare()
    unwrapped = min(run() for _ in range(rounds))
    stamps = Stamps(())
    stamps.wrap(Bare, "method", "entered", None)
    return (min(run() for _ in range(rounds)) - unwrapped) / times


@dataclass(frozen=True)
class Spread:
    """Of many calls, in microseconds."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, nanoseconds: Sequence[float]) -> Spread:
        """Sum up what was measured."""
        tenths = quantiles(nanoseconds, n=10, method="inclusive")
        return cls(tenths[4] / 1e3, tenths[0] / 1e3, tenths[8] / 1e3)


@dataclass(frozen=True)
class Anatomy:
    """What the stamps tell.

    :ivar stages: of the way, in its order; each with where its time goes.
    :ivar steps: of the stages, in the same order.
    :ivar meanwhile: stretches that lie beside the way.
    :ivar left_out: calls of which a stamp is missing or double: something else came between.
    """

    calls: int
    left_out: int
    total: Spread
    stages: dict[str, Spread]
    where: dict[str, str]
    steps: dict[tuple[str, str], Spread]
    meanwhile: dict[str, Spread]


def dissect(times: Mapping[str, Sequence[int]], steps: Sequence[Step] = STEPS) -> Anatomy:
    """Give each call its stamps, by the time between its beginning and its end."""
    ways, meanwhile = [], []
    ends = times[END]
    for begin, returned, end in zip(times[BEGIN], times[RETURNED], ends, strict=True):
        way = [begin]
        for step in steps[:-1]:
            passed = _between(times[step.until], begin, end)
            if len(passed) == 1:
                way.append(passed[0])
        if len(way) == len(steps):
            ways.append([*way, end])
            meanwhile.append(_beside(times, dict(_named(ways[-1], steps)), returned))
    lengths = [[b - a for a, b in pairwise(way)] for way in ways]
    stages: dict[str, list[int]] = {}
    for index, step in enumerate(steps):
        column = [row[index] for row in lengths]
        sums = stages.get(step.stage, [0] * len(column))
        stages[step.stage] = [a + b for a, b in zip(sums, column, strict=True)]
    return Anatomy(
        calls=len(ways),
        left_out=len(ends) - len(ways),
        total=Spread.of([way[-1] - way[0] for way in ways]),
        stages={name: Spread.of(values) for name, values in stages.items()},
        where={step.stage: step.where for step in steps},
        steps={
            (step.stage, step.name): Spread.of([row[index] for row in lengths])
            for index, step in enumerate(steps)
        },
        meanwhile={
            name: Spread.of([row[name] for row in meanwhile if name in row])
            for name in dict.fromkeys(name for row in meanwhile for name in row)
        },
    )


def _named(way: Sequence[int], steps: Sequence[Step]) -> Iterable[tuple[str, int]]:
    return zip((BEGIN, *(step.until for step in steps)), way, strict=True)


def _between(times: Sequence[int], begin: int, end: int) -> Sequence[int]:
    return times[bisect_left(times, begin) : bisect_right(times, end)]


def _beside(
    times: Mapping[str, Sequence[int]], way: Mapping[str, int], returned: int
) -> dict[str, int]:
    """What the driver and the actor do while the call is elsewhere."""
    found = {"remote(), from the call until the ref is there": returned - way[BEGIN]}
    waits = _between(times["driver waits"], way["published"], way["pushed"])
    if waits:
        found["driver: from the message's departure until it waits"] = waits[-1] - way["published"]
        found["driver: waits for the push"] = way["pushed"] - waits[-1]
    # These may end after the call.
    for name, point in (
        ("actor: in send(), which wakes Redis", "committed"),
        ("actor: from the same until it has read Redis's answer", "answered"),
    ):
        place = bisect_left(times[point], way["packed"])
        if place < len(times[point]):
            found[name] = times[point][place] - way["packed"]
    return found

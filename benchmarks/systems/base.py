"""What the workloads ask of a system under test.

The modules of this package run with the interpreter of the system's own virtual environment:
they need nothing but the standard library, numpy and the system.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

WAIT_SECONDS = 300.0
CPUS = 2
FREE = "a task that asks for no CPU"

# What to call, its method, the arguments.  Not an actor but a function: None is the stateless one,
# FREE the same without a CPU.
Call = tuple[Any, str, tuple[Any, ...]]


class WrongResultError(Exception):
    """A peer returned something else than the workload computes."""


def expect(found: Any, wanted: Any, what: str) -> None:
    """Raise :class:`WrongResultError` where a peer's result isn't the right one."""
    if found != wanted:
        raise WrongResultError(f"{what}: got {found!r:.200}, expected {wanted!r:.200}")


def expect_rising(values: Sequence[int], what: str) -> None:
    """A caller's own calls to a counter that others call too: each value is above the last."""
    for before, after in itertools.pairwise(values):
        if after <= before:
            raise WrongResultError(f"{what}: {after} came after {before}")


class Peer:
    """A system under test.

    Its actors are counters that begin at 0: ``increment()`` returns 1, 2, …; ``echo(x)`` returns
    x; ``size_of(array)`` returns its length.

    :ivar workloads: the workloads that it takes part in.
    :ivar ordered: whether it promises that an actor runs one caller's calls in their order.
    """

    workloads: tuple[str, ...] = ()
    ordered = True

    def start(self) -> None:
        """Bring everything up that ``create`` needs."""
        raise NotImplementedError

    def create(self, kind: str = "counter") -> Any:
        """Begin an actor: a ``counter``, an ``async_counter`` or a ``caller``."""
        raise NotImplementedError

    def one_by_one(
        self, target: Any, method: str, arguments: Callable[[int], tuple[Any, ...]], seconds: float
    ) -> tuple[list[Any], list[float]]:
        """Call, wait for the result, call again; returns the results and each call's seconds."""
        raise NotImplementedError

    def burst(self, calls: Sequence[Call]) -> list[Any]:
        """Submit all calls, then wait for all of their results."""
        raise NotImplementedError

    def announce(self) -> dict[str, Any]:
        """Return the version, and what another peer of the same round needs to know."""
        raise NotImplementedError

    def stop(self) -> None:
        """End all that ``start`` began."""
        raise NotImplementedError


class FuturePeer(Peer):
    """A system whose calls return futures."""

    def submit(self, target: Any, method: str, *arguments: Any) -> Any:
        """Submit a call; returns its future."""
        raise NotImplementedError

    def get(self, ref: Any) -> Any:
        """Wait for a future's value."""
        raise NotImplementedError

    def get_all(self, refs: list[Any]) -> list[Any]:
        """Wait for many values."""
        return [self.get(ref) for ref in refs]

    def one_by_one(
        self, target: Any, method: str, arguments: Callable[[int], tuple[Any, ...]], seconds: float
    ) -> tuple[list[Any], list[float]]:
        """Call, wait, call again, in this thread."""
        values: list[Any] = []
        latencies: list[float] = []
        submit, get, clock = self.submit, self.get, time.perf_counter
        begun = before = clock()
        while before - begun < seconds:
            values.append(get(submit(target, method, *arguments(len(values)))))
            now = clock()
            latencies.append(now - before)
            before = now
        return values, latencies

    def burst(self, calls: Sequence[Call]) -> list[Any]:
        """Submit all, get all."""
        submit = self.submit
        return self.get_all([submit(target, method, *args) for target, method, args in calls])

"""Actors and functions that the chaos tests share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celery_actors as ray

GATE_SECONDS = 120.0


def wait_for_file(path: str) -> None:
    """Return once the file is there; raises when it never comes."""
    deadline = time.monotonic() + GATE_SECONDS
    while not Path(path).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{GATE_SECONDS:g} s went by and there was no file {path}")
        time.sleep(0.005)  # bounded polling: the other side is another process


class PlainLog:
    """Notes who called, in the order in which the calls ran."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, int]] = []

    def add(self, caller: str, n: int) -> int:
        self.entries.append((caller, n))
        return n

    def count(self) -> int:
        return len(self.entries)

    def all(self) -> list[tuple[str, int]]:
        return self.entries

    def pid(self) -> int:
        return os.getpid()

    def hold(self, started: str, gate: str) -> str:
        """Say that it runs, then wait for the gate."""
        Path(started).touch()
        wait_for_file(gate)
        return gate

    def append(self, path: str, line: Any) -> None:
        """Note in a file, which outlives this actor."""
        with Path(path).open("a") as file:
            file.write(f"{line}\n")

    def append_and_hold(self, path: str, line: Any, gate: str) -> None:
        """Note in a file, then wait for the gate."""
        self.append(path, line)
        wait_for_file(gate)

    def keep(self, value: Any) -> None:
        """Keep what came, e.g. a handle."""
        self.kept = value

    def ask_kept(self, n: int) -> Any:
        """Call the actor whose handle is kept."""
        return ray.get(self.kept.add.remote("keeper", n), timeout=GATE_SECONDS)

    def call_when_told(self, started: str, gate: str, other: Any, n: int) -> Any:
        """Say that it runs, wait for the gate, then call another actor."""
        self.hold(started, gate)
        return ray.get(other.add.remote("me", n), timeout=GATE_SECONDS)

    def get_nested(self, refs: list[Any]) -> Any:
        """Get another process's value."""
        return ray.get(refs[0], timeout=GATE_SECONDS)

    def flood_self(self, me: Any, calls: int) -> int:
        """Call oneself; returns into how many windows the calls went."""
        from celery_actors.client.current import require_process

        for n in range(calls):
            me.add.remote("self", n)
        return require_process().outboxes[me._celery_actor].windows

    def put(self, value: Any) -> list[Any]:
        """Return a ref to a value that this process has put."""
        return [ray.put(value)]

    def large(self, size: int) -> bytes:
        return b"x" * size

    def exit_here(self, status: int) -> None:
        os._exit(status)


Log: Any = ray.remote(PlainLog)  # Any: a type checker takes a decorated class for itself


class PlainSink:
    """Keeps the order of what came, and forgets its bytes."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def take(self, n: int, _data: bytes) -> int:
        self.seen.append(n)
        return n

    def all(self) -> list[int]:
        return self.seen

    def pid(self) -> int:
        return os.getpid()


Sink: Any = ray.remote(num_cpus=0)(PlainSink)


def fill(sinks: list[Any], until: Callable[[], bool]) -> list[list[Any]]:
    """Call the sinks in turn until something is so; returns the refs by sink."""
    refs: list[list[Any]] = [[] for _ in sinks]
    deadline = time.monotonic() + GATE_SECONDS
    while not until():
        assert time.monotonic() < deadline, "the broker took all that came"
        for sink, made in zip(sinks, refs, strict=True):
            made.append(sink.take.remote(len(made), bytes(15_000)))
    return refs


class PlainStreamer:
    """A caller of its own: calls a log again and again until told to stop."""

    def stream(self, log: Any, name: str, stop: str, ahead: int = 50) -> int:
        """Return how many calls were made; all of them are answered, in order."""
        n = 0
        deadline = time.monotonic() + 2 * GATE_SECONDS
        while not Path(stop).exists():
            assert time.monotonic() < deadline, "nobody stopped the stream"
            refs = [log.add.remote(name, n + i) for i in range(ahead)]
            assert ray.get(refs, timeout=GATE_SECONDS) == list(range(n, n + ahead))
            n += ahead
        return n

    def pid(self) -> int:
        return os.getpid()


Streamer: Any = ray.remote(PlainStreamer)


@ray.remote
def pid_of_a_task(note: str, gate: str) -> int:
    """Write the pid of the executor, then wait for the gate."""
    path = Path(note)
    path.with_suffix(".part").write_text(str(os.getpid()))
    path.with_suffix(".part").rename(path)
    wait_for_file(gate)
    return os.getpid()

"""How a queue's depth is measured: an actor is held in a call while others wait behind it."""

from __future__ import annotations

import errno
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster_processes import cluster_processes, tree_of
from growth_series import Extent, Point
from kombu import Connection
from measures import expect_all
from systems.base import WAIT_SECONDS, expect
from systems.raylike import Ours

from celery_actors.client.current import require_process
from celery_actors.ids import mailbox_name

MB = 1e6
DRAINED_CALLS = 5_000  # that many at least, in several turns where a queue is short
MOST_TURNS = 20
LOOK_EVERY = 0.2
MEMORY_OF = {
    "driver": "driver",
    "actor": "actor Held",
    "RabbitMQ": "RabbitMQ",
    "Redis": "Redis",
}


def depth(peer: Ours, extent: Extent) -> Iterator[Point]:
    """Calls that wait behind one which is held, and what they cost once it is let go."""

    class Held:
        def __init__(self) -> None:
            self.value = 0

        def increment(self) -> int:
            self.value += 1
            return self.value

        def hold(self, gate: str) -> int:
            with open(gate, "rb") as opened:  # noqa: PTH123  # both ends meet in open()
                return len(opened.read())  # returns when the other end is closed

    process = require_process()
    # As a Celery app's actors_window_calls and actors_window_bytes would: else a process waits
    # with 1,000 unresolved calls at one actor, which is what keeps a queue short.
    deepest = max(extent.depths) + 2
    process.settings = replace(
        process.settings, window_calls=2 * deepest, window_bytes=2048 * deepest
    )
    actor = peer.ray.remote(num_cpus=0)(Held).remote()
    expect(peer.burst([(actor, "increment", ())]), [1], "the first call")
    last = 1
    with tempfile.TemporaryDirectory() as directory:
        gate = Path(directory) / "gate"
        os.mkfifo(gate)
        last += _drained(peer, actor, gate, 100, last).calls  # a warm-up
        for waiting in extent.depths:
            turns = []
            for _ in range(max(1, min(MOST_TURNS, DRAINED_CALLS // (waiting + 1)))):
                turns.append(_drained(peer, actor, gate, waiting, last))
                last += turns[-1].calls
            taken = [turn.seconds / turn.calls for turn in turns]
            queued = [turn.calls / turn.queueing for turn in turns]
            figures = {
                "drained": 1 / statistics.median(taken),
                "queued": statistics.median(queued),
                "a call": statistics.median(taken) * 1e6,
                **turns[-1].memory,
                "messages not taken": turns[-1].messages,
            }
            yield Point(waiting, figures, {"a call": [one * 1e6 for one in taken]})


@dataclass(frozen=True)
class Drained:
    """A queue that was filled and drained.

    :ivar calls: those that waited, and the one behind them.
    :ivar queueing: seconds until all were sent; ``seconds``: from the held call's release until
        the last result was here.
    :ivar memory: MB of each process while all waited.
    :ivar messages: how many RabbitMQ still had then; the actor had taken the others.
    """

    calls: int
    queueing: float
    seconds: float
    memory: dict[str, float]
    messages: int


def _drained(peer: Ours, actor: Any, gate: Path, waiting: int, last: int) -> Drained:
    calls = waiting + 1
    with _held(peer, actor, gate) as (release, held):
        begun = time.perf_counter()
        refs = [peer.submit(actor, "increment") for _ in range(calls)]
        _await_sent(actor)
        queueing = time.perf_counter() - begun
        messages = _await_steady(mailbox_name(actor._celery_actor))
        unresolved = len(require_process().outboxes[actor._celery_actor].unresolved)
        expect(unresolved, calls + 1, "the number of calls that wait")
        memory = _memory(peer.announce()["session_dir"])
        begun = time.perf_counter()
        release()
        values = peer.get_all(refs)
        seconds = time.perf_counter() - begun
        expect(peer.get(held), 0, "the held call")
    expect_all(values, list(range(last + 1, last + 1 + calls)), "calls that waited")
    return Drained(calls, queueing, seconds, memory, messages)


@contextmanager
def _held(peer: Ours, actor: Any, gate: Path) -> Iterator[tuple[Callable[[], None], Any]]:
    """Hold an actor in a call; yields what lets it go, and the call's ref."""
    held = peer.submit(actor, "hold", str(gate))
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            descriptor = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > deadline:
                raise
            time.sleep(0.001)  # nobody reads yet: the actor hasn't come to the call
    opened = True

    def release() -> None:
        nonlocal opened
        if opened:
            opened = False
            os.close(descriptor)

    try:
        yield release, held
    finally:
        release()


def _await_sent(actor: Any) -> None:
    process = require_process()
    box = process.outboxes[actor._celery_actor]
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        process.flush()
        with process.lock:
            if not box.unsent:
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(box.unsent)} calls are not sent")
        time.sleep(0.0005)  # the background thread is at it


def _await_steady(mailbox: str) -> int:
    """Wait until RabbitMQ has handed out what the actor takes; returns how much it still has."""
    deadline = time.monotonic() + WAIT_SECONDS
    with Connection(require_process().settings.broker_url) as connection:
        before = -1
        while time.monotonic() < deadline:
            found = connection.default_channel.queue_declare(mailbox, passive=True)
            if found.message_count == before:
                return int(before)
            before = found.message_count
            time.sleep(LOOK_EVERY)  # two equal looks, so far apart, are what is waited for
    raise TimeoutError(f"the mailbox still changes, with {before} messages")


def _memory(session_dir: str) -> dict[str, float]:
    groups = tree_of(cluster_processes(session_dir))
    return {
        name: sum(one.process.memory_info().rss for one in groups[kind]) / MB
        for name, kind in MEMORY_OF.items()
    }
